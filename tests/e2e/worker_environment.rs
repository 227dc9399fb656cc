//! What a worker sees is what the caller had, and what the contract adds: nothing more, nothing less.

use std::os::unix::process::CommandExt;

use nix::sys::signal::Signal;
use serde_json::{Map, Value};

use crate::support::{Cluster, Launch, Mode, Stdin, example, free_port, has_root, modes, output_of};

/// What `examples/shows` says of itself.
fn parse(out: &str) -> Map<String, Value> {
    let line = out.lines().next().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {out:?}"))
}

/// The same program, started by the same wrappers, without and with clusterinit in between.
fn both(build: impl Fn(Launch) -> Launch, mode: Mode) -> (Map<String, Value>, Map<String, Value>) {
    let launch = || build(Launch::of(mode, &[&example("shows")]).set("WORKERS", 1));
    let bare = output_of(&mut launch().without_clusterinit());
    let (code, out, err) = launch().start().finish();
    assert_eq!(code, 0, "{err}");
    (parse(&String::from_utf8_lossy(&bare.stdout)), parse(&out))
}

/// Everything that must be exactly the same.
fn assert_same(build: impl Fn(Launch) -> Launch) {
    for mode in modes() {
        let (bare, worker) = both(&build, mode);
        let names = "SigBlk SigIgn SigCgt umask cwd rlimits uid gid Groups CapEff NoNewPrivs Cpus_allowed_list tty";
        for name in names.split(' ') {
            assert!(!bare[name].is_null(), "{name}");
            assert_eq!(bare[name], worker[name], "{name}, {mode:?}");
        }
        let numbers = |shown: &Map<String, Value>| shown["fds"].as_object().expect("a map").keys().cloned().collect::<Vec<_>>();
        assert_eq!(numbers(&bare), numbers(&worker), "{mode:?}");
    }
}

#[test]
fn a_plain_caller() {
    assert_same(|launch| launch);
}

#[test]
fn ignored_and_blocked_signals() {
    assert_same(|launch| launch.wrap(&["env", "--ignore-signal=PIPE"]));
    assert_same(|launch| {
        launch.wrap(&["env", "--ignore-signal=HUP,INT,QUIT,CHLD,TTOU,USR1,34", "--block-signal=USR2,TSTP,ALRM,40"])
    });
    // All that can be: our own needs must not show.
    let all = (1..=64).filter(|number| ![9, 19, 32, 33].contains(number)).map(|number: i32| number.to_string());
    let all = all.collect::<Vec<_>>().join(",");
    assert_same(|launch| launch.wrap(&["env", &format!("--block-signal={all}")]));
    assert_same(|launch| launch.wrap(&["env", &format!("--ignore-signal={all}")]));
}

#[test]
fn signals_that_the_caller_ignored_or_blocked_still_reach_clusterinit() {
    for how in ["ignore", "block"] {
        for mode in modes() {
            let launch = Launch::of(mode, &[&example("traps")]).set("WORKERS", 1).set("READY", "running").set("GRACE", "2s");
            let cluster = launch.wrap(&["env", &format!("--{how}-signal=TERM,HUP,CHLD,USR2")]).start();
            let before = cluster.ready(1);
            // The worker catches TERM by itself; under `block` it never sees it and is killed.
            cluster.signal_inner(before[0], Signal::SIGKILL);
            cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|pid| *pid != before[0]));
            assert_eq!(cluster.zombies(), 0);
            cluster.signal(Signal::SIGTERM);
            let code = cluster.wait_exit();
            assert_eq!(code, if how == "ignore" { 0 } else { 137 }, "{mode:?} {how}");
        }
    }
}

#[test]
fn umask_working_directory_and_limits() {
    let scratch = tempfile::tempdir().expect("a directory");
    let setup = format!("umask 027; cd {}; ulimit -n 77; ulimit -c 0; ulimit -s 4096", scratch.path().display());
    assert_same(|launch| launch.wrap_sh(&setup));
}

#[test]
fn clusterinit_itself_works_in_the_root_directory() {
    for mode in modes() {
        let scratch = tempfile::tempdir().expect("a directory");
        let launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running");
        let cluster = launch.wrap_sh(&format!("cd {}", scratch.path().display())).start();
        let worker = cluster.outer(cluster.ready(1)[0]);
        let directory = |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).expect("it is there");
        assert_eq!(directory(worker), scratch.path());
        assert_eq!(directory(cluster.pid()), std::path::Path::new("/"));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_relative_command_is_found_from_the_callers_directory_in_every_life() {
    let scratch = tempfile::tempdir().expect("a directory");
    std::fs::copy(example("shows"), scratch.path().join("shows")).expect("copied");
    let launch = Launch::of(Mode::Plain, &["./shows", "stay"]).set("WORKERS", 1).set("READY", "running");
    let cluster = launch.wrap_sh(&format!("cd {}", scratch.path().display())).start();
    let pid = cluster.ready(1)[0];
    cluster.signal_inner(pid, Signal::SIGKILL);
    cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|other| *other != pid));
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn descriptors_that_the_caller_had() {
    assert_same(|launch| launch.wrap_sh("exec 5</dev/null 7>/dev/null"));
    assert_same(|launch| launch.wrap_sh("exec 3</dev/null 4</dev/null"));
    assert_same(|launch| launch.wrap_sh("exec 0<&-"));
    assert_same(|launch| launch.wrap_sh("exec 2>&-"));
    assert_same(|launch| launch.wrap_sh("exec 0<&- 2>&-"));
}

#[test]
fn later_lives_see_the_same_descriptors_as_the_first() {
    for mode in modes() {
        let launch =
            || Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 2).set("READY", "running").wrap_sh("exec 5</dev/null");
        let cluster = launch().start();
        let descriptors = |pid: i32| {
            let entries = std::fs::read_dir(format!("/proc/{}/fd", cluster.outer(pid))).expect("it is there");
            let target = |entry: std::fs::DirEntry| Some((entry.file_name(), std::fs::read_link(entry.path()).ok()?));
            entries.filter_map(|entry| target(entry.ok()?)).collect::<std::collections::BTreeMap<_, _>>()
        };
        let first = cluster.ready(2);
        let before: Vec<_> = first.iter().map(|pid| descriptors(*pid)).collect();
        assert!(before[0].keys().any(|number| number == "5"), "{before:?}");
        for pid in &first {
            cluster.signal_inner(*pid, Signal::SIGKILL);
        }
        cluster.until("both were replaced", |cluster| {
            let now = cluster.pids_in("ready");
            now.len() == 2 && first.iter().all(|pid| !now.contains(pid))
        });
        let after: Vec<_> = cluster.ready(2).into_iter().map(descriptors).collect();
        assert_eq!(before, after);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn the_environment_is_the_callers_and_the_announced_names() {
    for mode in modes() {
        let (bare, worker) = both(|launch| launch.env("SECRET", "x = y\n z").env("EMPTY", ""), mode);
        let mut seen = worker["environment"].as_object().expect("a map").clone();
        let socket = seen.remove("NOTIFY_SOCKET").expect("NOTIFY_SOCKET");
        assert!(socket.as_str().is_some_and(|name| name.starts_with('@')), "{socket}: no file system is needed");
        for (name, value) in [
            ("CLUSTERINIT_WORKER_ID", "0"),
            ("CLUSTERINIT_WORKER_COUNT", "1"),
            ("CLUSTERINIT_GENERATION", "1"),
            ("NODE_APP_INSTANCE", "0"),
        ] {
            assert_eq!(seen.remove(name), Some(value.into()), "{name}");
        }
        let mut expected = bare["environment"].as_object().expect("a map").clone();
        // These differ between any two launches of this test.
        for own in ["E2E_MARK", "CLUSTERINIT_HEALTH_ADDR"] {
            assert!(seen.remove(own).is_some() && expected.remove(own).is_some(), "{own}");
        }
        assert_eq!(seen, expected, "{mode:?}");
    }
}

#[test]
fn each_worker_has_its_own_id_and_notify_socket() {
    let launch = Launch::of(Mode::Plain, &[&example("shows"), "stay"]).set("WORKERS", 3).set("READY", "running");
    let cluster = launch.start();
    let pids = cluster.ready(3);
    let mut sockets: Vec<Option<String>> = Vec::new();
    for (slot, pid) in pids.into_iter().enumerate() {
        let slot = slot.to_string();
        assert_eq!(cluster.variable(pid, "CLUSTERINIT_WORKER_ID"), Some(slot.clone()));
        assert_eq!(cluster.variable(pid, "NODE_APP_INSTANCE"), Some(slot));
        assert_eq!(cluster.variable(pid, "CLUSTERINIT_WORKER_COUNT").as_deref(), Some("3"));
        sockets.push(cluster.variable(pid, "NOTIFY_SOCKET"));
    }
    sockets.sort();
    sockets.dedup();
    assert_eq!(sockets.len(), 3, "unique per life: {sockets:?}");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn listen_hands_over_sockets_under_the_workers_own_pid() {
    for mode in modes() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (first, second) = (free_port(), free_port());
        let unix = scratch.path().join("app.sock");
        let listen = format!("web=127.0.0.1:{first},127.0.0.1:{second},admin=unix:{}", unix.display());
        let launch = Launch::of(mode, &["sleep", "1000"]).set("WORKERS", 2).set("LISTEN", &listen);
        // An inherited descriptor where ours have to go.
        let cluster = launch.wrap_sh("exec 3</dev/null").start();
        for pid in cluster.ready(2) {
            assert_eq!(cluster.variable(pid, "LISTEN_PID"), Some(pid.to_string()), "{mode:?}");
            assert_eq!(cluster.variable(pid, "LISTEN_FDS").as_deref(), Some("3"));
            assert_eq!(cluster.variable(pid, "LISTEN_FDNAMES").as_deref(), Some("web:unknown:admin"));
            for number in 3..=5 {
                let target = socket(&cluster, pid, number);
                assert!(target.starts_with("socket:"), "{number}: {target}");
            }
        }
        let share = &cluster.workers()["share"];
        assert_eq!(share["mechanism"], "listen-fds");
        let listeners = serde_json::json!([
            {"address": format!("127.0.0.1:{first}"), "disconnect": true},
            {"address": format!("127.0.0.1:{second}"), "disconnect": true},
            {"address": format!("unix:{}", unix.display()), "disconnect": false},
        ]);
        assert_eq!(share["listeners"], listeners);
        // Connections wait in the queue although nobody accepts.
        assert!(std::net::TcpStream::connect(("127.0.0.1", first)).is_ok());
        assert!(std::os::unix::net::UnixStream::connect(&unix).is_ok());
        assert_eq!(cluster.stop().0, 0);
    }
}

/// What a worker's descriptor is: `socket:[inode]`.
fn socket(cluster: &Cluster, pid: i32, number: i32) -> String {
    let link = std::fs::read_link(format!("/proc/{}/fd/{number}", cluster.outer(pid))).expect("an open descriptor");
    link.to_string_lossy().into_owned()
}

#[test]
fn each_worker_has_its_own_queue_of_a_tcp_address_in_listen_unless_one_is_asked_for() {
    // (BALANCE, whether the workers' sockets of the TCP address differ)
    for (balance, apart) in [("spread", true), ("sticky", true), ("queue", false)] {
        let scratch = tempfile::tempdir().expect("a directory");
        let listen = format!("127.0.0.1:{},unix:{}", free_port(), scratch.path().join("app.sock").display());
        let launch = Launch::of(Mode::Plain, &["sleep", "1000"]).set("WORKERS", 2).set("LISTEN", &listen);
        let cluster = launch.set("BALANCE", balance).start();
        let pids = cluster.ready(2);
        let [tcp, unix] = [3, 4].map(|number| pids.iter().map(|pid| socket(&cluster, *pid, number)).collect::<Vec<_>>());
        assert_eq!(tcp[0] != tcp[1], apart, "{balance}: {tcp:?}");
        assert_eq!(unix[0], unix[1], "{balance}: one path is one queue");
        let share = &cluster.workers()["share"];
        assert_eq!((&share["balance"], &share["listeners"][0]["disconnect"]), (&balance.into(), &apart.into()), "{share}");
        assert_eq!(cluster.stop().0, 0, "{balance}");
    }
}

#[test]
fn a_unix_socket_in_listen_cannot_be_disconnected_and_its_connections_are_not_known() {
    let scratch = tempfile::tempdir().expect("a directory");
    let listen = format!("unix:{}", scratch.path().join("app.sock").display());
    let cluster = Launch::of(Mode::Plain, &["sleep", "1000"]).set("WORKERS", 2).set("LISTEN", &listen).start();
    cluster.ready(2);
    let share = &cluster.workers()["share"];
    assert_eq!(share["listeners"], serde_json::json!([{"address": listen, "disconnect": false}]));
    assert_eq!(share["disconnect"], false);
    let rows = cluster.rows();
    assert!(rows.iter().all(|row| row["connections"].is_null() && row["accept_queue"].is_null()), "{rows:?}");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn the_callers_own_listen_variables_are_not_passed_off_as_ours() {
    let launch = Launch::of(Mode::Plain, &[&example("shows")]).set("WORKERS", 1);
    let (_, out, _) = launch.env("NOTIFY_SOCKET", "/run/callers.sock").start().finish();
    assert_ne!(parse(&out)["environment"]["NOTIFY_SOCKET"], "/run/callers.sock");
}

#[test]
fn a_served_request_through_listen() {
    for mode in modes() {
        let port = free_port();
        let launch = Launch::of(mode, &[&example("server")]).set("WORKERS", 2).set("LISTEN", format!("127.0.0.1:{port}"));
        let cluster = launch.start();
        cluster.ready(2);
        let reply = crate::support::request(([127, 0, 0, 1], port).into(), "GET", "/").expect("an answer");
        assert_eq!((reply.status, &reply.json()["count"]), (200, &2.into()));
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn workers_die_with_us_unless_we_are_pid_1() {
    for mode in modes() {
        let (_, worker) = both(|launch| launch, mode);
        let expected: Value = if mode == Mode::Plain { 9.into() } else { Value::Null };
        assert_eq!(worker["pdeathsig"], expected, "{mode:?}");
    }
}

#[test]
fn a_nested_clusterinit_becomes_the_command() {
    let binary = env!("CARGO_BIN_EXE_clusterinit");
    for mode in modes() {
        let command = [binary, "--", "sh", "-c", "echo $PPID $CLUSTERINIT_WORKER_ID; exec sleep 1000"];
        let cluster = Cluster::start(mode, &[("WORKERS", "2"), ("READY", "running")], &command);
        cluster.ready(2);
        cluster.until("both have spoken", |cluster| cluster.out().lines().count() == 2);
        let init = if mode == Mode::Pid1 { 1 } else { cluster.pid() };
        let mut lines: Vec<String> = cluster.out().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, [format!("{init} 0"), format!("{init} 1")], "no clusterinit in between\n{}", cluster.story());
        assert_eq!(cluster.stop().0, 0);
        let (code, _, err) = Cluster::start(mode, &[], &[binary, "--", "no-such-command-here"]).finish();
        assert_eq!(code, 127, "{err}");
        let (code, out, _) = Cluster::start(mode, &[], &[binary, "--", "sh", "-c", "echo once; exit 9"]).finish();
        assert_eq!((code, out.as_str()), (9, "once\n"));
    }
}

#[test]
fn stdin_is_the_callers() {
    for mode in modes() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        std::io::Write::write_all(&mut writer, b"hello\n").expect("written");
        drop(writer);
        let mut launch = Launch::of(mode, &["cat"]);
        launch.stdin = Stdin::From(reader.into());
        let (code, out, err) = launch.start().finish();
        assert_eq!((code, out.as_str()), (0, "hello\n"), "{err}");
    }
}

#[test]
fn the_name_that_the_command_is_called_by_is_kept() {
    let (_, worker) = both(|launch| launch, Mode::Plain);
    assert_eq!(worker["args"][0], example("shows"));
    // As a control, what the kernel passes on when somebody chooses another name.
    let mut renamed = std::process::Command::new(example("shows"));
    assert_eq!(parse(&String::from_utf8_lossy(&output_of(renamed.arg0("other")).stdout))["args"][0], "other");
}

#[test]
fn workers_can_run_as_another_user() {
    if !has_root() {
        return;
    }
    for mode in modes() {
        let launch =
            Launch::of(mode, &[&example("shows"), "stay"]).set("WORKERS", 1).set("READY", "running").set("USER", "61861:61862");
        let cluster = launch.start();
        let pid = cluster.ready(1)[0];
        let shown = parse(&cluster.out());
        assert_eq!((&shown["uid"], &shown["gid"]), (&61861.into(), &61862.into()), "{}", cluster.story());
        let groups = shown["Groups"].as_str().unwrap_or_default();
        assert!(groups.split_ascii_whitespace().all(|group| group == "61862"), "no group of root's is left: {groups}");
        cluster.signal_inner(pid, Signal::SIGKILL);
        cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|other| *other != pid));
        assert_eq!(cluster.stop().0, 0);
    }
}
