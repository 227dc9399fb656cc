//! Who uses too much memory, and what becomes of them; what is to be measured next, and when.
//!
//! | file | decides |
//! |---|---|
//! | this one | what a measurement is taken for |
//! | `memory/meter.rs` | what is known of one worker: estimates, and exact figures |
//! | `memory/look.rs` | what is to be measured next, and when |
//! | `memory/cap.rs` | a worker near its own cap, or at it; the kernel's OOM killer |
//! | `memory/short.rs` | a container near its limit: the worker farthest above its share |
//! | `memory/room.rs` | whether a successor has room beside its predecessor |

mod cap;
mod look;
mod meter;
mod room;
mod short;

use std::cell::OnceCell;
use std::collections::BTreeSet;

pub use look::Look;
pub(super) use meter::Meter;
pub(super) use short::margin;

use self::short::Level;
use super::event::{Used, WorkerUses};
use super::supervisor::Supervisor;
use super::words::{Life, Time};
use super::worker::{Phase, Worker};

pub(super) const MIB: u64 = 1 << 20;

/// What is known of the container, and what was done about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// What is to be looked at next, as soon as somebody has asked for it; until the next step.
    next: OnceCell<Option<Look>>,
    /// When figures came last, whatever they were.
    answered: Option<Time>,
    /// When all workers and the container were looked at together last.
    looked: Option<Time>,
    container: Option<Container>,
    /// When the container was looked at in vain since its last figure.
    missed: Option<Time>,
    short_since: Option<Time>,
    /// It has just become short, and workers were not looked at: they are at once.
    hurry: bool,
    /// When people were told last that nobody is above its share; and in this shortness.
    nobody_told: Option<Time>,
    told_in_this: bool,
    /// When a worker was killed last for its memory, by us or by the kernel.
    last_kill: Option<Time>,
    /// The most that any worker of this generation surely used soon after it was ready: what a successor will need.
    need: Option<u64>,
}

/// What the container used at one instant.
#[derive(Clone, Copy, Debug)]
struct Container {
    bytes: u64,
    at: Time,
    /// How many workers were there.
    workers: u64,
}

impl Supervisor {
    pub(super) fn used(&mut self, now: Time, used: &Used) {
        let wanted = self.next_look().filter(|look| look.at <= now && !self.is_confirmation(used));
        let asked = wanted.is_some_and(|look| look.workers) || !used.workers.is_empty();
        self.memory.answered = Some(now);
        for uses in &used.workers {
            self.record(now, uses);
        }
        if let Some(Look { workers, container, .. }) = wanted {
            self.note_missing(now, used, workers, container.is_some());
        }
        if let Some(bytes) = used.container {
            self.memory.container = Some(Container { bytes, at: now, workers: self.living() });
            self.memory.missed = None;
            self.lower_bound(bytes);
            if asked {
                self.memory.looked = Some(now);
            }
        }
        let was_enough = self.memory.short_since.is_none();
        self.note_level(now);
        self.memory.hurry = was_enough && self.memory.short_since.is_some() && !asked;
        for uses in &used.workers {
            self.judge(now, uses.life);
        }
        self.relieve(now);
    }

    fn record(&mut self, now: Time, uses: &WorkerUses) {
        let measured = self.roster.get(uses.life).is_some_and(|worker| worker.pid.is_some());
        if !measured {
            return;
        }
        self.roster.update(uses.life, |worker| worker.meter.take(now, uses));
        self.learn_need(now, uses.life);
    }

    /// Keeps book of when the container became short; called whenever its use or its limit has changed.
    pub(super) fn note_level(&mut self, now: Time) {
        if self.level() == Level::Enough {
            self.memory.short_since = None;
            self.memory.told_in_this = false;
        } else {
            self.memory.short_since.get_or_insert(now);
        }
    }

    /// The answer to a `Confirm`, not to a look.
    fn is_confirmation(&self, used: &Used) -> bool {
        let [only] = &used.workers[..] else { return false };
        used.container.is_none() && only.exact && self.roster.get(only.life).is_some_and(|worker| worker.meter.was_asked())
    }

    /// What was asked for and cannot be had is not asked for all the time.
    fn note_missing(&mut self, now: Time, used: &Used, workers: bool, container: bool) {
        if container && used.container.is_none() {
            self.memory.missed = Some(now);
        }
        if workers {
            let there: BTreeSet<Life> = used.workers.iter().map(|uses| uses.life).collect();
            let missing = self.roster.iter().filter(|worker| is_within_reach(worker) && !there.contains(&worker.life));
            let missing: Vec<Life> = missing.map(|worker| worker.life).collect();
            for life in missing {
                self.roster.update(life, |worker| worker.meter.missed = Some(now));
            }
        }
    }

    /// What was to be looked at next may be another thing now; called at the end of every step.
    pub(super) fn forget_next_look(&mut self) {
        self.memory.next = OnceCell::new();
    }
}

/// It may be killed for its memory: it runs, maybe on its way out.
fn is_within_reach(worker: &Worker) -> bool {
    worker.pid.is_some() && !matches!(worker.phase, Phase::Killed { .. })
}
