//! One timer for the loop, as a descriptor: it wakes once, and to the microsecond (`man 2 timerfd_create`). tokio's own also wakes at
//! the bounds of its wheel, so that half a second of sleep is two wake-ups.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::cluster::words::Time;

#[derive(Debug)]
pub struct Timer {
    descriptor: TimerFd,
    set_for: Cell<Option<Time>>,
}

impl Timer {
    pub fn new() -> io::Result<Self> {
        let descriptor = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Self { descriptor, set_for: Cell::new(None) })
    }

    /// Readable at this instant, `wait` from now, and at no other.
    pub fn set(&self, at: Time, wait: Duration) {
        if self.set_for.replace(Some(at)) != Some(at) {
            // Zero would mean never. These are numbers that the kernel takes: nothing can fail.
            let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
            let _ = self.descriptor.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty());
        }
    }

    /// What is readable is taken back.
    pub fn clear(&self) {
        self.set_for.set(None);
        while nix::unistd::read(self.descriptor.as_fd(), &mut [0; 8]) == Err(Errno::EINTR) {}
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_readable_within(timer: &Timer, ms: u16) -> bool {
        poll(&mut [PollFd::new(timer.descriptor(), PollFlags::POLLIN)], PollTimeout::from(ms)) == Ok(1)
    }

    #[test]
    fn it_is_readable_once_for_each_instant() {
        let timer = Timer::new().expect("a timer");
        for instant in 1..3 {
            assert!(!is_readable_within(&timer, 0));
            timer.set(Time(Duration::from_secs(instant)), Duration::ZERO);
            assert!(is_readable_within(&timer, 10_000));
            timer.clear();
        }
        timer.set(Time(Duration::from_secs(9)), Duration::from_secs(600));
        assert!(!is_readable_within(&timer, 0));
    }
}
