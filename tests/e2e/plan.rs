//! `clusterinit plan`: what would be done here, and why, without doing it.

use crate::support::{Launch, Mode, modes};

/// Every variable of the contract.
const VARIABLES: &str = "WORKERS WORKERS_PER_CPU CPU_ROUNDING WORKER_MEMORY WORKER_MEMORY_MIN MEMORY_RESERVE MEMORY_SOFT RUNTIME_HINTS
    STOP_SIGNAL DRAIN_DELAY GRACE STOP_WHEN RESTART RESTART_BACKOFF START_TIMEOUT MIN_READY UNHEALTHY_AFTER READY SHARE SHARE_PORTS
    PORT_PER_WORKER BALANCE LISTEN NODE_IPC HANG_TIMEOUT MAX_LIFETIME SIGNALS HEALTH_ADDR OUTPUT LOG LOG_FORMAT USER TERMINATION_LOG";

fn plan(settings: &[(&str, &str)], wrap: &[&str], words: &[&str]) -> (i32, String, String) {
    let launch = Launch::arguments(Mode::Plain, &[&["plan"], words].concat()).wrap(wrap);
    settings.iter().fold(launch, |launch, (name, value)| launch.set(name, value)).start().finish()
}

#[test]
fn every_setting_in_force_is_shown() {
    let scratch = tempfile::tempdir().expect("a directory");
    let trace = scratch.path().join("trace");
    for words in [&[][..], &["--", "touch", trace.to_str().expect("UTF-8")]] {
        let (code, out, err) = plan(&[("GRACE", "11s"), ("STOP_SIGNAL", "QUIT")], &[], words);
        assert_eq!(code, 0, "{err}");
        for name in VARIABLES.split_ascii_whitespace() {
            assert!(out.contains(name), "{name} is missing in\n{out}");
        }
        assert!(out.lines().any(|line| line.contains("GRACE") && line.contains("11s")), "{out}");
        assert!(out.lines().any(|line| line.contains("STOP_SIGNAL") && line.contains("QUIT")), "{out}");
        assert!(!trace.exists(), "nothing is started");
    }
}

#[test]
fn mistakes_are_those_of_a_start() {
    let (code, _, err) = plan(&[("GRACE", "11"), ("WORKER", "2")], &[], &["--", "true"]);
    assert_eq!(code, 64);
    assert!(err.contains("CLUSTERINIT_GRACE") && err.contains("CLUSTERINIT_WORKERS"), "{err}");
}

#[test]
fn the_affinity_mask_bounds_the_count() {
    let own = i32::try_from(std::process::id()).expect("pids fit");
    let line = crate::support::status_lines(own, &["Cpus_allowed_list"]).pop().expect("the kernel tells");
    let first = line.split([':', ',', '-']).nth(1).unwrap_or_default().trim().to_owned();
    let (code, out, err) = plan(&[("WORKERS_PER_CPU", "8")], &["taskset", "-c", &first], &["--", "true"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().any(|line| line.to_lowercase().contains("workers") && line.contains('1')), "{out}");
}

#[test]
fn an_explicit_count_is_shown_as_such() {
    let (code, out, err) = plan(&[("WORKERS", "37")], &[], &["--", "true"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("37"), "{out}");
}

#[test]
fn runtimes_that_use_all_cpus_get_one_worker_and_are_named() {
    for runtime in ["java", "dotnet", "beam.smp"] {
        let (code, out, err) = plan(&[], &[], &["--", runtime, "-version"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains(runtime.trim_end_matches(".smp")), "{out}");
    }
}

#[test]
fn a_plan_takes_no_port_and_works_beside_a_running_clusterinit() {
    for mode in modes() {
        let launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running");
        let cluster = launch.start();
        cluster.ready(1);
        let output = cluster.cli(&["plan", "--", "sleep", "1000"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(cluster.stop().0, 0);
    }
}
