//! Round robin: clusterinit accepts and hands over, in turn, and keeps each connection until it is taken.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{WORKERS, count, is_node, launch, node, pid_of, program, proven, replaced, serves, source, stops};
use crate::share::{body, descriptors, hold, local, slot_at};
use crate::support::{Launch, Load, Mode, Stage, free_port};

fn robin(file: &str, port: u16) -> Option<Launch> {
    Some(launch(Mode::Plain, &node()?, file, port).set("BALANCE", "rr"))
}

fn in_turn(launch: Launch, port: u16) {
    let cluster = launch.start();
    serves(&cluster, port);
    assert_eq!(cluster.workers()["share"]["balance"], "rr", "{}", cluster.story());
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    for _ in 0..40 {
        *seen.entry(slot_at(local(port)).expect("an answer")).or_default() += 1;
    }
    assert_eq!(seen, BTreeMap::from([(0, 20), (1, 20)]), "{}", cluster.story());
    stops(cluster);
}

#[test]
fn connections_go_to_the_workers_in_turn() {
    let port = free_port();
    let Some(launch) = robin(&source("plain.js"), port) else { return };
    in_turn(launch, port);
}

/// Node's own variable for it, in the environment of clusterinit.
#[test]
fn nodes_own_variable_asks_for_it() {
    let (Some(node), port) = (node(), free_port()) else { return };
    let launch = launch(Mode::Plain, &node, &source("plain.js"), port).env("NODE_CLUSTER_SCHED_POLICY", "rr");
    in_turn(launch, port);
}

/// The limbo of Node's own primary: a connection that was handed to a worker that dies before it has taken it.
#[test]
fn what_a_dead_worker_had_not_taken_is_served_by_another() {
    let port = free_port();
    let Some(launch) = robin(&source("plain.js"), port) else { return };
    let cluster = launch.start();
    serves(&cluster, port);
    for round in 0..3 {
        proven(&cluster);
        let victim = pid_of(&cluster, round % WORKERS);
        hold(&cluster, victim);
        let clients: Vec<TcpStream> = (0..40).map(|_| ask(port)).collect();
        cluster
            .until("the other one has answered its share", |_| clients.iter().filter(|client| is_answered(client)).count() >= 15);
        let waiting = clients.iter().filter(|client| !is_answered(client)).count();
        assert!(waiting > 0, "some are with the one that does not take them\n{}", cluster.story());
        cluster.signal_inner(victim, Signal::SIGKILL);
        for mut client in clients {
            let mut answer = String::new();
            client.set_nonblocking(false).expect("set");
            client.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            let read = client.read_to_string(&mut answer);
            assert!(read.is_ok() && answer.contains(" 200 "), "{read:?} {answer:?}\n{}", cluster.story());
        }
        replaced(&cluster, victim);
    }
    stops(cluster);
}

fn ask(port: u16) -> TcpStream {
    let mut client = TcpStream::connect_timeout(&local(port), Duration::from_secs(20)).expect("a connection");
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("sent");
    client.set_nonblocking(true).expect("set");
    client
}

fn is_answered(client: &TcpStream) -> bool {
    client.peek(&mut [0]).is_ok_and(|length| length > 0)
}

/// A worker that answers `accepted: false` (here: its server is full) gives it to another.
#[test]
fn what_a_worker_does_not_take_is_served_by_another() {
    let (stage, port) = (Stage::new(), free_port());
    let text = "const s = http.createServer((request, answer) => setTimeout(() => answer.end(me()), 50)); s.listen(PORT);
        if (SLOT === 0) s.maxConnections = 1;";
    let Some(launch) = robin(&program(&stage, text), port) else { return };
    let cluster = launch.start();
    serves(&cluster, port);
    let load = Load::start(local(port), &["clients=8"]);
    let mut answered = 0;
    cluster.until("a hundred are answered", |_| {
        answered += usize::from(body(local(port), "/").is_some());
        answered == 100
    });
    let seen = load.finish();
    assert_eq!(count(&seen, "failed"), 0, "{seen}\n{}", cluster.story());
    stops(cluster);
}

/// Nobody can take them for a while: they wait, and none is kept when they are served.
#[test]
fn connections_wait_while_all_are_busy_and_leave_nothing_behind() {
    let port = free_port();
    let Some(launch) = robin(&source("fibonacci.js"), port) else { return };
    let cluster = launch.start();
    cluster.ready(WORKERS);
    is_node(&cluster);
    let before = descriptors(&cluster);
    let load = Load::start(local(port), &["clients=60", "path=/fibonacci?n=27"]);
    let mut answered = 0;
    cluster.until("twenty more are answered", |_| {
        answered += usize::from(body(local(port), "/").is_some());
        answered == 20
    });
    let seen = load.finish();
    assert_eq!(count(&seen, "failed"), 0, "{seen}\n{}", cluster.story());
    cluster.until("no descriptor is kept", |cluster| descriptors(cluster) <= before + 4);
    stops(cluster);
}

/// A client that has gone before anybody took its connection does no harm.
#[test]
fn clients_that_go_away_are_no_trouble() {
    let port = free_port();
    let Some(launch) = robin(&source("plain.js"), port) else { return };
    let cluster = launch.start();
    serves(&cluster, port);
    let before = descriptors(&cluster);
    for worker in cluster.ready(WORKERS) {
        hold(&cluster, worker);
    }
    for _ in 0..200 {
        drop(TcpStream::connect_timeout(&local(port), Duration::from_secs(5)).expect("accepted"));
    }
    for worker in cluster.ready(WORKERS) {
        cluster.signal_inner(worker, Signal::SIGCONT);
    }
    serves(&cluster, port);
    cluster.until("no descriptor is kept", |cluster| descriptors(cluster) <= before + 4);
    stops(cluster);
}
