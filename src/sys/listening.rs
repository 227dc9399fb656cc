//! Whether any of some processes has a listening TCP socket: `/proc/net/tcp` says which sockets listen, `/proc/PID/fd` whose they are.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};

use super::open_sockets::OpenSockets;
use crate::cluster::words::Pid;

/// State 0A of `/proc/net/tcp` (`man 5 proc`): LISTEN.
const LISTEN: &str = "0A";
const MOST_LISTENERS: usize = 4096;

/// True also where a process may not be looked into: then a drain delay is the safe answer.
pub fn any_listens(pids: impl Iterator<Item = Pid>) -> bool {
    let listening: HashSet<u64> = listeners().map(|(_, inode)| inode).collect();
    !listening.is_empty() && pids.into_iter().any(|pid| holds_any(pid, &listening))
}

/// Port and inode of each socket that listens. The kernel lists them before all connections, and those are not read: with 60,000 of them
/// in `TIME_WAIT` that would take seconds.
pub fn listeners() -> impl Iterator<Item = (u16, u64)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|table| File::open(table).ok());
    tables.flat_map(|table| listed_first(BufReader::new(table)))
}

fn listed_first(table: impl BufRead) -> impl Iterator<Item = (u16, u64)> {
    let lines = table.lines().skip(1).take(MOST_LISTENERS).map_while(Result::ok);
    lines.map_while(|line| parse_listener(&line))
}

/// Port and inode of a line of `/proc/net/tcp`; `None` for a socket that does not listen.
fn parse_listener(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    (fields.nth(1)? == LISTEN).then_some(())?;
    Some((u16::from_str_radix(port, 16).ok()?, fields.nth(5)?.parse().ok()?))
}

fn holds_any(pid: Pid, listening: &HashSet<u64>) -> bool {
    let Some(mut look) = OpenSockets::of(pid) else { return true };
    let mut sockets = Vec::new();
    while look.read_more(&mut sockets) {}
    sockets.iter().any(|(_, inode)| listening.contains(inode))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn our_own_listener_is_seen() {
        let me = Pid(i32::try_from(std::process::id()).expect("pids fit"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        assert!(any_listens([me].into_iter()));
        assert!(!any_listens(std::iter::empty()));
        assert!(!any_listens([Pid(i32::MAX)].into_iter()), "a process that has gone");
        drop(listener);
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
            1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        assert_eq!(listed_first(table.as_bytes()).collect::<Vec<_>>(), [(8080, 4711)]);
        assert_eq!(listed_first(&b""[..]).count(), 0);
    }

    #[test]
    fn only_lines_of_listeners_are_read() {
        let line = |state: &str| {
            format!("   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 0")
        };
        assert_eq!(parse_listener(&line("0A")), Some((8080, 4711)));
        assert_eq!(parse_listener(&line("01")), None);
        assert_eq!(parse_listener(""), None);
    }
}
