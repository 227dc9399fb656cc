//! `LISTEN`: addresses that clusterinit opens itself and hands to every worker (`LISTEN_FDS`, `man 3 sd_listen_fds`).
//!
//! A TCP address follows BALANCE, as one that the server opens by itself: each worker gets an accept queue of its own from
//! [`Sockets`]. A unix socket is one queue for all, from which whoever is free takes the next connection. All live as long as
//! clusterinit, so a connection that arrives between two workers waits and is not lost.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::config::{Listen, ListenAddress};
use crate::share::address::Address;
use crate::share::sockets::Sockets;

/// More than `net.core.somaxconn` is cut by the kernel, so this asks for whatever the machine allows.
pub const BACKLOG: i32 = 65_535;

/// What every worker gets as its next descriptor.
#[derive(Debug)]
pub enum Opened {
    /// A lane of its own at this address.
    Tcp(Address),
    /// The same socket for all; with its address as people write it.
    Unix(OwnedFd, String),
}

#[derive(Debug, Error)]
#[error("CLUSTERINIT_LISTEN: cannot listen on {address}: {source}")]
pub struct ListenError {
    address: String,
    source: io::Error,
}

/// Opens all addresses, in their order.
pub fn open(addresses: &[Listen], sockets: &mut Sockets) -> Result<Vec<Opened>, ListenError> {
    let mut open = |listen: &Listen| {
        let opened = match &listen.address {
            ListenAddress::Tcp(address) => sockets.open(&Address::new(*address, false)).map(Opened::Tcp),
            ListenAddress::Unix(path) => open_unix(path).map(|socket| Opened::Unix(socket, listen.address.to_string())),
        };
        opened.map_err(|source| ListenError { address: listen.address.to_string(), source })
    };
    addresses.iter().map(&mut open).collect()
}

fn open_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    bind_unix(&socket, path)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// `@name` is in the abstract namespace. A socket file that nobody listens on any more is a leftover and makes room.
fn bind_unix(socket: &Socket, path: &Path) -> io::Result<()> {
    let name = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SockAddr::unix(format!("\0{name}"))?,
        None => SockAddr::unix(path)?,
    };
    match socket.bind(&name) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, &name) => {
            std::fs::remove_file(path)?;
            socket.bind(&name)
        }
        outcome => outcome,
    }
}

fn is_stale(path: &Path, name: &SockAddr) -> bool {
    let is_socket = std::fs::metadata(path).is_ok_and(|data| data.st_mode() & libc::S_IFMT == libc::S_IFSOCK);
    let refused = || {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.connect(name)
    };
    is_socket && refused().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use super::*;
    use crate::cluster::words::{Life, Slot};
    use crate::config::Balance;

    fn tcp(address: &str) -> Listen {
        Listen { name: "unknown".to_owned(), address: ListenAddress::Tcp(address.parse().expect("an address")) }
    }

    fn unix(path: PathBuf) -> Listen {
        Listen { name: "unknown".to_owned(), address: ListenAddress::Unix(path) }
    }

    fn opened(address: Listen) -> Result<Opened, ListenError> {
        let opened = open(&[address], &mut Sockets::new(Balance::Spread))?;
        Ok(opened.into_iter().next().expect("one for one"))
    }

    #[test]
    fn a_worker_s_lane_of_an_opened_address_takes_connections() {
        let mut sockets = Sockets::new(Balance::Spread);
        let all = open(&[tcp("127.0.0.1:0")], &mut sockets).expect("opened");
        let [Opened::Tcp(address)] = all.as_slice() else { panic!("{all:?}") };
        assert_ne!(address.port, 0, "the kernel has picked one");
        let lane = sockets.listen(address, Life(1), Slot(0), BACKLOG).expect("listens");
        let listener = TcpListener::from(lane.socket.try_clone_to_owned().expect("copied"));
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (_, from) = listener.accept().expect("accepted");
        assert_eq!(from, client.local_addr().expect("an address"));
    }

    #[test]
    fn a_taken_address_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("bound");
        let taken: SocketAddr = holder.local_addr().expect("an address");
        let error = opened(tcp(&taken.to_string())).expect_err("taken");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }

    #[test]
    fn a_stale_socket_file_makes_room_and_a_live_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let held = opened(unix(path.clone())).expect("the leftover made room");
        UnixStream::connect(&path).expect("listened on");
        opened(unix(path.clone())).expect_err("held by somebody alive");
        drop(held);
        std::fs::write(folder.path().join("file"), "precious").expect("written");
        opened(unix(folder.path().join("file"))).expect_err("no socket");
        assert!(folder.path().join("file").exists(), "what is no socket is never removed");
    }
}
