//! The one reaper: every wait in this program is in this file (`man 2 waitid`).
#![expect(unsafe_code, reason = "waitid and waitpid: nix cannot represent the end by a real-time signal")]

use std::io;

use crate::cluster::words::{ExitStatus, Pid, Signal};

/// A child that has ended and is not reaped yet, if there is one. It stays a zombie, so that its pid and its process group stay
/// its own until [`reap`]. SIGCHLD coalesces: ask until there is none.
pub fn ended_child() -> Option<Pid> {
    match look(libc::P_ALL, 0) {
        Seen::Ended(pid) => Some(pid),
        Seen::Alive | Seen::None => None,
    }
}

/// Whether this child has ended and is not reaped yet.
pub fn has_ended(child: Pid) -> bool {
    libc::id_t::try_from(child.0).is_ok_and(|id| look(libc::P_PID, id) == Seen::Ended(child))
}

/// Whether children of ours live and none has ended. The kernel's own word: true also of those that `/proc` does not show.
pub fn only_living_children() -> bool {
    look(libc::P_ALL, 0) == Seen::Alive
}

/// What `waitid` says of some children.
#[derive(PartialEq, Eq)]
enum Seen {
    None,
    Alive,
    Ended(Pid),
}

fn look(kind: libc::idtype_t, id: libc::id_t) -> Seen {
    loop {
        // SAFETY: all-zero is a valid siginfo.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the pointer is to a live siginfo.
        let result = unsafe { libc::waitid(kind, id, &raw mut info, flags) };
        if result == 0 {
            // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero where no child has ended.
            let pid = unsafe { info.si_pid() };
            return if pid == 0 { Seen::Alive } else { Seen::Ended(Pid(pid)) };
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Seen::None; // ECHILD
        }
    }
}

/// Reaps a child that [`ended_child`] has shown.
pub fn reap(pid: Pid) -> Option<ExitStatus> {
    wait(pid, libc::WNOHANG)
}

/// Waits for the end of one child, however long it takes: only for one that is certain to end (it was killed, or has closed all that
/// it had), and only before the first worker.
pub fn wait_for_end(child: Pid) -> Option<ExitStatus> {
    wait(child, 0)
}

fn wait(pid: Pid, flags: libc::c_int) -> Option<ExitStatus> {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a live int.
        let result = unsafe { libc::waitpid(pid.0, &raw mut status, flags | libc::__WALL) };
        if result == pid.0 {
            return decode(status);
        }
        if result == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

fn decode(status: libc::c_int) -> Option<ExitStatus> {
    if libc::WIFEXITED(status) {
        u8::try_from(libc::WEXITSTATUS(status)).ok().map(ExitStatus::Code)
    } else if libc::WIFSIGNALED(status) {
        Some(ExitStatus::Signal { signal: Signal(libc::WTERMSIG(status)), core: libc::WCOREDUMP(status) })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_decoded_in_full() {
        for code in 0..=255_u8 {
            assert_eq!(decode(i32::from(code) << 8), Some(ExitStatus::Code(code)));
        }
        for signal in 1..=64 {
            assert_eq!(decode(signal), Some(ExitStatus::Signal { signal: Signal(signal), core: false }));
            assert_eq!(decode(signal | 0x80), Some(ExitStatus::Signal { signal: Signal(signal), core: true }));
        }
        assert_eq!(decode(0x137f), None, "stopped is not ended");
    }
}
