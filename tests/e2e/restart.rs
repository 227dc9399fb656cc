//! What happens when a worker ends: replaced at once, after a backoff, never, or the cluster gives up.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::support::{Cluster, Launch, Mode, example, has_root, modes, output_of, skipped};

#[test]
fn a_crashed_worker_is_replaced_in_its_slot() {
    for mode in modes() {
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
        let before = cluster.ready(2);
        cluster.signal_inner(before[1], Signal::SIGKILL);
        cluster.until("slot 1 has a new worker", |cluster| {
            let row = cluster.rows().pop().unwrap_or_default();
            row["restarts"] == 1 && row["pid"].is_i64()
        });
        let after = cluster.ready(2);
        assert_eq!(after[0], before[0]);
        assert_ne!(after[1], before[1]);
        let row = &cluster.rows()[1];
        assert_eq!((&row["id"], &row["generation"], &row["restarts"]), (&1.into(), &1.into(), &1.into()));
        assert_eq!(row["last_exit"]["signal"], "SIGKILL");
        assert_eq!(row["last_exit"]["reason"], "crash");
        assert!(row["last_exit"]["code"].is_null() && row["last_exit"]["seconds_ago"].is_number(), "{row}");
        assert!(cluster.rows()[0]["last_exit"].is_null());
        assert_eq!(cluster.variable(after[1], "CLUSTERINIT_WORKER_ID").as_deref(), Some("1"));
        assert_eq!(cluster.stop().0, 0, "what happened before the stop does not count");
    }
}

#[test]
fn a_failing_start_waits_and_says_until_when() {
    for mode in modes() {
        let settings = [("WORKERS", "1"), ("RESTART_BACKOFF", "20m..30m"), ("UNHEALTHY_AFTER", "1h")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", "echo run; exit 3"]);
        cluster.until("it waits", |cluster| cluster.rows().first().is_some_and(|row| row["state"] == "backoff"));
        let row = &cluster.rows()[0];
        for name in ["pid", "uptime_seconds", "memory_bytes", "cpu_seconds", "connections", "accept_queue"] {
            assert!(row[name].is_null(), "{name} in {row}");
        }
        assert_eq!((&row["processes"], &row["last_exit"]["code"]), (&0.into(), &3.into()));
        assert_eq!((&row["last_exit"]["reason"], &row["last_exit"]["signal"]), (&"crash".into(), &serde_json::Value::Null));
        let due = row["next_start_seconds"].as_f64().expect("a number");
        assert!(due > 600.0 && due <= 1800.0, "{due}");
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn the_backoff_doubles_up_to_the_longest_delay() {
    let settings = [("WORKERS", "1"), ("RESTART_BACKOFF", "400ms..1600ms"), ("RESTART", "always")];
    let clock = crate::support::Stopwatch::start();
    let (code, out, err) = Cluster::start(Mode::Plain, &settings, &["sh", "-c", "echo run; exit 3"]).finish();
    assert_eq!((code, out.matches("run").count()), (3, 5), "{err}");
    // 400 + 800 + 1600 + 1600 ms, with jitter; a delay that did not double would sum up to 1.6 s.
    let waited = clock.elapsed().as_secs_f64();
    assert!(waited > 2.0, "{waited}");
}

#[test]
fn it_gives_up_when_no_worker_ever_got_ready() {
    let scratch = tempfile::tempdir().expect("a directory");
    let note = scratch.path().join("termination-log");
    for mode in modes() {
        for (workers, end, code, said) in [("1", "exit 7", 7, "7"), ("2", "exit 8", 8, "8"), ("1", "kill -SEGV $$", 139, "139")] {
            std::fs::write(&note, "").expect("written");
            let launch = Launch::of(mode, &["sh", "-c", &format!("ulimit -c 0; echo run; {end}")]);
            let launch = launch.set("WORKERS", workers).set("RESTART_BACKOFF", "10ms..20ms");
            let (found, out, err) = launch.set("TERMINATION_LOG", note.display()).start().finish();
            assert_eq!(found, code, "{mode:?} {end}\n{err}");
            let runs = out.matches("run").count();
            assert!(if workers == "1" { runs == 5 } else { runs >= 10 }, "{runs} runs\n{err}");
            let reason = std::fs::read_to_string(&note).expect("it was there");
            assert!(reason.contains(said) && reason.contains("giving up"), "{reason:?}");
            assert!(err.contains("giving up"), "the log says the same\n{err}");
        }
    }
}

#[test]
fn no_termination_log_is_made_where_there_is_none() {
    let scratch = tempfile::tempdir().expect("a directory");
    let note = scratch.path().join("termination-log");
    let launch = Launch::of(Mode::Plain, &["sh", "-c", "exit 3"]).set("TERMINATION_LOG", note.display());
    assert_eq!(launch.start().finish().0, 3);
    assert!(!note.exists());
}

#[test]
fn a_good_end_leaves_the_termination_log_alone() {
    let scratch = tempfile::tempdir().expect("a directory");
    let note = scratch.path().join("termination-log");
    std::fs::write(&note, "").expect("written");
    let launch = Launch::of(Mode::Plain, &["true"]).set("TERMINATION_LOG", note.display());
    assert_eq!(launch.start().finish().0, 0);
    assert_eq!(std::fs::read_to_string(&note).expect("it is there"), "");
}

#[test]
fn once_ready_it_never_gives_up() {
    let scratch = tempfile::tempdir().expect("a directory");
    let broken = scratch.path().join("broken");
    let script = format!("echo run; [ -e {} ] && exit 3; exec sleep 1000", broken.display());
    let settings = [("WORKERS", "1"), ("READY", "running"), ("RESTART_BACKOFF", "10ms..20ms")];
    let cluster = Cluster::start(Mode::Plain, &settings, &["sh", "-c", &script]);
    let pid = cluster.ready(1)[0];
    std::fs::write(&broken, "").expect("written");
    cluster.signal_inner(pid, Signal::SIGKILL);
    cluster.until("it has failed a dozen times", |cluster| cluster.out().matches("run").count() > 12);
    std::fs::remove_file(&broken).expect("it is there");
    cluster.ready(1);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn the_restart_rules() {
    // (RESTART, how the first life ends, whether there is a second, status)
    let cases = [
        ("always", "exit 0", true, 0),
        ("always", "exit 3", true, 0),
        ("on-failure", "exit 0", false, 0),
        ("on-failure", "exit 3", true, 0),
        ("on-failure", "kill -9 $$", true, 0),
        ("never", "exit 3", false, 3),
        ("never", "kill -9 $$", false, 137),
        ("auto", "exit 3", true, 0),
        ("auto", "exit 0", false, 0),
    ];
    for (rule, end, again, status) in cases {
        let scratch = tempfile::tempdir().expect("a directory");
        let second = scratch.path().join("second");
        let script = format!("[ -e {0} ] && echo again && exec sleep 1000; : > {0}; {end}", second.display());
        let settings = [("WORKERS", "1"), ("RESTART", rule), ("RESTART_BACKOFF", "10ms..20ms")];
        let cluster = Cluster::start(Mode::Plain, &settings, &["sh", "-c", &script]);
        let (code, _, err) = if again {
            cluster.until_out("again");
            cluster.stop()
        } else {
            cluster.finish()
        };
        assert_eq!(code, status, "{rule} {end}\n{err}");
    }
}

#[test]
fn an_exit_with_0_is_a_recycle_where_readiness_was_asked_for() {
    let settings = [("WORKERS", "1"), ("READY", "running")];
    let cluster = Cluster::start(Mode::Plain, &settings, &["sh", "-c", "echo run; sleep 1.5; exit 0"]);
    cluster.until("it was replaced", |cluster| cluster.out().matches("run").count() == 3);
    let row = &cluster.rows()[0];
    assert_eq!((&row["last_exit"]["reason"], &row["last_exit"]["code"]), (&"exit".into(), &0.into()));
    assert!(row["restarts"].as_u64() >= Some(2), "{row}");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_job_runs_once_under_the_defaults() {
    for mode in modes() {
        for (script, status) in [("echo run", 0), ("echo run; exit 5", 5), ("echo run; kill -9 $$", 137)] {
            let (code, out, err) = Cluster::start(mode, &[], &["sh", "-c", script]).finish();
            assert_eq!((code, out.as_str()), (status, "run\n"), "{mode:?} {script}\n{err}");
        }
    }
}

/// How many workers `auto` means here; the tests that need more than one say so where it is one.
fn automatic() -> usize {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
    if count < 2 {
        skipped("one CPU: WORKERS=auto is 1");
    }
    count
}

#[test]
fn slot_0_starts_alone_and_the_others_follow() {
    let count = automatic();
    if count < 2 {
        return;
    }
    for mode in modes() {
        let scratch = tempfile::tempdir().expect("a directory");
        let go = scratch.path().join("go");
        // The server notifies as soon as it is executed, and that waits for a file.
        let script =
            format!("echo slot $CLUSTERINIT_WORKER_ID; while [ ! -e {} ]; do sleep 0.02; done; exec \"$@\"", go.display());
        let launch = Launch::of(mode, &["sh", "-c", &script, "sh", &example("server")]);
        let cluster = launch.set("READY", "notify").env("PORT", 0).start();
        cluster.until_out("slot 0");
        cluster.until("slot 0 starts alone", |cluster| cluster.rows().len() == count);
        let rows = cluster.rows();
        assert_eq!(rows[0]["state"], "starting");
        assert!(rows[1..].iter().all(|row| row["pid"].is_null()), "{rows:?}");
        std::fs::write(&go, "").expect("written");
        cluster.ready(count);
        assert_eq!(cluster.out().lines().next(), Some("slot 0"));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn with_running_or_listen_all_start_at_once() {
    let count = automatic();
    for settings in [&[("READY", "running")][..], &[("LISTEN", "127.0.0.1:0")], &[("WORKERS", "3")]] {
        let count = if settings[0].0 == "WORKERS" { 3 } else { count };
        // None of them is ready before a second has passed; all are there before the first is.
        let cluster = Cluster::start(Mode::Plain, settings, &["sleep", "1000"]);
        let mut most = 0;
        cluster.until("all are there, or one is ready", |cluster| {
            most = most.max(cluster.pids_in("starting").len());
            most == count || !cluster.pids_in("ready").is_empty()
        });
        assert_eq!(most, count, "{settings:?}");
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn web_concurrency_is_honoured_and_not_passed_on() {
    let script = "echo $WEB_CONCURRENCY of $CLUSTERINIT_WORKER_COUNT; exec sleep 1000";
    let cluster = Launch::of(Mode::Plain, &["sh", "-c", script]).env("WEB_CONCURRENCY", 3).set("READY", "running").start();
    cluster.ready(3);
    assert_eq!(cluster.stop().1, "1 of 3\n1 of 3\n1 of 3\n");
    let cluster = Launch::of(Mode::Plain, &["sh", "-c", script])
        .env("WEB_CONCURRENCY", 3)
        .set("WORKERS", 1)
        .set("READY", "running")
        .start();
    cluster.ready(1);
    assert_eq!(cluster.stop().1, "3 of 1\n");
}

#[test]
fn a_refused_fork_is_logged_and_retried_while_the_others_go_on() {
    if !has_root() {
        return;
    }
    for (mode, uid) in modes().into_iter().zip(["61841", "61842"]) {
        let launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 6).set("RESTART_BACKOFF", "50ms..200ms");
        let user = format!("--reuid={uid}");
        let launch = launch.set("READY", "running").wrap(&["setpriv", &user, "--regid=61841", "--clear-groups"]);
        let cluster = launch.wrap(&["prlimit", "--nproc=4:64"]).start();
        cluster.until("some run", |cluster| cluster.pids_in("ready").len() >= 2);
        let running = cluster.pids_in("ready");
        assert!(running.len() < 6, "the limit holds");
        assert_eq!(cluster.get("/healthz").0, 200);
        let complaint = |line: &str| line.contains("EAGAIN") || line.contains("temporarily unavailable");
        cluster.until("the refusal is logged", |cluster| cluster.err().lines().any(complaint));
        // As the same user: root in a container may not have CAP_SYS_RESOURCE.
        let pid = format!("--pid={}", cluster.pid());
        let raised = [&user, "--regid=61841", "--clear-groups", "prlimit", "--nproc=64:64", &pid];
        let raising = output_of(std::process::Command::new("setpriv").args(raised));
        assert!(raising.status.success(), "{raising:?}");
        let after = cluster.ready(6);
        assert!(running.iter().all(|pid| after.contains(pid)), "the living ones went on");
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn what_a_crashed_worker_left_behind_is_gone_before_its_successor_starts() {
    for mode in modes() {
        let scratch = tempfile::tempdir().expect("a directory");
        let daemon = scratch.path().join("daemon");
        // Each life tells whether the daemon of the one before is alive (a zombie is not), and leaves a deaf one behind.
        let script = "
            f=$1; p=$(cat $f 2>/dev/null)
            if [ -n \"$p\" ]; then grep -qs '^State:.[RSD]' /proc/$p/status && echo alive || echo gone; fi
            (setsid sh -c 'trap \"\" TERM; echo $$ > '$f'.new; mv '$f'.new '$f'; exec sleep 1000' &)
            while [ \"$(cat $f 2>/dev/null)\" = \"$p\" ]; do sleep 0.02; done
            echo up; exec sleep 1000";
        let settings = [("WORKERS", "1"), ("READY", "running"), ("GRACE", "500ms")];
        let cluster = Cluster::start(mode, &settings, &["sh", "-c", script, "sh", daemon.to_str().expect("UTF-8")]);
        for life in 1..=3 {
            cluster.until("it is up", |cluster| cluster.out().matches("up\n").count() == life);
            let pid = cluster.ready(1)[0];
            cluster.signal_inner(pid, Signal::SIGKILL);
        }
        cluster.until("a fourth life", |cluster| cluster.out().matches("up\n").count() == 4);
        let (_, out, err) = cluster.stop();
        assert_eq!(out, "up\ngone\nup\ngone\nup\ngone\nup\n", "{mode:?}\n{err}");
    }
}

#[test]
fn a_command_that_disappears_is_a_failing_start_once_it_has_run() {
    for mode in modes() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (program, hidden) = (scratch.path().join("program"), scratch.path().join("hidden"));
        std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let settings = [("WORKERS", "1"), ("READY", "running"), ("RESTART_BACKOFF", "100ms..200ms")];
        let cluster = Cluster::start(mode, &settings, &[program.to_str().expect("UTF-8")]);
        let pid = cluster.ready(1)[0];
        std::fs::rename(&program, &hidden).expect("renamed");
        cluster.signal_inner(pid, Signal::SIGKILL);
        cluster.until_log(&[program.to_str().expect("UTF-8")]);
        std::fs::rename(&hidden, &program).expect("renamed");
        cluster.ready(1);
        assert_eq!(cluster.stop().0, 0, "{mode:?}");
    }
}

#[test]
fn an_old_worker_is_replaced_gracefully_and_one_at_a_time() {
    let settings = [("WORKERS", "2"), ("READY", "running"), ("MAX_LIFETIME", "3s")];
    let cluster = Cluster::start(Mode::Plain, &settings, &["sleep", "1000"]);
    let before = cluster.ready(2);
    let mut fewest = usize::MAX;
    cluster.until("both were replaced", |cluster| {
        // On a busy machine the side port may have had no time to answer.
        let Some(reply) = cluster.try_get("/workers") else { return false };
        let rows = reply.json()["workers"].as_array().cloned().unwrap_or_default();
        let ready: Vec<i64> = rows.iter().filter(|row| row["state"] == "ready").filter_map(|row| row["pid"].as_i64()).collect();
        fewest = fewest.min(ready.len());
        ready.len() == 2 && before.iter().all(|pid| !ready.contains(&i64::from(*pid)))
    });
    assert_eq!(fewest, 2, "successor first");
    let rows = cluster.rows();
    assert!(rows.iter().any(|row| row["last_exit"]["reason"] == "lifetime"), "{rows:?}");
    assert_eq!(cluster.workers()["generation"], 1);
    assert_eq!(cluster.stop().0, 0);
}
