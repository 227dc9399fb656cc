//! What is known of each worker here: whether clients may reach it, and where it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::words::Life;

use super::super::address::Address;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may listen already; it has not joined yet.
    #[default]
    Starting,
    Joined,
    Left {
        hand_over: bool,
    },
}

#[derive(Default)]
pub(super) struct Known {
    pub(super) standing: Standing,
    /// Where it has bound.
    pub(super) addresses: BTreeSet<Address>,
}

#[derive(Default)]
pub(super) struct Lives(pub(super) BTreeMap<Life, Known>);

impl Lives {
    pub(super) fn standing(&self, life: Life) -> Standing {
        self.0.get(&life).map(|known| known.standing).unwrap_or_default()
    }

    pub(super) fn addresses(&self, life: Life) -> impl Iterator<Item = &Address> {
        self.0.get(&life).into_iter().flat_map(|known| &known.addresses)
    }

    pub(super) fn known(&mut self, life: Life) -> &mut Known {
        self.0.entry(life).or_default()
    }
}
