//! The slots: who is in each, what it waits for, and its history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::status::{LastExit, Restarts};
use super::words::{ExitStatus, Life, Slot, Time};

#[derive(Clone, Debug)]
pub(super) struct SlotState {
    pub(super) occupancy: Occupancy,
    /// Failing starts in a row.
    pub(super) failures: u32,
    /// Refused forks in a row.
    pub(super) refusals: u32,
    pub(super) restarts: Restarts,
    /// From the fork to being ready, of the worker that got so far last.
    pub(super) last_start: Option<Duration>,
    pub(super) last_exit: Option<LastExit>,
    /// The wait after these failures was cut short once, because connections wait in a queue of this slot.
    pub(super) hurried: bool,
    /// No replacement for such connections before: the last one failed.
    pub(super) queue_waits_until: Option<Time>,
}

/// What a slot holds. The successor of a rolling restart is in the rollout, not here, until it takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupancy {
    /// Waits for slot 0 to get ready.
    Waiting,
    Worker(Life),
    /// Will be started at this instant.
    Backoff {
        until: Time,
    },
    /// Will not run again; the status its last worker ended with, if it had one.
    Done {
        status: Option<ExitStatus>,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    states: BTreeMap<Slot, SlotState>,
    starts: BTreeSet<(Time, Slot)>,
    done: usize,
}

impl SlotState {
    fn new() -> Self {
        Self {
            occupancy: Occupancy::Waiting,
            failures: 0,
            refusals: 0,
            restarts: Restarts::default(),
            last_start: None,
            last_exit: None,
            hurried: false,
            queue_waits_until: None,
        }
    }
}

impl Slots {
    /// Adds an empty slot where there is none of that number.
    pub(super) fn open(&mut self, slot: Slot) {
        self.states.entry(slot).or_insert_with(SlotState::new);
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some(state) = self.states.remove(&slot) {
            self.unindex(slot, state.occupancy);
        }
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&SlotState> {
        self.states.get(&slot)
    }

    /// Changes the history of a slot; what it holds changes by [`Slots::occupy`].
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.states.get_mut(&slot)
    }

    /// Does nothing where there is no such slot.
    pub(super) fn occupy(&mut self, slot: Slot, occupancy: Occupancy) {
        let Some(before) = self.states.get(&slot).map(|state| state.occupancy) else { return };
        self.unindex(slot, before);
        match occupancy {
            Occupancy::Backoff { until } => {
                self.starts.insert((until, slot));
            }
            Occupancy::Done { .. } => self.done += 1,
            Occupancy::Waiting | Occupancy::Worker(_) => {}
        }
        if let Some(state) = self.states.get_mut(&slot) {
            state.occupancy = occupancy;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &SlotState)> {
        self.states.iter().map(|(slot, state)| (*slot, state))
    }

    pub(super) fn ids(&self) -> Vec<Slot> {
        self.states.keys().copied().collect()
    }

    /// The worker in this slot, if there is one.
    pub(super) fn worker(&self, slot: Slot) -> Option<Life> {
        match self.states.get(&slot)?.occupancy {
            Occupancy::Worker(life) => Some(life),
            Occupancy::Waiting | Occupancy::Backoff { .. } | Occupancy::Done { .. } => None,
        }
    }

    /// True when no slot will ever run again.
    pub(super) fn all_done(&self) -> bool {
        self.done == self.states.len()
    }

    pub(super) fn next_start(&self) -> Option<Time> {
        self.starts.first().map(|(at, _)| *at)
    }

    /// The slot whose start is due for the longest time.
    pub(super) fn due(&self, now: Time) -> Option<Slot> {
        self.starts.first().filter(|(at, _)| *at <= now).map(|(_, slot)| *slot)
    }

    fn unindex(&mut self, slot: Slot, occupancy: Occupancy) {
        match occupancy {
            Occupancy::Backoff { until } => {
                self.starts.remove(&(until, slot));
            }
            Occupancy::Done { .. } => self.done -= 1,
            Occupancy::Waiting | Occupancy::Worker(_) => {}
        }
    }
}
