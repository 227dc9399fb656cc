//! Programs that are no servers end as they do without clusterinit: with their own status, when they are done.

use super::{GRACE, PROMPT, WORKERS, is_node, launch, log_lines, node, program, source, stops};
use crate::support::{Cluster, Mode, Stage, Stopwatch, free_port, modes};

#[test]
fn a_job_runs_once_and_its_status_is_the_status() {
    for mode in modes() {
        let Some(node) = node() else { return };
        for (status, number) in [("0", 0), ("3", 3)] {
            let (code, out, err) = Cluster::start(mode, &[], &[&node, &source("job.js"), status]).finish();
            assert_eq!((code, out.as_str()), (number, "the work is done\n"), "{err}");
        }
    }
}

#[test]
fn whatever_ends_a_job_is_its_end() {
    let Some(node) = node() else { return };
    for (text, status, said) in [
        ("say('top');", 0, "top\n"),
        ("setTimeout(() => say('later'), 300);", 0, "later\n"),
        ("process.exit(7);", 7, ""),
        ("throw new Error('thrown');", 1, ""),
        ("Promise.reject(new Error('rejected'));", 1, ""),
        ("process.on('exit', () => say('exit')); process.exitCode = 5;", 5, "exit\n"),
        ("process.on('beforeExit', () => say('before'));", 0, "before\n"),
        ("process.kill(process.pid, 'SIGKILL');", 137, ""),
        ("process.send({ clusterinit: { to: 'others' }, data: 1 }, () => say('sent'));", 0, "sent\n"),
    ] {
        let stage = Stage::new();
        let file = program(&stage, text);
        let (code, out, err) = Cluster::start(Mode::Plain, &[], &[&node, &file]).finish();
        assert_eq!((code, out.as_str()), (status, said), "{text}\n{err}");
    }
}

#[test]
fn every_kind_of_file_is_a_script() {
    let Some(node) = node() else { return };
    for (name, text) in [
        ("job.js", "console.log(require('cluster').isWorker)"),
        ("job.cjs", "console.log(require('cluster').isWorker)"),
        ("job.mjs", "import cluster from 'node:cluster'; await 0; console.log(cluster.isWorker)"),
        ("job", "console.log(require('cluster').isWorker)"),
    ] {
        let stage = Stage::new();
        let file = stage.write(name, text);
        let (code, out, err) = Cluster::start(Mode::Plain, &[], &[&node, &file]).finish();
        assert_eq!((code, out.as_str()), (0, "true\n"), "{name}\n{err}");
    }
}

/// Node's own answers to what cannot run, and ours for several jobs: the worst.
#[test]
fn several_jobs_end_with_the_worst_status() {
    let (Some(node), stage) = (node(), Stage::new()) else { return };
    let file = program(&stage, "process.exitCode = SLOT === 1 ? 9 : 0;");
    let settings = [("WORKERS", "3"), ("RESTART", "never")];
    let (code, ..) = Cluster::start(Mode::Plain, &settings, &[&node, &file]).finish();
    assert_eq!(code, 9);
    let (code, ..) = Cluster::start(Mode::Plain, &[], &[&node, &stage.path("none.js")]).finish();
    assert_eq!(code, 1, "as node has it");
}

/// A program that waits for messages is a worker of a cluster: it stays, until it is stopped.
#[test]
fn who_waits_for_messages_stays() {
    let (Some(node), stage) = (node(), Stage::new()) else { return };
    let file = program(&stage, "process.on('message', () => {}); process.send('ready');");
    let cluster = launch(Mode::Plain, &node, &file, 0).start();
    let pids = cluster.ready(WORKERS);
    is_node(&cluster);
    let clock = Stopwatch::start();
    cluster.until("time goes by", |_| clock.elapsed().as_secs_f64() > 1.5);
    assert_eq!(cluster.ready(WORKERS), pids);
    stops(cluster);
}

/// A timer keeps it alive after the channel has closed: then the stop signal comes, long before the grace is over.
#[test]
fn a_timer_does_not_hold_up_a_stop() {
    for text in ["setInterval(() => {}, 1000);", "setInterval(() => {}, 1000); server().listen(PORT);"] {
        let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
        let file = program(&stage, &format!("{text} process.send('ready');"));
        let cluster = launch(Mode::Plain, &node, &file, port).start();
        cluster.ready(WORKERS);
        let clock = Stopwatch::start();
        let (code, _, err) = cluster.stop();
        assert_eq!(code, 0, "{err}");
        assert!(clock.elapsed() < PROMPT, "{text}: {:?} of {GRACE:?}\n{err}", clock.elapsed());
    }
}

/// It ignores everything: the grace ends it, and the status says so.
#[test]
fn who_ignores_all_is_killed_at_the_end_of_the_grace() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(&stage, "setInterval(() => {}, 1000); process.on('SIGTERM', () => {}); server().listen(PORT);");
    let cluster = launch(Mode::Plain, &node, &file, port).set("GRACE", "2s").start();
    cluster.ready(WORKERS);
    let clock = Stopwatch::start();
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 137, "{err}");
    assert!(clock.elapsed() < PROMPT, "{:?}\n{err}", clock.elapsed());
}

/// Nothing is said about a job that a person would have to read.
#[test]
fn a_job_is_no_reason_to_complain() {
    let Some(node) = node() else { return };
    let cluster = Cluster::start(Mode::Plain, &[], &[&node, &source("job.js")]);
    assert_eq!(cluster.wait_exit(), 0);
    assert_eq!(log_lines(&cluster, &["WARN"]), 0, "{}", cluster.story());
}
