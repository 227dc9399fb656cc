//! A worker that leaves connections waiting: out of the live set, then replaced; what waits is served.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{all_serve, borrowed, hold, is_shared, local, script, slot_at_once, sockets};
use crate::support::{Cluster, Launch, Load, Mode, Stage, example, free_port, modes};

fn started(mode: Mode, port: u16, timeout: &str) -> Cluster {
    let (program, bind) = (example("sockets"), format!("bind=127.0.0.1:{port}"));
    let launch = Launch::of(mode, &sockets(&program, &[&bind, "listen", "serve"]));
    let cluster = launch.set("WORKERS", 2).set("HANG_TIMEOUT", timeout).start();
    cluster.ready(2);
    is_shared(&cluster);
    all_serve(&cluster, local(port), "/", 2);
    proven(&cluster);
    cluster
}

/// One that hangs in its first second is a failing start, and no matter of these tests.
fn proven(cluster: &Cluster) {
    let since = |row: &Value| row["uptime_seconds"].as_f64().unwrap_or_default();
    cluster.until("all were ready for a second", |cluster| cluster.rows().iter().all(|row| since(row) > 2.0));
}

fn row(cluster: &Cluster, pid: i32) -> Value {
    cluster.rows().into_iter().find(|row| row["pid"].as_i64() == Some(pid.into())).unwrap_or_default()
}

#[test]
fn a_worker_that_stops_accepting_is_replaced_and_its_queue_is_served() {
    for mode in modes() {
        let port = free_port();
        let cluster = started(mode, port, "1s");
        let hung = cluster.ready(2)[0];
        hold(&cluster, hung);
        let load = Load::start(local(port), &["clients=8"]);
        cluster.until("connections wait in its queue", |cluster| row(cluster, hung)["accept_queue"].as_u64() > Some(0));
        cluster.until("it was replaced", |cluster| {
            let ready = cluster.pids_in("ready");
            ready.len() == 2 && !ready.contains(&hung)
        });
        all_serve(&cluster, local(port), "/", 2);
        let seen = load.finish();
        // It had accepted nothing when it stopped.
        assert_eq!(seen["failed"], 0, "{seen}\n{}", cluster.story());
        cluster.until("it is gone", |cluster| cluster.rows().len() == 2);
        let ended = cluster.rows().into_iter().find(|row| row["id"] == 0).unwrap_or_default();
        assert_eq!((&ended["last_exit"]["reason"], &ended["restarts"]), (&"hung".into(), &1.into()), "{ended}");
        assert_eq!(cluster.stop().0, 0);
    }
}

/// Its successor is kept waiting, so that there is time to recover.
#[test]
fn a_hung_worker_comes_back_if_it_recovers_in_time() {
    let (stage, port) = (Stage::new(), free_port());
    let (mark, go) = (stage.path("mark-$CLUSTERINIT_WORKER_ID"), stage.path("go"));
    let command =
        script(&format!("[ -e {mark} ] && w=wait={go}; touch {mark}; exec $sockets bind=127.0.0.1:{port} $w listen serve"));
    let cluster = Launch::of(Mode::Plain, &borrowed(&command)).set("WORKERS", 2).set("HANG_TIMEOUT", "500ms").start();
    let hung = cluster.ready(2)[0];
    all_serve(&cluster, local(port), "/", 2);
    proven(&cluster);
    hold(&cluster, hung);
    let load = Load::start(local(port), &["clients=8"]);
    cluster.until("it is out of rotation", |cluster| row(cluster, hung)["state"] == "hung");
    for _ in 0..20 {
        assert_eq!(slot_at_once(local(port)), Some(1), "nothing new reaches it\n{}", cluster.story());
    }
    cluster.signal_inner(hung, Signal::SIGCONT);
    cluster.until("it is back", |cluster| row(cluster, hung)["state"] == "ready");
    let seen = load.finish();
    assert_eq!(seen["failed"], 0, "{seen}\n{}", cluster.story());
    all_serve(&cluster, local(port), "/", 2);
    stage.write("go", "");
    assert_eq!(cluster.stop().0, 0);
}

/// Without `HANG_TIMEOUT` it is left alone, but gets nothing new while its queue stays filled and the other's is empty.
#[test]
fn a_worker_that_lags_behind_gets_nothing_until_it_has_caught_up() {
    let port = free_port();
    let cluster = started(Mode::Plain, port, "off");
    let stopped = cluster.ready(2)[0];
    hold(&cluster, stopped);
    let load = Load::start(local(port), &["clients=8"]);
    cluster.until("20 in a row go to the other one", |_| (0..20).all(|_| slot_at_once(local(port)) == Some(1)));
    assert_eq!(row(&cluster, stopped)["state"], "ready");
    cluster.signal_inner(stopped, Signal::SIGCONT);
    all_serve(&cluster, local(port), "/", 2);
    let seen = load.finish();
    assert_eq!(seen["failed"], 0, "{seen}\n{}", cluster.story());
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn health_fails_when_everybody_has_left_connections_waiting() {
    let (program, port) = (example("sockets"), free_port());
    let bind = format!("bind=127.0.0.1:{port}");
    let launch = Launch::of(Mode::Plain, &sockets(&program, &[&bind, "listen", "serve"])).set("WORKERS", 2);
    let cluster = launch.set("UNHEALTHY_AFTER", "1s").set("RESTART_BACKOFF", "10ms..20ms").start();
    let workers = cluster.ready(2);
    for pid in &workers {
        hold(&cluster, *pid);
    }
    let load = Load::start(local(port), &["clients=16"]);
    cluster.until("/healthz fails", |cluster| cluster.answers("/healthz") == 503);
    for pid in &workers {
        cluster.signal_inner(*pid, Signal::SIGCONT);
    }
    cluster.until("/healthz is well again", |cluster| cluster.answers("/healthz") == 200);
    let seen = load.finish();
    assert_eq!(seen["failed"], 0, "{seen}\n{}", cluster.story());
    assert_eq!(cluster.stop().0, 0);
}
