//! The environment, parsed: a [`Config`] that exists is a configuration that works.
//!
//! ```text
//! environment -> environment.rs (which names are ours)  -> raw.rs (envy: a flat RawConfig of texts)
//!             -> read.rs (texts -> Config) -> all Mistakes at once, or a Config
//! ```
//! [`VARIABLES`] is the one table of names and defaults. The leaves (`number`, `duration`, `size`, `words`, `ports`, `listen`,
//! `signals`, `user`, `log`) each parse one kind of value, and say what is allowed when they refuse it. `effective` says what
//! `auto` comes to.

mod duration;
mod effective;
mod environment;
mod listen;
mod log;
mod mistakes;
mod number;
mod ports;
mod raw;
mod read;
mod signals;
mod size;
mod user;
mod variables;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::policy::{Backoff, Restart};
pub use crate::cluster::sizing::{Rounding, Workers};
use crate::cluster::words::Signal;

pub use duration::show as show_duration;
pub use effective::not_in_force;
pub use mistakes::Mistakes;
pub use number::MOST_WORKERS;
pub use variables::{PREFIX, VARIABLES, Variable};

/// Every `CLUSTERINIT_` variable, as it is in force. `None` means `auto` where the field's comment does not say otherwise.
#[derive(Clone, Debug, PartialEq)]
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
    /// `LOG`: a level, `off`, or directives that `tracing_subscriber::filter::Targets` parses.
    pub log: String,
    pub log_format: LogFormat,
    pub user: Option<User>,
    pub termination_log: PathBuf,
    /// `KUBERNETES_SERVICE_HOST` is set.
    pub kubernetes: bool,
    /// The `CLUSTERINIT_` variables that the caller set, without the prefix, with their values: what `plan` shows as "set" and
    /// what may have to be reported as not in force.
    pub given: BTreeMap<String, String>,
    /// Unknown names under `STRICT=off`, and a `WEB_CONCURRENCY` that could not be used: one line each.
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
    /// Node only: we accept, and hand connections over in turn.
    Rr,
}

/// Whether Node's cluster protocol is spoken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIpc {
    /// `None`: `auto`.
    pub speaks: Option<bool>,
    /// Workers run a few lines of ours before their program.
    pub preload: bool,
    /// Workers get the message `shutdown` before they are asked to disconnect, as PM2 has it.
    pub shutdown_message: bool,
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
    /// Without `name=`: `unknown`, as systemd has it. Printable ASCII without `:`.
    pub name: String,
    pub address: ListenAddress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A bare port is `[::]:port`, dual stack. Port 0: the kernel picks one.
    Tcp(SocketAddr),
    /// An absolute path, or `@name` in the abstract namespace; fits into `sun_path`.
    Unix(PathBuf),
}

/// As `LISTEN` takes it, and as `/workers` and `plan` show it.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
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

impl Default for Config {
    /// What an empty environment means; `VARIABLES` says the same in text, and a test compares the two.
    fn default() -> Self {
        Self {
            workers: Workers::Auto,
            workers_per_cpu: 1.0,
            cpu_rounding: Rounding::Ceil,
            worker_memory: WorkerMemory::Auto,
            worker_memory_min: 128 << 20,
            memory_reserve: None,
            memory_soft: Some(0.9),
            runtime_hints: true,
            stop_signal: Signal::TERM,
            drain_delay: None,
            grace: None,
            stop_when: StopWhen::Quiet,
            restart: Restart::Auto,
            backoff: Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(30) },
            start_timeout: Duration::from_secs(60),
            min_ready: 1,
            unhealthy_after: Duration::from_secs(120),
            ready: Ready::Auto,
            share: Share::Auto,
            share_ports: SharePorts::All,
            port_per_worker: Vec::new(),
            balance: Balance::Spread,
            listen: Vec::new(),
            node_ipc: NodeIpc { speaks: None, preload: true, shutdown_message: false },
            hang_timeout: None,
            max_lifetime: None,
            signals: signals::defaults(),
            health_addr: Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9180))),
            output: Output::Inherit,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            user: None,
            termination_log: PathBuf::from("/dev/termination-log"),
            kubernetes: false,
            given: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}
