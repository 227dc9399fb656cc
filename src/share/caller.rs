//! What can be learned of the process whose call waits, by reading only: nothing is taken from it, and it is not stopped.
//!
//! A default container forbids to take a worker's socket (`pidfd_getfd`) and, in older ones, `process_vm_readv`. `/proc/TID` tells
//! all that is needed: arguments in `mem`, which socket a descriptor is in `fd`, its protocol in an extended attribute, its flags in
//! `fdinfo`. What was read is true only if the call still waits afterwards (`Listener::is_valid`): numbers of threads are used again.
//!
//! Where we are root without `CAP_SYS_PTRACE` and the caller is another user, all is read once more as that user
//! ([`identity::as_user`]). Every step is bounded, and every failure has an answer: the kernel does what it would have done.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::cluster::words::Pid;
use crate::sys::identity;
use crate::sys::open_sockets::{OpenSockets, socket_inode};
use crate::sys::procfs;
use crate::sys::xattr;

/// Longer than any socket address (`sizeof(struct sockaddr_storage)`).
pub(super) const LONGEST: usize = 128;
/// `CAP_NET_BIND_SERVICE` (`man 7 capabilities`).
const BIND_SERVICE: u64 = 1 << 10;
/// Descriptors that are looked through for a socket: some milliseconds. Behind that it counts as closed.
const MOST_DESCRIPTORS: usize = 4096;

/// What is asked besides the socket itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want {
    /// Address and length of an argument in the caller's memory.
    pub memory: Option<(u64, usize)>,
    /// Whether the caller is in another network namespace.
    pub network: bool,
}

/// A socket, and what else was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Names the socket for as long as it is open anywhere.
    pub inode: u64,
    pub protocol: Protocol,
    pub nonblocking: bool,
    pub close_on_exec: bool,
    pub memory: Vec<u8>,
    pub elsewhere: bool,
}

/// What a socket speaks (`sk_prot->name`). Multipath TCP counts as TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Tcp6,
    Other,
}

/// Why there is nothing to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// No socket, no such descriptor, a bad pointer, a caller that has gone: the kernel's own answer is the right one.
    Nothing,
    /// We may not look into the caller.
    Forbidden,
}

/// What everybody may read of a thread (`/proc/TID/status`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    /// The process that the thread is of.
    pub process: i32,
    /// Real, effective, saved, file system.
    pub uids: [u32; 4],
    pub gids: [u32; 4],
    /// The effective capabilities.
    pub capabilities: u64,
}

/// Looks at the socket behind the caller's descriptor `number`.
pub fn look(thread: Pid, number: RawFd, want: Want) -> Result<Seen, Unseen> {
    match as_whoever_may(thread, || look_directly(thread, number, want)) {
        Ok(Some(seen)) => Ok(seen),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Unseen::Forbidden),
        Ok(None) | Err(_) => Err(Unseen::Nothing),
    }
}

/// Whether the process of this thread has that socket open, most likely as `number`.
pub fn holds(thread: Pid, number: RawFd, inode: u64) -> bool {
    as_whoever_may(thread, || holds_directly(thread, number, inode)).unwrap_or(false)
}

/// Descriptors and inodes of all sockets of a process. `None`: nobody of us may look.
pub fn sockets_of(process: Pid) -> Option<Vec<(RawFd, u64)>> {
    as_whoever_may(process, || sockets_of_directly(process)).ok()
}

pub fn status(thread: Pid) -> Option<Status> {
    parse_status(&read_text(&folder(thread).ok()?.join("status")).ok()?)
}

/// Whether the caller may bind a privileged port. Capabilities in a user namespace of its own are none in ours.
pub fn may_bind_privileged(thread: Pid) -> bool {
    static OWN: OnceLock<Option<PathBuf>> = OnceLock::new();
    let has_it = status(thread).is_some_and(|status| status.capabilities & BIND_SERVICE != 0);
    has_it && !is_elsewhere(thread, "user", &OWN)
}

/// Tries as we are, and where that is forbidden as the user that the thread runs as.
fn as_whoever_may<T: Send>(thread: Pid, look: impl Fn() -> io::Result<T> + Sync) -> io::Result<T> {
    let forbidden = match look() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        outcome => return outcome,
    };
    let Some(status) = status(thread) else { return Err(forbidden) };
    let ([_, uid, ..], [_, gid, ..]) = (status.uids, status.gids);
    let own = (nix::unistd::geteuid(), nix::unistd::getegid());
    if !own.0.is_root() || (uid, gid) == (own.0.as_raw(), own.1.as_raw()) {
        return Err(forbidden);
    }
    identity::as_user(uid, gid, &look).unwrap_or(Err(forbidden))
}

/// `None`: the descriptor is no socket.
fn look_directly(thread: Pid, number: RawFd, want: Want) -> io::Result<Option<Seen>> {
    static OWN: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = folder(thread)?;
    let link = folder.join(format!("fd/{number}"));
    let Some(inode) = socket_inode(&link)? else { return Ok(None) };
    let flags = parse_flags(&read_text(&folder.join(format!("fdinfo/{number}")))?).ok_or(io::ErrorKind::InvalidData)?;
    let mut memory = Vec::new();
    if let Some((address, length)) = want.memory {
        memory.resize(length.min(LONGEST), 0);
        let file = File::open(folder.join("mem"))?;
        file.read_exact_at(&mut memory, address)?;
    }
    Ok(Some(Seen {
        inode,
        protocol: protocol(&link)?,
        nonblocking: flags & libc::O_NONBLOCK != 0,
        close_on_exec: flags & libc::O_CLOEXEC != 0,
        memory,
        elsewhere: want.network && is_elsewhere(thread, "net", &OWN),
    }))
}

fn holds_directly(thread: Pid, number: RawFd, inode: u64) -> io::Result<bool> {
    let folder = folder(thread)?.join("fd");
    let first = socket_inode(&folder.join(number.to_string()));
    if let Ok(Some(found)) = first
        && found == inode
    {
        return Ok(true);
    }
    let mut descriptors = fs::read_dir(folder)?.take(MOST_DESCRIPTORS).filter_map(Result::ok);
    // The directory can be listed by some who may not follow its links.
    first.map(drop).or_else(|error| if error.kind() == io::ErrorKind::PermissionDenied { Err(error) } else { Ok(()) })?;
    Ok(descriptors.any(|entry| matches!(socket_inode(&entry.path()), Ok(Some(found)) if found == inode)))
}

fn sockets_of_directly(process: Pid) -> io::Result<Vec<(RawFd, u64)>> {
    let mut look = OpenSockets::of(process).ok_or(io::ErrorKind::PermissionDenied)?;
    let mut sockets = Vec::new();
    while look.read_more(&mut sockets) {}
    Ok(sockets)
}

/// The thread's own folder. It can be opened by its number although `/proc` lists processes only.
fn folder(thread: Pid) -> io::Result<PathBuf> {
    Ok(procfs::root().ok_or(io::ErrorKind::NotFound)?.join(thread.to_string()))
}

/// Asked of sockets only: another file's attributes may be a daemon's to tell (FUSE), and take as long as it likes.
fn protocol(link: &Path) -> io::Result<Protocol> {
    let mut name = [0; 32];
    let length = xattr::read(link, c"system.sockprotoname", &mut name)?;
    let name = name.get(..length).unwrap_or_default();
    Ok(match name.strip_suffix(&[0]).unwrap_or(name) {
        b"TCP" | b"MPTCP" => Protocol::Tcp,
        b"TCPv6" | b"MPTCPv6" => Protocol::Tcp6,
        _ => Protocol::Other,
    })
}

/// Where the links cannot be compared the answer is no.
fn is_elsewhere(thread: Pid, kind: &str, own: &OnceLock<Option<PathBuf>>) -> bool {
    let own = own.get_or_init(|| fs::read_link(format!("/proc/self/ns/{kind}")).ok());
    let theirs = folder(thread).and_then(|folder| fs::read_link(folder.join(format!("ns/{kind}"))));
    matches!((own, theirs), (Some(own), Ok(theirs)) if *own != theirs)
}

/// The beginning of a file of `/proc`: all that matters of those that are read here, at once and so of one moment.
fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = [0; 4096];
    let length = File::open(path)?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned())
}

/// `flags: 02004002`, in octal (`man 5 proc_pid_fdinfo`).
fn parse_flags(fdinfo: &str) -> Option<libc::c_int> {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"))?;
    libc::c_int::from_str_radix(flags.trim(), 8).ok()
}

fn parse_status(text: &str) -> Option<Status> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let four = |name| {
        let mut numbers = value(name)?.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some([next()?, next()?, next()?, next()?])
    };
    Some(Status {
        name: value("Name:")?.to_owned(),
        process: value("Tgid:")?.parse().ok()?,
        uids: four("Uid:")?,
        gids: four("Gid:")?,
        capabilities: procfs::mask(text, "CapEff:")?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn me() -> Pid {
        Pid(i32::try_from(std::process::id()).expect("pids fit"))
    }

    #[test]
    fn a_socket_is_known_by_its_descriptor() {
        let of = |number: RawFd| look(me(), number, Want::default());
        let v4 = TcpListener::bind("127.0.0.1:0").expect("bound");
        let seen = of(v4.as_raw_fd()).expect("a socket");
        assert_eq!((seen.protocol, seen.nonblocking, seen.close_on_exec), (Protocol::Tcp, false, true));
        v4.set_nonblocking(true).expect("set");
        assert!(of(v4.as_raw_fd()).is_ok_and(|seen| seen.nonblocking));
        assert!(holds(me(), v4.as_raw_fd(), seen.inode) && holds(me(), 0, seen.inode) && holds(me(), -1, seen.inode));
        assert!(!holds(me(), v4.as_raw_fd(), u64::MAX) && !holds(Pid(i32::MAX), 3, seen.inode));
        let v6 = TcpListener::bind("[::1]:0").expect("bound");
        assert!(of(v6.as_raw_fd()).is_ok_and(|seen| seen.protocol == Protocol::Tcp6));
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
        assert!(of(udp.as_raw_fd()).is_ok_and(|seen| seen.protocol == Protocol::Other));
        let folder = tempfile::tempdir().expect("a folder");
        let unix = UnixListener::bind(folder.path().join("socket")).expect("bound");
        assert!(of(unix.as_raw_fd()).is_ok_and(|seen| seen.protocol == Protocol::Other));
        let file = File::open("/dev/null").expect("there is one");
        assert_eq!(of(file.as_raw_fd()), Err(Unseen::Nothing));
        assert_eq!(of(-1), Err(Unseen::Nothing));
        assert_eq!(look(Pid(i32::MAX), 0, Want::default()), Err(Unseen::Nothing));
    }

    #[test]
    fn memory_is_read_up_to_the_longest_address_and_a_bad_pointer_is_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let at = |address: u64, length| {
            let want = Want { memory: Some((address, length)), network: true };
            look(me(), listener.as_raw_fd(), want)
        };
        let bytes = [7_u8; 200];
        let seen = at(bytes.as_ptr() as u64, 16).expect("our own memory");
        assert_eq!((seen.memory, seen.elsewhere), (vec![7; 16], false));
        assert_eq!(at(bytes.as_ptr() as u64, usize::MAX).expect("cut").memory.len(), LONGEST);
        for bad in [0, 8, u64::MAX, u64::MAX - 4, 1 << 63] {
            assert_eq!(at(bad, 16), Err(Unseen::Nothing), "{bad:x}");
        }
    }

    #[test]
    fn everybody_may_read_who_a_thread_is() {
        let own = status(me()).expect("our own");
        assert_eq!((own.process, own.uids[1]), (me().0, nix::unistd::geteuid().as_raw()));
        assert_eq!(may_bind_privileged(me()), own.capabilities & BIND_SERVICE != 0);
        let text = "Name:\ta\\nUid: 0 0 0 0\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t0000000000000400\n";
        let expected = Status {
            name: "a\\nUid: 0 0 0 0".to_owned(),
            process: 7,
            uids: [1, 2, 3, 4],
            gids: [5, 6, 7, 8],
            capabilities: 1024,
        };
        assert_eq!(parse_status(text), Some(expected));
        assert_eq!(parse_status("Name:\tx\nTgid:\t7\nUid:\t1\t2"), None);
    }
}
