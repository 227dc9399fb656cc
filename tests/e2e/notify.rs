//! What workers say on `NOTIFY_SOCKET`, and what readiness means in each mode.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::signal::Signal;

use crate::support::{Cluster, Launch, Mode, example, has_python, modes};

/// A Python program that can `say(text)`, and `wait()` for the next USR1.
fn teller(script: &str) -> String {
    format!(
        "
import os, signal, socket, sys, time
name = os.environ['NOTIFY_SOCKET']
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(text.encode(), '\\0' + name[1:] if name[0] == '@' else name)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def wait():
    print('waiting', flush=True)
    signal.sigwait([signal.SIGUSR1])
{script}
while True: signal.pause()
"
    )
}

fn start(mode: Mode, settings: &[(&str, &str)], script: &str) -> Cluster {
    Cluster::start(mode, settings, &["python3", "-c", &teller(script)])
}

/// Waits until the program has said `waiting` this often.
fn waiting(cluster: &Cluster, times: usize) {
    cluster.until("the program waits", |cluster| cluster.out().matches("waiting").count() == times);
}

fn state(cluster: &Cluster) -> String {
    cluster.rows().first().and_then(|row| row["state"].as_str().map(str::to_owned)).unwrap_or_default()
}

#[test]
fn ready_is_when_the_worker_says_so() {
    if !has_python() {
        return;
    }
    for mode in modes() {
        let cluster = start(mode, &[("WORKERS", "1"), ("READY", "notify")], "wait()\nsay('READY=1')\nwait()");
        waiting(&cluster, 1);
        // Longer than a second, which would be enough for `running`.
        cluster.until("it has been up for 1.5 s", |cluster| {
            cluster.rows()[0]["uptime_seconds"].as_f64().is_some_and(|age| age > 1.5)
        });
        assert_eq!(state(&cluster), "starting");
        assert_eq!((cluster.get("/readyz").0, cluster.workers()["state"].as_str()), (503, Some("starting")));
        cluster.signal(Signal::SIGUSR1);
        cluster.ready(1);
        assert_eq!((cluster.get("/readyz").0, cluster.workers()["state"].as_str()), (200, Some("running")));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn children_of_a_worker_may_speak_for_it() {
    if !has_python() {
        return;
    }
    for mode in modes() {
        // Double-forked, in a session of its own, and orphaned: still of the worker's tree.
        let script = "
if os.fork() == 0:
    os.setsid()
    parent = os.getpid()
    if os.fork(): os._exit(0)
    while os.getppid() == parent: time.sleep(0.01)
    say('READY=1')
    while True: signal.pause()
os.wait()";
        let cluster = start(mode, &[("WORKERS", "1"), ("READY", "notify")], script);
        cluster.ready(1);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn messages_from_outside_are_dropped() {
    if !has_python() {
        return;
    }
    for mode in modes() {
        let cluster = start(mode, &[("WORKERS", "1"), ("READY", "notify")], "wait()\nsay('READY=1')");
        waiting(&cluster, 1);
        let pid = i32::try_from(cluster.rows()[0]["pid"].as_i64().expect("a pid")).expect("pids fit");
        let name = cluster.variable(pid, "NOTIFY_SOCKET").expect("it is set");
        let name = name.strip_prefix('@').expect("an abstract address");
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        let socket = UnixDatagram::unbound().expect("a socket");
        for text in ["READY=1", "STOPPING=1", "WATCHDOG=trigger"] {
            socket.send_to_addr(text.as_bytes(), &address).expect("sent");
        }
        // Too long, not text, many at once: dropped as well, and no harm done.
        let _refused = socket.send_to_addr(&vec![b'x'; 100_000], &address);
        socket.send_to_addr(b"\xff\xfe\0READY=1", &address).expect("sent");
        let uptime = cluster.rows()[0]["uptime_seconds"].as_f64().expect("a number");
        cluster.until("it has had time to believe it", |cluster| {
            cluster.rows()[0]["uptime_seconds"].as_f64().is_some_and(|age| age > uptime + 0.5)
        });
        assert_eq!(state(&cluster), "starting");
        cluster.signal(Signal::SIGUSR1);
        cluster.ready(1);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn one_message_may_hold_several_lines() {
    if !has_python() {
        return;
    }
    let script = "say('STATUS=warming up\\nREADY=1\\nMAINPID=1\\nX_UNKNOWN=1\\n')";
    let cluster = start(Mode::Plain, &[("WORKERS", "1"), ("READY", "notify"), ("LOG", "debug")], script);
    cluster.ready(1);
    cluster.until_log(&["warming up"]);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn stopping_takes_a_worker_out_of_rotation() {
    if !has_python() {
        return;
    }
    let script = "say('READY=1')\nwait()\nsay('STOPPING=1')\nwait()\nsys.exit(0)";
    let cluster = start(Mode::Plain, &[("WORKERS", "1"), ("READY", "notify")], script);
    let before = cluster.ready(1);
    waiting(&cluster, 1);
    assert_eq!(cluster.get("/readyz").0, 200);
    cluster.signal(Signal::SIGUSR1);
    cluster.until("it is stopping", |cluster| state(cluster) == "stopping");
    assert_eq!(cluster.get("/readyz").0, 503);
    waiting(&cluster, 2);
    cluster.signal(Signal::SIGUSR1);
    cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|pid| *pid != before[0]));
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_worker_that_reloads_by_itself_stays_in_rotation_and_is_not_replaced() {
    if !has_python() {
        return;
    }
    let script = "say('READY=1')\nwait()\nsay('RELOADING=1')\nwait()\nsay('READY=1')";
    let cluster = start(Mode::Plain, &[("WORKERS", "1"), ("READY", "notify"), ("LOG", "debug")], script);
    let before = cluster.ready(1);
    waiting(&cluster, 1);
    cluster.signal(Signal::SIGUSR1);
    waiting(&cluster, 2);
    cluster.until_log(&["reloading"]);
    assert_eq!(cluster.get("/readyz").0, 200, "it still serves, as systemd has it");
    cluster.signal(Signal::SIGUSR1);
    assert_eq!(cluster.ready(1), before);
    assert_eq!(cluster.get("/readyz").0, 200);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_worker_that_misses_its_watchdog_is_replaced() {
    if !has_python() {
        return;
    }
    for mode in modes() {
        // WATCHDOG_USEC from the environment; from the worker itself; and the worker's own verdict.
        for (usec, script) in [
            (Some("700000"), "say('READY=1')\nsay('WATCHDOG=1')"),
            (None, "say('READY=1\\nWATCHDOG_USEC=700000\\nWATCHDOG=1')"),
            (None, "say('READY=1')\nsay('WATCHDOG=trigger')"),
        ] {
            let launch = Launch::of(mode, &["python3", "-c", &teller(script)]).set("WORKERS", 1).set("READY", "notify");
            let launch = launch.set("RESTART_BACKOFF", "20m..30m").set("UNHEALTHY_AFTER", "1h").set("GRACE", "500ms");
            let launch = if let Some(usec) = usec { launch.env("WATCHDOG_USEC", usec) } else { launch };
            let cluster = launch.start();
            cluster.until("one was replaced", |cluster| cluster.rows().iter().any(|row| row["last_exit"]["reason"] == "hung"));
            cluster.until_log(&["watchdog"]);
            cluster.stop();
        }
    }
}

#[test]
fn a_worker_that_keeps_its_watchdog_lives() {
    if !has_python() {
        return;
    }
    let script = "
say('READY=1')
for _ in range(30):
    say('WATCHDOG=1')
    time.sleep(0.1)
print('done', flush=True)
while True:
    say('WATCHDOG=1')
    time.sleep(0.1)";
    let launch = Launch::of(Mode::Plain, &["python3", "-c", &teller(script)]).set("WORKERS", 1).set("READY", "notify");
    let cluster = launch.env("WATCHDOG_USEC", 10_000_000).start();
    let before = cluster.ready(1);
    cluster.until_out("done");
    assert_eq!(cluster.ready(1), before);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn who_never_notifies_is_killed_and_counts_as_a_failed_start() {
    for mode in modes() {
        let settings = [("WORKERS", "1"), ("READY", "notify"), ("START_TIMEOUT", "400ms"), ("RESTART_BACKOFF", "10ms..20ms")];
        let scratch = tempfile::tempdir().expect("a directory");
        let note = scratch.path().join("termination-log");
        std::fs::write(&note, "").expect("written");
        let launch =
            settings.iter().fold(Launch::of(mode, &[&example("never_ready")]), |launch, (name, value)| launch.set(name, value));
        let cluster = launch.set("TERMINATION_LOG", note.display()).start();
        cluster.until("the reason is shown", |cluster| {
            cluster.has_ended() || cluster.rows().iter().any(|row| row["last_exit"]["reason"] == "start-timeout")
        });
        let (code, _, err) = cluster.finish();
        assert_eq!(code, 137, "{err}");
        assert_eq!(err.matches("CLUSTERINIT_START_TIMEOUT").count(), 5, "{err}");
        assert!(!std::fs::read_to_string(&note).expect("it was there").is_empty());
    }
}

#[test]
fn under_auto_who_does_not_notify_is_ready_after_a_second() {
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "2"), ("START_TIMEOUT", "3s")], &["sleep", "1000"]);
    let before = cluster.ready(2);
    let uptime = |cluster: &Cluster| cluster.rows()[0]["uptime_seconds"].as_f64().unwrap_or(0.0);
    assert!(uptime(&cluster) >= 1.0);
    cluster.until("START_TIMEOUT has passed", |cluster| uptime(cluster) > 4.0);
    assert_eq!(cluster.ready(2), before, "nobody is killed for not notifying");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn under_auto_who_notified_once_is_asked_to_from_then_on() {
    if !has_python() {
        return;
    }
    let script = "
if os.environ['CLUSTERINIT_GENERATION'] == '1': say('READY=1')
wait()
say('READY=1')";
    let cluster = start(Mode::Plain, &[("WORKERS", "1")], script);
    let before = cluster.ready(1);
    waiting(&cluster, 1);
    cluster.signal(Signal::SIGUSR2);
    waiting(&cluster, 2);
    let successor = |cluster: &Cluster| cluster.rows().into_iter().find(|row| row["generation"] == 2).unwrap_or_default();
    cluster.until("the successor has been up for 1.5 s", |cluster| {
        successor(cluster)["uptime_seconds"].as_f64().is_some_and(|age| age > 1.5)
    });
    assert_eq!(successor(&cluster)["state"], "starting");
    assert_eq!(cluster.pids_in("ready"), before);
    cluster.signal(Signal::SIGUSR1);
    cluster.until("the reload is done", |cluster| cluster.workers()["reload"]["state"] == "done");
    assert_eq!(cluster.stop().0, 0);
}
