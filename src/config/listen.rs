//! `LISTEN` and `HEALTH_ADDR`: socket addresses as people write them. Host names are refused: PID 1 resolves nothing.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::mistakes::quoted;
use super::words::parts;
use super::{Listen, ListenAddress, number};

const ALLOWED: &str = "allowed: addresses such as 8080, [::]:8443, 127.0.0.1:80, unix:/run/app.sock or unix:@name, \
    with commas between them and name= in front where wanted";

/// `sun_path` with its NUL, in front or behind (`man 7 unix`).
const LONGEST_PATH: usize = 107;

/// The limit of systemd's own `fdname_is_valid`.
const LONGEST_NAME: usize = 255;

/// A list of addresses, each once, each with a name for `LISTEN_FDNAMES`.
pub(super) fn parse(text: &str) -> Result<Vec<Listen>, String> {
    let mut list: Vec<Listen> = Vec::new();
    for part in parts(text) {
        let listen = one(part)?;
        if list.iter().any(|other| other.address == listen.address) {
            return Err(format!("{} is the same address as one before it; allowed: each address once", quoted(part)));
        }
        list.push(listen);
    }
    Ok(list)
}

/// An address, or a port on all addresses.
pub(super) fn tcp(text: &str) -> Result<SocketAddr, String> {
    socket(text).ok_or_else(|| "allowed: an address such as [::]:9180 or 127.0.0.1:9180, a port".to_owned())
}

fn one(part: &str) -> Result<Listen, String> {
    // A `=` behind the first `:` belongs to the address (`unix:/run/a=b.sock`), because no name has a `:`.
    let (name, address) = match part.split_once('=') {
        Some((name, address)) if !name.contains(':') => (name, address),
        _ => ("unknown", part),
    };
    if !(1..=LONGEST_NAME).contains(&name.len()) || !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(format!("{} is no name; allowed: names of printable ASCII characters without :", quoted(name)));
    }
    let address = if let Some(path) = address.strip_prefix("unix:") {
        ListenAddress::Unix(unix(path)?)
    } else {
        let tcp = socket(address).ok_or_else(|| format!("{} is no address; {ALLOWED}", quoted(address)))?;
        ListenAddress::Tcp(tcp)
    };
    Ok(Listen { name: name.to_owned(), address })
}

fn socket(text: &str) -> Option<SocketAddr> {
    if !text.is_empty() && number::is_digits(text) {
        return text.parse().ok().map(|port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    text.parse().ok()
}

/// Absolute, because our working directory is `/` and not the caller's.
fn unix(path: &str) -> Result<PathBuf, String> {
    let rooted = path.strip_prefix(['/', '@']).is_some_and(|rest| !rest.is_empty());
    if !rooted || path.len() > LONGEST_PATH || path.ends_with('/') {
        return Err(format!(
            "{} is no socket path; allowed: an absolute path or @name, at most {LONGEST_PATH} bytes",
            quoted(path)
        ));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp_at(address: &str) -> ListenAddress {
        ListenAddress::Tcp(address.parse().unwrap())
    }

    fn address_of(text: &str) -> ListenAddress {
        parse(text).unwrap().remove(0).address
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        assert_eq!(address_of("8080"), tcp_at("[::]:8080"));
        assert_eq!(address_of("[::1]:8443"), tcp_at("[::1]:8443"));
        assert_eq!(address_of("0.0.0.0:80"), tcp_at("0.0.0.0:80"));
        assert_eq!(address_of("unix:/run/app.sock"), ListenAddress::Unix("/run/app.sock".into()));
        assert_eq!(address_of("unix:/run/a=b.sock"), ListenAddress::Unix("/run/a=b.sock".into()));
        assert_eq!(address_of("unix:@abstract"), ListenAddress::Unix("@abstract".into()));
        let list = parse("web=8080, unix:/run/app.sock,admin=127.0.0.1:81").unwrap();
        let names: Vec<&str> = list.iter().map(|listen| listen.name.as_str()).collect();
        assert_eq!(names, ["web", "unknown", "admin"]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for wrong in [
            "",
            ",",
            "8080,",
            "65536",
            "-1",
            "+80",
            "localhost:80",
            ":80",
            "[::]",
            "127.0.0.1",
            "1.2.3:80",
            "unix:",
            "unix:/",
            "unix:@",
            "unix:run/app.sock",
            "unix:/run/",
            "=80",
            "a:b=80",
            "a\u{7}=80",
            "é=80",
            "web=",
            "tcp://0.0.0.0:80",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&format!("unix:/{}", "a".repeat(106))).is_ok());
        assert!(parse(&format!("unix:/{}", "a".repeat(107))).is_err());
        assert!(parse(&format!("{}=80", "a".repeat(256))).is_err());
    }

    #[test]
    fn the_same_address_twice_is_refused() {
        for twice in ["8080,8080", "8080,[::]:8080", "a=80,b=80", "unix:/a,unix:/a"] {
            assert!(parse(twice).unwrap_err().contains("same address"), "{twice}");
        }
        assert_eq!(parse("web=80,web=81").unwrap().len(), 2);
    }

    #[test]
    fn the_side_port_is_an_address_or_a_port() {
        for (text, address) in [("9180", "[::]:9180"), ("[::]:9180", "[::]:9180"), ("127.0.0.1:1", "127.0.0.1:1")] {
            assert_eq!(tcp(text), Ok(address.parse().unwrap()));
        }
        for wrong in ["", "on", "localhost:9180", "unix:/run/x", "65536"] {
            assert!(tcp(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_tcp_address_reads_back(address: (std::net::IpAddr, u16)) {
            let address = SocketAddr::from(address);
            prop_assert_eq!(tcp(&address.to_string()), Ok(address));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|(unix:|[a-z]+=)?[\\[\\]0-9a-f:.,@/]*") {
            let _ = (parse(&text), tcp(&text));
        }
    }
}
