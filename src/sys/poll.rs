//! One epoll set for the many small descriptors that belong to workers: tokio watches the set, not each of them.
#![expect(unsafe_code, reason = "AsyncFd::register_with_interest wants a promise about the descriptor")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is closed leaves the set by itself only when nobody has a copy of it, and a forked child has one until it
/// executes: so what is closed is [forgotten](Poller::forget) first.
pub struct Poller {
    set: AsyncFd<Inner>,
}

struct Inner(Epoll);

impl AsRawFd for Inner {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Poller {
    /// Needs the tokio runtime.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // SAFETY: `Inner` owns the descriptor, always answers with the same one, and closes it only when the `AsyncFd` is dropped.
        let set = unsafe { AsyncFd::register_with_interest(Inner(epoll), Interest::READABLE) }?;
        Ok(Self { set })
    }

    pub fn watch(&self, descriptor: impl AsFd, token: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        Ok(self.set.get_ref().0.add(descriptor.as_fd(), event)?)
    }

    /// Tells of it once, then not before [`Poller::watch_again`].
    pub fn watch_once(&self, descriptor: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, token);
        Ok(self.set.get_ref().0.add(descriptor, event)?)
    }

    pub fn watch_again(&self, descriptor: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, token);
        Ok(self.set.get_ref().0.modify(descriptor, &mut event)?)
    }

    /// For these from now on; for neither only its end is told.
    pub fn watch_for(&self, descriptor: &OwnedFd, token: u64, reads: bool, writes: bool) -> io::Result<()> {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, reads);
        flags.set(EpollFlags::EPOLLOUT, writes);
        let mut event = EpollEvent::new(flags, token);
        Ok(self.set.get_ref().0.modify(descriptor.as_fd(), &mut event)?)
    }

    /// Tells when it takes bytes again, until it is [forgotten](Poller::forget).
    pub fn watch_room(&self, descriptor: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, token);
        Ok(self.set.get_ref().0.add(descriptor, event)?)
    }

    pub fn forget(&self, descriptor: impl AsFd) {
        // One that was never watched is not there to be taken out.
        let _ = self.set.get_ref().0.delete(descriptor.as_fd());
    }

    pub async fn readable(&self) {
        // An error can only mean that the runtime is going down with us.
        if let Ok(mut guard) = self.set.readable().await {
            guard.clear_ready();
        }
    }

    /// Some tokens that are readable now; ask again until there are none. Level-triggered: what is not read comes back.
    pub fn ready(&self) -> Vec<u64> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.set.get_ref().0.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        events.iter().take(count).map(EpollEvent::data).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_forgotten_is_silent_although_a_child_has_a_copy() {
        let poller = Poller::new().expect("an epoll set");
        let (end, other) = nix::unistd::pipe().expect("a pipe");
        poller.watch(&end, 7).expect("watched");
        let copy = end.try_clone().expect("what a forked child has");
        drop(other);
        assert_eq!(poller.ready(), [7], "end of file");
        poller.forget(&end);
        drop(end);
        assert_eq!(poller.ready(), [0; 0]);
        drop(copy);
    }
}
