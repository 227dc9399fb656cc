//! Lists of ports: `SHARE_PORTS` and `PORT_PER_WORKER`.

use super::SharePorts;
use super::mistakes::quoted;
use super::number;
use super::words::parts;

const ALLOWED: &str = "allowed: ports from 1 to 65535 such as 8080,8443, each once";

/// Ports, each once.
pub(super) fn list(text: &str) -> Result<Vec<u16>, String> {
    collect(parts(text))
}

/// `all`, `8080,8443`, or `all,-5701`.
pub(super) fn shared(text: &str) -> Result<SharePorts, String> {
    let mut rest = parts(text).peekable();
    if rest.next_if_eq(&"all").is_none() {
        return list(text).map(SharePorts::Only).map_err(|why| or_all(&why));
    }
    let without: Option<Vec<&str>> = rest.map(|part| part.strip_prefix('-')).collect();
    match without {
        None => Err(or_all(&format!("behind all there are only ports to leave out; {ALLOWED}"))),
        Some(none) if none.is_empty() => Ok(SharePorts::All),
        Some(some) => collect(some).map(SharePorts::AllBut).map_err(|why| or_all(&why)),
    }
}

/// Why these ports cannot become port + slot in each of so many workers.
pub(super) fn crowded(ports: &[u16], workers: u32) -> Option<String> {
    let mut sorted: Vec<u32> = ports.iter().copied().map(u32::from).collect();
    sorted.sort_unstable();
    let close = sorted.windows(2).find_map(|pair| match pair {
        [one, next] if next - one < workers => Some((*one, *next)),
        _ => None,
    });
    if let Some((one, next)) = close {
        return Some(format!("{workers} workers from {one} on reach {next}; allowed: ports at least {workers} apart"));
    }
    let last = sorted.last().map(|last| last + workers - 1).filter(|last| *last > u32::from(u16::MAX))?;
    Some(format!("{workers} workers would need ports up to {last}; allowed: port + workers - 1 up to 65535"))
}

fn or_all(why: &str) -> String {
    format!("{why}, or all, or all but some: all,-5701")
}

fn collect<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in texts {
        let text = text.as_ref();
        let port = port(text).ok_or_else(|| format!("{} is no port; {ALLOWED}", quoted(text)))?;
        if ports.contains(&port) {
            return Err(format!("port {port} stands there twice; {ALLOWED}"));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0 && number::is_digits(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_a_list_without_repetition() {
        assert_eq!(list("8080"), Ok(vec![8080]));
        assert_eq!(list("8080, 8443"), Ok(vec![8080, 8443]));
        for wrong in ["", "0", "65536", "-1", "+80", "80,", ",80", "80 81", "80,80", "http", "all"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shared_ports_are_all_some_or_all_but_some() {
        assert_eq!(shared("all"), Ok(SharePorts::All));
        assert_eq!(shared("8080,8443"), Ok(SharePorts::Only(vec![8080, 8443])));
        assert_eq!(shared("all,-5701"), Ok(SharePorts::AllBut(vec![5701])));
        for wrong in ["", "ALL", "none", "-5701", "8080,-5701", "all,5701", "all,", "all,-", "all,-0", "all,--1", "8080,all"] {
            assert!(shared(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_of_workers_stay_apart_and_in_range() {
        assert_eq!(crowded(&[9100, 9200], 100), None);
        assert_eq!(crowded(&[65534], 2), None);
        assert!(crowded(&[65534], 3).unwrap().contains("65536"));
        assert!(crowded(&[9200, 9100], 101).unwrap().contains("from 9100 on reach 9200"));
        assert_eq!(crowded(&[], 4096), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|(all)?[-,0-9 ]*") {
            let _ = (list(&text), shared(&text));
        }
    }
}
