//! The closed door of an address: a listener to which new connections are sent when nobody is to take them any more, and which hears
//! none of them. Handshakes that have begun end where they began, in the queue of a worker that is still there.
//!
//! Without it a worker could only be stopped between two handshakes: the client of one that ends a moment later has its connection,
//! and nobody accepts it. Who comes while the door is closed asks again after a second (his kernel does: the first retransmission of a
//! SYN), and is refused then.
//!
//! It is deaf by `IP_MINTTL` (`man 7 ip`) and `IPV6_MINHOPCOUNT`: what does not arrive with all of 255 hops left is dropped, and systems
//! begin with 64 or 128. That needs no privilege, as a filter does.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};

use super::super::address::Address;
use super::anchor;

const ALL_HOPS: usize = 255;

sockopt_impl!(LeastTtl, SetOnly, libc::IPPROTO_IP, libc::IP_MINTTL, usize);
sockopt_impl!(LeastHops, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, usize);

/// Next to the lanes of this address, listening. An error: this kernel has no such thing (gVisor), or there is no room for it.
pub(super) fn close(address: &Address) -> io::Result<OwnedFd> {
    let door = anchor::sibling(address)?;
    if address.ip.is_ipv6() {
        setsockopt(&door, LeastHops, &ALL_HOPS)?;
    }
    // IPv4 comes to a dual-stack socket too.
    if !(address.ip.is_ipv6() && address.v6only) {
        setsockopt(&door, LeastTtl, &ALL_HOPS)?;
    }
    anchor::listen(&door, 1)?;
    Ok(door)
}
