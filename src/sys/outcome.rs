//! What a forked child has to say before it becomes the worker: a socket pair that exec closes.
//!
//! ```text
//! child                                     parent
//! its listener, by SCM_RIGHTS           ->  Outcome::Listener       first, where calls are to stop
//! or: why there is none                 ->  Outcome::NoListener
//! the step that failed, and its errno   ->  Outcome::Failed         the child ends
//! (nothing: exec closes its end)        ->  Outcome::Executed
//! ```
//! The child's half allocates nothing and locks nothing (`man 7 signal-safety`). The parent's never waits.
#![expect(unsafe_code, reason = "sendmsg without allocation; a descriptor that was received is taken into ownership")]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::c_int;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, socketpair};

/// The parent's end, and the child's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    // Each message by itself, and an end of file: a stream has no messages, datagrams have no end.
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// What the child said, or its silence.
#[derive(Debug)]
pub enum Outcome {
    /// Where calls of this worker's tree arrive (close-on-exec).
    Listener(OwnedFd),
    /// Its calls do not stop, for this reason (`EMFILE`: they do, but we had no room for the listener, and they fail with ENOSYS).
    /// It becomes the worker all the same.
    NoListener(Errno),
    /// It did not become the worker.
    Failed(Failed),
    /// End of file: the command runs, or the child was killed before that.
    Executed,
}

/// Why a forked child did not become the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    pub step: Step,
    pub errno: c_int,
}

/// What the child does before it runs the command, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It could not enter its cgroup.
    Group = 0,
    Directory = 1,
    /// Its calls stop, but the listener could not be sent.
    Filter = 2,
    User = 3,
    Parent = 4,
    Listeners = 5,
    Exec = 6,
}

/// First byte of a message that is no [`Step`]; an errno follows.
const LISTENER: u8 = 0x80;
const NO_LISTENER: u8 = 0x81;

type Message = [u8; 5];

// === the child's half ===

/// Sends the listener; the child closes its own copy.
pub fn send_listener(socket: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut control = Rights::of(listener.as_raw_fd());
    send(socket, message(LISTENER, 0), Some(&mut control))
}

/// Calls will not stop. A message that cannot be sent is missing, and that is all.
pub fn send_no_listener(socket: BorrowedFd<'_>, errno: Errno) {
    let _ = send(socket, message(NO_LISTENER, errno as c_int), None);
}

pub fn send_failed(socket: BorrowedFd<'_>, Failed { step, errno }: Failed) {
    let _ = send(socket, message(step as u8, errno), None);
}

fn message(kind: u8, errno: c_int) -> Message {
    let [a, b, c, d] = errno.to_ne_bytes();
    [kind, a, b, c, d]
}

/// Never waits: nothing else is in the socket's buffer, and there is room for many of these.
fn send(socket: BorrowedFd<'_>, mut message: Message, control: Option<&mut Rights>) -> Result<(), Errno> {
    let mut part = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    if let Some(control) = control {
        (header.msg_control, header.msg_controllen) = ((&raw mut *control).cast(), size_of::<Rights>() as _);
    }
    // SAFETY: the header's pointers are to live buffers of the lengths that it says.
    Errno::result(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) }).map(drop)
}

/// One control message, `SCM_RIGHTS` with one descriptor, as the kernel lays it out (`man 3 cmsg`).
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    descriptor: RawFd,
    padding: u32,
}

impl Rights {
    fn of(descriptor: RawFd) -> Self {
        // SAFETY: all parts are plain numbers.
        let mut rights: Self = unsafe { std::mem::zeroed() };
        rights.header.cmsg_len = std::mem::offset_of!(Self, padding) as _;
        (rights.header.cmsg_level, rights.header.cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        rights.descriptor = descriptor;
        rights
    }
}

// === the parent's half ===

/// What the child has said since it was last asked; `None`: nothing yet. To be asked until there is nothing, or until
/// [`Failed`](Outcome::Failed) or [`Executed`](Outcome::Executed), which are the last.
pub fn read(socket: &OwnedFd) -> Option<Outcome> {
    let mut bytes: Message = [0; 5];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut room = cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
        Ok(received) => received,
        Err(Errno::EAGAIN | Errno::EINTR) => return None,
        // A socket pair has no others; whatever it is, nothing more will come.
        Err(_) => return Some(Outcome::Executed),
    };
    let mut listener = None;
    // The message was cut: there was no room in our table of descriptors.
    for control in received.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows their numbers.
            listener = numbers.first().map(|number| unsafe { OwnedFd::from_raw_fd(*number) });
        }
    }
    if received.bytes == 0 {
        return Some(Outcome::Executed);
    }
    let [kind, errno @ ..] = bytes;
    let errno = c_int::from_ne_bytes(errno);
    Some(match kind {
        LISTENER => listener.map_or(Outcome::NoListener(Errno::EMFILE), Outcome::Listener),
        NO_LISTENER => Outcome::NoListener(Errno::from_raw(errno)),
        step => Outcome::Failed(Failed { step: Step::of(step), errno }),
    })
}

impl Step {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Group,
            1 => Self::Directory,
            2 => Self::Filter,
            3 => Self::User,
            4 => Self::Parent,
            5 => Self::Listeners,
            _ => Self::Exec,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    #[test]
    fn what_the_child_says_arrives_in_its_order_and_its_end_is_the_last() {
        let (ours, child) = pair().expect("a pair");
        assert!(read(&ours).is_none(), "nothing was said");
        let (end, other) = nix::unistd::pipe().expect("a pipe");
        send_listener(child.as_fd(), other.as_fd()).expect("sent");
        drop(other);
        send_no_listener(child.as_fd(), Errno::EBUSY);
        let failed = |step| Failed { step, errno: libc::ENOENT };
        let steps = [Step::Group, Step::Directory, Step::Filter, Step::User, Step::Parent, Step::Listeners, Step::Exec];
        for step in steps {
            send_failed(child.as_fd(), failed(step));
        }
        drop(child);
        let Some(Outcome::Listener(received)) = read(&ours) else { panic!("the descriptor comes first") };
        let flags = fcntl(&received, FcntlArg::F_GETFD).map(FdFlag::from_bits_truncate);
        assert_eq!(flags, Ok(FdFlag::FD_CLOEXEC));
        assert_eq!(nix::unistd::write(&received, b"x"), Ok(1), "it is the pipe's end");
        assert_eq!(nix::unistd::read(&end, &mut [0; 2]), Ok(1));
        drop(received);
        assert_eq!(nix::unistd::read(&end, &mut [0]), Ok(0), "no other copy is left");
        assert!(matches!(read(&ours), Some(Outcome::NoListener(Errno::EBUSY))));
        for step in steps {
            assert!(matches!(read(&ours), Some(Outcome::Failed(said)) if said == failed(step)), "{step:?}");
        }
        assert!(matches!(read(&ours), Some(Outcome::Executed)));
        assert!(matches!(read(&ours), Some(Outcome::Executed)), "asked once more");
    }

    #[test]
    fn a_control_message_is_as_long_as_the_kernel_says() {
        // SAFETY: arithmetic only.
        assert_eq!(size_of::<Rights>(), unsafe { libc::CMSG_SPACE(4) } as usize);
        // SAFETY: arithmetic only.
        assert_eq!(std::mem::offset_of!(Rights, padding), unsafe { libc::CMSG_LEN(4) } as usize);
    }
}
