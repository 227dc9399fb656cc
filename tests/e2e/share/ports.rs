//! Which ports are shared, with whom, and what is said where sharing is not possible.

use std::net::{Ipv6Addr, SocketAddr};

use super::{addresses, all_serve, body, is_shared, local, slot_at, sockets};
use crate::support::{Cluster, Launch, Mode, example, free_port, free_ports, has_pid1, modes};

const TAKEN: &str = "os error 98";

fn bind(port: u16) -> String {
    format!("bind=127.0.0.1:{port}")
}

/// Two workers that listen on one port and then try another.
fn with_a_second_port(first: u16, second: u16, settings: &[(&str, &str)]) -> Cluster {
    let program = example("sockets");
    let words = [&bind(first), "listen", "try", &bind(second), "try", "listen", "serve"];
    Cluster::start(Mode::Plain, &[&[("WORKERS", "2")], settings].concat(), &sockets(&program, &words))
}

#[test]
fn only_the_ports_of_share_ports_are_shared() {
    let first = free_ports(2);
    let second = first + 1;
    for ports in [first.to_string(), format!("all,-{second}")] {
        let cluster = with_a_second_port(first, second, &[("SHARE_PORTS", &ports)]);
        cluster.ready(2);
        is_shared(&cluster);
        cluster.until("one of both got the other port", |cluster| cluster.out().matches(TAKEN).count() == 1);
        all_serve(&cluster, local(first), "/", 2);
        let answers = body(local(second), "/").expect("the one that has it answers");
        assert!((0..20).all(|_| body(local(second), "/").as_ref() == Some(&answers)), "{}", cluster.story());
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn port_per_worker_becomes_port_plus_slot() {
    let first = free_ports(4);
    let own = first + 1;
    let cluster = with_a_second_port(first, own, &[("PORT_PER_WORKER", &own.to_string()), ("WORKERS", "3")]);
    cluster.ready(3);
    all_serve(&cluster, local(first), "/", 3);
    for slot in 0..3 {
        let port = own + slot;
        assert_eq!(slot_at(local(port)), Some(slot.into()), "port {port}\n{}", cluster.story());
        let shown = cluster.workers().to_string();
        assert!(shown.contains(&format!("127.0.0.1:{port}")), "{shown}");
    }
    super::reload(&cluster, 3);
    for slot in 0..3 {
        assert_eq!(slot_at(local(own + slot)), Some(slot.into()), "{}", cluster.story());
    }
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn port_0_is_another_one_for_each_worker() {
    let program = example("sockets");
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "2")], &sockets(&program, &["bind=127.0.0.1:0", "listen", "serve"]));
    cluster.ready(2);
    assert_eq!(cluster.stop().0, 0);
}

/// In one network, as two containers of a pod are.
#[test]
fn two_clusterinits_never_mix() {
    if !has_pid1() {
        return;
    }
    let program = example("sockets");
    for mode in modes() {
        let port = free_port();
        let v4 = format!("bind=0.0.0.0:{port}");
        let dual = format!("bind=[::]:{port}");
        for (ours, theirs) in [(&v4, &v4), (&dual, &v4), (&v4, &dual), (&dual, &dual)] {
            let first = Cluster::start(mode, &[("WORKERS", "2")], &sockets(&program, &[ours, "listen", "serve"]));
            first.ready(2);
            is_shared(&first);
            let second = Cluster::start(mode, &[("WORKERS", "2")], &sockets(&program, &["try", theirs, "try", "listen", "stay"]));
            second.until("its workers are refused", |second| second.out().matches(TAKEN).count() == 2);
            assert_eq!(addresses(&second), Vec::<String>::new());
            all_serve(&first, local(port), "/", 2);
            assert_eq!(second.stop().0, 0);
            // Also after all of the first's workers have died: the port is still its own.
            for pid in first.ready(2) {
                first.signal_inner(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let third = Cluster::start(mode, &[("WORKERS", "1")], &sockets(&program, &["try", theirs, "exit=0"]));
            let (_, out, err) = third.finish();
            assert!(out.contains(TAKEN), "{ours} and {theirs}\n{out}\n{err}");
            first.until("both deaths are known", |first| first.err().matches("worker ended").count() == 2);
            let (code, _, err) = first.stop();
            assert_eq!(code, 0, "{err}");
        }
    }
}

/// IPv4 and IPv6 alone are two addresses; dual stack is one.
#[test]
fn both_families_side_by_side() {
    let port = free_port();
    let (program, v4, v6) = (example("sockets"), format!("bind=0.0.0.0:{port}"), format!("bind=[::]:{port}"));
    let words = [&v4, "listen", "v6only", &v6, "listen", "serve"];
    let cluster = Cluster::start(Mode::Plain, &[("WORKERS", "2")], &sockets(&program, &words));
    cluster.ready(2);
    assert_eq!(addresses(&cluster).len(), 2);
    all_serve(&cluster, local(port), "/", 2);
    all_serve(&cluster, SocketAddr::from((Ipv6Addr::LOCALHOST, port)), "/", 2);
    assert_eq!(cluster.stop().0, 0);
}

/// The ways in which sharing cannot work, and a word of what is said then.
fn impossible() -> Vec<(Vec<String>, &'static str)> {
    let confines = |kind: &str| vec![example("confines"), kind.to_owned()];
    vec![(confines("refused"), "seccomp"), (confines("outer"), "ebusy")]
}

fn confined(wrap: &[String], port: u16) -> Launch {
    let program = example("sockets");
    let launch = Launch::of(Mode::Plain, &sockets(&program, &["try", &bind(port), "try", "listen", "serve"]));
    launch.wrap(&super::borrowed(wrap))
}

#[test]
fn share_on_refuses_to_start_where_it_cannot_work() {
    for (wrap, word) in impossible() {
        let (code, out, err) = confined(&wrap, free_port()).set("SHARE", "on").start().finish();
        assert_eq!((code, out.as_str()), (64, ""), "{wrap:?}\n{err}");
        let said = err.lines().find(|line| line.contains("SHARE")).unwrap_or_default();
        assert!(said.to_lowercase().contains(word), "{wrap:?}: no {word} in\n{err}");
    }
}

#[test]
fn share_auto_runs_one_worker_and_says_why() {
    for (wrap, word) in impossible() {
        let port = free_port();
        let cluster = confined(&wrap, port).set("WORKERS_PER_CPU", 2).start();
        cluster.ready(1);
        let workers = cluster.workers();
        assert_eq!(workers["share"]["mechanism"], "none", "{workers}");
        let reason = workers["share"]["reason"].as_str().unwrap_or_default().to_lowercase();
        assert!(reason.contains(word), "{wrap:?}: {workers}");
        assert_eq!(workers["cpu"]["workers_wanted"], 1, "{workers}");
        let line = cluster.until_log(&["shar", "LISTEN", "SO_REUSEPORT", "WORKERS"]);
        assert_eq!(cluster.err().matches(&line).count(), 1, "one line, and not again\n{}", cluster.story());
        assert_eq!(slot_at(local(port)), Some(0));
        assert_eq!(cluster.stop().0, 0);

        // An explicit number is run as asked.
        let cluster = confined(&wrap, free_port()).set("WORKERS", 2).set("READY", "running").start();
        cluster.ready(2);
        cluster.until("the second one is refused", |cluster| cluster.out().matches(TAKEN).count() == 1);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn plan_says_which_sharing_will_be_in_force() {
    let said = |launch: Launch| {
        let (code, out, err) = launch.start().finish();
        assert_eq!(code, 0, "{err}");
        out
    };
    let plan = || Launch::arguments(Mode::Plain, &["plan", "--", "true"]).set("WORKERS", 2);
    let out = said(plan());
    assert!(out.contains("seccomp"), "{out}");
    let out = said(plan().set("LISTEN", free_port()));
    assert!(out.contains("listen-fds") || out.contains("LISTEN"), "{out}");
    for (wrap, word) in impossible() {
        let out = said(plan().wrap(&super::borrowed(&wrap)));
        assert!(out.to_lowercase().contains(word), "{wrap:?}: {out}");
    }
}

#[test]
fn share_off_leaves_everything_to_the_kernel() {
    let port = free_port();
    let (program, bind) = (example("sockets"), bind(port));
    let settings = [("WORKERS", "2"), ("SHARE", "off"), ("READY", "running")];
    let command = sockets(&program, &["try", &bind, "try", "listen", "serve"]);
    let cluster = Cluster::start(Mode::Plain, &settings, &command);
    cluster.ready(2);
    let share = cluster.workers()["share"].clone();
    assert_eq!(share["mechanism"], "none");
    assert!(share["reason"].as_str().is_some_and(|reason| reason.contains("SHARE=off")), "{share}");
    cluster.until("one of both was refused", |cluster| cluster.out().matches(TAKEN).count() == 1);
    for pid in cluster.ready(2) {
        let filters = crate::support::status_lines(cluster.outer(pid), &["Seccomp"]);
        let own = crate::support::status_lines(i32::try_from(std::process::id()).expect("pids fit"), &["Seccomp"]);
        assert_eq!(filters, own, "no filter of ours");
    }
    assert_eq!(cluster.stop().0, 0);

    // Those that set SO_REUSEPORT themselves share all the same.
    let words = ["reuseport", &bind, "listen", "serve"];
    let cluster = Cluster::start(Mode::Plain, &settings, &sockets(&program, &words));
    cluster.ready(2);
    all_serve(&cluster, local(port), "/", 2);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn listen_goes_before_seccomp() {
    let port = free_port();
    let launch = Launch::of(Mode::Plain, &[&example("server")]).set("WORKERS", 2).set("LISTEN", format!("127.0.0.1:{port}"));
    let cluster = launch.start();
    cluster.ready(2);
    assert_eq!(cluster.workers()["share"]["mechanism"], "listen-fds");
    all_serve(&cluster, local(port), "/", 2);
    assert_eq!(cluster.stop().0, 0);
}
