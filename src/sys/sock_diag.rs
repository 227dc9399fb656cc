//! TCP sockets with their counters, as the kernel lists them (`man 7 sock_diag`): all on a local port, in parts; or a few by name.
//!
//! The kernel walks its whole table of connections for a list, however short: 0.3 to 2 ms on a table of 262,144 places, then 1 µs for
//! each that is found. One that is known is asked for by its name in 3 µs. Neither needs a privilege, nor waits for anything.
//!
//! The parser is ours: `netlink-packet-sock-diag` 0.5 takes 0.5 µs for each socket, where the kernel takes 1 and this 0.01 (a worker may
//! be frozen meanwhile), refuses the counters of a kernel that knows fewer of them, and brings four crates along for ten numbers.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `enum` of `net/tcp_states.h`, as far as it matters here.
pub const ESTABLISHED: u8 = 1;
/// The peer has said that it will send no more; an answer may still be under way to it.
pub const CLOSE_WAIT: u8 = 8;
pub const LISTEN: u8 = 10;

/// No filter.
pub const ANY_PORT: u16 = 0;

/// For more ports than this one list for all is cheaper.
const WORTH_ALL_PORTS: usize = 2;

/// What one read may bring: the kernel never sends more at once.
const LARGEST_PART: usize = 32 * 1024;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// `INET_DIAG_INFO`.
const INFO: u16 = 2;

/// Address family: an IPv4 client of a dual-stack listener is listed under IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// What names one socket for ever: both addresses and the kernel's cookie (`struct inet_diag_sockid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    family: u8,
    id: [u8; 48],
}

/// One TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub name: Name,
    /// 0: no descriptor; it waits in an accept queue, or was closed.
    pub inode: u64,
    /// The local one.
    pub port: u16,
    /// [`ESTABLISHED`] and so on.
    pub state: u8,
    /// Bytes that were not read; of a listener, connections that wait to be accepted.
    pub unread: u32,
    /// Of a listener, how many may wait.
    pub limit: u32,
    pub counters: Counters,
}

/// From `struct tcp_info`. What the kernel does not tell is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Segments that the peer has not acknowledged.
    pub unacked: u32,
    pub received: u64,
    /// Retransmissions too.
    pub sent: u64,
    pub retransmitted: u64,
    /// Written and not sent.
    pub not_sent: u32,
    /// Milliseconds since then, with the grain of the kernel's timer (1 to 10 ms).
    pub since_data_sent: u32,
    pub since_data_received: u32,
    pub since_ack_received: u32,
}

/// The kernel's ear for such questions.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
    /// Of the last request: answers to an older one are not for us.
    sequence: u32,
    /// A list was begun and not read to its end: the kernel refuses another one on this socket.
    listing: bool,
    buffer: Vec<u8>,
}

impl Diag {
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkSockDiag)?;
        Ok(Self { socket, sequence: 0, listing: false, buffer: vec![0; LARGEST_PART] })
    }

    /// Begins a list of the sockets in these states on a local port; [`Diag::read_more`] brings it. A list that was not read to its
    /// end is dropped.
    pub fn list(&mut self, family: Family, port: u16, states: &[u8]) -> io::Result<()> {
        let mut id = [0; 48];
        if let Some(place) = id.first_chunk_mut() {
            *place = port.to_be_bytes();
        }
        let states = states.iter().fold(0, |mask, state| mask | 1u32 << state);
        if self.listing {
            *self = Self::open()?;
        }
        self.listing = true;
        Ok(self.request(DUMP, &Name { family: family.number(), id }, states)?)
    }

    /// Adds the next part of the list: some 75 sockets, in 0.1 ms. False: that was the last.
    pub fn read_more(&mut self, found: &mut Vec<Tcp>) -> io::Result<bool> {
        let length = self.receive()?;
        let bytes = self.buffer.get(..length).unwrap_or_default();
        for (kind, sequence, body) in messages(bytes) {
            if sequence != self.sequence {
                continue;
            }
            match kind {
                SOCK_DIAG_BY_FAMILY => found.extend(parse(body)),
                NLMSG_DONE => {
                    self.listing = false;
                    return Ok(false);
                }
                NLMSG_ERROR => return Err(refusal(body)),
                _ => {}
            }
        }
        Ok(true)
    }

    /// One socket as it is now; `None` if it has gone.
    pub fn ask(&mut self, name: &Name) -> io::Result<Option<Tcp>> {
        self.request(0, name, u32::MAX)?;
        // An answer to something older may lie in front of it.
        loop {
            let length = self.receive()?;
            let bytes = self.buffer.get(..length).unwrap_or_default();
            let Some((kind, _, body)) = messages(bytes).find(|(_, sequence, _)| *sequence == self.sequence) else { continue };
            if kind != NLMSG_ERROR {
                return Ok(parse(body));
            }
            let error = refusal(body);
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::ESTALE) => Ok(None),
                _ => Err(error),
            };
        }
    }

    /// What has to be listed to find every connection of these listeners (inode and port of each). The list of listeners itself is
    /// short (0.02 ms), and may spare the walk for a family.
    pub fn lists(&mut self, listeners: &[(u64, u16)]) -> io::Result<Vec<(Family, u16)>> {
        let mut family_of = HashMap::new();
        for family in Family::BOTH {
            let mut found = Vec::new();
            self.list(family, ANY_PORT, &[LISTEN])?;
            while self.read_more(&mut found)? {}
            family_of.extend(found.iter().map(|tcp| (tcp.inode, family)));
        }
        let mut lists = Vec::new();
        for family in Family::BOTH {
            // One that was closed meanwhile may have left connections of either family.
            let of_family = listeners.iter().filter(|(inode, _)| family_of.get(inode).is_none_or(|known| *known == family));
            let ports: BTreeSet<u16> = of_family.map(|(_, port)| *port).collect();
            if ports.len() > WORTH_ALL_PORTS {
                lists.push((family, ANY_PORT));
            } else {
                lists.extend(ports.into_iter().map(|port| (family, port)));
            }
        }
        Ok(lists)
    }

    fn request(&mut self, flags: u16, name: &Name, states: u32) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or(6);
        let mut bytes = Vec::with_capacity(HEADER + 56);
        bytes.extend((u32::try_from(HEADER + 56).unwrap_or(0)).to_ne_bytes());
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend([name.family, protocol, 1 << (INFO - 1), 0]);
        bytes.extend(states.to_ne_bytes());
        bytes.extend(name.id);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).map(|_| ())
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => return Ok(received?),
            }
        }
    }
}

/// Type, sequence number and body of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = bytes.get(..length)?;
        let body = message.get(HEADER..)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((u16_at(message, 4)?, u32_at(message, 8)?, body))
    })
}

fn parse(body: &[u8]) -> Option<Tcp> {
    let name = Name { family: *body.first()?, id: *body.get(4..)?.first_chunk()? };
    let mut attributes = body.get(MESSAGE..)?;
    let mut counters = Counters::default();
    while let Some(length) = u16_at(attributes, 0).map(usize::from).filter(|length| *length >= 4) {
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? == INFO {
            counters = parse_counters(value);
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Some(Tcp {
        name,
        inode: u32_at(body, 68)?.into(),
        port: u16::from_be_bytes(*name.id.first_chunk()?),
        state: *body.get(1)?,
        unread: u32_at(body, 56)?,
        limit: u32_at(body, 60)?,
        counters,
    })
}

fn parse_counters(info: &[u8]) -> Counters {
    let number = |at| u32_at(info, at).unwrap_or(0);
    let long = |at| u64_at(info, at).unwrap_or(0);
    Counters {
        unacked: number(24),
        received: long(128),
        sent: long(200),
        retransmitted: long(208),
        not_sent: number(144),
        since_data_sent: number(44),
        since_data_received: number(52),
        since_ack_received: number(56),
    }
}

/// `NLMSG_ERROR` begins with a negative errno.
fn refusal(body: &[u8]) -> io::Error {
    let errno = u32_at(body, 0).map_or(libc::EPROTO, |bits| -bits.cast_signed());
    io::Error::from_raw_os_error(errno)
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    fn listed(family: Family, port: u16, states: &[u8]) -> Vec<Tcp> {
        let mut diag = Diag::open().expect("sock_diag");
        diag.list(family, port, states).expect("a list");
        let mut found = Vec::new();
        while diag.read_more(&mut found).expect("a part") {}
        found
    }

    fn inode(socket: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("open");
        link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).expect("a socket")
    }

    #[test]
    fn a_listener_shows_its_queue_and_what_waits_has_no_inode() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connected")).collect();
        let [seen] = listed(Family::V4, port, &[LISTEN])[..] else { panic!("one listener") };
        assert_eq!((seen.inode, seen.port, seen.state, seen.unread), (inode(&listener), port, LISTEN, 3));
        assert!(seen.limit >= 128, "{seen:?}");
        let waiting = listed(Family::V4, port, &[ESTABLISHED]);
        assert_eq!(waiting.len(), 3, "not their clients, whose local port is another one");
        assert!(waiting.iter().all(|one| one.inode == 0));
        let (accepted, _) = listener.accept().expect("one waits");
        let seen: Vec<u64> =
            listed(Family::V4, port, &[ESTABLISHED]).iter().map(|one| one.inode).filter(|one| *one > 0).collect();
        assert_eq!(seen, [inode(&accepted)]);
        assert!(listed(Family::V6, port, &[LISTEN, ESTABLISHED]).is_empty());
        drop(clients);
    }

    #[test]
    fn a_client_of_ipv4_on_a_dual_stack_listener_is_listed_under_ipv6() {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
        let (accepted, _) = listener.accept().expect("one waits");
        client.write_all(b"hello").expect("sent");
        assert!(listed(Family::V4, port, &[ESTABLISHED]).is_empty());
        let [seen] = listed(Family::V6, port, &[ESTABLISHED])[..] else { panic!("one connection") };
        assert_eq!((seen.inode, seen.unread, seen.counters.received), (inode(&accepted), 5, 5));
        let again = Diag::open().expect("sock_diag").ask(&seen.name).expect("asked");
        assert_eq!(again.map(|one| (one.name, one.inode, one.unread)), Some((seen.name, seen.inode, 5)), "by name");
    }

    #[test]
    fn counters_follow_what_is_read_and_written() {
        let listener = TcpListener::bind("[::1]:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).expect("connected");
        let (mut accepted, _) = listener.accept().expect("one waits");
        let [seen] = listed(Family::V6, address.port(), &[ESTABLISHED])[..] else { panic!("one connection") };
        let mut diag = Diag::open().expect("sock_diag");
        client.write_all(&[1; 100]).expect("sent");
        accepted.read_exact(&mut [0; 40]).expect("40 of them");
        accepted.write_all(&[2; 7]).expect("sent");
        let now = diag.ask(&seen.name).expect("asked").expect("it is there");
        assert_eq!((now.unread, now.counters.received, now.counters.sent), (60, 100, 7));
        drop(client);
        let closing = diag.ask(&seen.name).expect("asked");
        assert!(closing.is_none_or(|one| one.state != ESTABLISHED), "{closing:?}");
        drop(accepted);
        assert_eq!(diag.ask(&seen.name).expect("asked"), None);
    }

    #[test]
    fn a_long_list_comes_in_parts_and_one_that_is_not_read_does_no_harm() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let pairs: Vec<_> =
            (0..200).map(|_| (TcpStream::connect(address).expect("connected"), listener.accept().expect("one waits"))).collect();
        let mut diag = Diag::open().expect("sock_diag");
        let mut found = Vec::new();
        diag.list(Family::V4, address.port(), &[ESTABLISHED]).expect("a list");
        assert!(diag.read_more(&mut found).expect("a part") && found.len() < 200, "{}", found.len());
        diag.list(Family::V4, address.port(), &[LISTEN]).expect("another list");
        found.clear();
        while diag.read_more(&mut found).expect("a part") {}
        assert_eq!(found.len(), 1);
        diag.list(Family::V4, address.port(), &[ESTABLISHED]).expect("a list");
        found.clear();
        while diag.read_more(&mut found).expect("a part") {}
        assert_eq!(found.len(), pairs.len());
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..400), length in 0u32..400) {
            let mut bytes = bytes;
            if let Some(place) = bytes.first_chunk_mut() {
                *place = length.to_ne_bytes();
            }
            prop_assert!(messages(&bytes).count() <= bytes.len());
            let _ = parse(&bytes);
        }
    }
}
