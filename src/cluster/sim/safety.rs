//! What must never happen, checked at every effect and after every step against a model that knows facts alone.
//!
//! 1. One unfinished worker in a slot, or two while the one replacement is under way; none beside a tree that is on its way out.
//! 2. No spawn once the workers are being stopped; nothing at all after `End`.
//! 3. The stop signal at most once per leader; no signal to what has ended.
//! 4. The snapshot says what is: rows, readiness, worker count, generation.
//! 5. The next deadline does not lie in the past.
//! 6. The exit status is that of the contract.
//!
//! Who takes connections meanwhile is `rotation.rs`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::effect::{Effect, Finish, Note};
use crate::cluster::event::{Event, ExecFailure, Notice, Request};
use crate::cluster::policy::{Policy, ReadyMode};
use crate::cluster::status::{ReloadState, Restarts, Row, RowState, Snapshot, State, Tally};
use crate::cluster::words::{ExitStatus, Life, Pid, Signal, Slot, Time};

pub(crate) struct Safety {
    policy: Policy,
    lives: BTreeMap<Life, Facts>,
    wanted: u32,
    generation: u32,
    /// Reloads that were asked for and have to be begun yet.
    reloads_due: u32,
    /// Workers are being stopped: no more starts.
    stopping: bool,
    ended: bool,
    exit: Exit,
    /// The limits have changed: how far it may be scaled is told by what was done.
    resized: bool,
    /// As of the last step.
    counted: Tally,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, each of which becomes true once")]
struct Facts {
    slot: Slot,
    pid: Option<Pid>,
    executed: Option<Time>,
    /// Said `READY=1`, or listened.
    said_ready: bool,
    /// It is to end, and waits for its stop signal.
    retires: bool,
    /// Was asked to finish what it has.
    parted: bool,
    /// Announced its end, or has to do with a watchdog: readiness is not ours to foretell.
    peculiar: bool,
    leader_gone: bool,
    status: Option<u8>,
    gone: bool,
    stop_sent: bool,
    kill_sent: bool,
    /// Outlived SIGKILL: its slot does not wait for it.
    given_up: bool,
}

/// What the exit status depends on, as the contract has it.
#[derive(Default)]
struct Exit {
    requested: bool,
    now: bool,
    first_interrupt: Option<Time>,
    killed: bool,
    other: Option<u8>,
    by_itself: Option<u8>,
    /// The status of the worker that this step is about.
    last: Option<u8>,
    cannot_execute: Option<u8>,
    /// Statuses of slots that will not run again.
    done: BTreeMap<Slot, u8>,
}

impl Facts {
    fn new(slot: Slot) -> Self {
        Self {
            slot,
            pid: None,
            executed: None,
            said_ready: false,
            retires: false,
            parted: false,
            peculiar: false,
            leader_gone: false,
            status: None,
            gone: false,
            stop_sent: false,
            kill_sent: false,
            given_up: false,
        }
    }

    fn leaves(&self) -> bool {
        self.is_over() || self.retires
    }

    fn is_over(&self) -> bool {
        self.leader_gone || self.stop_sent || self.kill_sent
    }

    fn may_be_ready(&self) -> bool {
        self.pid.is_some() && !self.is_over() && (self.executed.is_some() || self.said_ready)
    }

    fn must_be_ready(&self, now: Time) -> bool {
        let old_enough = self.executed.is_some_and(|at| now.since(at) > Duration::from_secs(1));
        self.may_be_ready() && !self.peculiar && old_enough
    }
}

impl Safety {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            wanted: policy.workers,
            policy,
            lives: BTreeMap::new(),
            generation: 1,
            reloads_due: 0,
            stopping: false,
            ended: false,
            exit: Exit::default(),
            resized: false,
            counted: Tally::default(),
        }
    }

    /// Takes note of what happens, before the supervisor hears of it; `snapshot` is of before.
    pub(crate) fn before(&mut self, now: Time, event: &Event, snapshot: &Snapshot) {
        self.exit.cannot_execute = None;
        match event {
            Event::Asked(request) => self.asked(now, *request, snapshot),
            Event::Listened { life } => self.change(*life, |facts| facts.said_ready = true),
            Event::Waiting { life, .. } | Event::Unanswered { life, .. } => self.change(*life, |facts| facts.peculiar = true),
            Event::Forked { life, pid } => self.change(*life, |facts| _ = facts.pid.get_or_insert(*pid)),
            Event::ForkRefused { life, .. } => self.change(*life, |facts| facts.gone |= facts.pid.is_none()),
            Event::Executed { life } => self.change(*life, |facts| _ = facts.executed.get_or_insert(now)),
            Event::ExecFailed { failure, .. } => {
                self.exit.cannot_execute = match failure {
                    ExecFailure::NotFound => Some(127),
                    ExecFailure::NotExecutable => Some(126),
                    ExecFailure::Transient => None,
                };
            }
            Event::LeaderEnded { life, status, rest } => self.leader_ended(*life, *status, *rest),
            Event::TreeEnded { life } => {
                self.exit.last = self.lives.get(life).and_then(|facts| facts.status).or(self.exit.last);
                self.change(*life, |facts| facts.gone |= facts.leader_gone);
            }
            Event::Notified { life, notice } => self.change(*life, |facts| match notice {
                Notice::Ready => facts.said_ready = true,
                Notice::Reloading | Notice::Status(_) => {}
                Notice::Stopping | Notice::Alive | Notice::Trigger | Notice::WatchdogInterval(_) => facts.peculiar = true,
            }),
            Event::LimitsRead(_) => self.resized = true,
            Event::Used(_)
            | Event::OutOfMemory { .. }
            | Event::Quiet { .. }
            | Event::Parts { .. }
            | Event::Parted { .. }
            | Event::StartedInVain { .. }
            | Event::QueueFilled { .. }
            | Event::NamespaceSeen { .. }
            | Event::DeadlineReached => {}
        }
    }

    fn asked(&mut self, now: Time, request: Request, snapshot: &Snapshot) {
        let running = matches!(snapshot.state, State::Starting | State::Running);
        match request {
            Request::Stop { interrupt, .. } => {
                let first = self.exit.first_interrupt;
                if interrupt {
                    self.exit.first_interrupt.get_or_insert(now);
                }
                self.exit.requested |= running;
                self.exit.now |= !running && interrupt && first.is_some_and(|first| now.since(first) >= ms(500));
            }
            Request::StopNow => self.exit.now = true,
            Request::Reload if running => self.reloads_due = (self.reloads_due + 1).min(2),
            Request::More if running => self.scale(self.wanted + 1),
            Request::Fewer if running => self.scale(self.wanted - 1),
            Request::Scale(to) if running => self.scale(to),
            Request::Reload | Request::More | Request::Fewer | Request::Scale(_) | Request::Restart(_) => {}
        }
    }

    fn scale(&mut self, to: u32) {
        if self.resized {
            return;
        }
        let memory = self.policy.memory_allows.is_none_or(|allowed| to <= self.wanted || to <= allowed);
        if (1..=self.policy.most_workers).contains(&to) && memory {
            self.wanted = to;
            self.exit.done.retain(|slot, _| slot.0 < to);
        }
    }

    fn rescale(&mut self, from: u32, to: u32) {
        assert!(self.resized, "resized, and no limit has changed");
        assert_eq!(from, self.wanted);
        self.wanted = to;
        self.exit.done.retain(|slot, _| slot.0 < to);
    }

    fn leader_ended(&mut self, life: Life, status: ExitStatus, rest: u32) {
        let Some(facts) = self.lives.get_mut(&life).filter(|facts| !facts.leader_gone) else { return };
        facts.leader_gone = true;
        facts.gone = rest == 0;
        self.exit.last = Some(status.as_code());
        facts.status = self.exit.last;
        if !self.stopping {
            return;
        }
        let stop = self.policy.stop_signal;
        match status {
            ExitStatus::Signal { signal: Signal::KILL, .. } if facts.kill_sent => self.exit.killed = true,
            ExitStatus::Signal { signal, .. } if signal == stop => {}
            ExitStatus::Code(code) if code == 0 || code == stop.as_code() => {}
            ExitStatus::Code(_) | ExitStatus::Signal { .. } => _ = self.exit.other.get_or_insert(status.as_code()),
        }
    }

    fn change(&mut self, life: Life, change: impl FnOnce(&mut Facts)) {
        if let Some(facts) = self.lives.get_mut(&life) {
            change(facts);
        }
    }

    pub(crate) fn effect(&mut self, now: Time, effect: &Effect) {
        assert!(!self.ended, "after the end: {effect:?}");
        match effect {
            Effect::Join { .. } | Effect::Disconnect { .. } | Effect::Refuse | Effect::Confirm { .. } | Effect::Bound { .. } => {}
            Effect::SeekQuiet { life, .. } => self.change(*life, |facts| facts.retires = true),
            Effect::Spawn { life, slot, generation, .. } => {
                self.may_spawn(now, *slot);
                assert!(*generation >= self.generation, "generation fell to {generation}");
                self.exit.done.remove(slot);
                assert!(self.lives.insert(*life, Facts::new(*slot)).is_none(), "{life:?} twice");
            }
            Effect::Part { life } => {
                let facts = self.lives.get_mut(life).expect("a worker that was started");
                assert!(facts.retires && !facts.leader_gone, "{life:?} is asked to part and was not to end, or has");
                assert!(!facts.parted && !facts.stop_sent && !facts.kill_sent, "{life:?} is asked to part, too late");
                facts.parted = true;
            }
            Effect::StopLeader { life } => {
                let facts = self.lives.get_mut(life).expect("a stop signal for a worker that was started");
                assert!(!facts.leader_gone, "a stop signal to {life:?}, whose leader has gone");
                assert!(!facts.stop_sent && !facts.kill_sent, "a second signal to {life:?}");
                facts.stop_sent = true;
            }
            Effect::StopRest { life } => {
                let facts = &self.lives[life];
                assert!(facts.leader_gone && !facts.gone && !facts.kill_sent, "no rest of {life:?} to stop");
            }
            Effect::KillTree { life } => {
                let facts = self.lives.get_mut(life).expect("a kill for a worker that was started");
                assert!(!facts.gone, "a kill for {life:?}, whose tree has gone");
                facts.kill_sent = true;
                self.exit.killed |= self.stopping && facts.leader_gone;
            }
            Effect::Note(note) => self.noted(note),
            Effect::End { code } => {
                assert_eq!(*code, self.exit_code(), "exit status");
                self.ended = true;
            }
            Effect::LookAround | Effect::AskNamespace | Effect::KillEntered | Effect::KillNamespace => {
                assert!(self.stopping, "{effect:?} before the stop");
            }
        }
    }

    fn may_spawn(&self, now: Time, slot: Slot) {
        assert!(!self.stopping, "slot {slot} starts during the stop, at {now:?}");
        assert!(slot.0 < self.wanted, "slot {slot} starts, {} workers are wanted", self.wanted);
        let there: Vec<&Facts> = self.unfinished().filter(|facts| facts.slot == slot).collect();
        assert!(there.len() < 2, "a third worker for slot {slot}");
        if let [predecessor] = there[..] {
            assert!(!predecessor.leaves(), "slot {slot} starts beside a tree on its way out, at {now:?}");
            let elsewhere = self.replacements();
            assert!(elsewhere.is_empty(), "a second replacement in slot {slot}, beside {elsewhere:?}, at {now:?}");
        }
    }

    fn unfinished(&self) -> impl Iterator<Item = &Facts> {
        self.lives.values().filter(|facts| !facts.gone && !facts.given_up)
    }

    /// The slots with two workers, of which at least one is to stay.
    fn replacements(&self) -> BTreeSet<Slot> {
        let mut seen: BTreeMap<Slot, (u32, u32)> = BTreeMap::new();
        for facts in self.unfinished() {
            let (all, stay) = seen.entry(facts.slot).or_default();
            *all += 1;
            *stay += u32::from(!facts.leaves());
        }
        seen.into_iter().filter(|(_, (all, stay))| *all > 1 && *stay > 0).map(|(slot, _)| slot).collect()
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most notes are for people alone")]
    fn noted(&mut self, note: &Note) {
        match note {
            Note::ReloadBegan { generation, .. } => {
                assert_eq!(*generation, self.generation + 1);
                assert!(self.reloads_due > 0, "a reload that nobody asked for");
                self.generation = *generation;
            }
            Note::ReloadDone { .. } | Note::ReloadAborted { .. } => self.reloads_due = self.reloads_due.saturating_sub(1),
            Note::DrainEnded | Note::KillNow => self.stopping = true,
            Note::StopBegan { .. } => self.reloads_due = self.reloads_due.min(1),
            Note::SlotDone { slot } => _ = self.exit.done.insert(*slot, self.exit.last.expect("a worker ended")),
            Note::StillThere { pid, .. } => {
                let facts = self.lives.values_mut().find(|facts| facts.pid == Some(*pid)).expect("a worker of this pid");
                facts.given_up = true;
                // It counts as killed, although it has not ended yet.
                self.exit.last = facts.status.or(Some(137));
            }
            Note::Scaled { from, to } if self.resized => self.rescale(*from, *to),
            Note::Resized { from, to, .. } => self.rescale(*from, *to),
            Note::Abandoned { workers, .. } => self.exit.killed |= *workers > 0,
            Note::Finishing { why } => self.finishing(why),
            _ => {}
        }
    }

    fn finishing(&mut self, why: &Finish) {
        self.stopping = true;
        self.reloads_due = self.reloads_due.min(1);
        if *why == Finish::FirstEnded {
            self.exit.done.insert(Slot(0), self.exit.last.expect("a worker ended"));
        }
        let worst = self.exit.done.values().max().copied();
        let code = match why {
            Finish::NothingLeftToRun => worst,
            Finish::FirstEnded | Finish::GaveUp { .. } => self.exit.last,
            Finish::CannotExecute { .. } => self.exit.cannot_execute,
        };
        if self.exit.requested {
            let clean = |code: &u8| *code == 0 || *code == self.policy.stop_signal.as_code();
            self.exit.other = self.exit.other.or(code.filter(|code| !clean(code)));
        } else {
            self.exit.by_itself = Some(code.expect("a reason to end"));
        }
    }

    fn exit_code(&self) -> u8 {
        let exit = &self.exit;
        let stop = self.policy.stop_signal.as_code();
        let failed = exit.done.values().copied().find(|code| *code != 0 && *code != stop);
        if exit.now || (exit.requested && exit.killed) {
            137
        } else if exit.requested {
            failed.or(exit.other).unwrap_or(0)
        } else {
            exit.by_itself.expect("somebody asked for the end, or it has a reason")
        }
    }

    pub(crate) fn after_step(&mut self, now: Time, snapshot: &Snapshot, deadline: Option<Time>) {
        assert!(deadline.is_none_or(|deadline| deadline >= now), "a deadline in the past: {deadline:?} at {now:?}");
        assert!(!self.ended || deadline.is_none(), "a deadline after the end");
        assert_eq!(snapshot.generation, self.generation);
        assert_eq!(snapshot.wanted, self.wanted);
        assert!(snapshot.wanted >= 1 && (self.resized || snapshot.wanted <= self.policy.most_workers));
        assert!(self.replacements().len() <= 1);
        self.rows_tell_what_is(now, snapshot);
        let reloading = snapshot.reload.state == ReloadState::Running;
        assert!(!(reloading && self.stopping), "a reload goes on in the stop");
        self.counts_only_grow(snapshot);
    }

    /// In all at least what the slots have that are still there.
    fn counts_only_grow(&mut self, snapshot: &Snapshot) {
        let before = std::mem::replace(&mut self.counted, snapshot.tally);
        assert!(snapshot.tally.reloads_done >= before.reloads_done && snapshot.tally.reloads_aborted >= before.reloads_aborted);
        let slots: BTreeMap<Slot, &Row> = snapshot.rows.iter().map(|row| (row.slot, row)).collect();
        for (at, (reason, all)) in snapshot.tally.restarts.iter().enumerate() {
            let count = |restarts: &Restarts| restarts.iter().nth(at).map_or(0, |(_, count)| count);
            assert!(all >= count(&before.restarts), "{reason:?} went backwards");
            assert!(all >= slots.values().map(|row| count(&row.restarts_by)).sum(), "{reason:?}: {all} in all: {slots:?}");
        }
        assert!(slots.values().all(|row| row.restarts == row.restarts_by.unasked()));
    }

    fn rows_tell_what_is(&self, now: Time, snapshot: &Snapshot) {
        let rows = &snapshot.rows;
        let order = |row: &Row| (row.slot, row.life.is_none(), row.life);
        assert!(rows.is_sorted_by(|one, next| order(one) < order(next)), "rows out of order: {rows:?}");
        let lives: BTreeSet<Life> = rows.iter().filter_map(|row| row.life).collect();
        let alive: BTreeSet<Life> = self.lives.iter().filter(|(_, facts)| !facts.gone).map(|(life, _)| *life).collect();
        assert_eq!(lives, alive, "one row per worker");
        for slot in (0..self.wanted).map(Slot) {
            let held = self.unfinished().filter(|facts| facts.slot == slot).count();
            let empty = rows.iter().filter(|row| row.slot == slot && row.life.is_none()).count();
            assert_eq!(empty, usize::from(held == 0), "one row for slot {slot} without a worker: {rows:?}");
        }
        let ready = rows.iter().filter(|row| row.state == RowState::Ready).count();
        assert_eq!(ready, usize::try_from(snapshot.ready).unwrap(), "ready workers: {rows:?}");
        for row in rows {
            self.row_tells_what_is(now, row);
        }
    }

    fn row_tells_what_is(&self, now: Time, row: &Row) {
        let Some(facts) = row.life.map(|life| &self.lives[&life]) else {
            let waits = row.state == RowState::Backoff;
            assert!(row.state == RowState::Stopped || (waits && row.next_start.is_some() && !self.stopping), "{row:?}");
            return;
        };
        assert_eq!((row.slot, row.pid), (facts.slot, facts.pid));
        match row.state {
            RowState::Ready => assert!(facts.may_be_ready(), "not ready: {row:?}"),
            RowState::Killed => assert!(facts.kill_sent, "nobody killed it: {row:?}"),
            RowState::Disconnecting => assert!(facts.retires && !facts.is_over(), "nobody is to end it: {row:?}"),
            RowState::Stopping => assert!(facts.leaves() || facts.peculiar, "nobody stops it: {row:?}"),
            RowState::Hung => assert!(facts.peculiar && !facts.leaves(), "no watchdog: {row:?}"),
            RowState::Starting => {
                let runs_long = self.policy.ready == ReadyMode::Running && facts.must_be_ready(now);
                assert!(!runs_long, "ready long ago: {row:?} at {now:?}");
            }
            RowState::Backoff | RowState::Stopped => panic!("a worker in it: {row:?}"),
        }
    }

    /// Reloads that were promised and are not done.
    pub(crate) fn reloads_due(&self) -> u32 {
        self.reloads_due
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
