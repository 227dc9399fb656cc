//! What workers share, by key: how the first one asked for it decides for all.
//!
//! TCP is a lane of each worker's own, from the broker, or in round robin one listener of ours. Unix sockets and datagrams are one
//! socket for all. What a worker has closed is still there for the others, and for its successor.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::stat::fstat;
use serde_json::value::RawValue;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::message::{AddressType, Query};
use super::rotation::Rotation;
use crate::cluster::words::Life;
use crate::share::address::Address;

/// Keys of all workers together. A server has a handful.
const MOST_KEYS: usize = 1024;
/// Where Node asks for none.
pub const BACKLOG: i32 = 511;
/// `UV_UDP_IPV6ONLY` and `UV_TCP_IPV6ONLY`.
const IPV6_ONLY: u32 = 1;
/// `UV_UDP_REUSEADDR`.
const REUSE_ADDRESS: u32 = 4;

/// What a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Tcp(Address),
    /// Its flags too: they are of the socket.
    Udp(Address, u32),
    Path(PathBuf),
}

impl Place {
    /// `None`: nothing that a server listens on.
    pub fn of(query: &Query) -> Option<Self> {
        let flags = query.flags.unwrap_or(0);
        let port = query.port.unwrap_or(0);
        let family = match &query.address_type {
            Some(AddressType::Number(-1)) => return query.address.as_ref().map(|path| Self::Path(path.into())),
            Some(AddressType::Number(4)) => (false, 4),
            Some(AddressType::Number(6)) => (false, 6),
            Some(AddressType::Name(name)) if name == "udp4" => (true, 4),
            Some(AddressType::Name(name)) if name == "udp6" => (true, 6),
            Some(_) | None => return None,
        };
        let (datagrams, version) = family;
        let v6only = flags & IPV6_ONLY != 0;
        let ip: IpAddr = match (&query.address, version) {
            (Some(literal), _) => literal.split('%').next()?.parse().ok()?,
            // Node listens on both where it can, unless a datagram socket says its family.
            (None, 4) if datagrams => Ipv4Addr::UNSPECIFIED.into(),
            (None, _) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = Address::new(SocketAddr::new(ip, u16::try_from(port).ok()?), v6only);
        Some(if datagrams { Self::Udp(address, flags) } else { Self::Tcp(address) })
    }
}

/// One key.
#[derive(Debug)]
pub struct Server {
    pub kind: Kind,
    /// The first worker's, for all: TLS sessions are resumed by it.
    pub data: Option<Box<RawValue>>,
    /// Who has it.
    pub holders: BTreeSet<Life>,
}

#[derive(Debug)]
pub enum Kind {
    /// Lanes at this address (the real one where port 0 was asked for).
    Lanes(Address),
    /// A listener of ours; connections are handed over.
    Rotated {
        listener: OwnedFd,
        at: At,
        inode: u64,
        rotation: Rotation<Rc<OwnedFd>>,
        watched: bool,
    },
    Stream {
        socket: Rc<OwnedFd>,
        path: PathBuf,
    },
    Datagram(Rc<OwnedFd>),
}

impl Kind {
    fn remove_file(&self) {
        if let Self::Stream { path, .. } | Self::Rotated { at: At::Path(path), .. } = self {
            // Whoever has removed it was faster.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Where a listener of ours is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    Address(SocketAddr),
    Path(PathBuf),
}

/// All of them.
#[derive(Debug, Default)]
pub struct Servers(BTreeMap<String, Server>);

impl Servers {
    /// Opaque to workers. As Node 22 has it: what is asked for twice is the same, but for port 0.
    pub fn key(query: &Query) -> String {
        let address = query.address.as_deref().unwrap_or("null");
        let kind = match &query.address_type {
            Some(AddressType::Number(number)) => number.to_string(),
            Some(AddressType::Name(name)) => name.clone(),
            None => "null".to_owned(),
        };
        let port = query.port.unwrap_or(0);
        let index = if port == 0 { format!(":{}", query.index) } else { String::new() };
        let fd = query.fd.filter(|fd| *fd >= 0).map(|fd| format!(":fd{fd}")).unwrap_or_default();
        format!("{address}:{port}:{kind}:{}{index}{fd}", query.flags.unwrap_or(0))
    }

    pub fn get(&self, key: &str) -> Option<&Server> {
        self.0.get(key)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Server> {
        self.0.get_mut(key)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Server)> {
        self.0.iter_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Server)> {
        self.0.iter()
    }

    pub fn insert(&mut self, key: String, kind: Kind) -> Result<&mut Server, Errno> {
        if self.0.len() >= MOST_KEYS && !self.0.contains_key(&key) {
            return Err(Errno::ENOBUFS);
        }
        Ok(self.0.entry(key).or_insert(Server { kind, data: None, holders: BTreeSet::new() }))
    }

    /// The worker has closed this server. True: it had it.
    pub fn close(&mut self, key: &str, life: Life) -> bool {
        self.0.get_mut(key).is_some_and(|server| server.holders.remove(&life))
    }

    /// Takes out what no worker has any more.
    pub fn take_unused(&mut self, key: &str) -> Option<Kind> {
        self.0.get(key).filter(|server| server.holders.is_empty())?;
        let kind = self.0.remove(key)?.kind;
        kind.remove_file();
        Some(kind)
    }
}

/// Files that we have made go with us, as Node's own primary has it.
impl Drop for Servers {
    fn drop(&mut self) {
        for server in self.0.values() {
            server.kind.remove_file();
        }
    }
}

/// A listener for round robin.
pub fn listen(socket: OwnedFd, at: At, backlog: i32) -> io::Result<Kind> {
    SockRef::from(&socket).listen(backlog)?;
    SockRef::from(&socket).set_nonblocking(true)?;
    let inode = fstat(&socket)?.st_ino;
    Ok(Kind::Rotated { listener: socket, at, inode, rotation: Rotation::default(), watched: false })
}

/// A socket file; one that is there is EADDRINUSE, as in Node.
pub fn stream(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

pub fn datagram(address: &Address, flags: u32) -> io::Result<OwnedFd> {
    let at = address.to_socket_addr();
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip.is_ipv6() {
        socket.set_only_v6(address.v6only)?;
    }
    socket.set_reuse_address(flags & REUSE_ADDRESS != 0)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(at))?;
    Ok(socket.into())
}

/// The next connection that waits, if there is one. An error that says something of one connection is none.
pub fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    loop {
        match SockRef::from(listener).accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(true)?;
                return Ok(Some(socket.into()));
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => return Ok(None),
                Some(Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO) => {}
                Some(_) | None => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        let line = text.replacen('{', r#"{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,"#, 1);
        match crate::node::message::parse(line.as_bytes()) {
            crate::node::message::Incoming::Query { query, .. } => *query,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_place_is_what_node_would_listen_on() {
        let tcp = |ip: &str, port, v6only| Place::Tcp(Address::new(SocketAddr::new(ip.parse().expect("ip"), port), v6only));
        for (text, place) in [
            (r#"{"address":null,"port":8000,"addressType":4}"#, Some(tcp("::", 8000, false))),
            (r#"{"address":"127.0.0.1","port":8000,"addressType":4}"#, Some(tcp("127.0.0.1", 8000, false))),
            (r#"{"address":"::1","port":0,"addressType":6,"flags":1}"#, Some(tcp("::1", 0, true))),
            (r#"{"address":"/run/x.sock","port":-1,"addressType":-1}"#, Some(Place::Path("/run/x.sock".into()))),
            (r#"{"address":"somewhere","port":1,"addressType":4}"#, None),
            (r#"{"address":null,"port":70000,"addressType":4}"#, None),
            (r#"{"address":null,"port":1,"addressType":5}"#, None),
            (r#"{"port":1}"#, None),
        ] {
            assert_eq!(Place::of(&query(text)), place, "{text}");
        }
        let udp = Place::of(&query(r#"{"address":null,"port":53,"addressType":"udp4","flags":4}"#));
        assert!(matches!(udp, Some(Place::Udp(address, 4)) if address.ip.is_ipv4()), "{udp:?}");
    }

    #[test]
    fn the_same_port_is_one_server_and_port_0_is_one_for_each_call() {
        let key =
            |index, port| Servers::key(&query(&format!(r#"{{"index":{index},"address":null,"port":{port},"addressType":4}}"#)));
        assert_eq!(key(0, 8000), key(1, 8000));
        assert_ne!(key(0, 8000), key(0, 8001));
        assert_ne!(key(0, 0), key(1, 0));
    }

    #[test]
    fn a_socket_file_goes_with_us() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.sock");
        let mut servers = Servers::default();
        let socket = Rc::new(stream(&path).expect("bound"));
        servers.insert("k".to_owned(), Kind::Stream { socket, path: path.clone() }).expect("room");
        assert!(path.exists() && stream(&path).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse));
        drop(servers);
        assert!(!path.exists());
    }
}
