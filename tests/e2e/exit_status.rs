//! The exit status: what a worker ended with passes through, and a requested stop ends with 0 when all went well.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Cluster, Mode, Stopwatch, modes};

/// Runs a shell script as one-shot under the defaults and returns its status.
fn status_of(mode: Mode, script: &str) -> i32 {
    let cluster = Cluster::start(mode, &[("HEALTH_ADDR", "off"), ("LOG", "error")], &["sh", "-c", script]);
    cluster.finish().0
}

#[test]
fn every_code_passes_through() {
    for code in 0..=255 {
        assert_eq!(status_of(Mode::Plain, &format!("exit {code}")), code);
    }
}

#[test]
fn codes_pass_through_pid_1_too() {
    for mode in modes() {
        for code in [0, 1, 63, 64, 70, 126, 127, 128, 137, 143, 255] {
            assert_eq!(status_of(mode, &format!("exit {code}")), code, "{mode:?}");
        }
    }
}

#[test]
fn every_deadly_signal_becomes_128_plus_its_number() {
    // CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH end nobody; 32 and 33 belong to the C library, which may leave them ignored.
    let deadly = (1..=64).filter(|number| ![17, 18, 19, 20, 21, 22, 23, 28, 32, 33].contains(number));
    for number in deadly {
        assert_eq!(status_of(Mode::Plain, &format!("ulimit -c 0; kill -{number} $$")), 128 + number, "signal {number}");
    }
}

#[test]
fn deadly_signals_pass_through_pid_1_too() {
    for mode in modes() {
        for number in [1, 2, 3, 6, 9, 11, 13, 15, 34, 64] {
            assert_eq!(status_of(mode, &format!("ulimit -c 0; kill -{number} $$")), 128 + number, "{mode:?}");
        }
    }
}

#[test]
fn a_command_that_cannot_be_executed_is_126_or_127_in_one_line_without_retry() {
    let scratch = tempfile::tempdir().expect("a directory");
    let plain_file = scratch.path().join("plain-file");
    std::fs::write(&plain_file, "not a program\n").expect("written");
    let no_format = scratch.path().join("no-format");
    std::fs::write(&no_format, "not a program\n").expect("written");
    std::fs::set_permissions(&no_format, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let cases = [
        ("no-such-command-here", 127),
        ("/no/such/file", 127),
        (plain_file.to_str().expect("UTF-8"), 126),
        (scratch.path().to_str().expect("UTF-8"), 126),
        (no_format.to_str().expect("UTF-8"), 126),
    ];
    for mode in modes() {
        for workers in ["auto", "3"] {
            for (command, code) in cases {
                let settings = [("WORKERS", workers), ("LOG", "error")];
                let (found, _, err) = Cluster::start(mode, &settings, &[command]).finish();
                assert_eq!(found, code, "{mode:?} {command}\n{err}");
                assert_eq!(err.lines().filter(|line| line.contains(command)).count(), 1, "{command}\n{err}");
            }
        }
    }
}

#[test]
fn jobs_end_with_the_worst_status() {
    for (settings, script, code) in [
        ([("WORKERS", "3"), ("RESTART", "never")], "exit $((3 + CLUSTERINIT_WORKER_ID))", 5),
        ([("WORKERS", "3"), ("RESTART", "never")], "exit $((9 - 4 * CLUSTERINIT_WORKER_ID))", 9),
        ([("WORKERS", "3"), ("RESTART", "auto")], "exit 0", 0),
        ([("WORKERS", "2"), ("RESTART", "never")], "[ $CLUSTERINIT_WORKER_ID = 0 ] || kill -9 $$; exit 99", 137),
    ] {
        let (found, _, err) = Cluster::start(Mode::Plain, &settings, &["sh", "-c", script]).finish();
        assert_eq!(found, code, "{script}\n{err}");
    }
}

/// A worker that says `up`, and on TERM does what `on_term` says.
fn trapping(on_term: &str) -> String {
    format!("trap '{on_term}' TERM; echo up; while :; do sleep 0.05; done")
}

#[test]
fn a_requested_stop_is_0_when_every_worker_ended_well() {
    for mode in modes() {
        // By the very signal, with 0, with 128 + its number (as java does).
        for on_term in ["trap - TERM; kill -TERM $$", "exit 0", "exit 143"] {
            let cluster = Cluster::start(mode, &[("WORKERS", "2")], &["sh", "-c", &trapping(on_term)]);
            cluster.until("both are up", |cluster| cluster.out().matches("up").count() == 2);
            let (code, _, err) = cluster.stop();
            assert_eq!(code, 0, "{mode:?} {on_term}\n{err}");
        }
    }
}

#[test]
fn a_requested_stop_gives_the_first_other_status() {
    for mode in modes() {
        let script = trapping("exit $((3 * CLUSTERINIT_WORKER_ID))");
        let cluster = Cluster::start(mode, &[("WORKERS", "2")], &["sh", "-c", &script]);
        cluster.until("both are up", |cluster| cluster.out().matches("up").count() == 2);
        let (code, _, err) = cluster.stop();
        assert_eq!(code, 3, "{mode:?}\n{err}");
    }
}

#[test]
fn a_requested_stop_is_137_when_a_worker_had_to_be_killed() {
    for mode in modes() {
        let settings = [("WORKERS", "2"), ("GRACE", "300ms")];
        let script = trapping("[ $CLUSTERINIT_WORKER_ID = 0 ] && exit 0");
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", &script]);
        cluster.until("both are up", |cluster| cluster.out().matches("up").count() == 2);
        let (code, _, err) = cluster.stop();
        assert_eq!(code, 137, "{mode:?}\n{err}");
    }
}

#[test]
fn a_second_interrupt_after_half_a_second_means_now() {
    for mode in modes() {
        for (first, second) in [(Signal::SIGINT, Signal::SIGINT), (Signal::SIGQUIT, Signal::SIGINT)] {
            let settings = [("WORKERS", "2"), ("GRACE", "10m")];
            let cluster = Cluster::start(mode, &settings, &["sh", "-c", &trapping("echo term")]);
            cluster.until("both are up", |cluster| cluster.out().matches("up").count() == 2);
            cluster.signal(first);
            cluster.until("both are told", |cluster| cluster.out().matches("term").count() == 2);
            // From here on the first one has certainly been seen.
            let clock = Stopwatch::start();
            clock.reaches(Duration::from_millis(600));
            cluster.signal(second);
            assert_eq!(cluster.finish().0, 137, "{mode:?} {first} {second}");
        }
    }
}

#[test]
fn a_second_interrupt_at_once_changes_nothing() {
    let script = trapping("echo term; sleep 1; exit 0");
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "1"), ("GRACE", "10m")], &["sh", "-c", &script]);
    cluster.until_out("up");
    let clock = Stopwatch::start();
    cluster.signal(Signal::SIGINT);
    cluster.signal(Signal::SIGINT);
    // On a machine that stood still for half a second the second one was a request of its own.
    let in_time = clock.elapsed() < Duration::from_millis(400);
    let code = cluster.finish().0;
    assert!(code == 0 || !in_time, "{code}");
}

#[test]
fn a_second_term_changes_nothing() {
    for mode in modes() {
        for number in [15, 37] {
            let script = trapping("echo term; sleep 1; exit 0");
            let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("GRACE", "10m")], &["sh", "-c", &script]);
            cluster.until_out("up");
            cluster.signal(Signal::SIGTERM);
            cluster.until_out("term");
            cluster.signal_number(number);
            let (code, out, err) = cluster.finish();
            assert_eq!((code, out.matches("term").count()), (0, 1), "{mode:?} {number}\n{err}");
        }
    }
}
