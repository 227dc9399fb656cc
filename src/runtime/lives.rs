//! What the runtime knows of each life: the kernel's side of a worker.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;

use crate::cluster::words::{Life, Pid, Slot};
use crate::notify::NotifySocket;
use crate::sys::subgroups::Group;
use crate::sys::tree::{KnownStrays, Mark, Member, Strays};

use super::sharing::Calls;

/// One worker as the kernel has it.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) slot: Slot,
    pub(super) pid: Pid,
    pub(super) notify: NotifySocket,
    /// `NOTIFY_SOCKET=@...`: what its processes carry in their environment.
    pub(super) entry: Vec<u8>,
    /// Its cgroup, where workers have one of their own.
    pub(super) group: Option<Group>,
    /// Open until the outcome of exec is known.
    pub(super) outcome: Option<OwnedFd>,
    pub(super) executed: bool,
    /// Where its ports are shared, from its start on.
    pub(super) calls: Option<Calls>,
    /// The leader was reaped: its pid is nobody's, or somebody else's.
    pub(super) leader_gone: bool,
    /// Somebody else has sent something to its socket, and that was said.
    pub(super) strangers_notify: bool,
}

impl Body {
    pub(super) fn mark(&self) -> Mark<'_> {
        Mark { leader: self.pid, leader_gone: self.leader_gone, entry: &self.entry }
    }

    /// The living processes of its tree besides its leader: those that are found by their ties, and what else is in its cgroup.
    pub(super) fn members(&self, strays: &Strays, known: &KnownStrays) -> Vec<Member> {
        let mut members = strays.members(self.mark(), known);
        if let Some(group) = &self.group {
            let found: BTreeSet<Pid> = members.iter().map(|member| member.pid).chain(self.leader()).collect();
            members.extend(group.processes().into_iter().filter(|pid| !found.contains(pid)).filter_map(Member::of));
        }
        members
    }

    /// The whole tree, leader first.
    pub(super) fn processes(&self, strays: &Strays, known: &KnownStrays) -> Vec<Pid> {
        let members = self.members(strays, known).into_iter().map(|member| member.pid);
        self.leader().into_iter().chain(members).collect()
    }

    /// Until it was reaped.
    pub(super) fn leader(&self) -> Option<Pid> {
        (!self.leader_gone).then_some(self.pid)
    }
}

/// All lives that have not ended with their trees.
#[derive(Debug, Default)]
pub(super) struct Lives {
    bodies: BTreeMap<Life, Body>,
    /// Leaders that are not reaped yet.
    by_pid: HashMap<Pid, Life>,
    /// Lives whose leader was reaped before its tree had gone.
    orphaned: Vec<Life>,
}

impl Lives {
    pub(super) fn insert(&mut self, life: Life, body: Body) {
        self.by_pid.insert(body.pid, life);
        self.bodies.insert(life, body);
    }

    pub(super) fn get(&self, life: Life) -> Option<&Body> {
        self.bodies.get(&life)
    }

    pub(super) fn get_mut(&mut self, life: Life) -> Option<&mut Body> {
        self.bodies.get_mut(&life)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Life> {
        self.bodies.keys().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Life, &Body)> {
        self.bodies.iter().map(|(life, body)| (*life, body))
    }

    pub(super) fn led_by(&self, pid: Pid) -> Option<Life> {
        self.by_pid.get(&pid).copied()
    }

    pub(super) fn is_leader(&self, pid: Pid) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// The leader was reaped.
    pub(super) fn leader_gone(&mut self, life: Life) {
        let Some(body) = self.bodies.get_mut(&life) else { return };
        body.leader_gone = true;
        self.by_pid.remove(&body.pid);
        self.orphaned.push(life);
    }

    /// Nothing is left of a tree whose leader was reaped.
    pub(super) fn tree_gone(&mut self, life: Life) -> Option<Body> {
        self.orphaned.retain(|orphaned| *orphaned != life);
        self.bodies.remove(&life)
    }

    pub(super) fn orphaned(&self) -> Vec<Life> {
        self.orphaned.clone()
    }

    pub(super) fn leaders(&self) -> impl Iterator<Item = Pid> {
        self.by_pid.keys().copied()
    }

    /// Leaders that run their own program.
    pub(super) fn running(&self) -> impl Iterator<Item = &Body> {
        self.bodies.values().filter(|body| body.executed && !body.leader_gone)
    }
}
