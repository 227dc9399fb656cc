//! A container near its limit: the worker farthest above its share goes, before the kernel ends everything. The share that is compared is
//! the present one, by the limit and the count of now, not the cap that the worker was started with.

use std::time::Duration;

use super::cap::grain;
use super::meter::{Gauge, Reading, Soft};
use super::{MIB, is_within_reach};
use crate::cluster::effect::Note;
use crate::cluster::sizing::Caps;
use crate::cluster::supervisor::Supervisor;
use crate::cluster::words::{Life, Time};
use crate::cluster::worker::{Phase, Worker};

/// What is killed gives its memory back within this, and then it is seen whether that was enough.
const BETWEEN_KILLS: Duration = Duration::from_secs(1);

/// Who was asked to end gives its memory back within this, or is killed as any other.
const STOPS_WITHIN: Duration = Duration::from_millis(200);

/// A container that comes and goes across the line is no news each time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Enough,
    /// Above the limit less the margin.
    Short,
    /// Above the limit less half the margin.
    Critical,
}

/// What the container may use before it is short, and before it is critical.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    pub(super) limit: u64,
    pub(super) short: u64,
    pub(super) critical: u64,
}

/// What is free of a container that is just short.
pub(in crate::cluster) fn margin(limit: u64) -> u64 {
    (32 * MIB).max(limit / 20)
}

/// The worker that is to go.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    life: Life,
    returns: u64,
    reading: Reading,
}

impl Lines {
    fn below(limit: u64) -> Self {
        let margin = margin(limit);
        Self { limit, short: limit.saturating_sub(margin), critical: limit.saturating_sub(margin / 2) }
    }
}

impl Supervisor {
    /// `None`: there is no limit, or memory is nobody's business.
    pub(super) fn lines(&self) -> Option<Lines> {
        let limit = self.resize.read.memory_limit?;
        (self.policy.inputs.caps != Caps::Off).then(|| Lines::below(limit))
    }

    pub(super) fn level(&self) -> Level {
        match (self.lines(), self.memory.container) {
            (Some(lines), Some(container)) if container.bytes > lines.critical => Level::Critical,
            (Some(lines), Some(container)) if container.bytes > lines.short => Level::Short,
            _ => Level::Enough,
        }
    }

    pub(super) fn relieve(&mut self, now: Time) {
        let level = self.level();
        // Without a figure of now nobody is ended.
        if self.memory.missed.is_some() || self.memory.short_since.is_none_or(|since| self.memory.looked < Some(since)) {
            return;
        }
        let (Some(lines), Some(container), Some(share)) = (self.lines(), self.memory.container, self.present_share()) else {
            return;
        };
        let critical = level == Level::Critical;
        let Some(above) = self.farthest_above(now, share, |worker| critical || self.is_replaceable(worker)) else {
            if self.farthest_above(now, share, |_| true).is_none() {
                self.tell_nobody(now, container.bytes, lines.limit);
            }
            return;
        };
        let Candidate { life, returns, reading } = above;
        let Some(worker) = self.roster.get(life).filter(|worker| !stops_soon(now, worker) && !self.killed_lately(now)) else {
            return;
        };
        let (slot, pid) = (worker.slot, worker.pid_for_log());
        let note =
            Note::MemoryShort { slot, pid, bytes: returns, share, used: container.bytes, limit: lines.limit, killed: critical };
        match reading {
            Reading::Reached if critical => {
                self.note(note);
                self.kill_for_memory(now, life);
            }
            Reading::Reached if self.needs_more(now, worker) => {
                self.roster.update(life, |worker| worker.meter.soft = Soft::Stays);
                self.tell_needs_more(life, returns, share);
            }
            Reading::Reached => {
                self.note(note);
                self.replace_for_memory(life);
            }
            Reading::Perhaps => self.confirm(now, life),
            Reading::Asked | Reading::Below => {}
        }
    }

    /// What each worker may use while the container is short: an equal part of what is left below the critical line by all that is no
    /// worker's. That is less than its fair share of the limit where others use more than the reserve, and then the largest worker goes before the
    /// kernel's OOM killer comes; but never less than half of it: who uses no more is not why memory is short, and ending him again and
    /// again would not help.
    pub(super) fn present_share(&self) -> Option<u64> {
        let fair = self.resize.read.fair_share(self.wanted)?;
        let (lines, container) = (self.lines()?, self.memory.container?);
        let (mut workers, mut returns) = (0_u64, 0_u64);
        for (worker, figure) in self.roster.iter().filter_map(|worker| Some((worker, self.returns_now(worker)?))) {
            // What was killed gives all of it back.
            workers += u64::from(is_within_reach(worker));
            returns = returns.saturating_add(figure);
        }
        let others = container.bytes.saturating_sub(returns);
        let part = lines.critical.saturating_sub(others).checked_div(workers);
        Some(part.map_or(fair, |part| part.clamp(fair / 2, fair)))
    }

    /// A figure from before says nothing about this shortness.
    fn returns_now(&self, worker: &Worker) -> Option<u64> {
        worker.meter.value(Gauge::Returns).filter(|_| worker.meter.taken() >= self.memory.short_since)
    }

    /// How far everybody is from being above the present share, who could be ended for it. Whoever cannot be measured counts as 0.
    pub(super) fn distance_to_share(&self) -> Option<u64> {
        let share = self.present_share()?;
        let largest =
            self.roster.iter().filter(|worker| is_within_reach(worker)).filter_map(|worker| self.returns_now(worker)).max();
        Some(share.saturating_sub(largest.unwrap_or(0)))
    }

    /// Of what would come back. On its way out too: a leaker goes on through all of its grace.
    fn farthest_above(&self, now: Time, share: u64, is_meant: impl Fn(&Worker) -> bool) -> Option<Candidate> {
        let above = self.roster.iter().filter(|worker| is_within_reach(worker) && is_meant(worker)).filter_map(|worker| {
            let returns = self.returns_now(worker).filter(|returns| *returns > share)?;
            let reading = worker.meter.reads(now, Gauge::Returns, share.saturating_add(1), grain(share));
            (reading != Reading::Below).then_some(Candidate { life: worker.life, returns, reading })
        });
        above.max_by_key(|candidate| candidate.returns)
    }

    /// One that is on its way out gives its memory back anyway, unless the container is critical before.
    fn is_replaceable(&self, worker: &Worker) -> bool {
        self.policy.memory_soft.is_some()
            && self.course.is_running()
            && matches!(worker.phase, Phase::Ready | Phase::Hung { .. })
            && worker.meter.soft == Soft::Below
            // What the one before gives back may be enough.
            && !self.rollout.is_for_memory()
    }

    fn killed_lately(&self, now: Time) -> bool {
        self.memory.last_kill.is_some_and(|last| now.since(last) < BETWEEN_KILLS)
    }

    fn tell_nobody(&mut self, now: Time, used: u64, limit: u64) {
        let lately = self.memory.nobody_told.is_some_and(|told| now.since(told) < TELL_AGAIN);
        let on_their_way = self.killed_lately(now) || self.rollout.is_for_memory();
        if self.memory.told_in_this || lately || on_their_way {
            return;
        }
        self.memory.told_in_this = true;
        self.memory.nobody_told = Some(now);
        self.note(Note::NobodyAboveShare { used, limit });
    }
}

/// It was asked to end only now.
fn stops_soon(now: Time, worker: &Worker) -> bool {
    matches!(worker.phase, Phase::Stopping { .. }) && worker.stopping_since.is_some_and(|since| now.since(since) < STOPS_WITHIN)
}
