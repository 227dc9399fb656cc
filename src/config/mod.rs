//! The environment, parsed: a [`Config`] that exists is a configuration that works.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::policy::{Backoff, Restart};
pub use crate::cluster::sizing::{Rounding, Workers};
use crate::cluster::words::Signal;

/// Every `CLUSTERINIT_` variable, as it is in force. `None` means `auto` where the field's comment does not say otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    pub workers: Workers,
    pub workers_per_cpu: f64,
    pub cpu_rounding: Rounding,
    pub worker_memory: WorkerMemory,
    /// Bytes.
    pub worker_memory_min: u64,
    /// Bytes; `None`: `auto`.
    pub memory_reserve: Option<u64>,
    /// A fraction of the cap, 0 to 1; `None`: `off`.
    pub memory_soft: Option<f64>,
    pub runtime_hints: bool,
    pub stop_signal: Signal,
    /// `None`: `auto`.
    pub drain_delay: Option<Duration>,
    /// `None`: `auto`.
    pub grace: Option<Duration>,
    pub stop_when: StopWhen,
    pub restart: Restart,
    pub backoff: Backoff,
    pub start_timeout: Duration,
    pub min_ready: u32,
    pub unhealthy_after: Duration,
    pub ready: Ready,
    pub share: Share,
    pub share_ports: SharePorts,
    pub port_per_worker: Vec<u16>,
    pub balance: Balance,
    pub listen: Vec<Listen>,
    pub node_ipc: NodeIpc,
    /// `None`: `off`.
    pub hang_timeout: Option<Duration>,
    /// `None`: `off`.
    pub max_lifetime: Option<Duration>,
    /// What each signal does where `SIGNALS` or the defaults say so; a signal that is absent is forwarded.
    pub signals: BTreeMap<Signal, SignalAction>,
    /// `None`: `off`.
    pub health_addr: Option<SocketAddr>,
    pub output: Output,
    /// `LOG`: a level or a tracing filter, checked.
    pub log: String,
    pub log_format: LogFormat,
    pub user: Option<User>,
    pub termination_log: PathBuf,
    /// `KUBERNETES_SERVICE_HOST` is set.
    pub kubernetes: bool,
    /// The `CLUSTERINIT_` variables that the caller set, without the prefix, with their values: what `plan` shows as "set" and
    /// what may have to be reported as not in force.
    pub given: BTreeMap<String, String>,
    /// Unknown names under `STRICT=off`, one line each.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerMemory {
    Auto,
    /// Bytes.
    Cap(u64),
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWhen {
    Quiet,
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    Auto,
    Listen,
    Notify,
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Auto,
    On,
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharePorts {
    All,
    /// `all,-5701`
    AllBut(Vec<u16>),
    Only(Vec<u16>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    Spread,
    Queue,
    Sticky,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeIpc {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Inherit,
    Prefix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// One address of `LISTEN`, with its name for `LISTEN_FDNAMES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Without `name=`: `unknown`, as systemd has it.
    pub name: String,
    pub address: ListenAddress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A bare port is `[::]:port`, dual stack.
    Tcp(SocketAddr),
    /// `unix:/path`, or `unix:@name` in the abstract namespace.
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalAction {
    Stop,
    Now,
    Reload,
    More,
    Fewer,
    Forward,
    Ignore,
    /// Send this one to the workers instead.
    Send(Signal),
}

/// `USER`, resolved to numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}
