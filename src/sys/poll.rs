//! One epoll set for the many small descriptors that belong to workers: tokio watches the set, not each of them.
#![expect(unsafe_code, reason = "AsyncFd::register_with_interest wants a promise about the descriptor")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is closed leaves the set by itself.
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

    pub fn watch(&self, descriptor: &OwnedFd, token: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        Ok(self.set.get_ref().0.add(descriptor.as_fd(), event)?)
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
