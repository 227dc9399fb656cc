//! The status page without scripts, the events behind it, and both in a headless Chromium (`page/browser.py`).

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Cluster, Launch, Mode, Stage, example, has_python, machine, modes, output_of, request, skipped};

/// The last events, the oldest first; none while the side port does not answer.
fn events(cluster: &Cluster) -> Vec<Value> {
    let report = cluster.try_get("/workers?events=1").map_or(Value::Null, |reply| reply.json());
    report["events"].as_array().cloned().unwrap_or_default()
}

/// `fork 0`, `exit 0 SIGKILL crash`, `reload`: what does not depend on the machine.
fn words(event: &Value) -> String {
    let parts = ["event", "worker", "signal", "reason"].map(|name| match &event[name] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    });
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether `expected` happened in this order, with anything in between.
fn in_order(events: &[Value], expected: &[&str]) -> bool {
    let mut left = expected.iter();
    let mut next = left.next();
    for event in events {
        if next.is_some_and(|wanted| *wanted == words(event)) {
            next = left.next();
        }
    }
    next.is_none()
}

fn until_events(cluster: &Cluster, expected: &[&str]) {
    let mut seen = Vec::new();
    cluster.until(&format!("events in this order: {expected:?}"), |cluster| {
        seen = events(cluster);
        in_order(&seen, expected)
    });
}

#[test]
fn events_tell_a_life_in_order() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("READY", "running"), ("DRAIN_DELAY", "0s")], &["sleep", "1000"]);
        let first = cluster.ready(1)[0];
        until_events(&cluster, &["fork 0", "online 0", "ready 0"]);
        cluster.signal_inner(first, Signal::SIGKILL);
        until_events(&cluster, &["ready 0", "exit 0 SIGKILL crash", "fork 0", "online 0", "ready 0"]);
        cluster.signal(Signal::SIGUSR2);
        until_events(&cluster, &["reload", "fork 0", "ready 0", "stop 0 reload", "exit 0 SIGTERM reload", "reload-done"]);
        let told = events(&cluster);
        let numbers: Vec<_> = told.iter().filter_map(|event| event["seq"].as_u64()).collect();
        assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>());
        let ages: Vec<_> = told.iter().filter_map(|event| event["seconds_ago"].as_f64()).collect();
        assert!(ages.is_sorted_by(|earlier, later| earlier >= later) && ages.len() == told.len(), "{ages:?}");
        let killed = told.iter().find(|event| event["signal"] == "SIGKILL").expect("it was killed");
        assert_eq!(killed["pid"], first);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_stop_is_told_while_it_lasts() {
    let launch = Launch::of(Mode::Plain, &["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    let cluster = launch.set("WORKERS", 1).set("READY", "running").set("GRACE", "20s").set("DRAIN_DELAY", "300ms").start();
    cluster.ready(1);
    cluster.signal(Signal::SIGTERM);
    until_events(&cluster, &["drain", "shutdown", "stop 0 stop"]);
    cluster.signal(Signal::SIGKILL);
}

#[test]
fn a_server_is_seen_to_listen() {
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "1")], &[&example("server"), "0"]);
    until_events(&cluster, &["fork 0", "online 0"]);
    cluster.ready(1);
    if cluster.workers()["share"]["mechanism"] == "seccomp" {
        until_events(&cluster, &["online 0", "listening 0", "ready 0"]);
    }
    cluster.stop();
}

#[test]
fn the_ring_stays_at_256_in_a_crash_loop() {
    let settings = [("WORKERS", "4"), ("READY", "running"), ("RESTART", "always"), ("RESTART_BACKOFF", "1ms..5ms")];
    // Slot 0 is healthy, so that nobody gives up.
    let script = "[ $CLUSTERINIT_WORKER_ID = 0 ] && exec sleep 1000; exit 3";
    let cluster = Cluster::start(Mode::Plain, &settings, &["sh", "-c", script]);
    let mut told = Vec::new();
    cluster.until("more than 1000 events have happened", |cluster| {
        told = events(cluster);
        told.last().is_some_and(|event| event["seq"].as_u64() > Some(1000))
    });
    assert_eq!(told.len(), 256);
    let numbers: Vec<_> = told.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert!(told.iter().any(|event| event["event"] == "exit" && event["code"] == 3 && event["reason"] == "crash"));
    assert!(told.iter().any(|event| event["event"] == "backoff"));
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn neither_arguments_nor_the_environment_are_told() {
    let launch = Launch::of(Mode::Plain, &["sh", "-c", "echo secret-argument; exit 7"]);
    let cluster = launch
        .set("WORKERS", 1)
        .set("RESTART", "always")
        .set("RESTART_BACKOFF", "100ms..1s")
        .env("SECRET", "secret-value")
        .start();
    until_events(&cluster, &["exit 0 crash", "backoff 0", "fork 0"]);
    let (page, told) = (cluster.get("/").1, cluster.get("/workers?events=1").1);
    for text in [page, told] {
        assert!(!text.contains("secret-"), "{text}");
    }
}

/// The texts of the cells of each row of the table with this id.
fn cells(page: &str, table: &str) -> Vec<Vec<String>> {
    let body = page.split_once(&format!("id=\"{table}\">")).expect("the table").1;
    let body = body.split_once("</tbody>").expect("its end").0;
    let text = |markup: &str| {
        let words: Vec<_> = markup.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text.trim()).collect();
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    };
    let rows = body.split("<tr").skip(1);
    rows.map(|row| row.split("<td").map(|cell| text(&format!("<td{cell}"))).collect()).collect()
}

#[test]
fn without_scripts_the_table_shows_what_workers_shows() {
    for mode in modes() {
        let cluster =
            Cluster::start(mode, &[("WORKERS", "3"), ("READY", "running"), ("WORKER_MEMORY", "64Mi")], &["sleep", "1000"]);
        cluster.ready(3);
        let reply = request(cluster.side_port(), "GET", "/").expect("an answer");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
        let (shown, rows) = (cells(&reply.body, "rows"), cluster.rows());
        assert_eq!(shown.len(), rows.len());
        for (cells, row) in shown.iter().zip(&rows) {
            assert_eq!(cells[0], row["id"].to_string());
            assert_eq!(cells[1], format!("ready pid {}", row["pid"]));
            assert!(cells[3].ends_with("of 64.0Mi"), "{cells:?}");
            assert_eq!(cells[7], "0 never ended");
        }
        assert!(reply.body.contains("All 3 workers are ready"));
        let refresh = "<noscript><meta http-equiv=\"refresh\"";
        assert!(reply.body.contains(refresh), "it stays fresh without scripts");
        let happened = cells(&reply.body, "log");
        assert_eq!(happened.len(), events(&cluster).len().min(8));
        assert!(reply.body.len() <= 30 * 1024, "{} bytes", reply.body.len());
        assert!(happened.last().is_some_and(|oldest| oldest[3] == "fork"), "the latest stands first: {happened:?}");
        let head = request(cluster.side_port(), "HEAD", "/").expect("an answer");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn the_policy_names_the_digests_of_script_and_style() {
    if !has_python() {
        return;
    }
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/page/digests.py");
    let output = output_of(Command::new("python3").args([here, concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/page.html")]));
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "1"), ("READY", "running")], &["sleep", "1000"]);
    cluster.ready(1);
    let reply = request(cluster.side_port(), "GET", "/").expect("an answer");
    let policy = reply.header("content-security-policy").unwrap_or_default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (name, digest) = line.split_once(' ').expect("a name and a digest");
        assert!(policy.contains(&format!("{name}-src '{digest}'")), "src/http/page.rs has to name {line}: {policy}");
    }
    assert!(output.status.success(), "{output:?}");
    cluster.stop();
}

/// What `page/browser.py` looks at: a healthy cluster, from its first paint to its end.
#[test]
fn in_a_browser_it_is_live() {
    if !has_python() {
        return;
    }
    let browser = output_of(Command::new("sh").args(["-c", "command -v chromium || command -v google-chrome"]));
    let browser = String::from_utf8_lossy(&browser.stdout).trim().to_owned();
    if browser.is_empty() {
        skipped("chromium is not here (.ci/install page)");
        return;
    }
    let _alone = machine();
    let stage = Stage::new();
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "3"), ("READY", "running")], &["sleep", "1000"]);
    cluster.ready(3);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/page/browser.py");
    let mut command = Command::new("python3");
    command.args([script, &browser, &format!("http://{}/", cluster.side_port()), &cluster.pid().to_string()]);
    command.arg(stage.path("shots"));
    let output = output_of(&mut command);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}\n{}", String::from_utf8_lossy(&output.stderr), cluster.story());
}
