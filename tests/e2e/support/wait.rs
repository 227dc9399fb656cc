//! Waiting for conditions. This is the only place of the tests that naps.

use std::time::{Duration, Instant};

/// How long a test waits for something that has to happen: far longer than it ever takes, for machines that are busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

const NAP: Duration = Duration::from_millis(5);

/// Returns when `condition` holds; panics, naming `what`, when it still does not after `deadline`.
pub(crate) fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    assert!(holds_within(deadline, &mut condition), "not within {deadline:?}: {what}");
}

#[expect(clippy::disallowed_methods, reason = "a test has a clock of its own, and naps here and nowhere else")]
pub(crate) fn holds_within(deadline: Duration, condition: &mut dyn FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > deadline {
            return false;
        }
        std::thread::sleep(NAP);
    }
}

/// Time since something, for the few bounds that the contract states.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a test has a clock of its own")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Waits until this much has passed since the start, where the contract gives time a meaning (two requests 500 ms apart).
    pub(crate) fn reaches(&self, time: Duration) {
        wait_until(time + DEADLINE, "the clock", || self.elapsed() >= time);
    }
}
