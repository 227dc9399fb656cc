//! Stops: what is in flight is answered, nothing waits for clients that only keep their connections, and a program's own handler runs.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{PROMPT, WORKERS, count, launch, log_lines, node, pid_of, program, proven, replaced, serves, source, stops};
use crate::share::{all_serve, body, local};
use crate::support::{Cluster, Load, Mode, Stage, Stopwatch, free_port, modes};

const BALANCES: [&str; 3] = ["spread", "queue", "rr"];

fn started(name: &str, port: u16, settings: &[(&str, &str)]) -> Option<Cluster> {
    let mut launch = launch(Mode::Plain, &node()?, &source(name), port);
    for (name, value) in settings {
        launch = launch.set(name, value);
    }
    let cluster = launch.start();
    serves(&cluster, port);
    Some(cluster)
}

fn stops_promptly(cluster: &Cluster) {
    let clock = Stopwatch::start();
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(), 0, "{}", cluster.story());
    assert!(clock.elapsed() < PROMPT, "{:?}\n{}", clock.elapsed(), cluster.story());
}

fn connections(cluster: &Cluster) -> u64 {
    cluster.rows().iter().filter_map(|row| row["connections"].as_u64()).sum()
}

#[test]
fn what_is_in_flight_is_answered() {
    for name in ["plain.js", "graceful.js"] {
        for balance in BALANCES {
            let port = free_port();
            let Some(cluster) = started(name, port, &[("BALANCE", balance)]) else { return };
            let load = Load::start(local(port), &["clients=8", "hold", "path=/?ms=1500"]);
            cluster.until("the requests are open", |cluster| connections(cluster) >= 8);
            cluster.signal(Signal::SIGTERM);
            let code = cluster.wait_exit();
            let seen = load.finish();
            let told = (code, count(&seen, "ok"), count(&seen, "failed"));
            assert_eq!(told, (0, 8, 0), "{name}, {balance}: {seen}\n{}", cluster.story());
        }
    }
}

#[test]
fn a_stop_under_load_fails_nothing_that_was_established() {
    for name in ["plain.js", "graceful.js"] {
        for mode in ["mode=close", "mode=keep"] {
            let port = free_port();
            let Some(cluster) = started(name, port, &[("DRAIN_DELAY", "300ms")]) else { return };
            let load = Load::start(local(port), &["clients=8", "think=20ms", mode]);
            all_serve(&cluster, local(port), "/", WORKERS);
            stops_promptly(&cluster);
            let seen = load.finish();
            let lost = (count(&seen, "reset"), count(&seen, "eof"), count(&seen, "timeout"));
            assert_eq!(lost, (0, 0, 0), "{name}, {mode}: {seen}\n{}", cluster.story());
            assert!(count(&seen, "ok") > 0, "{seen}");
        }
    }
}

/// Without a pause between two requests there is no quiet instant, and `server.close()` alone would wait for ever.
#[test]
fn busy_clients_that_keep_their_connections_cannot_hold_a_worker() {
    for balance in BALANCES {
        let port = free_port();
        let Some(cluster) = started("plain.js", port, &[("BALANCE", balance)]) else { return };
        let load = Load::start(local(port), &["clients=8", "mode=keep"]);
        all_serve(&cluster, local(port), "/", WORKERS);
        stops_promptly(&cluster);
        let seen = load.finish();
        assert_eq!((count(&seen, "eof"), count(&seen, "timeout")), (0, 0), "{balance}: {seen}\n{}", cluster.story());
    }
}

#[test]
fn idle_connections_do_not_hold_a_worker() {
    for balance in BALANCES {
        let port = free_port();
        let Some(cluster) = started("plain.js", port, &[("BALANCE", balance)]) else { return };
        let idle = Load::start(local(port), &["clients=8", "hold"]);
        cluster.until("the connections are seen", |cluster| connections(cluster) >= 8);
        let clock = Stopwatch::start();
        stops_promptly(&cluster);
        // Not Node's own keepAliveTimeout: that is 5 s.
        assert!(clock.elapsed() < Duration::from_secs(5), "{balance}: {:?}\n{}", clock.elapsed(), cluster.story());
        assert_eq!(count(&idle.finish(), "failed"), 0);
    }
}

#[test]
fn a_handler_of_the_program_runs() {
    for mode in modes() {
        let (Some(node), port) = (node(), free_port()) else { return };
        let cluster = launch(mode, &node, &source("graceful.js"), port).start();
        serves(&cluster, port);
        let (code, out, err) = cluster.stop();
        let told = (code, out.matches("SIGTERM, closing").count(), out.matches(": closed").count());
        assert_eq!(told, (0, WORKERS, WORKERS), "{out}\n{err}");
    }
}

/// It is asked for by another signal.
#[test]
fn the_stop_signal_is_the_one_that_was_asked_for() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "process.on('SIGINT', () => { say('INT'); process.exit(0); });
        process.on('disconnect', () => say('disconnect')); server().listen(PORT);";
    let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).set("STOP_SIGNAL", "INT").start();
    serves(&cluster, port);
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.as_str()), (0, "INT\nINT\n"), "{err}");
}

/// In Node's own cluster the channel would hold it, because it listens to messages.
#[test]
fn a_program_that_closes_its_servers_ends_with_them() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "process.on('message', () => {}); const s = server().listen(PORT);
        process.on('SIGTERM', () => { say('TERM'); s.close(() => say('closed')); });";
    let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).start();
    serves(&cluster, port);
    let clock = Stopwatch::start();
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.matches("TERM").count(), out.matches("closed").count()), (0, WORKERS, WORKERS), "{out}\n{err}");
    assert!(clock.elapsed() < Duration::from_secs(4), "{:?}\n{err}", clock.elapsed());
}

#[test]
fn without_the_preload_a_handler_runs_too() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "const s = server().listen(PORT); process.on('SIGTERM', () => { say('TERM'); s.close(); });";
    let launch = launch(Mode::Plain, &node, &program(&stage, text), port).set("NODE_IPC", "on,no-preload");
    let cluster = launch.start();
    serves(&cluster, port);
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.as_str()), (0, "TERM\nTERM\n"), "{err}");
}

#[test]
fn now_is_the_stop_signal_at_once() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(&stage, "process.on('disconnect', () => say('disconnect')); server().listen(PORT);");
    let cluster = launch(Mode::Plain, &node, &file, port).set("STOP_WHEN", "now").start();
    serves(&cluster, port);
    let load = Load::start(local(port), &["clients=4", "hold"]);
    cluster.until("the connections are seen", |cluster| connections(cluster) >= 4);
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    load.finish();
}

/// The events that a worker's program sees, in the order of Node's own cluster.
#[test]
fn a_program_without_a_handler_is_disconnected_and_finishes() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "cluster.worker.on('disconnect', () => say('disconnect', cluster.worker.exitedAfterDisconnect));
        process.on('exit', (code) => say('exit', code)); server().on('close', () => say('close')).listen(PORT);";
    let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).set("WORKERS", 1).start();
    cluster.ready(1);
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.as_str()), (0, "close\ndisconnect true\nexit 0\n"), "{err}");
}

/// As PM2's `shutdown_with_message`, where that is asked for.
#[test]
fn the_message_shutdown_is_sent_where_it_is_asked_for() {
    for (setting, times) in [("auto", 0), ("auto,shutdown", WORKERS)] {
        let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
        let text = "process.on('message', (message) => message === 'shutdown' && say('told')); server().listen(PORT);";
        let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).set("NODE_IPC", setting).start();
        serves(&cluster, port);
        let (code, out, err) = cluster.stop();
        assert_eq!((code, out.matches("told").count()), (0, times), "{setting}: {out}\n{err}");
    }
}

/// `worker.disconnect()` and `worker.kill()` inside a worker: it ends with 0 and is replaced.
#[test]
fn a_worker_that_leaves_by_itself_is_replaced() {
    for call in ["disconnect", "kill"] {
        for balance in BALANCES {
            let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
            let text = format!(
                "http.createServer((request, answer) => {{
                    if (request.url === '/leave') setTimeout(() => cluster.worker.{call}(), 10);
                    setTimeout(() => answer.end(me()), 2);
                }}).listen(PORT);"
            );
            let cluster = launch(Mode::Plain, &node, &program(&stage, &text), port).set("BALANCE", balance).start();
            serves(&cluster, port);
            proven(&cluster);
            let load = Load::start(local(port), &["clients=8"]);
            let answer = body(local(port), "/leave").unwrap_or_else(|| panic!("no answer\n{}", cluster.story()));
            let left: Value = serde_json::from_str(&answer).expect("JSON");
            let slot = usize::try_from(left["worker"].as_u64().expect("a slot")).expect("it fits");
            cluster.until("it was replaced", |cluster| {
                super::row(cluster, slot)["restarts"] == 1 && cluster.pids_in("ready").len() == WORKERS
            });
            let seen = load.finish();
            // `kill` ends at once, in Node's own cluster too: what it had begun to answer is lost, and nothing else.
            let most = if call == "kill" { 8 } else { 0 };
            assert!(count(&seen, "failed") <= most, "{call}, {balance}: {seen}\n{}", cluster.story());
            let others = (count(&seen, "refused"), count(&seen, "timeout"), count(&seen, "other"));
            assert_eq!(others, (0, 0, 0), "{call}, {balance}: {seen}\n{}", cluster.story());
            let ended = super::row(&cluster, slot)["last_exit"].clone();
            assert_eq!((&ended["code"], &ended["reason"]), (&0.into(), &"exit".into()), "{call}, {balance}: {ended}");
            stops(cluster);
        }
    }
}

#[test]
fn one_worker_fewer_loses_nothing() {
    let port = free_port();
    let Some(cluster) = started("plain.js", port, &[]) else { return };
    let load = Load::start(local(port), &["clients=8", "mode=keep"]);
    cluster.signal(Signal::SIGTTOU);
    cluster.ready(WORKERS - 1);
    cluster.signal(Signal::SIGTTIN);
    cluster.ready(WORKERS);
    let seen = load.finish();
    assert_eq!(count(&seen, "failed"), 0, "{seen}\n{}", cluster.story());
    stops(cluster);
}

/// Its own handler does not run where the channel's end would have ended it: nothing comes between.
#[test]
fn the_end_of_clusterinit_is_the_end_of_its_workers() {
    let port = free_port();
    let Some(cluster) = started("graceful.js", port, &[]) else { return };
    let pid = cluster.outer(pid_of(&cluster, 0));
    cluster.signal(Signal::SIGKILL);
    cluster.until("they are gone", |cluster| cluster.left().is_empty());
    assert!(!crate::support::is_alive(pid));
    assert_eq!(log_lines(&cluster, &["panicked"]), 0);
}

/// A worker that is replaced because it was killed is not confused with one that left by itself.
#[test]
fn a_killed_worker_is_a_crash() {
    let port = free_port();
    let Some(cluster) = started("plain.js", port, &[]) else { return };
    proven(&cluster);
    let victim = pid_of(&cluster, 1);
    cluster.signal_inner(victim, Signal::SIGKILL);
    replaced(&cluster, victim);
    assert_eq!(super::row(&cluster, 1)["last_exit"]["reason"], "crash", "{}", cluster.story());
    stops(cluster);
}
