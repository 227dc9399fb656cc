//! The numbers and choices that the core decides by. `config` makes one; tests write them by hand.

use std::time::Duration;

use super::sizing::Inputs;
use super::words::Signal;

/// Every field is in force as it stands here: nothing is `auto` any more but what only events can tell.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings")]
pub struct Policy {
    /// Workers to start with, at least 1.
    pub workers: u32,
    /// Slot 0 starts alone and the others follow when it is ready (`WORKERS=auto` without `LISTEN` or `READY=running`).
    pub slot_zero_first: bool,
    /// A first worker that ends before the others were started ends the cluster (`WORKERS` and `RESTART` both `auto`).
    pub end_with_first: bool,
    /// The most workers that scaling up may ask for.
    pub most_workers: u32,
    /// How many workers memory allows; `None` where there is no limit.
    pub memory_allows: Option<u32>,
    /// What count and shares are worked out from, again whenever the limits change.
    pub inputs: Inputs,
    /// `MEMORY_SOFT`: the share of its cap at which a worker is replaced gracefully.
    pub memory_soft: Option<f64>,
    /// The kernel holds each worker to its cap: it is measured only for `memory_soft`.
    pub kernel_caps: bool,
    pub restart: Restart,
    pub backoff: Backoff,
    pub ready: ReadyMode,
    /// Ports are shared by seccomp: a worker's `listen` is seen.
    pub sees_listening: bool,
    /// The stop signal waits for an instant at which no request of the worker is in flight (`STOP_WHEN=quiet`), up to half the grace.
    pub quiet: bool,
    /// `HANG_TIMEOUT`: a worker that has left connections waiting this long is replaced.
    pub hang_timeout: Option<Duration>,
    pub start_timeout: Duration,
    pub min_ready: u32,
    pub unhealthy_after: Duration,
    pub stop_signal: Signal,
    /// From a stop request to the stop signal.
    pub drain_delay: DrainDelay,
    /// From the stop signal to SIGKILL.
    pub grace: Duration,
    pub max_lifetime: Option<Duration>,
    /// `WATCHDOG_USEC` of the caller's environment: in force for a worker from its first `WATCHDOG=1` on.
    pub watchdog: Option<Duration>,
    /// True as PID 1: what else lives in the PID namespace is ended too.
    pub owns_namespace: bool,
    /// Seed of the jitter.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Replace every end but that of a job (exit 0 of a program that was never ready).
    Auto,
    Always,
    OnFailure,
    Never,
}

/// `RESTART_BACKOFF`: first and longest delay between failing starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

/// What makes a worker ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyMode {
    /// The program shows what it is: as soon as one worker has listened, or has said `READY=1`, that is asked of all later ones.
    /// Where listening cannot be seen: one second of running, or `READY=1`.
    Auto,
    /// A listening TCP socket. Where listening cannot be seen: `Running`.
    Listen,
    /// `READY=1` on `NOTIFY_SOCKET`.
    Notify,
    /// One second of running.
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainDelay {
    Always(Duration),
    /// Only where a worker listens (seen when the stop is asked for).
    WhereListening(Duration),
}

impl Default for Policy {
    /// The defaults of the contract, for one worker outside Kubernetes.
    fn default() -> Self {
        Self {
            workers: 1,
            slot_zero_first: false,
            end_with_first: false,
            most_workers: 4,
            memory_allows: None,
            inputs: Inputs::default(),
            memory_soft: Some(0.9),
            kernel_caps: false,
            restart: Restart::Auto,
            backoff: Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(30) },
            ready: ReadyMode::Auto,
            sees_listening: false,
            quiet: false,
            hang_timeout: None,
            start_timeout: Duration::from_secs(60),
            min_ready: 1,
            unhealthy_after: Duration::from_secs(120),
            stop_signal: Signal::TERM,
            drain_delay: DrainDelay::Always(Duration::ZERO),
            grace: Duration::from_secs(8),
            max_lifetime: None,
            watchdog: None,
            owns_namespace: true,
            seed: 0,
        }
    }
}
