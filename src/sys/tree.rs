//! All of a worker's processes, also those that left its process group or lost their parents.
//!
//! A process belongs to a worker's tree if it descends from the leader, or shares a group or a session with one that does, or
//! carries this life's `NOTIFY_SOCKET` in its environment. What has lost its parent is a child of ours (we are PID 1 or a
//! subreaper), so it is enough to look at the leader's descendants and at our own children that are no leaders ([`Strays`]):
//! the cost is that of the trees, not of the machine, and one look serves all workers that are asked about at that moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use crate::cluster::words::{Pid, Signal};

use super::process;
use super::procfs::{self, ChildrenFile, NOTIFY_SOCKET, Stat};

/// One that is known costs about as much less than one that has to be looked at.
const KNOWN_ARE_CHEAP: usize = 32;

/// What tells one worker's processes from all others.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    pub leader: Pid,
    /// The leader was reaped. Its number is its group's as long as that has members, but a process of this number is a stranger.
    pub leader_gone: bool,
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

/// What was learned of our children that are no leaders. There may be tens of thousands, and a crash is no reason to look at each
/// of them again: only their reaping, which is ours, ends what is known.
#[derive(Default)]
pub struct KnownStrays {
    strays: HashMap<Pid, Stray>,
    by_entry: HashMap<Vec<u8>, BTreeSet<Pid>>,
    by_group: HashMap<Pid, BTreeSet<Pid>>,
    by_session: HashMap<Pid, BTreeSet<Pid>>,
}

/// One of them, as it was when it was first seen.
struct Stray {
    group: Pid,
    session: Pid,
    entry: Option<Vec<u8>>,
}

/// A look at our children that are no leaders, in parts.
pub struct Strays {
    list: List,
    /// Listed and not looked at yet.
    listed: Vec<Pid>,
    group: Pid,
    session: Pid,
    /// Only wait to be reaped.
    pub ended: Vec<Pid>,
}

/// Where the list comes from.
enum List {
    /// The kernel tells who is whose child.
    Asked(ChildrenFile),
    /// It does not: one pass over `/proc`.
    Known(Children),
}

impl KnownStrays {
    fn learn(&mut self, pid: Pid, stray: Stray) {
        if let Some(entry) = &stray.entry {
            self.by_entry.entry(entry.clone()).or_default().insert(pid);
        }
        self.by_group.entry(stray.group).or_default().insert(pid);
        self.by_session.entry(stray.session).or_default().insert(pid);
        self.strays.insert(pid, stray);
    }

    /// It was reaped: its number may come again.
    pub fn forget(&mut self, pid: Pid) {
        let Some(stray) = self.strays.remove(&pid) else { return };
        if let Some(entry) = &stray.entry {
            strike_out(&mut self.by_entry, entry, pid);
        }
        strike_out(&mut self.by_group, &stray.group, pid);
        strike_out(&mut self.by_session, &stray.session, pid);
        if self.strays.is_empty() {
            // Tens of thousands may have left their places behind.
            *self = Self::default();
        }
    }
}

fn strike_out<K: Hash + Eq>(index: &mut HashMap<K, BTreeSet<Pid>>, key: &K, pid: Pid) {
    if let Some(pids) = index.get_mut(key) {
        pids.remove(&pid);
        if pids.is_empty() {
            index.remove(key);
        }
    }
}

impl Strays {
    /// Has looked at none yet.
    pub fn list() -> Self {
        let me = own_pid();
        let list = ChildrenFile::open_own().map_or_else(|| List::Known(Children::look()), List::Asked);
        let listed = match &list {
            List::Asked(_) => Vec::new(),
            List::Known(children) => children.of(me),
        };
        let (group, session) = procfs::stat(me).map_or((me, me), |stat| (stat.group, stat.session));
        Self { list, listed, group, session, ended: Vec::new() }
    }

    /// All at once.
    pub fn look_now(known: &mut KnownStrays, is_leader: impl Fn(Pid) -> bool) -> Self {
        let mut strays = Self::list();
        while strays.look(usize::MAX, known, &is_leader) {}
        strays
    }

    /// Does a part: one read of the list, or, once it is whole, a look at so many that were unknown. False: that was the last.
    ///
    /// The list comes first and costs little: in a storm it grows while we look, and whoever comes later is no matter of this look.
    pub fn look(&mut self, unknown: usize, known: &mut KnownStrays, is_leader: impl Fn(Pid) -> bool) -> bool {
        if let List::Asked(file) = &mut self.list
            && file.read_more(&mut self.listed)
        {
            return true;
        }
        let mut looked_at = 0;
        for _ in 0..unknown.saturating_mul(KNOWN_ARE_CHEAP) {
            if looked_at == unknown {
                break;
            }
            let Some(pid) = self.listed.pop() else { return false };
            if is_leader(pid) || known.strays.contains_key(&pid) {
                continue;
            }
            looked_at += 1;
            let Some(stat) = procfs::stat(pid) else { continue };
            if stat.is_zombie() {
                self.ended.push(pid);
            } else {
                let entry = procfs::environment_entry(pid, NOTIFY_SOCKET);
                known.learn(pid, Stray { group: stat.group, session: stat.session, entry });
            }
        }
        true
    }

    /// The living members of a worker's tree besides its leader.
    pub fn members(&self, mark: Mark<'_>, known: &KnownStrays) -> Vec<Member> {
        let asked = Children::Asked;
        let children = match &self.list {
            List::Asked(_) => &asked,
            List::Known(children) => children,
        };
        let mut found: BTreeMap<Pid, Stat> = BTreeMap::new();
        if !mark.leader_gone {
            children.descend(mark.leader, &mut found);
        }
        let mut looked_at: BTreeSet<Pid> = found.keys().copied().collect();
        let mut groups = BTreeSet::from([mark.leader]);
        let mut sessions = BTreeSet::from([mark.leader]);
        let mut strays: BTreeSet<Pid> = known.by_entry.get(mark.entry).cloned().unwrap_or_default();
        loop {
            groups.extend(found.values().map(|stat| stat.group));
            sessions.extend(found.values().map(|stat| stat.session));
            // What all workers share tells nothing.
            groups.remove(&self.group);
            sessions.remove(&self.session);
            strays.extend(groups.iter().filter_map(|group| known.by_group.get(group)).flatten());
            strays.extend(sessions.iter().filter_map(|session| known.by_session.get(session)).flatten());
            strays.retain(|pid| looked_at.insert(*pid));
            if strays.is_empty() {
                break;
            }
            // As it is now: it may have ended since it was first seen.
            for stat in std::mem::take(&mut strays).into_iter().filter_map(procfs::stat) {
                children.descend(stat.pid, &mut found);
                found.insert(stat.pid, stat);
            }
        }
        living(&found)
    }
}

/// Whether a process belongs to a worker's tree, seen from the process upwards: what a message's sender is asked.
pub fn belongs(pid: Pid, mark: Mark<'_>) -> bool {
    let is_leader = |pid| pid == mark.leader && !mark.leader_gone;
    if is_leader(pid) {
        return true;
    }
    let Some(stat) = procfs::stat(pid) else { return false };
    if stat.group == mark.leader || stat.session == mark.leader {
        return true;
    }
    if procfs::environment_entry(pid, NOTIFY_SOCKET).is_some_and(|entry| entry == mark.entry) {
        return true;
    }
    let mut ancestor = stat.parent;
    // A chain cannot be longer than there are processes; parents that change meanwhile must not make it endless.
    for _ in 0..10_000 {
        if is_leader(ancestor) {
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

    /// A process as it is now, if it lives.
    pub fn of(pid: Pid) -> Option<Self> {
        procfs::stat(pid).filter(|stat| !stat.is_zombie()).map(|stat| Self::new(&stat))
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
