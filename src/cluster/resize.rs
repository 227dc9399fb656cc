//! Limits that change while we run: more at once, less only after it has held for a while.
//!
//! ```text
//! LimitsRead -> what is more: in force -------------------------> Resized: slots open or close, workers whose cap is another
//!     |                                                            one are replaced, one at a time
//!     +-------> what is less: LessLater -- 60 s, unless it is -----^
//!                                          taken back
//! ```
//!
//! What a resize takes away comes back within seconds where somebody tries out sizes; starting and ending workers for that costs more than
//! it saves. But the kernel enforces a limit at once: whether the container is short is decided by what was read last.

use std::sync::Arc;
use std::time::Duration;

use super::effect::{Effect, Note};
use super::memory::margin;
use super::rollout::Cause;
use super::sizing::{Caps, Inputs, Limits, Sizing};
use super::supervisor::Supervisor;
use super::units;
use super::words::Time;
use super::worker::Worker;

/// So long must less hold before it counts.
const HOLDS: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(super) struct Resize {
    /// As the limits were read last; `Policy::inputs` is what is in force.
    pub(super) read: Inputs,
    /// The worker count that the limits in force come to.
    count: u32,
    less: Option<Less>,
    /// What the kernel was told that all workers together may have.
    bound: Option<u64>,
}

/// It will be in force.
#[derive(Clone, Debug)]
struct Less {
    of: Lessened,
    at: Time,
}

/// In what the limits are less than what is in force, and what they come to.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lessened {
    cpus: Option<f64>,
    memory: Option<u64>,
    /// Another one than what is in force.
    count: Option<u32>,
}

impl Resize {
    pub(super) fn new(inputs: &Inputs) -> Self {
        Self { read: inputs.clone(), count: Sizing::new(inputs).workers, less: None, bound: None }
    }
}

impl Supervisor {
    pub(super) fn limits_read(&mut self, now: Time, limits: Limits) {
        self.resize.read = self.policy.inputs.under(&limits);
        let facts = Arc::make_mut(&mut self.facts);
        (facts.cpu_limit, facts.cpu_source) = (limits.cpu, limits.cpu_source);
        (facts.memory_limit_bytes, facts.memory_source) = (limits.memory, limits.memory_source);
        if self.policy.inputs.caps == Caps::Share {
            // Without a limit there is nothing to share.
            let by = if self.policy.kernel_caps { "cgroup" } else { "sampling" };
            facts.memory_enforced_by = if limits.memory.is_some() { by } else { "off" };
        }
        if self.course.is_running() {
            let target = Sizing::new(&self.resize.read);
            self.policy.memory_allows = target.memory_allows;
            self.take_more(now, &target);
            self.wait_for_less(now, &target);
        }
        self.note_level(now);
        self.keep_shares_right();
    }

    /// What is more than what is in force.
    fn take_more(&mut self, now: Time, target: &Sizing) {
        let (present, read) = (&self.policy.inputs, &self.resize.read);
        let mut inputs = present.clone();
        if cpus(read) > cpus(present) {
            (inputs.cpu_limit, inputs.affinity) = (read.cpu_limit, read.affinity);
        }
        if memory(read) > memory(present) {
            inputs.memory_limit = read.memory_limit;
        }
        let count = Some(target.workers).filter(|count| *count > self.resize.count && *count >= self.wanted);
        let most = self.policy.most_workers.max(self.most_workers(target));
        self.put_in_force(now, inputs, count, target);
        self.policy.most_workers = most;
    }

    fn wait_for_less(&mut self, now: Time, target: &Sizing) {
        let (present, read) = (&self.policy.inputs, &self.resize.read);
        let of = Lessened {
            cpus: Some(cpus(read)).filter(|less| *less < cpus(present)),
            memory: Some(memory(read)).filter(|less| *less < memory(present)),
            count: Some(target.workers).filter(|count| *count != self.resize.count),
        };
        if of == Lessened::default() {
            self.resize.less = None;
            self.policy.inputs = read.clone();
        } else if self.resize.less.as_ref().is_none_or(|less| less.of != of) {
            let to = of.count.unwrap_or(self.wanted);
            let cap = read.share(to).memory;
            if (to, cap) != (self.wanted, present.share(self.wanted).memory) {
                self.note(Note::LessLater { to, cap, wait: HOLDS });
            }
            self.resize.less = Some(Less { of, at: now + HOLDS });
        }
    }

    pub(super) fn resize_deadline(&self) -> Option<Time> {
        self.resize.less.as_ref().filter(|_| self.course.is_running()).map(|less| less.at)
    }

    pub(super) fn resize_due(&mut self, now: Time) {
        if self.resize_deadline().is_none_or(|at| now < at) {
            return;
        }
        self.resize.less = None;
        let read = self.resize.read.clone();
        let target = Sizing::new(&read);
        let count = Some(target.workers).filter(|count| *count != self.resize.count);
        self.put_in_force(now, read, count, &target);
        self.policy.most_workers = self.most_workers(&target);
        self.keep_shares_right();
    }

    /// Four times the larger of the automatic and the starting count, and what runs now.
    fn most_workers(&self, target: &Sizing) -> u32 {
        target.automatic.max(self.policy.workers).saturating_mul(4).max(self.wanted)
    }

    /// `count`: where the limits come to another one than before.
    fn put_in_force(&mut self, now: Time, inputs: Inputs, count: Option<u32>, target: &Sizing) {
        let (from, before) = (self.wanted, self.present_cap());
        let why = match inputs.memory_limit {
            Some(limit) => format!("{}; memory limit {}", target.explanation, units::size(limit)),
            None => target.explanation.clone(),
        };
        self.policy.inputs = inputs;
        self.resize.count = count.unwrap_or(self.resize.count);
        let to = count.unwrap_or(from);
        let cap = self.policy.inputs.share(to).memory;
        if (from, before) == (to, cap) {
            return;
        }
        self.note(Note::Resized { from, to, cap, why });
        if to != from {
            self.rescale(now, to);
            self.finish_if_all_done(now);
        }
        self.replace_for_caps();
    }

    /// Who has outgrown its cap, or has less than it could have, is found when its turn comes.
    fn replace_for_caps(&mut self) {
        let youngest = self.youngest();
        for slot in self.slots.ids() {
            self.rollout.push(slot, Cause::Resize, youngest);
        }
    }

    /// Its cap differs from the present one by more than a tenth of that.
    pub(super) fn has_another_cap(&self, worker: &Worker) -> bool {
        match (worker.cap, self.present_cap()) {
            (Some(cap), Some(present)) => cap.abs_diff(present).saturating_mul(10) > present,
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        }
    }

    /// What a worker that is started now may use.
    fn present_cap(&self) -> Option<u64> {
        self.policy.inputs.share(self.wanted).memory
    }

    /// What follows from the count and the limits; called whenever one of them has changed.
    pub(super) fn keep_shares_right(&mut self) {
        let cap = self.present_cap();
        if self.facts.worker_cap_bytes != cap {
            Arc::make_mut(&mut self.facts).worker_cap_bytes = cap;
        }
        let bound = self.bound();
        // Nobody is there yet, or it is no less.
        if self.roster.is_empty() || bound.is_none_or(|bound| self.resize.bound.is_some_and(|present| bound > present)) {
            self.emit_bound(bound);
        }
    }

    /// The kernel enforces a bound below what is used by its OOM killer, and whoever writes it waits for that: only when the container has
    /// just been seen below it.
    pub(super) fn lower_bound(&mut self, container: u64) {
        let bound = self.bound();
        if bound.is_some_and(|bound| container < bound) {
            self.emit_bound(bound);
        }
    }

    /// A little less than the limit, for the kernel's OOM killer to choose among workers; above the critical line, for us to come before
    /// it. All fair shares together are no more.
    fn bound(&self) -> Option<u64> {
        let read = &self.resize.read;
        let (limit, reserve) = read.memory_limit.zip(read.reserve(self.wanted)).filter(|_| read.caps != Caps::Off)?;
        Some(limit.saturating_sub(reserve.min(margin(limit) / 4)))
    }

    fn emit_bound(&mut self, bound: Option<u64>) {
        if self.resize.bound != bound {
            self.resize.bound = bound;
            self.effects.push(Effect::Bound { bytes: bound });
        }
    }
}

/// That can be used at a time.
fn cpus(inputs: &Inputs) -> f64 {
    let affinity = f64::from(inputs.affinity);
    inputs.cpu_limit.map_or(affinity, |limit| limit.min(affinity))
}

/// No limit is more than any.
fn memory(inputs: &Inputs) -> u64 {
    inputs.memory_limit.unwrap_or(u64::MAX)
}
