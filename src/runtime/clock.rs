//! The one place that reads a clock.
//!
//! Everything else is handed a [`Time`], counted from the start of clusterinit, so that the core and its tests own their time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::cluster::words::Time;

/// The monotonic clock since [`Clock::start`]; copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    /// As the wall clock had it then.
    wall: SystemTime,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the clock itself")]
    pub fn start() -> Self {
        Self { started: Instant::now(), wall: SystemTime::now() }
    }

    pub fn now(&self) -> Time {
        Time(self.started.elapsed())
    }

    /// Seconds since 1970 (UTC), by the wall clock at the start: steps of it later do not move what has happened.
    pub fn unix_seconds(&self, at: Time) -> f64 {
        self.wall.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(at.0).as_secs_f64()
    }
}

/// What this thread has had of a CPU so far: time in which the machine was busy with others does not count (`man 2 clock_gettime`).
pub fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
