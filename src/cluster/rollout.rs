//! Replacements of workers that still serve: one at a time, the successor first.
//!
//! ```text
//! queued -> successor starting -> successor ready: it takes the slot, the predecessor stops -> predecessor's tree gone: next
//!                 |
//!                 +-> it ended or was not ready in time: given up, the predecessor stays
//! ```

use std::collections::VecDeque;

use super::effect::Note;
use super::slots::Occupancy;
use super::status::{Reason, Reload, ReloadState};
use super::supervisor::Supervisor;
use super::words::{Life, Slot, Time};

#[derive(Clone, Debug)]
pub(super) struct Rollout {
    queue: VecDeque<(Slot, Cause)>,
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
}

#[derive(Clone, Copy, Debug)]
struct Replacement {
    slot: Slot,
    cause: Cause,
    successor: Life,
    /// `None` when it has gone.
    predecessor: Option<Life>,
    /// The successor is ready and owns the slot.
    taken_over: bool,
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
            Self::Reload | Self::Restart => Reason::Reload,
            Self::Lifetime => Reason::Lifetime,
            Self::Hung => Reason::Hung,
        }
    }
}

impl Rollout {
    /// Queues a replacement; a slot that is queued for the same cause already is not queued twice.
    pub(super) fn push(&mut self, slot: Slot, cause: Cause) {
        if !self.queue.contains(&(slot, cause)) {
            self.queue.push_back((slot, cause));
        }
    }

    /// Takes back what has not begun.
    pub(super) fn cancel(&mut self, slot: Slot, cause: Cause) {
        self.queue.retain(|queued| *queued != (slot, cause));
    }

    /// The slot goes: nothing is replaced in it any more. The successor that is on its way, if any.
    pub(super) fn forget_slot(&mut self, slot: Slot) -> Option<(Life, Option<Life>)> {
        self.queue.retain(|(queued, _)| *queued != slot);
        let current = self.current.filter(|current| current.slot == slot)?;
        self.current = None;
        Some((current.successor, current.predecessor))
    }

    /// The worker that is to take over a slot and is not ready yet.
    pub(super) fn is_pending_successor(&self, life: Life) -> bool {
        self.current.is_some_and(|current| current.successor == life && !current.taken_over)
    }

    fn is_reloading(&self) -> bool {
        self.reload.state == ReloadState::Running
    }

    fn is_queued(&self, wanted: Cause) -> bool {
        self.queue.iter().any(|(_, cause)| *cause == wanted) || self.current.is_some_and(|current| current.cause == wanted)
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
        self.rollout.reload = Reload { state: ReloadState::Running, reason: None, at: Some(now) };
        for slot in self.slots.ids() {
            self.rollout.push(slot, Cause::Reload);
        }
        self.note(Note::ReloadBegan { generation: self.generation, workers: self.wanted });
    }

    pub(super) fn restart_asked(&mut self, now: Time, slot: Slot) {
        let Some(state) = self.slots.get(slot) else {
            self.note(Note::Refused { reason: format!("restart {slot}: there is no such slot") });
            return;
        };
        if !self.course.is_running() {
            self.note(Note::Refused { reason: format!("restart {slot}: a stop is under way") });
            return;
        }
        match state.occupancy {
            Occupancy::Worker(_) => self.rollout.push(slot, Cause::Restart),
            Occupancy::Waiting | Occupancy::Backoff { .. } | Occupancy::Done { .. } => self.spawn_into(now, slot),
        }
    }

    /// Starts what is next; called at the end of every step.
    pub(super) fn advance_rollout(&mut self, now: Time) {
        if !self.course.starts_workers() {
            return;
        }
        if self.rollout.current.is_some_and(|current| current.taken_over && current.predecessor.is_none()) {
            self.rollout.current = None;
        }
        while self.rollout.current.is_none() {
            self.note_end_of_reload(now);
            let Some((slot, cause)) = self.rollout.queue.pop_front() else { return };
            let predecessor = self.slots.worker(slot).and_then(|life| self.roster.get(life));
            let Some(predecessor) = predecessor.filter(|worker| worker.is_serving_or_starting()) else { continue };
            if cause == Cause::Reload && predecessor.generation >= self.generation {
                continue;
            }
            let predecessor = Some(predecessor.life);
            let successor = self.spawn(now, slot);
            self.rollout.current = Some(Replacement { slot, cause, successor, predecessor, taken_over: false });
        }
    }

    fn note_end_of_reload(&mut self, now: Time) {
        if self.rollout.is_reloading() && !self.rollout.is_queued(Cause::Reload) {
            self.rollout.reload = Reload { state: ReloadState::Done, reason: None, at: Some(now) };
            self.note(Note::ReloadDone { generation: self.generation });
        }
        if !self.rollout.is_reloading() && self.rollout.again {
            self.rollout.again = false;
            self.begin_reload(now);
        }
    }

    pub(super) fn successor_ready(&mut self, now: Time, life: Life) {
        let Some(current) = self.rollout.current.as_mut().filter(|current| current.successor == life) else { return };
        current.taken_over = true;
        let Replacement { slot, cause, predecessor, .. } = *current;
        self.slots.occupy(slot, Occupancy::Worker(life));
        if cause == Cause::Hung
            && let Some(state) = self.slots.get_mut(slot)
        {
            state.restarts = state.restarts.saturating_add(1);
        }
        if let Some(predecessor) = predecessor {
            self.stop_worker(predecessor, cause.reason(), now + self.policy.grace);
        }
    }

    /// A worker ended. True where it was to be a successor and had not taken over: then the replacement is given up.
    pub(super) fn successor_failed(&mut self, now: Time, life: Life, why: &str) -> bool {
        if !self.rollout.is_pending_successor(life) {
            return false;
        }
        let Some(current) = self.rollout.current.take() else { return false };
        match current.cause {
            Cause::Reload => self.abort_reload(now, why),
            Cause::Restart => self.note(Note::ReplacementFailed { slot: current.slot, reason: why.to_owned() }),
            Cause::Lifetime => {
                self.note(Note::ReplacementFailed { slot: current.slot, reason: why.to_owned() });
                // It serves well but for its age: later.
                let later = now + self.policy.backoff.longest;
                if let Some(predecessor) = current.predecessor {
                    self.roster.update(predecessor, |worker| worker.old_at = Some(later));
                }
            }
            Cause::Hung => {
                self.note(Note::ReplacementFailed { slot: current.slot, reason: why.to_owned() });
                // Nobody is served by keeping it: the slot starts again by the restart rule.
                if let Some(predecessor) = current.predecessor {
                    self.stop_worker(predecessor, Reason::Hung, now + self.policy.grace);
                }
            }
        }
        true
    }

    fn abort_reload(&mut self, now: Time, why: &str) {
        self.rollout.queue.retain(|(_, cause)| *cause != Cause::Reload);
        if self.rollout.is_reloading() {
            self.rollout.reload = Reload { state: ReloadState::Aborted, reason: Some(why.to_owned()), at: Some(now) };
            self.note(Note::ReloadAborted { reason: why.to_owned() });
        }
    }

    /// The tree of a worker has gone. True where it was the predecessor: the slot has its successor.
    pub(super) fn predecessor_gone(&mut self, life: Life) -> bool {
        let Some(current) = self.rollout.current.as_mut().filter(|current| current.predecessor == Some(life)) else {
            return false;
        };
        current.predecessor = None;
        let Replacement { slot, successor, .. } = *current;
        self.slots.occupy(slot, Occupancy::Worker(successor));
        true
    }

    /// A stop ends every replacement that has not begun.
    pub(super) fn end_rollout(&mut self, now: Time) {
        self.rollout.queue.clear();
        self.rollout.again = false;
        if self.rollout.is_reloading() {
            let reason = Some("a stop was asked for".to_owned());
            self.rollout.reload = Reload { state: ReloadState::Aborted, reason, at: Some(now) };
        }
    }

    pub(super) fn drop_replacement(&mut self) {
        self.rollout.current = None;
    }
}
