//! Who may be ended for his memory: what must never happen, checked beside [`Safety`](super::safety::Safety).
//!
//! 1. Nobody is killed for his memory, or replaced for it, but after an exact figure at or above his cap (his soft share of it), or,
//!    while the container is short, above his share: the fair one, or less where others leave less below the critical line.
//! 2. At most one worker per second is killed because the container is short.
//! 3. At most one replacement at a time, predecessor first too.
//! 4. The next look is never later than a worker, or the container, could have reached its line; and never sooner than 10 ms after the last, but
//!    once: when the container is found short.
//! 5. Nothing is replaced during a stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::Look;
use crate::cluster::effect::{Effect, Note};
use crate::cluster::event::{Event, Used, WorkerUses};
use crate::cluster::policy::Policy;
use crate::cluster::sizing::{Caps, Inputs};
use crate::cluster::status::{Snapshot, State};
use crate::cluster::words::{Life, Pid, Slot, Time};

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

pub(crate) struct Thrift {
    policy: Policy,
    /// As the limits were read last.
    read: Inputs,
    wanted: u32,
    lives: BTreeMap<Life, Eater>,
    killed: BTreeSet<Life>,
    last_kill: Option<Time>,
    answered: Option<Time>,
    hurries: bool,
    look: Option<Look>,
    container_missed: bool,
    container: Option<(Time, u64)>,
    /// The slot whose predecessor went first, and its successor.
    emptied: Option<(Slot, Option<Life>)>,
    running: bool,
}

struct Eater {
    slot: Slot,
    pid: Option<Pid>,
    forked: Option<Time>,
    cap: Option<u64>,
    last: Option<(Time, WorkerUses)>,
    /// It was looked at in vain since.
    missed: bool,
    leaves: bool,
}

impl Thrift {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            read: policy.inputs.clone(),
            wanted: policy.workers,
            policy,
            lives: BTreeMap::new(),
            killed: BTreeSet::new(),
            last_kill: None,
            answered: None,
            hurries: false,
            look: None,
            container_missed: false,
            container: None,
            emptied: None,
            running: true,
        }
    }

    pub(crate) fn is_killed(&self, life: Life) -> bool {
        self.killed.contains(&life)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have nothing to do with memory")]
    pub(crate) fn before(&mut self, now: Time, event: &Event) {
        match event {
            Event::Forked { life, pid } => {
                if let Some(eater) = self.lives.get_mut(life).filter(|eater| eater.pid.is_none()) {
                    (eater.pid, eater.forked) = (Some(*pid), Some(now));
                }
            }
            Event::ForkRefused { life, .. } if self.lives.get(life).is_some_and(|eater| eater.pid.is_none()) => self.lost(*life),
            Event::LeaderEnded { life, .. } => {
                self.lives.get_mut(life).into_iter().for_each(|eater| eater.leaves = true);
                self.lost(*life);
            }
            Event::Used(used) => {
                self.answered = Some(now);
                // Found short by a look that did not see the workers: these are looked at at once, and not twice.
                let is_short = |bytes: u64| self.lines().is_some_and(|(short, _)| bytes > short);
                let was_short = self.container.is_some_and(|(_, bytes)| is_short(bytes));
                self.hurries = used.workers.is_empty() && !was_short && used.container.is_some_and(is_short);
                self.missing(now, used);
                for uses in &used.workers {
                    if let Some(eater) = self.lives.get_mut(&uses.life) {
                        eater.last = Some((now, *uses));
                        eater.missed = false;
                    }
                }
                self.container = used.container.map(|bytes| (now, bytes)).or(self.container);
            }
            Event::LimitsRead(limits) => self.read = self.policy.inputs.under(limits),
            _ => {}
        }
    }

    /// What was to be looked at and is not in the answer may be asked for again as late as can be.
    fn missing(&mut self, now: Time, used: &Used) {
        self.container_missed &= used.container.is_none();
        let Some(look) = self.look.filter(|look| look.at <= now) else { return };
        self.container_missed |= used.container.is_none() && look.container.is_some();
        if look.workers {
            self.lives.values_mut().for_each(|eater| eater.missed = true);
        }
    }

    fn lost(&mut self, life: Life) {
        if self.emptied.is_some_and(|(_, successor)| successor == Some(life)) {
            self.emptied = None;
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have nothing to do with memory")]
    pub(crate) fn effect(&mut self, now: Time, effect: &Effect) {
        match effect {
            Effect::Spawn { life, slot, share, .. } => {
                match self.emptied {
                    Some((emptied, None)) if emptied == *slot => self.emptied = Some((emptied, Some(*life))),
                    Some((emptied, _)) => assert!(emptied == *slot || !self.is_held(*slot), "{slot} beside {emptied}"),
                    None => {}
                }
                let eater =
                    Eater { slot: *slot, pid: None, forked: None, cap: share.memory, last: None, missed: false, leaves: false };
                self.lives.insert(*life, eater);
            }
            Effect::Join { life } => self.lost(*life),
            Effect::KillTree { life } => {
                self.killed.insert(*life);
                self.lost(*life);
            }
            Effect::Note(note) => self.noted(now, note),
            _ => {}
        }
    }

    /// Somebody is in it who is not on his way out.
    fn is_held(&self, slot: Slot) -> bool {
        self.lives.iter().any(|(life, eater)| eater.slot == slot && !eater.leaves && !self.killed.contains(life))
    }

    fn eater(&self, wanted: Pid) -> &Eater {
        self.lives.values().find(|eater| eater.pid == Some(wanted)).expect("a worker of this pid")
    }

    fn exact(&self, pid: Pid) -> WorkerUses {
        let (_, uses) = self.eater(pid).last.expect("it was measured");
        assert!(uses.exact, "{pid:?} is judged by an estimate");
        uses
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have nothing to do with memory")]
    fn noted(&mut self, now: Time, note: &Note) {
        match note {
            Note::MemoryCap { pid, cap, .. } => {
                assert_eq!((Some(*cap), Caps::Fixed(*cap)), (self.eater(*pid).cap, self.policy.inputs.caps));
                assert!(self.exact(*pid).bytes >= *cap, "{pid:?} is below its cap");
                self.last_kill = Some(now);
            }
            Note::MemorySoft { pid, cap, .. } => {
                let soft = self.policy.memory_soft.expect("MEMORY_SOFT is not off");
                #[expect(clippy::cast_precision_loss, reason = "an example")]
                let reached = self.exact(*pid).bytes as f64 >= *cap as f64 * soft - 1.0;
                assert!(reached && matches!(self.policy.inputs.caps, Caps::Fixed(_)), "{pid:?} is below its soft share");
                assert!(self.running, "replaced during a stop");
            }
            Note::MemoryShort { pid, share, killed, .. } => {
                assert!(self.least_share() <= *share && Some(*share) <= self.read.fair_share(self.wanted), "a share of {share}");
                assert!(self.exact(*pid).returns > *share, "{pid:?} is not above its share");
                let (short, critical) = self.lines().expect("there is a limit");
                let (_, used) = self.container.expect("the container was measured");
                assert!(used > if *killed { critical } else { short }, "there is enough");
                assert!(*killed || (self.running && self.policy.memory_soft.is_some()), "replaced, and must not be");
                assert!(self.last_kill.is_none_or(|last| now.since(last) >= SECOND), "a second kill at {now:?}");
                if *killed {
                    self.last_kill = Some(now);
                }
            }
            Note::OutOfMemory { .. } => self.last_kill = Some(now),
            Note::PredecessorFirst { slot } => {
                assert!(self.emptied.is_none(), "{slot} is emptied too");
                assert!(self.lines().is_some() && self.container.is_some(), "nothing is known, and there is no room");
                self.emptied = Some((*slot, None));
            }
            Note::Scaled { to, .. } | Note::Resized { to, .. } => {
                self.wanted = *to;
                self.emptied.take_if(|(slot, _)| slot.0 >= *to);
            }
            Note::StopBegan { .. } | Note::KillNow | Note::Finishing { .. } => (self.running, self.emptied) = (false, None),
            _ => {}
        }
    }

    /// A part of what others leave below the critical line, as far as figures are exact, and half the fair share at least.
    fn least_share(&self) -> u64 {
        let (_, critical) = self.lines().expect("there is a limit");
        let (_, used) = self.container.expect("the container was measured");
        let surely = |eater: &Eater| eater.last.filter(|(_, uses)| uses.exact).map_or(0, |(_, uses)| uses.returns);
        let ours: u64 = self.lives.values().map(surely).sum();
        let count = self.lives.values().filter(|eater| eater.pid.is_some()).count();
        let part = critical.saturating_sub(used.saturating_sub(ours)) / u64::try_from(count).unwrap();
        let fair = self.read.fair_share(self.wanted).expect("there is a limit");
        part.clamp(fair / 2, fair)
    }

    fn lines(&self) -> Option<(u64, u64)> {
        let limit = self.read.memory_limit.filter(|_| self.policy.inputs.caps != Caps::Off)?;
        let margin = (32 * MIB).max(limit / 20);
        Some((limit.saturating_sub(margin), limit.saturating_sub(margin / 2)))
    }

    pub(crate) fn after_step(&mut self, now: Time, snapshot: &Snapshot, look: Option<Look>) {
        let alive: BTreeSet<Life> = snapshot.rows.iter().filter_map(|row| row.life).collect();
        self.lives.retain(|life, _| alive.contains(life));
        match self.policy.inputs.caps {
            Caps::Off => assert!(look.is_none() && snapshot.facts.worker_cap_bytes.is_none(), "nothing is capped, and {look:?}"),
            Caps::Fixed(cap) => assert_eq!(snapshot.facts.worker_cap_bytes, Some(cap)),
            Caps::Share => {}
        }
        let stopping = snapshot.state == State::Stopping;
        let soonest = self.answered.map_or(now, |answered| answered + Duration::from_millis(10));
        let look_at = look.map(|look| look.at);
        self.look = look;
        assert!(
            self.answered.is_none() || self.hurries || look_at.is_none_or(|at| at >= soonest),
            "{look:?} is too soon, at {now:?}"
        );
        let in_time = |due: Time| stopping || look_at.is_some_and(|at| at <= due.max(soonest));
        let capped = matches!(self.policy.inputs.caps, Caps::Fixed(_)) && !self.policy.kernel_caps;
        for (life, eater) in self
            .lives
            .iter()
            .filter(|(life, eater)| capped && !eater.missed && eater.pid.is_some() && !self.killed.contains(life))
        {
            let (from, bytes) = eater.last.map_or((eater.forked.expect("forked"), 0), |(at, uses)| (at, uses.bytes));
            // Without what an estimate counts twice it may be up to a whole cap away.
            let exact = eater.last.is_none_or(|(_, uses)| uses.exact);
            let due = from + if exact { could_take(eater.cap.expect("a cap"), bytes) } else { Duration::from_millis(500) };
            assert!(in_time(due), "{life:?} could be at its cap at {due:?}, and {look:?}");
        }
        if let (Some((short, _)), Some((at, bytes))) = (self.lines(), self.container) {
            let due = at + could_take(short, bytes);
            assert!(
                bytes > short || self.container_missed || in_time(due),
                "the container could be short at {due:?}, and {look:?}"
            );
        }
    }
}

/// From `bytes` to the line at 2.5 MiB per ms, within 10 and 500 ms.
fn could_take(line: u64, bytes: u64) -> Duration {
    Duration::from_millis((line.saturating_sub(bytes) / (5 << 19)).saturating_add(1).clamp(10, 500))
}
