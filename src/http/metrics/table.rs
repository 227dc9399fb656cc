//! Every family of `/metrics` that is ours: name, type, labels, what it says. `docs/metrics.md` is compared with it by a test.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units at the end, `_total` behind counters, `_info` behind constants.
//! What tells workers apart is `worker`, their slot: never a pid, a life or a generation, of which there is no end.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(super) static $id: Family = Family { name: $name, kind: Kind::$kind, labels: &$labels, help: $help };)*
        /// In the order in which they are written.
        pub static FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD: Gauge "clusterinit_build_info" ["version"], "Always 1: the version that runs.";
    START_TIME: Gauge "clusterinit_start_time_seconds" [], "When clusterinit started, in seconds since 1970 UTC.";
    STATE: Gauge "clusterinit_state" ["state"], "1 for the state that the cluster is in: starting, running, draining or stopping.";
    GENERATION: Gauge "clusterinit_generation" [], "Generation of workers that are started now: 1 and one more with each reload.";
    WANTED: Gauge "clusterinit_workers_wanted" [], "Workers that there should be.";
    WORKERS_UP: Gauge "clusterinit_workers_up" [], "Workers that there are; during a rolling restart one more.";
    WORKERS_READY: Gauge "clusterinit_workers_ready" [], "Workers that are ready.";
    RESTARTS: Counter "clusterinit_restarts_total" ["reason"], "Replacements of workers in all slots, by why the one before had to go.";
    RELOADS: Counter "clusterinit_reloads_total" ["outcome"], "Rolling restarts that are over: done or aborted.";
    ORPHANS: Counter "clusterinit_orphans_reaped_total" [], "Processes that were nobody's child any more and were reaped.";
    SIGNALS: Counter "clusterinit_signals_received_total" ["signal"], "Signals that reached clusterinit, but for CHLD and its own.";

    UP: Gauge "clusterinit_worker_up" ["worker"], "1 while the slot has a worker.";
    READY: Gauge "clusterinit_worker_ready" ["worker"], "1 while a worker of the slot is ready.";
    WORKER_START_TIME: Gauge "clusterinit_worker_start_time_seconds" ["worker"],
        "When the slot's newest worker was forked, in seconds since 1970 UTC.";
    START_DURATION: Gauge "clusterinit_worker_last_start_duration_seconds" ["worker"],
        "From fork to ready, of the slot's last worker that got so far.";
    CPU: Counter "clusterinit_worker_cpu_seconds_total" ["worker"],
        "User and system CPU time of the slot's workers and all that they started, as far as it was seen.";
    MEMORY: Gauge "clusterinit_worker_memory_bytes" ["worker"], "Resident memory of the slot's workers and all that they started.";
    MEMORY_CAP: Gauge "clusterinit_worker_memory_cap_bytes" ["worker"], "What the slot's workers may use: their caps, or their shares.";
    PROCESSES: Gauge "clusterinit_worker_processes" ["worker"], "Processes of the slot's workers, without zombies.";
    CONNECTIONS: Gauge "clusterinit_worker_connections" ["worker"], "Connections that the slot's workers have accepted and not closed.";
    ACCEPT_QUEUE: Gauge "clusterinit_worker_accept_queue" ["worker"], "Connections that wait to be accepted by the slot's workers.";
    LAG: Gauge "clusterinit_worker_event_loop_lag_seconds" ["worker"],
        "How long the event loop of a Node worker took to answer, or has not answered yet; the largest of the slot's.";
    WORKER_RESTARTS: Counter "clusterinit_worker_restarts_total" ["worker", "reason"],
        "Replacements in the slot, by why the worker before had to go.";

    CPU_LIMIT: Gauge "clusterinit_container_cpu_limit_cores" [], "CPU quota of the container, in CPUs.";
    PERIODS: Counter "clusterinit_container_cpu_periods_total" [], "Periods of the CPU quota in which the container ran.";
    THROTTLED_PERIODS: Counter "clusterinit_container_cpu_throttled_periods_total" [], "Those in which it was throttled.";
    THROTTLED: Counter "clusterinit_container_cpu_throttled_seconds_total" [],
        "How long the container was throttled, summed over CPUs.";
    MEMORY_LIMIT: Gauge "clusterinit_container_memory_limit_bytes" [], "Memory limit of the container.";
    MEMORY_USED: Gauge "clusterinit_container_memory_used_bytes" [], "Memory of the container that page cache cannot give back.";
    PRESSURE: Counter "clusterinit_container_pressure_seconds_total" ["resource", "kind"],
        "How long some tasks of the container, or all (full), waited for cpu, io or memory (PSI).";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_ours_and_once_and_end_as_their_type_does() {
        let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            assert!(family.name.starts_with("clusterinit_"), "{}", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.help);
        }
    }
}
