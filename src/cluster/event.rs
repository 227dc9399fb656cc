//! What happened: the only way into the core. Past tense, facts only.

use std::time::Duration;

use super::words::{ExitStatus, Life, Pid, Slot};

#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Somebody asks for something: a signal, or the control socket.
    Asked(Request),
    /// Answer to `SweepNamespace`, and again after later deaths: what is left besides us.
    NamespaceSeen { left: Left },
    /// A deadline of [`next_deadline`](super::Supervisor::next_deadline) has come, or may have: early and spurious ones are harmless.
    DeadlineReached,
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
