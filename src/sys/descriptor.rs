//! Where our own descriptors live: at [`LOWEST`] and above.
//!
//! A worker gets descriptors at 3 and up (`LISTEN_FDS`). Ours stay out of their way, so that handing over never has to move one.
#![expect(unsafe_code, reason = "a duplicate that the kernel made is taken into ownership")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

pub const LOWEST: i32 = 100;

/// The same open file at a number of [`LOWEST`] or more, close-on-exec. Where the limit on descriptors leaves no room there it
/// comes back as it was: a low number is no reason to end.
pub fn lift(descriptor: OwnedFd) -> OwnedFd {
    move_up(&descriptor, LOWEST).unwrap_or(descriptor)
}

/// A close-on-exec copy of a descriptor, numbered `above` or higher.
pub fn move_up(descriptor: &OwnedFd, above: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(above))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::fcntl::FdFlag;

    use super::*;

    #[test]
    fn a_lifted_descriptor_is_high_and_closes_on_exec() {
        let lifted = lift(File::open("/dev/null").expect("there is a /dev/null").into());
        assert!(lifted.as_raw_fd() >= LOWEST);
        let flags = fcntl(&lifted, FcntlArg::F_GETFD).expect("an open descriptor");
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
    }
}
