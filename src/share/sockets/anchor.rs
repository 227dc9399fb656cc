//! Sockets as this room needs them: the anchor that holds an address, its siblings, and what is put on them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::super::address::Address;
use super::super::balance::{Instruction, Program};

/// Takes an address: bound, never listening. Siblings of our own uid may join, nobody else can have it.
///
/// It is bound *without* `SO_REUSEPORT`, so it is refused where anybody else has the address, and others without that option are
/// refused from now on, listening or not. The option is set afterwards, for the siblings. What remains is the kernel's rule: a
/// socket of the same uid that sets `SO_REUSEPORT` itself may join *after* us (`man 7 socket`); it cannot have been there before.
pub(super) fn take(address: &Address) -> io::Result<OwnedFd> {
    let anchor = open(address)?;
    let name = SockAddr::from(address.to_socket_addr());
    match anchor.bind(&name) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => take_from_leftovers(&anchor, &name)?,
        outcome => outcome?,
    }
    anchor.set_reuse_port(true)?;
    Ok(anchor.into())
}

/// What is in the way may be connections in `TIME_WAIT` (or still closing) that an earlier listener left, as every restart of a
/// server meets them: `SO_REUSEADDR` is for those. But it also looks away from sockets that are bound and do not listen, as another
/// anchor is. So do here what a server does: *listen*; that fails where somebody listens, and is seen by whoever tries the same. The
/// option is taken back while it lasts, so there is no instant for two. It lasts microseconds; a client that comes in them is reset
/// instead of refused.
fn take_from_leftovers(anchor: &Socket, name: &SockAddr) -> io::Result<()> {
    anchor.set_reuse_address(true)?;
    anchor.bind(name)?;
    anchor.listen(0)?;
    anchor.set_reuse_address(false)?;
    anchor.shutdown(std::net::Shutdown::Both)
}

/// A socket of our uid next to the anchor, not listening.
pub(super) fn sibling(address: &Address) -> io::Result<OwnedFd> {
    let socket = open(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address.to_socket_addr()))?;
    Ok(socket.into())
}

fn open(address: &Address) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address.to_socket_addr()), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip.is_ipv6() {
        // Said either way: net.ipv6.bindv6only is only what a new socket starts with.
        socket.set_only_v6(address.v6only)?;
    }
    Ok(socket)
}

/// The address that a socket really has: port 0 was the kernel's to pick.
pub(super) fn bound_to(socket: &OwnedFd, v6only: bool) -> io::Result<Address> {
    let name = SockRef::from(socket).local_addr()?.as_socket();
    name.map(|name| Address::new(name, v6only)).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Replaces the program of the group that `member` listens in. It needs no privilege, but a member that *listens*: put on a socket
/// that does not, it would make a group of its own, and that socket's `listen` would fail.
pub(super) fn choose_by(program: &Program, member: &OwnedFd) -> io::Result<()> {
    let mut code: Vec<libc::sock_filter> = program.0.iter().copied().map(raw).collect();
    let len = u16::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    setsockopt(member, sockopt::AttachReusePortCbpf, &libc::sock_fprog { len, filter: code.as_mut_ptr() })?;
    Ok(())
}

/// From now on no handshake begins or ends here while anybody waits to be accepted, and one of them at most when nobody does.
///
/// A filter that drops SYNs (`SO_ATTACH_FILTER`) would say it better, but Linux 6.18.44 wants `CAP_NET_ADMIN` for one on TCP.
pub(super) fn take_no_more(listener: &OwnedFd) -> io::Result<()> {
    listen(listener, 0)
}

/// `listen` with whatever backlog the worker asked for.
pub(super) fn listen(socket: &impl AsFd, backlog: i32) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).listen(backlog)
}

pub(super) fn shut(listener: &OwnedFd) -> io::Result<()> {
    SockRef::from(listener).shutdown(std::net::Shutdown::Both)
}

fn raw(one: Instruction) -> libc::sock_filter {
    libc::sock_filter { code: one.code, jt: one.if_true, jf: one.if_false, k: one.k }
}
