//! Which setting ends up where, and what the terminal and `LISTEN` change.

use std::path::PathBuf;

use super::*;
use crate::cluster::policy::DrainDelay;
use crate::sys::cgroup::{CpuLimit, MemoryLimit};

fn machine() -> Machine {
    Machine {
        limits: Limits {
            cpu: Some(CpuLimit { cpus: 2.5, source: PathBuf::from("/sys/fs/cgroup/cpu.max") }),
            memory: Some(MemoryLimit { bytes: 1 << 30, source: PathBuf::from("/sys/fs/cgroup/memory.max") }),
        },
        affinity: 8,
        stdin_is_terminal: false,
        is_pid1: true,
        command: vec!["/usr/bin/server".into()],
        watchdog: None,
    }
}

fn config(given: &[(&str, &str)]) -> Config {
    let environment = given.iter().map(|(name, value)| (name.into(), value.into()));
    Config::from_env(environment).expect("a good environment")
}

fn plan(given: &[(&str, &str)]) -> Plan {
    Plan::new(&config(given), &machine(), 7)
}

#[test]
fn the_defaults_follow_the_machine() {
    let plan = plan(&[]);
    let expected = Policy {
        workers: 3,
        slot_zero_first: true,
        end_with_first: true,
        most_workers: 12,
        memory_allows: Some(7),
        seed: 7,
        ..Policy::default()
    };
    assert_eq!(plan.policy, expected);
    let expected = Facts {
        cpu_limit: Some(2.5),
        cpu_source: Some("/sys/fs/cgroup/cpu.max".to_owned()),
        memory_limit_bytes: Some(1 << 30),
        memory_source: Some("/sys/fs/cgroup/memory.max".to_owned()),
        memory_enforced_by: "off",
        share_mechanism: "none",
        share_reason: Some(NO_SHARING.to_owned()),
        ..Facts::default()
    };
    assert_eq!(plan.facts, expected);
    assert_eq!(plan.lines, ["3 workers: CPU limit 2.5 x 1 per CPU = 2.5, ceil: 3"]);
}

#[test]
fn every_setting_of_the_policy_arrives() {
    let given = [
        ("CLUSTERINIT_WORKERS", "2"),
        ("CLUSTERINIT_RESTART", "on-failure"),
        ("CLUSTERINIT_RESTART_BACKOFF", "1s..2s"),
        ("CLUSTERINIT_READY", "notify"),
        ("CLUSTERINIT_START_TIMEOUT", "3s"),
        ("CLUSTERINIT_MIN_READY", "2"),
        ("CLUSTERINIT_UNHEALTHY_AFTER", "4m"),
        ("CLUSTERINIT_STOP_SIGNAL", "INT"),
        ("CLUSTERINIT_DRAIN_DELAY", "6s"),
        ("CLUSTERINIT_GRACE", "7s"),
        ("CLUSTERINIT_MAX_LIFETIME", "8h"),
    ];
    let config = config(&given);
    let seconds = Duration::from_secs;
    let outside = Machine { is_pid1: false, watchdog: Some(seconds(9)), ..machine() };
    let expected = Policy {
        workers: 2,
        slot_zero_first: false,
        end_with_first: false,
        most_workers: 12,
        memory_allows: Some(7),
        restart: Restart::OnFailure,
        backoff: config.backoff,
        ready: ReadyMode::Notify,
        start_timeout: seconds(3),
        min_ready: 2,
        unhealthy_after: seconds(240),
        stop_signal: config.stop_signal,
        drain_delay: DrainDelay::Always(seconds(6)),
        grace: seconds(7),
        max_lifetime: Some(seconds(8 * 3600)),
        watchdog: Some(seconds(9)),
        owns_namespace: false,
        seed: 1,
    };
    assert_eq!(Plan::new(&config, &outside, 1).policy, expected);
}

#[test]
fn scaling_is_bounded_by_four_times_the_larger_count() {
    assert_eq!(plan(&[("CLUSTERINIT_WORKERS", "1")]).policy.most_workers, 12);
    assert_eq!(plan(&[("CLUSTERINIT_WORKERS", "5")]).policy.most_workers, 20);
    assert_eq!(plan(&[("WEB_CONCURRENCY", "4")]).policy.most_workers, 16);
}

#[test]
fn slot_zero_goes_first_unless_the_others_need_not_wait_for_it() {
    let cases = [
        (vec![("CLUSTERINIT_WORKERS", "auto")], true, true),
        (vec![("CLUSTERINIT_READY", "running")], false, true),
        (vec![("CLUSTERINIT_READY", "listen")], true, true),
        (vec![("CLUSTERINIT_LISTEN", "8080")], false, true),
        (vec![("CLUSTERINIT_RESTART", "always")], true, false),
        (vec![("CLUSTERINIT_WORKERS", "3")], false, false),
        (vec![("WEB_CONCURRENCY", "3")], false, false),
    ];
    for (given, slot_zero_first, end_with_first) in cases {
        let policy = plan(&given).policy;
        assert_eq!((policy.slot_zero_first, policy.end_with_first), (slot_zero_first, end_with_first), "{given:?}");
    }
}

#[test]
fn listen_is_shared_as_one_queue() {
    let plan = plan(&[("CLUSTERINIT_LISTEN", "8080,unix:/run/app.sock"), ("CLUSTERINIT_READY", "listen")]);
    assert_eq!((plan.facts.share_mechanism, plan.facts.balance, plan.facts.share_reason), ("listen-fds", Some("queue"), None));
    assert_eq!(plan.facts.listeners, ["[::]:8080", "unix:/run/app.sock"]);
    assert_eq!(plan.policy.ready, ReadyMode::Running);
}

#[test]
fn a_terminal_gets_one_worker_that_is_not_replaced() {
    let at_terminal = |given: &[(&str, &str)]| {
        let plan = Plan::new(&config(given), &Machine { stdin_is_terminal: true, ..machine() }, 0);
        (plan.policy.workers, plan.policy.restart)
    };
    assert_eq!(at_terminal(&[]), (1, Restart::Never));
    assert_eq!(at_terminal(&[("CLUSTERINIT_RESTART", "always")]), (1, Restart::Always));
    assert_eq!(at_terminal(&[("CLUSTERINIT_WORKERS", "2")]), (2, Restart::Auto));
}

#[test]
fn memory_counts_workers_by_their_cap_or_by_the_least() {
    assert_eq!(plan(&[("CLUSTERINIT_WORKER_MEMORY", "256Mi")]).policy.memory_allows, Some(3));
    assert_eq!(plan(&[("CLUSTERINIT_WORKER_MEMORY", "off")]).policy.memory_allows, Some(7));
    assert_eq!(plan(&[("CLUSTERINIT_WORKER_MEMORY_MIN", "480Mi")]).policy.memory_allows, Some(2));
    assert_eq!(plan(&[("CLUSTERINIT_MEMORY_RESERVE", "512Mi")]).policy.memory_allows, Some(4));
}

#[test]
fn a_program_is_known_by_its_base_name() {
    for (command, workers) in [("/opt/jre/bin/java", 1), ("dotnet", 1), ("beam.smp", 1), ("./java-server", 3), ("/", 3), ("", 3)]
    {
        let machine = Machine { command: vec![command.into(), "java".into()], ..machine() };
        assert_eq!(Plan::new(&config(&[]), &machine, 0).policy.workers, workers, "{command}");
    }
    assert_eq!(Plan::new(&config(&[]), &Machine { command: Vec::new(), ..machine() }, 0).policy.workers, 3);
}

#[test]
fn this_machine_can_be_looked_at() {
    let machine = Machine::look(vec!["x".into()]);
    assert!(machine.affinity >= 1 && !machine.is_pid1);
    assert_eq!(machine.limits, cgroup::read(Path::new("/")));
}
