//! Taking a worker that serves out of service: disconnected first, stopped when it is quiet; and the last one turns the light off.
//!
//! ```text
//!                    Disconnect, SeekQuiet          Quiet, or half the grace is over      the grace is over
//! Ready ------------------------------> Retiring ------------------------------> Stopping ----------> Killed
//!   |     (the cluster stops: SeekQuiet alone)     (Disconnect, Refuse,) StopLeader   ^
//!   +-- STOP_WHEN=now: Disconnect, StopLeader ----------------------------------------+
//! ```
//! One that can be asked to part goes from `Retiring` to `Parting` with `Part` in place of the stop signal. It finishes what it has and
//! ends by itself; its stop signal goes out [a moment](PARTED) after it has parted, or when half of what is left of the grace is over.
//!
//! Where the whole cluster stops, nobody is there to take over: a worker keeps its connections coming until its own stop signal, or until
//! the runtime, looking for the quiet instant, keeps them from it; and with the signal of the last one late clients are refused. A worker that takes no connections (starting, hung) is stopped at once.

use std::time::Duration;

use super::effect::{Effect, Note, Search};
use super::status::Reason;
use super::supervisor::Supervisor;
use super::words::{Life, Time};
use super::worker::Phase;

/// A worker that has parted has nothing left to serve: it gets so long to end by itself. A timer or a database connection keeps it.
const PARTED: Duration = Duration::from_secs(1);

/// What a stop comes to, by the phase that it finds the worker in.
enum Course {
    Nothing,
    Seek { from: Time, until: Time },
    Signal,
}

impl Supervisor {
    /// Ends a worker that runs, by `deadline` at the latest; one that is already on its way out gets only an earlier deadline.
    pub(super) fn stop_worker(&mut self, now: Time, life: Life, reason: Reason, deadline: Time) {
        let seeks = self.policy.quiet;
        let half = now + deadline.since(now) / 2;
        let course = self.roster.update(life, |worker| match worker.phase {
            Phase::Killed { .. } => Course::Nothing,
            Phase::Stopping { kill_at, signalled } => {
                worker.phase = Phase::Stopping { kill_at: kill_at.min(deadline), signalled: true };
                worker.purpose = worker.purpose.or(Some(reason));
                if signalled { Course::Nothing } else { Course::Signal }
            }
            Phase::Retiring { from, until, kill_at } => {
                let earlier = until.min(half);
                worker.phase = Phase::Retiring { from, until: earlier, kill_at: kill_at.min(deadline) };
                if earlier < until { Course::Seek { from, until: earlier } } else { Course::Nothing }
            }
            Phase::Parting { until, kill_at } => {
                worker.phase = Phase::Parting { until: until.min(half), kill_at: kill_at.min(deadline) };
                Course::Nothing
            }
            Phase::Ready if seeks && half > now => {
                worker.phase = Phase::Retiring { from: now, until: half, kill_at: deadline };
                worker.purpose = Some(reason);
                Course::Seek { from: now, until: half }
            }
            Phase::Forking | Phase::Starting { .. } | Phase::Ready | Phase::Hung { .. } => {
                worker.begin_stopping(now, deadline, true);
                worker.purpose = Some(reason);
                Course::Signal
            }
        });
        match course {
            Some(Course::Seek { from, until }) => {
                if self.course.starts_workers() && self.disconnect(life, false) {
                    self.note_disconnected(life, reason);
                }
                self.effects.push(Effect::SeekQuiet { life, from, until });
            }
            Some(Course::Signal) => self.signal_leader(life, None),
            Some(Course::Nothing) | None => {}
        }
    }

    /// No request of this worker is in flight.
    pub(super) fn quiet(&mut self, now: Time, life: Life) {
        self.end_search(now, life, true);
    }

    /// Half the grace is over: the other half is for what the stop signal cannot spare.
    pub(super) fn search_due(&mut self, now: Time, life: Life) {
        self.end_search(now, life, false);
    }

    fn end_search(&mut self, now: Time, life: Life, quiet: bool) {
        let search = self.roster.update(life, |worker| match worker.phase {
            Phase::Retiring { kill_at, .. } if quiet && worker.parts => {
                worker.phase = Phase::Parting { until: now + kill_at.since(now) / 2, kill_at };
                None
            }
            Phase::Retiring { from, kill_at, .. } => {
                worker.begin_stopping(now, kill_at, true);
                Some(Search { took: now.since(from), quiet })
            }
            Phase::Forking
            | Phase::Starting { .. }
            | Phase::Ready
            | Phase::Hung { .. }
            | Phase::Parting { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => None,
        });
        match search {
            Some(search @ Some(_)) => self.signal_leader(life, search),
            Some(None) => self.ask_to_part(life),
            None => {}
        }
    }

    /// It takes no connections any more, and ends when those that it has are done.
    fn ask_to_part(&mut self, life: Life) {
        let Some(worker) = self.roster.get(life).filter(|worker| matches!(worker.phase, Phase::Parting { .. })) else { return };
        if worker.ended.is_some() {
            return;
        }
        let (slot, pid, reason) = (worker.slot, worker.pid_for_log(), worker.purpose.unwrap_or(Reason::Stop));
        self.disconnect(life, false);
        self.effects.push(Effect::Part { life });
        self.note(Note::Parting { slot, pid, reason });
    }

    /// Whether it can be asked to part; what was asked already is not taken back.
    pub(super) fn parts(&mut self, life: Life, parts: bool) {
        self.roster.update(life, |worker| worker.parts = parts);
    }

    /// Nothing is left for it to serve.
    pub(super) fn parted(&mut self, now: Time, life: Life) {
        self.roster.update(life, |worker| {
            worker.parts = false;
            if let Phase::Parting { until, .. } = &mut worker.phase {
                *until = (*until).min(now + PARTED);
            }
        });
    }

    /// It has not ended by itself: a timer keeps it, or connections that do not end.
    pub(super) fn parting_due(&mut self, now: Time, life: Life) {
        self.roster.update(life, |worker| {
            if let Phase::Parting { kill_at, .. } = worker.phase {
                worker.begin_stopping(now, kill_at, true);
            }
        });
        self.signal_leader(life, None);
    }

    /// The stop signal, to a worker that takes no connections any more.
    fn signal_leader(&mut self, life: Life, search: Option<Search>) {
        self.disconnect(life, false);
        let Some(worker) = self.roster.get(life).filter(|worker| worker.ended.is_none()) else { return };
        let (slot, pid, reason) = (worker.slot, worker.pid_for_log(), worker.purpose.unwrap_or(Reason::Stop));
        let failed_to_start = worker.exec_failure.is_some();
        self.effects.push(Effect::StopLeader { life });
        if !failed_to_start {
            self.note(Note::Stopping { slot, pid, reason, search });
        }
    }

    /// New connections reach others. `hung`: its successor takes those that wait for it. False where none reached it anyway.
    pub(super) fn disconnect(&mut self, life: Life, hung: bool) -> bool {
        let joined = self.roster.update(life, |worker| worker.joined.take()).flatten().is_some();
        if joined {
            self.effects.push(Effect::Disconnect { life, hung });
            self.refuse_if_nobody_accepts();
        }
        joined
    }

    fn note_disconnected(&mut self, life: Life, reason: Reason) {
        let Some((slot, pid)) = self.roster.get(life).map(|worker| (worker.slot, worker.pid_for_log())) else { return };
        self.note(Note::Disconnected { slot, pid, reason });
    }

    /// Once no worker is started any more and none accepts.
    pub(super) fn refuse_if_nobody_accepts(&mut self) {
        if !self.course.starts_workers() && self.roster.joined() == 0 && !self.outcome.refused {
            self.outcome.refused = true;
            self.effects.push(Effect::Refuse);
        }
    }
}
