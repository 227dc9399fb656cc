//! The one place that reads a clock.
//!
//! Everything else is handed a [`Time`], counted from the start of clusterinit, so that the core and its tests own their time.

use std::time::Instant;

use crate::cluster::words::Time;

/// The monotonic clock since [`Clock::start`]; copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the clock itself")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub fn now(&self) -> Time {
        Time(self.started.elapsed())
    }
}
