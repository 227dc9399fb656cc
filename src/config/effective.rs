//! What `auto` comes to, and which settings ask for more than this version does.

use std::time::Duration;

use super::{Balance, Config, Ready, Share, SharePorts, StopWhen, WorkerMemory};
use crate::cluster::policy::DrainDelay;

/// Docker kills after 10 s.
const GRACE: Duration = Duration::from_secs(8);
/// Kubernetes kills after 30 s, unless `terminationGracePeriodSeconds` says otherwise.
const GRACE_IN_KUBERNETES: Duration = Duration::from_secs(25);
/// How long load balancers go on sending after readiness has failed.
const DRAIN_DELAY_IN_KUBERNETES: Duration = Duration::from_secs(5);
const LEAST_GRACE: Duration = Duration::from_secs(1);

impl Config {
    /// From a stop request to the stop signal.
    pub fn drain_delay(&self) -> DrainDelay {
        match self.drain_delay {
            Some(explicit) => DrainDelay::Always(explicit),
            None if self.kubernetes => DrainDelay::WhereListening(DRAIN_DELAY_IN_KUBERNETES),
            None => DrainDelay::Always(Duration::ZERO),
        }
    }

    /// From the stop signal to SIGKILL: so long that the platform's own deadline is not reached.
    pub fn grace(&self) -> Duration {
        let (DrainDelay::Always(drain_delay) | DrainDelay::WhereListening(drain_delay)) = self.drain_delay();
        match self.grace {
            Some(explicit) => explicit,
            None if self.kubernetes => GRACE_IN_KUBERNETES.saturating_sub(drain_delay).max(LEAST_GRACE),
            None => GRACE,
        }
    }
}

/// One line, `NAME=value: reason`, for each setting that the caller made and that is not acted on: this version does not do it, or
/// it needs port sharing, which is not to be had here (`shares`, by whatever mechanism), or Node's protocol (`node`).
pub fn not_in_force(config: &Config, shares: bool, node: bool) -> Vec<String> {
    const NO_SHARING: &str = "ports that the server opens by itself are not shared here";
    let listens = !config.listen.is_empty();
    let unshared = !shares && config.share != Share::Off;
    let asks = [
        ("SHARE_PORTS", config.share_ports != SharePorts::All && !shares, NO_SHARING),
        ("PORT_PER_WORKER", !config.port_per_worker.is_empty() && !shares, NO_SHARING),
        ("BALANCE", !listens && unshared, NO_SHARING),
        (
            "BALANCE",
            config.balance == Balance::Rr && shares && !node,
            "it is for workers that speak Node's protocol; spread is used",
        ),
        // With `auto` it still says whether a worker above its share is replaced before it would have to be killed.
        (
            "MEMORY_SOFT",
            config.memory_soft.is_some() && config.worker_memory == WorkerMemory::Off,
            "WORKER_MEMORY=off has no cap",
        ),
        (
            "HANG_TIMEOUT",
            config.hang_timeout.is_some() && (config.balance == Balance::Queue || !(shares || listens)),
            "only a worker that has an accept queue of its own can be seen to leave it waiting; WATCHDOG_USEC is watched",
        ),
        (
            "STOP_WHEN",
            config.stop_when == StopWhen::Quiet && !shares && !listens,
            "listeners that the server opens by itself are not known here, so the stop signal is sent at once",
        ),
        ("READY", config.ready == Ready::Listen && !listens && !shares, "listening cannot be seen here; running is used instead"),
    ];
    let unmet = asks.into_iter().filter(|(_, asks, _)| *asks);
    unmet.filter_map(|(name, _, why)| Some(format!("{name}={}: {why}", config.given.get(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Config {
        Config::from_env(vars.iter().map(|(name, value)| (name.into(), value.into()))).unwrap()
    }

    #[test]
    fn the_grace_ends_before_the_platform_loses_patience() {
        let seconds = Duration::from_secs;
        let kubernetes = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        let table = [
            (vec![], DrainDelay::Always(seconds(0)), seconds(8)),
            (vec![("CLUSTERINIT_DRAIN_DELAY", "3s")], DrainDelay::Always(seconds(3)), seconds(8)),
            (vec![kubernetes], DrainDelay::WhereListening(seconds(5)), seconds(20)),
            (vec![kubernetes, ("CLUSTERINIT_DRAIN_DELAY", "0s")], DrainDelay::Always(seconds(0)), seconds(25)),
            (vec![kubernetes, ("CLUSTERINIT_DRAIN_DELAY", "10s")], DrainDelay::Always(seconds(10)), seconds(15)),
            (vec![kubernetes, ("CLUSTERINIT_DRAIN_DELAY", "1m")], DrainDelay::Always(seconds(60)), seconds(1)),
            (vec![kubernetes, ("CLUSTERINIT_GRACE", "0s")], DrainDelay::WhereListening(seconds(5)), seconds(0)),
        ];
        for (vars, drain_delay, grace) in table {
            let config = config(&vars);
            assert_eq!((config.drain_delay(), config.grace()), (drain_delay, grace), "{vars:?}");
        }
    }

    #[test]
    fn defaults_are_never_reported() {
        for shares in [true, false] {
            assert_eq!(not_in_force(&config(&[]), shares, false), Vec::<String>::new());
            let given = [("CLUSTERINIT_LISTEN", "8080"), ("CLUSTERINIT_GRACE", "1s")];
            assert_eq!(not_in_force(&config(&given), shares, false), Vec::<String>::new());
        }
    }

    #[test]
    fn what_was_asked_for_and_is_not_done_is_reported() {
        let asked = [
            ("SHARE_PORTS", "8080"),
            ("PORT_PER_WORKER", "9100"),
            ("BALANCE", "queue"),
            ("HANG_TIMEOUT", "5s"),
            ("STOP_WHEN", "quiet"),
            ("READY", "listen"),
        ];
        for (name, value) in asked {
            let lines = not_in_force(&config(&[(&format!("CLUSTERINIT_{name}"), value)]), false, false);
            assert_eq!(lines.len(), 1, "{name}: {lines:?}");
            assert!(lines[0].starts_with(&format!("{name}={value}: ")), "{lines:?}");
        }
    }

    #[test]
    fn a_soft_limit_needs_a_cap() {
        let off = ("CLUSTERINIT_WORKER_MEMORY", "off");
        let lines = not_in_force(&config(&[off, ("CLUSTERINIT_MEMORY_SOFT", "80%")]), true, false);
        assert_eq!(lines, ["MEMORY_SOFT=80%: WORKER_MEMORY=off has no cap"]);
        assert_eq!(not_in_force(&config(&[off, ("CLUSTERINIT_MEMORY_SOFT", "off")]), true, false), Vec::<String>::new());
    }

    #[test]
    fn what_is_done_is_not_reported() {
        let done = [
            ("SHARE", "off"),
            ("PORT_PER_WORKER", "none"),
            ("NODE_IPC", "auto"),
            ("WORKER_MEMORY", "auto"),
            ("WORKER_MEMORY", "1G"),
            ("WORKER_MEMORY", "off"),
            ("MEMORY_SOFT", "off"),
            ("MEMORY_SOFT", "80%"),
            ("HANG_TIMEOUT", "off"),
            ("STOP_WHEN", "now"),
            ("RUNTIME_HINTS", "off"),
            ("RUNTIME_HINTS", "on"),
            ("OUTPUT", "inherit"),
            ("OUTPUT", "prefix"),
            ("READY", "running"),
            ("BALANCE", "queue"),
            ("BALANCE", "spread"),
            ("READY", "listen"),
            ("STOP_WHEN", "quiet"),
            ("MAX_LIFETIME", "1h"),
        ];
        for (name, value) in done {
            let (name, listen) = (&format!("CLUSTERINIT_{name}"), ("CLUSTERINIT_LISTEN", "8080"));
            assert_eq!(not_in_force(&config(&[(name, value), listen]), false, false), Vec::<String>::new());
            assert_eq!(not_in_force(&config(&[(name, value)]), true, false), Vec::<String>::new());
        }
        let in_one_queue = [("CLUSTERINIT_BALANCE", "queue"), ("CLUSTERINIT_HANG_TIMEOUT", "5s")];
        assert_eq!(not_in_force(&config(&in_one_queue), true, false).len(), 1);
        let in_turn = config(&[("CLUSTERINIT_BALANCE", "rr")]);
        assert_eq!((not_in_force(&in_turn, true, false).len(), not_in_force(&in_turn, true, true).len()), (1, 0));
    }
}
