//! The state machine: every event in every state is a decision made here or in a file named after its subject.
//!
//! | file | decides |
//! |---|---|
//! | this one | who is told of an event; starting a worker; what follows an end |
//! | `readiness.rs` | when a worker is ready, hung, too old; when the others follow slot 0 |
//! | `rollout.rs` | successor first, then the predecessor: reload, restart, lifetime, hung |
//! | `scale.rs` | more and fewer slots |
//! | `shutdown.rs` | stop, now, finishing by itself, the sweep of the namespace, the exit status |
//! | `publish.rs` | the snapshot |

use std::sync::Arc;
use std::time::Duration;

use super::effect::{Effect, Finish, Note};
use super::event::{Event, ExecFailure, Request};
use super::policy::Policy;
use super::restart::{self, Ending, Jitter, Verdict};
use super::rollout::Rollout;
use super::roster::Roster;
use super::shutdown::{Course, Outcome};
use super::slots::{Occupancy, Slots};
use super::status::{Facts, LastExit, Reason};
use super::words::{ExitStatus, Life, Pid, Signal, Slot, Time};
use super::worker::{Ended, KILL_TRIES, Phase, Worker, earliest};

/// From the first SIGKILL to the second; every further wait is twice as long.
const KILL_RETRY: Duration = Duration::from_millis(20);
/// From SIGKILL to all to going on without what is left.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Supervisor {
    pub(super) policy: Policy,
    pub(super) facts: Arc<Facts>,
    pub(super) roster: Roster,
    pub(super) slots: Slots,
    pub(super) rollout: Rollout,
    pub(super) course: Course,
    pub(super) outcome: Outcome,
    pub(super) generation: u32,
    /// The worker count that is aimed at: slots `0..wanted`.
    pub(super) wanted: u32,
    pub(super) learned: Learned,
    pub(super) orphans_reaped: u64,
    pub(super) jitter: Jitter,
    next_life: u64,
    pub(super) effects: Vec<Effect>,
}

/// What the history of this cluster has taught.
#[expect(clippy::struct_excessive_bools, reason = "facts of the past, each learned once and by itself")]
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    /// Some worker has said `READY=1`: the program notifies, and all later workers are asked to.
    pub(super) notifies: bool,
    pub(super) executed: bool,
    pub(super) first_start: Option<Time>,
    pub(super) slowest_start: Duration,
    pub(super) first_ready: Option<Time>,
    /// Since when no worker is ready, once one was.
    pub(super) none_ready_since: Option<Time>,
    /// `START_TIMEOUT` after the first start has passed.
    pub(super) first_timeout_over: bool,
    /// The other slots have been started (or there was nothing to wait for).
    pub(super) others_follow: bool,
    /// `/readyz` has answered 200 once.
    pub(super) was_up: bool,
}

impl Supervisor {
    /// The cluster before its first worker; [`Supervisor::start`] begins.
    pub fn new(policy: Policy, facts: Facts) -> Self {
        let jitter = Jitter::new(policy.seed);
        let wanted = policy.workers;
        Self {
            policy,
            facts: Arc::new(facts),
            roster: Roster::default(),
            slots: Slots::default(),
            rollout: Rollout::default(),
            course: Course::Running,
            outcome: Outcome::default(),
            generation: 1,
            wanted,
            learned: Learned::default(),
            orphans_reaped: 0,
            jitter,
            next_life: 0,
            effects: Vec::new(),
        }
    }

    /// The first effects: start slot 0, and the others too where nothing says that they wait.
    #[must_use]
    pub fn start(&mut self, now: Time) -> Vec<Effect> {
        for id in 0..self.wanted {
            self.slots.open(Slot(id));
        }
        self.learned.first_start = Some(now);
        self.learned.others_follow = !self.policy.slot_zero_first;
        for slot in self.slots.ids() {
            if self.learned.others_follow || slot == Slot(0) {
                self.start_at(now, slot);
            }
        }
        self.start_slots(now);
        std::mem::take(&mut self.effects)
    }

    /// What follows from `event` at `now`. Total: no event is wrong in any state, and none is answered by a panic.
    #[must_use]
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Effect> {
        if self.course == Course::Over {
            return Vec::new();
        }
        match event {
            Event::Forked { life, pid } => self.forked(now, life, pid),
            Event::ForkRefused { life, why } => self.fork_refused(now, life, why),
            Event::Executed { life } => self.executed(now, life),
            Event::ExecFailed { life, failure, why } => self.exec_failed(now, life, failure, why),
            Event::LeaderEnded { life, status, rest } => self.leader_ended(now, life, status, rest),
            Event::TreeEnded { life } => self.tree_ended(now, life),
            Event::Notified { life, notice } => self.notified(now, life, notice),
            Event::Asked(request) => self.asked(now, request),
            Event::NamespaceSeen { left } => self.namespace_seen(now, left),
            Event::DeadlineReached => {}
        }
        self.advance_drain(now);
        self.deadlines_reached(now);
        self.advance_rollout(now);
        self.advance_shutdown(now);
        self.note_readiness(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::DeadlineReached`] is due at the latest; `None`: only an event can change anything.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.course == Course::Over {
            return None;
        }
        let slots = if self.course.starts_workers() { self.slots.next_start() } else { None };
        [self.roster.next_deadline(), slots, self.first_timeout(), self.course.deadline()].into_iter().fold(None, earliest)
    }

    /// Orphans are nobody's business but the counter's.
    pub fn orphans_reaped(&mut self, count: u64) {
        self.orphans_reaped += count;
    }

    /// The slot of a living worker, for log lines and environment.
    pub fn slot_of(&self, life: Life) -> Option<Slot> {
        self.roster.get(life).map(|worker| worker.slot)
    }

    fn asked(&mut self, now: Time, request: Request) {
        match request {
            Request::Stop { interrupt, listening } => self.stop_asked(now, interrupt, listening),
            Request::StopNow => self.stop_now(now),
            Request::Reload => self.reload_asked(now),
            Request::More => self.scale_asked(now, self.wanted.saturating_add(1)),
            Request::Fewer => self.scale_asked(now, self.wanted.saturating_sub(1)),
            Request::Scale(workers) => self.scale_asked(now, workers),
            Request::Restart(slot) => self.restart_asked(now, slot),
        }
    }

    fn deadlines_reached(&mut self, now: Time) {
        self.first_timeout_reached(now);
        while let Some(life) = self.roster.due(now) {
            self.worker_due(now, life);
        }
        self.start_slots(now);
    }

    fn worker_due(&mut self, now: Time, life: Life) {
        let Some(phase) = self.roster.get(life).map(|worker| worker.phase) else { return };
        match phase {
            Phase::Forking => {}
            Phase::Starting { .. } => self.start_due(now, life),
            Phase::Ready | Phase::Hung => self.life_due(now, life),
            Phase::Stopping { .. } => self.kill(now, life),
            Phase::Killed { tries, .. } => self.kill_again(now, life, tries),
        }
    }

    // === starting ===

    /// A slot that has no worker gets one at this instant; the one place that starts workers for slots is [`Supervisor::start_slots`].
    pub(super) fn start_at(&mut self, at: Time, slot: Slot) {
        self.slots.occupy(slot, Occupancy::Backoff { until: at });
    }

    /// Starts what is due, late in the step: a stop that comes in between wins.
    fn start_slots(&mut self, now: Time) {
        while self.course.starts_workers()
            && let Some(slot) = self.slots.due(now)
        {
            let life = self.roster.unfinished_in(slot).unwrap_or_else(|| self.spawn(now, slot));
            self.slots.occupy(slot, Occupancy::Worker(life));
        }
    }

    /// The worker that was started last.
    pub(super) fn youngest(&self) -> Life {
        Life(self.next_life.saturating_sub(1))
    }

    /// Starts a worker for a slot without giving it the slot yet.
    pub(super) fn spawn(&mut self, now: Time, slot: Slot) -> Life {
        let life = Life(self.next_life);
        self.next_life += 1;
        let worker = Worker::new(life, slot, self.generation, now);
        self.roster.insert(worker);
        self.effects.push(Effect::Spawn { life, slot, generation: self.generation, workers: self.wanted });
        life
    }

    fn forked(&mut self, now: Time, life: Life, pid: Pid) {
        let Some(slot) = self.slot_of(life) else { return };
        if self.roster.get(life).is_none_or(|worker| worker.pid.is_some()) {
            return;
        }
        let timeout_at = self.must_notify().then(|| now + self.start_timeout());
        let old_at = self.policy.max_lifetime.map(|lifetime| now + lifetime.mul_f64(1.0 + 0.1 * self.jitter.next()));
        let generation = self.roster.update(life, |worker| {
            worker.pid = Some(pid);
            worker.forked = now;
            worker.old_at = old_at;
            if worker.phase == Phase::Forking {
                worker.phase = Phase::Starting { ready_at: None, timeout_at };
            }
            worker.generation
        });
        if let Some(state) = self.slots.get_mut(slot) {
            state.refusals = 0;
        }
        self.note(Note::Started { slot, pid, generation: generation.unwrap_or(self.generation) });
    }

    fn fork_refused(&mut self, now: Time, life: Life, why: String) {
        let Some(slot) = self.roster.get(life).filter(|worker| worker.pid.is_none()).map(|worker| worker.slot) else { return };
        self.roster.remove(life);
        if self.successor_failed(now, life, &format!("fork refused: {why}")) {
            self.left(life);
            self.note(Note::ForkRefused { slot, why, retry_in: None });
            return;
        }
        if self.slots.worker(slot) != Some(life) {
            return;
        }
        let jitter = self.jitter.next();
        let refusals = self.slots.get_mut(slot).map_or(1, |state| {
            state.refusals = state.refusals.saturating_add(1);
            state.refusals
        });
        let wait = restart::delay(self.policy.backoff, refusals, jitter);
        self.note(Note::ForkRefused { slot, why, retry_in: Some(wait) });
        self.start_at(now + wait, slot);
    }

    fn executed(&mut self, now: Time, life: Life) {
        let known = self.roster.update(life, |worker| {
            // It has begun to run only now: exec itself may take long (a slow disk).
            if let Phase::Starting { ready_at, timeout_at: None } = &mut worker.phase {
                ready_at.get_or_insert(now + restart::RUNNING);
            }
        });
        self.learned.executed |= known.is_some();
    }

    fn exec_failed(&mut self, now: Time, life: Life, failure: ExecFailure, why: String) {
        let Some(slot) = self.roster.update(life, |worker| {
            worker.exec_failure = Some(why.clone());
            worker.slot
        }) else {
            return;
        };
        let permanent = match failure {
            ExecFailure::NotFound => Some(127),
            ExecFailure::NotExecutable => Some(126),
            ExecFailure::Transient => None,
        };
        match permanent {
            Some(code) if !self.learned.executed => self.finish(now, code, Finish::CannotExecute { why }),
            Some(_) | None => self.note(Note::ExecFailed { slot, why }),
        }
    }

    // === ending ===

    fn leader_ended(&mut self, now: Time, life: Life, status: ExitStatus, rest: u32) {
        let Some(worker) = self.roster.get(life).filter(|worker| worker.ended.is_none()).cloned() else { return };
        let by_itself = if status == ExitStatus::Code(0) { Reason::Exit } else { Reason::Crash };
        let reason = worker.purpose.unwrap_or(by_itself);
        let verdict = restart::verdict(&self.policy, self.ending(now, &worker, status));
        if worker.exec_failure.is_none() {
            self.note(Note::Ended { slot: worker.slot, pid: worker.pid_for_log(), status, reason, rest });
        }
        self.count_status(&worker, status);
        self.roster.update(life, |worker| worker.ended = Some(Ended { status, at: now, verdict }));
        // Of the slot's worker or its predecessor; a successor that fails never was the slot's.
        if self.slots.worker(worker.slot).is_none_or(|worker| life <= worker)
            && let Some(state) = self.slots.get_mut(worker.slot)
        {
            state.last_exit = Some(LastExit { status, reason, at: now });
        }
        let text = worker.exec_failure.clone().unwrap_or_else(|| status.to_string());
        self.successor_failed(now, life, &format!("the new worker of slot {} ended before it was ready: {text}", worker.slot));
        let is_killed = matches!(worker.phase, Phase::Killed { .. });
        let is_replaced = worker.purpose.is_none() && verdict != Verdict::Done && self.course.starts_workers();
        if rest == 0 {
            self.tree_ended(now, life);
        } else if is_replaced && !is_killed {
            // What a crashed leader leaves behind may hold its port: it must be gone before the successor starts.
            self.kill(now, life);
        } else {
            self.stop_rest(now, life);
        }
    }

    fn ending(&self, now: Time, worker: &Worker, status: ExitStatus) -> Ending {
        Ending {
            status,
            forked: worker.forked,
            at: now,
            ready_since: worker.ready_since,
            program_notifies: self.learned.notifies,
            failed_by_us: matches!(worker.purpose, Some(Reason::StartTimeout | Reason::Hung)),
        }
    }

    fn stop_rest(&mut self, now: Time, life: Life) {
        let fallback = self.course.kill_at().unwrap_or(now + self.policy.grace);
        let signal = self.roster.update(life, |worker| match worker.phase {
            Phase::Killed { .. } => false,
            Phase::Stopping { kill_at, .. } => {
                worker.phase = Phase::Stopping { kill_at, signalled: true };
                true
            }
            Phase::Forking | Phase::Starting { .. } | Phase::Ready | Phase::Hung => {
                worker.phase = Phase::Stopping { kill_at: fallback, signalled: true };
                true
            }
        });
        match signal {
            Some(true) => self.effects.push(Effect::StopRest { life }),
            Some(false) => self.send_kill(life),
            None => {}
        }
    }

    /// The stop signal to a worker that runs; to one that is already stopping only an earlier deadline.
    pub(super) fn stop_worker(&mut self, life: Life, reason: Reason, deadline: Time) {
        let Some(signal) = self.roster.update(life, |worker| match worker.phase {
            Phase::Killed { .. } => false,
            Phase::Stopping { kill_at, signalled } => {
                worker.phase = Phase::Stopping { kill_at: kill_at.min(deadline), signalled: true };
                worker.purpose = worker.purpose.or(Some(reason));
                !signalled
            }
            Phase::Forking | Phase::Starting { .. } | Phase::Ready | Phase::Hung => {
                worker.phase = Phase::Stopping { kill_at: deadline, signalled: true };
                worker.purpose = Some(reason);
                true
            }
        }) else {
            return;
        };
        let Some(worker) = self.roster.get(life) else { return };
        if signal && worker.ended.is_none() {
            let (slot, pid) = (worker.slot, worker.pid_for_log());
            let failed_to_start = worker.exec_failure.is_some();
            self.effects.push(Effect::StopLeader { life });
            if !failed_to_start {
                self.note(Note::Stopping { slot, pid, reason });
            }
        }
    }

    /// SIGKILL to the whole tree.
    pub(super) fn kill(&mut self, now: Time, life: Life) {
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

    fn kill_again(&mut self, now: Time, life: Life, tries: u32) {
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
        self.left(worker.life);
        if self.slots.worker(worker.slot) != Some(worker.life) {
            return;
        }
        let verdict = match worker.purpose {
            // We ended it and nobody took its place: it is still wanted, or its slot goes.
            Some(Reason::Reload | Reason::Lifetime | Reason::Scale | Reason::Stop) => Verdict::ReplaceNow,
            Some(Reason::Hung | Reason::StartTimeout | Reason::Exit | Reason::Crash) | None => ended.verdict,
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
        let by_itself = matches!(worker.purpose, None | Some(Reason::Hung | Reason::StartTimeout));
        if by_itself && self.ends_with_first(now, slot, ended.status) {
            return;
        }
        if by_itself
            && ended.verdict != Verdict::Done
            && let Some(state) = self.slots.get_mut(slot)
        {
            state.restarts = state.restarts.saturating_add(1);
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

    pub(super) fn note(&mut self, note: Note) {
        self.effects.push(Effect::Note(note));
    }
}
