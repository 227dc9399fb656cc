//! Socket addresses as workers name them: the bytes of a `bind`, read as the kernel reads them. PURE.
//!
//! What cannot be read here is `None`: the kernel gets the call as it was and says itself what is wrong with it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// What a listening TCP socket is bound to. Two workers share where all of this is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub ip: IpAddr,
    pub port: u16,
    /// `sin6_scope_id`; 0 for IPv4, and for all but link-local addresses, where the kernel does not look at it.
    pub scope: u32,
    /// `IPV6_V6ONLY`; false for IPv4.
    pub v6only: bool,
}

/// `sizeof(struct sockaddr_in)`.
const SHORTEST_V4: usize = 16;
/// `SIN6_LEN_RFC2133`: without the scope, which came later.
const SHORTEST_V6: usize = 24;
/// `sizeof(struct sockaddr_storage)`: the kernel takes no more, and whatever stands behind the address does not count.
const LONGEST: usize = 128;

impl Address {
    /// From a `sockaddr_in` or `sockaddr_in6`. `v6only` is the socket's `IPV6_V6ONLY` and means nothing for IPv4.
    ///
    /// `None`: another family, a length that the kernel does not take, an IPv4-mapped address on a socket for IPv6 only or a
    /// link-local one without a scope (both are `EINVAL` in `bind`, or need an option that is not seen here).
    pub fn parse(sockaddr: &[u8], v6only: bool) -> Option<Self> {
        if sockaddr.len() > LONGEST {
            return None;
        }
        let family = i32::from(u16::from_ne_bytes(bytes(sockaddr, 0)?));
        let port = u16::from_be_bytes(bytes(sockaddr, 2)?);
        match family {
            libc::AF_INET if sockaddr.len() >= SHORTEST_V4 => {
                Some(Self { ip: Ipv4Addr::from(bytes::<4>(sockaddr, 4)?).into(), port, scope: 0, v6only: false })
            }
            libc::AF_INET6 if sockaddr.len() >= SHORTEST_V6 => {
                let ip = Ipv6Addr::from(bytes::<16>(sockaddr, 8)?);
                let scope = match bytes(sockaddr, 24).map(u32::from_ne_bytes) {
                    _ if !ip.is_unicast_link_local() => 0,
                    None | Some(0) => return None,
                    Some(scope) => scope,
                };
                let possible = !v6only || ip.to_ipv4_mapped().is_none();
                possible.then_some(Self { ip: ip.into(), port, scope, v6only })
            }
            _ => None,
        }
    }

    /// An IPv4-mapped address is one of IPv6: its sockets have that family.
    pub fn to_socket_addr(&self) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => SocketAddrV4::new(ip, self.port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
        }
    }

    /// As `to_socket_addr`, the other way round.
    pub fn new(address: SocketAddr, v6only: bool) -> Self {
        match address {
            SocketAddr::V4(address) => Self { ip: (*address.ip()).into(), port: address.port(), scope: 0, v6only: false },
            SocketAddr::V6(address) => {
                let scope = if address.ip().is_unicast_link_local() { address.scope_id() } else { 0 };
                Self { ip: (*address.ip()).into(), port: address.port(), scope, v6only }
            }
        }
    }
}

/// `0.0.0.0:8080`, `[::]:8443`, `[fe80::1%2]:80`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_socket_addr().fmt(f)
    }
}

fn bytes<const N: usize>(all: &[u8], from: usize) -> Option<[u8; N]> {
    all.get(from..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(address: SocketAddr) -> Vec<u8> {
        let mut raw = Vec::new();
        match address {
            SocketAddr::V4(address) => {
                raw.extend(2_u16.to_ne_bytes());
                raw.extend(address.port().to_be_bytes());
                raw.extend(address.ip().octets());
                raw.extend([0; 8]);
            }
            SocketAddr::V6(address) => {
                raw.extend(10_u16.to_ne_bytes());
                raw.extend(address.port().to_be_bytes());
                raw.extend(address.flowinfo().to_ne_bytes());
                raw.extend(address.ip().octets());
                raw.extend(address.scope_id().to_ne_bytes());
            }
        }
        raw
    }

    fn read(address: &str, v6only: bool) -> Option<Address> {
        Address::parse(&raw(address.parse().expect("an address")), v6only)
    }

    #[test]
    fn addresses_read_as_people_write_them() {
        for text in ["0.0.0.0:8080", "127.0.0.1:1", "[::]:8443", "[::1]:65535", "[fe80::1%2]:80", "[::ffff:10.0.0.1]:80"] {
            assert_eq!(read(text, false).expect(text).to_string(), text);
        }
        assert_eq!(read("[::]:80", true).expect("v6 only").to_string(), "[::]:80");
        assert_ne!(read("[::]:80", true), read("[::]:80", false), "two addresses: only one of them takes IPv4");
        assert_eq!(read("0.0.0.0:80", true), read("0.0.0.0:80", false), "the option is not IPv4's");
    }

    #[test]
    fn what_the_kernel_does_not_look_at_makes_no_other_address() {
        assert_eq!(read("[2001:db8::1%3]:80", false), read("[2001:db8::1]:80", false), "a scope is for link-local addresses");
        assert_ne!(read("[fe80::1%3]:80", false), read("[fe80::1%4]:80", false));
        let mut flow = raw("[::1]:80".parse().expect("an address"));
        flow[4..8].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(Address::parse(&flow, false), read("[::1]:80", false));
        let mut storage = raw("127.0.0.1:80".parse().expect("an address"));
        storage.resize(128, 0xa5);
        assert_eq!(Address::parse(&storage, false), read("127.0.0.1:80", false), "many pass a whole sockaddr_storage");
    }

    #[test]
    fn what_bind_refuses_is_left_to_bind() {
        assert_eq!(read("[::ffff:10.0.0.1]:80", true), None);
        assert_eq!(read("[fe80::1]:80", false), None);
        let v4 = raw("127.0.0.1:80".parse().expect("an address"));
        let v6 = raw("[::1]:80".parse().expect("an address"));
        assert_eq!(Address::parse(&v4[..15], false), None);
        assert_eq!(Address::parse(&v6[..23], false), None);
        assert!(Address::parse(&v6[..24], false).is_some(), "RFC 2133 knew no scope");
        assert_eq!(Address::parse(&raw("[fe80::1%2]:80".parse().expect("an address"))[..24], false), None);
        let mut long = v4.clone();
        long.resize(129, 0);
        assert_eq!(Address::parse(&long, false), None);
        for family in [0_u16, 1, 16, 17] {
            let mut other = v4.clone();
            other[..2].copy_from_slice(&family.to_ne_bytes());
            assert_eq!(Address::parse(&other, false), None, "family {family}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), v6only: bool) {
            let _ = Address::parse(&bytes, v6only);
        }

        #[test]
        fn every_address_comes_back(ip: [u8; 16], four: bool, port: u16, scope in 1_u32.., v6only: bool) {
            let ip = if four { IpAddr::from([ip[0], ip[1], ip[2], ip[3]]) } else { IpAddr::from(ip) };
            let address = match ip {
                IpAddr::V4(ip) => SocketAddr::from((ip, port)),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
            };
            let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
            let read = Address::parse(&raw(address), v6only);
            prop_assert_eq!(read.is_none(), mapped && v6only);
            if let Some(read) = read {
                prop_assert_eq!(read, Address::new(address, v6only));
                prop_assert_eq!(Address::new(read.to_socket_addr(), v6only), read);
                prop_assert_eq!(read.to_string().parse::<SocketAddr>().expect("reads back"), read.to_socket_addr());
            }
        }
    }
}
