//! The sockets on the real kernel, over loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::*;

mod exclusive;
mod lanes;
mod last;
mod steering;

const SOON: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "a test: deadlines, and how long a call takes")]
fn now() -> Instant {
    Instant::now()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = now() + SOON;
    while !is_so() {
        assert!(now() < deadline, "waited for: {what}");
        std::thread::yield_now();
    }
}

/// A cluster with one address that the kernel has picked.
struct Bench {
    sockets: Sockets,
    at: Address,
}

impl Bench {
    fn new(balance: Balance, address: &str, v6only: bool) -> Self {
        let mut sockets = Sockets::new(balance);
        let at = sockets.open(&Address::new(address.parse().expect("an address"), v6only)).expect("opened");
        Self { sockets, at }
    }

    fn spread() -> Self {
        Self::new(Balance::Spread, "127.0.0.1:0", false)
    }

    /// A worker that binds, listens and is ready.
    fn worker(&mut self, life: u64, slot: u32) -> LaneId {
        let lane = self.listener(life, slot);
        self.sockets.join(Life(life));
        self.sockets.settle();
        lane
    }

    fn listener(&mut self, life: u64, slot: u32) -> LaneId {
        drop(self.sockets.reserve(&self.at, Life(life)).expect("reserved"));
        self.sockets.listen(&self.at, Life(life), Slot(slot), 1024).expect("listens").id
    }

    fn leave(&mut self, life: u64, hand_over: bool) {
        self.sockets.leave(Life(life), hand_over);
        self.sockets.settle();
    }

    fn crash(&mut self, life: u64) {
        self.sockets.ended(Life(life));
        self.sockets.settle();
    }

    /// So many clients; all wait in some queue when this returns.
    fn clients(&self, count: u32) -> Vec<TcpStream> {
        self.clients_of(self.at.to_socket_addr(), None, count)
    }

    fn clients_of(&self, to: SocketAddr, from: Option<IpAddr>, count: u32) -> Vec<TcpStream> {
        let before: u32 = self.waiting().values().sum();
        let clients = (0..count).map(|_| client(to, from).expect("connected")).collect();
        until("all in a queue", || self.waiting().values().sum::<u32>() == before + count);
        clients
    }

    fn waiting(&self) -> BTreeMap<LaneId, u32> {
        let lanes = self.sockets.lanes().into_iter().map(|(lane, ..)| lane);
        lanes.map(|lane| (lane, self.sockets.queue(lane).expect("a queue").waiting)).collect()
    }

    /// The worker's copy of its lane.
    fn copy(&self, lane: LaneId) -> TcpListener {
        let copy = self.sockets.socket(lane).expect("a socket").try_clone_to_owned().expect("copied");
        TcpListener::from(copy)
    }

    /// Accepts what waits in a lane.
    fn accept(&self, lane: LaneId) -> Vec<TcpStream> {
        let listener = self.copy(lane);
        (0..self.waiting()[&lane]).map(|_| listener.accept().expect("accepted").0).collect()
    }

    /// Lanes that get anything of so many new connections; they are accepted at once.
    fn reached(&self, count: u32) -> BTreeSet<LaneId> {
        let _clients = self.clients(count);
        let reached: BTreeSet<LaneId> =
            self.waiting().into_iter().filter(|(_, waiting)| *waiting > 0).map(|(lane, _)| lane).collect();
        for lane in &reached {
            drop(self.accept(*lane));
        }
        reached
    }
}

fn client(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
    }
    socket.connect_timeout(&SockAddr::from(to), SOON)?;
    Ok(socket.into())
}

fn set(lanes: impl IntoIterator<Item = LaneId>) -> BTreeSet<LaneId> {
    lanes.into_iter().collect()
}
