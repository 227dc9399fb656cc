//! Caps: who is ended for their memory and who is not, by sampling, which is what runs where cgroups cannot be written.
//!
//! The worker in slot 0 takes memory when it is told to (`examples/eats.rs`); real servers leak in `examples/leaky`.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Cluster, Launch, Load, Mode, Stage, example, free_port, has_pid1, modes, output_of, skipped, tool};

const MIB: u64 = 1 << 20;
/// Seconds after its start from which on a worker's end is no failing start.
const SETTLED: f64 = 2.1;

/// What one process takes at most: a cap that does not work shall not cost the machine.
const MOST: &str = "takes=300";

/// `eats WORDS...` as two workers, ready for longer than a failing start takes.
fn eating(mode: Mode, words: &[&str], settings: &[(&str, &str)]) -> Cluster {
    let base = [("WORKERS", "2"), ("READY", "running"), ("SHARE", "off")];
    let program = example("eats");
    let cluster = Cluster::start(mode, &[&base, settings].concat(), &[&[program.as_str()], words].concat());
    cluster.until("two workers are ready for a second", |cluster| {
        let rows = cluster.rows();
        rows.len() == 2
            && rows.iter().all(|row| row["state"] == "ready" && row["uptime_seconds"].as_f64().is_some_and(|time| time > SETTLED))
    });
    cluster
}

/// Tells the worker in slot 0 to begin: it is ended for its memory and replaced, and the other one stays who it was.
fn loses_its_first(cluster: &Cluster) -> Value {
    let before = cluster.ready(2);
    cluster.signal(Signal::SIGUSR1);
    cluster.until("slot 0 has a successor", |cluster| {
        let row = cluster.rows().into_iter().next().unwrap_or_default();
        row["restarts"] == 1 && row["state"] == "ready" && row["pid"] != before[0]
    });
    assert_eq!(cluster.ready(2)[1], before[1], "the other worker was touched\n{}", cluster.story());
    let row = cluster.rows().swap_remove(0);
    assert_eq!(row["last_exit"]["reason"], "memory", "{}", cluster.story());
    assert_eq!(cluster.rows()[1]["restarts"], 0);
    row
}

#[test]
fn a_worker_at_its_cap_is_killed_and_said_to_be_for_memory() {
    for mode in modes() {
        let cluster = eating(mode, &["holds=8", "slot=0", MOST], &[("WORKER_MEMORY", "64Mi"), ("MEMORY_SOFT", "off")]);
        let row = loses_its_first(&cluster);
        assert_eq!((&row["last_exit"]["signal"], &row["last_exit"]["code"]), (&"SIGKILL".into(), &Value::Null), "{row}");
        cluster.until_log(&["memory cap", "slot=0"]);
        assert_eq!(cluster.stop().0, 0, "what happened before the stop does not count");
    }
}

#[test]
fn a_child_of_a_worker_counts_and_goes_with_it() {
    for mode in modes() {
        for by in ["by=child", "by=tree"] {
            let cluster = eating(mode, &["slot=0", by, MOST], &[("WORKER_MEMORY", "96Mi"), ("MEMORY_SOFT", "off")]);
            loses_its_first(&cluster);
            cluster.until("of its tree nobody is left", |cluster| cluster.left().len() == 2);
            assert_eq!(cluster.stop().0, 0);
        }
    }
}

/// Five processes of one worker that show 60 MiB each, and are the same 60 MiB.
#[test]
fn pages_that_a_tree_shares_count_once() {
    for mode in modes() {
        let settings = [("WORKER_MEMORY", "96Mi"), ("MEMORY_SOFT", "90%")];
        let cluster = eating(mode, &["holds=60", "shares=4"], &settings);
        let before = cluster.ready(2);
        cluster.until("five seconds have passed", |cluster| {
            cluster.rows().iter().all(|row| row["uptime_seconds"].as_f64().is_some_and(|time| time > 5.0))
        });
        assert_eq!(cluster.ready(2), before, "{}", cluster.story());
        for row in cluster.rows() {
            assert_eq!((&row["restarts"], &row["processes"]), (&0.into(), &5.into()), "{}", cluster.story());
        }
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn caps_are_shown() {
    for mode in modes() {
        let cluster = eating(mode, &[], &[("WORKER_MEMORY", "64Mi")]);
        let workers = cluster.workers();
        assert_eq!(workers["memory"]["worker_cap_bytes"], 64 * MIB, "{workers}");
        let caps: Vec<Value> = cluster.rows().iter().map(|row| row["memory_cap_bytes"].clone()).collect();
        assert_eq!(caps, [Value::from(64 * MIB), Value::from(64 * MIB)]);
        let means = workers["memory"]["enforced_by"].as_str().expect("a word");
        assert!(["sampling", "cgroup"].contains(&means), "{workers}");
        assert_eq!(workers["not_in_force"], Value::Array(Vec::new()), "{workers}");
        assert_eq!(cluster.stop().0, 0);
    }
}

/// A share is a share of something; without a limit nobody is ended.
#[test]
fn auto_without_a_limit_caps_nobody() {
    for settings in [&[][..], &[("WORKER_MEMORY", "auto")], &[("WORKER_MEMORY", "off")]] {
        let cluster = eating(Mode::Plain, &["slot=0", "takes=200"], settings);
        if !cluster.workers()["memory"]["limit_bytes"].is_null() {
            skipped("this machine has a memory limit");
            return;
        }
        let before = cluster.ready(2);
        cluster.signal(Signal::SIGUSR1);
        cluster.until_out("took 200\n");
        cluster.until("it shows", |cluster| cluster.rows()[0]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 200 * MIB));
        assert_eq!(cluster.ready(2), before);
        assert!(cluster.rows().iter().all(|row| row["memory_cap_bytes"].is_null()), "{}", cluster.story());
        assert!(cluster.workers()["memory"]["worker_cap_bytes"].is_null());
        assert_eq!(cluster.stop().0, 0);
    }
}

/// What cannot live within its cap fails as any start fails: with a backoff, and in the end for good.
#[test]
fn a_command_too_big_for_its_cap_is_given_up() {
    for mode in modes() {
        let settings = [
            ("WORKERS", "1"),
            ("WORKER_MEMORY", "48Mi"),
            ("RESTART_BACKOFF", "10ms..50ms"),
            ("SHARE", "off"),
            ("READY", "running"),
        ];
        let (code, out, err) = Cluster::start(mode, &settings, &[&example("eats"), "holds=200"]).finish();
        assert_eq!(code, 137, "{err}");
        assert_eq!(err.matches("memory cap").count(), 5, "{out}\n{err}");
    }
}

/// The second worker that is that big is no leak: it stays, with one line, until it reaches the cap itself.
#[test]
fn a_successor_that_needs_as_much_stays() {
    for mode in modes() {
        let settings =
            [("WORKERS", "1"), ("WORKER_MEMORY", "96Mi"), ("MEMORY_SOFT", "50%"), ("SHARE", "off"), ("READY", "running")];
        let cluster = Cluster::start(mode, &settings, &[&example("eats"), "holds=60"]);
        cluster.until_log(&["needs more memory", "slot=0"]);
        cluster.until("it stays", |cluster| {
            let row = cluster.rows().into_iter().next().unwrap_or_default();
            row["state"] == "ready" && row["uptime_seconds"].as_f64().is_some_and(|time| time > 3.0)
        });
        let row = cluster.rows().swap_remove(0);
        assert_eq!((&row["restarts"], &row["last_exit"]["reason"]), (&1.into(), &"memory".into()), "{}", cluster.story());
        assert_eq!(cluster.err().matches("needs more memory").count(), 1, "{}", cluster.err());
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_plan_explains_every_number() {
    let plan = |settings: &[(&str, &str)]| {
        let launch = Launch::arguments(Mode::Plain, &["plan", "--", "true"]);
        let (code, out, err) = settings.iter().fold(launch, |launch, (name, value)| launch.set(name, value)).start().finish();
        assert_eq!(code, 0, "{err}");
        out
    };
    let row = |page: &str, name: &str| {
        let found = page.lines().find_map(|line| line.trim().strip_prefix(name).map(|rest| rest.trim().to_owned()));
        found.unwrap_or_else(|| panic!("no {name:?} in\n{page}"))
    };
    let fixed = plan(&[("WORKERS", "2"), ("WORKER_MEMORY", "96Mi")]);
    assert!(row(&fixed, "cap of a worker").contains("96"), "{fixed}");
    let means = row(&fixed, "enforced by");
    assert!(means.contains("sampling") || means.contains("cgroup"), "{fixed}");
    let off = plan(&[("WORKERS", "2"), ("WORKER_MEMORY", "off")]);
    assert!(row(&off, "cap of a worker").starts_with("none"), "{off}");
    assert!(row(&off, "enforced by").starts_with("off"), "{off}");
}

/// A server of `examples/leaky`, and how much it may have: each is at its soft limit after some seconds, and far from its cap then. It
/// leaks by requests: not before its load may begin, and on a busy machine as slowly as its successor starts.
struct Leaky {
    command: Vec<String>,
    cap: &'static str,
}

impl Leaky {
    fn python() -> Option<Self> {
        Some(Self { command: vec![tool("python3")?, leaky("leaky.py")], cap: "128Mi" })
    }

    fn node() -> Option<Self> {
        Some(Self { command: vec![tool("node")?, leaky("leaky.js")], cap: "192Mi" })
    }

    fn go(stage: &Stage) -> Option<Self> {
        let (go, program) = (tool("go")?, stage.path("leaky"));
        let mut build = Command::new(go);
        build.args(["build", "-o", &program, &leaky("leaky.go")]).env("CGO_ENABLED", "0").env("GO111MODULE", "off");
        build.env("GOCACHE", stage.path("cache")).env("GOPATH", stage.path("")).env("GOFLAGS", "").env("GOTOOLCHAIN", "local");
        let output = output_of(&mut build);
        assert!(output.status.success(), "go build: {output:?}");
        Some(Self { command: vec![program], cap: "128Mi" })
    }

    /// Its heap has room: else it would run out of that, and not of its cap.
    fn java(stage: &Stage) -> Option<Self> {
        let (java, javac, folder) = (tool("java")?, tool("javac")?, stage.path(""));
        let output = output_of(Command::new(javac).args(["-d", &folder, &leaky("Leaky.java")]));
        assert!(output.status.success(), "javac: {output:?}");
        let words = [&java, "-Xmx1g", "-XX:+UseSerialGC", "-cp", &folder, "Leaky"];
        Some(Self { command: words.map(str::to_owned).to_vec(), cap: "320Mi" })
    }
}

fn leaky(name: &str) -> String {
    format!("{}/examples/leaky/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Two leaking workers under load, until each has been replaced: no request fails.
fn is_replaced_unseen(server: &Leaky) {
    let port = free_port();
    let command: Vec<&str> = server.command.iter().map(String::as_str).collect();
    let mode = if has_pid1() { Mode::Pid1 } else { Mode::Plain };
    let launch = Launch::of(mode, &command).set("WORKERS", 2).set("WORKER_MEMORY", server.cap).set("MEMORY_SOFT", "60%");
    let launch = launch.env("PORT", port).env("LEAK_KIB", 24).set("NODE_IPC", "off");
    let cluster = launch.start();
    cluster.ready(2);
    assert_eq!(cluster.workers()["share"]["mechanism"], "seccomp", "{}", cluster.story());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect(address).expect("it listens");
    let load = Load::start(address, &["clients=8", "think=5ms"]);
    cluster.until("each worker was replaced", |cluster| {
        let rows = cluster.rows();
        let replaced = |slot: u64| rows.iter().any(|row| row["id"] == slot && row["state"] == "ready" && row["restarts"] == 1);
        rows.len() == 2 && replaced(0) && replaced(1)
    });
    let seen = load.finish();
    let story = || format!("{command:?}: {seen}\n{}", cluster.story());
    for row in cluster.rows() {
        assert_eq!(row["last_exit"]["reason"], "memory", "{}", story());
        assert_ne!(row["last_exit"]["signal"], "SIGKILL", "{}", story());
    }
    assert_eq!(seen["failed"], 0, "{}", story());
    // One answer text per process.
    assert!(seen["answers"].as_object().is_some_and(|answers| answers.len() >= 3), "{}", story());
    assert!(cluster.log_line(&["MEMORY_SOFT", "slot=0"]).is_some(), "{}", story());
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_leaking_python_server_is_replaced_and_fails_no_request() {
    let Some(server) = Leaky::python() else { return };
    is_replaced_unseen(&server);
}

#[test]
fn a_leaking_node_server_is_replaced_and_fails_no_request() {
    let Some(server) = Leaky::node() else { return };
    is_replaced_unseen(&server);
}

#[test]
fn a_leaking_go_server_is_replaced_and_fails_no_request() {
    let stage = Stage::new();
    let Some(server) = Leaky::go(&stage) else { return };
    is_replaced_unseen(&server);
}

#[test]
fn a_leaking_java_server_is_replaced_and_fails_no_request() {
    let stage = Stage::new();
    let Some(server) = Leaky::java(&stage) else { return };
    is_replaced_unseen(&server);
}
