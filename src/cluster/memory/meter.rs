//! What is known of the memory of one worker: estimates, which may be too high, and exact figures, which are asked for before
//! anything follows from an estimate.
//!
//! An exact figure costs a walk through all pages of the tree. What it is below the estimate is taken off the next ones, so that it is
//! asked for again only when the tree has grown; and now and then, because what was counted twice may be gone.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::look::PER_MS;

use crate::cluster::event::WorkerUses;
use crate::cluster::words::Time;

/// A question that is older than this was lost.
const ANSWER: Duration = Duration::from_secs(1);

/// Of a tree that could not be read, which costs little, the exact figure is asked for again after this.
const AGAIN: Duration = Duration::from_millis(10);

/// An exact figure holds for as long as it would take to allocate what was missing then, within these: what was counted twice may be gone
/// meanwhile, and as much be allocated.
const HOLDS: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
pub(in crate::cluster) struct Meter {
    last: Option<Figure>,
    exact: Option<Exact>,
    /// The exact figure was asked for: it is not asked for again before this.
    asked_until: Option<Time>,
    /// When it was looked at in vain since its last figure.
    pub(super) missed: Option<Time>,
    pub(super) soft: Soft,
    /// People were told that it needs more.
    pub(super) told: bool,
    /// The kernel's OOM killer ended it, or some of its tree.
    pub(in crate::cluster) out_of_memory: bool,
}

/// What has followed from `MEMORY_SOFT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Soft {
    #[default]
    Below,
    /// It is to be replaced.
    Queued,
    /// It needs more, and stays until its cap.
    Stays,
}

/// Which of the two figures.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gauge {
    /// All that counts against a cap.
    Bytes,
    /// What comes back when the worker ends.
    Returns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Below,
    /// Perhaps: the exact figure is to be asked for.
    Perhaps,
    /// The exact figure was asked for.
    Asked,
    Reached,
}

/// As it was measured.
#[derive(Clone, Copy, Debug)]
struct Figure {
    uses: WorkerUses,
    at: Time,
}

#[derive(Clone, Copy, Debug)]
struct Exact {
    uses: WorkerUses,
    at: Time,
    /// What it is below the estimate: what is taken off the next ones.
    discount: (u64, u64),
}

impl Gauge {
    fn of(self, uses: &WorkerUses) -> u64 {
        match self {
            Self::Bytes => uses.bytes,
            Self::Returns => uses.returns,
        }
    }

    fn discount(self, exact: &Exact) -> u64 {
        match self {
            Self::Bytes => exact.discount.0,
            Self::Returns => exact.discount.1,
        }
    }
}

impl Meter {
    pub(super) fn take(&mut self, now: Time, uses: &WorkerUses) {
        self.missed = None;
        if uses.exact {
            let estimate = self.last.map(|last| last.uses).filter(|uses| !uses.exact);
            // Of a tree that was there a moment ago: it could not be read.
            if uses.bytes == 0 && estimate.is_some_and(|estimate| estimate.bytes > 0) {
                self.asked_until = Some(now + AGAIN);
                return;
            }
            let above = |gauge: Gauge| estimate.map_or(0, |estimate| gauge.of(&estimate).saturating_sub(gauge.of(uses)));
            self.exact = Some(Exact { uses: *uses, at: now, discount: (above(Gauge::Bytes), above(Gauge::Returns)) });
            self.asked_until = None;
            self.last = None;
        } else {
            self.last = Some(Figure { uses: *uses, at: now });
        }
    }

    pub(super) fn ask(&mut self, now: Time) {
        self.asked_until = Some(now + ANSWER);
    }

    /// The exact figure was asked for, and has not come.
    pub(super) fn was_asked(&self) -> bool {
        self.asked_until.is_some()
    }

    /// The exact figure was asked for, and may still come.
    fn is_asked(&self, now: Time) -> bool {
        self.asked_until.is_some_and(|until| now < until)
    }

    /// The last figure, corrected by what the last exact one taught.
    pub(super) fn value(&self, gauge: Gauge) -> Option<u64> {
        match (&self.last, &self.exact) {
            (Some(last), Some(exact)) => Some(gauge.of(&last.uses).saturating_sub(gauge.discount(exact))),
            (Some(last), None) => Some(gauge.of(&last.uses)),
            (None, exact) => exact.map(|exact| gauge.of(&exact.uses)),
        }
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        self.value(Gauge::Bytes)
    }

    /// The last figure, unless it is an estimate that was never corrected.
    pub(super) fn sure_bytes(&self) -> Option<u64> {
        self.bytes().filter(|_| self.exact.is_some())
    }

    /// When the last figure was taken.
    pub(super) fn taken(&self) -> Option<Time> {
        self.last.map(|last| last.at).or(self.exact.map(|exact| exact.at))
    }

    /// Whether it uses so much. `grain`: by how much an estimate grows before it is worth an exact figure again.
    pub(super) fn reads(&self, now: Time, gauge: Gauge, threshold: u64, grain: u64) -> Reading {
        let Some(last) = &self.last else {
            let reached = self.exact.is_some_and(|exact| gauge.of(&exact.uses) >= threshold);
            return if reached { Reading::Reached } else { Reading::Below };
        };
        if gauge.of(&last.uses) < threshold {
            return Reading::Below;
        }
        let worth = match &self.exact {
            None => true,
            Some(exact) => {
                let (known, value) = (gauge.of(&exact.uses), self.value(gauge).unwrap_or(0));
                let grown = value >= threshold && (known >= threshold || value >= known.saturating_add(grain));
                grown || now.since(exact.at) >= holds(threshold.saturating_sub(known))
            }
        };
        match worth {
            true if self.is_asked(now) => Reading::Asked,
            true => Reading::Perhaps,
            false => Reading::Below,
        }
    }
}

/// How long an exact figure holds that was so far below the line.
fn holds(distance: u64) -> Duration {
    Duration::from_millis(distance / PER_MS).clamp(*HOLDS.start(), *HOLDS.end())
}
