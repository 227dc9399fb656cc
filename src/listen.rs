//! `LISTEN`: addresses that clusterinit opens itself and hands to every worker (`LISTEN_FDS`, `man 3 sd_listen_fds`).
//!
//! One socket per address, shared by all workers: one accept queue, from which whoever is free takes the next connection. It lives
//! as long as clusterinit, so a connection that arrives between two workers waits in the queue and is not lost.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thiserror::Error;

use crate::config::{Listen, ListenAddress};

/// More than `net.core.somaxconn` is cut by the kernel, so this asks for whatever the machine allows.
const BACKLOG: i32 = 65_535;

#[derive(Debug, Error)]
#[error("CLUSTERINIT_LISTEN: cannot listen on {address}: {source}")]
pub struct ListenError {
    address: String,
    source: io::Error,
}

/// Opens all addresses, in their order.
pub fn open(addresses: &[Listen]) -> Result<Vec<OwnedFd>, ListenError> {
    let open =
        |listen: &Listen| open_one(&listen.address).map_err(|source| ListenError { address: listen.address.to_string(), source });
    addresses.iter().map(open).collect()
}

/// The address that a socket really has: port 0 was the kernel's to pick.
pub fn opened_address(listen: &Listen, opened: &OwnedFd) -> String {
    let bound = socket2::SockRef::from(opened).local_addr().ok().and_then(|address| address.as_socket());
    match (&listen.address, bound) {
        (ListenAddress::Tcp(_), Some(address)) => address.to_string(),
        (address, _) => address.to_string(),
    }
}

fn open_one(address: &ListenAddress) -> io::Result<OwnedFd> {
    let socket = match address {
        ListenAddress::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            // A predecessor's connections in TIME_WAIT must not keep us from the address (`man 7 socket`).
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            socket.bind(&SockAddr::from(*address))?;
            socket
        }
        ListenAddress::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            bind_unix(&socket, path)?;
            socket
        }
    };
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

    fn tcp(address: &str) -> Listen {
        Listen { name: "unknown".to_owned(), address: ListenAddress::Tcp(address.parse().expect("an address")) }
    }

    fn unix(path: PathBuf) -> Listen {
        Listen { name: "unknown".to_owned(), address: ListenAddress::Unix(path) }
    }

    #[test]
    fn a_connection_waits_in_the_queue_of_an_opened_address() {
        let opened = open(&[tcp("127.0.0.1:0")]).expect("opened");
        let listener = TcpListener::from(opened.into_iter().next().expect("one"));
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (_, from) = listener.accept().expect("accepted");
        assert_eq!(from, client.local_addr().expect("an address"));
    }

    #[test]
    fn a_taken_address_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("bound");
        let taken: SocketAddr = holder.local_addr().expect("an address");
        let error = open(&[tcp(&taken.to_string())]).expect_err("taken");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }

    #[test]
    fn a_stale_socket_file_makes_room_and_a_live_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let opened = open(&[unix(path.clone())]).expect("the leftover made room");
        UnixStream::connect(&path).expect("listened on");
        open(&[unix(path.clone())]).expect_err("held by somebody alive");
        drop(opened);
        std::fs::write(folder.path().join("file"), "precious").expect("written");
        open(&[unix(folder.path().join("file"))]).expect_err("no socket");
        assert!(folder.path().join("file").exists(), "what is no socket is never removed");
    }
}
