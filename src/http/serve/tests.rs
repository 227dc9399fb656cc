//! The side port over real loopback sockets: what good clients get, and what bad ones cost.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::*;
use crate::cluster::status::{Row, RowState, Snapshot};
use crate::cluster::words::Slot;
use crate::http::bind;
use crate::http::report::tests::example;
use crate::runtime::clock::Clock;

const DEADLINE: Duration = Duration::from_secs(10);
/// Long enough for an answer on a busy machine, short enough to wait for.
const SHORT: Duration = Duration::from_millis(400);

fn served(limits: Limits, snapshot: Snapshot, client: impl FnOnce(SocketAddr) + Send + 'static) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (_publish, snapshot) = watch::channel(Arc::new(snapshot));
    let side = Side { snapshot, clock: Clock::start(), pid: 1, instance: "mnt:1/pid:2".to_owned(), asking: None };
    LocalSet::new().block_on(&runtime, async move {
        let server = spawn_local(serve_within(limits, listener, side));
        let result = spawn_blocking(move || client(address)).await;
        assert!(!server.is_finished(), "the loop never ends");
        result.expect("the client's part");
    });
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the backlog takes it");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

fn send(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("the server reads");
}

/// What comes until the server closes, an abortive close included.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let refused = ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    assert!(ended.is_ok() || refused, "closed in time: {ended:?}");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ask(address: SocketAddr, head: &str) -> String {
    let stream = connect(address);
    send(&stream, &format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    rest(&stream)
}

/// One answer of a connection that stays open, `ok` as its body.
fn asked_again(mut stream: &TcpStream) -> String {
    send(stream, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut answer = String::new();
    let mut byte = [0];
    while !answer.ends_with("\r\n\r\nok\n") {
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(char::from(byte[0]));
    }
    answer
}

fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let open = stream.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("a socket");
    !open
}

#[test]
fn each_path_has_its_answer() {
    served(LIMITS, Snapshot { unready: Some("1 of 2 workers are ready".to_owned()), ..example() }, |address| {
        for path in ["/healthz", "/livez", "/healthz?verbose=1"] {
            let answer = ask(address, &format!("GET {path}"));
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok\n"), "{path}: {answer}");
            assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
            assert!(answer.contains("clusterinit-instance: mnt:1/pid:2\r\n"), "{answer}");
        }
        let unready = ask(address, "GET /readyz");
        assert!(unready.starts_with("HTTP/1.1 503 ") && unready.ends_with("\r\n\r\n1 of 2 workers are ready\n"), "{unready}");
        let workers = ask(address, "GET /workers");
        let (head, body) = workers.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: application/json"), "{head}");
        assert!(!body.contains("events"), "{body}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&body["pid"], &body["workers"][0]["id"]), (&1.into(), &0.into()));
        for unknown in ["/index.html", "/metrics/", "/healthz/", "/workers/0", "//healthz"] {
            assert!(ask(address, &format!("GET {unknown}")).starts_with("HTTP/1.1 404 "), "{unknown}");
        }
    });
}

#[test]
fn the_page_is_at_the_root_and_events_come_when_asked_for() {
    served(LIMITS, example(), |address| {
        let page = ask(address, "GET /");
        let (head, body) = page.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/html; charset=utf-8"), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'sha256-"), "{head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(body.starts_with("<!doctype html>") && body.ends_with("</html>\n"), "{body}");
        let only_head = ask(address, "HEAD /?x");
        assert!(only_head.starts_with("HTTP/1.1 200 ") && only_head.ends_with("\r\n\r\n"), "{only_head}");
        let events = |path: &str| {
            let answer = ask(address, &format!("GET {path}"));
            let body = answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned();
            serde_json::from_str::<serde_json::Value>(&body).expect("JSON").get("events").cloned()
        };
        assert_eq!(events("/workers?events=1"), Some(serde_json::json!([])));
        assert_eq!(events("/workers?a&events=1&b"), Some(serde_json::json!([])));
        for without in ["/workers?", "/workers?events", "/workers?events=0", "/workers?xevents=1", "/workers?events=11"] {
            assert_eq!(events(without), None, "{without}");
        }
    });
}

#[test]
fn head_has_no_body_and_other_methods_are_refused() {
    served(LIMITS, example(), |address| {
        let head = ask(address, "HEAD /healthz");
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let refused = ask(address, &format!("{method} /healthz"));
            assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("allow: GET, HEAD\r\n"), "{method}: {refused}");
        }
    });
}

#[test]
fn a_body_that_never_comes_or_never_ends_is_not_waited_for() {
    served(LIMITS, example(), |address| {
        let promised = connect(address);
        send(&promised, "POST /workers HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n");
        assert!(rest(&promised).starts_with("HTTP/1.1 405 "));
        let endless = connect(address);
        send(&endless, "GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel");
        assert!(rest(&endless).starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn a_connection_is_kept_alive() {
    served(LIMITS, example(), |address| {
        let stream = connect(address);
        for _ in 0..3 {
            assert!(asked_again(&stream).starts_with("HTTP/1.1 200 "));
        }
    });
}

#[test]
fn of_300_idle_connections_the_oldest_are_closed() {
    // Idle for longer than the test lasts, so that only their number closes them.
    let patient = Limits { head_time: Duration::from_secs(600), ..LIMITS };
    served(patient, example(), |address| {
        let mut all: Vec<TcpStream> = (0..300).map(|_| connect(address)).collect();
        let kept = all.split_off(300 - LIMITS.connections);
        for closed in &all {
            assert_eq!(rest(closed), "");
        }
        assert!(kept.iter().all(|stream| !is_closed(stream)), "no more than needed");
        assert!(asked_again(&kept[0]).starts_with("HTTP/1.1 200 "));
        // One that is kept alive and idle counts as waiting, however often it was answered.
        let newest = connect(address);
        assert_eq!(rest(&kept[0]), "");
        assert!(asked_again(&newest).starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn half_a_request_and_an_idle_connection_are_closed_in_time() {
    served(Limits { head_time: SHORT, ..LIMITS }, example(), |address| {
        let (half, idle, kept) = (connect(address), connect(address), connect(address));
        send(&half, "GET /healthz HTTP/1.1\r\nhost: ");
        asked_again(&kept);
        for stream in [half, idle, kept] {
            let last = rest(&stream);
            assert!(last.is_empty() || last.starts_with("HTTP/1.1 408 "), "{last}");
        }
    });
}

#[test]
fn a_drop_at_a_time_does_not_stretch_the_time() {
    served(Limits { head_time: SHORT, ..LIMITS }, example(), |address| {
        let clock = Clock::start();
        let mut slow = connect(address);
        send(&slow, "GET /healthz HTTP/1.1\r\n");
        slow.set_read_timeout(Some(SHORT / 8)).expect("a timeout");
        while !matches!(slow.read(&mut [0]), Ok(0)) && slow.write_all(b"x").is_ok() {
            assert!(clock.now().0 < DEADLINE, "still open");
        }
        assert!(clock.now().0 >= SHORT / 2, "it had its time");
    });
}

#[test]
fn heads_without_bound_and_garbage_are_refused_and_hurt_nobody() {
    served(LIMITS, example(), |address| {
        let mut huge = connect(address);
        let line = format!("x-filler: {}\r\n", "a".repeat(1000));
        let mut sent = huge.write_all(b"GET /healthz HTTP/1.1\r\n");
        for _ in 0..1000 {
            sent = sent.and_then(|()| huge.write_all(line.as_bytes()));
        }
        assert!(sent.is_err() || rest(&huge).starts_with("HTTP/1.1 431 "), "1 MB is not read");
        let large = connect(address);
        send(&large, &format!("GET /healthz HTTP/1.1\r\nx: {}", "a".repeat(LIMITS.head_bytes)));
        let refused = rest(&large);
        assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431 "), "{refused}");
        for garbage in
            ["\0\x01\x02\x03\r\n\r\n", "\x16\x03\x01\x02\0\x01\0\x01", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        {
            let stream = connect(address);
            send(&stream, garbage);
            stream.shutdown(std::net::Shutdown::Write).expect("connected");
            let refused = rest(&stream);
            assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 4"), "{garbage:?}: {refused}");
        }
        assert!(ask(address, "GET /healthz").starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn who_does_not_read_its_answers_is_closed_in_time_and_keeps_only_its_own_place() {
    let row = |slot| Row { slot: Slot(slot), life: None, pid: None, state: RowState::Stopped, ..example().rows.remove(1) };
    let large = Snapshot { rows: (0..2000).map(row).collect(), ..example() };
    served(Limits { connections: 1, answer_time: SHORT, ..LIMITS }, large, |address| {
        let clock = Clock::start();
        let mut greedy = connect(address);
        greedy.set_write_timeout(Some(SHORT / 8)).expect("a timeout");
        // Far more than the kernel's buffers hold, until the server reads no more or closes.
        let request = b"GET /workers HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut turned_away = 0;
        loop {
            match greedy.write_all(request) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut other = connect(address);
                    let _closed_at_once = other.write_all(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n");
                    turned_away += u32::from(rest(&other).is_empty());
                }
                Err(_) => break,
            }
            assert!(clock.now().0 < DEADLINE, "still open");
        }
        assert!(turned_away > 0, "a connection that is being answered keeps its place");
        assert!(ask(address, "GET /healthz").starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn errors_of_one_connection_do_not_pause_the_others() {
    for error in [Errno::ECONNABORTED, Errno::EPROTO, Errno::EINTR] {
        assert!(is_of_one_connection(&error.into()), "{error}");
    }
    for error in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EBADF] {
        assert!(!is_of_one_connection(&error.into()), "{error}");
    }
}
