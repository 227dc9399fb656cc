//! The world around a supervisor, in virtual time: it answers effects as the runtime does, and lets processes live and die as their
//! [`Behaviour`]s say. Every step is checked by [`Safety`].

mod memory;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::memory::Thrift;
use super::process::{Behaviour, Exec, Ms, NEVER, OnPart, OnStop};
use super::rotation::Rotation;
use super::safety::Safety;
use crate::cluster::Supervisor;
use crate::cluster::effect::{Effect, Note};
use crate::cluster::event::{Event, Left, Notice, Request};
use crate::cluster::policy::Policy;
use crate::cluster::sizing::Limits;
use crate::cluster::status::{Facts, Snapshot};
use crate::cluster::words::{ExitStatus, Life, Pid, Signal, Slot, Time};

/// Steps at one instant: more is a loop that burns the CPU of PID 1.
const MOST_AT_ONCE: u32 = 2_000;

pub(crate) struct World {
    pub(crate) supervisor: Supervisor,
    pub(crate) now: Time,
    /// All effects, with their instants.
    pub(crate) log: Vec<(Time, Effect)>,
    pub(crate) ended: Option<(Time, u8)>,
    /// What lives in the namespace besides us and the workers' trees.
    pub(crate) strays: Strays,
    /// Whether a deadline wins against an event of the same instant.
    pub(crate) deadlines_first: bool,
    policy: Policy,
    script: Script,
    lives: BTreeMap<Life, Process>,
    to_come: BTreeMap<(Time, u64), Happening>,
    answers: VecDeque<Event>,
    sequence: u64,
    at_once: u32,
    safety: Safety,
    rotation: Rotation,
    thrift: Thrift,
    /// What the container uses besides its workers, in bytes.
    pub(crate) others_use: u64,
    /// From `Confirm` to its answer.
    pub(crate) confirm_takes: Ms,
}

/// What the workers do: one behaviour for each spawn in turn, then the last one again and again.
pub(crate) struct Script {
    pub(crate) lives: Vec<Behaviour>,
    pub(crate) then: Behaviour,
}

/// Processes of nobody: how many, and how long they take to go once asked (`NEVER`: only by SIGKILL; unkillable: not by that either).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Strays {
    pub(crate) own: u32,
    pub(crate) own_takes: Ms,
    pub(crate) entered: u32,
    pub(crate) entered_takes: Ms,
    pub(crate) unkillable: bool,
}

struct Process {
    behaviour: Behaviour,
    leader: bool,
    rest: u32,
    executed: Option<Time>,
}

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Executed(Life),
    Says(Life, Notice),
    Listens(Life),
    GetsQuiet(Life),
    HasParted(Life),
    Waits(Life, bool),
    LeaderEnds(Life, ExitStatus),
    RestEnds(Life),
    TreeKilled(Life),
    OwnGone,
    EnteredGone,
    Asked(Request),
    Confirmed(Life),
    LimitsRead(Limits),
    /// Others in the container use so much from now on.
    OthersUse(u64),
    /// Anything at all: the supervisor is total.
    Noise(Event),
}

fn duration(ms: Ms) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn at(ms: Ms) -> Time {
    Time(duration(ms))
}

impl World {
    /// A cluster that has just started.
    pub(crate) fn start(policy: Policy, script: Script) -> Self {
        let mut world = Self {
            supervisor: Supervisor::new(policy.clone(), Facts::default()),
            now: Time::default(),
            log: Vec::new(),
            ended: None,
            strays: Strays::default(),
            deadlines_first: false,
            safety: Safety::new(policy.clone()),
            rotation: Rotation::new(policy.clone()),
            thrift: Thrift::new(policy.clone()),
            others_use: 0,
            confirm_takes: 5,
            policy,
            script,
            lives: BTreeMap::new(),
            to_come: BTreeMap::new(),
            answers: VecDeque::new(),
            sequence: 0,
            at_once: 0,
        };
        let effects = world.supervisor.start(world.now);
        world.carry_out(effects);
        world.answer();
        world
    }

    /// Every worker does the same.
    pub(crate) fn of(policy: Policy, behaviour: Behaviour) -> Self {
        Self::start(policy, Script { lives: Vec::new(), then: behaviour })
    }

    /// One behaviour for each start, in order; the last one from then on.
    pub(crate) fn scripted<const N: usize>(policy: Policy, behaviours: [Behaviour; N]) -> Self {
        let mut lives = Vec::from(behaviours);
        let then = lives.pop().expect("a script has at least one life");
        Self::start(policy, Script { lives, then })
    }

    /// Time goes on to this instant, or to the end.
    pub(crate) fn run_until(&mut self, ms: Ms) {
        let end = at(ms);
        while self.ended.is_none() {
            let happening = self.to_come.keys().next().map(|(at, _)| *at);
            let deadline = self.supervisor.next_deadline().map(|deadline| deadline.max(self.now));
            let look = self.supervisor.next_look().map(|look| look.at.max(self.now));
            let Some(next) = [happening, deadline, look].into_iter().flatten().min().filter(|next| *next <= end) else { break };
            if next > self.now {
                (self.now, self.at_once) = (next, 0);
            }
            let deadline_due = deadline.is_some_and(|deadline| deadline <= next);
            let happening_due = happening.is_some_and(|at| at <= next);
            if deadline_due && (self.deadlines_first || !happening_due) {
                self.step(Event::DeadlineReached);
            } else if happening_due {
                let (_, happening) = self.to_come.pop_first().expect("something happens");
                self.happen(happening);
            } else {
                self.look();
            }
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn run_for(&mut self, ms: Ms) {
        self.run_until(u64::try_from(self.now.0.as_millis()).unwrap() + ms);
    }

    pub(crate) fn ask(&mut self, request: Request) {
        self.step(Event::Asked(request));
    }

    pub(crate) fn plan(&mut self, ms: Ms, happening: Happening) {
        self.later(at(ms).since(self.now), happening);
    }

    pub(crate) fn reloads_due(&self) -> u32 {
        self.safety.reloads_due()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.supervisor.snapshot()
    }

    /// The instants at which workers were started in this slot.
    pub(crate) fn starts(&self, slot: u32) -> Vec<Ms> {
        self.times(|effect| matches!(effect, Effect::Spawn { slot: Slot(id), .. } if *id == slot))
    }

    /// The instants of all effects of a kind, in whole milliseconds.
    pub(crate) fn times(&self, wanted: impl Fn(&Effect) -> bool) -> Vec<Ms> {
        let hits = self.log.iter().filter(|(_, effect)| wanted(effect));
        hits.map(|(at, _)| u64::try_from(at.0.as_millis()).unwrap()).collect()
    }

    pub(crate) fn notes(&self) -> impl Iterator<Item = &Note> {
        self.log.iter().filter_map(|(_, effect)| if let Effect::Note(note) = effect { Some(note) } else { None })
    }

    /// The exit status and when, of a cluster that has ended.
    pub(crate) fn end(&self) -> (Ms, u8) {
        let (at, code) = self.ended.expect("the cluster has ended");
        (u64::try_from(at.0.as_millis()).unwrap(), code)
    }

    fn later(&mut self, wait: Duration, happening: Happening) {
        self.sequence += 1;
        self.to_come.insert((self.now + wait, self.sequence), happening);
    }

    fn in_ms(&mut self, ms: Ms, happening: Happening) {
        if ms != NEVER {
            self.later(duration(ms), happening);
        }
    }

    fn step(&mut self, event: Event) {
        self.safety.before(self.now, &event, &self.supervisor.snapshot());
        self.rotation.before(self.now, &event);
        self.thrift.before(self.now, &event);
        let quiet = if let Event::Quiet { life } = event { Some(life) } else { None };
        let told = format!("{event:?}");
        let effects = self.supervisor.step(self.now, event);
        self.at_once += 1;
        assert!(self.at_once < MOST_AT_ONCE, "a loop at {:?}: {told} -> {effects:?}", self.now);
        self.carry_out(effects);
        let snapshot = self.supervisor.snapshot();
        self.safety.after_step(self.now, &snapshot, self.supervisor.next_deadline());
        self.rotation.after_step(self.now, &snapshot, quiet);
        self.thrift.after_step(self.now, &snapshot, self.supervisor.next_look());
        self.nobody_is_far_above_its_cap();
        self.answer();
    }

    fn answer(&mut self) {
        while let Some(answer) = self.answers.pop_front() {
            self.step(answer);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.safety.effect(self.now, &effect);
            self.rotation.effect(self.now, &effect);
            self.thrift.effect(self.now, &effect);
            match &effect {
                Effect::SeekQuiet { life, .. } => self.seek_quiet(*life),
                Effect::Spawn { life, .. } => self.spawn(*life),
                Effect::Part { life } => self.part(*life),
                Effect::StopLeader { life } => self.stop_leader(*life),
                Effect::StopRest { life } => self.stop_rest(*life),
                Effect::KillTree { life } => self.kill(*life),
                Effect::Confirm { life } => self.in_ms(self.confirm_takes, Happening::Confirmed(*life)),
                Effect::LookAround => self.look_around(),
                Effect::AskNamespace => {
                    self.in_ms(self.strays.own_takes, Happening::OwnGone);
                    self.in_ms(self.strays.entered_takes, Happening::EnteredGone);
                }
                Effect::KillEntered if !self.strays.unkillable => self.strays.entered = 0,
                Effect::KillNamespace if !self.strays.unkillable => (self.strays.own, self.strays.entered) = (0, 0),
                Effect::KillEntered
                | Effect::KillNamespace
                | Effect::Join { .. }
                | Effect::Disconnect { .. }
                | Effect::Refuse
                | Effect::Bound { .. }
                | Effect::Note(_) => {}
                Effect::End { code } => self.ended = Some((self.now, *code)),
            }
            self.log.push((self.now, effect));
        }
    }

    fn spawn(&mut self, life: Life) {
        let number = usize::try_from(life.0).unwrap();
        let behaviour = self.script.lives.get(number).unwrap_or(&self.script.then).clone();
        if behaviour.fork_refused {
            self.answers.push_back(Event::ForkRefused { life, why: "EAGAIN".to_owned() });
            return;
        }
        let pid = Pid(i32::try_from(life.0).unwrap() + 2);
        self.answers.push_back(Event::Forked { life, pid });
        match behaviour.exec {
            Exec::After(ms) => self.in_ms(ms, Happening::Executed(life)),
            Exec::Fails(failure) => {
                self.later(Duration::ZERO, Happening::Noise(Event::ExecFailed { life, failure, why: "no".to_owned() }));
                self.later(Duration::ZERO, Happening::LeaderEnds(life, ExitStatus::Code(127)));
            }
        }
        self.lives.insert(life, Process { rest: behaviour.rest.count, behaviour, leader: true, executed: None });
    }

    fn seek_quiet(&mut self, life: Life) {
        match self.lives.get(&life).map(|process| process.behaviour.quiet_takes) {
            Some(0) => self.answers.extend([self.parts(life), Event::Quiet { life }]),
            Some(takes) => self.in_ms(takes, Happening::GetsQuiet(life)),
            None => {}
        }
    }

    fn parts(&self, life: Life) -> Event {
        let parts = self.lives.get(&life).is_some_and(|process| process.behaviour.on_part != OnPart::Cannot);
        Event::Parts { life, parts }
    }

    fn part(&mut self, life: Life) {
        match self.lives.get(&life).filter(|process| process.leader).map(|process| process.behaviour.on_part) {
            Some(OnPart::Ends(takes)) => self.in_ms(takes, Happening::LeaderEnds(life, ExitStatus::Code(0))),
            Some(OnPart::Stays(takes)) => self.in_ms(takes, Happening::HasParted(life)),
            Some(OnPart::Cannot | OnPart::Serves) | None => {}
        }
    }

    fn stop_leader(&mut self, life: Life) {
        let Some(process) = self.lives.get(&life).filter(|process| process.leader) else { return };
        match process.behaviour.on_stop {
            OnStop::Dies => {
                let status = ExitStatus::Signal { signal: self.policy.stop_signal, core: false };
                self.later(Duration::ZERO, Happening::LeaderEnds(life, status));
            }
            OnStop::Exits(code, ms) => self.in_ms(ms, Happening::LeaderEnds(life, ExitStatus::Code(code))),
            OnStop::Ignores => {}
        }
    }

    fn stop_rest(&mut self, life: Life) {
        let Some(takes) = self.lives.get(&life).map(|process| process.behaviour.rest.stop_takes) else { return };
        self.in_ms(takes, Happening::RestEnds(life));
    }

    fn kill(&mut self, life: Life) {
        let Some(takes) = self.lives.get(&life).map(|process| process.behaviour.kill_takes) else { return };
        self.in_ms(takes, Happening::TreeKilled(life));
    }

    fn look_around(&mut self) {
        let left = Left { own: self.strays.own, entered: self.strays.entered };
        self.answers.push_back(Event::NamespaceSeen { left });
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Executed(life) => self.executed(life),
            Happening::Says(life, notice) => {
                if self.lives.get(&life).is_some_and(|process| process.leader) {
                    self.step(Event::Notified { life, notice });
                }
            }
            Happening::Listens(life) => {
                if self.lives.get(&life).is_some_and(|process| process.leader) {
                    self.step(Event::Listened { life });
                }
            }
            // The search may be over: the runtime tells what it sees.
            Happening::GetsQuiet(life) => {
                self.step(self.parts(life));
                self.step(Event::Quiet { life });
            }
            Happening::HasParted(life) => self.step(Event::Parted { life }),
            Happening::Waits(life, waits) => {
                if self.lives.get(&life).is_some_and(|process| process.leader) {
                    self.step(Event::Waiting { life, since: waits.then_some(self.now) });
                }
            }
            Happening::LeaderEnds(life, status) => self.leader_ends(life, status),
            Happening::RestEnds(life) => self.rest_ends(life),
            Happening::TreeKilled(life) => {
                if let Some(process) = self.lives.get_mut(&life).filter(|process| process.leader) {
                    process.rest = 0;
                    self.leader_ends(life, ExitStatus::Signal { signal: Signal::KILL, core: false });
                }
                self.rest_ends(life);
            }
            Happening::OwnGone => self.strays.own = 0,
            Happening::EnteredGone => self.strays.entered = 0,
            Happening::Asked(request) => self.ask(request),
            Happening::Confirmed(life) => self.confirmed(life),
            Happening::LimitsRead(limits) => self.step(Event::LimitsRead(limits)),
            Happening::OthersUse(bytes) => self.others_use = bytes,
            Happening::Noise(event) => self.step(event),
        }
    }

    fn executed(&mut self, life: Life) {
        let now = self.now;
        let Some(process) = self.lives.get_mut(&life).filter(|process| process.leader) else { return };
        process.executed = Some(now);
        let Behaviour { runs, status, says, listens, waits, .. } = process.behaviour.clone();
        self.in_ms(runs, Happening::LeaderEnds(life, status));
        for (ms, notice) in says {
            self.in_ms(ms, Happening::Says(life, notice));
        }
        if self.policy.sees_listening {
            self.in_ms(listens, Happening::Listens(life));
        }
        for (ms, begins) in waits {
            self.in_ms(ms, Happening::Waits(life, begins));
        }
        self.step(Event::Executed { life });
    }

    fn leader_ends(&mut self, life: Life, status: ExitStatus) {
        let Some(process) = self.lives.get_mut(&life).filter(|process| process.leader) else { return };
        process.leader = false;
        let (rest, stays) = (process.rest, process.behaviour.rest.stays);
        if rest > 0 {
            self.in_ms(stays, Happening::RestEnds(life));
        } else {
            self.lives.remove(&life);
        }
        self.step(Event::LeaderEnded { life, status, rest });
    }

    fn rest_ends(&mut self, life: Life) {
        if self.lives.get(&life).is_some_and(|process| !process.leader) {
            self.lives.remove(&life);
            self.step(Event::TreeEnded { life });
        }
    }
}
