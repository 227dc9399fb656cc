//! Which lanes were shut down behind our back: a worker may do that to its copy, and it does it to ours.
//!
//! An epoll instance of its own that nobody waits for. It is asked before and after each `listen`, and answers in the order in which
//! it happened: that is what keeps the indices in the kernel's group known. One call, however many lanes there are.

use std::os::fd::OwnedFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::LaneId;

/// Without a descriptor for it, it sees nothing: then the loop's own watch on each lane has to do (`Sockets::was_shut`).
pub(super) struct Watch(Option<Epoll>);

impl Watch {
    pub(super) fn new() -> Self {
        Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok())
    }

    /// `listener` has just begun to listen. Edge-triggered, and not for connections: what is asked for is said once, and clients
    /// cost nothing.
    pub(super) fn add(&self, lane: LaneId, listener: &OwnedFd) {
        let event = EpollEvent::new(EpollFlags::EPOLLHUP | EpollFlags::EPOLLET, lane.0);
        // Refused because it is there already, or for want of memory: see above.
        let _ = self.0.as_ref().map(|epoll| epoll.add(listener, event));
    }

    /// Workers may keep the socket open after us, so closing alone would not take it out.
    pub(super) fn remove(&self, listener: &OwnedFd) {
        let _ = self.0.as_ref().map(|epoll| epoll.delete(listener));
    }

    /// Lanes that may have been shut down since the last call, the first one first.
    pub(super) fn shut(&self) -> Vec<LaneId> {
        let mut found = Vec::new();
        let Some(epoll) = &self.0 else { return found };
        let mut events = [EpollEvent::empty(); 64];
        // As often as there can be something: a lane is told once, and each has one event at most.
        while let Ok(count) = epoll.wait(&mut events, EpollTimeout::ZERO) {
            found.extend(events.iter().take(count).map(|event| LaneId(event.data())));
            if count < events.len() {
                break;
            }
        }
        found
    }
}
