//! Who takes connections: what must never happen when workers join and leave, checked beside [`Safety`](super::safety::Safety).
//!
//! 1. A worker joins when it is ready, as its mode has it, and not twice. Ready in the snapshot = joined.
//! 2. No stop signal and no kill while it is joined.
//! 3. Nobody is disconnected for a successor that has not joined, unless it hangs.
//! 4. A worker that looks for its quiet instant is stopped there, or at half the grace. One that hangs does not look.
//! 5. Late clients are refused once, when no worker is started any more and none accepts, and always before the end;
//!    until then everybody serves until his own stop signal.
//! 6. `START_TIMEOUT` kills only where it is asked to listen or to notify: by READY, or by what a worker had shown before the start.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::effect::{Effect, Note};
use crate::cluster::event::{Event, Notice};
use crate::cluster::policy::{Policy, ReadyMode};
use crate::cluster::status::{RowState, Snapshot};
use crate::cluster::words::{Life, Pid, Slot, Time};

pub(crate) struct Rotation {
    policy: Policy,
    lives: BTreeMap<Life, Seat>,
    /// Workers are being stopped: no more starts.
    stopping: bool,
    refused: bool,
    /// Some worker has listened or notified.
    shown: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Seat {
    slot: Slot,
    pid: Option<Pid>,
    forked: Option<Time>,
    /// The program had shown what it is before this one was forked.
    asked: bool,
    executed: Option<Time>,
    listened: bool,
    said_ready: bool,
    joined: bool,
    /// It announced its end, or its slot is not wanted any more.
    leaves: bool,
    hangs: bool,
    hung: bool,
    leader_gone: bool,
    /// It was disconnected before the cluster began to stop.
    left_early: bool,
    /// Until when it may look for its quiet instant.
    seeks: Option<Time>,
    /// Was asked to finish what it has.
    parting: bool,
    signalled: bool,
}

impl Seat {
    fn new(slot: Slot) -> Self {
        Self {
            slot,
            pid: None,
            forked: None,
            asked: false,
            executed: None,
            listened: false,
            said_ready: false,
            joined: false,
            leaves: false,
            hangs: false,
            hung: false,
            leader_gone: false,
            left_early: false,
            seeks: None,
            parting: false,
            signalled: false,
        }
    }

    fn ran(&self, now: Time, least: Duration) -> bool {
        self.executed.is_some_and(|at| now.since(at) >= least)
    }
}

impl Rotation {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, lives: BTreeMap::new(), stopping: false, refused: false, shown: false }
    }

    pub(crate) fn before(&mut self, now: Time, event: &Event) {
        match event {
            Event::Forked { life, pid } => {
                let asked = self.shown;
                self.change(*life, |seat| {
                    if seat.pid.is_none() {
                        (seat.pid, seat.forked, seat.asked) = (Some(*pid), Some(now), asked);
                    }
                });
            }
            Event::Executed { life } => self.change(*life, |seat| _ = seat.executed.get_or_insert(now)),
            Event::LeaderEnded { life, .. } => self.change(*life, |seat| seat.leader_gone = true),
            Event::TreeEnded { life } => self.change(*life, |seat| seat.joined &= !seat.leader_gone),
            Event::Listened { life } => {
                self.change(*life, |seat| seat.listened = true);
                self.shown |= self.lives.get(life).is_some_and(|seat| !seat.leader_gone);
            }
            Event::Notified { life, notice: Notice::Ready } => {
                self.change(*life, |seat| seat.said_ready = true);
                self.shown |= self.lives.get(life).is_some_and(|seat| !seat.leader_gone);
            }
            Event::Notified { life, notice } => self.change(*life, |seat| match notice {
                Notice::Stopping => seat.leaves = true,
                Notice::Alive | Notice::Trigger | Notice::WatchdogInterval(_) => seat.hangs = true,
                Notice::Ready | Notice::Reloading | Notice::Status(_) => {}
            }),
            Event::Waiting { life, since } => self.change(*life, |seat| seat.hangs |= since.is_some()),
            Event::Unanswered { life, since } => self.change(*life, |seat| seat.hangs |= since.is_some()),
            Event::Quiet { .. }
            | Event::Parts { .. }
            | Event::Parted { .. }
            | Event::StartedInVain { .. }
            | Event::QueueFilled { .. }
            | Event::ForkRefused { .. }
            | Event::ExecFailed { .. }
            | Event::Used(_)
            | Event::OutOfMemory { .. }
            | Event::LimitsRead(_)
            | Event::Asked(_)
            | Event::NamespaceSeen { .. }
            | Event::DeadlineReached => {}
        }
    }

    fn change(&mut self, life: Life, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.lives.get_mut(&life) {
            change(seat);
        }
    }

    pub(crate) fn effect(&mut self, now: Time, effect: &Effect) {
        match effect {
            Effect::Spawn { life, slot, .. } => _ = self.lives.insert(*life, Seat::new(*slot)),
            Effect::Join { life } => self.joins(now, *life),
            Effect::Disconnect { life, hung } => self.leaves(*life, *hung),
            Effect::SeekQuiet { life, from, until } => self.seeks(now, *life, *from, *until),
            Effect::Part { life } => {
                let seat = self.lives.get_mut(life).expect("a worker that was started");
                assert!(!seat.joined, "{life:?} is asked to part: connections still reach it");
                seat.parting = true;
            }
            Effect::StopLeader { life } | Effect::KillTree { life } => {
                let seat = self.lives.get_mut(life).expect("a worker that was started");
                assert!(!seat.joined, "{effect:?}: connections still reach it");
                seat.signalled = true;
            }
            Effect::Refuse => {
                assert!(self.stopping, "late clients are refused before the stop");
                assert!(!self.refused, "refused twice");
                let joined: Vec<_> = self.lives.iter().filter(|(_, seat)| seat.joined && !seat.leader_gone).collect();
                assert!(joined.is_empty(), "somebody still accepts: {:?}", joined[0].0);
                self.refused = true;
            }
            Effect::Note(Note::PredecessorFirst { slot }) => {
                self.lives.values_mut().filter(|seat| seat.slot == *slot).for_each(|seat| seat.leaves = true);
            }
            Effect::Note(Note::MemoryCap { pid, .. } | Note::MemoryShort { pid, killed: true, .. }) => {
                self.lives.values_mut().filter(|seat| seat.pid == Some(*pid)).for_each(|seat| seat.leaves = true);
            }
            Effect::Note(Note::Scaled { to, .. } | Note::Resized { to, .. }) => {
                self.lives.values_mut().filter(|seat| seat.slot.0 >= *to).for_each(|seat| seat.leaves = true);
            }
            Effect::Note(Note::DrainEnded | Note::KillNow | Note::Finishing { .. }) => self.stopping = true,
            Effect::Note(Note::NotReadyInTime { pid, .. }) => {
                let seat = self.lives.values().find(|seat| seat.pid == Some(*pid)).expect("a worker of this pid");
                let by_mode = match self.policy.ready {
                    ReadyMode::Notify => true,
                    ReadyMode::Listen => self.policy.sees_listening,
                    ReadyMode::Auto => seat.asked,
                    ReadyMode::Running => false,
                };
                assert!(by_mode, "nothing was asked of {pid:?}, and it is killed for that");
            }
            Effect::Note(_)
            | Effect::StopRest { .. }
            | Effect::Confirm { .. }
            | Effect::Bound { .. }
            | Effect::LookAround
            | Effect::AskNamespace
            | Effect::KillEntered
            | Effect::KillNamespace => {}
            Effect::End { .. } => assert!(self.refused, "the end, and late clients still wait"),
        }
    }

    fn joins(&mut self, now: Time, life: Life) {
        let policy = &self.policy;
        let seat = self.lives.get_mut(&life).expect("a worker that was started");
        assert!(!seat.joined, "{life:?} joins twice");
        assert!(!seat.leader_gone && !seat.signalled && seat.seeks.is_none(), "{life:?} joins on its way out");
        let ran_long = seat.ran(now, Duration::from_secs(1));
        let timed_out = seat.ran(now, Duration::ZERO) && seat.forked.is_some_and(|at| now.since(at) >= policy.start_timeout);
        let ready = match policy.ready {
            ReadyMode::Notify => seat.said_ready,
            ReadyMode::Listen if policy.sees_listening => seat.listened,
            ReadyMode::Listen | ReadyMode::Running => ran_long,
            ReadyMode::Auto if policy.sees_listening => seat.listened || seat.said_ready || timed_out,
            ReadyMode::Auto => ran_long || seat.said_ready,
        };
        assert!(ready, "{life:?} joins and is not ready at {now:?}");
        (seat.joined, seat.hung) = (true, false);
    }

    fn leaves(&mut self, life: Life, hung: bool) {
        let seat = &self.lives[&life];
        assert!(seat.joined, "{life:?} is disconnected and was not connected");
        assert!(!hung || seat.hangs, "{life:?} does not hang");
        let excused = hung || self.stopping || seat.leaves || seat.leader_gone;
        let replaced = || self.lives.range(life..).any(|(next, other)| *next > life && other.slot == seat.slot && other.joined);
        assert!(excused || replaced(), "{life:?} is disconnected before its successor has joined");
        let early = !self.stopping;
        self.change(life, |seat| (seat.joined, seat.hung, seat.left_early) = (false, hung, early));
    }

    fn seeks(&mut self, now: Time, life: Life, from: Time, until: Time) {
        assert!(self.policy.quiet, "STOP_WHEN=now");
        let latest = from + self.policy.grace / 2;
        let stopping = self.stopping;
        let seat = self.lives.get_mut(&life).expect("a worker that was started");
        assert!(!seat.signalled && !seat.leader_gone, "{life:?} looks for a quiet instant, too late");
        assert!(from <= now && until <= latest && seat.seeks.is_none_or(|before| until < before), "{life:?} until {until:?}");
        assert!(!seat.hung, "{life:?} hangs: there is nothing to wait for");
        assert!(stopping || !seat.joined, "{life:?} is to be replaced and still connected");
        seat.seeks = Some(until);
    }

    pub(crate) fn after_step(&mut self, now: Time, snapshot: &Snapshot, quiet: Option<Life>) {
        for row in &snapshot.rows {
            let Some(life) = row.life else { continue };
            let seat = &self.lives[&life];
            assert_eq!(row.state == RowState::Ready, seat.joined, "ready is joined: {row:?} at {now:?}");
            let parting = seat.parting && !seat.signalled && !seat.leader_gone;
            let seeking = seat.seeks.filter(|_| !seat.signalled && !seat.leader_gone && !seat.parting);
            assert!(seeking.is_none_or(|until| now <= until), "half the grace is over: {row:?} at {now:?}");
            let serves = !self.stopping || seat.joined || seat.left_early || seat.leaves;
            assert!(seeking.is_none() || serves, "it could have served until its stop signal: {row:?}");
            assert!(seeking.is_none() || quiet != Some(life), "it was quiet, and nobody stopped it: {row:?}");
            let disconnecting = parting || seeking.is_some() && !seat.joined;
            assert_eq!(row.state == RowState::Disconnecting, disconnecting, "{row:?} at {now:?}");
        }
        let alive = |life: &Life| snapshot.rows.iter().any(|row| row.life == Some(*life));
        self.lives.retain(|life, _| alive(life));
    }
}
