//! What one worker's tree has in memory: `statm` (`man 5 proc_pid_statm`) by descriptors that stay open. That takes a microsecond for
//! each process whatever its size, so it can be asked a hundred times a second.
//!
//! The figure is the sum of what each process has for itself and the largest shared part: a page that all of them share counts once,
//! and what only some share may be missed. Shared pages here are file and shmem pages. Copy-on-write pages between a parent and its
//! forked children count in each, and so does all of the parent in a child between `vfork` and exec: then the estimate is far too high,
//! which only [`smaps`](super::smaps) can tell.
//!
//! An open `statm` belongs to its process for ever: when that has gone it answers ESRCH, also after the number was given to another.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::affinity;
use super::kept::Kept;
use super::procfs;
use crate::cluster::words::Pid;

#[cfg(test)]
mod tests;

/// Descriptors that one tree keeps; the processes beyond are opened for each look, at five times the price.
const KEPT_BY_ONE: usize = 256;
/// All trees together keep no more than this part of the descriptors that we may have: clients and workers need theirs.
const PART_OF_ALL: u64 = 4;
/// Seven numbers of 20 digits and a blank each.
const LINE: usize = 7 * 21;

/// The processes of one tree.
#[derive(Debug, Default)]
pub struct Footprint {
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Resident bytes, shared pages once.
    pub bytes: u64,
    /// The anonymous part: what comes back when the tree ends.
    pub returns: u64,
    /// What is certain even if the processes share whatever they can: the largest private and the largest shared part.
    pub least: u64,
    /// False: an estimate that may be too high (pages that a parent shares with its forked children count in each), or whose error is
    /// above 1/64 of it.
    pub exact: bool,
}

impl Footprint {
    pub fn of(processes: &[Pid]) -> Self {
        let mut footprint = Self::default();
        footprint.set(processes);
        footprint
    }

    /// The processes that are read from now on, each once. Descriptors of those that stay are kept. A number that was given to another process
    /// meanwhile is noticed; that of one without a kept descriptor, beyond the first 256, only at the next call.
    pub fn set(&mut self, processes: &[Pid]) {
        let before = self.members.drain(..).filter_map(|member| Some((member.pid, member.statm?)));
        let mut before: HashMap<Pid, Statm> = before.collect();
        let keep = |(index, pid): (usize, &Pid)| {
            let same = before.remove(pid).filter(|statm| index < KEPT_BY_ONE && statm.pages().is_ok());
            let statm = same.or_else(|| (index < KEPT_BY_ONE).then(|| Statm::keep(*pid)).flatten());
            Member { pid: *pid, statm }
        };
        self.members = processes.iter().enumerate().map(keep).collect();
    }

    /// `None`: none of them is alive, or none can be read.
    pub fn read(&mut self) -> Option<Reading> {
        let mut tree = Tree::default();
        self.members.retain(|member| match member.pages() {
            Ok(pages) => {
                tree.add(pages);
                true
            }
            Err(error) => !has_gone(&error),
        });
        tree.reading(page_bytes()?, machine_cpus())
    }
}

#[derive(Debug)]
struct Member {
    pid: Pid,
    /// `None`: there was no room for one more.
    statm: Option<Statm>,
}

impl Member {
    fn pages(&self) -> io::Result<Pages> {
        self.statm.as_ref().map_or_else(|| Pages::of(self.pid), Statm::pages)
    }
}

fn has_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))
}

#[derive(Debug)]
struct Statm {
    file: Kept,
    _place: Place,
}

impl Statm {
    fn keep(pid: Pid) -> Option<Self> {
        let place = Place::take()?;
        Some(Self { file: Kept::open(&statm_path(pid)?).ok()?, _place: place })
    }

    fn pages(&self) -> io::Result<Pages> {
        let mut line = [0; LINE];
        Pages::parse(self.file.read(&mut line)?)
    }
}

fn statm_path(pid: Pid) -> Option<PathBuf> {
    Some(procfs::root()?.join(format!("{pid}/statm")))
}

/// The right to keep one more descriptor; given back when it is dropped.
#[derive(Debug)]
struct Place;

static TAKEN: AtomicU64 = AtomicU64::new(0);

impl Place {
    fn take() -> Option<Self> {
        static PLACES: OnceLock<u64> = OnceLock::new();
        let descriptors = || getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let places = *PLACES.get_or_init(|| descriptors() / PART_OF_ALL);
        let place = (TAKEN.fetch_add(1, Ordering::Relaxed) < places).then_some(Self);
        if place.is_none() {
            TAKEN.fetch_sub(1, Ordering::Relaxed);
        }
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `/proc/PID/statm`, fields 2 and 3. Both 0: it is a zombie, or exits and has given its memory back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) resident: u64,
    /// The part of `resident` that is file or shmem pages.
    pub(super) shared: u64,
}

impl Pages {
    /// Of a process that is looked at once.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        let path = statm_path(pid).ok_or(io::ErrorKind::Unsupported)?;
        Self::parse(&fs::read_to_string(path)?)
    }

    /// No line at all: it has gone, as a kept descriptor of an old kernel says it.
    fn parse(text: &str) -> io::Result<Self> {
        if text.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let mut fields = text.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok());
        let (resident, shared) = fields.next().zip(fields.next()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { resident, shared })
    }
}

/// The pages of a tree, those that are shared once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// Those with memory.
    processes: u32,
    private: u64,
    shared: u64,
    largest_private: u64,
}

impl Tree {
    pub(super) fn add(&mut self, pages: Pages) {
        let shared = pages.shared.min(pages.resident);
        self.processes += u32::from(pages.resident > 0);
        self.private = self.private.saturating_add(pages.resident - shared);
        self.shared = self.shared.max(shared);
        self.largest_private = self.largest_private.max(pages.resident - shared);
    }

    /// `None`: no page at all, so all of them exit and have given their memory back, or the kernel does not say.
    pub(super) fn pages(self) -> Option<u64> {
        Some(self.private.saturating_add(self.shared)).filter(|pages| *pages > 0)
    }

    fn reading(self, page_bytes: u64, cpus: u64) -> Option<Reading> {
        let pages = self.pages()?;
        Some(Reading {
            bytes: pages.saturating_mul(page_bytes),
            returns: self.private.saturating_mul(page_bytes),
            least: self.largest_private.saturating_add(self.shared).saturating_mul(page_bytes),
            exact: self.processes == 1 && counter_error(cpus) < pages / 64,
        })
    }
}

/// Pages by which a counter of the kernel may be wrong (`include/linux/percpu_counter.h`): each CPU keeps up to a batch to itself.
/// Kernels before 6.2 have up to 64 pages for each thread instead, newer ones than 6.15 add all up and are exact.
fn counter_error(cpus: u64) -> u64 {
    cpus.saturating_mul(cpus.saturating_mul(2).max(32))
}

/// CPUs that are online in the whole machine: the kernel's batches go by them, not by what a cpuset leaves us.
fn machine_cpus() -> u64 {
    static CPUS: OnceLock<u64> = OnceLock::new();
    *CPUS.get_or_init(|| {
        let list = fs::read_to_string("/sys/devices/system/cpu/online").ok();
        list.and_then(|list| listed_cpus(&list)).unwrap_or_else(|| u64::from(affinity::cpus()))
    })
}

/// `0-3,8`: 5.
fn listed_cpus(list: &str) -> Option<u64> {
    let range = |part: &str| {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        end.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    list.trim_ascii().split(',').map(range).try_fold(0_u64, |sum, count| sum.checked_add(count?))
}

pub(super) fn page_bytes() -> Option<u64> {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0)
}

/// Whether a process or thread was started in our PID namespace since this was asked last: a tree need not be looked for again.
///
/// `/proc/loadavg` ends with the number that was given out last. A `/proc/loadavg` of somebody else's making (lxcfs mounts its own
/// over it, and brings it up to date every 5 s) is not asked; a sandbox that always says 0 (gVisor) is not believed. Should exactly all
/// numbers that there are be given out between two looks, that is not noticed before the next birth.
#[derive(Debug, Default)]
pub struct Births {
    loadavg: OnceCell<Option<Kept>>,
    last: Option<u32>,
}

impl Births {
    /// True where it cannot be told, and when it is asked for the first time. Threads of our own count as well.
    pub fn any(&mut self) -> bool {
        let last = self.last_pid();
        let is_known = last.is_some() && last == self.last;
        self.last = last;
        !is_known
    }

    fn last_pid(&self) -> Option<u32> {
        let mut line = [0; 128];
        last_pid(self.loadavg.get_or_init(kernels_loadavg).as_ref()?.read(&mut line).ok()?)
    }
}

/// `None` where another file system is mounted over it.
fn kernels_loadavg() -> Option<Kept> {
    let root = procfs::root()?;
    let file = Kept::open(&root.join("loadavg")).ok()?;
    (file.file().metadata().ok()?.dev() == fs::metadata(root).ok()?.dev()).then_some(file)
}

/// The fifth field. Nobody has number 0, and we have one.
fn last_pid(loadavg: &str) -> Option<u32> {
    loadavg.split_ascii_whitespace().nth(4)?.parse().ok().filter(|pid| *pid > 0)
}
