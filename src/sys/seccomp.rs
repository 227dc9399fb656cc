//! Seccomp user notification (`man 2 seccomp_unotify`): calls of workers that wait for our answer.
//!
//! ```text
//! child, before exec:  install(program)  ->  a listener, which it sends to clusterinit
//! clusterinit:         Listener::receive ->  is_valid, put_over  ->  go_on or answer
//! ```
//! Nothing here waits for a worker: a call is taken only when the kernel says that there is one, and an answer to a caller that has
//! gone is no error. A worker whose listener nobody has any more gets ENOSYS from the calls that stop.
#![expect(unsafe_code, reason = "seccomp(2) and the ioctls of its listeners")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{Ioctl, c_int, sock_filter};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cluster::words::Pid;

/// A signal may interrupt us; so often it is tried again.
const ATTEMPTS: usize = 4;

/// Where the calls of one worker's whole tree arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: u64,
    /// The thread that made it.
    pub thread: Pid,
    /// `libc::SYS_...`
    pub number: libc::c_long,
    pub arguments: [u64; 6],
}

impl Listener {
    pub fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// The next call, if one waits; never blocks. An error is the last word: nobody is left whose calls could arrive here (or the
    /// descriptor is no listener), and epoll would say so for ever, so the listener is to be dropped.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        let mut asked = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // An interrupted poll has left the flags empty.
        let _ = poll(&mut asked, PollTimeout::ZERO);
        let [answered] = asked;
        let ready = answered.revents().unwrap_or(PollFlags::empty());
        if !ready.contains(PollFlags::POLLIN) {
            // Without a call the ioctl would wait for one.
            return if ready.is_empty() { Ok(None) } else { Err(io::ErrorKind::BrokenPipe.into()) };
        }
        // SAFETY: plain numbers; the kernel wants zeros.
        let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        match self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) {
            Ok(_) => Ok(Some(Call {
                id: notice.id,
                thread: Pid(notice.pid.cast_signed()),
                number: notice.data.nr.into(),
                arguments: notice.data.args,
            })),
            // The caller was killed meanwhile, or we were interrupted.
            Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// False: the caller has gone, or its call was interrupted. What was read of it may be somebody else's.
    pub fn is_valid(&self, call: &Call) -> bool {
        let mut id = call.id;
        self.control(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id).is_ok()
    }

    /// The kernel does what it would have done. A caller that has gone needs no answer.
    pub fn go_on(&self, call: &Call) {
        let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or_default();
        self.respond(libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags });
    }

    /// The call returns this, and the kernel does nothing. A caller that has gone needs no answer.
    pub fn answer(&self, call: &Call, result: Result<i64, Errno>) {
        let (val, error) = match result {
            Ok(value) => (value, 0),
            Err(errno) => (0, -(errno as i32)),
        };
        self.respond(libc::seccomp_notif_resp { id: call.id, val, error, flags: 0 });
    }

    /// Puts a copy of `socket` over the caller's descriptor `number`, before the call is answered. `EINVAL`: the kernel is older than
    /// 5.9; `ENOENT`: the caller has gone.
    pub fn put_over(&self, call: &Call, socket: BorrowedFd<'_>, number: RawFd, close_on_exec: bool) -> io::Result<()> {
        let mut order = libc::seccomp_notif_addfd {
            id: call.id,
            flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SETFD).unwrap_or_default(),
            srcfd: socket.as_raw_fd().cast_unsigned(),
            newfd: number.cast_unsigned(),
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        let mut outcome = Err(Errno::EINTR);
        for _ in 0..ATTEMPTS {
            outcome = self.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut order);
            // Putting it there twice is the same as once.
            if outcome != Err(Errno::EINTR) {
                break;
            }
        }
        Ok(outcome.map(drop)?)
    }

    fn respond(&self, mut response: libc::seccomp_notif_resp) {
        for _ in 0..ATTEMPTS {
            // ENOENT: the caller has gone.
            if self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) != Err(Errno::EINTR) {
                return;
            }
        }
    }

    /// `what` is to be the request that goes with a `T`.
    fn control<T>(&self, request: Ioctl, what: *mut T) -> Result<c_int, Errno> {
        // SAFETY: each caller passes a live object of the type that its request names (linux/seccomp.h).
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), request, what) })
    }
}

/// Which calls stop, and at what price.
#[derive(Clone, Debug)]
pub struct Filter {
    pub program: Vec<sock_filter>,
    /// Where it cannot be had without `PR_SET_NO_NEW_PRIVS` (no `CAP_SYS_ADMIN`), that is set.
    pub no_new_privs: bool,
}

/// Puts the calling thread, and all that it will fork and execute, under the filter. Async-signal-safe: for a child between fork and
/// exec. Answers the listener, close-on-exec. EACCES: it takes `PR_SET_NO_NEW_PRIVS`.
pub fn install(filter: &Filter) -> Result<OwnedFd, Errno> {
    let length = u16::try_from(filter.program.len()).map_err(|_| Errno::EINVAL)?;
    // The kernel only reads it.
    let program = libc::sock_fprog { len: length, filter: filter.program.as_ptr().cast_mut() };
    // Killable (since 5.19): a caller whose call was received waits through signals, so that no call is seen twice. And no speculation
    // is switched off for workers that did not ask for it.
    let mut flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let mut set_no_new_privs = false;
    loop {
        // SAFETY: a live program of live instructions.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
        match Errno::result(result) {
            Ok(number) => {
                let number = RawFd::try_from(number).map_err(|_| Errno::EBADF)?;
                // SAFETY: the kernel has just made this descriptor for us.
                return Ok(unsafe { OwnedFd::from_raw_fd(number) });
            }
            Err(Errno::EINVAL) if flags & libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 => {
                flags &= !libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
            }
            Err(Errno::EACCES) if filter.no_new_privs && !set_no_new_privs => {
                // The kernel looks at all their bits.
                let (yes, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
                // SAFETY: numbers only.
                Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, none, none, none) })?;
                set_no_new_privs = true;
            }
            Err(errno) => return Err(errno),
        }
    }
}
