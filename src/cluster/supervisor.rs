//! The state machine: every event in every state is a decision made here or in a file named after its subject.
//!
//! | file | decides |
//! |---|---|
//! | this one | who is told of an event; starting a worker |
//! | `retire.rs` | disconnecting and stopping one worker |
//! | `ending.rs` | killing one worker; what follows its end |
//! | `readiness.rs` | when a worker is ready or too old; when the others follow slot 0 |
//! | `hang.rs` | when a worker hangs and when it recovers; queues that nobody has |
//! | `rollout.rs` | who is replaced, one at a time: reload, restart, lifetime, hung, memory, resize |
//! | `scale.rs` | more and fewer slots |
//! | `memory.rs` | who uses too much memory; what is to be measured next, and when |
//! | `resize.rs` | limits that change while we run |
//! | `shutdown.rs` | stop, now, finishing by itself, the sweep of the namespace, the exit status |
//! | `publish.rs` | the snapshot |

use std::sync::Arc;
use std::time::Duration;

use super::effect::{Effect, Finish, Note};
use super::event::{Event, ExecFailure, Request};
use super::journal::{Entry, Journal, What};
use super::memory::Memory;
use super::policy::Policy;
use super::resize::Resize;
use super::restart::{self, Jitter};
use super::rollout::Rollout;
use super::roster::Roster;
use super::shutdown::{Course, Outcome};
use super::slots::{Occupancy, Slots};
use super::status::{Facts, Reason, Tally};
use super::words::{Life, Pid, Slot, Time};
use super::worker::{Asked, Phase, Worker, earliest};

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
    pub(super) memory: Memory,
    pub(super) resize: Resize,
    pub(super) orphans_reaped: u64,
    pub(super) tally: Tally,
    pub(super) jitter: Jitter,
    next_life: u64,
    pub(super) effects: Vec<Effect>,
    pub(super) journal: Journal,
}

/// What the history of this cluster has taught.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each of which becomes true once")]
pub(super) struct Learned {
    /// What some worker has shown first: the program is a server, and all later workers are asked for that.
    pub(super) shown: Option<Shown>,
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

/// How a program shows that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Listens,
    /// It says `READY=1`, and said so before it listened.
    Notifies,
}

impl Supervisor {
    /// The cluster before its first worker; [`Supervisor::start`] begins.
    pub fn new(policy: Policy, facts: Facts) -> Self {
        let jitter = Jitter::new(policy.seed);
        let wanted = policy.workers;
        let facts = Facts { worker_cap_bytes: policy.inputs.share(wanted).memory, ..facts };
        Self {
            facts: Arc::new(facts),
            roster: Roster::default(),
            slots: Slots::default(),
            rollout: Rollout::default(),
            course: Course::Running,
            outcome: Outcome::default(),
            generation: 1,
            wanted,
            learned: Learned::default(),
            memory: Memory::default(),
            resize: Resize::new(&policy.inputs),
            orphans_reaped: 0,
            tally: Tally::default(),
            jitter,
            next_life: 0,
            effects: Vec::new(),
            journal: Journal::default(),
            policy,
        }
    }

    /// The first effects: start slot 0, and the others too where nothing says that they wait.
    #[must_use]
    pub fn start(&mut self, now: Time) -> Vec<Effect> {
        self.keep_shares_right();
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
        self.forget_next_look();
        self.take_effects(now)
    }

    /// What follows from `event` at `now`. Total: no event is wrong in any state, and none is answered by a panic.
    #[must_use]
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Effect> {
        if self.course == Course::Over {
            return Vec::new();
        }
        self.witness(now, &event);
        match event {
            Event::Forked { life, pid } => self.forked(now, life, pid),
            Event::ForkRefused { life, why } => self.fork_refused(now, life, why),
            Event::Executed { life } => self.executed(now, life),
            Event::ExecFailed { life, failure, why } => self.exec_failed(now, life, failure, why),
            Event::LeaderEnded { life, status, rest } => self.leader_ended(now, life, status, rest),
            Event::TreeEnded { life } => self.tree_ended(now, life),
            Event::Notified { life, notice } => self.notified(now, life, notice),
            Event::Listened { life } => self.listened(now, life),
            Event::Quiet { life } => self.quiet(now, life),
            Event::Parts { life, parts } => self.parts(life, parts),
            Event::Parted { life } => self.parted(now, life),
            Event::Unanswered { life, since } => self.unanswered(now, life, since),
            Event::Waiting { life, since } => self.waiting(now, life, since),
            Event::QueueFilled { slot } => self.queue_filled(now, slot),
            Event::Used(used) => self.used(now, &used),
            Event::StartedInVain { life } => self.started_in_vain(life),
            Event::OutOfMemory { life } => self.out_of_memory(now, life),
            Event::LimitsRead(limits) => self.limits_read(now, limits),
            Event::Asked(request) => self.asked(now, request),
            Event::NamespaceSeen { left } => self.namespace_seen(now, left),
            Event::DeadlineReached => {}
        }
        self.advance_drain(now);
        self.deadlines_reached(now);
        self.advance_rollout(now);
        self.advance_shutdown(now);
        self.note_readiness(now);
        self.forget_next_look();
        self.take_effects(now)
    }

    /// What nobody decides about and no line is logged for.
    fn witness(&mut self, now: Time, event: &Event) {
        let (worker, what) = if let Event::Executed { life } = event {
            (self.roster.get(*life), What::Online)
        } else if let Event::Listened { life } = event {
            (self.roster.get(*life).filter(|worker| !worker.has_listened), What::Listening)
        } else {
            return;
        };
        if let Some(worker) = worker.filter(|worker| worker.ended.is_none()) {
            self.journal.push(Entry::of_worker(now, what, worker.slot, worker.pid_for_log()));
        }
    }

    /// What people are told of is kept too.
    fn take_effects(&mut self, now: Time) -> Vec<Effect> {
        for effect in &self.effects {
            if let Effect::Note(note) = effect {
                self.journal.note(now, note);
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::DeadlineReached`] is due at the latest; `None`: only an event can change anything.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.course == Course::Over {
            return None;
        }
        let slots = if self.course.starts_workers() { self.slots.next_start() } else { None };
        let resize = self.resize_deadline();
        [self.roster.next_deadline(), slots, self.first_timeout(), resize, self.course.deadline()]
            .into_iter()
            .fold(None, earliest)
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
        self.resize_due(now);
        self.start_slots(now);
    }

    fn worker_due(&mut self, now: Time, life: Life) {
        let Some(phase) = self.roster.get(life).map(|worker| worker.phase) else { return };
        match phase {
            Phase::Forking => {}
            Phase::Starting { .. } => self.start_due(now, life),
            Phase::Ready | Phase::Hung { .. } => self.life_due(now, life),
            Phase::Retiring { .. } => self.search_due(now, life),
            Phase::Parting { .. } => self.parting_due(now, life),
            Phase::Stopping { .. } => self.kill(now, life),
            Phase::Killed { tries, .. } => self.kill_again(now, life, tries),
        }
    }

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
            self.rollout.refilled(slot, life);
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
        let share = self.policy.inputs.share(self.wanted);
        let mut worker = Worker::new(life, slot, self.generation, now, self.policy.hang_timeout);
        worker.cap = share.memory;
        self.roster.insert(worker);
        self.effects.push(Effect::Spawn { life, slot, generation: self.generation, workers: self.wanted, share });
        life
    }

    fn forked(&mut self, now: Time, life: Life, pid: Pid) {
        let Some(slot) = self.slot_of(life) else { return };
        if self.roster.get(life).is_none_or(|worker| worker.pid.is_some()) {
            return;
        }
        let asked = self.asked_of_the_next();
        let timeout_at = matches!(asked, Asked::Listening | Asked::Notifying).then(|| now + self.start_timeout());
        let old_at = self.policy.max_lifetime.map(|lifetime| now + lifetime.mul_f64(1.0 + 0.1 * self.jitter.next()));
        let generation = self.roster.update(life, |worker| {
            worker.pid = Some(pid);
            worker.forked = now;
            worker.old_at = old_at;
            if worker.phase == Phase::Forking {
                worker.phase = Phase::Starting { asked, at: timeout_at };
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
        let was_successor = self.successor_failed(now, life, &format!("fork refused: {why}"));
        // Its own successor may be on its way: a reload that began at the same instant.
        self.left(life);
        // A successor whose predecessor has gone has the slot already: it starts anew as any slot.
        if self.slots.worker(slot) != Some(life) {
            self.note(Note::ForkRefused { slot, why, retry_in: (!was_successor).then_some(Duration::ZERO) });
            return;
        }
        let jitter = self.jitter.next();
        let refusals = self.slots.get_mut(slot).map_or(1, |state| {
            state.refusals = state.refusals.saturating_add(1);
            state.hurried &= state.refusals > 1 || state.failures > 0;
            state.refusals
        });
        let wait = restart::delay(self.policy.backoff, refusals, jitter);
        self.note(Note::ForkRefused { slot, why, retry_in: Some(wait) });
        self.start_at(now + wait, slot);
    }

    fn executed(&mut self, now: Time, life: Life) {
        let timeout = self.start_timeout();
        let known = self.roster.update(life, |worker| {
            if let Phase::Starting { asked, at: at @ None } = &mut worker.phase {
                *at = Some(match asked {
                    // It has begun to run only now: exec itself may take long (a slow disk).
                    Asked::Running { .. } => now + restart::RUNNING,
                    Asked::Anything | Asked::Listening | Asked::Notifying => (worker.forked + timeout).max(now),
                });
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

    /// The worker of this slot has a successor, or will have one.
    pub(super) fn count_restart(&mut self, slot: Slot, reason: Reason) {
        self.tally.restarts.count(reason);
        if let Some(state) = self.slots.get_mut(slot) {
            state.restarts.count(reason);
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        self.effects.push(Effect::Note(note));
    }
}
