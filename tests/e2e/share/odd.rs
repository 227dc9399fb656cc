//! What servers do with `bind` and `listen` that is not what we would do, and what goes wrong with it. None of it may hold up
//! PID 1 or another worker.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{NOBODY, addresses, all_serve, borrowed, descriptors, is_shared, local, reload, script, slot_at, sockets, worker_at};
use crate::support::{
    Cluster, Launch, Load, Mode, Stage, Stopwatch, example, free_port, free_ports, has_pid1, has_root, modes, wait_until,
};

/// A stop with nothing in its way, on a machine that is busy: far less than the half of this grace.
const PROMPT: Duration = Duration::from_secs(20);
const GRACE: (&str, &str) = ("GRACE", "2m");
const HEALTHY_WITHIN: Duration = Duration::from_millis(100);

fn started(workers: usize, words: &[&str]) -> Cluster {
    let program = example("sockets");
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", &workers.to_string()), GRACE], &sockets(&program, words));
    cluster.ready(workers);
    is_shared(&cluster);
    cluster
}

fn stops_promptly(cluster: Cluster) {
    let clock = Stopwatch::start();
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 0, "{err}");
    assert!(clock.elapsed() < PROMPT, "{:?}\n{err}", clock.elapsed());
}

fn bind(port: u16) -> String {
    format!("bind=127.0.0.1:{port}")
}

#[test]
fn the_port_is_taken_by_somebody_else() {
    for mode in modes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (program, bind) = (example("sockets"), format!("bind={address}"));
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), GRACE], &sockets(&program, &["try", &bind, "stay"]));
        cluster.until("both see it", |cluster| cluster.out().matches("os error 98").count() == 2);
        cluster.until_log(&[&address, "taken"]);
        assert_eq!(cluster.get("/healthz").0, 200);
        // As soon as it is free a server gets it: nothing of ours holds it.
        drop(listener);
        stops_promptly(cluster);
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), GRACE], &sockets(&program, &[&bind, "listen", "serve"]));
        cluster.ready(2);
        stops_promptly(cluster);
    }
}

#[test]
fn a_privileged_port_without_the_right() {
    if !has_root() {
        return;
    }
    let stage = Stage::new();
    let program = stage.copy(&example("sockets"));
    let words = ["try", "bind=127.0.0.1:80", "exit=0"];
    // A network of its own, so that the machine's settings do not matter.
    let launch = Launch::of(Mode::Plain, &sockets(&program, &words)).program(&stage.copy(env!("CARGO_BIN_EXE_clusterinit")));
    let launch = launch.wrap(&["unshare", "--net"]).wrap_sh("echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let (code, out, err) = launch.wrap(&NOBODY).set("WORKERS", 2).start().finish();
    assert_eq!((code, out.matches("Permission denied").count()), (0, 2), "{out}\n{err}");
}

#[test]
fn another_port_at_each_start() {
    let range = free_port();
    let next = format!("next={range}");
    let program = example("sockets");
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "2"), GRACE], &sockets(&program, &[&next, "serve"]));
    cluster.ready(2);
    let before = descriptors(&cluster);
    for round in 0..10 {
        cluster.until("all were ready for a second", |cluster| {
            let rows = cluster.rows();
            rows.len() == 2 && rows.iter().all(|row| row["state"] == "ready" && row["uptime_seconds"].as_f64() > Some(1.1))
        });
        let pid = cluster.ready(2)[round % 2];
        cluster.signal_inner(pid, Signal::SIGKILL);
        cluster.until("it was replaced", |cluster| {
            let ready = cluster.pids_in("ready");
            ready.len() == 2 && !ready.contains(&pid)
        });
    }
    // Not at once: what is released is refused, and a successor may still be on its way to it.
    cluster.until("the ports of the dead are given back", |cluster| descriptors(cluster) <= before + 2);
    cluster.until("they are no longer shown", |cluster| addresses(cluster).len() == 2);
    stops_promptly(cluster);
}

#[test]
fn binds_and_never_listens() {
    for mode in modes() {
        let (program, bind) = (example("sockets"), bind(free_port()));
        let cluster =
            Cluster::start(mode, &[("WORKERS", "2"), ("START_TIMEOUT", "1s"), GRACE], &sockets(&program, &[&bind, "stay"]));
        cluster.until("both have bound", |cluster| cluster.out().matches("bound").count() == 2);
        cluster.ready(2);
        assert_eq!((cluster.get("/healthz").0, cluster.get("/readyz").0), (200, 503));
        assert_eq!(addresses(&cluster), Vec::<String>::new());
        stops_promptly(cluster);
    }
}

#[test]
fn binds_and_connects() {
    for mode in modes() {
        let peer = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free_port();
        let (program, connect) = (example("sockets"), format!("connect={}", peer.local_addr().expect("bound")));
        let words = [&bind(port), &connect, "close", "stay"];
        let cluster = Cluster::start(mode, &[("WORKERS", "1"), GRACE], &sockets(&program, &words));
        let (mut connection, client) = peer.accept().expect("a connection");
        assert_eq!(client.port(), port, "its own port, as it asked for");
        cluster.until_out("connected");
        cluster.until_out("closed");
        // No copy of ours keeps the connection open.
        connection.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        assert_eq!(std::io::Read::read(&mut connection, &mut [0]).expect("its end"), 0);
        assert_eq!(addresses(&cluster), Vec::<String>::new());
        stops_promptly(cluster);
    }
}

#[test]
fn closes_its_listener_and_lives() {
    let (stage, port) = (Stage::new(), free_port());
    let (close, mark) = (stage.path("close"), stage.path("mark"));
    let command = script(&format!(
        "[ $CLUSTERINIT_WORKER_ID = 0 ] || [ -e {mark} ] || {{ touch {mark}
        exec $sockets bind=127.0.0.1:{port} listen wait={close} close stay; }}
        exec $sockets bind=127.0.0.1:{port} listen serve"
    ));
    let cluster = Launch::of(Mode::Plain, &borrowed(&command)).set("WORKERS", 2).set("HANG_TIMEOUT", "1s").start();
    cluster.ready(2);
    stage.write("close", "");
    cluster.until_out("closed");
    // What goes to its queue waits for its successor.
    let load = Load::start(local(port), &["clients=8", "think=5ms"]);
    all_serve(&cluster, local(port), "/", 2);
    assert_eq!(cluster.get("/healthz").0, 200);
    let seen = load.finish();
    assert_eq!(seen["failed"], 0, "{seen}\n{}", cluster.story());
    stops_promptly(cluster);
}

#[test]
fn listens_twice() {
    let port = free_port();
    let cluster = started(2, &[&bind(port), "listen=5", "listen=100", "serve"]);
    all_serve(&cluster, local(port), "/", 2);
    assert_eq!(addresses(&cluster), [format!("127.0.0.1:{port}")]);
    reload(&cluster, 2);
    all_serve(&cluster, local(port), "/", 2);
    stops_promptly(cluster);
}

#[test]
fn binds_the_same_port_twice_in_one_process() {
    let port = free_port();
    let cluster = started(2, &[&bind(port), "listen", "try", &bind(port), "serve"]);
    cluster.until("both were refused", |cluster| cluster.out().matches("os error 98").count() == 2);
    all_serve(&cluster, local(port), "/", 2);
    stops_promptly(cluster);
}

#[test]
fn opens_50_ports() {
    let (first, count) = (free_ports(50), 50);
    let cluster = started(4, &[&format!("many={first},{count}"), "serve"]);
    for port in [first, first + count / 2, first + count - 1] {
        all_serve(&cluster, local(port), "/", 4);
    }
    for port in first..first + count {
        assert!(worker_at(&cluster, local(port), "/").is_some(), "{port}\n{}", cluster.story());
    }
    assert_eq!(addresses(&cluster).len(), usize::from(count));
    reload(&cluster, 4);
    all_serve(&cluster, local(first), "/", 4);
    stops_promptly(cluster);
}

#[test]
fn binds_in_threads_at_the_same_time() {
    let (first, count) = (free_ports(16), 16);
    let cluster = started(2, &[&format!("threads={first},{count}"), "serve"]);
    for port in first..first + count {
        all_serve(&cluster, local(port), "/", 2);
    }
    stops_promptly(cluster);
}

#[test]
fn forks_before_bind() {
    for mode in modes() {
        let port = free_port();
        let (program, bind) = (example("sockets"), bind(port));
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), GRACE], &sockets(&program, &["fork", &bind, "listen", "serve"]));
        cluster.ready(2);
        all_serve(&cluster, local(port), "/", 2);
        stops_promptly(cluster);
    }
}

#[test]
fn executes_another_program_that_binds() {
    for mode in modes() {
        let port = free_port();
        let (program, bind) = (example("sockets"), bind(port));
        let cluster =
            Cluster::start(mode, &[("WORKERS", "2"), GRACE], &sockets(&program, &["fork", "exec", &bind, "exec", "stay"]));
        cluster.until("both have bound", |cluster| cluster.out().matches("bound").count() == 2);
        drop(cluster);
        let words = ["exec", "fork", "exec", &bind, "listen", "serve"];
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), GRACE], &sockets(&program, &words));
        cluster.ready(2);
        all_serve(&cluster, local(port), "/", 2);
        stops_promptly(cluster);
    }
}

/// It sets `SO_REUSEPORT` itself, as servers do that share by themselves: left alone.
#[test]
fn shares_by_itself() {
    let port = free_port();
    let cluster = started(2, &["reuseport", &bind(port), "listen", "serve"]);
    all_serve(&cluster, local(port), "/", 2);
    stops_promptly(cluster);
}

/// PID 1 is held still, so that the worker is sure to be in the call when it dies.
#[test]
fn is_killed_in_the_middle_of_bind() {
    if !has_pid1() {
        return;
    }
    for mode in modes() {
        let (stage, port) = (Stage::new(), free_port());
        let go = stage.path("go");
        let (program, bind, wait) = (example("sockets"), bind(port), format!("wait={go}"));
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), GRACE], &sockets(&program, &[&wait, &bind, "listen", "serve"]));
        cluster.until("both run", |cluster| cluster.pids_in("starting").len() == 2);
        let workers: Vec<i32> = cluster.pids_in("starting").into_iter().map(|pid| cluster.outer(pid)).collect();
        let init = Pid::from_raw(cluster.pid());
        kill(init, Signal::SIGSTOP).expect("ours");
        stage.write("go", "");
        let in_bind = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with(BIND));
        wait_until(crate::support::DEADLINE, "both are in bind", || workers.iter().all(in_bind));
        kill(Pid::from_raw(workers[0]), Signal::SIGKILL).expect("ours");
        wait_until(crate::support::DEADLINE, "one is dead", || !crate::support::is_alive(workers[0]));
        kill(init, Signal::SIGCONT).expect("ours");
        cluster.ready(2);
        all_serve(&cluster, local(port), "/", 2);
        stops_promptly(cluster);
    }
}

/// `/proc/PID/syscall` begins with the call's number.
#[cfg(target_arch = "x86_64")]
const BIND: &str = "49 ";
#[cfg(target_arch = "aarch64")]
const BIND: &str = "200 ";

#[test]
fn is_killed_again_and_again_while_it_binds() {
    let port = free_port();
    let command = script(&format!(
        "[ $CLUSTERINIT_WORKER_ID = 0 ] && exec $sockets bind=127.0.0.1:{port} listen serve
        exec timeout -s KILL 0.3 $sockets flood=1 stay"
    ));
    let launch = Launch::of(Mode::Plain, &borrowed(&command)).set("WORKERS", 2).set("RESTART_BACKOFF", "10ms..20ms");
    let cluster = launch.start();
    cluster.until("it was killed ten times", |cluster| {
        cluster.rows().iter().any(|row| row["id"] == 1 && row["restarts"].as_u64() >= Some(10))
    });
    let before = descriptors(&cluster);
    cluster.until("ten times more", |cluster| {
        cluster.rows().iter().any(|row| row["id"] == 1 && row["restarts"].as_u64() >= Some(20))
    });
    assert!(descriptors(&cluster) <= before + 8, "{before}, then {}\n{}", descriptors(&cluster), cluster.story());
    assert_eq!(slot_at(local(port)), Some(0));
    drop(cluster);
}

#[test]
fn a_flood_of_bind_calls_hurts_its_worker_alone() {
    let (stage, port) = (Stage::new(), free_port());
    let go = stage.path("go");
    let command = script(&format!(
        "[ $CLUSTERINIT_WORKER_ID = 0 ] && exec $sockets bind=127.0.0.1:{port} listen serve
        exec $sockets wait={go} flood=2 stay"
    ));
    let cluster = Launch::of(Mode::Plain, &borrowed(&command)).set("WORKERS", 2).set(GRACE.0, GRACE.1).start();
    cluster.until("the other one is ready", |cluster| cluster.rows().iter().any(|row| row["id"] == 0 && row["state"] == "ready"));
    let load = Load::start(local(port), &["clients=2", "think=5ms"]);
    stage.write("go", "");
    cluster.until_out("flooding");
    let (flood, mut took) = (Stopwatch::start(), Vec::new());
    // So long that the other worker has had time for its clients, too.
    while took.len() < 100 || flood.elapsed() < Duration::from_secs(1) {
        let clock = Stopwatch::start();
        assert_eq!(cluster.get("/healthz").0, 200);
        took.push(clock.elapsed());
    }
    took.sort_unstable();
    // Other tests run on these CPUs too: their share of the slowest answers is left to them.
    assert!(took[took.len() * 9 / 10] < HEALTHY_WITHIN, "/healthz: {took:?}\n{}", cluster.story());
    let seen = load.finish();
    assert_eq!(seen["failed"], 0, "{seen}");
    assert!(seen["ok"].as_u64() > Some(50), "{seen}");
    assert!(!cluster.err().contains("cannot be watched"), "{}", cluster.story());
    // A reload and a crash go on as ever.
    let pid = cluster.rows()[0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
    cluster.signal_inner(pid, Signal::SIGKILL);
    cluster.until("it was replaced", |cluster| {
        let rows = cluster.rows();
        rows.iter().any(|row| row["id"] == 0 && row["state"] == "ready" && row["pid"].as_i64() != Some(pid.into()))
    });
    assert_eq!(slot_at(local(port)), Some(0));
    stops_promptly(cluster);
}
