//! How full an accept queue is: `TCP_INFO` of a listening socket (`man 7 tcp`).
#![expect(unsafe_code, reason = "getsockopt: the safe wrappers ask for all of tcp_info and panic where a kernel has less of it")]

use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Queue;

/// The first 32 bytes of `struct tcp_info`, which have not changed since Linux 2.4.
#[repr(C)]
#[derive(Default)]
struct Head {
    state: u8,
    others: [u8; 7],
    timeouts_and_sizes: [u32; 4],
    unacked: u32,
    sacked: u32,
}

const WHOLE: libc::socklen_t = 32;
const _: () = assert!(size_of::<Head>() == 32);

/// `TCP_LISTEN` of `net/tcp_states.h`.
const LISTENS: u8 = 10;

pub(super) fn of(listener: &OwnedFd) -> Option<Queue> {
    let mut head = Head::default();
    let mut length = WHOLE;
    let to = (&raw mut head).cast();
    // SAFETY: `to` points to `length` bytes that are ours for as long as the call lasts, and any bytes make a `Head`.
    let answer = unsafe { libc::getsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length) };
    let listens = head.state == LISTENS;
    // Of a socket that does not listen the two fields say something else.
    let only = |value| if listens { value } else { 0 };
    (answer == 0 && length == WHOLE).then(|| Queue { waiting: only(head.unacked), limit: only(head.sacked), listens })
}
