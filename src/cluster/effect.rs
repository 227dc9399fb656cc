//! What is to be done: the only way out of the core. Imperative; the runtime carries effects out in their order.

use std::time::Duration;

use super::event::Left;
use super::status::Reason;
use super::words::{ExitStatus, Life, Pid, Slot};

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Fork and execute the command; answered by `Forked` or `ForkRefused` before any other event.
    Spawn { life: Life, slot: Slot, generation: u32, workers: u32 },
    /// The stop signal to the leader, then CONT (a stopped process would keep TERM pending for ever).
    StopLeader { life: Life },
    /// The stop signal, then CONT, to what is left of the tree of a leader that has gone.
    StopRest { life: Life },
    /// SIGKILL to the whole tree.
    KillTree { life: Life },
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
    },
    Recovered {
        slot: Slot,
        pid: Pid,
    },
    NotReadyInTime {
        slot: Slot,
        pid: Pid,
        waited: Duration,
    },
    Stopping {
        slot: Slot,
        pid: Pid,
        reason: Reason,
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
