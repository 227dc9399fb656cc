//! What the supervisor publishes: identities, states and instants, never ages and never measured figures.
//!
//! The side port reads this and nothing else of the supervisor; it computes ages from the clock and measures memory, processes
//! and CPU time by itself, when asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::journal::Journal;
pub use super::tally::{Restarts, Tally};
use super::words::{ExitStatus, Life, Pid, Signal, Slot, Time};

/// One consistent picture of the cluster, as of the last event.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub facts: Arc<Facts>,
    pub state: State,
    pub generation: u32,
    /// The worker count that is aimed at.
    pub wanted: u32,
    /// Workers that are ready now.
    pub ready: u32,
    /// `None` when `/readyz` is to answer 200, else why it does not.
    pub unready: Option<String>,
    /// `/healthz` fails from this instant on, unless something changes: no worker is ready, or every ready one leaves connections
    /// waiting. `None` while all is well and during a stop.
    pub unhealthy_from: Option<Time>,
    pub orphans_reaped: u64,
    pub tally: Tally,
    /// How often each signal arrived. As the runtime sees it: no decision depends on it.
    pub signals: BTreeMap<Signal, u64>,
    pub reload: Reload,
    /// What the workers listen on, as far as it is known.
    pub shared: Arc<Shared>,
    /// Workers' channels, where Node's protocol is spoken. As the runtime sees it: no decision depends on it.
    pub channels: BTreeMap<Life, Channel>,
    /// One row per worker and one per slot without a worker, by slot; a predecessor comes before its successor.
    pub rows: Vec<Row>,
    /// What happened last.
    pub events: Journal,
}

/// What does not change with every event: where the numbers come from and what is in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub cpu_limit: Option<f64>,
    /// The file that `cpu_limit` was read from.
    pub cpu_source: Option<String>,
    pub memory_limit_bytes: Option<u64>,
    pub memory_source: Option<String>,
    /// `cgroup`, `sampling` or `off`.
    pub memory_enforced_by: &'static str,
    /// What a worker that is started now may use.
    pub worker_cap_bytes: Option<u64>,
    /// `seccomp`, `node`, `listen-fds` or `none`.
    pub share_mechanism: &'static str,
    /// `spread`, `queue` or `sticky`: what is in force; `None` where nothing is shared.
    pub balance: Option<&'static str>,
    /// A worker can be taken out of rotation and go on with the connections that it has.
    pub share_disconnects: bool,
    /// Node's cluster protocol is spoken with workers.
    pub speaks_node: bool,
    /// Why nothing is shared, where nothing is.
    pub share_reason: Option<String>,
    /// Settings that were made and are not in force, each with its reason.
    pub not_in_force: Vec<String>,
}

/// What the workers listen on. The runtime sees it happen and publishes it; no decision depends on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shared {
    pub listeners: Vec<Listener>,
    /// Of each worker whose listeners are known: inode and port of each.
    pub by_life: BTreeMap<Life, Vec<(u64, u16)>>,
}

/// One worker's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    pub state: ChannelState,
    /// How long the last answered heartbeat took.
    pub lag: Option<Duration>,
    /// Since when one is unanswered.
    pub unanswered: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelState {
    /// Nothing was heard yet: it may be no Node at all.
    Open,
    Online,
    Listening,
    Disconnected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: String,
    /// `PORT_PER_WORKER`: the only worker that has it.
    pub worker: Option<Slot>,
    /// A worker can be taken out of it and go on with the connections that it has.
    pub disconnects: bool,
}

/// Where the cluster as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not enough workers have been ready yet.
    Starting,
    Running,
    /// A stop was asked for; `DRAIN_DELAY` runs and the workers still serve.
    Draining,
    Stopping,
}

/// How the last rolling restart went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    pub state: ReloadState,
    /// Why it was aborted.
    pub reason: Option<String>,
    /// When it entered this state.
    pub at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadState {
    None,
    Running,
    Done,
    Aborted,
}

/// One worker, or one slot without a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub slot: Slot,
    /// `None` for a slot without a worker.
    pub life: Option<Life>,
    /// The leader's pid; `None` for a slot without a worker.
    pub pid: Option<Pid>,
    pub state: RowState,
    pub generation: u32,
    pub started: Option<Time>,
    /// Replacements in this slot after exit, crash, memory, hung and start-timeout.
    pub restarts: u32,
    /// All replacements in this slot, also those that were asked for.
    pub restarts_by: Restarts,
    /// From the fork to being ready, of the worker of this slot that got so far last.
    pub last_start: Option<Duration>,
    /// What its tree may use, given to it at its start; for a slot without a worker what the next one gets.
    pub memory_cap_bytes: Option<u64>,
    /// When the next start is due, for a slot in backoff.
    pub next_start: Option<Time>,
    pub last_exit: Option<LastExit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowState {
    Starting,
    Ready,
    /// Out of rotation: it missed its watchdog, or has left connections waiting too long; it may become ready again.
    Hung,
    /// New connections reach others; the stop signal waits for an instant at which none of its requests is in flight.
    Disconnecting,
    /// The stop signal has been sent, or the worker said `STOPPING=1`.
    Stopping,
    /// SIGKILL has been sent to the whole tree.
    Killed,
    /// No worker; one will be started at a known time, or as soon as slot 0 is ready.
    Backoff,
    /// No worker, and none will be started.
    Stopped,
}

/// How the worker before the present one in this slot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastExit {
    pub status: ExitStatus,
    pub reason: Reason,
    pub at: Time,
}

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// By itself, with 0.
    Exit,
    /// By itself, in any other way.
    Crash,
    /// It reached its cap, or its share while the container was short; or the kernel's OOM killer ended it.
    Memory,
    /// It missed its watchdog, or left connections waiting.
    Hung,
    /// It had to listen or to notify within `START_TIMEOUT` and did not.
    StartTimeout,
    /// A rolling restart, or `clusterinit restart SLOT`, replaced it.
    Reload,
    /// It was older than `MAX_LIFETIME`.
    Lifetime,
    /// There are fewer slots than before.
    Scale,
    /// The cluster stops.
    Stop,
}

impl Reason {
    /// As it is written everywhere: in JSON, in log lines, in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Crash => "crash",
            Self::Memory => "memory",
            Self::Hung => "hung",
            Self::StartTimeout => "start-timeout",
            Self::Reload => "reload",
            Self::Lifetime => "lifetime",
            Self::Scale => "scale",
            Self::Stop => "stop",
        }
    }
}
