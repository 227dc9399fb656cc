//! The sockets that workers share, by address.
//!
//! All of them are PID 1's, for as long as an address is held: a worker has copies, and its end closes no queue.
//!
//! | file | what it does |
//! |---|---|
//! | `anchor.rs` | takes an address for us alone; makes siblings |
//! | `door.rs` | where new connections get when nobody is to take them |
//! | `group.rs` | one address: lanes, owners, live set |
//! | `lives.rs` | which worker is in the live set |
//! | `look.rs` | what the loop asks |
//! | `queue.rs` | how full an accept queue is |
//! | `watch.rs` | lanes that a worker has shut down |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::stat::fstat;

use crate::cluster::words::{Life, Slot};
use crate::config::Balance;

use self::group::{Group, Member};
use self::lives::{Lives, Standing};
use self::watch::Watch;
use super::address::Address;

mod anchor;
mod door;
mod group;
mod lives;
mod look;
mod queue;
mod watch;

#[cfg(test)]
mod tests;

/// A lane for as long as its address is held; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u64);

/// All addresses that are shared, with their sockets.
pub struct Sockets {
    balance: Balance,
    groups: BTreeMap<Address, Group>,
    /// Where each lane is.
    lanes: BTreeMap<LaneId, Address>,
    lives: Lives,
    /// Addresses whose live set may have changed since the last `settle`.
    changed: BTreeSet<Address>,
    /// Lanes that are to listen again, since somebody has shut them down.
    silent: VecDeque<LaneId>,
    watch: Watch,
    last_lane: u64,
    /// The end has begun: nothing listens again.
    refuses: bool,
    remarks: Vec<String>,
}

/// A socket that a worker is to listen with.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    pub id: LaneId,
    pub socket: BorrowedFd<'a>,
    pub inode: u64,
}

/// One accept queue, as `TCP_INFO` of its listener shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections that wait to be accepted (`tcpi_unacked`).
    pub waiting: u32,
    /// The backlog (`tcpi_sacked`).
    pub limit: u32,
    /// False: somebody has shut the socket down.
    pub listens: bool,
}

/// So many addresses are shared at a time: a server that binds without end must not end us.
const MOST_ADDRESSES: usize = 1024;
/// And so many by one worker, so that it leaves some to the others.
const MOST_OF_ONE: usize = 256;
/// How often in one call it is tried to put lanes back that are shut down again and again.
const MOST_TRIES: usize = 64;

/// Whether an error of [`Sockets::reserve`] or [`Sockets::listen`] is about us and not about the address: too many addresses, no
/// descriptors or no memory in PID 1, port 0. It is no answer for a worker; its call is left to the kernel.
pub fn is_ours(error: &io::Error) -> bool {
    let scarce = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    matches!(error.kind(), io::ErrorKind::QuotaExceeded | io::ErrorKind::Unsupported)
        || error.raw_os_error().is_some_and(|code| scarce.contains(&code))
}

impl Sockets {
    pub fn new(balance: Balance) -> Self {
        Self {
            balance,
            groups: BTreeMap::new(),
            lanes: BTreeMap::new(),
            lives: Lives::default(),
            changed: BTreeSet::new(),
            silent: VecDeque::new(),
            watch: Watch::new(),
            last_lane: 0,
            refuses: false,
            remarks: Vec::new(),
        }
    }

    /// Takes an address for `LISTEN` and keeps it, whoever uses it. Answers the real one: port 0 is the kernel's to pick. Nobody is
    /// accepted before the first lane is made.
    pub fn open(&mut self, address: &Address) -> io::Result<Address> {
        if let Some(group) = self.groups.get_mut(address) {
            group.keep();
            return Ok(*address);
        }
        let anchor = anchor::take(address)?;
        let real = anchor::bound_to(&anchor, address.v6only)?;
        self.groups.insert(real, Group::new(anchor, true));
        Ok(real)
    }

    /// A fresh socket bound to `address`, for a worker that has called `bind` and may listen later. The first one takes the address
    /// for this clusterinit; where it cannot be had, the error is what the worker's own `bind` would have answered (`man 2 bind`:
    /// EADDRINUSE, EACCES, EADDRNOTAVAIL), unless [`is_ours`] says otherwise.
    pub fn reserve(&mut self, address: &Address, life: Life) -> io::Result<OwnedFd> {
        self.hold(address, life)?;
        let fresh = anchor::sibling(address);
        if fresh.is_err() {
            self.release_where(|of, group| of == address && group.is_unused() && group.has_no_lanes());
        }
        fresh
    }

    /// The lane on which this life listens from now on: listening, and the same one if it is asked for again. Only at the very end,
    /// after [`Sockets::refuse`], it may be one that does not listen any more.
    pub fn listen(&mut self, address: &Address, life: Life, slot: Slot, backlog: i32) -> io::Result<Lane<'_>> {
        self.hold(address, life)?;
        let Some(group) = self.groups.get_mut(address) else { return Err(io::ErrorKind::NotFound.into()) };
        let there = group.lane_of(life);
        let lane = if let Some(lane) = there.or_else(|| group.choose(slot, self.balance, &self.lives)) {
            lane
        } else {
            let socket = anchor::sibling(address)?;
            let inode = fstat(&socket)?.st_ino;
            self.last_lane += 1;
            let lane = LaneId(self.last_lane);
            group.insert(lane, socket, inode, slot);
            self.lanes.insert(lane, *address);
            lane
        };
        if there.is_none() {
            group.give(lane, life, slot, self.balance);
            self.changed.insert(*address);
        }
        self.start(lane, backlog)?;
        self.lane_of(address, life).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The lane of this life at this address, if it listens there.
    pub fn lane_of(&self, address: &Address, life: Life) -> Option<Lane<'_>> {
        let group = self.groups.get(address)?;
        let id = group.lane_of(life)?;
        group.member(id).map(|member| Lane { id, socket: member.socket.as_fd(), inode: member.inode })
    }

    /// New connections may reach this life's lanes (those that it has and those that it gets).
    pub fn join(&mut self, life: Life) {
        self.stand(life, Standing::Joined);
    }

    /// New connections reach others. `hand_over`: a successor takes this life's lanes with what waits in them, although it still
    /// lives (it hangs); else a successor gets a spare.
    pub fn leave(&mut self, life: Life, hand_over: bool) {
        self.stand(life, Standing::Left { hand_over });
    }

    /// The whole cluster stops, and this worker is to take no more connections: where others do they get them, elsewhere the door is
    /// closed. False: neither can be had, and it goes on.
    pub fn retreat(&mut self, life: Life) -> bool {
        let at: Vec<Address> = self.lives.addresses(life).filter(|at| self.lane_of(at, life).is_some()).copied().collect();
        for address in &at {
            let Some(group) = self.groups.get_mut(address) else { continue };
            let is_served = group.is_served_without(Some(life), &self.lives);
            if is_served && self.balance == Balance::Queue || !is_served && group.close_door(address).is_err() {
                return false;
            }
        }
        self.leave(life, false);
        true
    }

    /// It takes connections again, and what was put off for it comes.
    pub fn return_to(&mut self, life: Life) {
        let at: Vec<Address> = self.lives.addresses(life).copied().collect();
        for address in &at {
            self.groups.get_mut(address).into_iter().for_each(Group::open_door);
        }
        self.join(life);
    }

    /// Where nobody takes connections any more the door is closed: the last one that did may have ended by itself.
    pub fn close_doors(&mut self) {
        for (address, group) in &mut self.groups {
            if group.is_listened_on() && !group.is_served_without(None, &self.lives) && group.close_door(address).is_ok() {
                self.changed.insert(*address);
            }
        }
    }

    /// Nothing of this life is left: its lanes are free for a successor, with what waits in them. An address that was only bound,
    /// never listened on, is given back with the last life that bound it.
    pub fn ended(&mut self, life: Life) {
        let addresses: Vec<Address> = self.lives.addresses(life).copied().collect();
        for address in &addresses {
            if let Some(group) = self.groups.get_mut(address) {
                group.vacate(life, &self.lives);
                self.changed.insert(*address);
            }
        }
        self.lives.0.remove(&life);
        for address in &addresses {
            if self.groups.get(address).is_some_and(|group| group.is_unused() && group.has_no_lanes()) {
                self.release(address);
            }
        }
    }

    /// What [`Sockets::open`] has taken is not kept any longer than workers have it.
    pub fn let_go(&mut self, address: &Address) {
        self.groups.get_mut(address).into_iter().for_each(Group::let_go);
    }

    /// The worker has closed its listener at this address and lives on: its lane is free for a successor.
    pub fn close(&mut self, address: &Address, life: Life) {
        if let Some(group) = self.groups.get_mut(address) {
            group.vacate(life, &self.lives);
            self.changed.insert(*address);
        }
        self.lives.known(life).addresses.remove(address);
    }

    /// A lane that is left out of the live set for a while although its worker lives: its queue stays filled while others are empty.
    pub fn set_lagging(&mut self, lane: LaneId, lagging: bool) {
        let Some(address) = self.lanes.get(&lane) else { return };
        if let Some(group) = self.groups.get_mut(address) {
            group.set_lagging(lane, lagging);
            self.changed.insert(*address);
        }
    }

    /// Replaces the programs whose live set has changed. Once a turn, after the answers.
    pub fn settle(&mut self) {
        self.mend();
        while let Some(address) = self.changed.pop_first() {
            let Some(group) = self.groups.get_mut(&address) else { continue };
            if let Err(remark) = group.settle(self.balance, &self.lives) {
                self.remarks.push(format!("{address}: {remark}"));
            }
        }
    }

    /// Some address has nobody who lives.
    pub fn has_unused(&self) -> bool {
        self.groups.values().any(Group::is_unused)
    }

    /// No worker starts or is expected to: addresses that nobody who lives has bound are given back to the kernel. What waits there
    /// is refused: nobody would ever serve it.
    pub fn release_unused(&mut self) {
        self.release_where(|_, group| group.is_unused());
    }

    /// Every lane, its owner, and the slot that it was last in. With `queue` there is one lane per address: it is named once for
    /// each owner.
    pub fn lanes(&self) -> Vec<(LaneId, Option<Life>, Slot)> {
        let mut all = Vec::with_capacity(self.lanes.len());
        for (id, member) in self.groups.values().flat_map(Group::lanes) {
            all.extend(member.owners.iter().map(|life| (id, Some(*life), member.slot)));
            if member.owners.is_empty() {
                all.push((id, None, member.slot));
            }
        }
        all
    }

    pub fn socket(&self, lane: LaneId) -> Option<BorrowedFd<'_>> {
        self.member(lane).map(|member| member.socket.as_fd())
    }

    pub fn queue(&self, lane: LaneId) -> Option<Queue> {
        self.member(lane).and_then(|member| queue::of(&member.socket))
    }

    /// The kernel said that somebody shut this lane down (`EPOLLHUP`): the group has changed.
    pub fn was_shut(&mut self, lane: LaneId) {
        self.mend();
        // Our own watch has seen it, unless it is blind.
        self.take_out(lane);
        self.put_back();
    }

    /// The addresses that are listened on, in a stable order.
    pub fn addresses(&self) -> Vec<Address> {
        self.groups.iter().filter(|(_, group)| group.is_listened_on()).map(|(address, _)| *address).collect()
    }

    /// Inodes and ports of the lanes that this life has.
    pub fn of(&self, life: Life) -> Vec<(u64, u16)> {
        let at = |address: &Address| self.lane_of(address, life).map(|lane| (lane.inode, address.port));
        self.lives.addresses(life).filter_map(at).collect()
    }

    /// No worker accepts any more: lanes with empty queues are shut down, so that a late client is refused at once; the others get
    /// no further connections. True: all are shut. Asked again until it is so.
    pub fn refuse(&mut self) -> bool {
        self.refuses = true;
        self.silent.clear();
        for lane in self.watch.shut() {
            self.take_out(lane);
        }
        self.silent.clear();
        // The programs are left alone: what is filled takes nothing, whoever is chosen.
        let mut all = true;
        for group in self.groups.values_mut() {
            all &= group.refuse();
        }
        all
    }

    /// What people should know, each thing once.
    pub fn take_remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    fn stand(&mut self, life: Life, standing: Standing) {
        let known = self.lives.known(life);
        known.standing = standing;
        self.changed.extend(&known.addresses);
    }

    /// The address is ours, and this life is there.
    fn hold(&mut self, address: &Address, life: Life) -> io::Result<()> {
        if address.port == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let bound = self.lives.0.get(&life).map(|known| &known.addresses);
        let is_new = bound.is_none_or(|bound| !bound.contains(address));
        if is_new && bound.is_some_and(|bound| bound.len() >= MOST_OF_ONE) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if !self.groups.contains_key(address) {
            if self.groups.len() >= MOST_ADDRESSES {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            self.groups.insert(*address, Group::new(anchor::take(address)?, false));
        }
        if let Some(group) = self.groups.get_mut(address) {
            group.hold(life);
        }
        self.lives.known(life).addresses.insert(*address);
        Ok(())
    }

    fn member(&self, lane: LaneId) -> Option<&Member> {
        self.groups.get(self.lanes.get(&lane)?)?.member(lane)
    }

    fn group_of(&mut self, lane: LaneId) -> Option<&mut Group> {
        self.groups.get_mut(self.lanes.get(&lane)?)
    }

    /// A lane of a worker is to listen.
    fn start(&mut self, lane: LaneId, backlog: i32) -> io::Result<()> {
        if self.refuses {
            return Ok(());
        }
        self.mend();
        let outcome = self.append(lane, Some(backlog));
        if outcome.is_err() && self.member(lane).is_some_and(|member| !member.listens) {
            self.discard(lane);
        }
        self.put_back();
        outcome
    }

    /// A lane that cannot listen is of no use to anybody.
    fn discard(&mut self, lane: LaneId) {
        if let Some(member) = self.member(lane) {
            self.watch.remove(&member.socket);
        }
        self.group_of(lane).into_iter().for_each(|group| group.discard(lane));
        self.lanes.remove(&lane);
    }

    /// Lets it listen, in a place in the order that is known: if another lane of the group was shut down at the same time it cannot
    /// be known who was first. Then this one is shut too, which makes both ways one, and its turn comes again.
    fn append(&mut self, lane: LaneId, backlog: Option<i32>) -> io::Result<()> {
        let Some(group) = self.group_of(lane) else { return Ok(()) };
        let listened = group.member(lane).is_some_and(|member| member.listens);
        group.listen(lane, backlog)?;
        if listened {
            return Ok(());
        }
        let at = self.lanes.get(&lane).copied();
        self.changed.extend(at);
        if let Some(member) = self.member(lane) {
            self.watch.add(lane, &member.socket);
        }
        let shut = self.watch.shut();
        if shut.iter().any(|other| *other != lane && self.lanes.get(other).copied() == at) {
            self.group_of(lane).into_iter().for_each(|group| group.shut(lane));
            self.silent.push_back(lane);
        }
        for other in shut {
            self.take_out(other);
        }
        Ok(())
    }

    /// Lanes that were shut down are taken out of the order, and listen again.
    fn mend(&mut self) {
        for lane in self.watch.shut() {
            self.take_out(lane);
        }
        self.put_back();
    }

    fn take_out(&mut self, lane: LaneId) {
        let Some(address) = self.lanes.get(&lane) else { return };
        if self.groups.get_mut(address).is_some_and(|group| group.take_out(lane)) {
            self.changed.insert(*address);
            self.silent.push_back(lane);
        }
    }

    fn put_back(&mut self) {
        for _ in 0..MOST_TRIES {
            if self.refuses {
                return;
            }
            let Some(lane) = self.silent.pop_front() else { return };
            if let Err(error) = self.append(lane, None) {
                self.remarks.push(format!("a worker shut a listening socket down, and it cannot listen again: {error}"));
            }
        }
    }

    fn release_where(&mut self, is_it: impl Fn(&Address, &Group) -> bool) {
        let unused = self.groups.iter().filter(|(address, group)| is_it(address, group));
        let unused: Vec<Address> = unused.map(|(address, _)| *address).collect();
        for address in &unused {
            self.release(address);
        }
    }

    /// Gives an address back.
    fn release(&mut self, address: &Address) {
        let Some(group) = self.groups.remove(address) else { return };
        for (id, member) in group.lanes() {
            self.watch.remove(&member.socket);
            self.lanes.remove(&id);
        }
        self.changed.remove(address);
    }
}
