//! The variables as texts, one field each: what `envy` makes of an environment before anything is understood.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::variables::PREFIX;

/// One field per row of [`VARIABLES`](super::VARIABLES), by its lower-case name; a test compares the two.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RawConfig {
    pub(super) workers: Option<String>,
    pub(super) workers_per_cpu: Option<String>,
    pub(super) cpu_rounding: Option<String>,
    pub(super) worker_memory: Option<String>,
    pub(super) worker_memory_min: Option<String>,
    pub(super) memory_reserve: Option<String>,
    pub(super) memory_soft: Option<String>,
    pub(super) runtime_hints: Option<String>,
    pub(super) stop_signal: Option<String>,
    pub(super) drain_delay: Option<String>,
    pub(super) grace: Option<String>,
    pub(super) stop_when: Option<String>,
    pub(super) restart: Option<String>,
    pub(super) restart_backoff: Option<String>,
    pub(super) start_timeout: Option<String>,
    pub(super) min_ready: Option<String>,
    pub(super) unhealthy_after: Option<String>,
    pub(super) ready: Option<String>,
    pub(super) share: Option<String>,
    pub(super) share_ports: Option<String>,
    pub(super) port_per_worker: Option<String>,
    pub(super) balance: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) node_ipc: Option<String>,
    pub(super) hang_timeout: Option<String>,
    pub(super) max_lifetime: Option<String>,
    pub(super) signals: Option<String>,
    pub(super) health_addr: Option<String>,
    pub(super) output: Option<String>,
    pub(super) log: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) user: Option<String>,
    pub(super) termination_log: Option<String>,
    pub(super) strict: Option<String>,
}

impl RawConfig {
    /// From variables whose exact names are known: `envy` lower-cases keys, and `CLUSTERINIT_workers` must not pass for ours.
    pub(super) fn from_known(given: &BTreeMap<String, String>) -> envy::Result<Self> {
        let vars = given.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()));
        envy::prefixed(PREFIX).from_iter(vars)
    }
}
