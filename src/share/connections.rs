//! The connections that one worker has accepted on its listeners, looked at again and again until none has a request in flight.
//!
//! ```text
//! descriptors of its processes -> a socket that is not known: list -> learned: its own connection, or none of its
//!                              -> all are known:              ask for each of its own by name
//! ```
//! Frozen or not, a look is read in parts of half a millisecond at most, but for the first part of a list (see
//! [`sock_diag`](crate::sys::sock_diag)). That a socket is not listed under a listener's port is remembered, so only new sockets cost a list.
//! What waits in an accept queue has no descriptor: it is nobody's connection.
//!
//! Where nobody may look into the worker's processes (another uid, and neither `CAP_SYS_PTRACE` nor a helper with that uid) every
//! connection on its ports counts as its own, those of other workers too: it may look busy where it is not, never the other way.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::mem::take;
use std::os::fd::RawFd;

use super::quiet::{self, Past, Seen, Verdict};
use crate::cluster::words::Pid;
use crate::sys::open_sockets::OpenSockets;
use crate::sys::sock_diag::{CLOSE_WAIT, Diag, ESTABLISHED, Family, Name, Tcp};
use crate::sys::threads;

/// So many are asked for by name in a part: half a millisecond.
const ASKED_PER_PART: usize = 128;
/// With more connections than this a list is cheaper than asking for each.
const WORTH_A_LIST: usize = 512;

/// Descriptors and inodes of the sockets of a process, from somebody who may read them where we may not.
pub type SocketsOf<'a> = &'a mut dyn FnMut(Pid) -> Option<Vec<(RawFd, u64)>>;

/// All that is known of one worker's connections.
#[derive(Debug)]
pub struct Connections {
    diag: Diag,
    ports: BTreeSet<u16>,
    lists: Vec<(Family, u16)>,
    own: HashMap<u64, Own>,
    /// Its sockets that are no connections on these ports.
    others: HashSet<u64>,
    look: Look,
    open: HashMap<u64, Vec<(Pid, RawFd)>>,
    /// Nobody can say what its sockets are.
    blind: bool,
}

#[derive(Debug)]
struct Own {
    name: Name,
    past: Option<Past>,
    verdict: Verdict,
    seen: Seen,
}

/// How far a look has come.
#[derive(Debug, Default)]
enum Look {
    #[default]
    None,
    Descriptors {
        left: VecDeque<Pid>,
        current: Option<(Pid, OpenSockets)>,
    },
    List {
        left: VecDeque<(Family, u16)>,
        reading: bool,
        found: Vec<Tcp>,
    },
    Ask {
        left: Vec<u64>,
    },
    Judge,
}

/// What a part of a look has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// There is more to look at.
    More,
    /// One verdict for each connection.
    Done(Vec<Verdict>),
}

impl Connections {
    /// Of a worker with these listeners: inode and port of each.
    pub fn new(listeners: &[(u64, u16)]) -> io::Result<Self> {
        let mut diag = Diag::open()?;
        let ports: BTreeSet<u16> = listeners.iter().map(|(_, port)| *port).collect();
        let lists = diag.lists(listeners)?;
        let (own, others, open) = Default::default();
        Ok(Self { diag, ports, lists, own, others, look: Look::None, open, blind: false })
    }

    /// Nobody may look into its processes: every connection on its ports counts as its own.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// Begins a look at the connections of these processes; one that was under way is dropped.
    pub fn begin(&mut self, processes: impl IntoIterator<Item = Pid>) {
        self.open.clear();
        self.blind = false;
        self.look = Look::Descriptors { left: processes.into_iter().collect(), current: None };
    }

    /// Does a part of it. An error: the kernel does not list sockets here.
    pub fn look(&mut self, sockets_of: SocketsOf<'_>) -> io::Result<Part> {
        self.look = match take(&mut self.look) {
            Look::None => return Ok(Part::Done(Vec::new())),
            Look::Descriptors { left, current } => self.read_descriptors(left, current, sockets_of),
            Look::List { left, reading, found } => self.read_list(left, reading, found)?,
            Look::Ask { left } => self.ask(left)?,
            Look::Judge => return Ok(Part::Done(self.judge())),
        };
        Ok(Part::More)
    }

    fn read_descriptors(
        &mut self,
        mut left: VecDeque<Pid>,
        current: Option<(Pid, OpenSockets)>,
        sockets_of: SocketsOf<'_>,
    ) -> Look {
        let Some(pid) = current.as_ref().map(|(pid, _)| *pid).or_else(|| left.pop_front()) else {
            return self.after_descriptors();
        };
        let mut found = Vec::new();
        let mut going_on = None;
        if let Some(mut look) = current.map(|(_, look)| look).or_else(|| OpenSockets::of(pid)) {
            going_on = look.read_more(&mut found).then_some((pid, look));
        } else if let Some(sockets) = sockets_of(pid) {
            found = sockets;
        } else {
            self.blind = true;
        }
        for (descriptor, inode) in found {
            self.open.entry(inode).or_default().push((pid, descriptor));
        }
        Look::Descriptors { left, current: going_on }
    }

    fn after_descriptors(&mut self) -> Look {
        let open = &self.open;
        if !self.blind {
            self.own.retain(|inode, _| open.contains_key(inode));
            self.others.retain(|inode| open.contains_key(inode));
        }
        let known = open.keys().all(|inode| self.own.contains_key(inode) || self.others.contains(inode));
        if known && !self.blind && self.own.len() <= WORTH_A_LIST {
            return Look::Ask { left: self.own.keys().copied().collect() };
        }
        Look::List { left: self.lists.iter().copied().collect(), reading: false, found: Vec::new() }
    }

    fn read_list(&mut self, mut left: VecDeque<(Family, u16)>, reading: bool, mut found: Vec<Tcp>) -> io::Result<Look> {
        if reading {
            let reading = self.diag.read_more(&mut found)?;
            return Ok(Look::List { left, reading, found });
        }
        if let Some((family, port)) = left.pop_front() {
            self.diag.list(family, port, &[ESTABLISHED, CLOSE_WAIT])?;
            return Ok(Look::List { left, reading: true, found });
        }
        let mut own = HashMap::new();
        let has_descriptor = |tcp: &&Tcp| tcp.inode != 0 && (self.blind || self.open.contains_key(&tcp.inode));
        for tcp in found.iter().filter(|tcp| self.ports.contains(&tcp.port)).filter(has_descriptor) {
            own.insert(tcp.inode, Own::new(tcp, self.own.get(&tcp.inode)));
        }
        self.others = self.open.keys().filter(|inode| !own.contains_key(inode)).copied().collect();
        self.own = own;
        Ok(Look::Judge)
    }

    fn ask(&mut self, mut left: Vec<u64>) -> io::Result<Look> {
        let rest = left.len().saturating_sub(ASKED_PER_PART);
        for inode in left.drain(rest..) {
            let Some(known) = self.own.get(&inode) else { continue };
            let now = self.diag.ask(&known.name)?.filter(|tcp| matches!(tcp.state, ESTABLISHED | CLOSE_WAIT));
            if let Some(now) = now.map(|tcp| Own::new(&tcp, Some(known))) {
                self.own.insert(inode, now);
            } else {
                // It is being closed: whatever was written goes out without the worker.
                self.own.remove(&inode);
                self.others.insert(inode);
            }
        }
        Ok(if left.is_empty() { Look::Judge } else { Look::Ask { left } })
    }

    fn judge(&mut self) -> Vec<Verdict> {
        let busy = self.own.values().any(|own| own.verdict == Verdict::Busy);
        let doubtful = self.own.values().any(Own::is_doubtful);
        if doubtful && !busy {
            self.settle_doubts();
        }
        for own in self.own.values_mut() {
            own.past = Some(Past::new(&own.seen, own.verdict));
        }
        self.own.values().map(|own| own.verdict).collect()
    }

    /// A thread that waits for the next request says what the counters cannot.
    fn settle_doubts(&mut self) {
        let mut awaited: HashMap<Pid, _> = HashMap::new();
        for (inode, own) in self.own.iter_mut().filter(|(_, own)| own.is_doubtful()) {
            for (pid, descriptor) in self.open.get(inode).into_iter().flatten() {
                own.seen.awaited |= awaited.entry(*pid).or_insert_with(|| threads::awaited(*pid)).contains(descriptor);
            }
            own.verdict = quiet::judge(own.past.as_ref(), &own.seen);
        }
    }
}

impl Own {
    fn is_doubtful(&self) -> bool {
        matches!(self.verdict, Verdict::Doubtful { .. })
    }

    fn new(tcp: &Tcp, before: Option<&Self>) -> Self {
        let seen = Seen { unread: tcp.unread, counters: tcp.counters, awaited: false };
        let past = before.filter(|before| before.name == tcp.name).and_then(|before| before.past);
        Self { name: tcp.name, past, verdict: quiet::judge(past.as_ref(), &seen), seen }
    }
}

#[cfg(test)]
mod tests;
