//! What is to be done: the only way out of the core. Imperative; the runtime carries effects out in their order.

use std::time::Duration;

use super::event::Left;
use super::sizing::Share;
use super::status::Reason;
use super::words::{ExitStatus, Life, Pid, Slot, Time};

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Fork and execute the command; answered by `Forked` or `ForkRefused` before any other event.
    Spawn { life: Life, slot: Slot, generation: u32, workers: u32, share: Share },
    /// New connections may reach this worker: it is ready (again).
    Join { life: Life },
    /// New connections reach others. `hung`: its successor takes its accept queue, with what waits there.
    Disconnect { life: Life, hung: bool },
    /// Look for an instant at which none of its requests is in flight; answered by `Quiet`, at once where it has no connection. Until
    /// `until`, when the core stops it anyway; `from` is when the search began.
    SeekQuiet { life: Life, from: Time, until: Time },
    /// No worker accepts any more: late clients are refused, as soon as no worker fails by it.
    Refuse,
    /// Ask it to take no new connections, finish those that it has and end by itself.
    Part { life: Life },
    /// The stop signal to the leader, then CONT (a stopped process would keep TERM pending for ever).
    StopLeader { life: Life },
    /// The stop signal, then CONT, to what is left of the tree of a leader that has gone.
    StopRest { life: Life },
    /// SIGKILL to the whole tree.
    KillTree { life: Life },
    /// Find out exactly what this worker's tree uses; answered by `Used`, later.
    Confirm { life: Life },
    /// All workers together may have so much memory, where the kernel can be told; `None`: as much as the container.
    Bound { bytes: Option<u64> },
    /// Count what is left besides us; answered by `NamespaceSeen`.
    LookAround,
    /// TERM and CONT to what is left of our own; TERM and HUP to what entered from outside.
    AskNamespace,
    /// SIGKILL to what entered from outside.
    KillEntered,
    /// SIGKILL to everything that is left.
    KillNamespace,
    /// Tell people: one line in the log.
    Note(Note),
    /// Leave with this status. The last effect ever.
    End { code: u8 },
}

/// A transition worth one line.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    Started {
        slot: Slot,
        pid: Pid,
        generation: u32,
    },
    ForkRefused {
        slot: Slot,
        why: String,
        retry_in: Option<Duration>,
    },
    /// One start in vain; a command that never could be executed is `Finish::CannotExecute` instead.
    ExecFailed {
        slot: Slot,
        why: String,
    },
    Ready {
        slot: Slot,
        pid: Pid,
        after: Duration,
    },
    /// It has neither listened nor notified within `START_TIMEOUT`, and its program is not known to do so.
    CountsAsReady {
        slot: Slot,
        pid: Pid,
        after: Duration,
    },
    /// A worker says `STATUS=`.
    Says {
        slot: Slot,
        text: String,
    },
    AnnouncedStop {
        slot: Slot,
        pid: Pid,
    },
    Hung {
        slot: Slot,
        pid: Pid,
        hang: Hang,
    },
    Recovered {
        slot: Slot,
        pid: Pid,
    },
    /// Connections wait in a queue of this slot that nobody has: a worker is started for them.
    QueueFilled {
        slot: Slot,
    },
    NotReadyInTime {
        slot: Slot,
        pid: Pid,
        waited: Duration,
    },
    /// New connections reach others, while it waits for its stop signal.
    Disconnected {
        slot: Slot,
        pid: Pid,
        reason: Reason,
    },
    /// It was asked to finish what it has and to end by itself.
    Parting {
        slot: Slot,
        pid: Pid,
        reason: Reason,
    },
    /// `search`: where the stop signal waited for a quiet instant.
    Stopping {
        slot: Slot,
        pid: Pid,
        reason: Reason,
        search: Option<Search>,
    },
    /// The grace is over, or it was asked for at once.
    Killing {
        slot: Slot,
        pid: Pid,
        reason: Reason,
    },
    /// SIGKILL was sent and something of the tree is still there (uninterruptible sleep).
    StillThere {
        slot: Slot,
        pid: Pid,
    },
    Ended {
        slot: Slot,
        pid: Pid,
        status: ExitStatus,
        reason: Reason,
        rest: u32,
    },
    /// The slot's next start.
    Waits {
        slot: Slot,
        failures: u32,
        delay: Duration,
    },
    /// The slot is done and will not run again.
    SlotDone {
        slot: Slot,
    },
    OthersFollow {
        workers: u32,
        ready: bool,
    },
    ReloadBegan {
        generation: u32,
        workers: u32,
    },
    /// One more reload follows the present one.
    ReloadRemembered,
    ReloadDone {
        generation: u32,
    },
    ReloadAborted {
        reason: String,
    },
    /// A replacement that is no reload was given up.
    ReplacementFailed {
        slot: Slot,
        reason: String,
    },
    Scaled {
        from: u32,
        to: u32,
    },
    /// The limits of the container have changed, and with them what is wanted.
    Resized {
        from: u32,
        to: u32,
        cap: Option<u64>,
        why: String,
    },
    /// The limits pay for less; that counts when it has held for so long.
    LessLater {
        to: u32,
        cap: Option<u64>,
        wait: Duration,
    },
    /// It uses as much as `MEMORY_SOFT` of its cap and is replaced.
    MemorySoft {
        slot: Slot,
        pid: Pid,
        bytes: u64,
        cap: u64,
    },
    /// It has reached its cap.
    MemoryCap {
        slot: Slot,
        pid: Pid,
        bytes: u64,
        cap: u64,
    },
    /// The container is short of memory and this worker is the one farthest above its share.
    MemoryShort {
        slot: Slot,
        pid: Pid,
        bytes: u64,
        share: u64,
        used: u64,
        limit: u64,
        killed: bool,
    },
    /// The container is short of memory, and no worker is above its share.
    NobodyAboveShare {
        used: u64,
        limit: u64,
    },
    /// It reached `MEMORY_SOFT` soon after its predecessor did: it needs more rather than leaks, and stays until its cap.
    NeedsMore {
        slot: Slot,
        pid: Pid,
        bytes: u64,
        cap: u64,
    },
    /// The kernel's OOM killer ended it.
    OutOfMemory {
        slot: Slot,
        pid: Pid,
    },
    /// There is no memory for a successor beside its predecessor.
    PredecessorFirst {
        slot: Slot,
    },
    /// A request that is not carried out, and why.
    Refused {
        reason: String,
    },
    StopBegan {
        drain: Duration,
        grace: Duration,
    },
    DrainEnded,
    /// A further stop request that changes nothing.
    AlreadyStopping,
    KillNow,
    /// The cluster ends by itself.
    Finishing {
        why: Finish,
    },
    NamespaceLeft {
        left: Left,
    },
    NamespaceKilled {
        left: Left,
    },
    /// We end although these are still there after SIGKILL.
    Abandoned {
        left: Left,
        workers: u32,
    },
}

/// By what a worker that lives and does not work gave itself away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hang {
    /// It missed its watchdog, or said so itself.
    Watchdog,
    /// It left connections waiting in its accept queue for `HANG_TIMEOUT`.
    Queue,
    /// It left a heartbeat unanswered for `HANG_TIMEOUT`.
    Heartbeat,
}

/// The search for an instant at which no request of a worker is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    pub took: Duration,
    /// One was found; else half the grace was over.
    pub quiet: bool,
}

/// Why the cluster ends although nobody asked for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Finish {
    /// No slot will ever run again.
    NothingLeftToRun,
    /// The first worker ended before the others were started.
    FirstEnded,
    /// No worker was ever ready and every slot failed this often in a row.
    GaveUp { failures: u32 },
    /// The command cannot be executed.
    CannotExecute { why: String },
}
