//! Orphans: every one is reaped and counted, none is left over, and nobody waits for it.

use nix::sys::signal::Signal;

use crate::support::{Cluster, Mode, modes};

/// A worker that makes `count` orphans which end at once, says `made`, and stays.
fn orphan_maker(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do (sh -c : &); i=$((i+1)); done; echo made; exec sleep 1000")
}

#[test]
fn every_orphan_is_reaped_and_counted() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "1")], &["sh", "-c", &orphan_maker(300)]);
        cluster.until_out("made");
        cluster.until("300 orphans are counted", |cluster| cluster.workers()["orphans_reaped"] == 300);
        assert_eq!(cluster.zombies(), 0, "{}", cluster.story());
        assert_eq!(cluster.left().len(), 1, "only the worker is left\n{}", cluster.story());
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn orphans_of_two_workers_at_once_are_reaped_while_probes_are_answered() {
    for mode in modes() {
        let settings = [("WORKERS", "2"), ("READY", "running")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", &orphan_maker(700)]);
        cluster.until("it answers", |cluster| cluster.answers("/healthz") == 200);
        cluster.until("1400 orphans are counted", |cluster| {
            assert_eq!(cluster.get("/healthz").0, 200);
            cluster.workers()["orphans_reaped"] == 1400
        });
        assert_eq!(cluster.zombies(), 0);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn an_orphan_that_lives_longer_than_its_parent_is_reaped_when_it_ends() {
    for mode in modes() {
        // The grandchild lives until it reads the end of its stdin, a FIFO that we hold.
        let scratch = tempfile::tempdir().expect("a directory");
        let fifo = scratch.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let script = format!("(cat <{} >/dev/null &); echo made; exec sleep 1000", fifo.display());
        let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("READY", "running")], &["sh", "-c", &script]);
        let holder = std::fs::OpenOptions::new().write(true).open(&fifo).expect("cat opens the other end");
        cluster.until_out("made");
        cluster.ready(1);
        assert_eq!(cluster.workers()["orphans_reaped"], 0);
        assert_eq!(cluster.left().len(), 2, "the worker and its orphan");
        drop(holder);
        cluster.until("the orphan is counted", |cluster| cluster.workers()["orphans_reaped"] == 1);
        assert_eq!(cluster.left().len(), 1);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_worker_counts_the_processes_of_its_tree() {
    for mode in modes() {
        // One in its group, one in a session of its own, one that has lost its parent.
        let script = "sleep 1000 & setsid sleep 1000 & (setsid sleep 1000 &); exec sleep 1000";
        let cluster = Cluster::start(mode, &[("WORKERS", "1")], &["sh", "-c", script]);
        cluster.until("four processes are counted", |cluster| cluster.rows().first().is_some_and(|row| row["processes"] == 4));
        cluster.signal(Signal::SIGTERM);
        assert_eq!(cluster.finish().0, 0, "{mode:?}");
    }
}

#[test]
fn a_quick_death_of_all_workers_is_never_missed() {
    // The main child's death shares its signal with others; a missed one would hang for ever.
    for mode in modes() {
        for _ in 0..20 {
            let script = "i=0; while [ $i -lt 20 ]; do (sh -c : &); i=$((i+1)); done; exit 3";
            let settings = [("WORKERS", "4"), ("RESTART", "never"), ("HEALTH_ADDR", "off")];
            let cluster = Cluster::start(mode, &settings, &["sh", "-c", script]);
            assert_eq!(cluster.finish().0, 3, "{mode:?}");
        }
    }
}

#[test]
fn children_that_clusterinit_inherited_are_reaped_and_not_taken_for_workers() {
    // A shell that leaves a child behind and then becomes clusterinit: the child's end is nobody's exit status.
    let launch = crate::support::Launch::of(Mode::Plain, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running");
    let cluster = launch.wrap_sh("sh -c 'exit 9' & sleep 1000 &").start();
    let worker = cluster.ready(1);
    cluster.until("the dead one is reaped", |cluster| cluster.zombies() == 0);
    assert_eq!(cluster.ready(1), worker);
    assert_eq!(cluster.stop().0, 0);
}
