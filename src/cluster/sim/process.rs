//! What a simulated worker does with its life, written down before it is born.

use crate::cluster::event::{ExecFailure, Notice};
use crate::cluster::words::{ExitStatus, Signal};

/// Virtual milliseconds.
pub(crate) type Ms = u64;

/// How long something takes that never happens by itself.
pub(crate) const NEVER: Ms = Ms::MAX;

#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) fork_refused: bool,
    pub(crate) exec: Exec,
    /// Ends by itself so long after exec.
    pub(crate) runs: Ms,
    pub(crate) status: ExitStatus,
    pub(crate) on_stop: OnStop,
    pub(crate) rest: Rest,
    /// From SIGKILL to the end of the tree; `NEVER` is an uninterruptible sleep.
    pub(crate) kill_takes: Ms,
    /// What it says on its `NOTIFY_SOCKET`, each so long after exec.
    pub(crate) says: Vec<(Ms, Notice)>,
    /// Listens so long after exec.
    pub(crate) listens: Ms,
    /// From `SeekQuiet` to an instant without a request in flight.
    pub(crate) quiet_takes: Ms,
    pub(crate) on_part: OnPart,
    /// Begins to leave connections waiting, or accepts again, so long after exec.
    pub(crate) waits: Vec<(Ms, bool)>,
    pub(crate) appetite: Appetite,
}

/// What its tree uses, in bytes, from exec on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Appetite {
    pub(crate) begins: u64,
    /// Per millisecond.
    pub(crate) grows: u64,
    pub(crate) most: u64,
    /// What an estimate counts twice; nothing: every figure is exact.
    pub(crate) twice: u64,
    /// The part of it that does not come back when it ends (tmpfs).
    pub(crate) stays: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Exec {
    After(Ms),
    Fails(ExecFailure),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum OnStop {
    /// The signal ends it.
    Dies,
    /// It needs so long, and calls `exit`.
    Exits(u8, Ms),
    Ignores,
}

/// What it does when it is asked to part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnPart {
    /// It cannot be asked.
    Cannot,
    /// It finishes what it has in so long, and exits with 0.
    Ends(Ms),
    /// It finishes what it has in so long, and something keeps it.
    Stays(Ms),
    /// Its connections never end.
    Serves,
}

/// What the leader leaves behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) count: u32,
    /// Goes by itself so long after the leader.
    pub(crate) stays: Ms,
    /// Goes so long after the stop signal.
    pub(crate) stop_takes: Ms,
}

impl Appetite {
    pub(crate) fn after(&self, ms: Ms) -> u64 {
        self.begins.saturating_add(self.grows.saturating_mul(ms)).min(self.most)
    }
}

impl Behaviour {
    /// A server that runs for ever and ends by the stop signal.
    pub(crate) fn serves() -> Self {
        Self {
            fork_refused: false,
            exec: Exec::After(1),
            runs: NEVER,
            status: ExitStatus::Code(0),
            on_stop: OnStop::Dies,
            rest: Rest { count: 0, stays: NEVER, stop_takes: 0 },
            kill_takes: 0,
            says: Vec::new(),
            listens: NEVER,
            quiet_takes: 0,
            on_part: OnPart::Cannot,
            waits: Vec::new(),
            appetite: Appetite::default(),
        }
    }

    /// It ends by itself with this code.
    pub(crate) fn exits(code: u8, runs: Ms) -> Self {
        Self { runs, status: ExitStatus::Code(code), ..Self::serves() }
    }

    pub(crate) fn crashes(signal: Signal, runs: Ms) -> Self {
        Self { runs, status: ExitStatus::Signal { signal, core: false }, ..Self::serves() }
    }

    pub(crate) fn refused() -> Self {
        Self { fork_refused: true, ..Self::serves() }
    }

    pub(crate) fn cannot_execute(failure: ExecFailure) -> Self {
        Self { exec: Exec::Fails(failure), ..Self::serves() }
    }

    pub(crate) fn on_stop(self, on_stop: OnStop) -> Self {
        Self { on_stop, ..self }
    }

    pub(crate) fn saying(mut self, after: Ms, notice: Notice) -> Self {
        self.says.push((after, notice));
        self
    }

    pub(crate) fn notifies(self, after: Ms) -> Self {
        self.saying(after, Notice::Ready)
    }

    pub(crate) fn listens(self, after: Ms) -> Self {
        Self { listens: after, ..self }
    }

    pub(crate) fn quiet_after(self, takes: Ms) -> Self {
        Self { quiet_takes: takes, ..self }
    }

    pub(crate) fn on_part(self, on_part: OnPart) -> Self {
        Self { on_part, ..self }
    }

    /// From `from` on it leaves connections waiting; it goes on at `until`.
    pub(crate) fn hangs(mut self, from: Ms, until: Ms) -> Self {
        self.waits.extend([(from, true), (until, false)]);
        self
    }

    /// So many bytes, all the time.
    pub(crate) fn uses(self, bytes: u64) -> Self {
        Self { appetite: Appetite { begins: bytes, most: bytes, ..self.appetite }, ..self }
    }

    /// It leaks so many bytes per millisecond, without end.
    pub(crate) fn leaks(self, grows: u64) -> Self {
        Self { appetite: Appetite { grows, most: u64::MAX, ..self.appetite }, ..self }
    }

    /// So much of its memory is counted twice in an estimate.
    pub(crate) fn counted_twice(self, twice: u64) -> Self {
        Self { appetite: Appetite { twice, ..self.appetite }, ..self }
    }

    /// Leaves this behind when its leader goes.
    pub(crate) fn leaving(self, rest: Rest) -> Self {
        Self { rest, ..self }
    }
}
