//! One worker's life.
//!
//! ```text
//! Forking -> Starting -> Ready <-> Hung
//!    |          |          |         |
//!    |          +----------+---------+--> Stopping --> Killed
//!    v                                        |          |
//!  (refused)                     leader gone, tree gone: removed
//! ```
//!
//! A worker stays in the roster until nothing of its tree is left, also after its leader was reaped.

use std::time::Duration;

use super::restart::Verdict;
use super::status::{Reason, RowState};
use super::words::{ExitStatus, Life, Pid, Slot, Time};

/// SIGKILL is repeated this often (a tree that forks may outrun one pass), then we go on without the tree.
pub(super) const KILL_TRIES: u32 = 6;

#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) life: Life,
    pub(super) slot: Slot,
    pub(super) generation: u32,
    /// `Some` from `Forked` on.
    pub(super) pid: Option<Pid>,
    pub(super) forked: Time,
    pub(super) phase: Phase,
    /// `Some` once the leader was reaped.
    pub(super) ended: Option<Ended>,
    /// Why we end it; `None` while it is to live, and for a worker that ends by itself.
    pub(super) purpose: Option<Reason>,
    pub(super) exec_failure: Option<String>,
    /// It has said `READY=1` or `RELOADING=1` before: how long its start took is known.
    pub(super) has_notified: bool,
    /// The first instant at which it was ready.
    pub(super) ready_since: Option<Time>,
    /// When it will be older than `MAX_LIFETIME`.
    pub(super) old_at: Option<Time>,
    pub(super) watchdog: Option<Watchdog>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The fork was asked for and is not answered yet.
    Forking,
    /// Runs and is not ready. `timeout_at`: too late to notify, where that is asked of it; else `ready_at`: has run long enough,
    /// once its program runs.
    Starting {
        ready_at: Option<Time>,
        timeout_at: Option<Time>,
    },
    Ready,
    /// Missed its watchdog.
    Hung,
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
    pub(super) fn new(life: Life, slot: Slot, generation: u32, now: Time) -> Self {
        Self {
            life,
            slot,
            generation,
            pid: None,
            forked: now,
            phase: Phase::Forking,
            ended: None,
            purpose: None,
            exec_failure: None,
            has_notified: false,
            ready_since: None,
            old_at: None,
            watchdog: None,
        }
    }

    /// The next instant at which this worker wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Forking => None,
            Phase::Starting { ready_at, timeout_at } => earliest(ready_at, timeout_at),
            Phase::Ready => earliest(self.old_at, self.watchdog.and_then(|watchdog| watchdog.due)),
            Phase::Hung => self.old_at,
            Phase::Stopping { kill_at, .. } => Some(kill_at),
            Phase::Killed { retry_at, .. } => Some(retry_at),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready && self.ended.is_none()
    }

    /// Lives and is not on its way out.
    pub(super) fn is_serving_or_starting(&self) -> bool {
        self.ended.is_none() && matches!(self.phase, Phase::Forking | Phase::Starting { .. } | Phase::Ready | Phase::Hung)
    }

    /// SIGKILL was sent again and again, and something of it is still there: nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.phase, Phase::Killed { tries, .. } if tries > KILL_TRIES)
    }

    pub(super) fn row_state(&self) -> RowState {
        match self.phase {
            Phase::Forking | Phase::Starting { .. } => RowState::Starting,
            Phase::Ready if self.ended.is_some() => RowState::Stopping,
            Phase::Ready => RowState::Ready,
            Phase::Hung => RowState::Hung,
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
