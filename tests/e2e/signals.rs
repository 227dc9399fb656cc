//! Signals to clusterinit: what is forwarded, to whom, what is a request, and who sent it.

use nix::sys::signal::Signal;

use crate::support::{Cluster, Launch, Mode, has_python, modes, state};

/// A worker that says `up`, and `got NAME` for each of these signals.
fn teller(signals: &str) -> String {
    format!("for s in {signals}; do trap \"echo got $s\" $s; done; echo up; while :; do sleep 0.05; done")
}

fn up(cluster: &Cluster, count: usize) {
    cluster.until("all are up", |cluster| cluster.out().matches("up\n").count() == count);
}

#[test]
fn forwarded_to_every_worker_that_catches() {
    for mode in modes() {
        let names = ["USR1", "HUP", "WINCH", "CONT", "ALRM", "URG", "36", "64"];
        let script = teller(&names.join(" "));
        let cluster = Cluster::start(mode, &[("WORKERS", "2")], &["sh", "-c", &script]);
        up(&cluster, 2);
        for (name, number) in names.into_iter().zip([10, 1, 28, 18, 14, 23, 36, 64]) {
            cluster.signal_number(number);
            let told = format!("got {name}\n");
            cluster.until(&format!("both got {name}"), |cluster| cluster.out().matches(&told).count() == 2);
        }
        assert_eq!(cluster.workers()["generation"], 1, "a HUP that is caught is no reload");
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn never_sent_where_its_default_would_kill() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
        let before = cluster.ready(2);
        for (number, name) in [(10, "USR1"), (14, "ALRM"), (29, "IO"), (36, "RTMIN+2")] {
            cluster.signal_number(number);
            cluster.until_log(&[name]);
        }
        assert_eq!(cluster.ready(2), before, "{}", cluster.story());
        assert_eq!(cluster.workers()["generation"], 1);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn sent_to_those_that_catch_and_kept_from_the_others() {
    let script = "[ $CLUSTERINIT_WORKER_ID = 0 ] && exec sleep 1000; trap 'echo got USR1' USR1; while :; do sleep 0.05; done";
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "2"), ("READY", "running")], &["sh", "-c", script]);
    let before = cluster.ready(2);
    cluster.signal(Signal::SIGUSR1);
    cluster.until_out("got USR1");
    assert_eq!(cluster.ready(2), before);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn hup_is_a_reload_where_it_would_kill() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("READY", "running")], &["sleep", "1000"]);
        let before = cluster.ready(1);
        cluster.signal(Signal::SIGHUP);
        cluster.until("the reload is done", |cluster| cluster.workers()["reload"]["state"] == "done");
        assert_ne!(cluster.ready(1), before);
        assert_eq!(cluster.workers()["generation"], 2);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn every_stop_request_stops() {
    for mode in modes() {
        for number in [15, 2, 3, 37] {
            let cluster = Cluster::start(mode, &[("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
            cluster.ready(2);
            cluster.signal_number(number);
            let (code, _, err) = cluster.finish();
            assert_eq!(code, 0, "{mode:?} {number}\n{err}");
        }
    }
}

#[test]
fn the_map_changes_what_a_signal_does() {
    let map = "HUP=stop,USR1=USR2,WINCH=ignore,ALRM=reload,INT=forward,QUIT=more,IO=fewer";
    let settings = [("WORKERS", "2"), ("READY", "running"), ("SIGNALS", map)];
    let script = teller("USR1 USR2 WINCH INT HUP IO ALRM QUIT");
    let cluster = Cluster::start(Mode::Plain, &settings, &["sh", "-c", &script]);
    up(&cluster, 2);
    cluster.ready(2);
    cluster.signal_number(28);
    cluster.signal_number(10);
    cluster.until("both got USR2", |cluster| cluster.out().matches("got USR2").count() == 2);
    cluster.signal_number(2);
    cluster.until("both got INT", |cluster| cluster.out().matches("got INT").count() == 2);
    cluster.signal_number(3);
    cluster.ready(3);
    cluster.signal_number(29);
    cluster.ready(2);
    cluster.signal_number(14);
    cluster.until("the reload is done", |cluster| cluster.workers()["reload"]["state"] == "done");
    cluster.signal_number(1);
    let (code, out, err) = cluster.finish();
    assert_eq!(code, 0, "{err}");
    for never in ["got WINCH", "got USR1", "got HUP", "got ALRM", "got QUIT", "got IO"] {
        assert!(!out.contains(never), "{never}\n{out}");
    }
}

#[test]
fn the_map_can_mean_now() {
    let settings = [("WORKERS", "1"), ("SIGNALS", "USR1=now"), ("GRACE", "10m")];
    let cluster = Cluster::start(Mode::Plain, &settings, &["sh", "-c", "trap '' TERM; echo up; exec sleep 1000"]);
    up(&cluster, 1);
    cluster.signal(Signal::SIGUSR1);
    assert_eq!(cluster.finish().0, 137);
}

#[test]
fn the_sender_of_a_request_is_logged() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("READY", "running")], &["sleep", "1000"]);
        cluster.ready(1);
        cluster.signal(Signal::SIGUSR2);
        cluster.until("the reload is done", |cluster| cluster.workers()["reload"]["state"] == "done");
        cluster.signal(Signal::SIGTERM);
        // Outside its PID namespace we are nobody: 0. In its user namespace, where it has one, we are root.
        let (pid, uid) = if mode == Mode::Pid1 { (0, 0) } else { (std::process::id(), nix::unistd::geteuid().as_raw()) };
        for signal in ["USR2", "TERM"] {
            let line = cluster.until_log(&[signal, "asked", "uid"]);
            let numbers: Vec<&str> = line.split(|c: char| !c.is_ascii_digit()).collect();
            assert!(numbers.contains(&pid.to_string().as_str()), "pid {pid}: {line}");
            assert!(numbers.contains(&uid.to_string().as_str()), "uid {uid}: {line}");
        }
        assert_eq!(cluster.finish().0, 0);
    }
}

#[test]
fn a_worker_can_ask_and_is_named_as_the_sender() {
    for mode in modes() {
        let script = "echo $$; sleep 1.5; kill -TERM $PPID; exec sleep 1000";
        let cluster = Cluster::start(mode, &[("WORKERS", "1")], &["sh", "-c", script]);
        let (code, out, err) = cluster.finish();
        assert_eq!(code, 0, "{err}");
        let sender = out.trim();
        let named = |line: &str| line.split(|c: char| !c.is_ascii_digit()).any(|number| number == sender);
        assert!(err.lines().any(|line| line.contains("TERM") && line.contains("uid") && named(line)), "{sender}\n{err}");
    }
}

#[test]
fn term_reaches_a_stopped_worker() {
    for mode in modes() {
        let settings = [("WORKERS", "2"), ("READY", "running"), ("GRACE", "10m")];
        let cluster = Cluster::start(mode, &settings, &["sleep", "1000"]);
        for pid in cluster.ready(2) {
            cluster.signal_inner(pid, Signal::SIGSTOP);
            let outer = cluster.outer(pid);
            cluster.until("it is stopped", |_| state(outer) == Some('T'));
        }
        assert_eq!(cluster.stop().0, 0, "{mode:?}");
    }
}

#[test]
fn a_worker_that_stops_itself_is_neither_ended_nor_replaced() {
    for mode in modes() {
        let cluster = Cluster::start(
            mode,
            &[("WORKERS", "1"), ("READY", "running")],
            &["sh", "-c", "echo up; kill -STOP $$; echo on; exec sleep 1000"],
        );
        let pid = cluster.ready(1)[0];
        let outer = cluster.outer(pid);
        cluster.until("it is stopped", |_| state(outer) == Some('T'));
        cluster.signal_inner(pid, Signal::SIGCONT);
        cluster.until_out("on");
        assert_eq!(cluster.ready(1), [pid]);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn each_worker_gets_the_stop_signal_exactly_once() {
    if !has_python() {
        return;
    }
    // Counts what arrives for a second after the first, in the leader and in a child of its group.
    let script = "
import os, signal, time
count = 0
def got(*_):
    global count
    count += 1
signal.signal(signal.SIGTERM, got)
child = os.fork() == 0
print('child up' if child else 'up', flush=True)
while not count: time.sleep(0.02)
first = time.monotonic()
while time.monotonic() < first + 1: time.sleep(0.02)
print('child' if child else 'leader', count, flush=True)
";
    for mode in modes() {
        let cluster = Launch::of(mode, &["python3", "-c", script]).set("WORKERS", 2).set("GRACE", "10m").start();
        cluster.until("all are up", |cluster| cluster.out().matches("up\n").count() == 4);
        let (code, out, err) = cluster.stop();
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.matches("leader 1\n").count(), 2, "{out}");
        assert_eq!(out.matches("child 1\n").count(), 2, "{out}");
    }
}

#[test]
fn the_stop_signal_can_be_another_one() {
    for mode in modes() {
        for (name, number) in [("QUIT", 3), ("37", 37), ("SIGUSR1", 10), ("RTMIN+3", 37)] {
            // Trapped: it is what arrives, alone. Not trapped: to end by it is to end well.
            let others = [1, 2, 3, 10, 12, 15, 37].into_iter().filter(|other| *other != number);
            let others = others.map(|other: i32| other.to_string()).collect::<Vec<_>>().join(" ");
            let told = format!("trap 'echo got {number}; exit 0' {number}; {}", teller(&others));
            let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("STOP_SIGNAL", name)], &["sh", "-c", &told]);
            up(&cluster, 1);
            let (code, out, err) = cluster.stop();
            assert_eq!((code, out), (0, format!("up\ngot {number}\n")), "{mode:?} {name}\n{err}");
        }
        let cluster =
            Cluster::start(mode, &[("WORKERS", "1"), ("READY", "running"), ("STOP_SIGNAL", "USR1")], &["sleep", "1000"]);
        cluster.ready(1);
        assert_eq!(cluster.stop().0, 0, "{mode:?}");
    }
}
