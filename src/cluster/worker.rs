//! One worker's life.
//!
//! ```text
//! Forking -> Starting -> Ready <-> Hung
//!    |          |        |    |      |
//!    |          |        |    v      |
//!    |          |        | Retiring  |        disconnected; looks for an instant without a request in flight
//!    |          |        |    |  \---|--> Parting       asked to finish what it has and to end by itself
//!    |          v        v    v      v      v
//!    |          +--------+----+------+------+--> Stopping --> Killed
//!    v                                        |          |
//!  (refused)                     leader gone, tree gone: removed
//! ```
//!
//! A worker stays in the roster until nothing of its tree is left, also after its leader was reaped.

use std::time::Duration;

use super::effect::Hang;
use super::memory::Meter;
use super::restart::Verdict;
use super::rollout::Cause;
use super::status::{Reason, RowState};
use super::words::{ExitStatus, Life, Pid, Slot, Time};

/// SIGKILL is repeated this often (a tree that forks may outrun one pass), then we go on without the tree.
pub(super) const KILL_TRIES: u32 = 6;

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Worker {
    pub(super) life: Life,
    pub(super) slot: Slot,
    pub(super) generation: u32,
    /// `Some` from `Forked` on.
    pub(super) pid: Option<Pid>,
    pub(super) forked: Time,
    pub(super) phase: Phase,
    /// When it was asked to end, or said that it does.
    pub(super) stopping_since: Option<Time>,
    /// `Some` once the leader was reaped.
    pub(super) ended: Option<Ended>,
    /// Why we end it; `None` while it is to live, and for a worker that ends by itself.
    pub(super) purpose: Option<Reason>,
    pub(super) exec_failure: Option<String>,
    /// It has said `READY=1` or `RELOADING=1` before: how long its start took is known.
    pub(super) has_notified: bool,
    pub(super) has_listened: bool,
    /// It counts as ready because `START_TIMEOUT` has passed, although it has shown nothing: not for `/readyz`.
    pub(super) presumed: bool,
    /// Since when new connections may reach it; `None` while they may not.
    pub(super) joined: Option<Time>,
    /// The first instant at which it was ready.
    pub(super) ready_since: Option<Time>,
    /// When it will be older than `MAX_LIFETIME`.
    pub(super) old_at: Option<Time>,
    pub(super) watchdog: Option<Watchdog>,
    /// It finishes what it has and ends by itself where it is asked to.
    pub(super) parts: bool,
    /// Since when it has left a heartbeat unanswered.
    pub(super) unanswered_since: Option<Time>,
    /// Since when it has left connections waiting in its accept queue.
    pub(super) waiting_since: Option<Time>,
    /// What its tree may use, in bytes: its hard cap, or its share. Given at its start.
    pub(super) cap: Option<u64>,
    pub(super) meter: Meter,
    /// Its replacement failed and is tried again then.
    pub(super) again: Option<(Time, Cause)>,
    /// `HANG_TIMEOUT`.
    pub(super) hang_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The fork was asked for and is not answered yet.
    Forking,
    /// Runs and is not ready; `at`: when that is decided without its help, known once its program runs (or at the fork, where it is
    /// too late then).
    Starting {
        asked: Asked,
        at: Option<Time>,
    },
    Ready,
    /// Missed its watchdog, or has left connections waiting too long.
    Hung {
        hang: Hang,
    },
    /// Was ready and is to end; its stop signal waits for an instant without a request in flight, until `until`.
    Retiring {
        from: Time,
        until: Time,
        kill_at: Time,
    },
    /// Was asked to finish what it has and to end by itself; it gets the stop signal at `until`.
    Parting {
        until: Time,
        kill_at: Time,
    },
    /// Ends; `signalled`: by our stop signal (a worker may announce it by itself).
    Stopping {
        kill_at: Time,
        signalled: bool,
    },
    /// SIGKILL was sent `tries` times.
    Killed {
        retry_at: Time,
        tries: u32,
    },
}

/// What makes a worker ready; decided when it is forked, by what its program has shown until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// One second of running; `or_notify`: or `READY=1`.
    Running { or_notify: bool },
    /// To listen or to notify, whatever comes first: the program has not shown yet what it does. Too late: it counts as ready.
    Anything,
    /// Too late: it is killed.
    Listening,
    /// Too late: it is killed.
    Notifying,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) at: Time,
    /// What becomes of the slot when the tree is gone.
    pub(super) verdict: Verdict,
}

/// The watchdog of `sd_notify`: `due` moves on with every `WATCHDOG=1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watchdog {
    pub(super) interval: Duration,
    /// `None` before the first sign of life.
    pub(super) due: Option<Time>,
}

impl Worker {
    pub(super) fn new(life: Life, slot: Slot, generation: u32, now: Time, hang_timeout: Option<Duration>) -> Self {
        Self {
            life,
            slot,
            generation,
            pid: None,
            forked: now,
            phase: Phase::Forking,
            stopping_since: None,
            ended: None,
            purpose: None,
            exec_failure: None,
            has_notified: false,
            has_listened: false,
            presumed: false,
            joined: None,
            ready_since: None,
            old_at: None,
            watchdog: None,
            parts: false,
            unanswered_since: None,
            waiting_since: None,
            cap: None,
            meter: Meter::default(),
            again: None,
            hang_timeout,
        }
    }

    /// The next instant at which this worker wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Forking => None,
            Phase::Starting { at, .. } => at,
            Phase::Ready => {
                let hangs_at = earliest(self.watchdog.and_then(|watchdog| watchdog.due), self.hangs_at());
                earliest(self.old_or_again(), hangs_at)
            }
            Phase::Hung { .. } => self.old_or_again(),
            Phase::Retiring { until, .. } | Phase::Parting { until, .. } => Some(until),
            Phase::Stopping { kill_at, .. } => Some(kill_at),
            Phase::Killed { retry_at, .. } => Some(retry_at),
        }
    }

    fn old_or_again(&self) -> Option<Time> {
        earliest(self.old_at, self.again.map(|(at, _)| at))
    }

    /// While the cluster stops, one that looks for its quiet instant serves as before.
    pub(super) fn is_ready(&self) -> bool {
        match self.phase {
            Phase::Ready => true,
            Phase::Retiring { .. } => self.joined.is_some(),
            Phase::Forking
            | Phase::Starting { .. }
            | Phase::Hung { .. }
            | Phase::Parting { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => false,
        }
    }

    /// It has the stop signal, or ends by itself.
    pub(super) fn begin_stopping(&mut self, now: Time, kill_at: Time, signalled: bool) {
        self.stopping_since.get_or_insert(now);
        self.phase = Phase::Stopping { kill_at, signalled };
    }

    /// Ready, and it has shown it as far as that is asked of it: what `/readyz` counts.
    pub(super) fn is_surely_ready(&self) -> bool {
        self.is_ready() && !self.presumed
    }

    /// Lives and is not on its way out.
    pub(super) fn is_serving_or_starting(&self) -> bool {
        matches!(self.phase, Phase::Forking | Phase::Starting { .. } | Phase::Ready | Phase::Hung { .. })
    }

    /// SIGKILL was sent again and again, and something of it is still there: nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.phase, Phase::Killed { tries, .. } if tries > KILL_TRIES)
    }

    pub(super) fn row_state(&self) -> RowState {
        match self.phase {
            Phase::Forking | Phase::Starting { .. } => RowState::Starting,
            Phase::Ready => RowState::Ready,
            Phase::Retiring { .. } if self.joined.is_some() => RowState::Ready,
            Phase::Retiring { .. } | Phase::Parting { .. } => RowState::Disconnecting,
            Phase::Hung { .. } => RowState::Hung,
            Phase::Stopping { .. } => RowState::Stopping,
            Phase::Killed { .. } => RowState::Killed,
        }
    }

    /// The pid for a log line; a worker that never forked has none and gets no lines.
    pub(super) fn pid_for_log(&self) -> Pid {
        self.pid.unwrap_or(Pid(0))
    }
}

pub(super) fn earliest(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
