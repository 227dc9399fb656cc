//! Workers that live and do not work: hung by their watchdog or by their accept queue, and queues that nobody has.
//!
//! ```text
//!         watchdog missed, or connections or a heartbeat left waiting for HANG_TIMEOUT
//! Ready ----------------------------------------------------------------> Hung -> its successor takes its accept queue
//!   ^---------- a sign of life, or it accepts: Join ------------------------+
//! ```

use std::time::Duration;

use super::effect::{Effect, Hang, Note};
use super::restart::PROVEN;
use super::rollout::Cause;
use super::slots::Occupancy;
use super::status::Reason;
use super::supervisor::Supervisor;
use super::words::{Life, Slot, Time};
use super::worker::{Phase, Watchdog, Worker, earliest};

/// Connections that wait in a queue of a slot in backoff wait no longer than this; once, or a server that cannot start is started
/// for ever without a pause.
const QUEUE_WAITS: Duration = Duration::from_secs(1);

impl Supervisor {
    /// A worker that had proved itself is replaced, its successor first. One that hangs in its first second is a failing start, with
    /// its backoff: else a program that always does so would be started again and again without a pause.
    pub(super) fn hung(&mut self, now: Time, life: Life, hang: Hang) {
        let Some((slot, pid, ready_since)) = self.roster.update(life, |worker| {
            worker.phase = Phase::Hung { hang };
            (worker.slot, worker.pid_for_log(), worker.ready_since)
        }) else {
            return;
        };
        self.disconnect(life, true);
        self.note(Note::Hung { slot, pid, hang });
        if ready_since.is_some_and(|since| now.since(since) >= PROVEN) {
            self.rollout.push(slot, Cause::Hung, life);
        } else {
            self.stop_worker(now, life, Reason::Hung, now + self.policy.grace);
        }
    }

    /// `WATCHDOG=1`.
    pub(super) fn alive(&mut self, now: Time, life: Life) {
        let default = self.policy.watchdog;
        self.roster.update(life, |worker| {
            let interval = worker.watchdog.map(|watchdog| watchdog.interval).or(default);
            worker.watchdog = interval.map(|interval| Watchdog { interval, due: Some(now + interval) });
        });
        self.recovers(now, life, Hang::Watchdog);
    }

    /// `since` when it leaves a heartbeat unanswered; `None`: it answers.
    pub(super) fn unanswered(&mut self, now: Time, life: Life, since: Option<Time>) {
        self.roster.update(life, |worker| worker.unanswered_since = since);
        if since.is_none() {
            self.recovers(now, life, Hang::Heartbeat);
        }
    }

    /// `since` when it leaves connections waiting; `None`: it accepts.
    pub(super) fn waiting(&mut self, now: Time, life: Life, since: Option<Time>) {
        self.roster.update(life, |worker| worker.waiting_since = since);
        if since.is_none() {
            self.recovers(now, life, Hang::Queue);
        }
    }

    /// What it hung by is over: it serves again, unless it hangs in the other way too.
    fn recovers(&mut self, now: Time, life: Life, from: Hang) {
        let Some(worker) = self.roster.get(life).filter(|worker| worker.phase == Phase::Hung { hang: from }) else { return };
        let (slot, pid, hang) = (worker.slot, worker.pid_for_log(), worker.still_hangs(now));
        self.roster.update(life, |worker| {
            worker.phase = hang.map_or(Phase::Ready, |hang| Phase::Hung { hang });
            worker.joined = hang.is_none().then_some(now);
        });
        if hang.is_none() {
            self.rollout.cancel(slot, Cause::Hung);
            self.effects.push(Effect::Join { life });
            self.note(Note::Recovered { slot, pid });
        }
    }

    /// A connection waits in an accept queue of this slot that no worker has: whoever is started there next takes it.
    pub(super) fn queue_filled(&mut self, now: Time, slot: Slot) {
        let Some(state) = self.slots.get(slot).filter(|_| slot.0 < self.wanted && self.course.starts_workers()) else { return };
        match state.occupancy {
            Occupancy::Backoff { until } if until > now + QUEUE_WAITS && !state.hurried => {
                self.start_at(now + QUEUE_WAITS, slot);
                if let Some(state) = self.slots.get_mut(slot) {
                    state.hurried = true;
                }
                self.note(Note::QueueFilled { slot });
            }
            Occupancy::Worker(life) => {
                let patient = state.queue_waits_until.is_some_and(|until| now < until) || self.rollout.is_about(slot);
                if !patient && self.roster.get(life).is_some_and(|worker| worker.phase == Phase::Ready) {
                    self.rollout.push(slot, Cause::Queue, life);
                    self.note(Note::QueueFilled { slot });
                }
            }
            Occupancy::Backoff { .. } | Occupancy::Waiting | Occupancy::Done { .. } => {}
        }
    }

    /// Since when every worker that is ready leaves connections waiting; `None` where one does not, or none is ready.
    pub(super) fn all_wait_since(&self) -> Option<Time> {
        let mut latest = None;
        for worker in self.roster.iter().filter(|worker| worker.is_ready()) {
            latest = latest.max(Some(worker.waits_since()?));
        }
        latest
    }
}

impl Worker {
    /// Connections that waited before any were meant to reach it are not held against it.
    pub(super) fn waits_since(&self) -> Option<Time> {
        Some(self.waiting_since?.max(self.joined?))
    }

    /// When it will hang by its accept queue or by its heartbeat.
    pub(super) fn hangs_at(&self) -> Option<Time> {
        earliest(self.queue_hangs_at(), self.heart_stops_at())
    }

    fn queue_hangs_at(&self) -> Option<Time> {
        Some(self.waits_since()? + self.hang_timeout?)
    }

    /// A long start is no hang: what was asked before it was ready counts from then on.
    fn heart_stops_at(&self) -> Option<Time> {
        Some(self.unanswered_since?.max(self.ready_since?) + self.hang_timeout?)
    }

    /// How it hangs at this instant, if it is ready.
    pub(super) fn due_hang(&self, now: Time) -> Option<Hang> {
        let queue = || self.queue_hangs_at().is_some_and(|at| at <= now).then_some(Hang::Queue);
        self.missed_watchdog(now).or_else(queue).or_else(|| self.stopped_heart(now))
    }

    /// How it still hangs, if it is hung: nothing that came to its queue since then counts.
    fn still_hangs(&self, now: Time) -> Option<Hang> {
        let stuck = self.waiting_since.zip(self.hang_timeout).is_some_and(|(since, timeout)| since + timeout <= now);
        self.missed_watchdog(now).or_else(|| stuck.then_some(Hang::Queue)).or_else(|| self.stopped_heart(now))
    }

    fn stopped_heart(&self, now: Time) -> Option<Hang> {
        self.heart_stops_at().is_some_and(|at| at <= now).then_some(Hang::Heartbeat)
    }

    fn missed_watchdog(&self, now: Time) -> Option<Hang> {
        let missed = self.watchdog.and_then(|watchdog| watchdog.due).is_some_and(|due| due <= now);
        missed.then_some(Hang::Watchdog)
    }
}
