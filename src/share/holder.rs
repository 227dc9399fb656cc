//! Who has a port that a worker could not get, for a line in the log: as far as `/proc` tells, and not further than a few milliseconds.

use std::fmt;
use std::fs;

use crate::cluster::words::Pid;
use crate::sys::listening::listeners;
use crate::sys::open_sockets::socket_inode;
use crate::sys::procfs;

use super::caller::status;

const MOST_PROCESSES: usize = 1024;
const MOST_DESCRIPTORS: usize = 8192;

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub pid: Pid,
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name.escape_default())
    }
}

/// `None`: it does not listen, lives in another container, or may not be looked into.
pub(super) fn of(port: u16) -> Option<Holder> {
    let inodes: Vec<u64> = listeners().filter(|(found, _)| *found == port).map(|(_, inode)| inode).collect();
    if inodes.is_empty() {
        return None;
    }
    let mut left = MOST_DESCRIPTORS;
    let pid = procfs::all()?.take(MOST_PROCESSES).find(|pid| has_any(*pid, &inodes, &mut left))?;
    Some(Holder { pid, name: status(pid)?.name })
}

fn has_any(pid: Pid, inodes: &[u64], left: &mut usize) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut links = descriptors.filter_map(Result::ok).map(|entry| entry.path()).take_while(|_| {
        *left = left.saturating_sub(1);
        *left > 0
    });
    links.any(|link| socket_inode(&link).is_ok_and(|inode| inode.is_some_and(|inode| inodes.contains(&inode))))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_that_listens_is_named() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("bound");
            let port = listener.local_addr().expect("bound").port();
            let holder = of(port).expect("it is us");
            assert_eq!(holder.pid.0.cast_unsigned(), std::process::id());
            assert!(holder.to_string().starts_with(&format!("process {} (", holder.pid)), "{holder}");
        }
        assert_eq!(of(0), None);
    }
}
