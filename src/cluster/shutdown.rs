//! The way out, in phases that each end at the moment when nothing is left, or at their deadline.
//!
//! ```text
//! Running -> Draining ------> Stopping ----------------> Sweeping -----------------> Over
//!            readiness fails   stop signal to leaders,    TERM to what else lives     Effect::End
//!            DRAIN_DELAY       each when it is quiet,     in the namespace; entered
//!                              then to what they left,    processes get 1 s; SIGKILL
//!                              SIGKILL at GRACE
//! ```

use std::time::Duration;

use super::effect::{Effect, Finish, Note};
use super::ending::KILL_PATIENCE;
use super::event::Left;
use super::policy::DrainDelay;
use super::slots::Occupancy;
use super::status::Reason;
use super::supervisor::Supervisor;
use super::words::{ExitStatus, Signal, Time};
use super::worker::{Phase, Worker};

/// A second INT or QUIT means "now" only this long after the first: terminals and their children deliver one Ctrl-C twice.
const SECOND_INTERRUPT: Duration = Duration::from_millis(500);

/// What entered from outside is a shell or a debugger, not a server: it gets this long.
const ENTERED_GRACE: Duration = Duration::from_secs(1);

/// The ends of processes that are no children of ours are not announced: look this often while there are any.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Our own announce themselves by SIGCHLD; this is the net below.
const LOOK_AGAIN_OWN: Duration = Duration::from_millis(100);

/// Where the cluster as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    Running,
    Draining { until: Time },
    Stopping { kill_at: Time },
    Sweeping(Sweep),
    Over,
}

/// The end of everything that is no worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sweep {
    kill_at: Time,
    /// When what entered from outside is killed; `None` before anybody was asked to go.
    entered_until: Option<Time>,
    entered_killed: bool,
    /// `Some` once everything was killed: when we leave all the same.
    leave_at: Option<Time>,
    look_at: Time,
}

/// What the exit status depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Somebody asked for the stop.
    requested: bool,
    /// The status of a cluster that ends by itself.
    code: Option<u8>,
    /// The first status that was neither 0 nor our signal's.
    other: Option<u8>,
    killed: bool,
    /// Nobody accepts any more, and late clients have been refused from then on.
    pub(super) refused: bool,
    first_interrupt: Option<Time>,
}

impl Course {
    pub(super) fn is_running(self) -> bool {
        self == Self::Running
    }

    /// A drain goes on as before, but for readiness.
    pub(super) fn starts_workers(self) -> bool {
        matches!(self, Self::Running | Self::Draining { .. })
    }

    pub(super) fn kill_at(self) -> Option<Time> {
        match self {
            Self::Stopping { kill_at } => Some(kill_at),
            Self::Running | Self::Draining { .. } | Self::Sweeping(_) | Self::Over => None,
        }
    }

    pub(super) fn deadline(self) -> Option<Time> {
        match self {
            Self::Running | Self::Over => None,
            Self::Draining { until } => Some(until),
            Self::Stopping { kill_at } => Some(kill_at + KILL_PATIENCE),
            Self::Sweeping(sweep) => Some(sweep.look_at),
        }
    }
}

impl Supervisor {
    pub(super) fn stop_asked(&mut self, now: Time, interrupt: bool, listening: bool) {
        let first_interrupt = self.outcome.first_interrupt;
        if interrupt {
            self.outcome.first_interrupt.get_or_insert(now);
        }
        if self.course.is_running() {
            let drain = match self.policy.drain_delay {
                DrainDelay::Always(delay) => delay,
                DrainDelay::WhereListening(delay) if listening => delay,
                DrainDelay::WhereListening(_) => Duration::ZERO,
            };
            self.outcome.requested = true;
            self.note(Note::StopBegan { drain, grace: self.policy.grace });
            self.end_rollout(now);
            self.course = Course::Draining { until: now + drain };
        } else if interrupt && first_interrupt.is_some_and(|first| now.since(first) >= SECOND_INTERRUPT) {
            self.stop_now(now);
        } else {
            self.note(Note::AlreadyStopping);
        }
    }

    pub(super) fn stop_now(&mut self, now: Time) {
        self.note(Note::KillNow);
        self.outcome.requested = true;
        self.outcome.killed = true;
        if self.course.starts_workers() {
            self.leave_running(now, now);
        }
        match &mut self.course {
            // Asked once more, it is not put off.
            Course::Stopping { kill_at } => *kill_at = now.min(*kill_at),
            Course::Sweeping(sweep) => {
                sweep.kill_at = now.min(sweep.kill_at);
                sweep.look_at = now;
            }
            Course::Running | Course::Draining { .. } | Course::Over => {}
        }
        for life in self.roster.lives() {
            if self.roster.get(life).is_some_and(|worker| !matches!(worker.phase, Phase::Killed { .. })) {
                self.kill(now, life);
            }
        }
    }

    /// The cluster ends by itself, with this status.
    pub(super) fn finish(&mut self, now: Time, code: u8, why: Finish) {
        if !self.course.starts_workers() {
            return;
        }
        if !self.outcome.requested {
            self.outcome.code = Some(code);
        }
        self.note(Note::Finishing { why });
        self.begin_stopping(now, now + self.policy.grace);
        self.count_code(code);
    }

    pub(super) fn finish_if_all_done(&mut self, now: Time) {
        if !self.slots.all_done() || !self.course.starts_workers() {
            return;
        }
        let worst = self.slots.iter().filter_map(|(_, state)| match state.occupancy {
            Occupancy::Done { status } => status.map(ExitStatus::as_code),
            Occupancy::Waiting | Occupancy::Worker(_) | Occupancy::Backoff { .. } => None,
        });
        let code = worst.max().unwrap_or(0);
        self.finish(now, code, Finish::NothingLeftToRun);
    }

    fn begin_stopping(&mut self, now: Time, kill_at: Time) {
        self.leave_running(now, kill_at);
        for life in self.roster.lives() {
            self.stop_worker(now, life, Reason::Stop, kill_at);
        }
    }

    /// No worker is started from here on.
    fn leave_running(&mut self, now: Time, kill_at: Time) {
        self.end_rollout(now);
        self.drop_replacement();
        self.course = Course::Stopping { kill_at };
        for slot in self.slots.ids() {
            match self.slots.get(slot).map(|state| state.occupancy) {
                Some(Occupancy::Waiting | Occupancy::Backoff { .. }) => self.slots.occupy(slot, Occupancy::Done { status: None }),
                // It ended by itself and nobody replaced it: that counts as if it had ended now.
                Some(Occupancy::Done { status: Some(status) }) => self.count_code(status.as_code()),
                Some(Occupancy::Done { status: None } | Occupancy::Worker(_)) | None => {}
            }
        }
        self.refuse_if_nobody_accepts();
    }

    /// Before anything that is due at the same instant: nothing is started only to be stopped.
    pub(super) fn advance_drain(&mut self, now: Time) {
        if let Course::Draining { until } = self.course
            && until <= now
        {
            self.note(Note::DrainEnded);
            self.begin_stopping(now, now + self.policy.grace);
        }
    }

    /// Goes on to the next phase where this one is over; called at the end of every step.
    pub(super) fn advance_shutdown(&mut self, now: Time) {
        // The last one that accepted may have ended by itself.
        self.refuse_if_nobody_accepts();
        if let Course::Stopping { kill_at } = self.course {
            let out_of_patience = kill_at + KILL_PATIENCE <= now;
            if out_of_patience && !self.roster.is_empty() {
                self.outcome.killed = true;
                let workers = u32::try_from(self.roster.len()).unwrap_or(u32::MAX);
                self.note(Note::Abandoned { left: Left::default(), workers });
            }
            if out_of_patience || self.roster.is_empty() {
                let sweep = Sweep { kill_at, entered_until: None, entered_killed: false, leave_at: None, look_at: now };
                self.course = Course::Sweeping(sweep);
            }
        }
        if let Course::Sweeping(sweep) = &mut self.course
            && sweep.look_at <= now
        {
            sweep.look_at = now + LOOK_AGAIN_OWN;
            self.effects.push(Effect::LookAround);
        }
    }

    pub(super) fn namespace_seen(&mut self, now: Time, left: Left) {
        let Course::Sweeping(mut sweep) = self.course else { return };
        if left == Left::default() {
            self.end();
            return;
        }
        if sweep.leave_at.is_some_and(|at| at <= now) {
            self.note(Note::Abandoned { left, workers: 0 });
            self.end();
            return;
        }
        if sweep.entered_until.is_none() {
            sweep.entered_until = Some(now + ENTERED_GRACE);
            self.note(Note::NamespaceLeft { left });
            self.effects.push(Effect::AskNamespace);
        }
        if sweep.kill_at <= now {
            if sweep.leave_at.is_none() {
                sweep.leave_at = Some(now + KILL_PATIENCE);
                self.note(Note::NamespaceKilled { left });
            }
            self.effects.push(Effect::KillNamespace);
        } else if left.entered > 0 && sweep.entered_until.is_some_and(|until| until <= now) && !sweep.entered_killed {
            sweep.entered_killed = true;
            self.note(Note::NamespaceKilled { left: Left { own: 0, entered: left.entered } });
            self.effects.push(Effect::KillEntered);
        }
        let wait = if left.entered > 0 || sweep.leave_at.is_some() { LOOK_AGAIN } else { LOOK_AGAIN_OWN };
        sweep.look_at = if sweep.kill_at > now { (now + wait).min(sweep.kill_at) } else { now + wait };
        self.course = Course::Sweeping(sweep);
    }

    fn end(&mut self) {
        self.course = Course::Over;
        let code = self.exit_code();
        self.effects.push(Effect::End { code });
    }

    // === exit status ===

    /// A leader ended while the cluster stops.
    pub(super) fn count_status(&mut self, worker: &Worker, status: ExitStatus) {
        if self.course.starts_workers() {
            return;
        }
        let killed_by_us = matches!(worker.phase, Phase::Killed { .. });
        match status {
            ExitStatus::Signal { signal: Signal::KILL, .. } if killed_by_us => self.outcome.killed = true,
            ExitStatus::Code(_) | ExitStatus::Signal { .. } => self.count_code(status.as_code()),
        }
    }

    /// A member of a worker's tree is killed whose leader has gone (of a leader, its status tells whether it came to that).
    pub(super) fn count_kill(&mut self) {
        if !self.course.starts_workers() {
            self.outcome.killed = true;
        }
    }

    /// The first status that is not clean is that of the whole.
    fn count_code(&mut self, code: u8) {
        if !self.is_clean_code(code) {
            self.outcome.other.get_or_insert(code);
        }
    }

    /// 0, or 128 + the stop signal: what ended by that signal, and what a runtime makes of it (java: 143).
    fn is_clean_code(&self, code: u8) -> bool {
        code == 0 || code == self.policy.stop_signal.as_code()
    }

    fn exit_code(&self) -> u8 {
        let Outcome { requested, code, other, killed, .. } = self.outcome;
        match code {
            _ if requested && killed => 137,
            Some(code) => code,
            None => other.unwrap_or(0),
        }
    }
}
