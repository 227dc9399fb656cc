//! Pipes for what workers write, in place of our own stdout and stderr.

use std::io::{self, stderr, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::{Uid, fchown, pipe2};

use super::descriptor::lift;

/// Our end, which never waits, and the worker's, which does as any pipe. It belongs to `owner`, as runc gives stdout to the user of the
/// container: programs open `/dev/stdout` anew.
pub fn pair(owner: Option<u32>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    if let Some(owner) = owner {
        // Without CAP_CHOWN it stays ours, and all but opening it anew works.
        let _ = fchown(&theirs, Some(Uid::from_raw(owner)), None);
    }
    Ok((lift(ours), lift(theirs)))
}

/// Whether workers would have our stdout and our stderr: where the caller had closed one, something of ours may sit there, which
/// they do not get.
pub fn handed_on() -> [bool; 2] {
    let (out, err) = (stdout(), stderr());
    let handed_on = |descriptor: BorrowedFd<'_>| {
        fcntl(descriptor, FcntlArg::F_GETFD).is_ok_and(|flags| !FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC))
    };
    [handed_on(out.as_fd()), handed_on(err.as_fd())]
}

/// Whether stdout and stderr are the same file: a terminal, or `2>&1`.
pub fn are_one() -> bool {
    let identity = |descriptor: BorrowedFd<'_>| fstat(descriptor).map(|stat| (stat.st_dev, stat.st_ino, stat.st_rdev));
    let (out, err) = (identity(stdout().as_fd()), identity(stderr().as_fd()));
    out.is_ok() && out == err
}
