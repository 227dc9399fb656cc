//! What the loop asks about lanes and queues.

use crate::cluster::words::{Life, Slot};
use crate::config::Balance;

use super::super::address::Address;
use super::group::Group;
use super::lives::Standing;
use super::{LaneId, Sockets, queue};

impl Sockets {
    /// Who has this lane (with `queue`, one of them), and the slot of its owner or of its last one; `None` for a lane that is gone.
    pub fn holder(&self, lane: LaneId) -> Option<(Option<Life>, Slot)> {
        self.member(lane).map(|member| (member.owners.first().copied(), member.slot))
    }

    /// Another worker that could take this lane's new connections has an empty queue. With `sticky` none could: a client stays with its
    /// worker while it lives, however slow.
    pub fn others_idle(&self, lane: LaneId) -> bool {
        if self.balance == Balance::Sticky {
            return false;
        }
        let group = self.lanes.get(&lane).and_then(|address| self.groups.get(address));
        let mut others = group.into_iter().flat_map(Group::lanes).filter(|(id, _)| *id != lane);
        others.any(|(_, other)| {
            let is_sent_to = other.owners.iter().any(|life| self.is_joined(*life));
            is_sent_to && queue::of(&other.socket).is_some_and(|queue| queue.listens && queue.waiting == 0)
        })
    }

    /// A worker can be taken out of rotation.
    pub fn disconnects(&self) -> bool {
        self.balance != Balance::Queue
    }

    /// New connections reach it.
    pub fn is_joined(&self, life: Life) -> bool {
        self.lives.standing(life) == Standing::Joined
    }

    /// Whatever is listened on, new connections are put off there; and something is.
    pub fn is_behind_doors(&self) -> bool {
        let mut groups = self.groups.values().filter(|group| group.is_listened_on()).peekable();
        groups.peek().is_some() && groups.all(Group::is_closed)
    }

    /// Connections that this life could take are put off.
    pub fn are_put_off(&self, life: Life) -> bool {
        let at = self.lives.addresses(life).filter(|address| self.lane_of(address, life).is_some());
        at.filter_map(|address| self.groups.get(address)).any(Group::is_closed)
    }

    /// Some lane has a worker.
    pub fn have_owners(&self) -> bool {
        self.groups.values().flat_map(Group::lanes).any(|(_, member)| !member.owners.is_empty())
    }

    /// Nobody will be accepted in this life's lanes any more, and nobody waits to be.
    pub fn are_shut(&self, life: Life) -> bool {
        let lanes = self.lives.addresses(life).filter_map(|address| self.lane_of(address, life));
        lanes.filter_map(|lane| self.queue(lane.id)).all(|queue| !queue.listens)
    }

    /// Connections that wait in this life's lanes.
    pub fn waiting(&self, life: Life) -> u32 {
        let lanes = self.lives.addresses(life).filter_map(|address| self.lane_of(address, life));
        lanes.filter_map(|lane| self.queue(lane.id)).map(|queue| queue.waiting).fold(0, u32::saturating_add)
    }

    /// The only slot that has a lane at this address, if there is only one.
    pub fn only_slot(&self, address: &Address) -> Option<Slot> {
        let mut slots = self.groups.get(address)?.lanes().map(|(_, member)| member.slot);
        let first = slots.next()?;
        slots.all(|slot| slot == first).then_some(first)
    }
}
