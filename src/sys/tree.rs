//! All of a worker's processes, also those that left its process group or lost their parents.
//!
//! A process belongs to a worker's tree if it descends from the leader, or shares a group or a session with one that does, or
//! carries this life's `NOTIFY_SOCKET` in its environment. What has lost its parent is a child of ours (we are PID 1 or a
//! subreaper), so it is enough to look at the leader's descendants and at our own children that are no leaders ("strays"):
//! the cost is that of the tree, not of the machine.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::words::{Pid, Signal};

use super::process;
use super::procfs::{self, Stat};

/// What tells one worker's processes from all others.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    pub leader: Pid,
    /// `NOTIFY_SOCKET=@...`, unique to this life.
    pub entry: &'a [u8],
}

/// One process of a tree, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub pid: Pid,
    pub name: String,
    start: u64,
}

/// The living members of a worker's tree besides its leader. `leaders` are all leaders, which are never strays.
pub fn members(mark: Mark<'_>, is_leader: impl Fn(Pid) -> bool) -> Vec<Member> {
    let me = own_pid();
    let children = Children::look();
    let mut found: BTreeMap<Pid, Stat> = BTreeMap::new();
    children.descend(mark.leader, &mut found);
    let mut strays: Vec<Stat> =
        children.of(me).into_iter().filter(|pid| !is_leader(*pid) && !found.contains_key(pid)).filter_map(procfs::stat).collect();
    let (our_group, our_session) = procfs::stat(me).map_or((me, me), |stat| (stat.group, stat.session));
    let mut groups = BTreeSet::from([mark.leader]);
    let mut sessions = BTreeSet::from([mark.leader]);
    for stat in found.values() {
        groups.insert(stat.group);
        sessions.insert(stat.session);
    }
    // What all workers share tells nothing.
    groups.remove(&our_group);
    sessions.remove(&our_session);
    loop {
        let (ours, others): (Vec<_>, Vec<_>) = strays.into_iter().partition(|stat| {
            groups.contains(&stat.group)
                || sessions.contains(&stat.session)
                || procfs::has_environment_entry(stat.pid, mark.entry)
        });
        strays = others;
        if ours.is_empty() {
            break;
        }
        for stat in ours {
            children.descend(stat.pid, &mut found);
            found.insert(stat.pid, stat);
        }
        groups.extend(found.values().map(|stat| stat.group).filter(|group| *group != our_group));
        sessions.extend(found.values().map(|stat| stat.session).filter(|session| *session != our_session));
    }
    living(&found)
}

/// Whether a process belongs to a worker's tree, seen from the process upwards: what a message's sender is asked.
pub fn belongs(pid: Pid, mark: Mark<'_>) -> bool {
    let Some(stat) = procfs::stat(pid) else { return false };
    if pid == mark.leader || stat.group == mark.leader || stat.session == mark.leader {
        return true;
    }
    if procfs::has_environment_entry(pid, mark.entry) {
        return true;
    }
    let mut ancestor = stat.parent;
    // A chain cannot be longer than there are processes; parents that change meanwhile must not make it endless.
    for _ in 0..10_000 {
        if ancestor == mark.leader {
            return true;
        }
        match procfs::stat(ancestor) {
            Some(stat) if ancestor.0 > 1 => ancestor = stat.parent,
            _ => return false,
        }
    }
    false
}

/// All living descendants of ours.
pub fn descendants() -> Vec<Member> {
    let mut found = BTreeMap::new();
    Children::look().descend(own_pid(), &mut found);
    living(&found)
}

/// As PID 1: all other living processes of the namespace, and whether each entered from outside (its ancestors end in parent 0).
pub fn namespace() -> Vec<(Member, bool)> {
    let stats: BTreeMap<Pid, Stat> =
        procfs::all().into_iter().flatten().filter_map(procfs::stat).map(|stat| (stat.pid, stat)).collect();
    let me = own_pid();
    let entered = |mut pid: Pid| {
        for _ in 0..stats.len() {
            match stats.get(&pid) {
                Some(stat) if stat.parent == me => return false,
                Some(stat) if stat.parent == Pid(0) => return true,
                Some(stat) => pid = stat.parent,
                None => return false,
            }
        }
        false
    };
    let others = stats.values().filter(|stat| stat.pid != me && !stat.is_zombie());
    others.map(|stat| (Member::new(stat), entered(stat.pid))).collect()
}

impl Member {
    fn new(stat: &Stat) -> Self {
        Self { pid: stat.pid, name: stat.name.clone(), start: stat.start }
    }

    /// A signal to exactly this process: its number may have been given to another one since. `false`: it has gone.
    pub fn signal(&self, signal: Signal) -> bool {
        // A look right before the kill: a number comes round again only after tens of thousands of forks.
        procfs::stat(self.pid).is_some_and(|stat| stat.start == self.start) && process::signal(self.pid, signal).unwrap_or(false)
    }
}

fn living(found: &BTreeMap<Pid, Stat>) -> Vec<Member> {
    found.values().filter(|stat| !stat.is_zombie()).map(Member::new).collect()
}

fn own_pid() -> Pid {
    Pid(i32::try_from(std::process::id()).unwrap_or(i32::MAX))
}

/// Who is whose child: asked of the kernel process by process where it can tell, else from one pass over `/proc`.
enum Children {
    Asked,
    Known(BTreeMap<Pid, Vec<Pid>>),
}

impl Children {
    fn look() -> Self {
        if procfs::children(own_pid()).is_some() {
            return Self::Asked;
        }
        let mut known: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
        for stat in procfs::all().into_iter().flatten().filter_map(procfs::stat) {
            known.entry(stat.parent).or_default().push(stat.pid);
        }
        Self::Known(known)
    }

    fn of(&self, parent: Pid) -> Vec<Pid> {
        match self {
            Self::Asked => procfs::children(parent).unwrap_or_default(),
            Self::Known(known) => known.get(&parent).cloned().unwrap_or_default(),
        }
    }

    /// Adds all descendants of `root`, without itself.
    fn descend(&self, root: Pid, found: &mut BTreeMap<Pid, Stat>) {
        let mut open = self.of(root);
        while let Some(pid) = open.pop() {
            let Some(stat) = procfs::stat(pid).filter(|_| !found.contains_key(&pid)) else { continue };
            open.extend(self.of(pid));
            found.insert(pid, stat);
        }
    }
}
