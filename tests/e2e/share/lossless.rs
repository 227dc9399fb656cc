//! Crashes, rolling restarts and stops under load: what clients see of them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::servers::source;
use super::{all_serve, borrowed, is_shared, local, reload};
use crate::support::{Cluster, Launch, Load, Mode, Stopwatch, free_port, go, tool};

/// Far less than the half of this grace, at which a stop is sent without a quiet instant; on a free machine it takes a few ms.
const PROMPT: Duration = Duration::from_secs(10);
const GRACE: (&str, &str) = ("GRACE", "2m");
const WORKERS: usize = 2;
const CRASHES: usize = 4;
const RELOADS: usize = 3;

/// One of `servers/`, at work, on a port of its own.
fn started(name: &str, port: u16, words: &[&str], settings: &[(&str, &str)]) -> Option<Cluster> {
    let number = port.to_string();
    // Go wants a unit.
    let words: Vec<String> = words
        .iter()
        .map(|word| if name == "go" && word.starts_with("wait=") { format!("{word}ms") } else { (*word).to_owned() })
        .collect();
    let mut command = match name {
        "go" => vec![go()?, format!("127.0.0.1:{number}")],
        "python" => vec![tool("python3")?, source("threads.py"), number],
        "node" => vec![tool("node")?, source("server.js"), number],
        other => panic!("what is {other}?"),
    };
    command.extend(words);
    let mut launch = Launch::of(Mode::Plain, &borrowed(&command)).set("WORKERS", WORKERS).set("NODE_IPC", "off");
    for (name, value) in settings {
        launch = launch.set(name, value);
    }
    let cluster = launch.start();
    cluster.ready(WORKERS);
    is_shared(&cluster);
    all_serve(&cluster, local(port), "/", WORKERS);
    Some(cluster)
}

fn count(seen: &Value, name: &str) -> usize {
    let number = seen[name].as_u64().unwrap_or_else(|| panic!("{name} in {seen}"));
    usize::try_from(number).expect("it fits")
}

/// Kills a worker, waits for its successor, then takes the other one: `CRASHES` times in all.
fn crash_in_turn(cluster: &Cluster) {
    for round in 0..CRASHES {
        // Ready for a second: else it counts as a failing start, and waits.
        cluster.until("all were ready for a second", |cluster| {
            let rows = cluster.rows();
            rows.len() == WORKERS
                && rows.iter().all(|row| row["state"] == "ready" && row["uptime_seconds"].as_f64().is_some_and(|time| time > 2.0))
        });
        let victim = cluster.ready(WORKERS)[round % WORKERS];
        cluster.signal_inner(victim, Signal::SIGKILL);
        cluster.until("it was replaced", |cluster| {
            let ready = cluster.pids_in("ready");
            ready.len() == WORKERS && !ready.contains(&victim)
        });
    }
}

/// It has at most one connection of its own at a time, and a queue behind it.
#[test]
fn a_crash_costs_what_the_dead_process_had_accepted_and_nothing_more() {
    let port = free_port();
    let Some(cluster) = started("python", port, &["serial", "wait=2"], &[]) else { return };
    let load = Load::start(local(port), &["clients=24"]);
    crash_in_turn(&cluster);
    let seen = load.finish();
    let lost = count(&seen, "failed");
    assert!(lost <= CRASHES, "{lost} requests failed in {CRASHES} crashes: {seen}\n{}", cluster.story());
    assert!(count(&seen, "ok") > 1000, "{seen}");
    assert_eq!(cluster.stop().0, 0);
}

/// A server that accepts at once: what waits in the queue at a crash is little, and still none of it is reset.
#[test]
fn crashes_of_concurrent_servers_cost_open_requests_at_most() {
    for name in ["go", "node", "python"] {
        let port = free_port();
        let Some(cluster) = started(name, port, &["wait=1"], &[]) else { return };
        let load = Load::start(local(port), &["clients=8"]);
        crash_in_turn(&cluster);
        let seen = load.finish();
        // Each client has one request open, and each crash hits those of one worker.
        assert!(count(&seen, "failed") <= CRASHES * 8, "{name}: {seen}");
        assert_eq!((count(&seen, "refused"), count(&seen, "timeout"), count(&seen, "other")), (0, 0, 0), "{name}: {seen}");
        assert_eq!(cluster.stop().0, 0);
    }
}

/// Three rolling restarts under both kinds of load: nobody sees anything.
fn rolls(name: &str, words: &[&str]) {
    for (mode, think) in [("close", "0ms"), ("keep", "5ms")] {
        let port = free_port();
        let Some(cluster) = started(name, port, words, &[]) else { return };
        let load = Load::start(local(port), &["clients=16", &format!("mode={mode}"), &format!("think={think}")]);
        for _ in 0..RELOADS {
            reload(&cluster, WORKERS);
        }
        let seen = load.finish();
        assert_eq!(count(&seen, "failed"), 0, "{name}, {mode}: {seen}\n{}", cluster.story());
        // One answer text per process; those who were there for a moment only may have had none.
        let processes = seen["answers"].as_object().map_or(0, serde_json::Map::len);
        assert!(processes > RELOADS, "{processes} processes answered: {seen}\n{}", cluster.story());
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_rolling_restart_of_a_server_with_shutdown_code_fails_nothing() {
    rolls("go", &["graceful", "wait=1"]);
    rolls("node", &["graceful", "wait=1"]);
}

#[test]
fn a_rolling_restart_of_go_without_shutdown_code_fails_nothing() {
    rolls("go", &["wait=1"]);
}

#[test]
fn a_rolling_restart_of_node_without_shutdown_code_fails_nothing() {
    rolls("node", &["wait=1"]);
}

#[test]
fn a_rolling_restart_of_python_without_shutdown_code_fails_nothing() {
    rolls("python", &["wait=1"]);
}

#[test]
fn the_command_reload_from_inside_fails_nothing() {
    let port = free_port();
    let Some(program) = go() else { return };
    let address = format!("127.0.0.1:{port}");
    let cluster = Launch::of(Mode::Plain, &[&program, &address]).set("WORKERS", WORKERS).apart().start();
    cluster.ready(WORKERS);
    let load = Load::start(local(port), &["clients=8"]);
    let answer = cluster.cli(&["reload"]);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    cluster.until("the reload is done", |cluster| cluster.workers()["reload"]["state"] == "done");
    cluster.ready(WORKERS);
    let seen = load.finish();
    assert_eq!(count(&seen, "failed"), 0, "{seen}\n{}", cluster.story());
    assert_eq!(cluster.stop().0, 0);
}

/// What was established is answered; what comes later is refused at once. Clients think, so that there are quiet instants.
#[test]
fn a_stop_under_load_fails_nothing_that_was_established() {
    for (name, words) in
        [("go", &["graceful", "wait=1"][..]), ("go", &["wait=1"]), ("node", &["wait=1"]), ("python", &["wait=1"])]
    {
        let port = free_port();
        let Some(cluster) = started(name, port, words, &[("DRAIN_DELAY", "300ms"), GRACE]) else { return };
        let load = Load::start(local(port), &["clients=8", "think=20ms"]);
        all_serve(&cluster, local(port), "/", WORKERS);
        let (code, _, err) = cluster.stop();
        let seen = load.finish();
        assert_eq!(code, 0, "{err}");
        assert_eq!(
            (count(&seen, "reset"), count(&seen, "eof"), count(&seen, "timeout")),
            (0, 0, 0),
            "{name} {words:?}: {seen}\n{err}"
        );
        assert!(count(&seen, "ok") > 0, "{seen}");
        let late = TcpStream::connect(local(port)).expect_err("nobody is there any more");
        assert_eq!(late.kind(), ErrorKind::ConnectionRefused, "{seen}");
    }
}

/// A long request holds the stop up; who comes meanwhile is put off for a second at most.
#[test]
fn a_stop_that_waits_goes_on_serving() {
    let (Some(node), port) = (tool("node"), free_port()) else { return };
    let file = format!("{}/examples/node/plain.js", env!("CARGO_MANIFEST_DIR"));
    let launch = Launch::of(Mode::Plain, &[&node, &file]).set("WORKERS", WORKERS).set("NODE_IPC", "off").env("PORT", port);
    let cluster = launch.set("GRACE", GRACE.1).start();
    cluster.ready(WORKERS);
    let long = Load::start(local(port), &["clients=6", "hold", "path=/?ms=9000"]);
    cluster.until("the requests are open", |cluster| {
        cluster.rows().iter().all(|row| row["connections"].as_u64().is_some_and(|open| open > 0))
    });
    cluster.signal(Signal::SIGTERM);
    let soon = Duration::from_millis(200);
    cluster.until("new connections are put off", |_| {
        TcpStream::connect_timeout(&local(port), soon).is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    });
    let clock = Stopwatch::start();
    let mut client = TcpStream::connect(local(port)).expect("the stop waits for the long requests");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a connection");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && clock.elapsed() < Duration::from_secs(5), "{answer} {:?}", clock.elapsed());
    let code = cluster.wait_exit();
    let seen = long.finish();
    assert_eq!((code, count(&seen, "ok"), count(&seen, "failed")), (0, 6, 0), "{seen}\n{}", cluster.story());
}

#[test]
fn a_stop_without_load_is_prompt() {
    for (name, words) in [("go", &["graceful"][..]), ("go", &[]), ("node", &[]), ("python", &[])] {
        let port = free_port();
        let Some(cluster) = started(name, port, words, &[GRACE]) else { return };
        // Idle connections do not hold it up.
        let idle = Load::start(local(port), &["clients=8", "hold"]);
        cluster.until("the connections are seen", |cluster| {
            cluster.rows().iter().filter_map(|row| row["connections"].as_u64()).sum::<u64>() >= 8
        });
        let clock = Stopwatch::start();
        cluster.signal(Signal::SIGTERM);
        assert_eq!(cluster.wait_exit(), 0, "{}", cluster.story());
        assert!(clock.elapsed() < PROMPT, "{name} {words:?} took {:?}\n{}", clock.elapsed(), cluster.story());
        idle.finish();
    }
}

/// A request in flight is waited for, though the server has no shutdown code.
#[test]
fn a_stop_waits_for_a_request_in_flight() {
    for name in ["go", "node", "python"] {
        let port = free_port();
        let Some(cluster) = started(name, port, &["wait=1500"], &[]) else { return };
        let load = Load::start(local(port), &["clients=4", "hold"]);
        cluster.until("the requests are open", |cluster| {
            cluster.rows().iter().filter_map(|row| row["connections"].as_u64()).sum::<u64>() >= 4
        });
        cluster.signal(Signal::SIGTERM);
        let code = cluster.wait_exit();
        let seen = load.finish();
        assert_eq!((code, count(&seen, "ok"), count(&seen, "failed")), (0, 4, 0), "{name}: {seen}\n{}", cluster.story());
    }
}
