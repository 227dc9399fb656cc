//! Whose an address is.

use std::io::Read;
use std::os::fd::AsRawFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::*;

const EVERY_KIND: [(&str, bool); 5] =
    [("127.0.0.1:0", false), ("0.0.0.0:0", false), ("[::1]:0", false), ("[::]:0", false), ("[::]:0", true)];

/// Another clusterinit of the same user: what its worker would be answered.
fn intruder(at: &Address) -> Option<i32> {
    Sockets::new(Balance::Spread).reserve(at, Life(1)).expect_err("not theirs").raw_os_error()
}

#[derive(Clone, Copy)]
enum Foreign {
    Plain,
    ReuseAddress,
    ReusePort,
}

/// A server that knows nothing of us, of the same user.
fn foreign(at: &Address, kind: Foreign) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at.to_socket_addr()), Type::STREAM, Some(Protocol::TCP))?;
    if at.ip.is_ipv6() {
        socket.set_only_v6(at.v6only)?;
    }
    match kind {
        Foreign::Plain => {}
        Foreign::ReuseAddress => socket.set_reuse_address(true)?,
        Foreign::ReusePort => socket.set_reuse_port(true)?,
    }
    socket.bind(&SockAddr::from(at.to_socket_addr()))?;
    Ok(socket)
}

fn is_taken<T>(outcome: io::Result<T>) -> bool {
    outcome.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

#[test]
fn an_address_is_ours_from_the_first_bind_to_the_last_end() {
    for (address, v6only) in EVERY_KIND {
        let mut bench = Bench::new(Balance::Spread, address, v6only);
        assert_eq!(intruder(&bench.at), Some(libc::EADDRINUSE), "{address}, only bound");
        let bound = bench.sockets.reserve(&bench.at, Life(1)).expect("reserved");
        assert_eq!(intruder(&bench.at), Some(libc::EADDRINUSE), "{address}, with a sibling");
        let lanes = [bench.worker(1, 0), bench.worker(2, 1), bench.worker(3, 2)];
        drop(bound);
        assert_eq!(intruder(&bench.at), Some(libc::EADDRINUSE), "{address}, listened on, with a program");
        for kind in [Foreign::Plain, Foreign::ReuseAddress] {
            assert!(is_taken(foreign(&bench.at, kind)), "{address}");
        }
        bench.crash(1);
        bench.crash(2);
        bench.crash(3);
        assert_eq!(intruder(&bench.at), Some(libc::EADDRINUSE), "{address}, between two workers");
        assert!(lanes.iter().all(|lane| bench.sockets.queue(*lane).expect("a queue").listens));
        let at = bench.at;
        drop(bench);
        Sockets::new(Balance::Spread).reserve(&at, Life(1)).expect("free again");
    }
}

#[test]
fn it_is_ours_among_the_leftovers_of_a_predecessor_too() {
    for (address, v6only) in EVERY_KIND {
        let mut bench = Bench::new(Balance::Spread, address, v6only);
        let at = bench.at;
        let lane = bench.worker(1, 0);
        let to = if at.ip.is_unspecified() {
            let loopback = if at.ip.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { "::1".parse().expect("an address") };
            SocketAddr::new(loopback, at.port)
        } else {
            at.to_socket_addr()
        };
        let clients = bench.clients_of(to, None, 4);
        // The server closes first: its side waits for two times the life of a segment.
        drop(bench.accept(lane));
        for mut client in clients {
            assert_eq!(client.read(&mut [0]).expect("the end"), 0);
        }
        drop(bench);
        assert!(is_taken(foreign(&at, Foreign::Plain)), "{address}: the leftovers are there");
        let mut next = Sockets::new(Balance::Spread);
        let bound = next.reserve(&at, Life(1)).expect("what every server does at its restart");
        assert_eq!(intruder(&at), Some(libc::EADDRINUSE), "{address}, before anybody listens");
        next.listen(&at, Life(1), Slot(0), 10).expect("listens");
        next.join(Life(1));
        next.settle();
        assert_eq!(intruder(&at), Some(libc::EADDRINUSE), "{address}, with a program");
        client(to, None).expect("served");
        drop(bound);
    }
}

#[test]
fn whoever_listens_or_has_bound_first_keeps_it() {
    for (address, v6only) in EVERY_KIND {
        let at = Address::new(address.parse().expect("an address"), v6only);
        for kind in [Foreign::Plain, Foreign::ReuseAddress, Foreign::ReusePort] {
            let there = foreign(&at, kind).expect("bound");
            let at = Address::new(there.local_addr().expect("bound").as_socket().expect("an address"), v6only);
            there.listen(10).expect("listens");
            assert_eq!(intruder(&at), Some(libc::EADDRINUSE), "{address}");
            client(
                SocketAddr::new(if at.ip.is_ipv4() { [127, 0, 0, 1].into() } else { "::1".parse().expect("one") }, at.port),
                None,
            )
            .expect("undisturbed");
        }
        for kind in [Foreign::Plain, Foreign::ReusePort] {
            let there = foreign(&at, kind).expect("bound");
            let at = Address::new(there.local_addr().expect("bound").as_socket().expect("an address"), v6only);
            assert_eq!(intruder(&at), Some(libc::EADDRINUSE), "{address}");
        }
        // As between any two servers with SO_REUSEADDR: bound alone is not had.
        let there = foreign(&at, Foreign::ReuseAddress).expect("bound");
        let at = Address::new(there.local_addr().expect("bound").as_socket().expect("an address"), v6only);
        let mut ours = Sockets::new(Balance::Spread);
        drop(ours.reserve(&at, Life(1)).expect("ours now"));
        assert!(is_taken(there.listen(10)), "{address}: it was too late");
        assert!(is_taken(foreign(&at, Foreign::ReuseAddress)), "{address}");
        assert_eq!(intruder(&at), Some(libc::EADDRINUSE), "{address}");
    }
}

/// What cannot be kept away: the kernel lets a socket of the same user join that sets the option itself. It is then one of the
/// group, with an index behind ours, which no program of ours names; another user is refused.
#[test]
fn a_foreign_socket_of_the_same_user_joins_and_gets_nothing() {
    let mut bench = Bench::spread();
    let lanes = set([bench.worker(1, 0), bench.worker(2, 1)]);
    let foreign = foreign(&bench.at, Foreign::ReusePort).expect("the kernel's rule");
    foreign.listen(10).expect("listens");
    foreign.set_nonblocking(true).expect("set");
    assert_eq!(bench.reached(60), lanes);
    assert_eq!(foreign.accept().expect_err("nothing came").kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn an_address_that_is_not_of_this_machine_or_not_allowed_is_answered_as_bind_does() {
    let mut sockets = Sockets::new(Balance::Spread);
    let nowhere = Address::new("192.0.2.1:80".parse().expect("an address"), false);
    let error = sockets.reserve(&nowhere, Life(1)).expect_err("not here");
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    assert!(!is_ours(&error));
    assert!(sockets.groups.is_empty() && sockets.lives.addresses(Life(1)).next().is_none());
    let none = Address { port: 0, ..nowhere };
    assert!(is_ours(&sockets.reserve(&none, Life(1)).expect_err("port 0 is left alone")));
}

#[test]
fn addresses_are_bounded_and_one_worker_leaves_some_to_the_others() {
    let mut sockets = Sockets::new(Balance::Spread);
    // Each 127.x.y.z has its own ports: no other test is near.
    let at = |n: usize| Address {
        ip: IpAddr::from([127, 77, u8::try_from(n / 250).expect("small"), u8::try_from(n % 250 + 1).expect("small")]),
        port: 7777,
        scope: 0,
        v6only: false,
    };
    for n in 0..MOST_OF_ONE {
        drop(sockets.reserve(&at(n), Life(1)).expect("one of its share"));
    }
    assert!(is_ours(&sockets.reserve(&at(MOST_OF_ONE), Life(1)).expect_err("enough")));
    drop(sockets.reserve(&at(0), Life(1)).expect("no other one"));
    for n in MOST_OF_ONE..MOST_ADDRESSES {
        drop(sockets.reserve(&at(n), Life(u64::try_from(n / 100).expect("small") + 10)).expect("another's share"));
    }
    assert!(is_ours(&sockets.reserve(&at(MOST_ADDRESSES), Life(99)).expect_err("enough of all")));
    sockets.ended(Life(1));
    assert_eq!(sockets.groups.len(), MOST_ADDRESSES - MOST_OF_ONE, "bound and never listened on: given back");
    drop(sockets.reserve(&at(0), Life(99)).expect("free again"));
}

#[test]
fn nothing_is_inherited_over_exec() {
    let mut bench = Bench::spread();
    let lane = bench.worker(1, 0);
    let fresh = bench.sockets.reserve(&bench.at, Life(1)).expect("reserved");
    for number in [bench.sockets.socket(lane).expect("a socket"), fresh.as_fd()] {
        let flags = fcntl(number, FcntlArg::F_GETFD).expect("open");
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC), "{}", number.as_raw_fd());
    }
}
