//! When a worker counts as ready, and when it no longer does: starting, `sd_notify`, watchdog, age, and slot 0 first.

use std::time::Duration;

use super::effect::Note;
use super::event::Notice;
use super::policy::ReadyMode;
use super::restart::PROVEN;
use super::rollout::Cause;
use super::slots::Occupancy;
use super::status::Reason;
use super::supervisor::Supervisor;
use super::words::{Life, Slot, Time};
use super::worker::{Phase, Watchdog};

impl Supervisor {
    /// Whether a worker that is started now is ready only by `READY=1`.
    pub(super) fn must_notify(&self) -> bool {
        match self.policy.ready {
            ReadyMode::Notify => true,
            ReadyMode::Running => false,
            ReadyMode::Auto => self.learned.notifies,
        }
    }

    /// The longer of `START_TIMEOUT` and three times the slowest start seen.
    pub(super) fn start_timeout(&self) -> Duration {
        self.policy.start_timeout.max(self.learned.slowest_start.saturating_mul(3))
    }

    pub(super) fn start_due(&mut self, now: Time, life: Life) {
        let Some(worker) = self.roster.get(life) else { return };
        let (slot, pid, waited) = (worker.slot, worker.pid_for_log(), now.since(worker.forked));
        let Phase::Starting { ready_at, .. } = worker.phase else { return };
        if ready_at.is_some_and(|at| at <= now) {
            self.became_ready(now, life);
            return;
        }
        self.note(Note::NotReadyInTime { slot, pid, waited });
        self.roster.update(life, |worker| worker.purpose = Some(Reason::StartTimeout));
        self.successor_failed(now, life, &format!("the new worker of slot {slot} was not ready after {waited:?}"));
        self.kill(now, life);
    }

    pub(super) fn became_ready(&mut self, now: Time, life: Life) {
        let Some((slot, pid, after)) = self.roster.update(life, |worker| {
            worker.phase = Phase::Ready;
            worker.ready_since.get_or_insert(now);
            if let Some(watchdog) = &mut worker.watchdog {
                watchdog.due = watchdog.due.map(|_| now + watchdog.interval);
            }
            (worker.slot, worker.pid_for_log(), now.since(worker.forked))
        }) else {
            return;
        };
        self.learned.slowest_start = self.learned.slowest_start.max(after);
        self.learned.first_ready.get_or_insert(now);
        self.note(Note::Ready { slot, pid, after });
        self.successor_ready(now, life);
        if slot == Slot(0) && !self.learned.others_follow {
            self.let_others_follow(now, true);
        }
    }

    /// A worker that is ready was hung or is too old.
    pub(super) fn life_due(&mut self, now: Time, life: Life) {
        let Some(worker) = self.roster.get(life) else { return };
        let slot = worker.slot;
        if worker.old_at.is_some_and(|at| at <= now) {
            self.roster.update(life, |worker| worker.old_at = None);
            self.rollout.push(slot, Cause::Lifetime, life);
        } else {
            self.hung(now, life);
        }
    }

    /// A worker that had proved itself is replaced, its successor first. One that hangs in its first second is a failing start, with
    /// its backoff: else a program that always does so would be started again and again without a pause.
    fn hung(&mut self, now: Time, life: Life) {
        let Some((slot, pid, ready_since)) = self.roster.update(life, |worker| {
            worker.phase = Phase::Hung;
            (worker.slot, worker.pid_for_log(), worker.ready_since)
        }) else {
            return;
        };
        self.note(Note::Hung { slot, pid });
        if ready_since.is_some_and(|since| now.since(since) >= PROVEN) {
            self.rollout.push(slot, Cause::Hung, life);
        } else {
            self.stop_worker(life, Reason::Hung, now + self.policy.grace);
        }
    }

    pub(super) fn notified(&mut self, now: Time, life: Life, notice: Notice) {
        let Some(worker) = self.roster.get(life).filter(|worker| worker.ended.is_none()) else { return };
        let (slot, pid, phase) = (worker.slot, worker.pid_for_log(), worker.phase);
        match notice {
            Notice::Ready => {
                self.learn_start(now, life);
                if matches!(phase, Phase::Starting { .. }) && self.policy.ready != ReadyMode::Running {
                    self.became_ready(now, life);
                }
            }
            Notice::Stopping => {
                if matches!(phase, Phase::Starting { .. } | Phase::Ready | Phase::Hung) {
                    let kill_at = now + self.policy.grace;
                    self.roster.update(life, |worker| worker.phase = Phase::Stopping { kill_at, signalled: false });
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
                    self.hung(now, life);
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
        self.learned.notifies = true;
        let took = self.roster.update(life, |worker| {
            let first = !std::mem::replace(&mut worker.has_notified, true);
            first.then(|| now.since(worker.forked))
        });
        self.learned.slowest_start = self.learned.slowest_start.max(took.flatten().unwrap_or_default());
    }

    fn alive(&mut self, now: Time, life: Life) {
        let default = self.policy.watchdog;
        let Some((slot, pid, recovered)) = self.roster.update(life, |worker| {
            let interval = worker.watchdog.map(|watchdog| watchdog.interval).or(default);
            worker.watchdog = interval.map(|interval| Watchdog { interval, due: Some(now + interval) });
            let recovered = worker.phase == Phase::Hung;
            if recovered {
                worker.phase = Phase::Ready;
            }
            (worker.slot, worker.pid_for_log(), recovered)
        }) else {
            return;
        };
        if recovered {
            self.rollout.cancel(slot, Cause::Hung);
            self.note(Note::Recovered { slot, pid });
        }
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
        let ready = self.roster.ready();
        if ready > 0 {
            self.learned.none_ready_since = None;
        } else if self.learned.first_ready.is_some() {
            self.learned.none_ready_since.get_or_insert(now);
        }
        self.learned.was_up |= ready >= self.wanted || (self.learned.first_timeout_over && ready >= self.enough());
    }
}
