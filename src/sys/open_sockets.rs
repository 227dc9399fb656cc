//! Which sockets a process has open (`/proc/PID/fd`), read in parts: there may be ten thousand.

use std::fs::{self, ReadDir};
use std::io;
use std::iter::Peekable;
use std::os::fd::RawFd;
use std::path::Path;

use super::procfs;
use crate::cluster::words::Pid;

/// Links that are read before others get a turn: about half a millisecond.
const PART: usize = 256;

/// One look at the descriptors of one process.
#[derive(Debug)]
pub struct OpenSockets {
    /// `None`: the process has gone.
    descriptors: Option<Peekable<ReadDir>>,
}

impl OpenSockets {
    /// `None` where it may not be looked into: it has another uid, and we lack `CAP_SYS_PTRACE`. Root's `CAP_DAC_OVERRIDE` is enough to
    /// list the descriptors, and not to follow one of them (`man 5 proc_pid_fd`).
    pub fn of(pid: Pid) -> Option<Self> {
        match fs::read_dir(procfs::root()?.join(format!("{pid}/fd"))) {
            Ok(descriptors) => {
                let mut descriptors = descriptors.peekable();
                let first = descriptors.peek().and_then(|entry| fs::read_link(entry.as_ref().ok()?.path()).err());
                let forbidden = first.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
                (!forbidden).then_some(Self { descriptors: Some(descriptors) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Self { descriptors: None }),
            Err(_) => None,
        }
    }

    /// Adds the next part to `found`: descriptor and inode. False: that was the last.
    pub fn read_more(&mut self, found: &mut Vec<(RawFd, u64)>) -> bool {
        let Some(descriptors) = &mut self.descriptors else { return false };
        let mut read = 0;
        for entry in descriptors.by_ref().take(PART).map_while(Result::ok) {
            read += 1;
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            found.extend(socket_inode(&entry.path()).ok().flatten().map(|inode| (number, inode)));
        }
        read == PART
    }
}

/// The inode of the socket that this link in `/proc/PID/fd` stands for (`socket:[4711]`); `None` for anything else.
pub fn socket_inode(link: &Path) -> io::Result<Option<u64>> {
    let target = fs::read_link(link)?;
    Ok(target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn our_own_are_found_in_parts() {
        let sockets: Vec<UdpSocket> = (0..PART).map(|_| UdpSocket::bind("127.0.0.1:0").expect("bound")).collect();
        let mut found = Vec::new();
        let mut look = OpenSockets::of(Pid(i32::try_from(std::process::id()).expect("pids fit"))).expect("ours");
        assert!(look.read_more(&mut found) && found.len() <= PART);
        while look.read_more(&mut found) {}
        for socket in &sockets {
            assert!(found.iter().any(|(number, inode)| *number == socket.as_raw_fd() && *inode > 0));
        }
    }

    #[test]
    fn who_has_gone_has_none() {
        let mut found = Vec::new();
        assert!(!OpenSockets::of(Pid(i32::MAX)).expect("gone, not forbidden").read_more(&mut found));
        assert!(found.is_empty());
    }
}
