//! When a worker counts as ready: starting, listening, `sd_notify`, age, and slot 0 first.

use std::time::Duration;

use super::effect::{Effect, Hang, Note};
use super::event::Notice;
use super::policy::ReadyMode;
use super::rollout::Cause;
use super::slots::Occupancy;
use super::status::Reason;
use super::supervisor::{Shown, Supervisor};
use super::words::{Life, Slot, Time};
use super::worker::{Asked, Phase, Watchdog};

impl Supervisor {
    /// What will make a worker ready that is forked now.
    pub(super) fn asked_of_the_next(&self) -> Asked {
        let sees_listening = self.policy.sees_listening;
        match (self.policy.ready, self.learned.shown) {
            (ReadyMode::Notify, _) | (ReadyMode::Auto, Some(Shown::Notifies)) => Asked::Notifying,
            (ReadyMode::Listen, _) | (ReadyMode::Auto, Some(Shown::Listens)) if sees_listening => Asked::Listening,
            (ReadyMode::Auto, None) if sees_listening => Asked::Anything,
            (ReadyMode::Auto, _) => Asked::Running { or_notify: true },
            (ReadyMode::Listen | ReadyMode::Running, _) => Asked::Running { or_notify: false },
        }
    }

    /// The longer of `START_TIMEOUT` and three times the slowest start seen.
    pub(super) fn start_timeout(&self) -> Duration {
        self.policy.start_timeout.max(self.learned.slowest_start.saturating_mul(3))
    }

    pub(super) fn start_due(&mut self, now: Time, life: Life) {
        let Some(worker) = self.roster.get(life) else { return };
        let (slot, pid, waited) = (worker.slot, worker.pid_for_log(), now.since(worker.forked));
        let Phase::Starting { asked, .. } = worker.phase else { return };
        match asked {
            Asked::Running { .. } => self.became_ready(now, life, false),
            // A consumer or a job, or a server that is slow to show itself: it is left alone.
            Asked::Anything => self.became_ready(now, life, true),
            Asked::Listening | Asked::Notifying => {
                self.note(Note::NotReadyInTime { slot, pid, waited });
                self.roster.update(life, |worker| worker.purpose = Some(Reason::StartTimeout));
                self.successor_failed(now, life, &format!("the new worker of slot {slot} was not ready after {waited:?}"));
                self.kill(now, life);
            }
        }
    }

    /// `presumed`: it has shown nothing, and `START_TIMEOUT` has passed.
    fn became_ready(&mut self, now: Time, life: Life, presumed: bool) {
        let Some((slot, pid, after)) = self.roster.update(life, |worker| {
            worker.phase = Phase::Ready;
            worker.presumed = presumed;
            worker.ready_since.get_or_insert(now);
            worker.joined = Some(now);
            if let Some(watchdog) = &mut worker.watchdog {
                watchdog.due = watchdog.due.map(|_| now + watchdog.interval);
            }
            (worker.slot, worker.pid_for_log(), now.since(worker.forked))
        }) else {
            return;
        };
        self.learned.first_ready.get_or_insert(now);
        self.effects.push(Effect::Join { life });
        if presumed {
            self.note(Note::CountsAsReady { slot, pid, after });
        } else {
            self.learn_duration(slot, after);
            self.note(Note::Ready { slot, pid, after });
        }
        self.successor_ready(now, life);
        if slot == Slot(0) && !self.learned.others_follow {
            self.let_others_follow(now, true);
        }
    }

    fn learn_duration(&mut self, slot: Slot, took: Duration) {
        self.learned.slowest_start = self.learned.slowest_start.max(took);
        if let Some(state) = self.slots.get_mut(slot) {
            state.last_start = Some(took);
        }
    }

    /// A worker that is ready was hung or is too old.
    pub(super) fn life_due(&mut self, now: Time, life: Life) {
        let Some(worker) = self.roster.get(life) else { return };
        let (slot, hang) = (worker.slot, worker.due_hang(now));
        if worker.old_at.is_some_and(|at| at <= now) {
            self.roster.update(life, |worker| worker.old_at = None);
            self.rollout.push(slot, Cause::Lifetime, life);
        } else if let Some((_, cause)) = worker.again.filter(|(at, _)| *at <= now) {
            self.roster.update(life, |worker| worker.again = None);
            self.rollout.push(slot, cause, life);
        } else if let Some(hang) = hang {
            self.hung(now, life, hang);
        }
    }

    /// It has a listening socket. Where something else makes it ready, that only tells what kind of program it is.
    pub(super) fn listened(&mut self, now: Time, life: Life) {
        let Some(first) =
            self.roster.update(life, |worker| worker.ended.is_none() && !std::mem::replace(&mut worker.has_listened, true))
        else {
            return;
        };
        if first {
            self.learned.shown.get_or_insert(Shown::Listens);
            self.shows_itself(now, life, |asked| matches!(asked, Asked::Anything | Asked::Listening));
        }
    }

    /// It has listened, or said `READY=1`; `suffices`: whether that was what is asked of it.
    fn shows_itself(&mut self, now: Time, life: Life, suffices: fn(Asked) -> bool) {
        let Some(worker) = self.roster.get(life) else { return };
        let (slot, pid, after) = (worker.slot, worker.pid_for_log(), now.since(worker.forked));
        match worker.phase {
            Phase::Starting { asked, .. } if suffices(asked) => self.became_ready(now, life, false),
            // Late, but sure now, and it tells how long a start takes.
            Phase::Ready | Phase::Hung { .. } if worker.presumed => {
                self.roster.update(life, |worker| worker.presumed = false);
                self.learn_duration(slot, after);
                self.note(Note::Ready { slot, pid, after });
            }
            Phase::Forking
            | Phase::Starting { .. }
            | Phase::Ready
            | Phase::Hung { .. }
            | Phase::Retiring { .. }
            | Phase::Parting { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => {}
        }
    }

    pub(super) fn notified(&mut self, now: Time, life: Life, notice: Notice) {
        let Some(worker) = self.roster.get(life).filter(|worker| worker.ended.is_none()) else { return };
        let (slot, pid, phase) = (worker.slot, worker.pid_for_log(), worker.phase);
        match notice {
            Notice::Ready => {
                self.learn_start(now, life);
                self.shows_itself(now, life, |asked| match asked {
                    Asked::Running { or_notify } => or_notify,
                    Asked::Anything | Asked::Notifying => true,
                    Asked::Listening => false,
                });
            }
            Notice::Stopping => {
                self.disconnect(life, false);
                if matches!(phase, Phase::Starting { .. } | Phase::Ready | Phase::Hung { .. }) {
                    let kill_at = now + self.policy.grace;
                    self.roster.update(life, |worker| worker.begin_stopping(now, kill_at, false));
                    self.note(Note::AnnouncedStop { slot, pid });
                }
            }
            Notice::Reloading => {
                self.roster.update(life, |worker| worker.has_notified = true);
                self.note(Note::Says { slot, text: "reloading".to_owned() });
            }
            Notice::Status(text) => self.note(Note::Says { slot, text }),
            Notice::Alive => self.alive(now, life),
            Notice::Trigger => {
                if phase == Phase::Ready {
                    self.hung(now, life, Hang::Watchdog);
                }
            }
            Notice::WatchdogInterval(interval) => {
                let watchdog = (!interval.is_zero()).then_some(Watchdog { interval, due: Some(now + interval) });
                self.roster.update(life, |worker| worker.watchdog = watchdog);
            }
        }
    }

    /// The program notifies, and its first `READY=1` tells how long a start takes: also that of a worker which counted as ready
    /// before. (A later one ends a reload of its own.)
    fn learn_start(&mut self, now: Time, life: Life) {
        self.learned.shown.get_or_insert(Shown::Notifies);
        let took = self.roster.update(life, |worker| {
            let first = !std::mem::replace(&mut worker.has_notified, true);
            first.then(|| now.since(worker.forked))
        });
        self.learned.slowest_start = self.learned.slowest_start.max(took.flatten().unwrap_or_default());
    }

    // === the cluster as a whole ===

    /// The end of `START_TIMEOUT` after the first start, while it still matters.
    pub(super) fn first_timeout(&self) -> Option<Time> {
        let end = self.learned.first_start? + self.policy.start_timeout;
        (!self.learned.first_timeout_over).then_some(end)
    }

    pub(super) fn first_timeout_reached(&mut self, now: Time) {
        if self.first_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.learned.first_timeout_over = true;
        if !self.learned.others_follow && self.course.starts_workers() {
            self.let_others_follow(now, false);
        }
    }

    fn let_others_follow(&mut self, now: Time, ready: bool) {
        self.learned.others_follow = true;
        if !self.course.starts_workers() {
            return;
        }
        let waiting: Vec<Slot> =
            self.slots.iter().filter(|(_, state)| state.occupancy == Occupancy::Waiting).map(|(slot, _)| slot).collect();
        if !waiting.is_empty() {
            self.note(Note::OthersFollow { workers: self.wanted, ready });
        }
        for slot in waiting {
            self.start_at(now, slot);
        }
    }

    /// `MIN_READY`, as far as there are so many slots.
    pub(super) fn enough(&self) -> u32 {
        self.policy.min_ready.min(self.wanted)
    }

    /// Keeps book of readiness as the probes ask for it; called at the end of every step.
    pub(super) fn note_readiness(&mut self, now: Time) {
        if self.roster.ready() > 0 {
            self.learned.none_ready_since = None;
        } else if self.learned.first_ready.is_some() {
            self.learned.none_ready_since.get_or_insert(now);
        }
        let ready = self.roster.surely_ready();
        self.learned.was_up |= ready >= self.wanted || (self.learned.first_timeout_over && ready >= self.enough());
    }
}
