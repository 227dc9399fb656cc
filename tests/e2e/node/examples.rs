//! Every program of `examples/node`, unchanged, on every version of Node: what each of them promises.

use std::collections::BTreeSet;
use std::io::Write;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{GRACE, WORKERS, count, launch, packages, pid_of, proven, replaced, row, serves, source, stops, stops_whole};
use crate::share::{all_serve, body, hold, local, reload};
use crate::support::{Cluster, Launch, Load, Mode, exchange, free_port};

/// Each test below, for `node` of the PATH and for each version that `.ci/install node` brings.
macro_rules! on_every_node {
    ($($test:ident)*) => {
        on_every_node!(path, super::super::node(), $($test)*);
        on_every_node!(node18, super::super::version(18), $($test)*);
        on_every_node!(node20, super::super::version(20), $($test)*);
        on_every_node!(node22, super::super::version(22), $($test)*);
        on_every_node!(node24, super::super::version(24), $($test)*);
    };
    ($name:ident, $node:expr, $($test:ident)*) => {
        mod $name {
            $(#[test]
            fn $test() {
                if let Some(node) = $node {
                    super::$test(&node);
                }
            })*
        }
    };
}

on_every_node!(
    hello hello_master refork kill_process messages fibonacci children express sticky plain graceful log metrics job
);

fn started(node: &str, name: &str, port: u16) -> Cluster {
    let cluster = launch(Mode::Plain, node, &source(name), port).start();
    serves(&cluster, port);
    cluster
}

fn get(cluster: &Cluster, port: u16, path: &str) -> String {
    body(local(port), path).unwrap_or_else(|| panic!("GET {path}\n{}", cluster.story()))
}

fn json(cluster: &Cluster, port: u16, path: &str) -> Value {
    serde_json::from_str(&get(cluster, port, path)).expect("JSON")
}

fn hello(node: &str) {
    let port = free_port();
    let cluster = started(node, "hello.js", port);
    let answer = get(&cluster, port, "/");
    assert!(answer.ends_with("says hello, worker 1\n") || answer.ends_with("says hello, worker 2\n"), "{answer}");
    reload(&cluster, WORKERS);
    serves(&cluster, port);
    let (code, out, err) = cluster.stop();
    // Nobody took the primary's branch.
    assert_eq!((code, out.contains("Primary"), out.matches("started").count()), (0, false, 2 * WORKERS), "{out}\n{err}");
}

fn hello_master(node: &str) {
    let port = free_port();
    let cluster = started(node, "hello-master.js", port);
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
}

fn refork(node: &str) {
    let port = free_port();
    let cluster = started(node, "refork.js", port);
    for (path, code) in [("/crash", 1), ("/exit", 1)] {
        proven(&cluster);
        let before = cluster.ready(WORKERS);
        let _cut_off = body(local(port), path);
        cluster.until("it was replaced", |cluster| {
            let ready = cluster.pids_in("ready");
            ready.len() == WORKERS && ready != before
        });
        let crashed = cluster
            .rows()
            .into_iter()
            .find(|row| row["pid"].as_i64().is_none_or(|pid| !before.iter().any(|old| i64::from(*old) == pid)));
        let crashed = crashed.expect("the successor");
        assert_eq!(
            (&crashed["last_exit"]["code"], &crashed["last_exit"]["reason"]),
            (&code.into(), &"crash".into()),
            "{crashed}"
        );
        all_serve(&cluster, local(port), "/", WORKERS);
    }
    stops(cluster);
}

fn kill_process(node: &str) {
    let port = free_port();
    let cluster = started(node, "kill-process.js", port);
    for (path, code, signal) in [
        ("/kill-process", Value::from(0), Value::Null),
        ("/kill-process?hard", Value::Null, Value::from("SIGTERM")),
        ("/kill-process?disconnect", Value::from(0), Value::Null),
    ] {
        proven(&cluster);
        let answer = get(&cluster, port, path);
        let victim: i32 = answer.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid");
        let slot = (0..WORKERS).find(|slot| pid_of(&cluster, *slot) == victim);
        replaced(&cluster, victim);
        let ended: Vec<Value> = cluster.rows().iter().map(|row| row["last_exit"].clone()).collect();
        let is_it = |last: &Value| last["code"] == code && last["signal"] == signal;
        assert!(slot.map_or_else(|| ended.iter().any(is_it), |slot| is_it(&ended[slot])), "{path}: {ended:?}");
        all_serve(&cluster, local(port), "/", WORKERS);
    }
    stops(cluster);
}

fn messages(node: &str) {
    let port = free_port();
    let cluster = started(node, "messages.js", port);
    let from = json(&cluster, port, "/tell?to=all&text=hello")["worker"].clone();
    let wanted = serde_json::json!([{ "clusterinit": { "from": from }, "data": "hello" }]);
    let mut seen = BTreeSet::new();
    cluster.until("both have heard it", |cluster| {
        let told = json(cluster, port, "/");
        if told["heard"] == wanted {
            seen.extend(told["worker"].as_u64());
        }
        seen.len() == WORKERS
    });
    stops(cluster);
}

/// While one computes, the other one answers.
fn fibonacci(node: &str) {
    let port = free_port();
    let cluster = started(node, "fibonacci.js", port);
    assert_eq!(json(&cluster, port, "/fibonacci?n=20")["value"], 6765);
    let load = Load::start(local(port), &["clients=1", "path=/fibonacci?n=32"]);
    for _ in 0..20 {
        get(&cluster, port, "/");
    }
    let seen = load.finish();
    assert_eq!(count(&seen, "failed"), 0, "{seen}\n{}", cluster.story());
    stops(cluster);
}

fn children(node: &str) {
    let port = free_port();
    let cluster = started(node, "children.js", port);
    assert_eq!(json(&cluster, port, "/exec")["told"], "42");
    assert_eq!(json(&cluster, port, "/execFile")["told"], "Linux");
    for _ in 0..4 {
        assert!(json(&cluster, port, "/spawn")["told"].as_str().is_some_and(|told| told.ends_with(" is up")));
        assert_eq!(json(&cluster, port, "/fork")["told"], serde_json::json!({ "square": 144, "isWorker": false }));
    }
    cluster.until("their trees are seen", |cluster| {
        cluster.rows().iter().filter_map(|row| row["processes"].as_u64()).sum::<u64>() >= 2 + 4 * 3
    });
    // The tree of a worker that dies goes with it, and that of a stop too: `sleep 1000` and a fork with a timer.
    proven(&cluster);
    let victim = pid_of(&cluster, 0);
    cluster.signal_inner(victim, Signal::SIGKILL);
    replaced(&cluster, victim);
    cluster.until("its tree is gone", |cluster| row(cluster, 0)["processes"] == 1);
    json(&cluster, port, "/spawn");
    json(&cluster, port, "/fork");
    stops_whole(&cluster);
}

fn with_packages(node: &str, name: &str, port: u16) -> Option<Cluster> {
    let cluster = launch(Mode::Plain, node, &source(name), port).env("NODE_PATH", packages()?).start();
    serves(&cluster, port);
    Some(cluster)
}

fn express(node: &str) {
    let port = free_port();
    let Some(cluster) = with_packages(node, "express-app.js", port) else { return };
    let request = "POST /echo HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"a\":[1]}";
    assert!(exchange(local(port), request.as_bytes()).is_ok_and(|answer| answer.ends_with("{\"a\":[1]}")));
    let load = Load::start(local(port), &["clients=8", "mode=keep"]);
    reload(&cluster, WORKERS);
    let seen = load.finish();
    assert_eq!(count(&seen, "failed"), 0, "{seen}\n{}", cluster.story());
    let slow = Load::start(local(port), &["clients=4", "hold", "path=/slow?ms=1000"]);
    cluster.until("the requests are open", |cluster| {
        cluster.rows().iter().filter_map(|row| row["connections"].as_u64()).sum::<u64>() >= 4
    });
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(), 0, "{}", cluster.story());
    let seen = slow.finish();
    assert_eq!((count(&seen, "ok"), count(&seen, "failed")), (4, 0), "{seen}\n{}", cluster.story());
}

/// A request from 127.0.0.N.
fn from(source: u8, port: u16, path: &str) -> Option<Value> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, source], 0)).into()).ok()?;
    socket.connect(&local(port).into()).ok()?;
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let answer = std::io::read_to_string(stream).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(!head.contains(" 400 "), "the session is unknown in this worker: {body}");
    // Chunked, or not.
    serde_json::from_str(&body[body.find('{')?..=body.rfind('}')?]).ok()
}

/// Each client's requests go to the one process that has its session; the clients are spread over both.
fn sticky(node: &str) {
    let port = free_port();
    let cluster = launch(Mode::Plain, node, &source("sticky.js"), port).set("BALANCE", "sticky").start();
    cluster.ready(WORKERS);
    let sessions: Vec<(u8, Value)> = (1..=20).filter_map(|source| Some((source, from(source, port, "/connect")?))).collect();
    let processes: BTreeSet<i64> = sessions.iter().filter_map(|(_, session)| session["pid"].as_i64()).collect();
    assert_eq!((sessions.len(), processes.len()), (20, WORKERS), "{}", cluster.story());
    for round in 0..5 {
        for (source, session) in &sessions {
            let id = session["id"].as_str().expect("an id");
            let sent = from(*source, port, &format!("/send?id={id}&text={round}")).expect("an answer");
            let told = from(*source, port, &format!("/poll?id={id}")).expect("an answer");
            assert_eq!((&sent["pid"], &told["pid"]), (&session["pid"], &session["pid"]));
            assert_eq!(told["texts"], serde_json::json!([round.to_string()]));
        }
    }
    stops(cluster);
}

fn plain(node: &str) {
    let port = free_port();
    let cluster = started(node, "plain.js", port);
    let load = Load::start(local(port), &["clients=4", "hold", "path=/?ms=1000"]);
    cluster.until("the requests are open", |cluster| {
        cluster.rows().iter().filter_map(|row| row["connections"].as_u64()).sum::<u64>() >= 4
    });
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(), 0, "{}", cluster.story());
    let seen = load.finish();
    assert_eq!((count(&seen, "ok"), count(&seen, "failed")), (4, 0), "{seen}\n{}", cluster.story());
}

fn graceful(node: &str) {
    let port = free_port();
    let cluster = started(node, "graceful.js", port);
    let load = Load::start(local(port), &["clients=8", "mode=keep"]);
    reload(&cluster, WORKERS);
    let seen = load.finish();
    assert_eq!(count(&seen, "failed"), 0, "{seen}\n{}", cluster.story());
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.matches(": closed").count()), (0, 2 * WORKERS), "{out}\n{err}");
}

fn log(node: &str) {
    let port = free_port();
    let Some(cluster) = with_packages(node, "log.js", port) else { return };
    get(&cluster, port, "/some/path");
    cluster.until("the line is there", |cluster| {
        cluster
            .out()
            .lines()
            .any(|line| line.starts_with("[20") && line.contains("] [INFO] web - ") && line.contains("/some/path"))
    });
    stops(cluster);
}

/// Each worker counts for itself; the side port adds up, and one that is mute spoils nothing.
fn metrics(node: &str) {
    let port = free_port();
    let Some(cluster) = with_packages(node, "metrics.js", port) else { return };
    let hits = |cluster: &Cluster| {
        let told = cluster.try_get("/metrics").filter(|reply| reply.status == 200)?.body;
        told.lines().find_map(|line| line.strip_prefix("hits_total ")?.parse::<u32>().ok())
    };
    let before = hits(&cluster).expect("a sum");
    for _ in 0..20 {
        get(&cluster, port, "/");
    }
    assert_eq!(hits(&cluster), Some(before + 20), "{:?}\n{}", cluster.try_get("/metrics"), cluster.story());
    hold(&cluster, pid_of(&cluster, 0));
    cluster.until("the other one's are told", |cluster| hits(cluster).is_some_and(|sum| sum < before + 20));
    cluster.signal_inner(pid_of(&cluster, 0), Signal::SIGCONT);
    cluster.until("all are told", |cluster| hits(cluster) == Some(before + 20));
    stops(cluster);
}

fn job(node: &str) {
    for (status, code) in [("0", 0), ("3", 3)] {
        let launch = Launch::of(Mode::Plain, &[node, &source("job.js"), status]).set(GRACE.0, GRACE.1);
        let (ended, out, err) = launch.start().finish();
        assert_eq!((ended, out.as_str()), (code, "the work is done\n"), "{err}");
    }
}
