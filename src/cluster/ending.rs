//! How one worker ends, by itself or because we end it, and what becomes of its slot.
//!
//! ```text
//! stop signal -> leader gone -> what it left: stop signal -> tree gone -> the slot: at once, after a backoff, or done
//!      +-- grace over ---+------- SIGKILL, repeated --------+-- given up, if it outlives that --^
//! ```

use std::time::Duration;

use super::effect::{Effect, Finish, Note};
use super::restart::{self, Ending, Verdict};
use super::slots::Occupancy;
use super::status::{LastExit, Reason};
use super::supervisor::Supervisor;
use super::words::{ExitStatus, Life, Signal, Slot, Time};
use super::worker::{Ended, KILL_TRIES, Phase, Worker};

/// From the first SIGKILL to the second; every further wait is twice as long.
const KILL_RETRY: Duration = Duration::from_millis(20);
/// From SIGKILL to all to going on without what is left.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn leader_ended(&mut self, now: Time, life: Life, status: ExitStatus, rest: u32) {
        let Some(mut worker) = self.roster.get(life).filter(|worker| worker.ended.is_none()).cloned() else { return };
        // Its end is not its own; what it leaves behind is treated as if it were.
        let unasked = worker.purpose.is_none();
        if worker.meter.out_of_memory && matches!(status, ExitStatus::Signal { signal: Signal::KILL, .. }) {
            worker.purpose = Some(Reason::Memory);
        }
        let reason = worker.purpose.unwrap_or(own_reason(status));
        let verdict = restart::verdict(&self.policy, self.ending(now, &worker, status));
        if worker.exec_failure.is_none() {
            self.note(Note::Ended { slot: worker.slot, pid: worker.pid_for_log(), status, reason, rest });
        }
        self.count_status(&worker, status);
        let purpose = worker.purpose;
        self.roster.update(life, |worker| {
            worker.purpose = purpose;
            worker.ended = Some(Ended { status, at: now, verdict });
        });
        // Of the slot's worker or its predecessor; a successor that fails never was the slot's.
        if self.slots.worker(worker.slot).is_none_or(|worker| life <= worker)
            && let Some(state) = self.slots.get_mut(worker.slot)
        {
            state.last_exit = Some(LastExit { status, reason, at: now });
        }
        let text = worker.exec_failure.clone().unwrap_or_else(|| status.to_string());
        self.successor_failed(now, life, &format!("the new worker of slot {} ended before it was ready: {text}", worker.slot));
        let is_killed = matches!(worker.phase, Phase::Killed { .. });
        let is_replaced = unasked && verdict != Verdict::Done && self.course.starts_workers();
        if rest == 0 {
            self.tree_ended(now, life);
            return;
        }
        self.disconnect(life, false);
        if is_replaced && !is_killed {
            // What a crashed leader leaves behind may hold its port: it must be gone before the successor starts.
            self.kill(now, life);
        } else {
            self.stop_rest(now, life);
        }
    }

    /// Its end is ours, and no failure: the slot gets another one at once.
    pub(super) fn started_in_vain(&mut self, life: Life) {
        self.roster.update(life, |worker| worker.purpose = worker.purpose.or(Some(Reason::Reload)));
    }

    fn ending(&self, now: Time, worker: &Worker, status: ExitStatus) -> Ending {
        Ending {
            status,
            forked: worker.forked,
            at: now,
            ready_since: worker.ready_since,
            program_shown: self.learned.shown.is_some(),
            failed_by_us: matches!(worker.purpose, Some(Reason::StartTimeout | Reason::Hung | Reason::Memory)),
        }
    }

    fn stop_rest(&mut self, now: Time, life: Life) {
        let fallback = self.course.kill_at().unwrap_or(now + self.policy.grace);
        let signal = self.roster.update(life, |worker| match worker.phase {
            Phase::Killed { .. } => false,
            Phase::Stopping { kill_at, .. } | Phase::Parting { kill_at, .. } | Phase::Retiring { kill_at, .. } => {
                worker.begin_stopping(now, kill_at, true);
                true
            }
            Phase::Forking | Phase::Starting { .. } | Phase::Ready | Phase::Hung { .. } => {
                worker.begin_stopping(now, fallback, true);
                true
            }
        });
        match signal {
            Some(true) => self.effects.push(Effect::StopRest { life }),
            Some(false) => self.send_kill(life),
            None => {}
        }
    }

    /// SIGKILL to the whole tree.
    pub(super) fn kill(&mut self, now: Time, life: Life) {
        self.disconnect(life, false);
        let by_default = if self.course.starts_workers() { Reason::Crash } else { Reason::Stop };
        let Some((slot, pid, reason)) = self.roster.update(life, |worker| {
            worker.phase = Phase::Killed { retry_at: now + KILL_RETRY, tries: 1 };
            if worker.ended.is_none() && by_default == Reason::Stop {
                worker.purpose.get_or_insert(Reason::Stop);
            }
            (worker.slot, worker.pid_for_log(), worker.purpose.unwrap_or(by_default))
        }) else {
            return;
        };
        self.send_kill(life);
        self.note(Note::Killing { slot, pid, reason });
    }

    fn send_kill(&mut self, life: Life) {
        if self.roster.get(life).is_some_and(|worker| worker.ended.is_some()) {
            self.count_kill();
        }
        self.effects.push(Effect::KillTree { life });
    }

    pub(super) fn kill_again(&mut self, now: Time, life: Life, tries: u32) {
        self.send_kill(life);
        // After 20, 40, 80, ... ms: about one second in all; then now and then.
        let wait = if tries < KILL_TRIES { KILL_RETRY * (1 << tries) } else { KILL_PATIENCE * 30 };
        self.roster.update(life, |worker| worker.phase = Phase::Killed { retry_at: now + wait, tries: tries.saturating_add(1) });
        if tries != KILL_TRIES {
            return;
        }
        // Uninterruptible: it ends when the kernel lets it; nobody waits for it.
        let Some(worker) = self.roster.get(life).cloned() else { return };
        self.note(Note::StillThere { slot: worker.slot, pid: worker.pid_for_log() });
        let ended = worker.ended.unwrap_or_else(|| {
            let status = ExitStatus::Signal { signal: Signal::KILL, core: false };
            let verdict = restart::verdict(&self.policy, self.ending(now, &worker, status));
            Ended { status, at: now, verdict }
        });
        self.successor_failed(now, life, &format!("the new worker of slot {} does not end", worker.slot));
        self.lose(now, &worker, ended);
    }

    pub(super) fn tree_ended(&mut self, now: Time, life: Life) {
        let Some(ended) = self.roster.get(life).and_then(|worker| worker.ended) else { return };
        let Some(worker) = self.roster.remove(life) else { return };
        self.lose(now, &worker, ended);
    }

    /// This worker is nobody's any more.
    fn lose(&mut self, now: Time, worker: &Worker, ended: Ended) {
        let is_refilled = self.left(worker.life);
        if self.slots.worker(worker.slot) != Some(worker.life) {
            return;
        }
        let verdict = match worker.purpose {
            _ if is_refilled => Verdict::ReplaceNow,
            // We ended it and nobody took its place: it is still wanted, or its slot goes.
            Some(Reason::Reload | Reason::Lifetime | Reason::Scale | Reason::Stop) => Verdict::ReplaceNow,
            Some(Reason::Memory | Reason::Hung | Reason::StartTimeout | Reason::Exit | Reason::Crash) | None => ended.verdict,
        };
        self.vacate(now, worker, Ended { verdict, ..ended });
    }

    /// The slot has lost its worker: what next.
    fn vacate(&mut self, now: Time, worker: &Worker, ended: Ended) {
        let (slot, status) = (worker.slot, Some(ended.status));
        if !self.course.starts_workers() {
            self.slots.occupy(slot, Occupancy::Done { status });
            return;
        }
        if slot.0 >= self.wanted {
            self.close_empty(now, slot);
            return;
        }
        let by_itself = matches!(worker.purpose, None | Some(Reason::Memory | Reason::Hung | Reason::StartTimeout));
        if by_itself && self.ends_with_first(now, slot, ended.status) {
            return;
        }
        if ended.verdict != Verdict::Done {
            self.count_restart(slot, worker.purpose.unwrap_or(own_reason(ended.status)));
        }
        match ended.verdict {
            Verdict::ReplaceNow => {
                self.reset_failures(slot);
                self.start_at(now, slot);
            }
            Verdict::Recycle { not_before } => {
                self.reset_failures(slot);
                self.start_at(not_before.max(now), slot);
            }
            Verdict::Retry => self.retry(now, slot, ended),
            Verdict::Done => {
                self.slots.occupy(slot, Occupancy::Done { status });
                self.note(Note::SlotDone { slot });
                self.finish_if_all_done(now);
            }
        }
    }

    fn retry(&mut self, now: Time, slot: Slot, ended: Ended) {
        let jitter = self.jitter.next();
        let Some(state) = self.slots.get_mut(slot) else { return };
        state.failures = state.failures.saturating_add(1);
        let failures = state.failures;
        state.hurried &= failures > 1;
        let delay = restart::delay(self.policy.backoff, failures, jitter);
        // Counted from the leader's end, not from the end of what it left behind.
        let until = (ended.at + delay).max(now);
        self.start_at(until, slot);
        self.note(Note::Waits { slot, failures, delay });
        if self.is_hopeless() {
            self.finish(now, ended.status.as_code(), Finish::GaveUp { failures });
        }
    }

    fn reset_failures(&mut self, slot: Slot) {
        if let Some(state) = self.slots.get_mut(slot) {
            state.failures = 0;
        }
    }

    /// No worker was ever ready, and every slot that was started has failed too often in a row.
    fn is_hopeless(&self) -> bool {
        self.learned.first_ready.is_none()
            && self.slots.iter().all(|(_, state)| match state.occupancy {
                Occupancy::Waiting | Occupancy::Done { .. } => true,
                Occupancy::Worker(_) | Occupancy::Backoff { .. } => state.failures >= restart::GIVE_UP_AFTER,
            })
    }

    fn ends_with_first(&mut self, now: Time, slot: Slot, status: ExitStatus) -> bool {
        let first = slot == Slot(0) && !self.learned.others_follow && self.policy.end_with_first;
        if first {
            self.slots.occupy(slot, Occupancy::Done { status: Some(status) });
            self.finish(now, status.as_code(), Finish::FirstEnded);
        }
        first
    }

    /// A slot above the wanted count goes as soon as nothing is in it; the others may all be done.
    pub(super) fn close_empty(&mut self, now: Time, slot: Slot) {
        self.slots.remove(slot);
        self.finish_if_all_done(now);
    }
}

/// Why a worker ended that nobody had asked to.
fn own_reason(status: ExitStatus) -> Reason {
    if status == ExitStatus::Code(0) { Reason::Exit } else { Reason::Crash }
}
