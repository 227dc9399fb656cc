//! Node: clusterinit in the place of the primary of Node's own cluster. The programs of `examples/node`, unchanged, on every
//! Node that there is, and small programs that do one thing each.

mod crash;
mod examples;
mod identity;
mod jobs;
mod messages;
mod metrics;
mod ports;
mod pulse;
mod ready;
mod reload;
mod robin;
mod rude;
mod stop;
mod tls;
mod wrappers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::share::{all_serve, local};
use crate::support::{Cluster, Launch, Mode, Stage, skipped, status_lines, tool};

const WORKERS: usize = 2;
/// A stop with nothing in its way, on a machine that is busy: far less than the half of this grace.
const PROMPT: Duration = Duration::from_secs(20);
const GRACE: (&str, &str) = ("GRACE", "2m");

/// What the small programs begin with.
const PRELUDE: &str = r#"
const cluster = require("cluster"), fs = require("fs"), http = require("http"), net = require("net");
const SLOT = Number(process.env.NODE_APP_INSTANCE), PORT = Number(process.env.PORT);
const say = (...words) => fs.writeSync(1, words.join(" ") + "\n");
const me = () => JSON.stringify({ worker: SLOT, pid: process.pid, id: cluster.isWorker ? cluster.worker.id : null });
const server = () => http.createServer((request, answer) => answer.end(me()));
"#;

/// `node` of the PATH, or `None` with a loud line.
fn node() -> Option<String> {
    tool("node").map(|_| "node".to_owned())
}

/// One of the versions that `.ci/install node` has brought, or `None` with a loud line.
fn version(major: u32) -> Option<String> {
    let node = installed(&format!("node-versions/{major}/node_modules/node/bin/node"));
    if node.is_none() {
        skipped(&format!("Node {major} is not here: .ci/install node"));
    }
    node
}

/// What `NODE_PATH` has to be for the packages that examples need, or `None` with a loud line.
fn packages() -> Option<String> {
    let folder = installed("node-packages/node_modules");
    if folder.is_none() {
        skipped("express, log4js and prom-client are not here: .ci/install node");
    }
    folder
}

/// A path below the folder of the build, whichever target the tests were built for.
fn installed(path: &str) -> Option<String> {
    let found = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().map(|folder| folder.join(path)).find(|path| path.exists());
    found.map(|path| path.to_str().expect("UTF-8").to_owned())
}

fn source(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/node").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

/// A small program as a file.
fn program(stage: &Stage, text: &str) -> String {
    stage.write("server.js", &format!("{PRELUDE}{text}"))
}

/// `node FILE` with two workers and a grace that no test waits for.
fn launch(mode: Mode, node: &str, file: &str, port: u16) -> Launch {
    Launch::of(mode, &[node, file]).set("WORKERS", WORKERS).set(GRACE.0, GRACE.1).env("PORT", port)
}

/// Waits until both workers are ready and have answered, by Node's own protocol.
fn serves(cluster: &Cluster, port: u16) {
    cluster.ready(WORKERS);
    is_node(cluster);
    all_serve(cluster, local(port), "/", WORKERS);
}

fn is_node(cluster: &Cluster) {
    let share = cluster.workers()["share"].clone();
    assert_eq!((&share["mechanism"], &share["reason"]), (&"node".into(), &Value::Null), "{}", cluster.story());
}

fn stops(cluster: Cluster) {
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 0, "{err}");
}

/// A stop that leaves nothing behind.
fn stops_whole(cluster: &Cluster) {
    cluster.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(), 0, "{}", cluster.story());
    cluster.until("nothing is left", |cluster| cluster.left().is_empty());
}

/// The row of a slot that has a worker.
fn row(cluster: &Cluster, slot: usize) -> Value {
    cluster.rows().into_iter().find(|row| row["id"].as_u64() == u64::try_from(slot).ok()).unwrap_or_default()
}

fn pid_of(cluster: &Cluster, slot: usize) -> i32 {
    i32::try_from(row(cluster, slot)["pid"].as_i64().expect("a worker")).expect("pids fit")
}

/// One that ends in its first second is a failing start, and its successor waits.
fn proven(cluster: &Cluster) {
    let since = |row: &Value| row["uptime_seconds"].as_f64().unwrap_or_default();
    cluster.until("all were ready for a second", |cluster| {
        let rows = cluster.rows();
        rows.len() == WORKERS && rows.iter().all(|row| row["state"] == "ready" && since(row) > 2.0)
    });
}

/// Waits until a worker has been replaced and all are ready.
fn replaced(cluster: &Cluster, pid: i32) {
    cluster.until(&format!("worker {pid} was replaced"), |cluster| {
        let ready = cluster.pids_in("ready");
        ready.len() == WORKERS && !ready.contains(&pid) && cluster.rows().len() == WORKERS
    });
}

fn count(seen: &Value, name: &str) -> usize {
    let number = seen[name].as_u64().unwrap_or_else(|| panic!("{name} in {seen}"));
    usize::try_from(number).expect("it fits")
}

/// How many lines of stderr hold all of these texts.
fn log_lines(cluster: &Cluster, texts: &[&str]) -> usize {
    cluster.err().lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
}

/// Resident memory of clusterinit itself, in KiB.
fn resident(cluster: &Cluster) -> u64 {
    let line = status_lines(cluster.pid(), &["VmRSS"]).pop().unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
}
