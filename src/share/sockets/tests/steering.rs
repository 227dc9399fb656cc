//! Which queue a new connection gets into.

use std::io::{Read, Write};

use super::*;

#[test]
fn four_lanes_get_even_shares() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut bench = Bench::new(Balance::Spread, address, false);
        let lanes = set((0..4).map(|n| bench.worker(n.into(), n)));
        assert_eq!(lanes.len(), 4);
        let _clients = bench.clients(800);
        let shares = bench.waiting();
        // Seven standard deviations: once in 10^11 runs by chance.
        assert!(shares.values().all(|share| (115..=285).contains(share)), "{shares:?}");
    }
}

#[test]
fn a_worker_that_has_not_joined_or_has_left_gets_nothing() {
    let mut bench = Bench::spread();
    let first = bench.worker(1, 0);
    let second = bench.listener(2, 1);
    bench.sockets.settle();
    assert_eq!(bench.reached(60), set([first]), "it listens and is not ready");
    bench.sockets.join(Life(2));
    bench.sockets.settle();
    assert_eq!(bench.reached(60), set([first, second]));
    bench.leave(1, false);
    assert_eq!(bench.reached(60), set([second]));
    bench.leave(2, false);
    assert_eq!(bench.reached(60), set([first, second]), "better anybody who lives than nobody");
}

#[test]
fn a_lane_that_lags_rests_while_there_are_others() {
    let mut bench = Bench::spread();
    let (first, second) = (bench.worker(1, 0), bench.worker(2, 1));
    bench.sockets.set_lagging(first, true);
    bench.sockets.settle();
    assert_eq!(bench.reached(60), set([second]));
    bench.sockets.set_lagging(second, true);
    bench.sockets.settle();
    assert_eq!(bench.reached(60), set([first, second]));
    bench.sockets.set_lagging(first, false);
    bench.sockets.settle();
    assert_eq!(bench.reached(60), set([first]));
}

#[test]
fn a_queue_is_one_for_all() {
    let mut bench = Bench::new(Balance::Queue, "127.0.0.1:0", false);
    let lane = bench.worker(1, 0);
    assert_eq!(bench.worker(2, 1), lane);
    let _clients = bench.clients(10);
    bench.crash(1);
    assert_eq!(bench.sockets.lanes(), [(lane, Some(Life(2)), Slot(1))]);
    assert_eq!(bench.accept(lane).len(), 10);
    bench.crash(2);
    let _late = bench.clients(5);
    assert_eq!(bench.worker(3, 0), lane);
    assert_eq!(bench.accept(lane).len(), 5);
}

#[test]
fn a_client_stays_with_its_slot() {
    for (address, clients) in [
        ("0.0.0.0:0", (1..=12).map(|n| IpAddr::from([127, 0, 0, n])).collect::<Vec<_>>()),
        ("[::]:0", (1..=12).map(|n| IpAddr::from([127, 0, 1, n])).collect()),
        ("[::1]:0", vec!["::1".parse().expect("an address")]),
    ] {
        let mut bench = Bench::new(Balance::Sticky, address, false);
        let mut lanes: Vec<LaneId> = (0..4).map(|n| bench.worker(n.into(), n)).collect();
        let lane_of = |bench: &Bench, client: IpAddr| {
            let to = if client.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { client };
            let _clients = bench.clients_of(SocketAddr::new(to, bench.at.port), Some(client), 10);
            let reached: Vec<(LaneId, u32)> = bench.waiting().into_iter().filter(|(_, waiting)| *waiting > 0).collect();
            assert_eq!(reached.len(), 1, "{client}: {reached:?}");
            drop(bench.accept(reached[0].0));
            reached[0].0
        };
        let before: Vec<LaneId> = clients.iter().map(|client| lane_of(&bench, *client)).collect();
        let lost = before[0];
        let slot = lanes.iter().position(|lane| *lane == lost).expect("one of them");
        // A successor comes first, then the predecessor goes: its clients follow to the lane that the successor has.
        let successor = bench.worker(100, u32::try_from(slot).expect("small"));
        bench.leave(slot as u64, false);
        lanes[slot] = successor;
        for (client, before) in clients.iter().zip(&before) {
            let expected = if *before == lost { successor } else { *before };
            assert_eq!(lane_of(&bench, *client), expected, "{client}");
        }
        // Without anybody in the slot only its own clients move.
        bench.leave(100, false);
        for (client, before) in clients.iter().zip(&before) {
            let now = lane_of(&bench, *client);
            assert!(if *before == lost { now != successor } else { now == *before }, "{client}");
        }
    }
}

#[test]
fn while_two_are_in_a_slot_its_clients_are_the_newer_ones() {
    let mut bench = Bench::new(Balance::Sticky, "127.0.0.1:0", false);
    let first = bench.worker(1, 0);
    let second = bench.worker(2, 0);
    assert_eq!(bench.reached(10), set([second]));
    bench.leave(1, false);
    bench.crash(1);
    assert_eq!(bench.worker(3, 0), first, "an older lane, a newer worker");
    assert_eq!(bench.reached(10), set([first]));
}

#[test]
fn more_sticky_slots_than_a_coarse_table_is_for() {
    let mut bench = Bench::new(Balance::Sticky, "0.0.0.0:0", false);
    let lanes = set((0..100).map(|n| bench.worker(n.into(), n)));
    assert_eq!(bench.sockets.take_remarks(), Vec::<String>::new());
    let to = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), bench.at.port);
    let from = (0..2).flat_map(|net| (1..=200).map(move |n| IpAddr::from([127, 9, net, n])));
    let _clients: Vec<_> = from.map(|from| bench.clients_of(to, Some(from), 1)).collect();
    let reached = bench.waiting().values().filter(|waiting| **waiting > 0).count();
    assert!(reached > 85, "{reached} of {} lanes", lanes.len());
}

#[test]
fn dual_stack_answers_both_and_v6_only_lives_beside_v4() {
    let mut bench = Bench::new(Balance::Spread, "[::]:0", false);
    let lanes = set([bench.worker(1, 0), bench.worker(2, 1)]);
    let v4 = SocketAddr::from(([127, 0, 0, 1], bench.at.port));
    let v6 = SocketAddr::new("::1".parse().expect("an address"), bench.at.port);
    let _clients = [bench.clients_of(v4, None, 60), bench.clients_of(v6, None, 60)];
    assert_eq!(bench.waiting().into_keys().collect::<BTreeSet<_>>(), lanes);
    assert!(bench.waiting().values().all(|waiting| *waiting > 20), "{:?}", bench.waiting());

    let mut bench = Bench::new(Balance::Spread, "[::]:0", true);
    let at_v6 = bench.worker(1, 0);
    let v4 = Address::new(SocketAddr::from(([0, 0, 0, 0], bench.at.port)), false);
    drop(bench.sockets.reserve(&v4, Life(1)).expect("the other family"));
    let at_v4 = bench.sockets.listen(&v4, Life(1), Slot(0), 10).expect("listens").id;
    bench.sockets.settle();
    assert_eq!(bench.sockets.of(Life(1)).len(), 2);
    drop(bench.clients_of(SocketAddr::from(([127, 0, 0, 1], bench.at.port)), None, 3));
    assert_eq!(bench.accept(at_v4).len(), 3);
    drop(bench.clients_of(SocketAddr::new("::1".parse().expect("an address"), bench.at.port), None, 4));
    assert_eq!(bench.accept(at_v6).len(), 4);
}

#[test]
fn an_accepted_connection_is_an_ordinary_one() {
    let mut bench = Bench::spread();
    let lane = bench.worker(1, 0);
    let mut client = bench.clients(1).remove(0);
    let mut server = bench.accept(lane).remove(0);
    server.write_all(b"hello").expect("written");
    drop(server);
    let mut text = String::new();
    client.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
}

/// Of the budget of a worker's call, 100 µs, this is the part that is spent here.
#[test]
#[expect(clippy::print_stdout, reason = "a measurement, seen with --nocapture")]
fn bind_and_listen_are_quick_with_a_hundred_slots_and_with_a_thousand() {
    for slots in [100_u32, 1000] {
        let mut bench = Bench::spread();
        let mut times = Vec::new();
        for slot in 0..slots {
            let life = Life(slot.into());
            let start = now();
            let fresh = bench.sockets.reserve(&bench.at, life).expect("reserved");
            let reserved = now();
            bench.sockets.listen(&bench.at, life, Slot(slot), 1024).expect("listens");
            let listened = now();
            bench.sockets.join(life);
            bench.sockets.settle();
            times.push((reserved.duration_since(start), listened.duration_since(reserved), now().duration_since(listened)));
            drop(fresh);
        }
        let mut medians = [Duration::ZERO; 3];
        for (which, median) in medians.iter_mut().enumerate() {
            let mut one: Vec<Duration> = times.iter().map(|(a, b, c)| [*a, *b, *c][which]).collect();
            one.sort();
            *median = one[one.len() / 2];
        }
        let [reserve, listen, settle] = medians;
        println!("{slots} slots, median: reserve {reserve:?}, listen {listen:?}, join and settle {settle:?}");
        assert!(reserve < Duration::from_millis(1) && listen < Duration::from_millis(1));
    }
}
