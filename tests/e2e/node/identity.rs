//! Who a worker is to its program: what `cluster` says, what its environment holds, and where it is left alone.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{GRACE, WORKERS, is_node, launch, node, pid_of, program, proven, replaced, serves, stops};
use crate::share::{body, local};
use crate::support::{Cluster, Launch, Mode, Stage, free_port, modes, tool};

/// A server that tells all about itself.
const TELLS: &str = r#"
const visible = Object.keys(process.env).filter((name) => name.startsWith("NODE_"));
http.createServer((request, answer) => answer.end(JSON.stringify({
  worker: SLOT, pid: process.pid, id: cluster.worker && cluster.worker.id, visible, options: process.env.NODE_OPTIONS,
  isWorker: cluster.isWorker, isMaster: cluster.isMaster, isPrimary: cluster.isPrimary, connected: process.connected === true,
  send: typeof process.send, header: http.maxHeaderSize,
}))).listen(PORT);
"#;

/// What each worker tells, by slot.
fn told(cluster: &Cluster, port: u16) -> Vec<Value> {
    let mut told = vec![Value::Null; WORKERS];
    cluster.until("each worker has told", |_| {
        let answer: Value = body(local(port), "/").and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default();
        if let Some(slot) = answer["worker"].as_u64() {
            told[usize::try_from(slot).expect("it fits")] = answer;
        }
        !told.contains(&Value::Null)
    });
    told
}

#[test]
fn a_worker_is_a_worker_of_a_cluster() {
    for mode in modes() {
        let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
        let cluster = launch(mode, &node, &program(&stage, TELLS), port).start();
        serves(&cluster, port);
        let mut ids = BTreeSet::new();
        for (slot, one) in told(&cluster, port).iter().enumerate() {
            assert_eq!(one["worker"], slot, "{one}");
            assert_eq!((&one["isWorker"], &one["isMaster"], &one["isPrimary"]), (&true.into(), &false.into(), &false.into()));
            assert_eq!((&one["send"], &one["connected"]), (&"function".into(), &true.into()), "{one}");
            // What else there is was for Node itself.
            assert_eq!(one["visible"], serde_json::json!(["NODE_APP_INSTANCE"]), "{one}");
            ids.extend(one["id"].as_u64());
        }
        assert_eq!(ids, BTreeSet::from([1, 2]));
        // An id is never used again, a slot is.
        proven(&cluster);
        let victim = pid_of(&cluster, 0);
        cluster.signal_inner(victim, Signal::SIGKILL);
        replaced(&cluster, victim);
        let after = told(&cluster, port);
        let fresh = after.iter().find(|one| one["worker"] == 0).expect("slot 0");
        assert!(fresh["id"].as_u64() > Some(2), "{fresh}");
        for row in cluster.rows() {
            assert_eq!(row["channel"], "listening", "{row}");
        }
        stops(cluster);
    }
}

#[test]
fn options_of_the_user_stay_as_they_are() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let launch = launch(Mode::Plain, &node, &program(&stage, TELLS), port);
    let cluster = launch.env("NODE_OPTIONS", "--max-http-header-size=20000").set("RUNTIME_HINTS", "off").start();
    serves(&cluster, port);
    for one in told(&cluster, port) {
        assert_eq!((&one["header"], &one["options"]), (&20_000.into(), &"--max-http-header-size=20000".into()), "{one}");
    }
    let before = cluster.variable(pid_of(&cluster, 0), "NODE_OPTIONS").expect("it is there at the start");
    assert!(before.starts_with("--max-http-header-size=20000 ") && before.contains("--import=data:"), "{before}");
    stops(cluster);
}

/// What a worker starts is a program of its own: nothing of the cluster reaches it.
#[test]
fn children_of_a_worker_know_nothing_of_the_cluster() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let child = "console.log(JSON.stringify([require('cluster').isWorker, typeof process.send, process.env.NODE_OPTIONS || '']))";
    stage.write("child.js", child);
    let file = program(
        &stage,
        r#"
        require("child_process").execFile(process.execPath, [__dirname + "/child.js"], (error, out) => say("child", error || out));
        require("child_process").exec(`"${process.execPath}" ${__dirname}/child.js`, (error, out) => say("child", error || out));
        server().listen(PORT);"#,
    );
    let cluster = launch(Mode::Plain, &node, &file, port).set("RUNTIME_HINTS", "off").start();
    serves(&cluster, port);
    cluster.until("both children of both have told", |cluster| cluster.out().matches("child ").count() == 2 * WORKERS);
    assert_eq!(cluster.out().matches(r#"child [false,"undefined",""]"#).count(), 2 * WORKERS, "{}", cluster.story());
    stops(cluster);
}

#[test]
fn off_is_a_program_without_a_cluster() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let cluster = launch(Mode::Plain, &node, &program(&stage, TELLS), port).set("NODE_IPC", "off").start();
    cluster.ready(WORKERS);
    assert_eq!(cluster.workers()["share"]["mechanism"], "seccomp", "{}", cluster.story());
    for one in told(&cluster, port) {
        assert_eq!((&one["isWorker"], &one["isPrimary"], &one["send"]), (&false.into(), &true.into(), &"undefined".into()));
        assert_eq!(one["options"].as_str().unwrap_or_default().matches("--import").count(), 0, "{one}");
    }
    assert!(cluster.rows().iter().all(|row| row["channel"].is_null()), "{}", cluster.story());
    stops(cluster);
}

/// `node -e` never joins a cluster.
#[test]
fn auto_takes_only_a_node_with_a_script() {
    let Some(node) = node() else { return };
    let print = "console.log(typeof process.send, require('cluster').isWorker)";
    for words in
        [&["-e", print][..], &["--eval", print], &["--no-warnings", "-e", print], &["-p", "typeof process.send + ' false'"]]
    {
        let cluster = Cluster::start(Mode::Plain, &[], &[&[node.as_str()], words].concat());
        let (code, out, err) = cluster.finish();
        assert_eq!((code, out.as_str()), (0, "undefined false\n"), "{words:?}\n{err}");
    }
}

#[test]
fn a_script_is_found_behind_options() {
    let (Some(node), stage) = (node(), Stage::new()) else { return };
    let file = program(&stage, "console.log(typeof process.send, cluster.isWorker, process.argv.slice(2).join());");
    stage.write("first.js", "");
    let first = stage.path("first.js");
    for options in [&["--no-warnings"][..], &["--max-old-space-size=100"], &["--require", &first], &["-r", &first, "--"]] {
        let command = [&[node.as_str()], options, &[&file, "-e", "1"]].concat();
        let (code, out, err) = Cluster::start(Mode::Plain, &[("WORKERS", "1"), GRACE], &command).finish();
        assert_eq!((code, out.as_str()), (0, "function true -e,1\n"), "{options:?}\n{err}");
    }
}

#[test]
fn debian_calls_it_nodejs() {
    let (Some(node), stage, port) = (tool("node"), Stage::new(), free_port()) else { return };
    let nodejs = stage.path("nodejs");
    std::os::unix::fs::symlink(node, &nodejs).expect("made");
    let cluster = launch(Mode::Plain, &nodejs, &program(&stage, TELLS), port).start();
    serves(&cluster, port);
    stops(cluster);
}

#[test]
fn the_preload_has_a_switch_of_its_own() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let launch = launch(Mode::Plain, &node, &program(&stage, TELLS), port).set("RUNTIME_HINTS", "off");
    let cluster = launch.set("NODE_IPC", "auto,no-preload").start();
    serves(&cluster, port);
    for one in told(&cluster, port) {
        assert_eq!((&one["isWorker"], &one["options"]), (&true.into(), &Value::Null), "{one}");
    }
    assert_eq!(cluster.variable(pid_of(&cluster, 0), "NODE_OPTIONS"), None);
    stops(cluster);
}

/// As Node before 18.18, which takes no `--import` in `NODE_OPTIONS`.
#[test]
fn a_node_that_refuses_the_preload_is_started_without_it() {
    // With `auto` the end of the first worker would be the end of all.
    for workers in ["2", "auto"] {
        let (Some(real), stage, port) = (node(), Stage::new(), free_port()) else { return };
        let file = program(&stage, TELLS);
        let script = format!("#!/bin/sh\ncase $NODE_OPTIONS in *--import*) exit 9;; esac\nexec {real} \"$@\"\n");
        let old = stage.write("node", &script);
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let cluster = launch(Mode::Plain, &old, &file, port).set("WORKERS", workers).start();
        cluster.until_log(&["--import in NODE_OPTIONS"]);
        let mut answer = Value::Null;
        cluster.until("it serves", |_| {
            answer = body(local(port), "/").and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default();
            !answer.is_null()
        });
        assert_eq!((&answer["isWorker"], &answer["options"]), (&true.into(), &Value::Null), "{answer}");
        assert!(cluster.log_line(&["next start waits"]).is_none(), "it is no failure\n{}", cluster.story());
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn what_is_no_word_of_it_is_refused() {
    for value in ["maybe", "auto,on", "on,no-prelaod", ""] {
        let (code, _, err) = Launch::of(Mode::Plain, &["true"]).set("NODE_IPC", value).start().finish();
        assert_eq!(code, 64, "{value:?}\n{err}");
        assert!(err.contains("NODE_IPC") && err.contains("no-preload"), "{value:?}\n{err}");
    }
}

/// With a listener of our own, it is handed over as to any server; the channel is there all the same.
#[test]
fn listeners_of_listen_go_along_with_the_channel() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(&stage, "server().listen({ fd: 3 }, () => say(cluster.isWorker, typeof process.send));");
    let launch = Launch::of(Mode::Plain, &[&node, &file]).set("WORKERS", WORKERS).set(GRACE.0, GRACE.1);
    let cluster = launch.set("LISTEN", format!("127.0.0.1:{port}")).start();
    cluster.ready(WORKERS);
    assert_eq!(cluster.workers()["share"]["mechanism"], "listen-fds", "{}", cluster.story());
    crate::share::all_serve(&cluster, local(port), "/", WORKERS);
    cluster.until("both are workers", |cluster| cluster.out().matches("true function").count() == WORKERS);
    stops(cluster);
}

/// Whatever the version: `/workers` says where each channel stands, and the log has the events.
#[test]
fn the_events_of_a_worker_are_in_the_log() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let launch = launch(Mode::Plain, &node, &program(&stage, TELLS), port).set("LOG", "debug");
    let cluster = launch.start();
    serves(&cluster, port);
    is_node(&cluster);
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(), 0, "{}", cluster.story());
    for event in ["online", "listening", "disconnect"] {
        assert!(cluster.log_line(&[event]).is_some(), "{event}\n{}", cluster.story());
    }
}
