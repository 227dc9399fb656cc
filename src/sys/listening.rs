//! Whether any of some processes has a listening TCP socket: `/proc/net/tcp` says which sockets listen, `/proc/PID/fd` whose they are.

use std::collections::HashSet;
use std::fs;

use crate::cluster::words::Pid;

/// State 0A of `/proc/net/tcp` (`man 5 proc`): LISTEN.
const LISTEN: &str = "0A";

/// True also where a process may not be looked into: then a drain delay is the safe answer.
pub fn any_listens(pids: impl Iterator<Item = Pid>) -> bool {
    let listening: HashSet<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|table| listening_inodes(&table).collect::<Vec<_>>())
        .collect();
    !listening.is_empty() && pids.into_iter().any(|pid| holds_any(pid, &listening))
}

fn listening_inodes(table: &str) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let state = fields.nth(3)?;
        (state == LISTEN).then(|| fields.nth(5)?.parse().ok())?
    })
}

fn holds_any(pid: Pid, listening: &HashSet<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return true };
    descriptors.filter_map(Result::ok).filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| {
        let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode| listening.contains(&inode))
    })
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
        drop(listener);
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
            1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        assert_eq!(listening_inodes(table).collect::<Vec<_>>(), [4711]);
        assert_eq!(listening_inodes("").count(), 0);
    }
}
