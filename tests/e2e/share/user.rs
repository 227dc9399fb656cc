//! Workers that run as somebody else than clusterinit.

use nix::sys::signal::Signal;

use super::servers::source;
use super::{Who, all_serve, body, is_shared, local, reload, sockets};
use crate::support::{Cluster, Launch, Mode, Stage, Stopwatch, example, free_port, has_root, status_lines, tool};

/// Somebody who is neither root nor whom the tests run as.
const SOMEBODY: &str = "61861";
/// PID 1 is root, and may not look into processes of others, as in Docker and containerd.
const NO_PTRACE: [&str; 3] = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"];

/// With and without `CAP_SYS_PTRACE`, as a plain process and as PID 1: two copies share the port, also after a crash and a reload.
fn shares(make: impl Fn(&Stage, &str) -> Option<Launch>) {
    if !has_root() {
        return;
    }
    for wrap in [&NO_PTRACE[..], &[]] {
        let (stage, port) = (Stage::new(), free_port());
        let Some(launch) = make(&stage, &format!("bind=127.0.0.1:{port}")) else { return };
        let cluster = launch.wrap(wrap).set("WORKERS", 2).start();
        cluster.ready(2);
        is_shared(&cluster);
        all_serve(&cluster, local(port), "/", 2);
        for pid in cluster.ready(2) {
            let uids = status_lines(cluster.outer(pid), &["Uid"]);
            assert!(uids.concat().contains(SOMEBODY), "it runs as {uids:?}");
        }
        let victim = cluster.ready(2)[0];
        cluster.signal_inner(victim, Signal::SIGKILL);
        cluster.until("it was replaced", |cluster| {
            let ready = cluster.pids_in("ready");
            ready.len() == 2 && !ready.contains(&victim)
        });
        all_serve(&cluster, local(port), "/", 2);
        reload(&cluster, 2);
        all_serve(&cluster, local(port), "/", 2);
        assert_eq!(cluster.stop().0, 0, "{wrap:?}");
    }
}

fn launch(stage: &Stage, front: &[&str], words: &[&str]) -> Launch {
    let program = stage.copy(&example("sockets"));
    Launch::of(Mode::Pid1, &[front, &sockets(&program, words)].concat())
}

#[test]
fn the_setting_user() {
    shares(|stage, bind| Some(launch(stage, &[], &[bind, "listen", "serve"]).set("USER", SOMEBODY)));
}

#[test]
fn a_program_that_drops_its_rights_after_bind() {
    shares(|stage, bind| Some(launch(stage, &[], &[bind, &format!("uid={SOMEBODY}"), "listen", "serve"])));
}

#[test]
fn a_program_that_drops_its_rights_after_listen() {
    shares(|stage, bind| Some(launch(stage, &[], &[bind, "listen", &format!("uid={SOMEBODY}"), "serve"])));
}

#[test]
fn setpriv_in_front() {
    shares(|stage, bind| {
        let (uid, gid) = (format!("--reuid={SOMEBODY}"), format!("--regid={SOMEBODY}"));
        Some(launch(stage, &["setpriv", &uid, &gid, "--clear-groups"], &[bind, "listen", "serve"]))
    });
}

#[test]
fn gosu_in_front() {
    shares(|stage, bind| Some(launch(stage, &[&tool("gosu")?, SOMEBODY], &[bind, "listen", "serve"])));
}

/// Such a process cannot be read by anybody without `CAP_SYS_PTRACE`: the kernel does what it would have done, and one line says so.
#[test]
fn a_program_that_drops_its_rights_before_bind() {
    if !has_root() {
        return;
    }
    let (stage, port) = (Stage::new(), free_port());
    let words = [&format!("uid={SOMEBODY}"), "try", &format!("bind=127.0.0.1:{port}"), "try", "listen", "serve"];
    let cluster = launch(&stage, &[], &words).wrap(&NO_PTRACE).set("WORKERS", 2).start();
    // Two sockets may be bound to the port, but only one of them may listen.
    cluster.until("one of both is refused", |cluster| cluster.out().contains("failed: "));
    cluster.until_log(&["ports", "not shared", SOMEBODY]);
    assert_eq!(cluster.get("/healthz").0, 200);
    assert_eq!(cluster.stop().0, 0);
}

/// It could never stop its workers.
#[test]
fn user_without_the_right_to_signal_it_is_refused() {
    if !has_root() {
        return;
    }
    let launch = Launch::of(Mode::Pid1, &["sleep", "1000"]).set("USER", SOMEBODY).set("WORKERS", 1);
    let wrap = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
    let (code, _, err) = launch.wrap(&wrap).start().finish();
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("USER") && err.to_lowercase().contains("kill"), "{err}");
}

/// Its descriptors can be listed, but not followed: that is not a worker without connections.
#[test]
fn a_request_of_a_worker_that_cannot_be_looked_into_is_not_cut_off() {
    let Some(python) = tool("python3").filter(|_| has_root()) else { return };
    let (stage, port) = (Stage::new(), free_port());
    let (server, number) = (stage.copy(&source("threads.py")), port.to_string());
    let launch = Launch::of(Mode::Plain, &[&python, &server, &number, "wait=2000"]).set("USER", SOMEBODY).set("WORKERS", 1);
    let cluster = launch.wrap(&NO_PTRACE).start();
    let pid = cluster.ready(1)[0];
    let answer = std::thread::spawn(move || body(local(port), "/"));
    cluster.until("the request has begun", |cluster| status_lines(cluster.outer(pid), &["Threads"]).concat().ends_with('2'));
    // Figures are kept for 250 ms.
    let clock = Stopwatch::start();
    cluster.until("it is measured anew", |cluster| {
        assert_ne!(cluster.rows()[0]["connections"], 0, "true or null");
        clock.elapsed().as_millis() > 300
    });
    assert_eq!(cluster.stop().0, 0);
    assert!(answer.join().expect("no panic").is_some_and(|answer| answer.contains("worker")), "it was answered");
}

/// The other way round: clusterinit has no rights at all, and needs none.
#[test]
fn nobody_needs_no_rights_to_share() {
    if !has_root() {
        return;
    }
    let (stage, port) = (Stage::new(), free_port());
    let (program, bind) = (stage.copy(&example("sockets")), format!("bind=127.0.0.1:{port}"));
    let launch = Who::Nobody.launch(Mode::Plain, &stage, &sockets(&program, &[&bind, "listen", "serve"]));
    let cluster = launch.set("WORKERS", 2).set("SHARE", "on").start();
    cluster.ready(2);
    all_serve(&cluster, local(port), "/", 2);
    reload(&cluster, 2);
    assert_eq!(cluster.stop().0, 0);
}

/// Workers are as they would be without us, but for the filter and, without `CAP_SYS_ADMIN`, for `no_new_privs`.
#[test]
fn no_new_privs_is_set_only_where_it_is_needed() {
    if !has_root() {
        return;
    }
    let seen = |wrap: &[&str]| {
        let program = example("sockets");
        let bind = format!("bind=127.0.0.1:{}", free_port());
        let cluster: Cluster =
            Launch::of(Mode::Plain, &sockets(&program, &[&bind, "listen", "serve"])).wrap(wrap).set("WORKERS", 1).start();
        let lines = status_lines(cluster.ready(1)[0], &["NoNewPrivs", "Seccomp"]).concat().replace(['\t', ' '], "");
        let log = cluster.err();
        assert_eq!(cluster.stop().0, 0);
        (lines, log)
    };
    assert_eq!(seen(&[]).0, "NoNewPrivs:0Seccomp:2");
    let (lines, log) = seen(&["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]);
    assert_eq!(lines, "NoNewPrivs:1Seccomp:2");
    assert!(log.to_lowercase().contains("no_new_privs"), "one line names it\n{log}");
}
