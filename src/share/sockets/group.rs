//! One address: its anchor, its lanes, and who has which.
//!
//! ```text
//!         new --give--> owned --vacate--> vacant --give--> owned ...     never closed while the address is held
//!                         |  the owner handed over
//!                         +--give--> owned by its successor
//! ```
//!
//! `order` is what the kernel's group looks like: a socket that listens is appended, one that is shut down is replaced by the last.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use crate::cluster::words::{Life, Slot};
use crate::config::Balance;

use super::super::address::Address;
use super::super::balance::{self, COARSE, FEW, FINE, Program, Table};
use super::lives::{Lives, Standing};
use super::{LaneId, anchor, door, queue};

/// The place in the order of a closed door, which is no lane.
const DOOR: LaneId = LaneId(u64::MAX);

pub(super) struct Group {
    /// Never looked at: it holds the address while it is open.
    _anchor: OwnedFd,
    /// Opened by us and not for a worker: it stays.
    permanent: bool,
    /// Lives that have bound here and not ended.
    holders: BTreeSet<Life>,
    lanes: BTreeMap<LaneId, Member>,
    order: Vec<LaneId>,
    vacant: BTreeSet<LaneId>,
    in_slot: BTreeSet<(Slot, LaneId)>,
    by_life: BTreeMap<Life, LaneId>,
    /// Grows with each lane that is given or becomes vacant.
    moves: u64,
    program: Choice,
    /// Closed: new connections get nowhere, whoever is there.
    door: Option<OwnedFd>,
}

/// One lane.
pub(super) struct Member {
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    /// One at most, but for `queue`.
    pub(super) owners: BTreeSet<Life>,
    /// Where it is, or was last.
    pub(super) slot: Slot,
    /// When it was given or became vacant; later ones are greater.
    moved: u64,
    /// Its last owner went in good order: nobody is expected to take just this one.
    spare: bool,
    lagging: bool,
    backlog: i32,
    /// It has a place in the order.
    pub(super) listens: bool,
}

/// What is attached, and how it is made.
#[derive(Default)]
struct Choice {
    attached: Option<Program>,
    table: Option<Table>,
    /// The kernel has no room for a fine table.
    only_coarse: bool,
    /// What could not be attached, so that it is neither tried nor said again.
    refused: Option<Program>,
}

/// Who gets new connections, best first. The best that any lane has counts; the others get none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Joined,
    /// It lives, and does not keep up.
    Lagging,
    /// It listens and is not ready: it is the next to be.
    Starting,
    /// It is on its way out, but there.
    Left,
    /// Its owner is gone and a successor will come: what arrives waits.
    Bereft,
    Spare,
}

impl Group {
    pub(super) fn new(anchor: OwnedFd, permanent: bool) -> Self {
        Self {
            _anchor: anchor,
            permanent,
            holders: BTreeSet::new(),
            lanes: BTreeMap::new(),
            order: Vec::new(),
            vacant: BTreeSet::new(),
            in_slot: BTreeSet::new(),
            by_life: BTreeMap::new(),
            moves: 0,
            program: Choice::default(),
            door: None,
        }
    }

    pub(super) fn hold(&mut self, life: Life) {
        self.holders.insert(life);
    }

    pub(super) fn keep(&mut self) {
        self.permanent = true;
    }

    pub(super) fn let_go(&mut self) {
        self.permanent = false;
    }

    /// Nobody who lives has bound here, and we do not want it ourselves.
    pub(super) fn is_unused(&self) -> bool {
        self.holders.is_empty() && !self.permanent
    }

    pub(super) fn has_no_lanes(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(super) fn is_listened_on(&self) -> bool {
        self.order.iter().any(|id| *id != DOOR)
    }

    /// Somebody takes new connections, apart from this one.
    pub(super) fn is_served_without(&self, life: Option<Life>, lives: &Lives) -> bool {
        let serves = |of: &Life| Some(*of) != life && lives.standing(*of) == Standing::Joined;
        self.lanes.values().any(|member| member.listens && member.owners.iter().any(serves))
    }

    /// The last lane of the order is in its place then.
    pub(super) fn open_door(&mut self) {
        if let Some(door) = self.door.take() {
            let _ = anchor::shut(&door);
            if let Some(place) = self.order.iter().position(|id| *id == DOOR) {
                self.order.swap_remove(place);
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.door.is_some()
    }

    /// From the next [`Group::settle`] on new connections get nowhere. An error: that is not to be had.
    pub(super) fn close_door(&mut self, address: &Address) -> io::Result<()> {
        if self.door.is_none() {
            self.door = Some(door::close(address)?);
            self.order.push(DOOR);
        }
        Ok(())
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = (LaneId, &Member)> {
        self.lanes.iter().map(|(id, member)| (*id, member))
    }

    pub(super) fn member(&self, lane: LaneId) -> Option<&Member> {
        self.lanes.get(&lane)
    }

    pub(super) fn lane_of(&self, life: Life) -> Option<LaneId> {
        self.by_life.get(&life).copied()
    }

    pub(super) fn set_lagging(&mut self, lane: LaneId, lagging: bool) {
        if let Some(member) = self.lanes.get_mut(&lane) {
            member.lagging = lagging;
        }
    }

    /// Which lane a worker in this slot is to have, if one is there for it.
    ///
    /// First those of its own slot that have no owner or one that hands over: its clients wait there, or will (see `live`). Else any
    /// without an owner, first one in which somebody waits, then a spare. What waits in a lane waits until the lane has an owner.
    pub(super) fn choose(&self, slot: Slot, balance: Balance, lives: &Lives) -> Option<LaneId> {
        if balance == Balance::Queue {
            return self.lanes.keys().next().copied();
        }
        let gives = |life: &Life| lives.standing(*life) == Standing::Left { hand_over: true };
        let filled = |member: &Member| queue::of(&member.socket).is_some_and(|queue| queue.waiting > 0);
        let of_slot = self.in_slot.range((slot, LaneId(0))..=(slot, LaneId(u64::MAX)));
        let of_slot = of_slot.filter_map(|(_, id)| Some((*id, self.lanes.get(id)?)));
        let own = of_slot.filter(|(_, member)| member.owners.iter().all(gives));
        let any = self.vacant.iter().filter_map(|id| Some((*id, self.lanes.get(id)?)));
        let best = own.max_by_key(|(_, member)| (filled(member), !member.owners.is_empty(), !member.spare, member.moved));
        best.or_else(|| any.max_by_key(|(_, member)| (filled(member), member.spare, member.moved))).map(|(id, _)| id)
    }

    pub(super) fn insert(&mut self, lane: LaneId, socket: OwnedFd, inode: u64, slot: Slot) {
        let owners = BTreeSet::new();
        let member = Member { socket, inode, owners, slot, moved: 0, spare: true, lagging: false, backlog: 0, listens: false };
        self.lanes.insert(lane, member);
        self.in_slot.insert((slot, lane));
        self.vacant.insert(lane);
    }

    /// This life listens on that lane from now on; whoever had it does not.
    pub(super) fn give(&mut self, lane: LaneId, life: Life, slot: Slot, balance: Balance) {
        let Some(member) = self.lanes.get_mut(&lane) else { return };
        if balance != Balance::Queue {
            for before in std::mem::take(&mut member.owners) {
                self.by_life.remove(&before);
            }
        }
        self.moves += 1;
        self.in_slot.remove(&(member.slot, lane));
        self.in_slot.insert((slot, lane));
        self.vacant.remove(&lane);
        self.by_life.insert(life, lane);
        member.owners.insert(life);
        member.slot = slot;
        member.moved = self.moves;
        member.spare = false;
        member.lagging = false;
    }

    /// Nothing of this life is left.
    pub(super) fn vacate(&mut self, life: Life, lives: &Lives) {
        self.holders.remove(&life);
        let Some(lane) = self.by_life.remove(&life) else { return };
        let Some(member) = self.lanes.get_mut(&lane) else { return };
        member.owners.remove(&life);
        if member.owners.is_empty() {
            member.spare = lives.standing(life) == Standing::Left { hand_over: false };
            member.lagging = false;
            self.moves += 1;
            member.moved = self.moves;
            self.vacant.insert(lane);
        }
    }

    /// A lane that listens gets another backlog; one that does not takes the last place in the order.
    pub(super) fn listen(&mut self, lane: LaneId, backlog: Option<i32>) -> io::Result<()> {
        let Some(member) = self.lanes.get_mut(&lane) else { return Ok(()) };
        member.backlog = backlog.unwrap_or(member.backlog);
        anchor::listen(&member.socket, member.backlog)?;
        if !member.listens {
            member.listens = true;
            self.order.push(lane);
        }
        Ok(())
    }

    /// A lane that could not listen even once is of no use to anybody.
    pub(super) fn discard(&mut self, lane: LaneId) {
        if let Some(member) = self.lanes.remove(&lane) {
            self.in_slot.remove(&(member.slot, lane));
            self.vacant.remove(&lane);
            self.by_life.retain(|_, of| *of != lane);
        }
    }

    /// Somebody has shut this lane down: the last one is in its place. False: it still listens, or never did.
    pub(super) fn take_out(&mut self, lane: LaneId) -> bool {
        let Some(member) = self.lanes.get_mut(&lane) else { return false };
        if !member.listens || queue::of(&member.socket).is_none_or(|queue| queue.listens) {
            return false;
        }
        member.listens = false;
        if let Some(place) = self.order.iter().position(|id| *id == lane) {
            self.order.swap_remove(place);
        }
        if self.order.is_empty() {
            // The kernel's group has ended, and its program with it.
            self.program.attached = None;
        }
        true
    }

    /// Shuts this lane down; what waits in it is reset.
    pub(super) fn shut(&mut self, lane: LaneId) {
        let Some(member) = self.lanes.get(&lane) else { return };
        // It fails where somebody was faster: then it is shut too.
        let _ = anchor::shut(&member.socket);
        self.take_out(lane);
    }

    /// Lets run dry what is filled and shuts down the rest. True: all are shut.
    pub(super) fn refuse(&mut self) -> bool {
        for lane in self.order.clone() {
            let Some(member) = self.lanes.get(&lane) else { continue };
            let is_empty = |member: &Member| queue::of(&member.socket).is_none_or(|queue| queue.waiting == 0);
            // First this, then the look: a handshake that ended in between is seen.
            let _ = anchor::take_no_more(&member.socket);
            if is_empty(member) {
                self.shut(lane);
            }
        }
        if self.order == [DOOR] {
            // The last one, so that nobody has been sent anywhere else.
            self.open_door();
        }
        self.order.is_empty()
    }

    /// Attaches the program of the live set, if it is another one. `Err`: what people should know, once.
    pub(super) fn settle(&mut self, balance: Balance, lives: &Lives) -> Result<(), String> {
        let through =
            self.order.iter().find_map(|id| if *id == DOOR { self.door.as_ref() } else { Some(&self.lanes.get(id)?.socket) });
        let Some(through) = through else { return Ok(()) };
        let door = (0_u32..).zip(&self.order).find(|(_, id)| **id == DOOR);
        let mut program = std::mem::take(&mut self.program);
        let outcome = match door {
            Some((index, _)) => program.attach(balance::spread(&[index].into()), through),
            None if balance == Balance::Queue => Ok(()),
            None => {
                let slots = self.in_slot.last().map_or(0, |(slot, _)| slot.0.saturating_add(1));
                program.settle(&self.live(lives), slots, balance, through)
            }
        };
        self.program = program;
        outcome
    }

    /// The lanes that get new connections, with their index.
    fn live(&self, lives: &Lives) -> Vec<(u32, &Member)> {
        let ordered = (0_u32..).zip(&self.order).filter_map(|(index, id)| Some((index, self.lanes.get(id)?)));
        let ranked: Vec<(Rank, u32, &Member)> = ordered.map(|(index, member)| (member.rank(lives), index, member)).collect();
        let best = ranked.iter().map(|(rank, ..)| *rank).min();
        let mut live: Vec<(u32, &Member)> =
            ranked.into_iter().filter(|(rank, ..)| Some(*rank) == best).map(|(_, index, member)| (index, member)).collect();
        match best {
            // A successor takes the lane that its slot had last: nothing may wait anywhere else.
            Some(Rank::Bereft) => {
                live.sort_by_key(|(_, member)| (member.slot, std::cmp::Reverse(member.moved)));
                live.dedup_by_key(|(_, member)| member.slot);
            }
            Some(Rank::Spare) => {
                let last = live.iter().map(|(_, member)| member.moved).max();
                live.retain(|(_, member)| Some(member.moved) == last);
            }
            _ => {}
        }
        live
    }
}

impl Member {
    fn rank(&self, lives: &Lives) -> Rank {
        let of = |life: &Life| match lives.standing(*life) {
            Standing::Joined if self.lagging => Rank::Lagging,
            Standing::Joined => Rank::Joined,
            Standing::Starting => Rank::Starting,
            Standing::Left { .. } => Rank::Left,
        };
        let without = if self.spare { Rank::Spare } else { Rank::Bereft };
        self.owners.iter().map(of).min().unwrap_or(without)
    }
}

impl Choice {
    fn settle(&mut self, live: &[(u32, &Member)], slots: u32, balance: Balance, through: &OwnedFd) -> Result<(), String> {
        let wanted = self.wanted(live, slots, balance);
        let outcome = self.attach(wanted, through);
        if outcome.is_err() && self.table.as_ref().is_some_and(|table| table.size() > COARSE) {
            self.only_coarse = true;
            self.refused = None;
            let wanted = self.wanted(live, slots, balance);
            return self.attach(wanted, through);
        }
        outcome
    }

    fn attach(&mut self, wanted: Program, through: &OwnedFd) -> Result<(), String> {
        if self.attached.as_ref() == Some(&wanted) || self.refused.as_ref() == Some(&wanted) {
            return Ok(());
        }
        match anchor::choose_by(&wanted, through) {
            Ok(()) => {
                self.refused = None;
                self.attached = Some(wanted);
                Ok(())
            }
            Err(error) => {
                let said_before = self.refused.replace(wanted).is_some();
                let text =
                    || format!("new connections cannot be steered (SO_ATTACH_REUSEPORT_CBPF: {error}): the kernel spreads them");
                if said_before { Ok(()) } else { Err(text()) }
            }
        }
    }

    fn wanted(&mut self, live: &[(u32, &Member)], slots: u32, balance: Balance) -> Program {
        if balance != Balance::Sticky {
            return balance::spread(&live.iter().map(|(index, _)| *index).collect());
        }
        // Once fine, always fine: another size moves all clients.
        let was_fine = self.table.as_ref().is_some_and(|table| table.size() == FINE);
        let size = if (slots > FEW || was_fine) && !self.only_coarse { FINE } else { COARSE };
        let table = self.table.take_if(|table| table.size() == size);
        let table = self.table.insert(table.unwrap_or_else(|| Table::new(size)));
        // While a successor takes over there are two in a slot: its clients are the successor's.
        let mut newest: BTreeMap<Slot, (u64, u32)> = BTreeMap::new();
        for (index, member) in live {
            let one = newest.entry(member.slot).or_default();
            *one = (*one).max((member.moved, *index));
        }
        balance::sticky(table, &newest.into_iter().map(|(slot, (_, index))| (slot, index)).collect())
    }
}
