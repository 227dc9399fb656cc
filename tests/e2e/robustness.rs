//! What PID 1 has to live with: no stderr, a pipe that nobody reads, no descriptors left.

use std::io::PipeReader;
use std::net::TcpStream;

use nix::sys::signal::Signal;

use crate::support::{Cluster, Launch, Mode, Sink, Stdin, example, modes};

/// Kills the only worker and waits for its successor.
fn survives_a_crash(cluster: &Cluster) {
    let pid = cluster.ready(1)[0];
    cluster.signal_inner(pid, Signal::SIGKILL);
    cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|other| *other != pid));
    assert_eq!(cluster.get("/healthz").0, 200);
}

#[test]
fn stderr_is_closed() {
    for mode in modes() {
        let launch = Launch::of(mode, &["sleep", "1000"])
            .set("WORKERS", 1)
            .set("READY", "running")
            .set("LOG", "trace")
            .wrap_sh("exec 2>&-");
        let cluster = launch.start();
        survives_a_crash(&cluster);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn all_three_are_closed() {
    for mode in modes() {
        let launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running").set("LOG", "trace");
        let cluster = launch.wrap_sh("exec 0<&- 1>&- 2>&-").start();
        survives_a_crash(&cluster);
        // Nothing of ours may sit where a worker expects its stdin, stdout and stderr.
        let worker = cluster.outer(cluster.ready(1)[0]);
        for number in 0..=2 {
            assert!(std::fs::read_link(format!("/proc/{worker}/fd/{number}")).is_err(), "{number} is open");
        }
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn the_reader_of_stdout_and_stderr_has_gone() {
    for mode in modes() {
        let broken = || {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop::<PipeReader>(reader);
            Sink::To(writer.into())
        };
        let mut launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running").set("LOG", "trace");
        (launch.stdout, launch.stderr) = (broken(), broken());
        let cluster = launch.start();
        survives_a_crash(&cluster);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn nobody_reads_stderr_and_the_pipe_is_full() {
    for mode in modes() {
        // Slot 0 fills the pipe and hangs in its write; the others crash, and each crash is worth several lines.
        let script = "[ $CLUSTERINIT_WORKER_ID = 0 ] && exec head -c 10000000 /dev/zero >&2; exit 1";
        let launch = Launch::of(mode, &["sh", "-c", script]).set("WORKERS", 3).set("READY", "running").set("LOG", "trace");
        let mut launch = launch.set("RESTART_BACKOFF", "1ms..5ms");
        launch.stderr = Sink::Unread;
        let cluster = launch.start();
        cluster.until("it has logged for long into a pipe that is full", |cluster| {
            let restarts: u64 = cluster.rows().iter().filter_map(|row| row["restarts"].as_u64()).sum();
            restarts > 100 && cluster.get("/healthz").0 == 200
        });
        cluster.signal(Signal::SIGTERM);
        // A worker that has just been started may have the time to end with its 1.
        let code = cluster.wait_exit();
        assert!(code == 0 || code == 1, "{mode:?} {code}");
    }
}

#[test]
fn the_callers_descriptors_are_not_made_nonblocking() {
    for mode in modes() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let mut launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running").set("LOG", "trace");
        launch.stdin = Stdin::From(reader.into());
        let cluster = launch.start();
        let worker = cluster.outer(cluster.ready(1)[0]);
        for number in 0..=2 {
            let text = std::fs::read_to_string(format!("/proc/{worker}/fdinfo/{number}")).expect("it is there");
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("the kernel tells");
            let flags = i32::from_str_radix(flags.trim(), 8).expect("an octal number");
            assert_eq!(flags & nix::fcntl::OFlag::O_NONBLOCK.bits(), 0, "{mode:?} {number}");
        }
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn descriptors_are_used_up() {
    for mode in modes() {
        let launch = Launch::of(mode, &[&example("shows"), "stay"])
            .set("WORKERS", 1)
            .set("READY", "running")
            .set("RESTART_BACKOFF", "50ms..200ms");
        let cluster = launch.wrap_sh("ulimit -n 24").start();
        let pid = cluster.ready(1)[0];
        let connect = |_| TcpStream::connect(cluster.side_port()).expect("the kernel's queue takes it");
        let greedy: Vec<TcpStream> = (0..60).map(connect).collect();
        // Whatever the side port can do now: the worker is replaced, at the latest when the idle ones were thrown out.
        cluster.signal_inner(pid, Signal::SIGKILL);
        cluster.until("a second life", |cluster| cluster.out().lines().count() >= 2);
        drop(greedy);
        cluster.until("the side port is back", |cluster| cluster.answers("/healthz") == 200);
        cluster.ready(1);
        let (code, out, err) = cluster.stop();
        assert_eq!(code, 0, "{err}");
        let descriptors = |line: &str| {
            let shown: serde_json::Value = serde_json::from_str(line).expect("JSON");
            shown["fds"].clone()
        };
        let lives: Vec<_> = out.lines().map(descriptors).collect();
        assert!(lives.iter().all(|life| *life == lives[0]), "{lives:?}");
    }
}

#[test]
fn hundreds_of_workers() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "200"), ("READY", "running")], &["sleep", "1000"]);
        let before = cluster.ready(200);
        for pid in &before[..100] {
            cluster.signal_inner(*pid, Signal::SIGKILL);
        }
        cluster.until("all of them were replaced", |cluster| {
            let now = cluster.pids_in("ready");
            now.len() == 200 && before[..100].iter().all(|pid| !now.contains(pid))
        });
        assert_eq!(cluster.zombies(), 0);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_worker_that_closes_or_fills_everything_it_has_hurts_only_itself() {
    let script = "exec 0<&- 1>&- 2>&-; exec sleep 1000";
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "1"), ("READY", "running")], &["sh", "-c", script]);
    survives_a_crash(&cluster);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_storm_of_signals_changes_nothing() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
        let before = cluster.ready(2);
        for round in 0..2000 {
            cluster.signal([Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGWINCH, Signal::SIGPIPE][round % 5]);
        }
        assert_eq!(cluster.get("/healthz").0, 200);
        assert_eq!(cluster.ready(2), before);
        assert_eq!(cluster.stop().0, 0);
    }
}
