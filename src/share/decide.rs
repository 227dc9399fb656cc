//! What becomes of a `bind`: given what was read, what to do. PURE.

use std::net::IpAddr;

use crate::cluster::words::Slot;
use crate::config::SharePorts;

use super::address::Address;
use super::broker::Rules;
use super::caller::Protocol;

/// A `bind`, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub protocol: Protocol,
    /// The caller is in another network namespace.
    pub elsewhere: bool,
    /// The bytes of the `sockaddr`.
    pub name: &'a [u8],
    /// The server has set `SO_REUSEPORT`: it shares by itself.
    pub own_sharing: bool,
    pub v6only: bool,
    pub slot: Slot,
    /// `ip_unprivileged_port_start`.
    pub unprivileged_from: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    /// The kernel's; where it is TCP at a port that was asked for, with its address.
    Leave(Option<Address>),
    Share {
        address: Address,
        /// Only for those who may bind privileged ports.
        privileged: bool,
        /// Two sockets of one worker at this address are what the server wants.
        twice: bool,
    },
    /// `PORT_PER_WORKER`: port + slot is no port.
    Overflow { port: u16 },
}

pub(super) fn bind(asked: &Asked<'_>, rules: &Rules) -> Bind {
    let Some(mut address) = address(asked).filter(|address| address.port != 0 && !asked.elsewhere) else {
        return Bind::Leave(None);
    };
    match port(address.port, asked.slot, rules) {
        Port::Own(port) => address.port = port,
        Port::Overflow => return Bind::Overflow { port: address.port },
        Port::Shared if !asked.own_sharing => {}
        Port::Shared | Port::Left => return Bind::Leave(Some(address)),
    }
    Bind::Share { address, privileged: address.port < asked.unprivileged_from, twice: asked.own_sharing }
}

/// What the rules say of a port.
pub(super) enum Port {
    Shared,
    /// `PORT_PER_WORKER`: this slot's.
    Own(u16),
    /// The kernel's.
    Left,
    /// `PORT_PER_WORKER`: port + slot is no port.
    Overflow,
}

pub(super) fn port(port: u16, slot: Slot, rules: &Rules) -> Port {
    if rules.per_worker.contains(&port) {
        return u16::try_from(u32::from(port).saturating_add(slot.0)).map_or(Port::Overflow, Port::Own);
    }
    if is_shared(&rules.ports, port) { Port::Shared } else { Port::Left }
}

fn is_shared(ports: &SharePorts, port: u16) -> bool {
    match ports {
        SharePorts::All => true,
        SharePorts::AllBut(ports) => !ports.contains(&port),
        SharePorts::Only(ports) => ports.contains(&port),
    }
}

/// `None` also for a family that does not fit the socket: the kernel has an error for it.
fn address(asked: &Asked<'_>) -> Option<Address> {
    let address = Address::parse(asked.name, asked.v6only)?;
    let fits = match address.ip {
        IpAddr::V4(_) => asked.protocol == Protocol::Tcp,
        IpAddr::V6(_) => asked.protocol == Protocol::Tcp6,
    };
    fits.then_some(address)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn v4(ip: [u8; 4], port: u16) -> Vec<u8> {
        let family = u16::try_from(libc::AF_INET).unwrap().to_ne_bytes();
        [&family[..], &port.to_be_bytes(), &ip, &[0; 8]].concat()
    }

    fn v6(ip: &str, port: u16) -> Vec<u8> {
        let family = u16::try_from(libc::AF_INET6).unwrap().to_ne_bytes();
        let ip: Ipv6Addr = ip.parse().unwrap();
        [&family[..], &port.to_be_bytes(), &[9; 4], &ip.octets(), &[0; 4]].concat()
    }

    fn asked(protocol: Protocol, name: &[u8]) -> Asked<'_> {
        Asked { protocol, elsewhere: false, name, own_sharing: false, v6only: false, slot: Slot(3), unprivileged_from: 1024 }
    }

    fn rules(ports: SharePorts, per_worker: &[u16]) -> Rules {
        Rules { ports, per_worker: per_worker.to_vec() }
    }

    fn at(ip: &str, port: u16) -> Address {
        Address { ip: ip.parse().unwrap(), port, scope: 0, v6only: false }
    }

    fn shared(address: Address) -> Bind {
        Bind::Share { address, privileged: false, twice: false }
    }

    #[test]
    fn an_address_is_the_socket_s_with_its_family_and_v6only() {
        let all = rules(SharePorts::All, &[]);
        let name = v6("::", 8080);
        assert_eq!(bind(&asked(Protocol::Tcp6, &name), &all), shared(at("::", 8080)));
        let only = Asked { v6only: true, ..asked(Protocol::Tcp6, &name) };
        assert_eq!(bind(&only, &all), shared(Address { v6only: true, ..at("::", 8080) }));
        let name = v4([0; 4], 8080);
        let only = Asked { v6only: true, ..asked(Protocol::Tcp, &name) };
        assert_eq!(bind(&only, &all), shared(at("0.0.0.0", 8080)));
    }

    #[test]
    fn what_is_not_tcp_at_a_port_of_its_choice_is_the_kernel_s() {
        let all = rules(SharePorts::All, &[9100]);
        let (name4, name6) = (v4([127, 0, 0, 1], 8080), v6("::1", 8080));
        let any_port = v4([0; 4], 0);
        for left in [
            asked(Protocol::Other, &name4),
            asked(Protocol::Tcp6, &name4),
            asked(Protocol::Tcp, &name6),
            asked(Protocol::Tcp, &any_port),
            asked(Protocol::Tcp, &name4[..15]),
            asked(Protocol::Tcp6, &name6[..23]),
            asked(Protocol::Tcp, &[]),
            Asked { elsewhere: true, ..asked(Protocol::Tcp, &name4) },
        ] {
            assert_eq!(bind(&left, &all), Bind::Leave(None), "{left:?}");
        }
    }

    #[test]
    fn ports_follow_the_rules() {
        let name = v4([0; 4], 8080);
        let (tcp, left) = (asked(Protocol::Tcp, &name), Bind::Leave(Some(at("0.0.0.0", 8080))));
        let own = Asked { own_sharing: true, ..tcp };
        let table = [
            (tcp, rules(SharePorts::Only(vec![8080]), &[]), shared(at("0.0.0.0", 8080))),
            (tcp, rules(SharePorts::Only(vec![80]), &[]), left),
            (tcp, rules(SharePorts::AllBut(vec![8080]), &[]), left),
            (tcp, rules(SharePorts::AllBut(vec![80]), &[]), shared(at("0.0.0.0", 8080))),
            (own, rules(SharePorts::All, &[]), left),
            (tcp, rules(SharePorts::Only(vec![]), &[8080]), shared(at("0.0.0.0", 8083))),
            (own, rules(SharePorts::All, &[8080]), Bind::Share { address: at("0.0.0.0", 8083), privileged: false, twice: true }),
            (Asked { slot: Slot(u32::MAX), ..tcp }, rules(SharePorts::All, &[8080]), Bind::Overflow { port: 8080 }),
            (Asked { slot: Slot(65_535 - 8080), ..tcp }, rules(SharePorts::All, &[8080]), shared(at("0.0.0.0", 65_535))),
            (Asked { slot: Slot(65_536 - 8080), ..tcp }, rules(SharePorts::All, &[8080]), Bind::Overflow { port: 8080 }),
            (
                Asked { unprivileged_from: 8081, ..tcp },
                rules(SharePorts::All, &[]),
                Bind::Share { address: at("0.0.0.0", 8080), privileged: true, twice: false },
            ),
            (Asked { unprivileged_from: 8080, ..tcp }, rules(SharePorts::All, &[]), shared(at("0.0.0.0", 8080))),
            (Asked { unprivileged_from: 8081, ..tcp }, rules(SharePorts::All, &[8080]), shared(at("0.0.0.0", 8083))),
        ];
        for (asked, rules, expected) in table {
            assert_eq!(bind(&asked, &rules), expected, "{asked:?} {rules:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(name in proptest::collection::vec(any::<u8>(), 0..130), slot in any::<u32>(), tcp6 in any::<bool>()) {
            let protocol = if tcp6 { Protocol::Tcp6 } else { Protocol::Tcp };
            let asked = Asked { slot: Slot(slot), ..asked(protocol, &name) };
            let _ = bind(&asked, &rules(SharePorts::All, &[8080]));
        }
    }
}
