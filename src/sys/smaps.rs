//! The exact memory of a tree: `Pss` of `smaps_rollup`, where a page that N processes map counts as 1/N in each. The kernel walks the
//! page tables for it, 13 µs for each MiB, so it is read on a thread: one at a time, started when it is needed, gone with its answer.
//! The loop only waits for that.
//!
//! `smaps_rollup` is for those who may trace the process (`man 2 ptrace`). Root without `CAP_SYS_PTRACE`, which is what containers give, may
//! not where a worker has another user. That is checked when it is opened, so it is opened as that user.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::footprint::Pages;
use super::identity;
use super::init::set_mask;
use super::procfs;
use crate::cluster::words::{Life, Pid, Time};

#[cfg(test)]
mod tests;

/// Bytes: a path, a buffer, the frame of a signal that comes before signals are blocked, and the allocator's way down (unoptimized: 19 kB in
/// one of its functions alone).
const STACK: usize = 256 * 1024;
/// Bytes: some 25 lines of 30.
const ROLLUP: usize = 4096;

/// A process that holds its mmap lock for ever (a page that a dead file server is to bring) keeps its reader.
const STUCK: Duration = Duration::from_secs(2);
/// So many readers may be stuck; then nothing is exact any more.
const MOST_STUCK: u32 = 4;

type Answer = (Life, Option<u64>);

/// Readings that are under way and their answers.
#[derive(Debug)]
pub struct Confirmations {
    /// What the thread reads is the first.
    asked: VecDeque<(Life, Vec<Pid>)>,
    /// The number of the present reading: only its answer counts.
    begun: u64,
    /// When somebody asked for the first time since it was begun.
    since: Option<Time>,
    stuck: u32,
    sender: UnboundedSender<(u64, Answer)>,
    answers: UnboundedReceiver<(u64, Answer)>,
}

impl Confirmations {
    pub fn new() -> Self {
        let (sender, answers) = unbounded_channel();
        Self { asked: VecDeque::new(), begun: 0, since: None, stuck: 0, sender, answers }
    }

    /// Starts to read these processes, each once; a second one of a life that is being read is not started. Whoever asks again and again
    /// gets an answer: a reader that is stuck is given up.
    pub fn ask(&mut self, now: Time, life: Life, processes: Vec<Pid>) {
        let since = *self.since.get_or_insert(now);
        if !self.asked.is_empty() && now.since(since) > STUCK {
            self.give_up();
        }
        if self.asked.iter().any(|(asked, _)| *asked == life) {
            return;
        }
        self.asked.push_back((life, processes));
        if self.asked.len() == 1 {
            self.begin();
        }
    }

    fn give_up(&mut self) {
        self.stuck = self.stuck.saturating_add(1);
        if let Some((life, _)) = self.asked.front() {
            self.sender.send((self.begun, (*life, None))).ok();
        }
        self.since = None;
    }

    /// The next answer: bytes; `None` where they may not be read, or no thread can be had. Processes that have gone have nothing. Waits
    /// for ever while nothing was asked. No answer is lost when this is given up.
    pub async fn next(&mut self) -> (Life, Option<u64>) {
        loop {
            if let Some((_, answer)) = self.answers.recv().await.filter(|(number, _)| *number == self.begun) {
                self.asked.pop_front();
                // A second answer of this one is of no use.
                self.begun += 1;
                self.begin();
                return answer;
            }
        }
    }

    /// Reads the first of those that were asked for.
    fn begin(&mut self) {
        let Some((life, processes)) = self.asked.front_mut() else { return };
        self.begun += 1;
        self.since = None;
        let (life, processes, sender, number) = (*life, std::mem::take(processes), self.sender.clone(), self.begun);
        if self.stuck >= MOST_STUCK {
            sender.send((number, (life, None))).ok();
            return;
        }
        let read = move || {
            // Signals are for the thread that expects them.
            set_mask(u64::MAX);
            // The receiver has gone: so has the program.
            sender.send((number, (life, uses(&processes)))).ok();
        };
        if thread::Builder::new().stack_size(STACK).spawn(read).is_err() {
            self.sender.send((number, (life, None))).ok();
        }
    }
}

impl Default for Confirmations {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of all together; `None` if there is one that lives and cannot be read.
fn uses(processes: &[Pid]) -> Option<u64> {
    let mut seen: Vec<Rollup> = Vec::with_capacity(processes.len());
    for pid in processes {
        let Some(rollup) = rollup(*pid) else {
            let lives = Pages::of(*pid).is_ok_and(|pages| pages.resident > 0);
            if lives {
                return None;
            }
            continue;
        };
        match seen.iter_mut().find(|other| other.is_same_memory(&rollup)) {
            Some(other) => other.pss = other.pss.max(rollup.pss),
            None => seen.push(rollup),
        }
    }
    Some(seen.iter().fold(0, |sum, rollup| sum.saturating_add(rollup.pss)))
}

/// The lines of `smaps_rollup` that we need, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rollup {
    /// From the first to the last mapped byte: `55d2c8a00000-7ffd1c9f2000`.
    range: String,
    pss: u64,
    /// All anonymous pages, and the same with 1/N for what N share. Linux 5.5.
    anonymous: Option<(u64, u64)>,
}

impl Rollup {
    fn parse(text: &str) -> Option<Self> {
        let field = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.strip_suffix("kB")?.trim_ascii().parse().ok()?;
            kib.checked_mul(1024)
        };
        let range = text.split_ascii_whitespace().next()?.to_owned();
        Some(Self { range, pss: field("Pss:")?, anonymous: field("Anonymous:").zip(field("Pss_Anon:")) })
    }

    /// A child between `vfork` and exec runs in its parent's memory, which would be counted twice: half of a worker that starts programs
    /// and is seen at the wrong moment. Only that and a plain fork give two processes the same range; after a plain fork some of the
    /// anonymous pages (what the linker has written once at the start) stay shared until exec.
    fn is_same_memory(&self, other: &Self) -> bool {
        let shares_nothing = |rollup: &Self| rollup.anonymous.is_some_and(|(all, portion)| all == portion);
        self.range == other.range && shares_nothing(self) && shares_nothing(other)
    }
}

/// `None`: it has gone, or may not be read, or the kernel (before 4.14) has no such file.
fn rollup(pid: Pid) -> Option<Rollup> {
    let folder = procfs::root()?.join(pid.to_string());
    let mut file = open(&folder).ok()?;
    let mut buffer = [0; ROLLUP];
    let length = file.read(&mut buffer).ok()?;
    Rollup::parse(str::from_utf8(buffer.get(..length)?).ok()?)
}

fn open(folder: &Path) -> io::Result<File> {
    let path: PathBuf = folder.join("smaps_rollup");
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Its effective ids, or root's if it may not be dumped (`man 5 proc`).
            let owner = fs::metadata(folder)?;
            if owner.uid() == 0 {
                return Err(error);
            }
            identity::as_user(owner.uid(), owner.gid(), || File::open(&path))?
        }
        outcome => outcome,
    }
}
