//! Whether a successor has room beside its predecessor.

use std::time::Duration;

use super::Container;
use super::meter::Gauge;
use crate::cluster::supervisor::Supervisor;
use crate::cluster::words::{Life, Time};
use crate::cluster::worker::Worker;

/// What a worker uses so soon after it is ready is what a successor will need.
const FRESH: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Also where the container was never measured.
    pub(in crate::cluster) fn has_room_for_one_more(&self) -> bool {
        let (Some(lines), Some(container)) = (self.lines(), self.memory.container) else { return true };
        let need = self.need(container);
        // The figure may be from before the last one left.
        let gone = container.workers.saturating_sub(self.living());
        container.bytes.saturating_sub(need.saturating_mul(gone)).saturating_add(need) <= lines.short
    }

    /// What a successor will use. Where workers are not measured, each has an equal part of the container.
    pub(super) fn need(&self, container: Container) -> u64 {
        let known = self.memory.need.or_else(|| self.mean());
        known.unwrap_or_else(|| container.bytes / container.workers.max(1))
    }

    fn mean(&self) -> Option<u64> {
        let figures = self.roster.iter().filter_map(|worker| Some(at_most_its_cap(worker, worker.meter.value(Gauge::Bytes)?)));
        let (count, sum) = figures.fold((0_u64, 0_u64), |(count, sum), figure| (count + 1, sum.saturating_add(figure)));
        sum.checked_div(count)
    }

    /// Workers of whose trees something is left.
    pub(super) fn living(&self) -> u64 {
        self.roster.iter().filter(|worker| worker.pid.is_some()).fold(0, |count, _| count + 1)
    }

    /// Keeps what is known of a worker of the present generation that became ready only lately.
    pub(super) fn learn_need(&mut self, now: Time, life: Life) {
        let Some(worker) = self.roster.get(life).filter(|worker| worker.generation == self.generation) else { return };
        let is_fresh = worker.ready_since.is_some_and(|since| now.since(since) <= FRESH);
        let bytes = worker.meter.sure_bytes().filter(|_| is_fresh).map(|bytes| at_most_its_cap(worker, bytes));
        self.memory.need = self.memory.need.max(bytes);
    }

    /// What comes with a reload may be another program.
    pub(in crate::cluster) fn forget_need(&mut self) {
        self.memory.need = None;
    }
}

/// More than that it never has for long.
fn at_most_its_cap(worker: &Worker, bytes: u64) -> u64 {
    worker.cap.map_or(bytes, |cap| bytes.min(cap))
}
