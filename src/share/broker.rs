//! One call of a worker, one answer.
//!
//! ```text
//! setsockopt   remember what the server wants of this socket          -> the kernel
//! bind         not for us, or not to be seen                          -> the kernel
//!              this worker listens there already                      -> EADDRINUSE, as always
//!              else a fresh sibling over the descriptor               -> 0, or what the kernel said to us
//! listen       on a fresh sibling or a lane: the lane of this worker  -> 0
//!              on any other socket                                    -> the kernel, and it is told
//! ```
//! The kernel's own answer is right wherever we have none. Everything that a worker can make grow is bounded, for each life.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;

use crate::cluster::words::{Life, Pid, Slot};
use crate::config::SharePorts;
use crate::sys::seccomp::{Call, Listener};

use super::address::Address;
use super::caller::{self, Protocol, Seen, Unseen, Want};
use super::decide::{self, Asked, Bind};
use super::holder;
use super::marks::{Marks, Place};
use super::sockets::Sockets;

mod ask;

pub use ask::{Asker, Given};

/// Addresses that one life may have us hold.
const MOST_ADDRESSES: usize = 256;
/// Fresh sockets that are remembered by descriptor.
const MOST_GIVEN: usize = 64;
/// Different remarks about one life.
const MOST_REMARKS: usize = 32;
/// `man 7 ip`, `ip_unprivileged_port_start`.
const UNPRIVILEGED_FROM: u16 = 1024;

/// Which ports are shared, and how.
#[derive(Clone, Debug)]
pub struct Rules {
    pub ports: SharePorts,
    /// `PORT_PER_WORKER`: these become port + slot.
    pub per_worker: Vec<u16>,
}

/// What the loop has to know of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The worker has a listening TCP socket now. `shared`: it is a lane of ours; else it is a matter of microseconds, because the
    /// kernel carries such a call out after our answer, and of that call's success.
    Listening { address: Option<Address>, shared: bool },
    /// Worth a line in the log, once per worker and cause.
    Remark(String),
}

pub struct Broker {
    pub sockets: Sockets,
    rules: Rules,
    /// `ip_unprivileged_port_start`.
    unprivileged_from: u16,
    /// What `IPV6_V6ONLY` is where nobody sets it (`bindv6only`).
    v6only: bool,
    lives: BTreeMap<Life, Known>,
}

/// What is known of a life.
#[derive(Debug, Default)]
struct Known {
    marks: Marks,
    /// The addresses that it has asked for, each with who listens there.
    addresses: BTreeMap<Address, Option<Listening>>,
    /// The fresh sockets that were given last, with the descriptor of which thread: a process that has dropped its rights since
    /// cannot be looked into when it calls `listen`.
    given: VecDeque<(Pid, RawFd, Seen)>,
    said: BTreeSet<Cause>,
}

/// The last `listen` on a lane.
#[derive(Clone, Copy, Debug)]
struct Listening {
    /// The lane's.
    inode: u64,
    /// The fresh socket that it was called on.
    fresh: Option<u64>,
    /// Whose descriptors are its process's. When it has ended, the process of a later caller is still looked at.
    thread: Pid,
    number: RawFd,
}

/// What is said once only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Forbidden,
    TooMany,
    Overflow(u16),
    Failed(Address, i32),
}

/// A call with whose it is.
#[derive(Clone, Copy)]
struct Request<'a> {
    listener: &'a Listener,
    call: &'a Call,
    life: Life,
    slot: Slot,
    /// The descriptor that it is about.
    number: RawFd,
}

impl Request<'_> {
    /// True after all that was read of the caller: then it was the caller's.
    fn waits(&self) -> bool {
        self.listener.is_valid(self.call)
    }

    /// Gives the caller `socket` in place of the one that it asked with.
    fn replace(&self, socket: BorrowedFd<'_>, seen: &Seen) -> io::Result<()> {
        set_nonblocking(socket, seen.nonblocking)?;
        self.listener.put_over(self.call, socket, self.number, seen.close_on_exec)
    }
}

impl Broker {
    pub fn new(sockets: Sockets, rules: Rules) -> Self {
        let unprivileged_from = number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(UNPRIVILEGED_FROM);
        let v6only = number("/proc/sys/net/ipv6/bindv6only") == Some(1);
        Self { sockets, rules, unprivileged_from, v6only, lives: BTreeMap::new() }
    }

    /// Answers one call. Never blocks, never fails: whatever cannot be helped goes on in the kernel as if we were not there.
    pub fn handle(&mut self, listener: &Listener, life: Life, slot: Slot, call: &Call) -> Vec<News> {
        let [first, ..] = call.arguments;
        let request = Request { listener, call, life, slot, number: int(first) };
        let mut news = Vec::new();
        let outcome = match call.number {
            libc::SYS_bind => self.bind(request, &mut news),
            libc::SYS_listen => self.listen(request, &mut news),
            libc::SYS_setsockopt => self.note_option(request, &mut news),
            _ => Outcome::GoOn,
        };
        match outcome {
            Outcome::GoOn => listener.go_on(call),
            Outcome::Done => listener.answer(call, Ok(0)),
            Outcome::Refused(errno) => listener.answer(call, Err(errno)),
        }
        news
    }

    /// Nothing of this life is left.
    pub fn ended(&mut self, life: Life) {
        self.lives.remove(&life);
        self.sockets.ended(life);
    }

    /// What the workers listen on: the only slot that has it (`PORT_PER_WORKER`), and whether a worker can be taken out of it.
    pub fn listeners(&self) -> Vec<(Address, Option<Slot>, bool)> {
        let shared = self.sockets.addresses();
        let disconnects = self.sockets.disconnects();
        let own: BTreeSet<Address> =
            self.lives.values().flat_map(|known| known.marks.own_listeners()).map(|(_, at)| at).collect();
        let own =
            own.into_iter().filter(|address| !shared.contains(address)).map(|address| (address, self.only_slot(&address), false));
        shared.iter().map(|address| (*address, self.only_slot(address), disconnects)).chain(own).collect()
    }

    /// Of a port of `PORT_PER_WORKER`.
    fn only_slot(&self, address: &Address) -> Option<Slot> {
        let slot = self.sockets.only_slot(address)?;
        self.rules.per_worker.iter().any(|port| u32::from(*port) + slot.0 == u32::from(address.port)).then_some(slot)
    }

    /// Inodes and ports of all listeners of this life that were seen: its lanes, and those that the server shares by itself.
    pub fn listeners_of(&self, life: Life) -> Vec<(u64, u16)> {
        let mut all = self.sockets.of(life);
        let own = self.lives.get(&life).into_iter().flat_map(|known| known.marks.own_listeners());
        all.extend(own.map(|(inode, address)| (inode, address.port)));
        all
    }

    fn note_option(&mut self, request: Request<'_>, news: &mut Vec<News>) -> Outcome {
        let [_, level, option, value, length, _] = request.call.arguments;
        let (is_sharing, is_v6only) = match (int(level), int(option)) {
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => (true, false),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => (false, true),
            _ => return Outcome::GoOn,
        };
        if int(length) < 4 {
            return Outcome::GoOn;
        }
        let Some(seen) = self.look(request, Want { memory: Some((value, 4)), network: false }, news) else {
            return Outcome::GoOn;
        };
        let set = seen.memory.iter().any(|byte| *byte != 0);
        if seen.protocol != Protocol::Other && request.waits() {
            self.known(request.life).marks.change(seen.inode, |mark| {
                mark.own_sharing = if is_sharing { set } else { mark.own_sharing };
                mark.v6only = if is_v6only { Some(set) } else { mark.v6only };
            });
        }
        Outcome::GoOn
    }

    fn bind(&mut self, request: Request<'_>, news: &mut Vec<News>) -> Outcome {
        let [_, name, length, ..] = request.call.arguments;
        let Ok(length) = usize::try_from(int(length)) else { return Outcome::GoOn };
        if length > caller::LONGEST {
            return Outcome::GoOn;
        }
        let Some(seen) = self.look(request, Want { memory: Some((name, length)), network: true }, news) else {
            return Outcome::GoOn;
        };
        let mark = self.lives.get(&request.life).map(|known| known.marks.of(seen.inode)).unwrap_or_default();
        let asked = Asked {
            protocol: seen.protocol,
            elsewhere: seen.elsewhere,
            name: &seen.memory,
            own_sharing: mark.own_sharing,
            v6only: mark.v6only.unwrap_or(self.v6only),
            slot: request.slot,
            unprivileged_from: self.unprivileged_from,
        };
        match decide::bind(&asked, &self.rules) {
            // The call was done, and begun again after a signal.
            Bind::Share { address, .. } if mark.place == Place::Fresh(address) => Outcome::Done,
            // The kernel has an error for a socket that is bound.
            _ if matches!(mark.place, Place::Fresh(_) | Place::Lane(_)) => Outcome::GoOn,
            Bind::Leave(address) => {
                if let Some(address) = address.filter(|_| request.waits()) {
                    let left = Place::Left { address, listens: false };
                    self.known(request.life).marks.change(seen.inode, |mark| mark.place = left);
                }
                Outcome::GoOn
            }
            Bind::Overflow { port } => {
                let text = format!("port {port} plus the worker's number {} is no port, so bind fails", request.slot.0);
                self.remark(request.life, Cause::Overflow(port), news, || text);
                Outcome::Refused(Errno::EADDRNOTAVAIL)
            }
            // The kernel refuses it.
            Bind::Share { privileged: true, .. } if !caller::may_bind_privileged(request.call.thread) => Outcome::GoOn,
            Bind::Share { address, twice, .. } => self.share(request, &seen, address, twice, news),
        }
    }

    fn share(&mut self, request: Request<'_>, seen: &Seen, address: Address, twice: bool, news: &mut Vec<News>) -> Outcome {
        let life = request.life;
        if !twice && self.is_listening(request, &address, None) {
            return Outcome::Refused(Errno::EADDRINUSE);
        }
        let known = self.known(life);
        if !known.addresses.contains_key(&address) && known.addresses.len() >= MOST_ADDRESSES {
            let text = || format!("more than {MOST_ADDRESSES} addresses: the others are not shared");
            self.remark(life, Cause::TooMany, news, text);
            return Outcome::GoOn;
        }
        if !request.waits() {
            return Outcome::GoOn;
        }
        let fresh = match self.sockets.reserve(&address, life) {
            Ok(fresh) => fresh,
            Err(error) => return self.not_reserved(life, &address, &error, news),
        };
        let inode = match request.replace(fresh.as_fd(), seen).and_then(|()| inode_of(fresh.as_fd())) {
            Ok(inode) => inode,
            Err(error) => return refused(&error),
        };
        let known = self.known(life);
        known.addresses.entry(address).or_default();
        known.marks.change(inode, |mark| {
            mark.place = Place::Fresh(address);
            mark.own_sharing = twice;
        });
        known.given.truncate(MOST_GIVEN - 1);
        known.given.push_front((request.call.thread, request.number, Seen { inode, memory: Vec::new(), ..seen.clone() }));
        Outcome::Done
    }

    fn listen(&mut self, request: Request<'_>, news: &mut Vec<News>) -> Outcome {
        let Request { call, life, slot, number, .. } = request;
        let looked = caller::look(call.thread, number, Want::default());
        let given = matches!(looked, Err(Unseen::Forbidden)).then(|| self.given(request)).flatten();
        let Some(seen) = given.or_else(|| self.seen(looked, request, news)) else { return Outcome::GoOn };
        if seen.protocol == Protocol::Other || !request.waits() {
            return Outcome::GoOn;
        }
        let mark = self.known(life).marks.of(seen.inode);
        let (address, fresh) = match mark.place {
            Place::Fresh(address) => (address, Some(seen.inode)),
            Place::Lane(address) => (address, None),
            Place::Left { address, .. } => {
                let left = Place::Left { address, listens: true };
                self.known(life).marks.change(seen.inode, |mark| mark.place = left);
                news.push(News::Listening { address: Some(address), shared: false });
                return Outcome::GoOn;
            }
            Place::Unknown => {
                news.push(News::Listening { address: None, shared: false });
                return Outcome::GoOn;
            }
        };
        // Two bound sockets of one worker may be at one address (SO_REUSEADDR), but only one listens.
        if fresh.is_some() && !mark.own_sharing && self.is_listening(request, &address, fresh) {
            return Outcome::Refused(Errno::EADDRINUSE);
        }
        let [_, backlog, ..] = call.arguments;
        let lane = match self.sockets.listen(&address, life, slot, int(backlog)) {
            Ok(lane) => lane,
            Err(error) => return self.not_reserved(life, &address, &error, news),
        };
        let inode = lane.inode;
        if inode != seen.inode
            && let Err(error) = request.replace(lane.socket, &seen)
        {
            return refused(&error);
        }
        let known = self.known(life);
        known.marks.change(inode, |mark| mark.place = Place::Lane(address));
        let before = known.addresses.get(&address).copied().flatten().filter(|before| before.inode == inode);
        let fresh = fresh.or(before.and_then(|before| before.fresh));
        known.addresses.insert(address, Some(Listening { inode, fresh, thread: call.thread, number }));
        news.push(News::Listening { address: Some(address), shared: true });
        Outcome::Done
    }

    /// What was given to this descriptor of a process that may not be looked into any more.
    fn given(&self, request: Request<'_>) -> Option<Seen> {
        let Request { call, number, .. } = request;
        let given = &self.lives.get(&request.life)?.given;
        let process = |thread| caller::status(thread).map(|status| status.process);
        let of_caller =
            |thread: Pid| thread == call.thread || (process(thread).is_some() && process(thread) == process(call.thread));
        given.iter().find(|(thread, of, _)| *of == number && of_caller(*thread)).map(|(_, _, seen)| seen.clone())
    }

    /// Whether this life has a listener at that address that its maker's process and the caller's have not both closed; not counting one that was
    /// made of the socket `but`.
    fn is_listening(&self, request: Request<'_>, address: &Address, but: Option<u64>) -> bool {
        let listening = self.lives.get(&request.life).and_then(|known| known.addresses.get(address).copied().flatten());
        let listening = listening.filter(|listening| but.is_none() || listening.fresh != but);
        let Some(Listening { inode, thread, number, .. }) = listening else { return false };
        let is_its_lane = self.sockets.lane_of(address, request.life).is_some_and(|lane| lane.inode == inode);
        let caller = request.call.thread;
        is_its_lane && (caller::holds(thread, number, inode) || caller != thread && caller::holds(caller, number, inode))
    }

    /// The worker gets the error that we got, but for those that say something of us and nothing of the address.
    fn not_reserved(&mut self, life: Life, address: &Address, error: &io::Error, news: &mut Vec<News>) -> Outcome {
        let errno = errno_of(error);
        let cause = Cause::Failed(*address, errno as i32);
        match errno {
            // Perhaps the worker may what we may not.
            Errno::EACCES | Errno::EPERM => Outcome::GoOn,
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::ENOSPC | Errno::EIO | Errno::ENOSYS => {
                self.remark(life, cause, news, || format!("{address} is not shared: {error}"));
                Outcome::GoOn
            }
            Errno::EADDRINUSE => {
                let is_ours = self.sockets.addresses().iter().any(|held| held.port == address.port);
                if !is_ours {
                    let who = || holder::of(address.port).map(|holder| holder.to_string());
                    let unknown = || "another process or another clusterinit in this network namespace".to_owned();
                    self.remark(life, cause, news, || format!("{address} is taken: by {}", who().unwrap_or_else(unknown)));
                }
                Outcome::Refused(errno)
            }
            _ => Outcome::Refused(errno),
        }
    }

    fn look(&mut self, request: Request<'_>, want: Want, news: &mut Vec<News>) -> Option<Seen> {
        self.seen(caller::look(request.call.thread, request.number, want), request, news)
    }

    fn seen(&mut self, looked: Result<Seen, Unseen>, request: Request<'_>, news: &mut Vec<News>) -> Option<Seen> {
        match looked {
            Ok(seen) => Some(seen),
            Err(Unseen::Nothing) => None,
            Err(Unseen::Forbidden) => {
                self.remark(request.life, Cause::Forbidden, news, || forbidden(request.call.thread));
                None
            }
        }
    }

    /// Says it if it is the first time.
    fn remark(&mut self, life: Life, cause: Cause, news: &mut Vec<News>, text: impl FnOnce() -> String) {
        let said = &mut self.known(life).said;
        if said.len() < MOST_REMARKS && said.insert(cause) {
            news.push(News::Remark(text()));
        }
    }

    fn known(&mut self, life: Life) -> &mut Known {
        self.lives.entry(life).or_default()
    }
}

enum Outcome {
    GoOn,
    Done,
    Refused(Errno),
}

fn refused(error: &io::Error) -> Outcome {
    Outcome::Refused(errno_of(error))
}

/// What a worker's own call would have answered; EIO where it is no error of the kernel's.
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn forbidden(thread: Pid) -> String {
    let caller::Status { name, process, uids: [_, uid, ..], .. } = caller::status(thread).unwrap_or_default();
    let own = nix::unistd::geteuid().as_raw();
    let (why, what) = if uid == own {
        ("the kernel does not let us look into it (yama's ptrace_scope, or a program that is not dumpable)", "")
    } else {
        ("it runs as another user, and has become it without a further exec", "bind before the change of user, or ")
    };
    let name = name.escape_default();
    format!(
        "the ports of process {process} ({name}, uid {uid}) are not shared: {why}; {what}start it as that user by CLUSTERINIT_USER, or \
         give the container CAP_SYS_PTRACE"
    )
}

/// An `int` of a system call: the upper half of the register means nothing.
fn int(argument: u64) -> i32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

fn number(file: &str) -> Option<u16> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The flag belongs to the open file, not to the descriptor: the worker sees it, and so does whoever has the lane after it.
fn set_nonblocking(socket: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) != nonblocking {
        let mut changed = flags;
        changed.set(OFlag::O_NONBLOCK, nonblocking);
        fcntl(socket, FcntlArg::F_SETFL(changed))?;
    }
    Ok(())
}

fn inode_of(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}
