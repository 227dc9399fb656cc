//! What the runtime knows of each life: the kernel's side of a worker.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;

use crate::cluster::words::{Life, Pid, Slot};
use crate::notify::NotifySocket;
use crate::sys::tree::Mark;

/// One worker as the kernel has it.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) slot: Slot,
    pub(super) pid: Pid,
    pub(super) notify: NotifySocket,
    /// `NOTIFY_SOCKET=@...`: what its processes carry in their environment.
    pub(super) entry: Vec<u8>,
    /// Open until the outcome of exec is known.
    pub(super) outcome: Option<OwnedFd>,
    pub(super) executed: bool,
    /// The leader was reaped: its pid is nobody's, or somebody else's.
    pub(super) leader_gone: bool,
}

impl Body {
    pub(super) fn mark(&self) -> Mark<'_> {
        Mark { leader: self.pid, entry: &self.entry }
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

    pub(super) fn led_by(&self, pid: Pid) -> Option<Life> {
        self.by_pid.get(&pid).copied()
    }

    pub(super) fn is_leader(&self, pid: Pid) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// The leader was reaped; `rest` tells whether something of its tree lives on.
    pub(super) fn leader_gone(&mut self, life: Life, rest: bool) {
        let Some(body) = self.bodies.get_mut(&life) else { return };
        body.leader_gone = true;
        self.by_pid.remove(&body.pid);
        if rest {
            self.orphaned.push(life);
        } else {
            self.bodies.remove(&life);
        }
    }

    pub(super) fn tree_gone(&mut self, life: Life) {
        self.bodies.remove(&life);
        self.orphaned.retain(|orphaned| *orphaned != life);
    }

    pub(super) fn orphaned(&self) -> Vec<Life> {
        self.orphaned.clone()
    }

    /// Leaders that run their own program.
    pub(super) fn running(&self) -> impl Iterator<Item = &Body> {
        self.bodies.values().filter(|body| body.executed && !body.leader_gone)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Body> {
        self.bodies.values()
    }
}
