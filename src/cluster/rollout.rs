//! Replacements of workers that still serve: one at a time, the successor first where there is memory for both.
//!
//! ```text
//! queued -> Starting: the successor -> ready: it joins and -> Leaving: the predecessor is  -> its tree gone: next
//!   |             |                    takes the slot         disconnected and stopped
//!   |             |
//!   |             +-> it ended or was not ready in time: the predecessor stays -> Leaving: the successor -> its tree gone: next
//!   |
//!   +- no room -> Emptying: the predecessor is -> its tree gone: Refilling, its slot -> ready, or ended: next (it goes on by
//!                 disconnected and stopped        starts the successor                  the restart rule)
//! ```

use std::collections::VecDeque;

use super::effect::Note;
use super::slots::Occupancy;
use super::status::{Reason, Reload, ReloadState};
use super::supervisor::Supervisor;
use super::words::{Life, Slot, Time};
use super::worker::Worker;

#[derive(Clone, Debug)]
pub(super) struct Rollout {
    queue: VecDeque<Queued>,
    current: Option<Replacement>,
    /// A reload was asked for during a reload.
    again: bool,
    pub(super) reload: Reload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Reload,
    /// `clusterinit restart SLOT`.
    Restart,
    Lifetime,
    Hung,
    /// Connections wait in an accept queue of its slot that nobody has: the successor takes it.
    Queue,
    /// It uses too much memory.
    Memory,
    /// Its cap is not what a worker gets now.
    Resize,
}

/// What is to be replaced: the worker of this slot, if it is no younger than `youngest` when its turn has come.
#[derive(Clone, Copy, Debug)]
struct Queued {
    slot: Slot,
    cause: Cause,
    youngest: Life,
}

/// The one replacement that is under way.
#[derive(Clone, Copy, Debug)]
struct Replacement {
    slot: Slot,
    cause: Cause,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The successor is not ready yet. A predecessor that has gone by itself has left it the slot.
    Starting { successor: Life, predecessor: Option<Life> },
    /// It is decided who stays; the other one is on its way out.
    Leaving(Life),
    /// There is no room for both: the predecessor goes first.
    Emptying { predecessor: Life },
    /// It has gone. Its slot starts the successor, as it starts any worker.
    Refilling { successor: Option<Life> },
}

/// A successor that is neither ready nor lost yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    slot: Slot,
    cause: Cause,
    predecessor: Option<Life>,
    /// The slot is its own already.
    has_slot: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        let reload = Reload { state: ReloadState::None, reason: None, at: None };
        Self { queue: VecDeque::new(), current: None, again: false, reload }
    }
}

impl Cause {
    fn reason(self) -> Reason {
        match self {
            Self::Reload | Self::Restart | Self::Queue | Self::Resize => Reason::Reload,
            Self::Memory => Reason::Memory,
            Self::Lifetime => Reason::Lifetime,
            Self::Hung => Reason::Hung,
        }
    }
}

impl Rollout {
    /// Queues a replacement; a slot that is queued for the same cause already is not queued twice.
    pub(super) fn push(&mut self, slot: Slot, cause: Cause, youngest: Life) {
        match self.queue.iter_mut().find(|queued| queued.slot == slot && queued.cause == cause) {
            Some(queued) => queued.youngest = queued.youngest.max(youngest),
            None => self.queue.push_back(Queued { slot, cause, youngest }),
        }
    }

    /// Takes back what has not begun.
    pub(super) fn cancel(&mut self, slot: Slot, cause: Cause) {
        self.queue.retain(|queued| queued.slot != slot || queued.cause != cause);
    }

    /// The slot goes: nothing is replaced in it any more. The successor that was to have it, if any.
    pub(super) fn forget_slot(&mut self, slot: Slot) -> Option<Life> {
        self.queue.retain(|queued| queued.slot != slot);
        let current = self.current.take_if(|current| current.slot == slot)?;
        match current.stage {
            Stage::Starting { successor, .. } => Some(successor),
            // The slot's own worker goes with it.
            Stage::Leaving(_) | Stage::Emptying { .. } | Stage::Refilling { .. } => None,
        }
    }

    /// The worker of this slot is being replaced, or the connections in its slot have been promised a successor.
    pub(super) fn is_about(&self, slot: Slot) -> bool {
        self.current.is_some_and(|current| current.slot == slot)
            || self.queue.iter().any(|queued| queued.slot == slot && queued.cause == Cause::Queue)
    }

    /// Somebody is to be replaced for its memory, or is being replaced for it.
    pub(super) fn is_for_memory(&self) -> bool {
        self.is_queued(Cause::Memory)
    }

    /// The worker before this one is on its way out for its memory, successor first.
    pub(super) fn leaves_for_memory(&self, slot: Slot) -> bool {
        self.current.is_some_and(|current| {
            current.slot == slot && current.cause == Cause::Memory && matches!(current.stage, Stage::Leaving(_))
        })
    }

    /// A slot that was emptied has its next worker.
    pub(super) fn refilled(&mut self, slot: Slot, life: Life) {
        if let Some(Replacement { slot: refilled, stage: Stage::Refilling { successor: successor @ None }, .. }) =
            &mut self.current
            && *refilled == slot
        {
            *successor = Some(life);
        }
    }

    fn is_reloading(&self) -> bool {
        self.reload.state == ReloadState::Running
    }

    fn is_queued(&self, wanted: Cause) -> bool {
        self.queue.iter().any(|queued| queued.cause == wanted) || self.current.is_some_and(|current| current.cause == wanted)
    }
}

impl Supervisor {
    pub(super) fn reload_asked(&mut self, now: Time) {
        if !self.course.is_running() {
            self.note(Note::Refused { reason: "reload: a stop is under way".to_owned() });
        } else if self.rollout.is_reloading() {
            self.rollout.again = true;
            self.note(Note::ReloadRemembered);
        } else {
            self.begin_reload(now);
        }
    }

    fn begin_reload(&mut self, now: Time) {
        self.generation = self.generation.saturating_add(1);
        self.forget_need();
        self.rollout.reload = Reload { state: ReloadState::Running, reason: None, at: Some(now) };
        let youngest = self.youngest();
        for slot in self.slots.ids() {
            self.rollout.push(slot, Cause::Reload, youngest);
        }
        self.note(Note::ReloadBegan { generation: self.generation, workers: self.wanted });
    }

    pub(super) fn restart_asked(&mut self, now: Time, slot: Slot) {
        let Some(state) = self.slots.get(slot).filter(|_| slot.0 < self.wanted) else {
            self.note(Note::Refused { reason: format!("restart {slot}: there is no such slot") });
            return;
        };
        if !self.course.is_running() {
            self.note(Note::Refused { reason: format!("restart {slot}: a stop is under way") });
            return;
        }
        match state.occupancy {
            Occupancy::Worker(_) => {
                let youngest = self.youngest();
                self.rollout.push(slot, Cause::Restart, youngest);
            }
            Occupancy::Waiting | Occupancy::Backoff { .. } | Occupancy::Done { .. } => self.start_at(now, slot),
        }
    }

    /// Starts what is next; called at the end of every step.
    pub(super) fn advance_rollout(&mut self, now: Time) {
        if !self.course.starts_workers() {
            return;
        }
        while self.rollout.current.is_none() {
            self.note_end_of_reload(now);
            let Some(Queued { slot, cause, youngest }) = self.rollout.queue.pop_front() else { return };
            let worker = self.slots.worker(slot).and_then(|life| self.roster.get(life));
            let replaced = worker.filter(|worker| worker.life <= youngest && worker.is_serving_or_starting());
            let replaced = replaced.filter(|worker| cause != Cause::Resize || self.has_another_cap(worker));
            let Some(predecessor) = replaced.map(|worker| worker.life) else { continue };
            if self.has_room_for_one_more() {
                let stage = Stage::Starting { successor: self.spawn(now, slot), predecessor: Some(predecessor) };
                self.rollout.current = Some(Replacement { slot, cause, stage });
            } else {
                self.note(Note::PredecessorFirst { slot });
                self.rollout.current = Some(Replacement { slot, cause, stage: Stage::Emptying { predecessor } });
                self.stop_worker(now, predecessor, cause.reason(), now + self.policy.grace);
            }
        }
    }

    fn note_end_of_reload(&mut self, now: Time) {
        if self.rollout.is_reloading() && !self.rollout.is_queued(Cause::Reload) {
            self.rollout.reload = Reload { state: ReloadState::Done, reason: None, at: Some(now) };
            self.tally.reloads_done += 1;
            self.note(Note::ReloadDone { generation: self.generation });
        }
        if !self.rollout.is_reloading() && self.rollout.again {
            self.rollout.again = false;
            self.begin_reload(now);
        }
    }

    pub(super) fn successor_ready(&mut self, now: Time, life: Life) {
        let Some(Pending { slot, cause, predecessor, has_slot }) = self.pending(life) else { return };
        if has_slot {
            self.rollout.current = None;
            return;
        }
        self.slots.occupy(slot, Occupancy::Worker(life));
        self.count_restart(slot, cause.reason());
        self.rollout.current = predecessor.map(|life| Replacement { slot, cause, stage: Stage::Leaving(life) });
        if let Some(predecessor) = predecessor {
            self.stop_worker(now, predecessor, cause.reason(), now + self.policy.grace);
        }
    }

    /// A worker ended or is too late. True where it was to be a successor: then the replacement is given up.
    pub(super) fn successor_failed(&mut self, now: Time, life: Life, why: &str) -> bool {
        let Some(Pending { slot, cause, predecessor, has_slot }) = self.pending(life) else { return false };
        self.rollout.current = (!has_slot).then_some(Replacement { slot, cause, stage: Stage::Leaving(life) });
        if cause == Cause::Reload {
            self.abort_reload(now, why);
            return true;
        }
        self.note(Note::ReplacementFailed { slot, reason: why.to_owned() });
        let Some(predecessor) = predecessor else { return true };
        match cause {
            Cause::Reload | Cause::Restart => {}
            // It serves well but for its age: later.
            Cause::Lifetime => {
                let later = now + self.policy.backoff.longest;
                self.roster.update(predecessor, |worker| worker.old_at = Some(later));
            }
            Cause::Memory | Cause::Resize => {
                let later = now + self.policy.backoff.longest;
                self.roster.update(predecessor, |worker| worker.again = Some((later, cause)));
            }
            Cause::Queue => {
                let later = now + self.policy.backoff.longest;
                if let Some(state) = self.slots.get_mut(slot) {
                    state.queue_waits_until = Some(later);
                }
            }
            // It has come back meanwhile.
            Cause::Hung if self.roster.get(predecessor).is_some_and(Worker::is_ready) => {}
            // Nobody is served by keeping it: the slot starts again by the restart rule.
            Cause::Hung => self.stop_worker(now, predecessor, Reason::Hung, now + self.policy.grace),
        }
        true
    }

    /// The replacement whose successor this is, as long as it is not decided.
    fn pending(&self, life: Life) -> Option<Pending> {
        let Replacement { slot, cause, stage } = self.rollout.current?;
        let (predecessor, has_slot) = match stage {
            Stage::Starting { successor, predecessor } if successor == life => (predecessor, false),
            Stage::Refilling { successor } if successor == Some(life) => (None, true),
            Stage::Starting { .. } | Stage::Leaving(_) | Stage::Emptying { .. } | Stage::Refilling { .. } => return None,
        };
        Some(Pending { slot, cause, predecessor, has_slot })
    }

    fn abort_reload(&mut self, now: Time, why: &str) {
        self.rollout.queue.retain(|queued| queued.cause != Cause::Reload);
        if self.rollout.is_reloading() {
            self.rollout.reload = Reload { state: ReloadState::Aborted, reason: Some(why.to_owned()), at: Some(now) };
            self.tally.reloads_aborted += 1;
            self.note(Note::ReloadAborted { reason: why.to_owned() });
        }
    }

    /// Nobody waits for this worker any more: its tree has gone, or outlived SIGKILL. True where it made room for its successor, whom its
    /// slot is to start now.
    pub(super) fn left(&mut self, life: Life) -> bool {
        let Some(current) = &mut self.rollout.current else { return false };
        match &mut current.stage {
            Stage::Starting { successor, predecessor } if *predecessor == Some(life) => {
                *predecessor = None;
                self.slots.occupy(current.slot, Occupancy::Worker(*successor));
            }
            Stage::Leaving(leaving) if *leaving == life => self.rollout.current = None,
            Stage::Emptying { predecessor } if *predecessor == life => {
                current.stage = Stage::Refilling { successor: None };
                return true;
            }
            Stage::Starting { .. } | Stage::Leaving(_) | Stage::Emptying { .. } | Stage::Refilling { .. } => {}
        }
        false
    }

    /// A stop ends every replacement that has not begun.
    pub(super) fn end_rollout(&mut self, now: Time) {
        self.rollout.queue.clear();
        self.rollout.again = false;
        if self.rollout.is_reloading() {
            let reason = Some("the cluster stops".to_owned());
            self.rollout.reload = Reload { state: ReloadState::Aborted, reason, at: Some(now) };
            self.tally.reloads_aborted += 1;
        }
    }

    pub(super) fn drop_replacement(&mut self) {
        self.rollout.current = None;
    }
}
