//! What is to be measured next, and when: as late as nobody could have reached a line before, if he allocated as fast as he can.

use std::time::Duration;

use super::is_within_reach;
use super::meter::Soft;
use super::short::{Level, Lines};
use crate::cluster::shutdown::Course;
use crate::cluster::sizing::Caps;
use crate::cluster::supervisor::Supervisor;
use crate::cluster::words::Time;
use crate::cluster::worker::{Worker, earliest};

/// Bytes that a worker can allocate in a millisecond: 2.5 MiB, measured with a loop of memset.
pub(super) const PER_MS: u64 = 5 << 19;

/// What is looked at more often costs more than it tells.
const SOONEST: Duration = Duration::from_millis(10);

/// Where the kernel holds the caps there is no hurry.
const SOONEST_FOR_SOFT: Duration = Duration::from_millis(100);

/// Not every growth is an allocation that was seen to begin. What cannot be had is asked for again after this.
const LATEST: Duration = Duration::from_millis(500);

/// What can be allocated in that time: whoever is farther away is looked at no later.
const FARTHEST: u64 = PER_MS * 500;

/// What is to be measured, and when at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub at: Time,
    /// What each worker's tree uses.
    pub workers: bool,
    /// What the container uses: whether it is more than this, and how much then. What is below may be counted with page cache.
    pub container: Option<u64>,
}

/// The next look at one thing is due between these two.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// When it was looked at last.
    from: Time,
    at: Time,
}

impl Supervisor {
    /// `None`: nothing is capped, or nobody could reach it. Works it out once after a step.
    pub fn next_look(&self) -> Option<Look> {
        *self.memory.next.get_or_init(|| self.work_out_next_look())
    }

    fn work_out_next_look(&self) -> Option<Look> {
        if !self.has_anything_to_look_at() {
            return None;
        }
        let short = self.level() != Level::Enough;
        let container = self.lines().and_then(|lines| self.container_due(lines));
        let workers = self.workers_due();
        let at = earliest(container.map(|due| due.at), workers.map(|due| due.at))?;
        let soonest = if self.memory.hurry { Duration::ZERO } else { SOONEST };
        let at = self.memory.answered.map_or(at, |answered| at.max(answered + soonest));
        let container = container.filter(|due| due.joins(at)).and_then(|_| self.lines()).map(|lines| self.enough_below(lines));
        // Who is to go in a shortness is decided by all of them.
        let workers = workers.is_some_and(|due| due.joins(at)) || (short && container.is_some());
        Some(Look { at, workers, container })
    }

    fn has_anything_to_look_at(&self) -> bool {
        match self.course {
            Course::Running | Course::Draining { .. } => true,
            Course::Stopping { .. } => self.roster.iter().any(is_within_reach),
            Course::Sweeping(_) | Course::Over => false,
        }
    }

    fn container_due(&self, lines: Lines) -> Option<Due> {
        if let Some(missed) = self.memory.missed {
            return Some(Due { from: missed, at: missed + LATEST });
        }
        let (bytes, from) = match self.memory.container {
            Some(container) => (container.bytes, container.at),
            None => (0, self.learned.first_start?),
        };
        let distance = match bytes.checked_sub(lines.short) {
            None | Some(0) => lines.short - bytes,
            // Before all have been looked at, that is at once.
            Some(_) if self.memory.looked < self.memory.short_since => 0,
            Some(_) => match self.distance_to_share() {
                // What can be done about it was done at the last look.
                Some(0) => lines.critical.saturating_sub(bytes),
                Some(distance) => distance,
                None => 0,
            },
        };
        let at = if self.memory.hurry { from } else { from + wait(distance, SOONEST) };
        Some(Due { from, at })
    }

    /// Up to this the figure may be one with page cache: nobody could become short by the latest look, and a successor has room whatever
    /// part of it is page cache.
    fn enough_below(&self, lines: Lines) -> u64 {
        let need = self.memory.container.map_or(0, |container| self.need(container));
        lines.short.saturating_sub(need.max(FARTHEST)).min(lines.short / 2)
    }

    fn workers_due(&self) -> Option<Due> {
        let Caps::Fixed(_) = self.policy.inputs.caps else { return None };
        self.roster.iter().filter_map(|worker| self.worker_due_at(worker)).min_by_key(|due| due.at)
    }

    /// When this worker could have reached the line at which something follows.
    fn worker_due_at(&self, worker: &Worker) -> Option<Due> {
        let cap = worker.cap.filter(|_| is_within_reach(worker))?;
        let (line, soonest) = if self.policy.kernel_caps {
            let soft = self.soft_of(cap).filter(|_| worker.meter.soft == Soft::Below)?;
            (soft, SOONEST_FOR_SOFT)
        } else {
            (cap, SOONEST)
        };
        if let Some(missed) = worker.meter.missed {
            return Some(Due { from: missed, at: missed + LATEST });
        }
        let from = worker.meter.taken().unwrap_or(worker.forked);
        let distance = line.saturating_sub(worker.meter.bytes().unwrap_or(0));
        Some(Due { from, at: from + wait(distance, soonest) })
    }
}

impl Due {
    /// A look is shared by what is due at half its time or later: else the two would wake us up in turn.
    fn joins(self, at: Time) -> bool {
        (at >= self.from + SOONEST || at >= self.at) && at.since(self.from) * 2 >= self.at.since(self.from)
    }
}

fn wait(distance: u64, soonest: Duration) -> Duration {
    let nanos = distance.min(FARTHEST) * 1_000_000 / PER_MS;
    Duration::from_nanos(nanos).clamp(soonest, LATEST)
}
