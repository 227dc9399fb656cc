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
        sharing: Ok(Works { needs_no_new_privs: false }),
        privileged_file: None,
        script: None,
        round_robin: false,
        subgroups: Err("cgroups are read-only here".to_owned()),
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
        inputs: plan.policy.inputs.clone(),
        sees_listening: true,
        quiet: true,
        seed: 7,
        ..Policy::default()
    };
    assert_eq!(plan.policy, expected);
    let expected = Facts {
        cpu_limit: Some(2.5),
        cpu_source: Some("/sys/fs/cgroup/cpu.max".to_owned()),
        memory_limit_bytes: Some(1 << 30),
        memory_source: Some("/sys/fs/cgroup/memory.max".to_owned()),
        memory_enforced_by: "sampling",
        worker_cap_bytes: Some((1024 - 36) * (1 << 20) / 3),
        share_mechanism: "seccomp",
        balance: Some("spread"),
        share_disconnects: true,
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
    let actual = Plan::new(&config, &outside, 1).policy;
    let expected = Policy {
        workers: 2,
        slot_zero_first: false,
        end_with_first: false,
        most_workers: 12,
        memory_allows: Some(7),
        inputs: actual.inputs.clone(),
        memory_soft: Some(0.9),
        kernel_caps: false,
        restart: Restart::OnFailure,
        backoff: config.backoff,
        ready: ReadyMode::Notify,
        sees_listening: true,
        quiet: true,
        hang_timeout: None,
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
    assert_eq!(actual, expected);
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
fn listen_follows_balance_and_is_ready_when_it_runs() {
    let plan = plan(&[("CLUSTERINIT_LISTEN", "8080,unix:/run/app.sock"), ("CLUSTERINIT_READY", "listen")]);
    assert_eq!((plan.facts.share_mechanism, plan.facts.balance, plan.facts.share_reason), ("listen-fds", Some("spread"), None));
    assert_eq!((plan.policy.ready, plan.policy.sees_listening), (ReadyMode::Listen, false));
}

/// Mechanism, workers, and what the start says.
fn shared(given: &[(&str, &str)], machine: &Machine) -> (&'static str, u32, Vec<String>) {
    let plan = Plan::new(&config(given), machine, 0);
    assert_eq!(plan.facts.share_reason.is_some(), plan.facts.share_mechanism == "none", "{given:?}");
    (plan.facts.share_mechanism, plan.policy.workers, plan.lines[1..].to_vec())
}

#[test]
fn where_ports_cannot_be_shared_auto_runs_one_worker_and_says_why() {
    let refused = Machine { sharing: Err(Refusal("the profile refuses seccomp".to_owned())), ..machine() };
    let (mechanism, workers, lines) = shared(&[], &refused);
    assert_eq!((mechanism, workers), ("none", 1));
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["the profile refuses seccomp", "1 worker in place of 3", "CLUSTERINIT_LISTEN", "CLUSTERINIT_WORKERS=N"] {
        assert!(lines[0].contains(part), "{lines:?}");
    }
    let (mechanism, workers, lines) = shared(&[("CLUSTERINIT_WORKERS", "2")], &refused);
    assert_eq!((mechanism, workers, lines.len()), ("none", 2, 1));
    assert_eq!(shared(&[("CLUSTERINIT_LISTEN", "8080")], &refused), ("listen-fds", 3, Vec::new()));
    assert_eq!(shared(&[("CLUSTERINIT_SHARE", "off")], &machine()), ("none", 3, Vec::new()));
}

#[test]
fn privileges_that_would_be_lost_are_kept_and_the_loss_is_said() {
    let costs = Machine { sharing: Ok(Works { needs_no_new_privs: true }), ..machine() };
    let (mechanism, _, lines) = shared(&[], &costs);
    assert!(mechanism == "seccomp" && lines[0].contains("no_new_privs"), "{lines:?}");
    let privileged = Machine { privileged_file: Some("/bin/ping is setuid".to_owned()), ..costs };
    let (mechanism, workers, lines) = shared(&[], &privileged);
    assert!(mechanism == "none" && workers == 1 && lines[0].contains("/bin/ping is setuid"), "{lines:?}");
    assert_eq!(shared(&[("CLUSTERINIT_SHARE", "on")], &privileged).0, "seccomp", "the user says so");
    let free = Machine { sharing: Ok(Works { needs_no_new_privs: false }), ..privileged };
    assert_eq!(shared(&[], &free).0, "seccomp", "nothing is lost");
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
fn the_best_that_can_enforce_a_cap_does_and_off_is_off() {
    let unlimited = || Machine { limits: Limits::default(), ..machine() };
    let writable = |machine| Machine { subgroups: Ok(()), ..machine };
    let cases = [
        // WORKER_MEMORY, machine: enforced by, cap in MiB
        ("auto", writable(machine()), "cgroup", Some(329)),
        ("auto", machine(), "sampling", Some(329)),
        ("auto", writable(unlimited()), "off", None),
        ("256Mi", writable(machine()), "cgroup", Some(256)),
        ("256Mi", machine(), "sampling", Some(256)),
        ("256Mi", unlimited(), "sampling", Some(256)),
        ("off", writable(machine()), "off", None),
    ];
    for (setting, machine, by, cap) in cases {
        let plan = Plan::new(&config(&[("CLUSTERINIT_WORKER_MEMORY", setting)]), &machine, 0);
        let actual = (plan.facts.memory_enforced_by, plan.facts.worker_cap_bytes.map(|bytes| bytes >> 20));
        assert_eq!(actual, (by, cap), "{setting}");
        assert_eq!(
            (plan.policy.kernel_caps, plan.sizing.share.memory),
            (by == "cgroup", plan.facts.worker_cap_bytes),
            "{setting}"
        );
    }
}

#[test]
fn a_start_says_which_numbers_do_not_fit() {
    let plan = plan(&[("CLUSTERINIT_WORKERS", "8"), ("CLUSTERINIT_WORKER_MEMORY", "256Mi")]);
    assert_eq!(plan.lines.len(), 2, "{:?}", plan.lines);
    assert!(plan.lines[1].contains("more than the limit of 1Gi"), "{:?}", plan.lines);
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
    let machine = Machine::look(vec!["x".into()], Share::Auto, None);
    assert!(machine.affinity >= 1 && !machine.is_pid1);
    assert_eq!(machine.limits, cgroup::read(Path::new("/")));
    assert_eq!(machine.subgroups, Err("clusterinit is not PID 1 here".to_owned()));
}
