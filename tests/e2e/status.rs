//! `clusterinit status` and `clusterinit healthcheck`, as people, Docker and exec probes use them.

use std::io::{Read, Write};
use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::support::{Cluster, Launch, Mode, modes};

fn started(mode: Mode, settings: &[(&str, &str)]) -> Cluster {
    let all = [&[("WORKERS", "2"), ("READY", "running")], settings].concat();
    let cluster = Cluster::start(mode, &all, &["sleep", "1000"]);
    cluster.ready(2);
    cluster
}

#[test]
fn status_is_a_table_of_the_workers() {
    for mode in modes() {
        let cluster = started(mode, &[]);
        let output = cluster.cli(&["status"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        for pid in cluster.ready(2) {
            let named = |line: &str| line.split_ascii_whitespace().any(|word| word == pid.to_string());
            assert!(table.lines().any(|line| named(line) && line.contains("ready")), "{pid} is missing in\n{table}");
        }
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn the_table_tells_of_events_and_caps() {
    let cluster = started(Mode::Plain, &[("WORKER_MEMORY", "64Mi")]);
    let table = String::from_utf8_lossy(&cluster.cli(&["status"]).stdout).into_owned();
    for words in
        [&["ID", "CAP", "CONNS", "QUEUE", "LAST EXIT"][..], &["EVENT", "WORKER", "WHEN"], &["ready", "64.0Mi"], &["fork", "pid"]]
    {
        assert!(table.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in\n{table}");
    }
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn watch_is_plain_text_where_nobody_sees_a_cursor() {
    let cluster = started(Mode::Plain, &[]);
    // Some pictures, until nobody reads any more.
    let output = cluster.cli_through(&["sh", "-c", "\"$@\" | head -n 60", "sh"], &["status", "--watch"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.matches("RESTARTS").count() >= 2 && !text.contains('\u{1b}'), "{text}");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn status_json_is_what_the_side_port_says() {
    for mode in modes() {
        let cluster = started(mode, &[]);
        let output = cluster.cli(&["status", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let workers = cluster.workers();
        for name in ["version", "pid", "state", "generation", "cpu", "share", "reload"] {
            assert_eq!(told[name], workers[name], "{name}");
        }
        assert_eq!(told["workers"].as_array().map(Vec::len), Some(2));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn healthcheck_follows_health_and_readiness() {
    for mode in modes() {
        let cluster = started(mode, &[("DRAIN_DELAY", "5s")]);
        let code = |words: &[&str]| cluster.cli(words).status.code();
        cluster.until("it is in rotation", |cluster| cluster.answers("/readyz") == 200);
        assert_eq!((code(&["healthcheck"]), code(&["healthcheck", "--ready"])), (Some(0), Some(0)));
        cluster.signal(Signal::SIGTERM);
        cluster.until("readiness fails", |cluster| cluster.answers("/readyz") == 503);
        assert_eq!((code(&["healthcheck"]), code(&["healthcheck", "--ready"])), (Some(0), Some(1)));
        assert_eq!(cluster.finish().0, 0);
    }
}

#[test]
fn addr_names_another_side_port() {
    let cluster = started(Mode::Plain, &[]);
    let url = format!("http://{}", cluster.side_port());
    for words in [&["healthcheck", "--addr", &url][..], &["status", "--addr", &url], &["status", "--json", "--addr", &url]] {
        let (code, _, err) = Launch::arguments(Mode::Plain, words).set("HEALTH_ADDR", "off").start().finish();
        assert_eq!(code, 0, "{words:?} {err}");
    }
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn without_a_side_port_it_is_a_usage_error() {
    for words in [&["healthcheck"][..], &["healthcheck", "--ready"], &["status"], &["status", "--json"]] {
        let (code, _, err) = Launch::arguments(Mode::Plain, words).set("HEALTH_ADDR", "off").start().finish();
        assert_eq!(code, 64, "{words:?} {err}");
        assert!(err.contains("HEALTH_ADDR") && err.contains("--addr"), "{err}");
    }
}

#[test]
fn where_nothing_answers_it_is_not_healthy() {
    for words in [&["healthcheck"][..], &["healthcheck", "--ready"], &["status"]] {
        let (code, _, err) = Launch::arguments(Mode::Plain, words).start().finish();
        assert_eq!(code, 1, "{words:?} {err}");
        assert!(!err.is_empty(), "it says why");
    }
}

#[test]
fn bad_words_are_usage_errors() {
    for words in
        [&["healthcheck", "--frobnicate"][..], &["status", "--addr"], &["status", "extra"], &["healthcheck", "--addr", "ftp://x"]]
    {
        let (code, _, err) = Launch::arguments(Mode::Plain, words).start().finish();
        assert_eq!(code, 64, "{words:?} {err}");
    }
}

#[test]
fn somebody_elses_answer_on_the_port_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has one");
    // Ends with the test's process; it answers everybody with a friendly ok.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _request = stream.read(&mut [0; 4096]);
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
        }
    });
    for words in [&["healthcheck"][..], &["healthcheck", "--ready"], &["status"]] {
        let (code, _, err) = Launch::arguments(Mode::Plain, words).set("HEALTH_ADDR", address).start().finish();
        assert_eq!(code, 1, "{words:?} {err}");
    }
}
