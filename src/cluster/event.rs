//! What happened: the only way into the core. Past tense, facts only.

use std::time::Duration;

use super::sizing::Limits;
use super::words::{ExitStatus, Life, Pid, Slot, Time};

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The fork for this life succeeded. Comes before any other event after its `Spawn` effect.
    Forked { life: Life, pid: Pid },
    /// The fork for this life was refused (pids limit, no memory). Comes in place of `Forked`.
    ForkRefused { life: Life, why: String },
    /// The command's own program runs now.
    Executed { life: Life },
    /// The command could not be executed; the forked process will end by itself.
    ExecFailed { life: Life, failure: ExecFailure, why: String },
    /// The leader ended and was reaped; `rest` more processes of its tree are alive.
    LeaderEnded { life: Life, status: ExitStatus, rest: u32 },
    /// Nothing is left of the tree of a worker whose leader had ended.
    TreeEnded { life: Life },
    /// The worker said something on its `NOTIFY_SOCKET`.
    Notified { life: Life, notice: Notice },
    /// It has a listening TCP socket: it is ready, where that is what makes it ready.
    Listened { life: Life },
    /// Answer to `SeekQuiet`, at once or later: at this instant (the tree is frozen) no request of this worker is in flight.
    Quiet { life: Life },
    /// Whether this worker can be asked to part: it takes no new connections then, finishes those that it has and ends by itself (Node's
    /// `disconnect`). One that handles the stop signal by itself is not.
    Parts { life: Life, parts: bool },
    /// It has parted: nothing that it accepted is open any more, and it should end.
    Parted { life: Life },
    /// Since when the worker has left a heartbeat unanswered; `None`: it answers (again).
    Unanswered { life: Life, since: Option<Time> },
    /// Since when the worker has left connections waiting in its accept queue without accepting one; `None`: it accepts (again).
    Waiting { life: Life, since: Option<Time> },
    /// A connection waits in an accept queue of this slot that no worker has. Told again now and then, as long as it is so.
    QueueFilled { slot: Slot },
    /// What [`next_look`](super::Supervisor::next_look) asked for, or what [`Confirm`](super::effect::Effect::Confirm) did.
    Used(Used),
    /// This start fails through something that will be done without the next time, which is at once. Comes before `LeaderEnded`.
    StartedInVain { life: Life },
    /// The kernel's OOM killer ended this worker, or some of its tree. Comes before `LeaderEnded`.
    OutOfMemory { life: Life },
    /// The limits of the container were read again.
    LimitsRead(Limits),
    /// Somebody asks for something: a signal, or the control socket.
    Asked(Request),
    /// Answer to `SweepNamespace`, and again after later deaths: what is left besides us.
    NamespaceSeen { left: Left },
    /// A deadline of [`next_deadline`](super::Supervisor::next_deadline) has come, or may have: early and spurious ones are harmless.
    DeadlineReached,
}

/// What memory is used at one instant. What was not asked for, and what cannot be had, is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub workers: Vec<WorkerUses>,
    /// Bytes in use in the whole container that page cache cannot give back: `memory.current` - `inactive_file` - `active_file`.
    pub container: Option<u64>,
}

/// What one worker's whole tree uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerUses {
    pub life: Life,
    /// Resident bytes, shared pages once: what counts against its cap.
    pub bytes: u64,
    /// The part of it that comes back when it ends: anonymous, not page cache, not tmpfs.
    pub returns: u64,
    /// False: an estimate that may be too high, and is confirmed before anybody is killed for it.
    pub exact: bool,
}

/// Why a program could not be executed, by what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecFailure {
    /// ENOENT, ENOTDIR: 127, as shells have it.
    NotFound,
    /// EACCES, ENOEXEC, EISDIR and the like: 126.
    NotExecutable,
    /// EAGAIN, ENOMEM, EMFILE, ETXTBSY: may work the next time.
    Transient,
}

/// One message of the `sd_notify` protocol (`man 3 sd_notify`), as far as it concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Ready,
    Stopping,
    Reloading,
    Status(String),
    /// `WATCHDOG=1`: still alive.
    Alive,
    /// `WATCHDOG=trigger`: treat me as hung.
    Trigger,
    /// `WATCHDOG_USEC=`: from now on I say `WATCHDOG=1` at least this often.
    WatchdogInterval(Duration),
}

/// What a person or a platform may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A graceful stop. `interrupt`: it came as INT or QUIT, of which a second one means now.
    Stop {
        interrupt: bool,
        listening: bool,
    },
    /// Kill at once.
    StopNow,
    /// Rolling restart.
    Reload,
    /// One worker more.
    More,
    /// One worker fewer.
    Fewer,
    Scale(u32),
    /// Replace the worker of one slot.
    Restart(Slot),
}

/// The processes that are left besides us and our workers' trees; zombies do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// In the PID namespace, or (not as PID 1) our own descendants.
    pub own: u32,
    /// Entered from outside (parent 0): exec, debug containers, and their descendants.
    pub entered: u32,
}
