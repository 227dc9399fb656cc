//! Which worker has which lane, and that what waits is served.

use super::*;

#[test]
fn what_waits_survives_its_owner_and_is_served_by_the_next() {
    let mut bench = Bench::spread();
    let lane = bench.worker(1, 0);
    let copy = bench.copy(lane);
    let clients = bench.clients(20);
    drop(copy);
    bench.crash(1);
    let more = bench.clients(5);
    assert_eq!(bench.worker(2, 0), lane, "the lane that its clients wait in");
    let served = bench.accept(lane);
    assert_eq!(served.len(), 25);
    let names: BTreeSet<SocketAddr> = served.iter().map(|one| one.peer_addr().expect("connected")).collect();
    assert!(clients.iter().chain(&more).all(|one| names.contains(&one.local_addr().expect("bound"))));
}

#[test]
fn a_successor_gets_the_spare_and_the_spare_goes_round() {
    let mut bench = Bench::spread();
    let (first, other) = (bench.worker(1, 0), bench.worker(2, 1));
    let spare = bench.worker(3, 0);
    assert!(spare != first && spare != other, "predecessor and successor live at the same time");
    bench.leave(1, false);
    assert_eq!(bench.reached(60), set([other, spare]));
    bench.crash(1);
    assert_eq!(bench.reached(60), set([other, spare]), "a spare gets nothing");
    assert_eq!(bench.worker(4, 1), first, "the spare of another slot is as good");
    bench.leave(2, false);
    bench.crash(2);
    assert_eq!(bench.sockets.lanes().len(), 3, "one more than slots, however often");
    assert_eq!(bench.reached(60), set([first, spare]));
}

#[test]
fn who_hangs_hands_over_its_lane_with_what_waits() {
    let mut bench = Bench::spread();
    let lane = bench.worker(1, 0);
    let other = bench.worker(2, 1);
    let _clients = bench.clients(40);
    let waiting = bench.waiting()[&lane];
    bench.leave(1, true);
    let spare = bench.worker(3, 5);
    assert!(spare != lane && spare != other, "not for another slot");
    assert_eq!(bench.worker(4, 0), lane);
    assert_eq!(u32::try_from(bench.accept(lane).len()).expect("small"), waiting);
    assert!(bench.sockets.lane_of(&bench.at, Life(1)).is_none());
    bench.crash(1);
    assert_eq!(bench.sockets.lane_of(&bench.at, Life(4)).map(|lane| lane.id), Some(lane), "the old one's end is not its");
}

#[test]
fn a_lane_in_which_somebody_waits_goes_first() {
    let mut bench = Bench::spread();
    let lanes: Vec<LaneId> = (0..4).map(|n| bench.worker(n.into(), n)).collect();
    for life in 1..4 {
        bench.leave(life, false);
    }
    let _clients = bench.clients(3);
    // Some of what came to lane 0 stays when all go; the others are empty spares.
    bench.leave(0, false);
    (0..4).for_each(|life| bench.crash(life));
    assert_eq!(bench.worker(10, 9), lanes[0]);
    assert_eq!(bench.worker(11, 2), lanes[2], "else the one of its slot");
}

/// With nobody there, what arrives must wait where the successor will look for it, not in a spare.
#[test]
fn between_two_workers_clients_wait_where_the_next_one_listens() {
    let mut bench = Bench::spread();
    let old = bench.worker(1, 0);
    let lane = bench.worker(2, 0);
    bench.leave(1, false);
    bench.crash(1);
    bench.crash(2);
    let _clients = bench.clients(30);
    assert_eq!(bench.waiting()[&old], 0);
    assert_eq!(bench.worker(3, 0), lane);
    // The same where the predecessor went in good order, and where other slots were closed before.
    assert_eq!(bench.worker(4, 1), old);
    bench.leave(4, false);
    bench.crash(4);
    drop(bench.accept(lane));
    bench.leave(3, false);
    bench.crash(3);
    let _more = bench.clients(30);
    assert_eq!(bench.waiting()[&old], 0);
    assert_eq!(bench.worker(5, 0), lane);
    assert_eq!(bench.accept(lane).len(), 30);
}

#[test]
fn listening_again_is_the_same_lane_with_another_backlog() {
    let mut bench = Bench::spread();
    let lane = bench.worker(1, 0);
    assert_eq!(bench.sockets.queue(lane).map(|queue| queue.limit), Some(1024));
    let again = bench.sockets.listen(&bench.at, Life(1), Slot(0), 7).expect("listens").id;
    assert_eq!(again, lane);
    assert_eq!(bench.sockets.queue(lane), Some(Queue { waiting: 0, limit: 7, listens: true }));
    let of: Vec<(u64, u16)> = bench.sockets.of(Life(1));
    assert_eq!(of, [(bench.sockets.lane_of(&bench.at, Life(1)).expect("a lane").inode, bench.at.port)]);
}

/// A client may bind before it connects: its socket is one like any other.
#[test]
fn a_bound_socket_can_connect() {
    let mut bench = Bench::spread();
    let server = TcpListener::bind("127.0.0.1:0").expect("bound");
    let bound = bench.sockets.reserve(&bench.at, Life(1)).expect("reserved");
    let bound = Socket::from(bound);
    bound.connect(&SockAddr::from(server.local_addr().expect("bound"))).expect("connected");
    assert_eq!(server.accept().expect("accepted").1, bench.at.to_socket_addr());
    assert_eq!(bench.sockets.addresses(), []);
}

#[test]
fn what_nobody_has_is_given_back() {
    let real = Bench::spread().at;
    let mut sockets = Sockets::new(Balance::Spread);
    drop(sockets.reserve(&real, Life(1)).expect("reserved"));
    let lane = sockets.listen(&real, Life(1), Slot(0), 10).expect("listens").id;
    sockets.join(Life(1));
    sockets.settle();
    let copy = sockets.socket(lane).expect("a socket").try_clone_to_owned().expect("copied");
    sockets.release_unused();
    assert_eq!(sockets.addresses(), [real], "it has an owner");
    sockets.ended(Life(1));
    assert_eq!(sockets.addresses(), [real], "a successor may come");
    sockets.release_unused();
    assert!(sockets.addresses().is_empty() && sockets.lanes().is_empty() && sockets.socket(lane).is_none());
    drop(copy);
    assert_eq!(client(real.to_socket_addr(), None).expect_err("nobody").kind(), io::ErrorKind::ConnectionRefused);
    TcpListener::bind(real.to_socket_addr()).expect("free");

    let mut kept = Bench::spread();
    kept.worker(1, 0);
    kept.crash(1);
    kept.sockets.release_unused();
    assert_eq!(kept.sockets.addresses(), [kept.at], "LISTEN: ours for good");
}
