//! A worker that asks us for its listeners, by a protocol of its own, gets the same lanes as one whose calls are stopped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Broker, Cause, Listening, MOST_ADDRESSES, News, Outcome, errno_of, set_nonblocking};
use crate::cluster::words::{Life, Pid, Slot};
use crate::share::address::Address;
use crate::share::caller;
use crate::share::decide::{self, Port};
use crate::share::marks::Place;

/// A listener for a worker.
#[derive(Debug)]
pub struct Given {
    /// A copy, which may go to the worker.
    pub socket: OwnedFd,
    /// Where it is; `None`: it is the worker's alone, and we keep nothing of it.
    pub lane: Option<Address>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub life: Life,
    pub slot: Slot,
    /// The leader: whether it may bind privileged ports.
    pub pid: Pid,
}

impl Broker {
    /// A listener at this address, by the rules for its port; it does not listen where it is the worker's alone. The error is the one
    /// that the worker's own `bind` or `listen` would get (`man 2 bind`).
    pub fn give(&mut self, who: Asker, address: Address, backlog: i32) -> Result<(Given, Vec<News>), (Errno, Vec<News>)> {
        let mut news = Vec::new();
        match self.lane_for(who, address, backlog, &mut news) {
            Ok(given) => Ok((given, news)),
            Err(errno) => Err((errno, news)),
        }
    }

    fn lane_for(&mut self, who: Asker, mut address: Address, backlog: i32, news: &mut Vec<News>) -> Result<Given, Errno> {
        let Asker { life, slot, pid } = who;
        let is_shared = match decide::port(address.port, slot, &self.rules) {
            Port::Shared => true,
            Port::Own(port) => {
                address.port = port;
                true
            }
            Port::Left => false,
            Port::Overflow => {
                let port = address.port;
                let text = || format!("port {port} plus the worker's number {} is no port, so listen fails", slot.0);
                self.remark(life, Cause::Overflow(port), news, text);
                return Err(Errno::EADDRNOTAVAIL);
            }
        };
        if address.port != 0 && address.port < self.unprivileged_from && !caller::may_bind_privileged(pid) {
            return Err(Errno::EACCES);
        }
        if !is_shared {
            return own(&address).map(|socket| Given { socket, lane: None }).map_err(|error| errno_of(&error));
        }
        if address.port == 0 {
            address = self.sockets.open(&address).map_err(|error| errno_of(&error))?;
        }
        let known = self.known(life);
        if !known.addresses.contains_key(&address) && known.addresses.len() >= MOST_ADDRESSES {
            return Err(Errno::ENOBUFS);
        }
        let lane = self.sockets.listen(&address, life, slot, backlog).and_then(|lane| {
            set_nonblocking(lane.socket, true)?;
            Ok((lane.socket.try_clone_to_owned()?, lane.inode))
        });
        let (socket, inode) = match lane {
            Ok(lane) => lane,
            Err(error) => {
                return Err(match self.not_reserved(life, &address, &error, news) {
                    Outcome::Refused(errno) => errno,
                    Outcome::GoOn | Outcome::Done => errno_of(&error),
                });
            }
        };
        let known = self.known(life);
        known.marks.change(inode, |mark| mark.place = Place::Lane(address));
        known.addresses.insert(address, None::<Listening>);
        Ok(Given { socket, lane: Some(address) })
    }

    /// The worker has closed it.
    pub fn closed(&mut self, life: Life, address: &Address) {
        self.sockets.close(address, life);
        self.known(life).addresses.remove(address);
    }

    /// Takes an address for a listener of ours that all workers are served from.
    pub fn take(&mut self, who: Asker, address: &Address) -> Result<OwnedFd, (Errno, Vec<News>)> {
        let mut news = Vec::new();
        if address.port != 0 && address.port < self.unprivileged_from && !caller::may_bind_privileged(who.pid) {
            return Err((Errno::EACCES, news));
        }
        own(address).map_err(|error| {
            let errno = match self.not_reserved(who.life, address, &error, &mut news) {
                Outcome::Refused(errno) => errno,
                Outcome::GoOn | Outcome::Done => errno_of(&error),
            };
            (errno, news)
        })
    }
}

/// As the worker itself would have it: whoever comes second gets EADDRINUSE.
fn own(address: &Address) -> io::Result<OwnedFd> {
    let at = address.to_socket_addr();
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip.is_ipv6() {
        socket.set_only_v6(address.v6only)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(at))?;
    let socket = OwnedFd::from(socket);
    set_nonblocking(socket.as_fd(), true)?;
    Ok(socket)
}
