//! What works here, and if not, why: tried out in a forked child before the first worker.
//!
//! ```text
//! child                                   here
//! installs the filter, sends it       ->  receives the listener
//! bind(127.0.0.1:0): stops            ->  receives the call, reads its address and the socket's protocol
//!                                     <-  puts a marked socket over the child's, answers 0
//! is its socket the marked one? exit
//! ```
//! Each refusal has a sentence of its own: what the kernel said, who makes it say so, and what would help. The child binds nothing (its
//! call is answered, not carried out), and all of it is over within a second, whatever happens.
#![expect(unsafe_code, reason = "the calls of a forked child: socket, bind, getsockopt, prctl")]

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use libc::c_int;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::cluster::words::{ExitStatus, Pid, Signal};
use crate::sys::outcome::{self, Outcome};
use crate::sys::seccomp::{self, Call, Filter, Listener};
use crate::sys::{process, reap, xattr};

use super::filter;

/// Milliseconds for each of the three waits: for the listener, for the call, for the child's end.
const PATIENCE: u16 = 300;

/// What the child says by its exit status.
const SAW_THE_MARK: c_int = 0;
const REFUSED: c_int = 1;
const NO_SOCKET: c_int = 2;
const BIND_FAILED: c_int = 3;
const NO_MARK: c_int = 4;

/// `SO_PRIORITY` (`man 7 socket`): a number that says nothing about a socket that sends nothing, and that no socket has by itself.
const MARK: c_int = 5;

/// Why ports cannot be shared here; `Display` is a whole sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// What a worker's start needs in order to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Works {
    /// `PR_SET_NO_NEW_PRIVS` has to be set in each worker.
    pub needs_no_new_privs: bool,
}

/// Tries the whole way once: filter, notification, reading, replacing a descriptor. Bounded to a second. Before the first worker only:
/// it waits, and for its own child.
pub fn probe() -> Result<Works, Refusal> {
    let marked = marked_socket().map_err(|error| Refusal(format!("no TCP socket can be made here ({error})")))?;
    let (ours, report) = outcome::pair().map_err(|error| Refusal(format!("no socket pair can be made here ({error})")))?;
    let program = filter::program();
    let plain = Filter { program: program.clone(), no_new_privs: false };
    let insistent = Filter { program, no_new_privs: true };
    // No SIGCHLD: nobody else is to learn of this child, and nobody who ignores that signal reaps it for us.
    let child = process::in_child(0, || bind_once(report.as_fd(), &plain, &insistent))
        .map_err(|error| Refusal(format!("no process can be forked to try it out ({error})")))?;
    drop(report);
    let tried = answer_once(&ours, child, marked.as_fd());
    if tried.is_err() {
        // It may have ended already.
        let _ = process::signal(child, Signal::KILL);
    }
    let status = reap::wait_for_end(child);
    let needs_no_new_privs = match (tried, status) {
        (Ok(needs), Some(ExitStatus::Code(0))) => needs,
        (Err(Trouble::Known(refusal)), _) => return Err(refusal),
        (Err(Trouble::ChildEnded) | Ok(_), status) => return Err(refused_by_end(status)),
    };
    may_balance()?;
    Ok(Works { needs_no_new_privs })
}

/// Whether a file gives whoever executes it more rights than he has, which `PR_SET_NO_NEW_PRIVS` would take away; a sentence for people.
pub fn privileged_file(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.mode();
    let shown = path.display();
    if mode & libc::S_ISUID != 0 {
        return Some(format!("{shown} is setuid"));
    }
    // Without the group's right to execute, the bit means something else (`man 7 inode`).
    if mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0 {
        return Some(format!("{shown} is setgid"));
    }
    xattr::read(path, c"security.capability", &mut [])
        .is_ok_and(|length| length > 0)
        .then(|| format!("{shown} has file capabilities"))
}

// === the child ===

/// Async-signal-safe. Answers an exit status.
fn bind_once(report: BorrowedFd<'_>, plain: &Filter, insistent: &Filter) -> c_int {
    // Workers are programs of their own: whether our own file may be read (else nobody may look into us) does not count.
    let (yes, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, yes, none, none, none) };
    let installed = match seccomp::install(plain) {
        Err(Errno::EACCES) => {
            outcome::send_no_listener(report, Errno::EACCES);
            seccomp::install(insistent)
        }
        installed => installed,
    };
    match installed {
        Ok(listener) if outcome::send_listener(report, listener.as_fd()).is_ok() => {}
        Ok(_) => return REFUSED,
        Err(errno) => {
            outcome::send_no_listener(report, errno);
            return REFUSED;
        }
    }
    // SAFETY: numbers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    if socket < 0 {
        return NO_SOCKET;
    }
    let address = loopback();
    // SAFETY: a live address of the length that is said.
    if unsafe { libc::bind(socket, (&raw const address).cast(), ADDRESS_LENGTH) } != 0 {
        return BIND_FAILED;
    }
    let (mut mark, mut length) = (0, INT_LENGTH);
    // SAFETY: a live int of the length that is said.
    unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PRIORITY, (&raw mut mark).cast(), &raw mut length) };
    if mark == MARK { SAW_THE_MARK } else { NO_MARK }
}

#[expect(clippy::cast_possible_truncation, reason = "16 and 4")]
const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "16 and 4")]
const INT_LENGTH: libc::socklen_t = size_of::<c_int>() as libc::socklen_t;

#[expect(clippy::cast_possible_truncation, reason = "2")]
const FAMILY: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;

/// 127.0.0.1, any port.
fn loopback() -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: FAMILY,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be() },
        sin_zero: [0; 8],
    }
}

// === here ===

/// What came in between.
enum Trouble {
    Known(Refusal),
    /// Its status says more.
    ChildEnded,
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Known(refusal)
    }
}

/// Plays PID 1 for one call. Whether it takes `PR_SET_NO_NEW_PRIVS`.
fn answer_once(ours: &OwnedFd, child: Pid, marked: BorrowedFd<'_>) -> Result<bool, Trouble> {
    let mut needs_no_new_privs = false;
    let listener = loop {
        wait_for(ours, "the filter")?;
        match outcome::read(ours) {
            Some(Outcome::Listener(descriptor)) => break Listener::new(descriptor),
            Some(Outcome::NoListener(Errno::EACCES)) if !needs_no_new_privs => needs_no_new_privs = true,
            Some(Outcome::NoListener(errno)) => return Err(refused_by_install(errno).into()),
            Some(Outcome::Failed(_) | Outcome::Executed) => return Err(Trouble::ChildEnded),
            None => {}
        }
    };
    wait_for(listener.descriptor(), "a call")?;
    let call = listener.receive().map_err(|_| Trouble::ChildEnded)?.ok_or(Trouble::ChildEnded)?;
    if (call.number, call.thread) != (libc::SYS_bind, child) {
        return Err(
            Refusal(format!("seccomp notified of call {} of process {} instead of our bind", call.number, call.thread)).into()
        );
    }
    let number = read_caller(&call).map_err(|error| refused_by_reading(&error))?;
    listener.put_over(&call, marked, number, true).map_err(|error| refused_by_put_over(&error))?;
    listener.answer(&call, Ok(0));
    // Its end closes its socket.
    wait_for(ours, "the end of the try")?;
    Ok(needs_no_new_privs)
}

/// Until it can be read, or until there is nobody left who could write.
fn wait_for(descriptor: &OwnedFd, what: &str) -> Result<(), Refusal> {
    let mut asked = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    match poll(&mut asked, PollTimeout::from(PATIENCE)) {
        Ok(0) => Err(Refusal(format!("trying it out took too long: {what} did not come within {PATIENCE} ms"))),
        // An interrupted wait has waited; what follows finds out.
        _ => Ok(()),
    }
}

/// Reads all that a worker's call is decided by, and answers the descriptor.
fn read_caller(call: &Call) -> io::Result<RawFd> {
    let [number, address, ..] = call.arguments;
    let process = format!("/proc/{}", call.thread);
    let mut family = FAMILY.to_ne_bytes().map(|_| 0);
    File::open(format!("{process}/mem"))?.read_exact_at(&mut family, address)?;
    let number = RawFd::try_from(number).map_err(io::Error::other)?;
    let mut protocol = [0; 16];
    let length = xattr::read(Path::new(&format!("{process}/fd/{number}")), c"system.sockprotoname", &mut protocol)?;
    if family == FAMILY.to_ne_bytes() && protocol.get(..length) == Some(b"TCP\0") {
        Ok(number)
    } else {
        Err(io::Error::other("what was read is not what was written"))
    }
}

fn marked_socket() -> io::Result<Socket> {
    let marked = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    marked.set_priority(MARK.cast_unsigned())?;
    Ok(marked)
}

/// The kernel has to choose among the listening sockets of an address by a program of ours.
fn may_balance() -> Result<(), Refusal> {
    let listening = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| {
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(1)?;
        Ok(socket)
    });
    // Where the loopback is missing, that says nothing about the program.
    let Ok(listening) = listening else { return Ok(()) };
    let mut first = libc::sock_filter { code: BPF_RETURN, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut first };
    setsockopt(&listening, sockopt::AttachReusePortCbpf, &program).map_err(|errno| {
        Refusal(format!("the kernel takes no program that chooses among listening sockets ({errno:?}: SO_ATTACH_REUSEPORT_CBPF)"))
    })
}

/// `BPF_RET | BPF_K` (`linux/bpf_common.h`).
const BPF_RETURN: u16 = 0x06;

// === sentences ===

fn refused_by_install(errno: Errno) -> Refusal {
    let profile = "the container's seccomp profile does not allow seccomp(2); Docker's and containerd's own profiles do";
    Refusal(match errno {
        Errno::EINVAL => "the kernel has no seccomp notifications (EINVAL): it is older than 5.0, or it is gVisor's".to_owned(),
        Errno::EBUSY => "there is a seccomp listener above us already (EBUSY), and the kernel allows one only: \
             another clusterinit, Sysbox or LXD"
            .to_owned(),
        Errno::EPERM | Errno::ENOSYS => format!("{profile} ({errno:?})"),
        Errno::EACCES => "a seccomp filter may not be installed, not even with no_new_privs (EACCES): \
             a security module forbids it"
            .to_owned(),
        Errno::EMFILE | Errno::ENFILE => {
            format!("there is no room for one more descriptor ({errno:?}): raise the limit (ulimit -n)")
        }
        other => format!("seccomp(2) refuses the filter ({other:?}: {})", other.desc()),
    })
}

fn refused_by_reading(error: &io::Error) -> Refusal {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    Refusal(unreadable(error, scope.as_deref().map(str::trim)))
}

/// `scope`: yama's setting, where there is yama.
fn unreadable(error: &io::Error, scope: Option<&str>) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match (errno, scope) {
        (Some(errno @ (Errno::EPERM | Errno::EACCES)), Some(scope @ ("2" | "3"))) => format!(
            "what workers call cannot be read ({errno:?}): kernel.yama.ptrace_scope is {scope} on this machine; \
             2 needs CAP_SYS_PTRACE, 3 forbids it to all"
        ),
        (Some(errno @ (Errno::EPERM | Errno::EACCES)), _) => format!(
            "what workers call cannot be read ({errno:?}): an AppArmor, SELinux or seccomp profile forbids to look into \
             /proc/PID; CAP_SYS_PTRACE may help"
        ),
        (Some(Errno::ENOENT), _) => {
            "what workers call cannot be read (ENOENT): /proc is not mounted, or hides processes (hidepid)".to_owned()
        }
        _ => format!("what workers call cannot be read: {error}"),
    }
}

fn refused_by_put_over(error: &io::Error) -> Refusal {
    Refusal(match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EINVAL) => {
            "the kernel cannot replace a socket of a worker (EINVAL: SECCOMP_IOCTL_NOTIF_ADDFD): it is older than 5.9".to_owned()
        }
        _ => format!("a socket of a worker cannot be replaced: {error}"),
    })
}

fn refused_by_end(status: Option<ExitStatus>) -> Refusal {
    Refusal(match status {
        Some(ExitStatus::Signal { signal: Signal(libc::SIGSYS), .. }) => {
            "the container's seccomp profile kills who calls seccomp(2) (SIGSYS)".to_owned()
        }
        Some(ExitStatus::Code(code)) => match c_int::from(code) {
            NO_SOCKET => "no TCP socket can be made under the filter".to_owned(),
            BIND_FAILED => "the answer to a notified call did not arrive: bind failed".to_owned(),
            NO_MARK => "a socket that was put over another is not there".to_owned(),
            _ => "the listener of the filter could not be handed over".to_owned(),
        },
        Some(status) => format!("the process that tried it out was ended: {status}"),
        None => "the process that tried it out has gone: somebody else has reaped it".to_owned(),
    })
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
