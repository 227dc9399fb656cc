//! How connections are spread over the workers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{all_serve, hold, is_shared, local, slot_at, sockets};
use crate::support::{Cluster, Launch, Load, Mode, example, free_port};

const CONNECTIONS: u64 = 64;
const CLIENTS: u8 = 12;

fn cluster_of(workers: usize, balance: &str, port: u16) -> Cluster {
    let bind = format!("bind=127.0.0.1:{port}");
    let command = example("sockets");
    let launch = Launch::of(Mode::Plain, &sockets(&command, &[&bind, "listen", "serve"]));
    let cluster = launch.set("WORKERS", workers).set("BALANCE", balance).start();
    cluster.ready(workers);
    is_shared(&cluster);
    assert_eq!(cluster.workers()["share"]["balance"], balance);
    cluster
}

/// How many of 64 connections that are kept each of the workers got, least first.
fn shares(address: SocketAddr, workers: usize) -> Vec<u64> {
    let load = Load::start(address, &[&format!("clients={CONNECTIONS}"), "hold", "for=1s"]);
    let seen = load.finish();
    assert_eq!(seen["failed"], 0, "{seen}");
    let answers = seen["answers"].as_object().cloned().unwrap_or_default();
    let mut shares: Vec<u64> = answers.values().filter_map(Value::as_u64).collect();
    shares.resize(workers, 0);
    shares.sort_unstable();
    assert_eq!(shares.iter().sum::<u64>(), CONNECTIONS, "{seen}");
    shares
}

/// With 64 in 4 the chance that one is outside of 4..=31 is less than one in ten thousand a run.
fn is_even(shares: &[u64]) -> bool {
    shares.iter().all(|share| (4..=31).contains(share))
}

#[test]
fn spread_is_even_and_close_to_its_median() {
    let port = free_port();
    let cluster = cluster_of(4, "spread", port);
    let runs: Vec<Vec<u64>> = (0..5).map(|_| shares(local(port), 4)).collect();
    assert!(runs.iter().all(|run| is_even(run)), "{runs:?}");
    // A figure is kept for 250 ms, and the first was taken before anybody listened.
    cluster.until("connections and queues are known", |cluster| {
        cluster.rows().iter().all(|row| row["connections"].is_u64() && row["accept_queue"] == 0)
    });
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn connections_of_each_worker_are_counted() {
    let port = free_port();
    let cluster = cluster_of(2, "spread", port);
    let load = Load::start(local(port), &["clients=20", "hold"]);
    cluster.until("all 20 are counted", |cluster| {
        cluster.rows().iter().filter_map(|row| row["connections"].as_u64()).sum::<u64>() == 20
    });
    load.finish();
    cluster.until("none is left", |cluster| cluster.rows().iter().all(|row| row["connections"] == 0));
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn sockets_of_listen_are_spread_as_well() {
    let port = free_port();
    let launch = Launch::of(Mode::Plain, &[&example("server")]).set("WORKERS", 4).set("BALANCE", "spread");
    let cluster = launch.set("LISTEN", format!("127.0.0.1:{port}")).start();
    cluster.ready(4);
    let share = cluster.workers()["share"].clone();
    assert_eq!((&share["mechanism"], &share["balance"]), (&"listen-fds".into(), &"spread".into()), "{share}");
    for _ in 0..3 {
        let run = shares(local(port), 4);
        assert!(is_even(&run), "{run:?}\n{}", cluster.story());
    }
    assert_eq!(cluster.stop().0, 0);
}

/// The slot that answers a client with this last number in its address.
fn slot_of_client(client: u8, port: u16) -> u64 {
    let ask = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, client], 0)).into())?;
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let answer = ask().expect("an answer");
    let body = answer.split_once("\r\n\r\n").expect("HTTP").1;
    serde_json::from_str::<Value>(body).expect("JSON")["worker"].as_u64().expect("a slot")
}

fn slots_of_clients(port: u16) -> Vec<u64> {
    (1..=CLIENTS).map(|client| slot_of_client(client, port)).collect()
}

#[test]
fn sticky_keeps_each_client_at_its_worker() {
    let port = free_port();
    let cluster = cluster_of(4, "sticky", port);
    let first = slots_of_clients(port);
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 1, "all at one worker: {first:?}");
    for _ in 0..10 {
        assert_eq!(slots_of_clients(port), first);
    }
    // Only the clients of a lost slot move.
    cluster.signal(Signal::SIGTTOU);
    cluster.ready(3);
    let lost = 3;
    cluster.until("slot 3 gets nothing any more", |_| slots_of_clients(port).iter().all(|slot| *slot != lost));
    let after = slots_of_clients(port);
    for (client, (before, now)) in first.iter().zip(&after).enumerate() {
        assert!(*before == lost || before == now, "client {client} moved from {before} to {now}\n{}", cluster.story());
    }
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn sticky_clients_stay_through_a_reload() {
    let port = free_port();
    let cluster = cluster_of(2, "sticky", port);
    let first = slots_of_clients(port);
    super::reload(&cluster, 2);
    assert_eq!(slots_of_clients(port), first, "the slot is the same, only its process is not");
    assert_eq!(cluster.stop().0, 0);
}

/// One queue: whoever is free takes the next, so that nobody waits for a worker that does nothing.
#[test]
fn queue_goes_around_a_worker_that_has_stopped() {
    let port = free_port();
    let cluster = cluster_of(2, "queue", port);
    all_serve(&cluster, local(port), "/", 2);
    let stopped = cluster.ready(2)[0];
    hold(&cluster, stopped);
    for _ in 0..50 {
        assert_eq!(slot_at(local(port)), Some(1), "{}", cluster.story());
    }
    cluster.signal_inner(stopped, Signal::SIGCONT);
    all_serve(&cluster, local(port), "/", 2);
    assert_eq!(cluster.stop().0, 0);
}
