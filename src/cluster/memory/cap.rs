//! A worker near its own cap is replaced, one at its cap is killed; and what the kernel's OOM killer ended is named so.

use std::time::Duration;

use super::is_within_reach;
use super::meter::{Gauge, Reading, Soft};
use crate::cluster::effect::{Effect, Note};
use crate::cluster::rollout::Cause;
use crate::cluster::sizing::Caps;
use crate::cluster::status::Reason;
use crate::cluster::supervisor::Supervisor;
use crate::cluster::words::{Life, Time};
use crate::cluster::worker::{Phase, Worker};

/// A worker that has lived no longer than this and follows one that was ended for its memory needs more, rather than leaks.
const LEAKS: Duration = Duration::from_secs(600);

impl Supervisor {
    /// A worker whose figure is new; only a cap of its own is enforced while the container has enough.
    pub(super) fn judge(&mut self, now: Time, life: Life) {
        let Caps::Fixed(_) = self.policy.inputs.caps else { return };
        let Some((worker, cap)) = self.capped(life) else { return };
        let (slot, pid, bytes) = (worker.slot, worker.pid_for_log(), worker.meter.bytes().unwrap_or(0));
        match worker.meter.reads(now, Gauge::Bytes, cap, grain(cap)) {
            Reading::Reached => {
                self.note(Note::MemoryCap { slot, pid, bytes, cap });
                self.kill_for_memory(now, life);
            }
            Reading::Perhaps => self.confirm(now, life),
            Reading::Asked => {}
            Reading::Below => self.judge_soft(now, life),
        }
    }

    fn capped(&self, life: Life) -> Option<(&Worker, u64)> {
        let worker = self.roster.get(life).filter(|worker| is_within_reach(worker))?;
        Some((worker, worker.cap?))
    }

    fn judge_soft(&mut self, now: Time, life: Life) {
        let Some((worker, cap)) = self.capped(life) else { return };
        let Some(soft) = self.soft_of(cap).filter(|_| self.course.is_running()) else { return };
        if worker.phase != Phase::Ready || worker.meter.soft != Soft::Below {
            return;
        }
        let (slot, pid, bytes) = (worker.slot, worker.pid_for_log(), worker.meter.bytes().unwrap_or(0));
        match worker.meter.reads(now, Gauge::Bytes, soft, grain(cap)) {
            Reading::Reached if self.needs_more(now, worker) => {
                self.roster.update(life, |worker| worker.meter.soft = Soft::Stays);
                self.tell_needs_more(life, bytes, cap);
            }
            Reading::Reached => {
                self.note(Note::MemorySoft { slot, pid, bytes, cap });
                self.replace_for_memory(life);
            }
            Reading::Perhaps => self.confirm(now, life),
            Reading::Asked | Reading::Below => {}
        }
    }

    /// `MEMORY_SOFT` of a cap, in bytes.
    pub(super) fn soft_of(&self, cap: u64) -> Option<u64> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of bytes need not be exact to the byte"
        )]
        self.policy.memory_soft.map(|soft| (cap as f64 * soft) as u64)
    }

    /// It is young, and its predecessor was ended for its memory.
    pub(super) fn needs_more(&self, now: Time, worker: &Worker) -> bool {
        let after_memory = self.rollout.leaves_for_memory(worker.slot)
            || self.slots.get(worker.slot).and_then(|state| state.last_exit).is_some_and(|exit| exit.reason == Reason::Memory);
        after_memory && now.since(worker.forked) < LEAKS
    }

    pub(super) fn tell_needs_more(&mut self, life: Life, bytes: u64, cap: u64) {
        let first = self.roster.update(life, |worker| {
            let first = !std::mem::replace(&mut worker.meter.told, true);
            first.then(|| (worker.slot, worker.pid_for_log()))
        });
        if let Some(Some((slot, pid))) = first {
            self.note(Note::NeedsMore { slot, pid, bytes, cap });
        }
    }

    pub(super) fn replace_for_memory(&mut self, life: Life) {
        let slot = self.roster.update(life, |worker| {
            worker.meter.soft = Soft::Queued;
            worker.slot
        });
        if let Some(slot) = slot {
            self.rollout.push(slot, Cause::Memory, life);
        }
    }

    pub(super) fn kill_for_memory(&mut self, now: Time, life: Life) {
        let slot = self.roster.update(life, |worker| {
            // Of a leader that has gone it is known why.
            if worker.ended.is_none() {
                worker.purpose = Some(Reason::Memory);
            }
            worker.slot
        });
        let Some(slot) = slot else { return };
        self.memory.last_kill = Some(now);
        self.successor_failed(now, life, &format!("the new worker of slot {slot} used too much memory"));
        self.kill(now, life);
    }

    pub(super) fn confirm(&mut self, now: Time, life: Life) {
        self.roster.update(life, |worker| worker.meter.ask(now));
        self.effects.push(Effect::Confirm { life });
    }

    /// The kernel's OOM killer: `LeaderEnded` follows and says whether it was the leader.
    pub(in crate::cluster) fn out_of_memory(&mut self, now: Time, life: Life) {
        let Some(worker) = self.roster.get(life).filter(|worker| worker.pid.is_some() && worker.ended.is_none()) else { return };
        // What we killed, the kernel may find first: that is our kill.
        if matches!(worker.phase, Phase::Killed { .. }) {
            return;
        }
        let (slot, pid) = (worker.slot, worker.pid_for_log());
        self.memory.last_kill = Some(now);
        self.roster.update(life, |worker| worker.meter.out_of_memory = true);
        self.note(Note::OutOfMemory { slot, pid });
    }
}

/// An estimate that has grown by less than this since the last exact figure is not worth another one.
pub(super) fn grain(cap: u64) -> u64 {
    (cap / 100).max(1)
}
