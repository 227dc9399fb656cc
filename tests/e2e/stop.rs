//! The stop: graceful, bounded, the whole tree, in order, and never a moment longer than needed.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Cluster, Launch, Mode, example, has_pid1, is_alive, modes};

/// A loop that waits for signals.
const WAIT: &str = "while :; do sleep 0.05; done";

fn up(cluster: &Cluster, count: usize) {
    cluster.until("all are up", |cluster| cluster.out().matches("up\n").count() == count);
}

/// `text` as a single-quoted word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[test]
fn who_ignores_term_is_killed_after_the_grace_and_named() {
    for mode in modes() {
        let settings = [("WORKERS", "2"), ("READY", "running"), ("GRACE", "500ms")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", "trap '' TERM; echo up; exec sleep 1000"]);
        up(&cluster, 2);
        let pids = cluster.ready(2);
        let (code, _, err) = cluster.stop();
        assert_eq!(code, 137, "{mode:?}\n{err}");
        for pid in pids {
            let named = |line: &str| line.split(|c: char| !c.is_ascii_digit()).any(|number| number == pid.to_string());
            assert!(err.lines().any(|line| line.contains("kill") && line.contains("slot") && named(line)), "{pid}\n{err}");
        }
    }
}

#[test]
fn the_rest_of_a_tree_is_told_when_its_leader_has_gone() {
    // In the leader's group; in a session of its own; in a session of its own and without its parent.
    for wrap in ["sh -c CHILD &", "setsid sh -c CHILD &", "(setsid sh -c CHILD &)"] {
        for mode in modes() {
            let child = quoted(&format!("trap \"echo child told; sleep 0.5; echo child done; exit 0\" TERM; echo up; {WAIT}"));
            let leader = "trap 'sleep 0.5; echo leader done; exit 0' TERM; echo up";
            let script = format!("{}\n{leader}; {WAIT}", wrap.replace("CHILD", &child));
            let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("GRACE", "10m")], &["sh", "-c", &script]);
            up(&cluster, 2);
            let (code, out, err) = cluster.stop();
            assert_eq!(code, 0, "{mode:?} {wrap}\n{err}");
            assert_eq!(out, "up\nup\nleader done\nchild told\nchild done\n", "{mode:?} {wrap}\n{err}");
        }
    }
}

#[test]
fn a_member_of_the_tree_that_ignores_term_is_killed_and_counts() {
    for wrap in ["sh -c CHILD &", "(setsid sh -c CHILD &)"] {
        for mode in modes() {
            let child = quoted("trap \"\" TERM; echo up; exec sleep 1000");
            let script = format!("{}\necho up; exec sleep 1000", wrap.replace("CHILD", &child));
            let cluster =
                Cluster::start(mode, &[("WORKERS", "1"), ("READY", "running"), ("GRACE", "500ms")], &["sh", "-c", &script]);
            up(&cluster, 2);
            cluster.ready(1);
            let (code, _, err) = cluster.stop();
            assert_eq!(code, 137, "{mode:?} {wrap}\n{err}");
            assert!(err.lines().any(|line| line.contains("kill") && line.contains("sleep")), "{err}");
        }
    }
}

#[test]
fn it_ends_the_moment_that_nothing_is_left() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "3"), ("READY", "running"), ("GRACE", "10m")], &["sleep", "1000"]);
        cluster.ready(3);
        // Within our own deadline, far below the grace.
        assert_eq!(cluster.stop().0, 0, "{mode:?}");
    }
}

#[test]
fn as_pid_1_what_else_lives_in_the_namespace_is_told_last() {
    if !has_pid1() {
        return;
    }
    // No tree of a worker: another session, orphaned, and without the environment that would tell whose it is.
    let stray = quoted(&format!("trap \"echo stray told; exit 0\" TERM; echo up; {WAIT}"));
    let script = format!("(env -i $(command -v setsid) sh -c {stray} &)\ntrap 'echo leader done; exit 0' TERM; echo up; {WAIT}");
    let cluster = Cluster::start(Mode::Pid1, &[("WORKERS", "1"), ("GRACE", "10m")], &["sh", "-c", &script]);
    up(&cluster, 2);
    let (code, out, err) = cluster.stop();
    assert_eq!((code, out.as_str()), (0, "up\nup\nleader done\nstray told\n"), "{err}");
}

#[test]
fn a_process_of_no_worker_that_had_to_be_killed_is_named_and_does_not_count() {
    if !has_pid1() {
        return;
    }
    let stray = quoted("trap \"\" TERM; echo up; exec tail -f /dev/null");
    let script = format!("(env -i PATH=$PATH setsid sh -c {stray} &)\necho up; exec sleep 1000");
    let cluster = Cluster::start(Mode::Pid1, &[("WORKERS", "1"), ("GRACE", "1s")], &["sh", "-c", &script]);
    up(&cluster, 2);
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 0, "{err}");
    assert!(err.lines().any(|line| line.contains("kill") && line.contains("tail")), "{err}");
}

/// Enters the namespace of a cluster as `kubectl exec` does and runs a script there; returns its first line, which it must print.
fn entered(cluster: &Cluster, script: &str) -> Entered {
    let target = cluster.pid().to_string();
    let words: Vec<&str> = ["--target", &target].into_iter().chain(crate::support::enter_flags()).collect();
    Entered::start(&words, script)
}

/// A process of another parent: what `exec` puts into a container, or a neighbour.
struct Entered(std::process::Child);

impl Entered {
    #[expect(clippy::disallowed_methods, reason = "a test is an ordinary parent, not PID 1")]
    fn start(nsenter: &[&str], script: &str) -> Self {
        let mut command = std::process::Command::new(if nsenter.is_empty() { "env" } else { "nsenter" });
        command.args(nsenter).args(["sh", "-c", script]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut line = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut line).expect("it says up");
        Self(child)
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_some()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("pids fit")
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _gone = kill(Pid::from_raw(self.pid()), Signal::SIGKILL);
            crate::support::wait_until(crate::support::DEADLINE, "it has gone", || self.has_ended());
        }
    }
}

#[test]
fn processes_that_entered_get_a_second_and_do_not_count() {
    if !has_pid1() {
        return;
    }
    for script in ["trap '' TERM HUP; echo up; exec sleep 1000", "echo up; exec sleep 1000", "echo up; cat; sleep 1000 & wait"] {
        let cluster = Cluster::start(Mode::Pid1, &[("WORKERS", "1"), ("READY", "running"), ("GRACE", "10m")], &["sleep", "1000"]);
        cluster.ready(1);
        let mut entered = entered(&cluster, script);
        let (code, _, err) = cluster.stop();
        assert_eq!(code, 0, "{script}\n{err}");
        crate::support::wait_until(crate::support::DEADLINE, "it has gone with its namespace", || entered.has_ended());
    }
}

#[test]
fn an_interactive_shell_that_entered_ends_by_hup() {
    if !has_pid1() {
        return;
    }
    // An interactive shell ignores TERM; HUP is what ends it.
    let cluster = Cluster::start(Mode::Pid1, &[("WORKERS", "1"), ("READY", "running"), ("GRACE", "10m")], &["sleep", "1000"]);
    cluster.ready(1);
    let script = "trap '' TERM; trap 'echo hup; exit 0' HUP; echo up; while :; do sleep 0.05; done";
    let mut entered = entered(&cluster, script);
    assert_eq!(cluster.stop().0, 0);
    let mut said = String::new();
    std::io::Read::read_to_string(entered.0.stdout.as_mut().expect("piped"), &mut said).expect("text");
    assert_eq!(said, "hup\n");
}

#[test]
fn not_as_pid_1_neighbours_are_never_touched() {
    // Same uid, same group and session as clusterinit itself, not its descendant.
    let mut neighbour = Entered::start(&[], "trap 'echo touched' TERM HUP CONT USR1; echo up; while :; do sleep 0.05; done");
    for (settings, script) in [
        (&[("WORKERS", "2"), ("READY", "running")][..], "echo up; exec sleep 1000"),
        (
            &[("WORKERS", "2"), ("READY", "running"), ("GRACE", "300ms")],
            "trap '' TERM; echo up; setsid sleep 1000 & exec sleep 1000",
        ),
    ] {
        let cluster = Cluster::start(Mode::Plain, settings, &["sh", "-c", script]);
        up(&cluster, 2);
        cluster.ready(2);
        cluster.stop();
    }
    assert!(is_alive(neighbour.pid()));
    kill(Pid::from_raw(neighbour.pid()), Signal::SIGKILL).expect("it is there");
    crate::support::wait_until(crate::support::DEADLINE, "it has gone", || neighbour.has_ended());
    let mut said = String::new();
    std::io::Read::read_to_string(neighbour.0.stdout.as_mut().expect("piped"), &mut said).expect("text");
    assert_eq!(said, "");
}

#[test]
fn not_as_pid_1_all_descendants_are_ended() {
    let script = "(env -i PATH=$PATH setsid tail -f /dev/null &) ; setsid sleep 1000 & exec sleep 1000";
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "1"), ("READY", "running"), ("GRACE", "2s")], &["sh", "-c", script]);
    cluster.ready(1);
    // `finish` also waits for the end of the pipes, which the stray one holds.
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 0, "{err}");
}

#[test]
fn workers_end_with_a_clusterinit_that_was_killed() {
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
    cluster.ready(2);
    cluster.signal(Signal::SIGKILL);
    assert_eq!(cluster.wait_exit(), 137);
    cluster.until("the workers are gone", |cluster| cluster.left().is_empty());
}

#[test]
fn a_stop_during_backoff_starts_nothing() {
    for mode in modes() {
        let settings = [("WORKERS", "2"), ("RESTART_BACKOFF", "20m..30m"), ("UNHEALTHY_AFTER", "1h")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", "echo run; exit 3"]);
        cluster.until("both slots wait", |cluster| {
            let rows = cluster.rows();
            rows.len() == 2 && rows.iter().all(|row| row["state"] == "backoff")
        });
        let (code, out, err) = cluster.stop();
        assert_eq!(out, "run\nrun\n", "{err}");
        assert_eq!(code, 0, "{err}");
    }
}

#[test]
fn a_stop_during_the_start_ends_what_was_started() {
    for mode in modes() {
        let settings = [("WORKERS", "2"), ("READY", "notify"), ("GRACE", "10m")];
        let cluster = Cluster::start(mode, &settings, &["sleep", "1000"]);
        cluster.until("both are starting", |cluster| cluster.pids_in("starting").len() == 2);
        assert_eq!(cluster.stop().0, 0);
        // With one worker that starts alone, the others never start.
        let cluster = Cluster::start(mode, &[("READY", "notify")], &["sh", "-c", "echo up; exec sleep 1000"]);
        up(&cluster, 1);
        let (code, out, _) = cluster.stop();
        assert_eq!((code, out.as_str()), (0, "up\n"));
    }
}

#[test]
fn a_stop_during_a_reload_ends_old_and_new() {
    for mode in modes() {
        let script = "echo up; [ $CLUSTERINIT_GENERATION = 1 ] || exec setsid -w sleep 1000; exec sleep 1000";
        let settings = [("WORKERS", "2"), ("READY", "running"), ("GRACE", "10m")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", script]);
        cluster.ready(2);
        cluster.signal(Signal::SIGUSR2);
        cluster.until("a successor starts", |cluster| !cluster.pids_in("starting").is_empty());
        assert_eq!(cluster.stop().0, 0, "{mode:?}");
    }
}

#[test]
fn a_job_that_leaves_a_daemon_behind_ends_with_its_own_status_and_leaves_nothing() {
    for mode in modes() {
        for words in [&["ends"][..], &["ends", "clear"]] {
            let program = example("daemonizes");
            let command = [&[program.as_str()], words].concat();
            // `finish` also waits for the end of the pipes, which the daemon holds.
            let (code, _, err) = Cluster::start(mode, &[("GRACE", "10m")], &command).finish();
            assert_eq!(code, 0, "{mode:?} {words:?}\n{err}");
        }
    }
}

#[test]
fn a_daemon_that_is_deaf_is_killed_at_the_end_of_the_grace() {
    for mode in modes() {
        // Of the tree by its environment: it counts. With a cleared one it is nobody's: it does not.
        for (words, status) in [(&["deaf"][..], 137), (&["deaf", "clear"], 0)] {
            let program = example("daemonizes");
            let command = [&[program.as_str()], words].concat();
            let cluster = Cluster::start(mode, &[("WORKERS", "1"), ("READY", "running"), ("GRACE", "1s")], &command);
            cluster.until_out("\n");
            let daemon = cluster.out().trim().trim_start_matches("daemon ").to_owned();
            cluster.ready(1);
            let (code, _, err) = cluster.stop();
            assert_eq!(code, status, "{mode:?} {words:?}\n{err}");
            let named = |line: &str| line.split(|c: char| !c.is_ascii_digit()).any(|number| number == daemon);
            assert!(err.lines().any(|line| line.contains("kill") && named(line)), "{daemon}\n{err}");
        }
    }
}

#[test]
fn a_drain_delay_fails_readiness_and_leaves_the_workers_alone() {
    for mode in modes() {
        let settings = [("WORKERS", "1"), ("READY", "running"), ("DRAIN_DELAY", "2s"), ("GRACE", "10m")];
        let script = format!("trap 'echo told; exit 0' TERM; echo up; {WAIT}");
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", &script]);
        cluster.until("it is in rotation", |cluster| cluster.answers("/readyz") == 200);
        cluster.signal(Signal::SIGTERM);
        cluster.until("readiness fails", |cluster| cluster.answers("/readyz") == 503);
        let workers = cluster.workers();
        assert!(!cluster.out().contains("told"), "{}", cluster.story());
        assert_eq!(workers["state"], "draining");
        assert_eq!(workers["workers"][0]["state"], "ready");
        assert_eq!(cluster.get("/healthz").0, 200);
        let (code, out, _) = cluster.finish();
        assert_eq!((code, out.as_str()), (0, "up\ntold\n"));
    }
}

#[test]
fn the_side_port_answers_during_a_stop() {
    for mode in modes() {
        let cluster = Launch::of(mode, &["sh", "-c", "trap '' TERM; echo up; exec sleep 1000"])
            .set("WORKERS", 1)
            .set("READY", "running")
            .set("GRACE", "6s")
            .start();
        cluster.until("it is in rotation", |cluster| cluster.answers("/readyz") == 200);
        cluster.signal(Signal::SIGTERM);
        cluster.until("it says so", |cluster| cluster.workers()["state"] == "stopping");
        assert_eq!(cluster.get("/healthz").0, 200);
        assert_eq!(cluster.get("/readyz").0, 503);
        assert_eq!(cluster.rows()[0]["state"], "stopping");
        assert_eq!(cluster.wait_exit_within(Duration::from_secs(30)), 137);
    }
}
