//! All workers by life, with what must not be counted anew at every event: how many are ready, whose deadline is next, and who is
//! in a slot.
//!
//! A worker changes only inside [`Roster::update`], so that the indexes cannot go stale; with 1,000 workers an event costs
//! what it costs with two.

use std::collections::{BTreeMap, BTreeSet};

use super::words::{Life, Slot, Time};
use super::worker::Worker;

#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    workers: BTreeMap<Life, Worker>,
    deadlines: BTreeSet<(Time, Life)>,
    by_slot: BTreeSet<(Slot, Life)>,
    ready: u32,
    surely_ready: u32,
    joined: u32,
}

impl Roster {
    pub(super) fn insert(&mut self, worker: Worker) {
        self.index(&worker);
        self.workers.insert(worker.life, worker);
    }

    pub(super) fn remove(&mut self, life: Life) -> Option<Worker> {
        let worker = self.workers.remove(&life)?;
        self.unindex(&worker);
        Some(worker)
    }

    pub(super) fn get(&self, life: Life) -> Option<&Worker> {
        self.workers.get(&life)
    }

    /// `None` where there is no such worker.
    pub(super) fn update<T>(&mut self, life: Life, change: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        let mut worker = self.workers.remove(&life)?;
        self.unindex(&worker);
        let answer = change(&mut worker);
        self.insert(worker);
        Some(answer)
    }

    /// The oldest worker of this slot that is still there, whether the slot is its or not.
    pub(super) fn unfinished_in(&self, slot: Slot) -> Option<Life> {
        self.by_slot.range((slot, Life(0))..=(slot, Life(u64::MAX))).next().map(|(_, life)| *life)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    pub(super) fn lives(&self) -> Vec<Life> {
        self.workers.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub(super) fn ready(&self) -> u32 {
        self.ready
    }

    /// Without those that only count as ready because `START_TIMEOUT` has passed.
    pub(super) fn surely_ready(&self) -> u32 {
        self.surely_ready
    }

    /// Those that new connections may reach.
    pub(super) fn joined(&self) -> u32 {
        self.joined
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The worker whose deadline has come longest ago.
    pub(super) fn due(&self, now: Time) -> Option<Life> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, life)| *life)
    }

    fn index(&mut self, worker: &Worker) {
        if let Some(at) = worker.deadline() {
            self.deadlines.insert((at, worker.life));
        }
        if !worker.is_given_up() {
            self.by_slot.insert((worker.slot, worker.life));
        }
        self.ready += u32::from(worker.is_ready());
        self.surely_ready += u32::from(worker.is_surely_ready());
        self.joined += u32::from(worker.joined.is_some());
    }

    fn unindex(&mut self, worker: &Worker) {
        if let Some(at) = worker.deadline() {
            self.deadlines.remove(&(at, worker.life));
        }
        self.by_slot.remove(&(worker.slot, worker.life));
        self.ready -= u32::from(worker.is_ready());
        self.surely_ready -= u32::from(worker.is_surely_ready());
        self.joined -= u32::from(worker.joined.is_some());
    }
}
