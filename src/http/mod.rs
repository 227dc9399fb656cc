//! The side port: what Kubernetes and people can see. GET and HEAD only; answers come from the published snapshot.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz`, `/livez` | 200 `ok`; 503 and the reason when a restart of the container may help. Never during a stop |
//! | `/readyz` | 200 `ok` when enough workers are ready and no stop is under way; 503 and the reason otherwise |
//! | `/` | 200, HTML: the status page, with and without scripts (`page.rs`) |
//! | `/workers` | 200, JSON: one row per worker and per slot without one ([`report`]); with `?events=1` the last 256 events too |
//! | `/metrics` | 200, Prometheus text ([`metrics`]); behind ours what the programs of Node workers collect with prom-client |
//! | else | 404; other methods 405 |
//!
//! Whatever clients do, the cost is bounded: 256 connections, 16 KiB and 5 s for the head of a request, 5 s for an answer, bodies
//! never read. Nothing here waits for the supervisor, and nothing wakes while nobody asks.

mod answer;
mod connection;
mod events;
pub mod metrics;
mod page;
pub mod report;
mod serve;
pub(crate) mod shown;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cluster::status::Snapshot;
use crate::runtime::clock::Clock;
use crate::sys::descriptor;

pub use serve::serve;

/// The header of every answer of ours that tells the containers of a pod apart.
pub const INSTANCE_HEADER: &str = "clusterinit-instance";

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 256;

/// What the side port answers from.
#[derive(Clone, Debug)]
pub struct Side {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub clock: Clock,
    pub pid: u32,
    /// [`Instance::own`](crate::sys::instance::Instance::own) as text; what stands here is sent with every answer.
    pub instance: String,
    /// Where Node's workers can be asked; `None`: nowhere.
    pub asking: Option<mpsc::Sender<Asking>>,
}

/// What the loop is told of those who look.
#[derive(Debug)]
pub enum Asking {
    /// Somebody looks at `/workers`: event-loop lag is worth to be measured. Nobody waits for it.
    Lag,
    /// Somebody waits for the metrics of the workers' programs.
    Metrics(oneshot::Sender<String>),
}

/// A listener at this address, its descriptor out of the way of those that workers get. `[::]` takes IPv4 too, and becomes `0.0.0.0`
/// where there is no IPv6.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_to(address) {
        Err(error) if address.ip() == IpAddr::from([0_u16; 8]) && has_no_ipv6(&error) => {
            bind_to((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    // socket2 makes it close-on-exec.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted container must not wait for the last one's TIME_WAIT. Not SO_REUSEPORT: an address belongs to one.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from(descriptor::lift(socket.into())))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_wildcard_takes_both_families_and_a_taken_port_is_an_error() {
        let listener = bind(SocketAddr::from(([0_u16; 8], 0))).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert!(listener.as_raw_fd() >= descriptor::LOWEST);
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("over IPv4");
        if listener.local_addr().expect("bound").is_ipv6() {
            TcpStream::connect(("::1", port)).expect("over IPv6");
        }
        let taken = bind(SocketAddr::from(([0_u16; 8], port))).expect_err("taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_the_lack_of_ipv6_falls_back() {
        for (number, falls_back) in
            [(Errno::EAFNOSUPPORT, true), (Errno::EADDRNOTAVAIL, true), (Errno::EADDRINUSE, false), (Errno::EACCES, false)]
        {
            assert_eq!(has_no_ipv6(&number.into()), falls_back, "{number}");
        }
    }
}
