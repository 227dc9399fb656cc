//! The side port: what it answers, and what nobody can do to it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Cluster, Launch, Mode, Stopwatch, exchange, modes, request};

fn running(mode: Mode, count: usize) -> Cluster {
    let workers = count.to_string();
    let cluster = Cluster::start(mode, &[("WORKERS", &workers), ("READY", "running")], &["sleep", "1000"]);
    cluster.ready(count);
    cluster
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        value.as_object().unwrap_or_else(|| panic!("not a map: {value}")).keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted(names: &str) -> Vec<&str> {
    let mut names: Vec<&str> = names.split_ascii_whitespace().collect();
    names.sort_unstable();
    names
}

#[test]
fn health_and_readiness() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
        cluster.until("it answers", |cluster| cluster.try_get("/healthz").is_some());
        // Not ready for a second yet, which is no reason to restart a container.
        let unready = request(cluster.side_port(), "GET", "/readyz").expect("an answer");
        if cluster.pids_in("starting").len() == 2 {
            assert_eq!(unready.status, 503);
            assert!(unready.body.len() > 5, "it says why: {:?}", unready.body);
        }
        for path in ["/healthz", "/livez"] {
            assert_eq!(cluster.get(path), (200, "ok\n".to_owned()), "{path}");
        }
        cluster.ready(2);
        assert_eq!(cluster.get("/readyz").0, 200);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn the_first_readiness_is_that_of_all_wanted_workers_then_min_ready_is_enough() {
    let script = "[ $CLUSTERINIT_WORKER_ID = 0 ] || [ -e $1 ] || exec sleep 1000; exec \"$2\"";
    let scratch = tempfile::tempdir().expect("a directory");
    let go = scratch.path().join("go");
    let server = crate::support::example("server");
    let command = ["sh", "-c", script, "sh", go.to_str().expect("UTF-8"), &server];
    let launch = Launch::of(Mode::Plain, &command).set("WORKERS", 2).set("READY", "notify").env("PORT", 0);
    let cluster = launch.set("START_TIMEOUT", "5s").set("RESTART_BACKOFF", "10ms..20ms").start();
    cluster.until("slot 0 is ready", |cluster| cluster.pids_in("ready").len() == 1);
    assert_eq!(cluster.get("/readyz").0, 503, "all of them the first time");
    // MIN_READY is 1: enough once START_TIMEOUT has passed.
    cluster.until("one is enough now", |cluster| cluster.answers("/readyz") == 200);
    std::fs::write(&go, "").expect("written");
    let pids = cluster.ready(2);
    cluster.signal_inner(pids[0], Signal::SIGSTOP);
    cluster.signal_inner(pids[1], Signal::SIGKILL);
    assert_eq!(cluster.get("/readyz").0, 200, "one is enough");
    cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|pid| !pids.contains(pid)));
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 0, "{err}");
}

#[test]
fn workers_has_exactly_the_announced_fields() {
    for mode in modes() {
        let cluster = running(mode, 2);
        let all = cluster.workers();
        let top = "version pid state generation uptime_seconds cpu memory share orphans_reaped workers reload not_in_force";
        assert_eq!(keys(&all), sorted(top));
        assert_eq!(keys(&all["cpu"]), sorted("limit source workers_wanted"));
        assert_eq!(keys(&all["memory"]), sorted("limit_bytes worker_cap_bytes enforced_by source"));
        assert_eq!(keys(&all["share"]), sorted("mechanism balance reason disconnect listeners"));
        assert_eq!(keys(&all["reload"]), sorted("state reason seconds_ago"));
        assert_eq!(all["version"], env!("CARGO_PKG_VERSION"));
        let pid = if mode == Mode::Pid1 { 1 } else { cluster.pid() };
        assert_eq!((&all["pid"], &all["state"], &all["generation"]), (&pid.into(), &"running".into(), &1.into()));
        assert_eq!(all["cpu"]["workers_wanted"], 2);
        let share = serde_json::json!({
            "mechanism": "seccomp", "balance": "spread", "reason": null, "disconnect": true, "listeners": []
        });
        assert_eq!(all["share"], share, "a program that never listens has no listeners");
        assert_eq!(all["reload"], serde_json::json!({"state": "none", "reason": null, "seconds_ago": null}));
        assert_eq!((&all["orphans_reaped"], &all["not_in_force"]), (&0.into(), &Value::Array(Vec::new())));
        assert!(all["uptime_seconds"].as_f64().is_some_and(|age| (1.0..60.0).contains(&age)));
        let worker =
            "id pid state generation uptime_seconds restarts processes memory_bytes memory_cap_bytes cpu_seconds connections
            accept_queue next_start_seconds last_exit";
        for (id, row) in cluster.rows().iter().enumerate() {
            assert_eq!(keys(row), sorted(worker));
            assert_eq!((&row["id"], &row["restarts"], &row["processes"]), (&id.into(), &0.into(), &1.into()));
            assert_eq!((&row["state"], &row["generation"]), (&"ready".into(), &1.into()));
            assert!(row["next_start_seconds"].is_null() && row["last_exit"].is_null());
            assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 50_000 && bytes < 50_000_000), "{row}");
            assert!(row["cpu_seconds"].as_f64().is_some_and(|seconds| (0.0..5.0).contains(&seconds)), "{row}");
            assert!(row["uptime_seconds"].as_f64().is_some_and(|age| age >= 1.0), "{row}");
        }
        cluster.signal_inner(cluster.ready(2)[0], Signal::SIGKILL);
        cluster.until("it was replaced", |cluster| !cluster.rows()[0]["last_exit"].is_null());
        assert_eq!(keys(&cluster.rows()[0]["last_exit"]), sorted("code signal reason seconds_ago"));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn head_other_methods_and_other_paths() {
    let cluster = running(Mode::Plain, 1);
    let address = cluster.side_port();
    for path in ["/healthz", "/livez", "/readyz", "/workers"] {
        let get = request(address, "GET", path).expect("an answer");
        let head = request(address, "HEAD", path).expect("an answer");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(get.header("content-type"), head.header("content-type"));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let reply = request(address, method, path).expect("an answer");
            assert_eq!(reply.status, 405, "{method} {path}");
            assert!(reply.header("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("HEAD")), "{reply:?}");
        }
    }
    let workers = request(address, "GET", "/workers").expect("an answer");
    assert!(workers.header("content-type").is_some_and(|kind| kind.starts_with("application/json")), "{workers:?}");
    for path in ["/nothing", "/healthz/", "/WORKERS", "/../etc/passwd", "/workers/0"] {
        assert_eq!(request(address, "GET", path).expect("an answer").status, 404, "{path}");
    }
    assert_eq!(request(address, "GET", "/healthz?verbose=1").expect("an answer").status, 200, "a query changes nothing");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_connection_can_be_kept_and_requests_come_one_after_the_other() {
    let cluster = running(Mode::Plain, 1);
    let one = "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n";
    let last = "GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let answer = exchange(cluster.side_port(), format!("{one}{one}{last}").as_bytes()).expect("an answer");
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 3, "{answer}");
    let old = exchange(cluster.side_port(), b"GET /healthz HTTP/1.0\r\n\r\n").expect("an answer");
    assert!(old.contains(" 200 ") && old.ends_with("ok\n"), "{old}");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn nothing_of_the_environment_or_the_arguments_is_told() {
    let launch = Launch::of(Mode::Plain, &["sh", "-c", "exec sleep 1000", "argument-hunter2"]);
    let cluster = launch.env("PASSWORD", "value-hunter2").set("WORKERS", 1).set("READY", "running").start();
    cluster.ready(1);
    for path in ["/workers", "/healthz", "/readyz", "/"] {
        assert!(!cluster.get(path).1.contains("hunter2"), "{path}");
    }
    assert_eq!(cluster.stop().0, 0);
}

/// Opens this many connections and sends these bytes on each.
fn connections(cluster: &Cluster, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect(cluster.side_port()).expect("the side port accepts");
        // The server may have closed it already, to make room.
        let _refused = stream.write_all(bytes);
        stream.set_nonblocking(true).expect("a socket");
        stream
    };
    (0..count).map(open).collect()
}

/// Whether the server has closed this connection.
fn is_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn a_thousand_idle_connections() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("our own limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard).expect("up to the hard limit");
    for mode in modes() {
        let cluster = running(mode, 1);
        let idle = connections(&cluster, 1000, b"");
        assert_eq!(cluster.get("/healthz").0, 200);
        cluster.until("all but 256 were closed", |_| idle.iter().filter(|stream| is_closed(stream)).count() >= 744);
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", cluster.pid())).map_or(0, Iterator::count);
        assert!(descriptors < 300, "{descriptors} descriptors");
        assert_eq!(cluster.get("/healthz").0, 200);
        cluster.until("the rest follows in its time", |_| idle.iter().all(is_closed));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn half_open_requests_are_closed_after_their_time() {
    let cluster = running(Mode::Plain, 1);
    let clock = Stopwatch::start();
    let mut halves = connections(&cluster, 20, b"GET /healthz HTTP/1.1\r\nHost: t\r\nX-Slow: ");
    assert_eq!(cluster.get("/healthz").0, 200);
    let mut early = 0;
    cluster.until("they were closed", |_| {
        // One that trickles must not live longer than one that is silent.
        for stream in &mut halves {
            let _closed = stream.write_all(b"x");
        }
        let closed = halves.iter().filter(|stream| is_closed(stream)).count();
        if clock.elapsed() < Duration::from_secs(2) {
            early = closed;
        }
        closed == halves.len()
    });
    assert_eq!(early, 0, "5 s are theirs");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_megabyte_of_headers_is_refused() {
    let cluster = running(Mode::Plain, 1);
    let many = "X-Filler: 0123456789abcdef0123456789abcdef\r\n".repeat(25_000);
    let long = format!("X-Long: {}\r\n", "x".repeat(1_000_000));
    for headers in [many, long] {
        let bytes = format!("GET /healthz HTTP/1.1\r\nHost: t\r\n{headers}\r\n");
        // A server that closes early may reset the connection while we still send.
        if let Ok(answer) = exchange(cluster.side_port(), bytes.as_bytes()) {
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
        assert_eq!(cluster.get("/healthz").0, 200);
    }
    let target = format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "x".repeat(1_000_000));
    if let Ok(answer) = exchange(cluster.side_port(), target.as_bytes()) {
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(cluster.get("/healthz").0, 200);
    // What fits is served.
    let fits = format!("GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\nX-Long: {}\r\n\r\n", "x".repeat(8_000));
    assert!(exchange(cluster.side_port(), fits.as_bytes()).expect("an answer").starts_with("HTTP/1.1 200"));
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn garbage_is_refused() {
    let cluster = running(Mode::Plain, 1);
    let garbage: [&[u8]; 7] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\nTransfer-Encoding: x\r\n\r\n",
        b"\r\n\r\n\r\n\xff\xff\xff\xff\r\n\r\n",
    ];
    for bytes in garbage {
        if let Ok(answer) = exchange(cluster.side_port(), bytes) {
            assert!(!answer.starts_with("HTTP/1.1 200"), "{bytes:?}: {answer}");
        }
        assert_eq!(cluster.get("/healthz").0, 200);
    }
    // A body that nobody asked for, and one that never comes.
    let body = "GET /healthz HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\nx";
    let _any = exchange(cluster.side_port(), body.as_bytes());
    assert_eq!(cluster.get("/healthz").0, 200);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn health_is_right_and_there_during_a_storm_of_crashes_and_orphans() {
    for mode in modes() {
        let script = "
            [ $CLUSTERINIT_WORKER_ID = 0 ] && exec sleep 1000
            [ $CLUSTERINIT_WORKER_ID = 1 ] && while :; do (sh -c : &); done
            exit 1";
        let settings = [("WORKERS", "4"), ("READY", "running"), ("RESTART_BACKOFF", "1ms..5ms")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", script]);
        cluster.until("it answers", |cluster| cluster.answers("/healthz") == 200);
        let mut answers = 0;
        cluster.until("the storm has raged", |cluster| {
            // `/workers` measures, which under a storm takes its time; health does not wait for it.
            for _ in 0..20 {
                assert_eq!(cluster.get("/healthz"), (200, "ok\n".to_owned()));
                answers += 1;
            }
            let workers = cluster.workers();
            let rows = workers["workers"].as_array().cloned().unwrap_or_default();
            let restarts: u64 = rows.iter().filter_map(|row| row["restarts"].as_u64()).sum();
            answers > 100 && restarts > 100 && workers["orphans_reaped"].as_u64() > Some(300)
        });
        cluster.until("slot 0 is ready", |cluster| cluster.rows()[0]["state"] == "ready");
        // A worker that has just been started may have the time to end with its 1.
        let code = cluster.stop().0;
        assert!(code == 0 || code == 1, "{mode:?} {code}");
    }
}

#[test]
fn health_fails_when_nobody_is_ready_for_too_long_and_recovers() {
    let scratch = tempfile::tempdir().expect("a directory");
    let broken = scratch.path().join("broken");
    let script = format!("[ -e {} ] && exit 3; exec sleep 1000", broken.display());
    let settings = [
        ("WORKERS", "1"),
        ("READY", "running"),
        ("RESTART_BACKOFF", "10ms..500ms"),
        ("UNHEALTHY_AFTER", "3s"),
        ("START_TIMEOUT", "2s"),
    ];
    let cluster = Cluster::start(Mode::Plain, &settings, &["sh", "-c", &script]);
    let pid = cluster.ready(1)[0];
    std::fs::write(&broken, "").expect("written");
    cluster.signal_inner(pid, Signal::SIGKILL);
    cluster.until("readiness fails", |cluster| cluster.get("/readyz").0 == 503);
    let clock = Stopwatch::start();
    if clock.elapsed() < Duration::from_secs(1) {
        assert_eq!(cluster.get("/healthz").0, 200, "not yet");
    }
    cluster.until("health fails", |cluster| cluster.get("/healthz").0 == 503);
    assert!(cluster.get("/healthz").1.len() > 5, "it says why");
    assert!(clock.elapsed() > Duration::from_millis(1500), "{:?}", clock.elapsed());
    std::fs::remove_file(&broken).expect("it is there");
    cluster.until("health is back", |cluster| cluster.get("/healthz").0 == 200);
    assert_eq!(cluster.stop().0, 0);
}
