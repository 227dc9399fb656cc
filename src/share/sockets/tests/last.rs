//! Listeners that are shut down: by a worker, and by us at the end.

use std::net::Shutdown;

use socket2::SockRef;

use super::*;

fn order_is_known(bench: &mut Bench, lanes: &[LaneId]) {
    let lanes: Vec<_> = (0..).zip(lanes.iter().copied()).collect();
    order_is_known_of(bench, &lanes);
}

/// Each lane is reached exactly when it alone is in the live set.
fn order_is_known_of(bench: &mut Bench, lanes: &[(u64, LaneId)]) {
    for (life, lane) in lanes {
        for (other, _) in lanes.iter().filter(|(other, _)| other != life) {
            bench.sockets.leave(Life(*other), false);
        }
        bench.sockets.join(Life(*life));
        bench.sockets.settle();
        assert_eq!(bench.reached(8), set([*lane]));
    }
    for (life, _) in lanes {
        bench.sockets.join(Life(*life));
    }
    bench.sockets.settle();
}

#[test]
fn the_order_stays_known_when_a_worker_shuts_its_copy_down() {
    let mut bench = Bench::spread();
    let lanes: Vec<LaneId> = (0..5).map(|n| bench.worker(n.into(), n)).collect();
    order_is_known(&mut bench, &lanes);
    for shut in [1, 4, 0, 2] {
        SockRef::from(&bench.copy(lanes[shut])).shutdown(Shutdown::Both).expect("shut down");
        bench.sockets.was_shut(lanes[shut]);
        bench.sockets.settle();
        assert!(bench.sockets.queue(lanes[shut]).expect("a queue").listens);
        order_is_known(&mut bench, &lanes);
    }
    // Several before we look, and a new worker in between; the loop's own watch says nothing.
    for shut in [3, 1] {
        SockRef::from(&bench.copy(lanes[shut])).shutdown(Shutdown::Both).expect("shut down");
    }
    let mut lanes = lanes;
    lanes.push(bench.worker(5, 5));
    order_is_known(&mut bench, &lanes);
    // All of them: the kernel's group ends with its last member, and its program too.
    for lane in &lanes {
        SockRef::from(&bench.copy(*lane)).shutdown(Shutdown::Both).expect("shut down");
    }
    bench.sockets.settle();
    order_is_known(&mut bench, &lanes);
    assert_eq!(bench.sockets.take_remarks(), Vec::<String>::new());
}

#[test]
fn a_worker_may_shut_down_without_end_and_hurts_nobody_else() {
    let mut bench = Bench::spread();
    let mut lanes: Vec<LaneId> = (0..3).map(|n| bench.worker(n.into(), n)).collect();
    let copy = bench.copy(lanes[1]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Pauses of all lengths, so that it happens between any two of our calls.
            for pause in (0..2000).cycle().step_by(37) {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let _ = SockRef::from(&copy).shutdown(Shutdown::Both);
                (0..pause).for_each(|_| std::hint::spin_loop());
            }
        });
        for n in 3..100 {
            lanes.push(bench.worker(n.into(), n));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    bench.sockets.settle();
    bench.sockets.settle();
    assert!(lanes.iter().all(|lane| bench.sockets.queue(*lane).expect("a queue").listens));
    order_is_known(&mut bench, &lanes);
}

#[test]
fn at_the_end_what_waits_is_served_and_who_is_late_is_refused() {
    let mut bench = Bench::spread();
    let (first, second) = (bench.worker(1, 0), bench.worker(2, 1));
    let inherited = bench.copy(first);
    bench.leave(1, false);
    let mut clients = bench.clients(3);
    assert!(!bench.sockets.refuse(), "somebody waits");
    assert!(bench.sockets.queue(first).is_some_and(|queue| !queue.listens), "nobody waits here");
    assert!(bench.sockets.queue(second).is_some_and(|queue| queue.listens && queue.waiting == 3));
    // A late client of a queue that runs dry is not let in, and not left in it.
    let to = SockAddr::from(bench.at.to_socket_addr());
    let late = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    assert!(late.connect_timeout(&to, Duration::from_millis(20)).is_err());
    assert!(!bench.sockets.refuse());
    let served = bench.accept(second);
    assert_eq!(served.len(), 3, "none was reset, none was added");
    for (one, other) in served.iter().zip(&mut clients) {
        io::Write::write_all(&mut &*one, b"x").expect("written");
        io::Read::read_exact(other, &mut [0]).expect("not reset");
    }
    assert!(bench.sockets.refuse());
    assert_eq!(client(bench.at.to_socket_addr(), None).expect_err("late").kind(), io::ErrorKind::ConnectionRefused);
    // Nothing listens again, whoever asks.
    bench.sockets.was_shut(first);
    bench.sockets.listen(&bench.at, Life(2), Slot(1), 10).expect("an answer all the same");
    bench.sockets.settle();
    assert!(bench.sockets.refuse());
    assert!(bench.sockets.addresses().is_empty());
    drop(inherited);
}

/// Connects from a thread: a client that is put off hangs until its kernel asks again.
fn put_off(bench: &Bench, to: SocketAddr) {
    let late = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    let error = late.connect_timeout(&SockAddr::from(to), Duration::from_millis(20)).expect_err("put off");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{to}");
    assert_eq!(bench.waiting().values().sum::<u32>(), 0);
}

#[test]
fn who_retreats_last_closes_the_door_and_what_was_there_before_is_served() {
    for (address, balance) in [("127.0.0.1:0", Balance::Spread), ("[::1]:0", Balance::Sticky), ("127.0.0.1:0", Balance::Spread)] {
        let mut bench = Bench::new(balance, address, false);
        let (first, second) = (bench.worker(1, 0), bench.worker(2, 1));
        assert!(bench.sockets.retreat(Life(1)), "the other takes them");
        bench.sockets.settle();
        assert_eq!(bench.reached(8), set([second]));
        let waits = bench.clients(2);
        assert!(bench.sockets.retreat(Life(2)));
        bench.sockets.settle();
        let served = bench.accept(second);
        assert_eq!(served.len(), waits.len(), "the door is for those who come now");
        put_off(&bench, bench.at.to_socket_addr());
        // Both still listen: no server sees its accept fail.
        assert!([first, second].iter().all(|lane| bench.sockets.queue(*lane).is_some_and(|queue| queue.listens)));
        assert!(bench.sockets.refuse());
        assert_eq!(client(bench.at.to_socket_addr(), None).expect_err("late").kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(bench.sockets.take_remarks(), Vec::<String>::new());
    }
}

#[test]
fn a_door_that_hears_both_families_hears_neither() {
    let mut bench = Bench::new(Balance::Spread, "[::]:0", false);
    bench.worker(1, 0);
    assert!(bench.sockets.retreat(Life(1)));
    bench.sockets.settle();
    for host in ["127.0.0.1", "::1"] {
        put_off(&bench, SocketAddr::new(host.parse().expect("an address"), bench.at.port));
    }
    assert!(bench.sockets.refuse());
}

#[test]
fn where_all_have_one_queue_only_the_last_one_may_retreat() {
    let mut bench = Bench::new(Balance::Queue, "127.0.0.1:0", false);
    let lane = bench.worker(1, 0);
    assert_eq!(lane, bench.worker(2, 1));
    assert!(!bench.sockets.retreat(Life(1)));
    assert!(bench.sockets.is_joined(Life(1)));
    bench.leave(1, false);
    assert_eq!(bench.reached(3), set([lane]));
    assert!(bench.sockets.retreat(Life(2)));
    bench.sockets.settle();
    put_off(&bench, bench.at.to_socket_addr());
    assert!(bench.sockets.refuse());
}

#[test]
fn the_door_is_closed_where_the_last_one_that_served_has_ended() {
    let mut bench = Bench::spread();
    let (first, _second) = (bench.worker(1, 0), bench.worker(2, 1));
    assert!(bench.sockets.retreat(Life(1)));
    bench.crash(2);
    assert_eq!(bench.reached(4), set([first]), "it is the only one that is there");
    bench.sockets.close_doors();
    bench.sockets.settle();
    put_off(&bench, bench.at.to_socket_addr());
    // A worker that shuts its copy down changes places with the door: it is found again.
    SockRef::from(&bench.copy(first)).shutdown(Shutdown::Both).expect("shut down");
    bench.sockets.settle();
    put_off(&bench, bench.at.to_socket_addr());
    assert!(bench.sockets.refuse());
}

#[test]
fn who_returns_takes_what_was_put_off() {
    let mut bench = Bench::spread();
    let (first, second) = (bench.worker(1, 0), bench.worker(2, 1));
    for life in [1, 2] {
        assert!(bench.sockets.retreat(Life(life)));
    }
    bench.sockets.settle();
    assert!(bench.sockets.are_put_off(Life(2)) && bench.sockets.is_behind_doors());
    let to = bench.at.to_socket_addr();
    let waits = std::thread::spawn(move || client(to, None));
    put_off(&bench, to);
    bench.sockets.return_to(Life(2));
    bench.sockets.settle();
    assert!(!bench.sockets.are_put_off(Life(2)));
    waits.join().expect("no panic").expect("its kernel has asked again");
    drop(bench.accept(second));
    assert_eq!(bench.reached(8), set([second]));
    bench.sockets.join(Life(1));
    bench.sockets.settle();
    order_is_known_of(&mut bench, &[(1, first), (2, second)]);
}
