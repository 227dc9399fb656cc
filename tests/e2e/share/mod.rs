//! Port sharing: real servers that know nothing of each other, on one port.
//!
//! A server says which process answers: a JSON body with `"pid"`, or a body that begins with the number. That process's ancestor
//! below clusterinit is the worker.

mod balance;
mod hang;
mod lossless;
mod odd;
mod ports;
mod ready;
mod servers;
mod user;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Cluster, Launch, Mode, Stage, example, exchange, has_root, in_namespace_of, parent};

/// The uid of images without a user of their own, which has no name and no rights.
const NOBODY: [&str; 6] =
    ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];

/// Whom clusterinit and its workers run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Whoever runs the tests.
    Caller,
    /// uid 65532 without a capability, and with no way to get one.
    Nobody,
}

impl Who {
    /// Both, or one with a loud line where the tests do not run as root.
    fn all() -> Vec<Self> {
        if has_root() { vec![Self::Caller, Self::Nobody] } else { vec![Self::Caller] }
    }

    fn launch(self, mode: Mode, stage: &Stage, command: &[&str]) -> Launch {
        let launch = Launch::of(mode, command);
        match self {
            Self::Caller => launch,
            Self::Nobody => {
                launch.program(&stage.copy(env!("CARGO_BIN_EXE_clusterinit"))).wrap(&NOBODY).wrap(&["--no-new-privs"])
            }
        }
    }
}

pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// `sockets WORDS...` as a command.
fn sockets<'a>(program: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&[program], words].concat()
}

/// The workers' command as a shell script in which `$sockets` is the example.
fn script(text: &str) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), format!("sockets={}\n{text}", example("sockets"))]
}

pub(super) fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// The body of the answer to a plain GET on a new connection, in whatever version of HTTP the server speaks.
pub(super) fn body(address: SocketAddr, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let body = if head.contains("Transfer-Encoding: chunked") { first_chunk(body)? } else { body };
    head.contains(" 200 ").then(|| body.to_owned())
}

/// All of a short answer whose server did not know its length in time.
fn first_chunk(body: &str) -> Option<&str> {
    let (length, rest) = body.split_once("\r\n")?;
    rest.get(..usize::from_str_radix(length, 16).ok()?)
}

/// The pid that a body names, as its process sees itself.
fn pid_in(body: &str) -> Option<i32> {
    let tail = body.split_once("\"pid\":").map_or(body, |(_, tail)| tail);
    let digits: String = tail.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The worker (its leader's pid in our namespace) that answers on a new connection.
pub(super) fn worker_at(cluster: &Cluster, address: SocketAddr, path: &str) -> Option<i32> {
    let init = cluster.pid();
    let mut pid = in_namespace_of(init, pid_in(&body(address, path)?)?)?;
    loop {
        match parent(pid)? {
            above if above == init => return Some(pid),
            0 | 1 => return None,
            above => pid = above,
        }
    }
}

/// As [`slot_at`], but `None` where the answer does not come at once: the connection waits in somebody's queue.
pub(super) fn slot_at_once(address: SocketAddr) -> Option<u64> {
    let at_once = Duration::from_millis(500);
    let mut stream = TcpStream::connect_timeout(&address, at_once).ok()?;
    stream.set_read_timeout(Some(at_once)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str::<Value>(answer.split_once("\r\n\r\n")?.1).ok()?["worker"].as_u64()
}

/// Stops a worker, and waits until none of its threads runs: one in the middle of `accept` takes what arrives at that moment.
pub(super) fn hold(cluster: &Cluster, worker: i32) {
    cluster.signal_inner(worker, nix::sys::signal::Signal::SIGSTOP);
    let tasks = format!("/proc/{}/task", cluster.outer(worker));
    cluster.until("all its threads have stopped", |_| {
        let stats =
            fs::read_dir(&tasks).expect("it lives").filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        stats.into_iter().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    });
}

/// Waits until so many different workers have answered at this address.
pub(super) fn all_serve(cluster: &Cluster, address: SocketAddr, path: &str, workers: usize) {
    let mut seen = BTreeSet::new();
    cluster.until(&format!("{workers} workers answer at {address}"), |cluster| {
        seen.extend(worker_at(cluster, address, path));
        seen.len() == workers
    });
}

/// The `worker` of a JSON body.
pub(super) fn slot_at(address: SocketAddr) -> Option<u64> {
    serde_json::from_str::<Value>(&body(address, "/")?).ok()?["worker"].as_u64()
}

pub(super) fn addresses(cluster: &Cluster) -> Vec<String> {
    let workers = cluster.workers();
    let listeners = workers["share"]["listeners"].as_array().cloned().unwrap_or_default();
    listeners.iter().filter_map(|listener| listener["address"].as_str().map(str::to_owned)).collect()
}

fn is_shared(cluster: &Cluster) {
    let share = cluster.workers()["share"].clone();
    assert_eq!((&share["mechanism"], &share["reason"]), (&"seccomp".into(), &Value::Null), "{}", cluster.story());
}

/// Open descriptors of clusterinit itself.
pub(super) fn descriptors(cluster: &Cluster) -> usize {
    fs::read_dir(format!("/proc/{}/fd", cluster.pid())).map_or(0, Iterator::count)
}

/// Asks for a rolling restart and waits for its end.
pub(super) fn reload(cluster: &Cluster, workers: usize) {
    let before = cluster.workers()["generation"].as_u64().expect("a number");
    cluster.signal(nix::sys::signal::Signal::SIGUSR2);
    cluster.until("the reload is done", |cluster| {
        let now = cluster.workers();
        assert_ne!(now["reload"]["state"], "aborted", "{}", cluster.story());
        now["generation"].as_u64() == Some(before + 1) && now["reload"]["state"] == "done"
    });
    cluster.ready(workers);
}
