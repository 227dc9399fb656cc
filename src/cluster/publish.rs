//! The snapshot that the side port reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shutdown::Course;
use super::slots::{Occupancy, SlotState};
use super::status::{Row, RowState, Shared, Snapshot, State};
use super::supervisor::Supervisor;
use super::words::{Slot, Time};
use super::worker::Worker;

impl Supervisor {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            facts: Arc::clone(&self.facts),
            state: self.state(),
            generation: self.generation,
            wanted: self.wanted,
            ready: self.roster.ready(),
            unready: self.unready(),
            unhealthy_from: self.unhealthy_from(),
            orphans_reaped: self.orphans_reaped,
            tally: self.tally,
            signals: BTreeMap::new(),
            reload: self.rollout.reload.clone(),
            shared: Arc::new(Shared::default()),
            channels: BTreeMap::new(),
            rows: self.rows(),
            events: self.journal.clone(),
        }
    }

    fn state(&self) -> State {
        match self.course {
            Course::Running if self.learned.was_up => State::Running,
            Course::Running => State::Starting,
            Course::Draining { .. } => State::Draining,
            Course::Stopping { .. } | Course::Sweeping(_) | Course::Over => State::Stopping,
        }
    }

    fn unready(&self) -> Option<String> {
        let (ready, wanted, enough) = (self.roster.surely_ready(), self.wanted, self.enough());
        let presumed = self.roster.ready() - ready;
        if !self.course.is_running() {
            Some("a stop is under way".to_owned())
        } else if presumed > 0 && (!self.learned.was_up || ready < enough) {
            Some(format!(
                "{ready} of {wanted} workers are ready; {presumed} have neither listened nor notified within \
                 CLUSTERINIT_START_TIMEOUT: set CLUSTERINIT_READY=running if they are not meant to"
            ))
        } else if !self.learned.was_up {
            Some(format!("starting: {ready} of {wanted} workers are ready"))
        } else if ready < enough {
            Some(format!("{ready} of {wanted} workers are ready, MIN_READY asks for {enough}"))
        } else {
            None
        }
    }

    fn unhealthy_from(&self) -> Option<Time> {
        if !self.course.is_running() {
            return None;
        }
        let since = match self.learned.none_ready_since {
            _ if self.roster.ready() > 0 => self.all_wait_since()?,
            Some(since) => since,
            None => self.learned.first_start? + self.policy.start_timeout,
        };
        Some(since + self.policy.unhealthy_after)
    }

    /// By slot; lives count upwards, so a predecessor comes before its successor, and what outlived SIGKILL before its slot.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.roster.iter().map(|worker| self.worker_row(worker)).collect();
        rows.extend(self.slots.iter().filter_map(|(slot, state)| self.empty_row(slot, state)));
        rows.sort_by_key(|row| (row.slot, row.life.is_none(), row.life));
        rows
    }

    fn worker_row(&self, worker: &Worker) -> Row {
        let history = self.slots.get(worker.slot);
        Row {
            slot: worker.slot,
            life: Some(worker.life),
            pid: worker.pid,
            state: worker.row_state(),
            generation: worker.generation,
            started: Some(worker.forked),
            restarts: history.map_or(0, |state| state.restarts.unasked()),
            restarts_by: history.map(|state| state.restarts).unwrap_or_default(),
            last_start: history.and_then(|state| state.last_start),
            memory_cap_bytes: worker.cap,
            next_start: None,
            last_exit: history.and_then(|state| state.last_exit),
        }
    }

    fn empty_row(&self, slot: Slot, history: &SlotState) -> Option<Row> {
        let (state, next_start) = match history.occupancy {
            _ if self.roster.unfinished_in(slot).is_some() => return None,
            Occupancy::Worker(_) => return None,
            Occupancy::Waiting => (RowState::Backoff, self.first_timeout()),
            Occupancy::Backoff { until } => (RowState::Backoff, Some(until)),
            Occupancy::Done { .. } => (RowState::Stopped, None),
        };
        Some(Row {
            slot,
            life: None,
            pid: None,
            state,
            generation: self.generation,
            started: None,
            restarts: history.restarts.unasked(),
            restarts_by: history.restarts,
            last_start: history.last_start,
            memory_cap_bytes: self.policy.inputs.share(self.wanted).memory,
            next_start,
            last_exit: history.last_exit,
        })
    }
}
