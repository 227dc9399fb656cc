//! The restart rule: what becomes of a slot whose worker ended by itself, and how long it waits.

use std::time::Duration;

use super::policy::{Backoff, Policy, ReadyMode, Restart};
use super::words::{ExitStatus, Time};

/// A start that ends before the worker has been ready this long has failed.
pub(super) const PROVEN: Duration = Duration::from_secs(1);

/// In `running` mode a worker is ready when it has run this long.
pub(super) const RUNNING: Duration = Duration::from_secs(1);

/// So many failing starts in a row of every slot, and no worker ever ready: the cluster gives up.
pub(super) const GIVE_UP_AFTER: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It had proved itself: at once.
    ReplaceNow,
    /// A recycle (exit 0 where the mode is explicit): at once, but no sooner than this, so that a command that ends in no time
    /// does not spin.
    Recycle { not_before: Time },
    /// A failing start: after the backoff.
    Retry,
    /// Not replaced.
    Done,
}

/// What is known of a worker that ended by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) status: ExitStatus,
    pub(super) forked: Time,
    pub(super) at: Time,
    pub(super) ready_since: Option<Time>,
    /// Some worker of this program has listened or said `READY=1` at some time.
    pub(super) program_shown: bool,
    /// We had to end it: hung, or not ready in time.
    pub(super) failed_by_us: bool,
}

pub(super) fn verdict(policy: &Policy, end: Ending) -> Verdict {
    let clean = end.status == ExitStatus::Code(0) && !end.failed_by_us;
    // A program that serves would have listened or notified; where listening cannot be seen, it would have run for a while.
    let shown = end.program_shown || (!policy.sees_listening && end.ready_since.is_some());
    let was_job = clean && policy.ready == ReadyMode::Auto && !shown;
    let explicit_mode = match policy.ready {
        ReadyMode::Running | ReadyMode::Notify => true,
        ReadyMode::Listen => !policy.sees_listening,
        ReadyMode::Auto => false,
    };
    match policy.restart {
        Restart::Never => return Verdict::Done,
        Restart::OnFailure if clean => return Verdict::Done,
        Restart::Auto if was_job => return Verdict::Done,
        Restart::Auto | Restart::Always | Restart::OnFailure => {}
    }
    if end.ready_since.is_some_and(|since| end.at.since(since) >= PROVEN) {
        Verdict::ReplaceNow
    } else if clean && explicit_mode {
        Verdict::Recycle { not_before: end.forked + policy.backoff.first }
    } else {
        Verdict::Retry
    }
}

/// The delay after the `failures`-th failing start in a row: doubles from the first to the longest, with up to 20 % of jitter that
/// stays within both bounds.
pub(super) fn delay(backoff: Backoff, failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    let base = backoff.first.saturating_mul(1 << doublings).min(backoff.longest);
    let later = base.mul_f64(1.0 + 0.2 * jitter);
    if later <= backoff.longest { later } else { base.mul_f64(1.0 - 0.2 * jitter).max(backoff.first) }
}

/// `SplitMix64`: enough for jitter, and the same history gives the same delays.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly in `0.0..1.0`.
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let top = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }
}
