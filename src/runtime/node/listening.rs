//! Workers that ask what to listen on: lanes from the broker, sockets for all, or our own listener and its connections in turn.

use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use nix::errno::Errno;
use tracing::{info, warn};

use crate::cluster::event::Event;
use crate::cluster::status::ChannelState;
use crate::cluster::words::{Life, Pid};
use crate::node::message::{self, Native, Query, Reply};
use crate::node::servers::{self, At, BACKLOG, Kind, Place, Servers};
use crate::share::address::Address;
use crate::share::broker::{Asker, News, errno_of};
use crate::sys::identity;

use super::super::Runtime;
use super::super::token::Token;
use super::unique_id;

/// Connections that are accepted before everybody else gets a turn.
const ACCEPTS_PER_TURN: usize = 64;

/// `man 3 sd_listen_fds`.
const LISTEN_FDS_START: RawFd = 3;

/// How a query is answered.
enum Answer {
    Hand(Native, Rc<OwnedFd>),
    Turns(Option<std::net::SocketAddr>),
}

impl Runtime {
    pub(super) fn answer_query(&mut self, life: Life, ack: i64, query: Query) {
        // Whoever was told to disconnect opens nothing any more.
        if self.nodes.peers.get(&life).is_none_or(|peer| peer.asked_to_disconnect) {
            return;
        }
        let mut key = Servers::key(&query);
        let answer = self.find(life, &mut key, &query);
        let seq = self.nodes.next_seq();
        let data = match (&answer, self.nodes.servers.get_mut(&key)) {
            (Ok(_), Some(server)) => {
                server.holders.insert(life);
                if server.data.is_none() {
                    server.data = query.data;
                }
                server.data.clone()
            }
            _ => None,
        };
        let reply = Reply { ack, seq, key: &key, data: data.as_deref() };
        let Some(peer) = self.nodes.peers.get_mut(&life) else { return };
        match answer {
            Ok(Answer::Hand(native, socket)) => peer.channel.hand(reply.shared(native), socket),
            Ok(Answer::Turns(sockname)) => peer.channel.owe(reply.rotated(sockname)),
            Err(errno) => peer.channel.owe(reply.refused(-(errno as i32))),
        }
        self.rotate(life);
        self.sharing.shown = None;
    }

    fn find(&mut self, life: Life, key: &mut String, query: &Query) -> Result<Answer, Errno> {
        if let Some(number) = query.fd.filter(|number| *number >= 0) {
            return self.announced(life, number);
        }
        let place = Place::of(query).ok_or(Errno::EINVAL)?;
        // One that was closed is not held any more; this one is.
        if self.nodes.servers.get(key).is_some_and(|server| server.holders.contains(&life)) {
            return Err(Errno::EADDRINUSE);
        }
        let backlog = query.backlog.filter(|backlog| *backlog > 0).unwrap_or(BACKLOG);
        let rotates = self.nodes.terms.is_some_and(|terms| terms.rotates);
        match place {
            Place::Tcp(address) if rotates => self.turns(life, key, address, backlog),
            Place::Tcp(address) => self.lane(life, key, address, backlog),
            Place::Path(path) => {
                if let Some(server) = self.nodes.servers.get(key) {
                    return known(&server.kind);
                }
                let socket = self.as_worker(life, || servers::stream(&path))?;
                if rotates {
                    let kind = servers::listen(socket, At::Path(path), backlog).map_err(|error| errno_of(&error))?;
                    return self.start_turns(key, kind);
                }
                let socket = Rc::new(socket);
                self.nodes.servers.insert(key.clone(), Kind::Stream { socket: Rc::clone(&socket), path })?;
                Ok(Answer::Hand(Native::Stream, socket))
            }
            Place::Udp(address, flags) => {
                if let Some(server) = self.nodes.servers.get(key) {
                    return known(&server.kind);
                }
                let socket = Rc::new(self.as_worker(life, || servers::datagram(&address, flags))?);
                self.nodes.servers.insert(key.clone(), Kind::Datagram(Rc::clone(&socket)))?;
                Ok(Answer::Hand(Native::Datagram, socket))
            }
        }
    }

    /// `listen({fd})`: one that `LISTEN` hands to this worker. (Others of the worker's own it would have to open by itself.)
    fn announced(&mut self, life: Life, number: RawFd) -> Result<Answer, Errno> {
        let slot = self.asker(life)?.slot;
        let index = usize::try_from(number - LISTEN_FDS_START).map_err(|_| Errno::EBADF)?;
        let handed = self.sharing.hand_out(life, slot).map_err(|error| errno_of(&error))?;
        let socket = handed.get(index).and_then(|handed| self.sharing.descriptor(*handed)).ok_or(Errno::EBADF)?;
        let copy = socket.try_clone_to_owned().map_err(|error| errno_of(&error))?;
        Ok(Answer::Hand(Native::Stream, Rc::new(copy)))
    }

    fn lane(&mut self, life: Life, key: &mut String, wanted: Address, backlog: i32) -> Result<Answer, Errno> {
        let who = self.asker(life)?;
        // Port 0 was the kernel's to pick, once.
        let known = self.nodes.servers.get(key).map(|server| &server.kind);
        let address = if let Some(Kind::Lanes(address)) = known { *address } else { wanted };
        let given = match self.sharing.broker.give(who, address, backlog) {
            // Without IPv6 any address is any of IPv4's.
            Err((Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL, _)) if is_any_v6(&address) => {
                let any = Address { ip: std::net::Ipv4Addr::UNSPECIFIED.into(), v6only: false, ..address };
                self.sharing.broker.give(who, any, backlog)
            }
            outcome => outcome,
        };
        let (given, news) = match given {
            Ok(given) => given,
            Err((errno, news)) => {
                self.hear_all(life, news);
                return Err(errno);
            }
        };
        self.hear_all(life, news);
        match given.lane {
            Some(real) => {
                // With PORT_PER_WORKER each slot's is another.
                if real.port != address.port && address.port != 0 {
                    *key = format!("{key}+{}", who.slot.0);
                }
                self.nodes.servers.insert(key.clone(), Kind::Lanes(real))?;
                if let Some(lane) = self.sharing.broker.sockets.lane_of(&real, life).map(|lane| lane.id) {
                    self.watch_lane(lane);
                }
                self.sharing.lives.insert(life);
            }
            // The worker's alone.
            None => *key = format!("{key}@{}", unique_id(life)),
        }
        Ok(Answer::Hand(Native::Stream, Rc::new(given.socket)))
    }

    fn turns(&mut self, life: Life, key: &str, address: Address, backlog: i32) -> Result<Answer, Errno> {
        if let Some(server) = self.nodes.servers.get(key) {
            return known(&server.kind);
        }
        let who = self.asker(life)?;
        let taken = match self.sharing.broker.take(who, &address) {
            Err((Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL, _)) if is_any_v6(&address) => {
                let any = Address { ip: std::net::Ipv4Addr::UNSPECIFIED.into(), v6only: false, ..address };
                self.sharing.broker.take(who, &any)
            }
            outcome => outcome,
        };
        let socket = taken.map_err(|(errno, news)| {
            self.hear_all(life, news);
            errno
        })?;
        let at = socket2::SockRef::from(&socket).local_addr().ok().and_then(|at| at.as_socket()).ok_or(Errno::EIO)?;
        let kind = servers::listen(socket, At::Address(at), backlog).map_err(|error| errno_of(&error))?;
        self.start_turns(key, kind)
    }

    fn start_turns(&mut self, key: &str, kind: Kind) -> Result<Answer, Errno> {
        let number = self.nodes.rotated.iter().position(Option::is_none).unwrap_or(self.nodes.rotated.len());
        let server = self.nodes.servers.insert(key.to_owned(), kind)?;
        if let Kind::Rotated { listener, .. } = &server.kind {
            // Nobody can take a connection yet.
            let token = Token::Turns(number).number();
            self.poller.watch(listener, token).and_then(|()| self.poller.watch_for(listener, token, false, false)).map_err(
                |error| {
                    warn!(%error, "a listener cannot be watched");
                    errno_of(&error)
                },
            )?;
        }
        let key = Some(key.to_owned());
        match self.nodes.rotated.get_mut(number) {
            Some(free) => *free = key,
            None => self.nodes.rotated.push(key),
        }
        known(&server.kind)
    }

    fn hear_all(&mut self, life: Life, news: Vec<News>) {
        for news in news {
            self.hear(life, news);
        }
    }

    fn asker(&self, life: Life) -> Result<Asker, Errno> {
        let body = self.lives.get(life).ok_or(Errno::ESRCH)?;
        Ok(Asker { life, slot: body.slot, pid: body.pid })
    }

    /// With the worker's rights, where those are other than ours: files and privileged ports are not to be had by asking us.
    fn as_worker<T: Send>(&self, life: Life, task: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T, Errno> {
        let pid = self.asker(life)?.pid;
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let outcome = match worker_ids(pid) {
            Some((uid, gid)) if (uid, gid) != own => identity::as_user(uid, gid, task).and_then(|outcome| outcome),
            _ => task(),
        };
        outcome.map_err(|error| errno_of(&error))
    }

    pub(super) fn node_listens(&mut self, life: Life) {
        let Some(peer) = self.nodes.peers.get_mut(&life) else { return };
        if std::mem::replace(&mut peer.state, ChannelState::Listening) != ChannelState::Listening {
            info!(slot = peer.slot.0, worker_id = unique_id(life), "node: listening");
            self.stale = true;
        }
        self.apply(Event::Listened { life });
    }

    pub(super) fn node_closed(&mut self, life: Life, key: &str) {
        if !self.nodes.servers.close(key, life) {
            return;
        }
        if let Some(Kind::Lanes(address)) = self.nodes.servers.get(key).map(|server| &server.kind) {
            let address = *address;
            self.sharing.broker.closed(life, &address);
        }
        if !self.nodes.peers.get(&life).is_some_and(|peer| peer.is_draining || peer.asked_to_disconnect) {
            self.give_back(key);
        }
        self.rotate(life);
        self.sharing.shown = None;
        self.stale = true;
    }

    /// A program has closed this server in the middle of its life: where no other worker has it, nobody is to come to it any more.
    /// (A port that was asked for by its number is given back as that of any program.)
    fn give_back(&mut self, key: &str) {
        let real = self.nodes.servers.get(key).and_then(|server| match &server.kind {
            Kind::Lanes(address) => Some(*address),
            Kind::Rotated { .. } | Kind::Stream { .. } | Kind::Datagram(_) => None,
        });
        match (real, self.nodes.servers.take_unused(key)) {
            (Some(address), Some(_)) => {
                self.sharing.broker.sockets.let_go(&address);
                self.sharing.release_soon(self.clock.now());
            }
            (None, Some(Kind::Rotated { listener, .. })) => {
                self.poller.forget(&listener);
                for free in &mut self.nodes.rotated {
                    free.take_if(|of| of == key);
                }
            }
            _ => {}
        }
    }

    /// Nothing is left of the worker.
    pub(super) fn release_servers(&mut self, life: Life) {
        for (_, server) in self.nodes.servers.iter_mut() {
            server.holders.remove(&life);
        }
        self.lose_connections(life);
    }

    // === round robin ===

    /// Whether connections are handed to this worker follows from whether it is in rotation and has the server.
    pub(in super::super) fn rotate(&mut self, life: Life) {
        let joined = self.sharing.broker.sockets.is_joined(life);
        let has_channel = self.nodes.peers.get(&life).is_some_and(|peer| !peer.channel.is_closed() && !peer.asked_to_disconnect);
        for (_, server) in self.nodes.servers.iter_mut() {
            if let Kind::Rotated { rotation, .. } = &mut server.kind {
                if joined && has_channel && server.holders.contains(&life) {
                    rotation.join(life);
                } else {
                    rotation.leave(life);
                }
            }
        }
        self.turn_all();
    }

    pub(super) fn connection_answered(&mut self, life: Life, number: i64, accepted: bool) {
        let Ok(number) = u64::try_from(number) else { return };
        for (_, server) in self.nodes.servers.iter_mut() {
            if let Kind::Rotated { rotation, .. } = &mut server.kind
                && rotation.answered(life, number, accepted)
            {
                break;
            }
        }
        self.turn_all();
    }

    /// It will acknowledge nothing any more.
    pub(super) fn lose_connections(&mut self, life: Life) {
        for (_, server) in self.nodes.servers.iter_mut() {
            if let Kind::Rotated { rotation, .. } = &mut server.kind {
                rotation.lost(life);
            }
        }
        self.turn_all();
    }

    fn turn_all(&mut self) {
        for number in 0..self.nodes.rotated.len() {
            self.turn(number);
        }
    }

    /// Hands on what waits, and accepts more as long as somebody can take it.
    pub(in super::super) fn turn(&mut self, number: usize) {
        let Some(key) = self.nodes.rotated.get(number).cloned().flatten() else { return };
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(Kind::Rotated { listener, rotation, .. }) = self.nodes.servers.get_mut(&key).map(|server| &mut server.kind)
            else {
                return;
            };
            if let Some((life, connection)) = rotation.assign() {
                self.nodes.seq += 1;
                let seq = self.nodes.seq;
                rotation.handed(life, seq, Rc::clone(&connection));
                if let Some(peer) = self.nodes.peers.get_mut(&life) {
                    peer.channel.hand(message::new_connection(&key, seq), connection);
                }
                self.tend(life);
                continue;
            }
            if !rotation.has_room() {
                break;
            }
            match servers::accept(listener) {
                Ok(Some(connection)) => rotation.offer(Rc::new(connection)),
                Ok(None) => break,
                Err(error) => {
                    warn!(%error, "connections cannot be accepted");
                    break;
                }
            }
        }
        self.watch_turns(&key, number);
    }

    fn watch_turns(&mut self, key: &str, number: usize) {
        let Some(server) = self.nodes.servers.get_mut(key) else { return };
        if let Kind::Rotated { listener, rotation, watched, .. } = &mut server.kind
            && rotation.has_room() != *watched
        {
            match self.poller.watch_for(listener, Token::Turns(number).number(), rotation.has_room(), false) {
                Ok(()) => *watched = rotation.has_room(),
                Err(error) => warn!(%error, "a listener cannot be watched"),
            }
        }
    }

    /// Nobody will accept any more: late clients are refused at once.
    pub(in super::super) fn refuse_turns(&mut self) {
        for (_, server) in self.nodes.servers.iter_mut() {
            if let Kind::Rotated { listener, rotation, .. } = &mut server.kind
                && rotation.is_empty()
            {
                rotation.give_up();
                // One that is shut already stays so.
                let _ = socket2::SockRef::from(&*listener).shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

fn known(kind: &Kind) -> Result<Answer, Errno> {
    Ok(match kind {
        Kind::Stream { socket, .. } => Answer::Hand(Native::Stream, Rc::clone(socket)),
        Kind::Datagram(socket) => Answer::Hand(Native::Datagram, Rc::clone(socket)),
        Kind::Rotated { at: At::Address(address), .. } => Answer::Turns(Some(*address)),
        Kind::Rotated { at: At::Path(_), .. } => Answer::Turns(None),
        Kind::Lanes(_) => return Err(Errno::EADDRINUSE),
    })
}

fn is_any_v6(address: &Address) -> bool {
    address.ip == std::net::IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED)
}

fn worker_ids(pid: Pid) -> Option<(u32, u32)> {
    let status = crate::share::caller::status(pid)?;
    let [_, uid, ..] = status.uids;
    let [_, gid, ..] = status.gids;
    Some((uid, gid))
}
