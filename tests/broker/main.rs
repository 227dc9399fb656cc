//! Workers that call `bind` and `listen`, answered by the broker, on the real kernel: each test plays PID 1.
//!
//! A worker is `examples/plays` with a script; it ends with 0 where every call went as the script says. Most scripts are played
//! without us too: what a server sees of the kernel stays the same. Each test has a loopback address of its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: what fails here fails it"
)]
#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]
#![expect(unsafe_code, reason = "a test gives up capabilities, on its own thread")]

mod world;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;

use clusterinit::cluster::words::{ExitStatus, Signal};
use clusterinit::config::SharePorts;
use clusterinit::sys::process;
use clusterinit::sys::reap;
use world::{Cluster, DEADLINE, all_answer, greeting, parsed, same_with_and_without};

#[test]
fn two_lives_share_a_port_and_both_serve() {
    for (address, family) in [("127.9.1.1:28080", "tcp4"), ("[::1]:28081", "tcp6")] {
        let mut cluster = Cluster::new();
        let script = format!("{family} reuseaddr bind:{address} listen serve");
        for worker in [cluster.start(&script), cluster.start(&script)] {
            cluster.listened(worker, 1);
            assert_eq!(cluster.listenings(worker), [(Some(parsed(address)), true)]);
            let life = cluster.workers[worker].life;
            assert_eq!(
                cluster.broker.listeners_of(life).iter().map(|(_, port)| *port).collect::<Vec<_>>(),
                [parsed(address).port]
            );
        }
        cluster.turn();
        all_answer(address, &cluster.pids());
        assert!(cluster.remarks(0).is_empty() && cluster.remarks(1).is_empty());
    }
}

#[test]
fn what_is_no_tcp_at_a_port_of_its_choice_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let mut cluster = Cluster::new();
    let script = format!("tcp4 bind:127.9.2.1:0 listen udp4 bind:127.9.2.1:28080 unix:{} tcp4 listen", path.display());
    let workers = [cluster.start(&script), cluster.start("tcp4 bind:127.9.2.1:0 listen tcp6 v6only bind:[::1]:0 listen")];
    for worker in workers {
        assert_eq!(cluster.ends(worker), 0);
        assert_eq!(cluster.listenings(worker), [(None, false); 2]);
        assert!(cluster.remarks(worker).is_empty());
    }
    assert!(cluster.broker.sockets.lanes().is_empty());
}

#[test]
fn a_server_that_shares_by_itself_is_left_alone_and_known() {
    let address = "127.9.3.1:28080";
    let mut cluster = Cluster::new();
    let script = format!("tcp4 reuseport bind:{address} listen serve");
    for worker in [cluster.start(&script), cluster.start(&script)] {
        cluster.listened(worker, 1);
        assert_eq!(cluster.listenings(worker), [(Some(parsed(address)), false)]);
        let life = cluster.workers[worker].life;
        assert_eq!(cluster.broker.listeners_of(life).len(), 1);
    }
    all_answer(address, &cluster.pids());
    assert!(cluster.broker.sockets.lanes().is_empty());
    process::signal(cluster.workers[0].pid, Signal::KILL).expect("signalled");
    cluster.ends(0);
    assert_eq!(cluster.broker.listeners_of(cluster.workers[0].life), []);
}

#[test]
fn a_port_is_taken_for_those_for_whom_it_always_was() {
    let at = "127.9.4.1";
    for script in [
        // The next one is tried.
        format!("tcp4 reuseaddr bind:{at}:28080 listen tcp4 reuseaddr bind:{at}:28080=EADDRINUSE bind:{at}:28081 listen"),
        // Two may be bound, one listens.
        format!("tcp4 reuseaddr bind:{at}:28082 tcp4 reuseaddr bind:{at}:28082 listen back listen=EADDRINUSE"),
        // Another descriptor of the same listener.
        format!("tcp4 reuseaddr bind:{at}:28083 listen dup back close tcp4 reuseaddr bind:{at}:28083=EADDRINUSE"),
        // A child has it still, or the parent.
        format!("tcp4 reuseaddr bind:{at}:28084 listen fork tcp4 reuseaddr bind:{at}:28084=EADDRINUSE"),
        format!("tcp4 reuseaddr bind:{at}:28085 listen fork close tcp4 reuseaddr bind:{at}:28085=EADDRINUSE"),
        // Nobody has it any more.
        format!("tcp4 reuseaddr bind:{at}:28086 listen close tcp4 reuseaddr bind:{at}:28086 listen"),
        format!(
            "tcp4 reuseaddr bind:{at}:28087 close tcp4 reuseaddr bind:{at}:28087 close tcp4 reuseaddr bind:{at}:28087 listen"
        ),
        // Bound is bound, and listening again is listening.
        format!("tcp4 reuseaddr bind:{at}:28088 bind:{at}:28089=EINVAL listen listen bind:{at}:28088=EINVAL"),
        // A wildcard is in the way of an address, and IPv6 for both of IPv4.
        format!("tcp4 reuseaddr bind:0.0.0.0:28090 listen tcp4 reuseaddr bind:{at}:28090=EADDRINUSE"),
        format!("tcp6 reuseaddr bind:[::]:28091 listen tcp4 reuseaddr bind:{at}:28091=EADDRINUSE"),
        "tcp6 reuseaddr v6only bind:[::]:28092 listen tcp4 reuseaddr bind:0.0.0.0:28092 listen".to_owned(),
        // No address of this machine, a family that does not fit.
        "tcp4 bind:203.0.113.1:28093=EADDRNOTAVAIL tcp6 bind:127.9.4.1:28093=EINVAL tcp4 bind:[::1]:28093=EAFNOSUPPORT"
            .to_owned(),
    ] {
        same_with_and_without(&script);
    }
}

#[test]
fn a_socket_stays_as_the_server_made_it() {
    let at = "127.9.5.1";
    same_with_and_without(&format!(
        "tcp4 bind:{at}:28080 is-blocking is-cloexec listen is-blocking is-cloexec nonblocking listen is-nonblocking has-port:28080"
    ));
    same_with_and_without(&format!(
        "tcp4 nonblocking inherited bind:{at}:28081 is-nonblocking is-inherited listen is-nonblocking is-inherited has-port:28081"
    ));
}

#[test]
fn whoever_binds_and_connects_is_a_client() {
    let server = TcpListener::bind("127.9.6.1:28080").expect("bound");
    let mut cluster = Cluster::new();
    let worker = cluster.start("tcp4 reuseaddr bind:127.9.6.1:28081 connect:127.9.6.1:28080 close wait");
    server.set_nonblocking(true).expect("set");
    let accepted = std::cell::RefCell::new(None);
    cluster.until("it connects", |_| {
        let mut accepted = accepted.borrow_mut();
        *accepted = accepted.take().or_else(|| server.accept().ok());
        accepted.is_some()
    });
    let (mut connection, from) = accepted.into_inner().expect("accepted");
    assert_eq!(from.port(), 28081);
    connection.set_nonblocking(false).expect("set");
    connection.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    assert_eq!(connection.read(&mut [0]).expect("closed for real, while the worker lives"), 0);
    assert!(cluster.listenings(worker).is_empty());
}

#[test]
fn a_privileged_port_takes_the_right() {
    let mut cluster = Cluster::new();
    let refused = cluster.start("uid-exec:65534 tcp4 bind:127.9.7.1:81=EACCES");
    let permitted = cluster.start("tcp4 bind:127.9.7.1:81 listen");
    assert_eq!(cluster.ends(refused), 0);
    assert_eq!(cluster.ends(permitted), 0);
    assert_eq!(cluster.listenings(permitted), [(Some(parsed("127.9.7.1:81")), true)]);
}

#[test]
fn fifty_ports_in_fifty_threads() {
    let mut cluster = Cluster::new();
    let script = "threads:50:127.9.8.1:28100 wait";
    for worker in [cluster.start(script), cluster.start(script)] {
        cluster.listened(worker, 50);
        let all: BTreeSet<_> = cluster.listenings(worker).into_iter().collect();
        assert_eq!(all, (28100..28150).map(|port| (Some(parsed(&format!("127.9.8.1:{port}"))), true)).collect());
        assert_eq!(cluster.broker.listeners_of(cluster.workers[worker].life).len(), 50);
    }
    assert_eq!(cluster.broker.sockets.addresses().len(), 50);
}

#[test]
fn children_listen_on_what_their_parent_bound() {
    let address = "127.9.9.1:28080";
    let mut cluster = Cluster::new();
    let one = cluster.start(&format!("tcp4 reuseaddr bind:{address} fork listen serve"));
    cluster.listened(one, 1);
    let two = cluster.start(&format!("tcp4 reuseaddr bind:{address} twin listen serve"));
    cluster.listened(two, 2);
    assert_eq!(cluster.broker.sockets.lanes().len(), 2, "one for each life");
    let mut seen = BTreeSet::new();
    for _ in 0..500 {
        seen.insert(greeting(address));
        if seen.len() == 3 {
            return;
        }
    }
    panic!("three processes listen, these answer: {seen:?}");
}

#[test]
fn a_worker_that_is_killed_in_the_middle_of_a_call_leaves_nothing_behind() {
    for calls_before in 0..2 {
        let address = &format!("127.9.10.1:{}", 28080 + calls_before);
        let script = format!("tcp4 reuseaddr bind:{address} listen greet");
        let mut cluster = Cluster::new();
        let killed = cluster.start(&script);
        for _ in 0..calls_before {
            let call = cluster.next_call(killed);
            cluster.answer(killed, &call);
        }
        let call = cluster.next_call(killed);
        process::signal(cluster.workers[killed].pid, Signal::KILL).expect("signalled");
        reap::wait_for_end(cluster.workers[killed].pid).expect("our child");
        cluster.answer(killed, &call);
        assert_eq!(cluster.workers[killed].news, []);
        let life = cluster.workers[killed].life;
        assert_eq!(cluster.broker.listeners_of(life), []);
        cluster.workers[killed].ended = Some(ExitStatus::Code(0));
        cluster.broker.ended(life);
        let next = cluster.start(&script);
        cluster.listened(next, 1);
        assert_eq!(greeting(address), cluster.workers[next].pid.0);
        assert_eq!(cluster.ends(next), 0);
    }
}

#[test]
fn a_call_that_is_answered_twice_is_harmless() {
    let address = "127.9.11.1:28080";
    let mut cluster = Cluster::new();
    let worker = cluster.start(&format!("tcp4 reuseaddr bind:{address} listen serve"));
    for _ in 0..2 {
        let call = cluster.next_call(worker);
        cluster.answer(worker, &call);
        cluster.answer(worker, &call);
    }
    cluster.turn();
    assert_eq!(greeting(address), cluster.workers[worker].pid.0);
}

#[test]
fn who_has_the_port_is_said_once() {
    let address = "127.9.12.1:28999";
    let _holder = TcpListener::bind(address).expect("bound");
    let mut cluster = Cluster::new();
    let script = format!("tcp4 reuseaddr bind:{address}=EADDRINUSE bind:{address}=EADDRINUSE");
    let worker = cluster.start(&script);
    assert_eq!(cluster.ends(worker), 0);
    let remarks = cluster.remarks(worker);
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(remarks[0].contains(address) && remarks[0].contains(&format!("process {} (", std::process::id())), "{remarks:?}");
}

#[test]
fn ports_follow_the_rules() {
    let mut cluster = Cluster::with(SharePorts::AllBut(vec![28000, 28001]), &[28180, 65535]);
    let script = |worker: u16| {
        let (per_worker, excluded) = (28180 + worker, 28000 + worker);
        let last = if worker == 0 { "bind:127.9.13.1:65535 has-port:65535" } else { "bind:127.9.13.1:65535=EADDRNOTAVAIL" };
        format!("tcp4 bind:127.9.13.1:28180 listen has-port:{per_worker} tcp4 {last} tcp4 bind:127.9.13.1:{excluded} listen wait")
    };
    let workers = [cluster.start(&script(0)), cluster.start(&script(1))];
    for (worker, (port, own)) in workers.into_iter().zip([(28180, 28000), (28181, 28001)]) {
        cluster.listened(worker, 2);
        let own = (Some(parsed(&format!("127.9.13.1:{own}"))), false);
        assert_eq!(cluster.listenings(worker), [(Some(parsed(&format!("127.9.13.1:{port}"))), true), own]);
        process::signal(cluster.workers[worker].pid, Signal::KILL).expect("signalled");
        cluster.ends(worker);
    }
    assert!(cluster.remarks(0).is_empty());
    assert_eq!(cluster.remarks(1).len(), 1);
}

#[test]
fn another_network_namespace_is_none_of_our_business() {
    let mut cluster = Cluster::new();
    let script = "own-net tcp4 bind:0.0.0.0:28080 listen";
    for worker in [cluster.start(script), cluster.start(script)] {
        assert_eq!(cluster.ends(worker), 0);
        assert_eq!(cluster.listenings(worker), [(None, false)]);
    }
    assert!(cluster.broker.sockets.lanes().is_empty());
}

/// Gives up what containers do not have (`man 7 capabilities`), on this thread, which is the test's own.
fn give_up_ptrace() {
    const CAP_SYS_PTRACE: u32 = 19;
    const CAP_SYS_ADMIN: u32 = 21;
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: a header and the two sets that belong to its version, both live.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) }, 0);
    sets[0] &= !(1 << CAP_SYS_PTRACE | 1 << CAP_SYS_ADMIN);
    sets[1] = sets[0];
    // SAFETY: as above.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }, 0);
}

#[test]
fn a_worker_of_another_user_shares_too() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    give_up_ptrace();
    let address = "127.9.14.1:28080";
    let mut cluster = Cluster::new();
    let script =
        format!("uid-exec:4711 tcp4 reuseaddr bind:{address} listen tcp4 reuseaddr bind:{address}=EADDRINUSE back listen serve");
    for worker in [cluster.start(&script), cluster.start(&script)] {
        cluster.listened(worker, 2);
    }
    all_answer(address, &cluster.pids());
    assert!(cluster.remarks(0).is_empty(), "{:?}", cluster.remarks(0));
    let own = std::fs::read_to_string("/proc/thread-self/status").expect("our own");
    assert!(own.contains("Uid:\t0\t0\t0\t0"), "we are still ourselves");
}

#[test]
fn a_worker_that_cannot_be_looked_into_is_left_to_the_kernel_and_said() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    give_up_ptrace();
    let mut cluster = Cluster::new();
    let worker = cluster.start("uid:4711 tcp4 reuseaddr bind:127.9.15.1:28080 listen tcp4 bind:127.9.15.1:28081 listen");
    assert_eq!(cluster.ends(worker), 0);
    let remarks = cluster.remarks(worker);
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(remarks[0].contains("plays, uid 4711") && remarks[0].contains("CLUSTERINIT_USER"), "{remarks:?}");
    assert!(cluster.broker.sockets.lanes().is_empty());
}

#[test]
fn a_flood_is_answered_and_bounded() {
    let mut cluster = Cluster::new();
    let flood = cluster.start("times:3000:127.9.16.1:28080");
    assert_eq!(cluster.ends(flood), 0);
    assert_eq!(cluster.listenings(flood).len(), 3000);
    assert_eq!(cluster.broker.sockets.lanes().len(), 1, "one lane, whatever it did");
}

/// Workers that each bind and listen for the first time, as they do in life; the times are on standard output (`--nocapture`).
#[test]
#[ignore = "a measurement: run it alone, with --release"]
fn times_of_a_hundred_slots() {
    let mut cluster = Cluster::new();
    for _ in 0..100 {
        let worker = cluster.start("times:1:127.9.17.1:28080 wait");
        cluster.listened(worker, 1);
    }
}
