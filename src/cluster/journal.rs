//! The last events, for people who come later: what the log said of each worker, in a ring that the side port shows.
//!
//! An entry is made from the very note that becomes a log line, in one place (`of`); only what has no note (its program runs, it
//! listens) is told apart. Entries hold words and numbers; where a text comes from outside it is cut, and it never is an argument or
//! a value of the environment.
//!
//! A snapshot shares the ring: it is made of blocks behind `Arc`s, and only the block that is written to is ever copied.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::effect::{Finish, Hang, Note};
use super::status::Reason;
use super::units;
use super::words::{ExitStatus, Pid, Slot, Time};

/// So many are kept.
pub const KEPT: usize = 256;
/// Small, because the one that is written to is copied after each snapshot.
const BLOCK: usize = 16;
/// A text from outside is cut here.
const LONGEST_TEXT: usize = 200;

/// The last [`KEPT`] events, in their order.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// All but the last one are full.
    blocks: VecDeque<Arc<Vec<Entry>>>,
    recorded: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub at: Time,
    pub what: What,
    /// `None`: it is the cluster's.
    pub slot: Option<Slot>,
    pub pid: Option<Pid>,
    pub reason: Option<Reason>,
    pub status: Option<ExitStatus>,
    pub detail: Detail,
}

/// What happened, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    Fork,
    ForkRefused,
    ExecFailed,
    /// The program runs: exec succeeded.
    Online,
    Listening,
    Ready,
    NotReady,
    Hung,
    Recovered,
    QueueFilled,
    /// New connections go to others.
    Disconnect,
    /// Asked to finish what it has and to end by itself.
    Part,
    /// The stop signal was sent, or the worker says that it stops.
    Stop,
    Kill,
    Unkillable,
    Exit,
    /// The next start of this slot waits.
    Backoff,
    /// The slot is not started again.
    Done,
    OthersFollow,
    Reload,
    ReloadDone,
    ReloadAborted,
    ReplacementFailed,
    Scale,
    Resize,
    Memory,
    Refused,
    /// A stop was asked for, and `DRAIN_DELAY` runs.
    Drain,
    /// The cluster stops.
    Shutdown,
    GivingUp,
    Finish,
}

/// What else there is to say, written out only when it is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    None,
    Words(&'static str),
    Text(Box<str>),
    Generation(u32),
    After(Duration),
    /// A start failed so often in a row, and the next one waits so long.
    Wait {
        failures: u32,
        delay: Duration,
    },
    /// Processes of the tree that outlived their leader.
    Rest(u32),
    Workers {
        from: u32,
        to: u32,
    },
    /// In use, of so much.
    Bytes {
        words: &'static str,
        bytes: u64,
        of: u64,
    },
}

impl Journal {
    pub(super) fn push(&mut self, entry: Entry) {
        self.recorded += 1;
        if let Some(block) = self.blocks.back_mut().filter(|block| block.len() < BLOCK) {
            let block = Arc::make_mut(block);
            block.reserve_exact(BLOCK - block.len());
            block.push(entry);
            return;
        }
        // One block more than are kept: the oldest is on its way out, entry by entry.
        if self.blocks.len() > KEPT / BLOCK {
            self.blocks.pop_front();
        }
        let mut block = Vec::with_capacity(BLOCK);
        block.push(entry);
        self.blocks.push_back(Arc::new(block));
    }

    /// The oldest first, each with its number; numbers count from 1 and have no gaps.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let held: usize = self.blocks.iter().map(|block| block.len()).sum();
        let first = self.recorded - self.recorded.min(KEPT as u64) + 1;
        (first..).zip(self.blocks.iter().flat_map(|block| block.iter()).skip(held.saturating_sub(KEPT)))
    }

    pub(super) fn note(&mut self, at: Time, note: &Note) {
        if let Some(entry) = of(at, note) {
            self.push(entry);
        }
    }
}

impl Entry {
    pub(super) fn of_worker(at: Time, what: What, slot: Slot, pid: Pid) -> Self {
        Self { slot: Some(slot), pid: Some(pid), ..Self::of_cluster(at, what) }
    }

    fn of_cluster(at: Time, what: What) -> Self {
        Self { at, what, slot: None, pid: None, reason: None, status: None, detail: Detail::None }
    }

    fn slot(self, slot: Slot) -> Self {
        Self { slot: Some(slot), ..self }
    }

    fn reason(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }

    fn with(self, detail: Detail) -> Self {
        Self { detail, ..self }
    }

    fn says(self, words: &'static str) -> Self {
        self.with(Detail::Words(words))
    }

    fn text(self, text: &str) -> Self {
        self.with(Detail::Text(text.chars().take(LONGEST_TEXT).collect()))
    }
}

/// What is kept of a note; `None` for what only repeats or explains another.
fn of(at: Time, note: &Note) -> Option<Entry> {
    let worker = |what, slot: &Slot, pid: &Pid| Entry::of_worker(at, what, *slot, *pid);
    let in_slot = |what, slot: &Slot| Entry::of_cluster(at, what).slot(*slot);
    let cluster = |what| Entry::of_cluster(at, what);
    let memory = |slot, pid, words, bytes: &u64, of: &u64| {
        worker(What::Memory, slot, pid).with(Detail::Bytes { words, bytes: *bytes, of: *of })
    };
    Some(match note {
        Note::Started { slot, pid, generation } => worker(What::Fork, slot, pid).with(Detail::Generation(*generation)),
        Note::ForkRefused { slot, why, .. } => in_slot(What::ForkRefused, slot).text(why),
        Note::ExecFailed { slot, why } => in_slot(What::ExecFailed, slot).text(why),
        Note::Ready { slot, pid, after } => worker(What::Ready, slot, pid).with(Detail::After(*after)),
        Note::CountsAsReady { slot, pid, .. } => {
            worker(What::Ready, slot, pid).says("has neither listened nor notified; not counted by /readyz")
        }
        Note::AnnouncedStop { slot, pid } => worker(What::Stop, slot, pid).says("it says that it stops"),
        Note::Hung { slot, pid, hang } => worker(What::Hung, slot, pid).says(match hang {
            Hang::Watchdog => "missed its watchdog",
            Hang::Queue => "left connections waiting",
            Hang::Heartbeat => "its event loop stands still",
        }),
        Note::Recovered { slot, pid } => worker(What::Recovered, slot, pid),
        Note::QueueFilled { slot } => in_slot(What::QueueFilled, slot).says("connections wait for a worker"),
        Note::NotReadyInTime { slot, pid, waited } => worker(What::NotReady, slot, pid).with(Detail::After(*waited)),
        Note::Disconnected { slot, pid, reason } => worker(What::Disconnect, slot, pid).reason(*reason),
        Note::Parting { slot, pid, reason } => worker(What::Part, slot, pid).reason(*reason),
        Note::Stopping { slot, pid, reason, .. } => worker(What::Stop, slot, pid).reason(*reason),
        Note::Killing { slot, pid, reason } => worker(What::Kill, slot, pid).reason(*reason),
        Note::StillThere { slot, pid } => worker(What::Unkillable, slot, pid).says("it hangs in the kernel; going on without it"),
        Note::Ended { slot, pid, status, reason, rest } => Entry {
            status: Some(*status),
            detail: if *rest > 0 { Detail::Rest(*rest) } else { Detail::None },
            ..worker(What::Exit, slot, pid).reason(*reason)
        },
        Note::Waits { slot, failures, delay } => {
            in_slot(What::Backoff, slot).with(Detail::Wait { failures: *failures, delay: *delay })
        }
        Note::SlotDone { slot } => in_slot(What::Done, slot),
        Note::OthersFollow { ready: true, .. } => cluster(What::OthersFollow).says("slot 0 is ready"),
        Note::OthersFollow { ready: false, .. } => cluster(What::OthersFollow).says("slot 0 was not ready in time"),
        Note::ReloadBegan { generation, .. } => cluster(What::Reload).with(Detail::Generation(*generation)),
        Note::ReloadRemembered => cluster(What::Reload).says("one more follows"),
        Note::ReloadDone { generation } => cluster(What::ReloadDone).with(Detail::Generation(*generation)),
        Note::ReloadAborted { reason } => cluster(What::ReloadAborted).text(reason),
        Note::ReplacementFailed { slot, reason } => in_slot(What::ReplacementFailed, slot).text(reason),
        Note::Scaled { from, to } => cluster(What::Scale).with(Detail::Workers { from: *from, to: *to }),
        Note::Resized { from, to, why, .. } if from == to => cluster(What::Resize).text(why),
        Note::Resized { from, to, .. } => cluster(What::Resize).with(Detail::Workers { from: *from, to: *to }),
        Note::LessLater { .. } => cluster(What::Resize).says("made smaller; counts when it has held for a while"),
        Note::MemorySoft { slot, pid, bytes, cap } => memory(slot, pid, "nearly all of its memory", bytes, cap),
        Note::MemoryCap { slot, pid, bytes, cap } => memory(slot, pid, "at its cap", bytes, cap),
        Note::MemoryShort { slot, pid, bytes, share, .. } => {
            memory(slot, pid, "container short, farthest above its share", bytes, share)
        }
        Note::NobodyAboveShare { used, limit } => cluster(What::Memory).with(Detail::Bytes {
            words: "container short, nobody above its share",
            bytes: *used,
            of: *limit,
        }),
        Note::NeedsMore { slot, pid, bytes, cap } => memory(slot, pid, "needs more than its predecessor had", bytes, cap),
        Note::OutOfMemory { slot, pid } => worker(What::Memory, slot, pid).says("ended by the kernel's OOM killer"),
        Note::PredecessorFirst { slot } => in_slot(What::Memory, slot).says("no room for a successor: predecessor first"),
        Note::Refused { reason } => cluster(What::Refused).text(reason),
        Note::StopBegan { drain, .. } if !drain.is_zero() => cluster(What::Drain).text(&format!("serving on for {drain:?}")),
        Note::DrainEnded => cluster(What::Shutdown),
        Note::KillNow => cluster(What::Shutdown).says("now"),
        Note::Finishing { why: Finish::NothingLeftToRun } => cluster(What::Finish).says("none is to be started again"),
        Note::Finishing { why: Finish::FirstEnded } => cluster(What::Finish).says("the first worker ended before the others"),
        Note::Finishing { why: Finish::GaveUp { .. } } => cluster(What::GivingUp).says("no worker was ever ready"),
        Note::Finishing { why: Finish::CannotExecute { why } } => cluster(What::GivingUp).text(why),
        // Without a drain its end follows at once; a worker's own words may come without end, and would push out everything else.
        Note::StopBegan { .. }
        | Note::Says { .. }
        | Note::AlreadyStopping
        | Note::NamespaceLeft { .. }
        | Note::NamespaceKilled { .. }
        | Note::Abandoned { .. } => return None,
    })
}

impl Detail {
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: &Duration| Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        match self {
            Self::None => Ok(()),
            Self::Words(words) => f.write_str(words),
            Self::Text(text) => f.write_str(text),
            Self::Generation(generation) => write!(f, "generation {generation}"),
            Self::After(after) => write!(f, "after {:?}", ms(after)),
            Self::Wait { failures, delay } => write!(f, "failure {failures} in a row, next start in {:?}", ms(delay)),
            Self::Rest(rest) => write!(f, "{rest} of its processes left"),
            Self::Workers { from, to } => write!(f, "{from} to {to} workers"),
            Self::Bytes { words, bytes, of } => write!(f, "{words}: {} of {}", units::about(*bytes), units::about(*of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    #[test]
    fn the_last_256_stay_and_numbers_have_no_gaps() {
        let mut journal = Journal::default();
        assert_eq!(journal.entries().count(), 0);
        for number in 1..=1000_u64 {
            let before = journal.clone();
            journal.note(at(number), &Note::SlotDone { slot: Slot(u32::try_from(number).expect("small")) });
            let held: Vec<_> = journal.entries().map(|(seq, entry)| (seq, entry.at)).collect();
            let first = number.saturating_sub(255).max(1);
            let expected: Vec<_> = (first..=number).map(|seq| (seq, at(seq))).collect();
            assert_eq!(held, expected);
            assert_eq!(
                before.entries().count(),
                held.len().min(usize::try_from(number - 1).expect("small")),
                "a snapshot stays as it was"
            );
        }
        assert!(journal.blocks.iter().map(|block| block.capacity()).sum::<usize>() <= KEPT + 2 * BLOCK, "bounded");
    }

    #[test]
    fn a_write_after_a_snapshot_copies_one_block() {
        let mut journal = Journal::default();
        for _ in 0..1000 {
            journal.note(at(0), &Note::KillNow);
        }
        let snapshot = journal.clone();
        journal.note(at(1), &Note::KillNow);
        let shared = snapshot.blocks.iter().filter(|old| journal.blocks.iter().any(|new| Arc::ptr_eq(old, new))).count();
        assert_eq!(shared, snapshot.blocks.len() - 1);
    }

    #[test]
    fn a_text_from_outside_is_cut() {
        let entry = of(at(0), &Note::Refused { reason: "ä".repeat(10_000) }).expect("kept");
        assert_eq!(entry.detail.to_string().chars().count(), LONGEST_TEXT);
    }

    #[test]
    fn what_a_worker_says_without_end_pushes_nothing_out() {
        assert_eq!(of(at(0), &Note::Says { slot: Slot(0), text: "busy".to_owned() }), None);
    }

    #[test]
    fn details_read_as_people_write() {
        let wait = Detail::Wait { failures: 3, delay: Duration::from_micros(412_345) };
        assert_eq!(wait.to_string(), "failure 3 in a row, next start in 412ms");
        let full = Detail::Bytes { words: "at its cap", bytes: (240 << 20) + 5, of: 240 << 20 };
        assert_eq!(full.to_string(), "at its cap: about 240Mi of 240Mi");
    }
}
