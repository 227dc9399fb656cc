//! Programs in front of Node: they work, or one line says what to write instead.

use super::{GRACE, WORKERS, node, program, version};
use crate::share::{all_serve, local, reload};
use crate::support::{Cluster, Launch, Mode, Stage, example, free_port, modes, tool};

const SERVER: &str = "server().listen(PORT, () => say(cluster.isWorker));";

fn wrapped(mode: Mode, command: &[&str], port: u16, ipc: &str) -> Cluster {
    let launch = Launch::of(mode, command).set("WORKERS", WORKERS).set(GRACE.0, GRACE.1).set("NODE_IPC", ipc);
    launch.env("PORT", port).start()
}

fn serves_and_stops(cluster: &Cluster, port: u16) {
    cluster.ready(WORKERS);
    all_serve(cluster, local(port), "/", WORKERS);
    reload(cluster, WORKERS);
    all_serve(cluster, local(port), "/", WORKERS);
    super::stops_whole(cluster);
}

/// The channel goes through a shell, whether it executes Node or waits for it.
#[test]
fn a_shell() {
    for mode in modes() {
        for tail in ["", "; true"] {
            for (ipc, mechanism, is_worker) in [("on", "node", "true"), ("auto", "seccomp", "false")] {
                let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
                let line = format!("{node} {}{tail}", program(&stage, SERVER));
                let cluster = wrapped(mode, &["sh", "-c", &line], port, ipc);
                cluster.ready(WORKERS);
                assert_eq!(cluster.workers()["share"]["mechanism"], mechanism, "{}", cluster.story());
                cluster.until("both have told", |cluster| cluster.out().matches(is_worker).count() == WORKERS);
                serves_and_stops(&cluster, port);
            }
        }
    }
}

#[test]
fn env_and_exec_are_no_wrappers_at_all() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(&stage, SERVER);
    let cluster = wrapped(Mode::Plain, &["sh", "-c", &format!("exec env A=1 {node} {file}")], port, "on");
    cluster.until("both are workers", |cluster| cluster.out().matches("true").count() == WORKERS);
    serves_and_stops(&cluster, port);
}

fn npm(stage: &Stage) -> Option<String> {
    program(stage, SERVER);
    stage.write("package.json", r#"{ "name": "app", "version": "1.0.0", "scripts": { "start": "node server.js" } }"#);
    tool("npm")
}

/// npm swallows the channel, so it gets none: the servers bind by themselves, and share as any program does.
#[test]
fn npm_start_and_npx() {
    let (stage, port) = (Stage::new(), free_port());
    if npm(&stage).is_none() {
        return;
    }
    for line in
        ["npm start", "npm --silent run start", "npm exec --offline --call 'node server.js'", "npx --offline -c 'node server.js'"]
    {
        let line = format!("cd {} && exec {line}", stage.path(""));
        let launch = Launch::of(Mode::Plain, &["sh", "-c", &line]).set("WORKERS", WORKERS).set(GRACE.0, GRACE.1);
        let cluster = launch.env("PORT", port).env("HOME", stage.path("")).start();
        cluster.ready(WORKERS);
        assert_eq!(cluster.workers()["share"]["mechanism"], "seccomp", "{}", cluster.story());
        serves_and_stops(&cluster, port);
    }
}

/// Told to give it the channel all the same: npm joins the cluster and never listens, its server binds by itself.
#[test]
fn npm_start_with_a_channel_works_where_any_program_shares() {
    let (stage, port) = (Stage::new(), free_port());
    let Some(npm) = npm(&stage) else { return };
    let launch =
        Launch::of(Mode::Plain, &[&npm, "--prefix", &stage.path(""), "start"]).set("WORKERS", WORKERS).set(GRACE.0, GRACE.1);
    let cluster = launch.set("NODE_IPC", "on").env("PORT", port).env("HOME", stage.path("")).start();
    serves_and_stops(&cluster, port);
}

/// Where nothing else can share, one line names what to write instead.
#[test]
fn npm_start_with_a_channel_is_named_where_nothing_else_shares() {
    let (stage, port) = (Stage::new(), free_port());
    let Some(npm) = npm(&stage) else { return };
    let launch =
        Launch::of(Mode::Plain, &[&npm, "--prefix", &stage.path(""), "start"]).set("WORKERS", WORKERS).set("GRACE", "5s");
    let launch = launch.wrap(&[&example("confines"), "refused"]).set("NODE_IPC", "on").set("START_TIMEOUT", "3s");
    let cluster = launch.env("PORT", port).env("HOME", stage.path("")).start();
    let line = cluster.until_log(&["warn", "npm"]);
    assert!(line.contains("node"), "what to write instead: {line}");
    cluster.signal(nix::sys::signal::Signal::SIGTERM);
    cluster.wait_exit();
    cluster.until("nothing is left", |cluster| cluster.left().is_empty());
}

/// It has no script argument: shared as any program, with the channel that Node would lose on the way.
#[test]
fn node_run() {
    for major in [22, 24] {
        let (Some(node), stage, port) = (version(major), Stage::new(), free_port()) else { continue };
        program(&stage, SERVER);
        stage.write("package.json", r#"{ "scripts": { "start": "node server.js" } }"#);
        let line = format!("cd {} && exec {node} --run start", stage.path(""));
        for command in [&["sh", "-c", &line][..], &["env", "-C", &stage.path(""), &node, "--run", "start"]] {
            serves_and_stops(&wrapped(Mode::Plain, command, port, "auto"), port);
        }
    }
}
