//! The rolling restart, scaling, and the commands that ask for them from inside the container.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Cluster, Launch, Mode, example, free_port, has_root, modes, request};

fn reload_state(cluster: &Cluster) -> Value {
    cluster.workers()["reload"]["state"].clone()
}

fn generations(cluster: &Cluster) -> Vec<Value> {
    cluster.rows().iter().map(|row| row["generation"].clone()).collect()
}

#[test]
fn usr2_replaces_every_worker_one_at_a_time_successor_first() {
    for mode in modes() {
        let script = "echo start $CLUSTERINIT_GENERATION.$CLUSTERINIT_WORKER_ID
            trap 'echo term $CLUSTERINIT_GENERATION.$CLUSTERINIT_WORKER_ID; exit 0' TERM; while :; do sleep 0.05; done";
        let settings = [("WORKERS", "2"), ("READY", "running")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", script]);
        let before = cluster.ready(2);
        assert_eq!(reload_state(&cluster), "none");
        cluster.signal(Signal::SIGUSR2);
        let (mut both_shown, mut fewest) = (false, usize::MAX);
        cluster.until("the reload is done", |cluster| {
            let rows = cluster.rows();
            // On a busy machine the side port may have had no time to answer.
            if rows.is_empty() {
                return false;
            }
            let twins: Vec<i64> = rows.iter().filter(|row| row["id"] == 0).filter_map(|row| row["generation"].as_i64()).collect();
            both_shown |= twins == [1, 2];
            fewest = fewest.min(rows.iter().filter(|row| row["state"] == "ready").count());
            reload_state(cluster) == "done"
        });
        let after = cluster.ready(2);
        assert!(both_shown, "the predecessor's row comes first, and both were shown");
        assert_eq!(fewest, 2, "never fewer ready than wanted");
        assert!(before.iter().all(|pid| !after.contains(pid)));
        assert_eq!(cluster.workers()["generation"], 2);
        assert_eq!(generations(&cluster), [2, 2]);
        // The last word of the last predecessor may still be on its way to us.
        cluster.until("both predecessors were told", |cluster| cluster.out().matches("term 1.").count() == 2);
        let out = cluster.out();
        let place = |text: &str| out.find(text).unwrap_or_else(|| panic!("{text} is missing in\n{out}"));
        for slot in [0, 1] {
            assert!(place(&format!("start 2.{slot}")) < place(&format!("term 1.{slot}")), "{out}");
        }
        let (first, second) = if place("start 2.0") < place("start 2.1") { (0, 1) } else { (1, 0) };
        assert!(place(&format!("term 1.{first}")) < place(&format!("start 2.{second}")), "one at a time\n{out}");
        assert!(cluster.rows().iter().all(|row| row["restarts"] == 0), "a reload is no crash");
        assert!(cluster.rows().iter().all(|row| row["last_exit"]["reason"] == "reload"));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_reload_to_a_failing_program_is_aborted() {
    for mode in modes() {
        // It ends at once; it never says that it is ready.
        for (ready, broken) in [("running", "exit 3"), ("notify", "exec sleep 1000")] {
            let good = if ready == "notify" { format!("exec {}", example("server")) } else { "exec sleep 1000".to_owned() };
            let script = format!("[ $CLUSTERINIT_GENERATION = 1 ] || {broken}; {good}");
            let launch = Launch::of(mode, &["sh", "-c", &script]).set("WORKERS", 2).set("READY", ready).env("PORT", 0);
            let cluster = launch.set("START_TIMEOUT", "2s").start();
            let before = cluster.ready(2);
            cluster.signal(Signal::SIGUSR2);
            cluster.until("the reload is aborted", |cluster| reload_state(cluster) == "aborted");
            assert_eq!(cluster.ready(2), before, "the old ones stay");
            let workers = cluster.workers();
            assert_eq!(workers["generation"], 2, "it stays grown");
            assert!(workers["reload"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{workers}");
            assert!(workers["reload"]["seconds_ago"].is_number());
            assert_eq!(cluster.get("/readyz").0, 200);
            cluster.until_log(&["reload", "abort"]);
            assert_eq!(cluster.stop().0, 0, "{mode:?} {ready}");
        }
    }
}

#[test]
fn a_crash_after_a_reload_is_replaced_in_the_current_generation() {
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "1"), ("READY", "running")], &["sleep", "1000"]);
    cluster.ready(1);
    cluster.signal(Signal::SIGUSR2);
    cluster.until("the reload is done", |cluster| reload_state(cluster) == "done");
    let pid = cluster.ready(1)[0];
    cluster.signal_inner(pid, Signal::SIGKILL);
    cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|other| *other != pid));
    assert_eq!(generations(&cluster), [2]);
    let pid = cluster.ready(1)[0];
    assert_eq!(cluster.variable(pid, "CLUSTERINIT_GENERATION").as_deref(), Some("2"));
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_reload_during_a_reload_is_remembered_once() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
        cluster.ready(2);
        cluster.signal(Signal::SIGUSR2);
        cluster.until("the first runs", |cluster| reload_state(cluster) == "running");
        cluster.signal(Signal::SIGUSR2);
        cluster.until_log(&["USR2"]);
        cluster.until("the second is done", |cluster| {
            let workers = cluster.workers();
            workers["generation"] == 3 && workers["reload"]["state"] == "done"
        });
        cluster.ready(2);
        assert_eq!(generations(&cluster), [3, 3]);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn ttin_and_ttou_scale_within_bounds() {
    for mode in modes() {
        // At most 4 times the larger of the automatic and the starting count: with taskset that is 1 and 1.
        let launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running");
        let cluster = launch.wrap(&["taskset", "-c", &first_cpu()]).start();
        let first = cluster.ready(1)[0];
        for count in 2..=4 {
            cluster.signal(Signal::SIGTTIN);
            cluster.ready(count);
            assert_eq!(cluster.workers()["cpu"]["workers_wanted"], count);
        }
        cluster.signal(Signal::SIGTTIN);
        let refusals = |cluster: &Cluster| cluster.err().matches("refused").count();
        cluster.until("it is refused", |cluster| refusals(cluster) == 1);
        cluster.signal(Signal::SIGTTOU);
        cluster.ready(3);
        cluster.signal(Signal::SIGTTOU);
        cluster.ready(2);
        cluster.signal(Signal::SIGTTOU);
        assert_eq!(cluster.ready(1), [first], "the highest slots go first");
        cluster.signal(Signal::SIGTTOU);
        cluster.until("it is refused", |cluster| refusals(cluster) == 2);
        assert_eq!(cluster.ready(1), [first]);
        assert_eq!(cluster.workers()["generation"], 1);
        assert_eq!(cluster.stop().0, 0);
    }
}

/// One CPU of those that we may use.
fn first_cpu() -> String {
    let own = i32::try_from(std::process::id()).expect("pids fit");
    let line = crate::support::status_lines(own, &["Cpus_allowed_list"]).pop().expect("the kernel tells");
    let list = line.split(':').next_back().unwrap_or_default().trim().to_owned();
    list.split([',', '-']).next().unwrap_or_default().to_owned()
}

#[test]
fn the_commands_do_from_inside_what_signals_do() {
    for mode in modes() {
        let launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 2).set("READY", "running");
        let cluster = launch.apart().start();
        cluster.ready(2);
        let run = |words: &[&str]| {
            let output = cluster.cli(words);
            assert_eq!(output.status.code(), Some(0), "{words:?} {output:?}\n{}", cluster.story());
        };
        run(&["scale", "3"]);
        cluster.ready(3);
        run(&["scale", "2"]);
        let before = cluster.ready(2);
        run(&["restart", "1"]);
        cluster.until("slot 1 has another worker", |cluster| {
            let pids = cluster.pids_in("ready");
            pids.len() == 2 && !pids.contains(&before[1])
        });
        assert_eq!(cluster.ready(2)[0], before[0]);
        assert_eq!(cluster.workers()["generation"], 1);
        run(&["reload"]);
        cluster.until("the reload is done", |cluster| reload_state(cluster) == "done");
        assert_eq!(cluster.workers()["generation"], 2);
        cluster.ready(2);
        run(&["stop"]);
        assert_eq!(cluster.finish().0, 0);
    }
}

#[test]
fn the_commands_refuse_what_makes_no_sense() {
    let launch = Launch::of(Mode::Plain, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running");
    let cluster = launch.apart().start();
    let before = cluster.ready(1);
    for words in [&["scale"][..], &["scale", "many"], &["scale", "0"], &["scale", "-1"], &["restart"], &["restart", "x"]] {
        let output = cluster.cli(words);
        assert_eq!(output.status.code(), Some(64), "{words:?} {output:?}");
    }
    for words in [&["restart", "7"][..], &["scale", "100000"]] {
        let output = cluster.cli(words);
        assert!(!output.status.success() && !output.stderr.is_empty(), "{words:?} {output:?}");
    }
    assert_eq!(cluster.ready(1), before);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn the_commands_need_the_same_uid_or_root() {
    if !has_root() {
        return;
    }
    for mode in modes() {
        let nobody = ["setpriv", "--reuid=61851", "--regid=61851", "--clear-groups"];
        let launch = || Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running").apart();
        let cluster = launch().start();
        let before = cluster.ready(1);
        for words in [&["stop"][..], &["reload"], &["scale", "2"], &["restart", "0"]] {
            let output = cluster.cli_through(&nobody, words);
            assert!(!output.status.success() && !output.stderr.is_empty(), "{words:?} {output:?}");
        }
        assert_eq!(cluster.ready(1), before);
        assert_eq!((&cluster.workers()["generation"], cluster.workers()["state"].as_str()), (&1.into(), Some("running")));
        assert_eq!(cluster.stop().0, 0);
        // The same uid is enough, without root.
        let cluster = launch().wrap(&nobody).start();
        cluster.ready(1);
        let output = cluster.cli_through(&nobody, &["stop"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", cluster.story());
        assert_eq!(cluster.finish().0, 0);
    }
}

#[test]
fn the_commands_do_not_guess_which_of_several_is_meant() {
    let launch = || Launch::of(Mode::Plain, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running");
    let first = launch().start();
    let second = launch().start();
    first.ready(1);
    second.ready(1);
    let output = first.cli(&["stop"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{output:?}");
    for cluster in [first, second] {
        assert!(said.contains(&cluster.pid().to_string()), "{said}");
        assert_eq!((cluster.ready(1).len(), cluster.stop().0), (1, 0));
    }
}

#[test]
fn no_request_is_lost_across_reloads_and_scaling_with_listen() {
    for mode in modes() {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let launch = Launch::of(mode, &[&example("server")]).set("WORKERS", 2).set("READY", "notify");
        let cluster = launch.set("LISTEN", address).set("STOP_WHEN", "now").start();
        cluster.ready(2);
        let (stop, served, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        let load = || {
            while !stop.load(Ordering::Relaxed) {
                let answered = request(address, "GET", "/").is_ok_and(|reply| reply.status == 200);
                if answered { &served } else { &failed }.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|threads| {
            threads.spawn(load);
            threads.spawn(load);
            let _ends_the_load_also_when_we_panic = Ends(&stop);
            for generation in [2, 3] {
                cluster.signal(Signal::SIGUSR2);
                cluster.until("the reload is done", |cluster| {
                    let workers = cluster.workers();
                    workers["generation"] == generation && workers["reload"]["state"] == "done"
                });
            }
            cluster.signal(Signal::SIGTTIN);
            cluster.ready(3);
            cluster.signal(Signal::SIGTTOU);
            cluster.ready(2);
            let enough = served.load(Ordering::Relaxed) + 50;
            cluster.until("it goes on serving", |_| served.load(Ordering::Relaxed) > enough);
        });
        assert_eq!(failed.into_inner(), 0, "of {}\n{}", served.into_inner(), cluster.story());
        assert_eq!(cluster.stop().0, 0);
    }
}

struct Ends<'flag>(&'flag AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
