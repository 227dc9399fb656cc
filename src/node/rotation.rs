//! Round robin: whose turn it is, and connections that nobody has taken for good yet. PURE.
//!
//! A worker that dies between a connection and its acknowledgement must not take it along (Node's own primary leaks it, and the client
//! waits for ever). So each is kept until it was accepted, and given to another worker if the first one dies or does not want it.

use std::collections::{BTreeMap, VecDeque};

use crate::cluster::words::Life;

/// Connections that one worker may have without having acknowledged them: more would only wait where nobody else can take them.
pub const DEPTH: usize = 16;

/// The connections `C` of one listener.
#[derive(Debug)]
pub struct Rotation<C> {
    /// Whoever is next comes first.
    members: VecDeque<Life>,
    waiting: VecDeque<C>,
    handed: BTreeMap<Life, BTreeMap<u64, C>>,
}

impl<C> Default for Rotation<C> {
    fn default() -> Self {
        Self { members: VecDeque::new(), waiting: VecDeque::new(), handed: BTreeMap::new() }
    }
}

impl<C> Rotation<C> {
    /// New connections may go to this worker.
    pub fn join(&mut self, life: Life) {
        if !self.members.contains(&life) {
            self.members.push_back(life);
        }
    }

    /// New connections go to others. What it has not acknowledged may still be accepted by it.
    pub fn leave(&mut self, life: Life) {
        self.members.retain(|member| *member != life);
    }

    pub fn offer(&mut self, connection: C) {
        self.waiting.push_back(connection);
    }

    /// The next connection and who gets it; to be followed by [`Rotation::handed`].
    pub fn assign(&mut self) -> Option<(Life, C)> {
        let place = self.members.iter().position(|life| self.outstanding(*life) < DEPTH)?;
        let connection = self.waiting.pop_front()?;
        let life = self.members.remove(place)?;
        self.members.push_back(life);
        Some((life, connection))
    }

    /// It is on its way under this number.
    pub fn handed(&mut self, life: Life, number: u64, connection: C) {
        self.handed.entry(life).or_default().insert(number, connection);
    }

    /// The worker has answered. One that it did not want is somebody else's; answers to what it does not have mean nothing.
    pub fn answered(&mut self, life: Life, number: u64, accepted: bool) -> bool {
        let Some(connection) = self.handed.get_mut(&life).and_then(|handed| handed.remove(&number)) else { return false };
        if !accepted {
            self.waiting.push_front(connection);
        }
        true
    }

    /// The worker has gone: what it had not acknowledged is first in the line again.
    pub fn lost(&mut self, life: Life) {
        self.leave(life);
        for connection in self.handed.remove(&life).unwrap_or_default().into_values().rev() {
            self.waiting.push_front(connection);
        }
    }

    /// Whether somebody can take one more: else connections wait better in the kernel's queue.
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.members.iter().any(|life| self.outstanding(*life) < DEPTH)
    }

    /// Nobody is left who could take them.
    pub fn give_up(&mut self) -> usize {
        std::mem::take(&mut self.waiting).len()
    }

    /// Nobody is asked any more.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn outstanding(&self, life: Life) -> usize {
        self.handed.get(&life).map_or(0, BTreeMap::len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_gets_its_turn_and_what_a_dead_one_had_is_served_first() {
        let mut rotation = Rotation::default();
        rotation.join(Life(1));
        rotation.join(Life(2));
        (0..4).for_each(|number| rotation.offer(number));
        let mut turns = Vec::new();
        while let Some((life, connection)) = rotation.assign() {
            rotation.handed(life, connection, connection);
            turns.push((life.0, connection));
        }
        assert_eq!(turns, [(1, 0), (2, 1), (1, 2), (2, 3)]);
        assert!(rotation.answered(Life(1), 0, true) && !rotation.answered(Life(1), 0, true), "once");
        assert!(!rotation.answered(Life(2), 2, true), "not its own");
        rotation.offer(4);
        rotation.lost(Life(1));
        assert_eq!(rotation.assign(), Some((Life(2), 2)), "before what came later");
        assert_eq!(rotation.assign(), Some((Life(2), 4)));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nobody_has_too_many(steps in proptest::collection::vec((0u8..7, 0u64..4, any::<bool>()), 0..300)) {
            let mut rotation = Rotation::default();
            let (mut offered, mut accepted, mut seq) = (0_u64, BTreeSet::new(), 0);
            let mut known: BTreeMap<(Life, u64), u64> = BTreeMap::new();
            for (step, life, yes) in steps {
                let life = Life(life);
                match step {
                    0 => rotation.join(life),
                    1 => rotation.leave(life),
                    2 => { rotation.lost(life); known.retain(|(of, _), _| *of != life); }
                    3 => {
                        if let Some(((_, number), connection)) = known.iter().find(|((of, _), _)| *of == life).map(|(at, c)| (*at, *c)) {
                            prop_assert!(rotation.answered(life, number, yes));
                            known.remove(&(life, number));
                            if yes { accepted.insert(connection); }
                        }
                    }
                    _ => {
                        rotation.offer(offered);
                        offered += 1;
                        while let Some((to, connection)) = rotation.assign() {
                            seq += 1;
                            rotation.handed(to, seq, connection);
                            known.insert((to, seq), connection);
                            prop_assert!(rotation.outstanding(to) <= DEPTH);
                        }
                    }
                }
            }
            let mut left: BTreeSet<u64> = rotation.waiting.iter().copied().collect();
            left.extend(rotation.handed.values().flat_map(BTreeMap::values));
            left.extend(&accepted);
            prop_assert_eq!(left, (0..offered).collect());
        }
    }
}
