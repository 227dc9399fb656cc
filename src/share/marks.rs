//! What is remembered of a worker's sockets, by inode. PURE.
//!
//! A call says only which descriptor it means; what was said of that socket in earlier calls is here. Nobody tells us when a socket is
//! closed, so there is a bound: the socket that was not heard of for longest is forgotten. What is forgotten is treated like a socket that we have
//! not seen, which hurts only a worker with that many.

use std::collections::BTreeMap;

use super::address::Address;

/// Sockets of one life. A server with more listeners than this does not exist; a flood does.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Marks {
    /// With the number of its last change.
    by_inode: BTreeMap<u64, (u64, Mark)>,
    changes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The server has set `SO_REUSEPORT` by itself.
    pub own_sharing: bool,
    /// `IPV6_V6ONLY`, where the server has set it.
    pub v6only: Option<bool>,
    pub place: Place,
}

/// Whose socket it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Unknown,
    /// Ours, bound and not listening, in the worker's hands only.
    Fresh(Address),
    /// Ours: an accept queue.
    Lane(Address),
    /// The worker's own, left to the kernel.
    Left { address: Address, listens: bool },
}

impl Marks {
    pub(super) fn of(&self, inode: u64) -> Mark {
        self.by_inode.get(&inode).map(|(_, mark)| *mark).unwrap_or_default()
    }

    pub(super) fn change(&mut self, inode: u64, change: impl FnOnce(&mut Mark)) {
        self.changes += 1;
        let (changed, mark) = self.by_inode.entry(inode).or_default();
        *changed = self.changes;
        change(mark);
        if self.by_inode.len() > MOST {
            let oldest = self.by_inode.iter().min_by_key(|(_, (changed, _))| *changed).map(|(inode, _)| *inode);
            oldest.map(|inode| self.by_inode.remove(&inode));
        }
    }

    /// The worker's own listeners, left to the kernel: inode and address.
    pub(super) fn own_listeners(&self) -> impl Iterator<Item = (u64, Address)> {
        self.by_inode.iter().filter_map(|(inode, (_, mark))| match mark.place {
            Place::Left { address, listens: true } => Some((*inode, address)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn a_flood_is_forgotten_from_its_old_end() {
        let mut marks = Marks::default();
        for inode in 0..10_000 {
            marks.change(inode, |mark| mark.own_sharing = true);
            marks.change(3, |mark| mark.v6only = Some(true));
        }
        assert_eq!(marks.by_inode.len(), MOST);
        assert_eq!(marks.of(3), Mark { own_sharing: true, v6only: Some(true), place: Place::Unknown });
        assert_eq!(marks.of(4), Mark::default());
        assert!(marks.of(9_999).own_sharing);
    }

    #[test]
    fn only_what_the_kernel_was_left_and_listens_is_the_worker_s_own_listener() {
        let mut marks = Marks::default();
        let address = Address { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 80, scope: 0, v6only: false };
        let places = [
            Place::Unknown,
            Place::Fresh(address),
            Place::Lane(address),
            Place::Left { address, listens: false },
            Place::Left { address, listens: true },
        ];
        for (inode, place) in (0..).zip(places) {
            marks.change(inode, |mark| mark.place = place);
        }
        assert_eq!(marks.own_listeners().map(|(inode, at)| (inode, at.port)).collect::<Vec<_>>(), [(4, 80)]);
    }
}
