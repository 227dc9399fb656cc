//! The end of the control socket that asks: finds the one server of this container, makes sure of it, and waits a bounded time.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use super::{Demand, LONGEST_REQUEST, Peer, prefix, to_line};
use crate::cluster::words::Pid;
use crate::sys::instance::Instance;

/// For each of connecting, sending, and every part of the answer: longer than the server's own.
const PATIENCE: Duration = Duration::from_secs(5);
/// No answer of a server is longer.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// `__SO_ACCEPTCON` in the flags of `/proc/net/unix`: the socket listens, and is not one that was accepted under the same name.
const LISTENS: u32 = 1 << 16;

#[derive(Debug, Error)]
pub enum AskError {
    #[error("cannot tell which container this is")]
    Instance(#[source] io::Error),
    #[error("cannot read /proc/net/unix")]
    Sockets(#[source] io::Error),
    #[error("no clusterinit runs in this container; a signal to it may help where it runs in another PID or mount namespace")]
    NotFound,
    #[error("several clusterinit run here, and none of them is pid 1: send a signal to the one that you mean, of {}", list(.0))]
    Several(Vec<Pid>),
    #[error("whoever holds the control socket of pid {named} is pid {} with uid {}: not the clusterinit of this container, or not of your user", .found.pid, .found.uid)]
    Stranger { named: Pid, found: Peer },
    #[error("cannot talk to clusterinit, pid {pid}")]
    Talk {
        pid: Pid,
        #[source]
        source: io::Error,
    },
    #[error("the answer of clusterinit, pid {pid}, is no answer: {answer:?}")]
    NoAnswer { pid: Pid, answer: String },
    #[error("only a signal can ask for this")]
    NotARequest,
    /// clusterinit's own words.
    #[error("{0}")]
    Refused(String),
}

/// Asks the clusterinit of this container, and waits for its answer.
pub fn ask(demand: &Demand) -> Result<String, AskError> {
    let instance = Instance::own().map_err(AskError::Instance)?;
    let table = fs::read("/proc/net/unix").map_err(AskError::Sockets)?;
    let pid = choose(listening(&String::from_utf8_lossy(&table), &prefix(instance)))?;
    ask_one(instance, pid, &to_line(demand).ok_or(AskError::NotARequest)?)
}

/// The pids at the end of the names that listen. A line is `Num RefCount Protocol Flags Type St Inode Path`; `@` is the NUL.
pub(super) fn listening(table: &str, prefix: &str) -> BTreeSet<Pid> {
    let pid_of = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let name = fields.nth(3)?.strip_prefix('@')?;
        let pid = name.strip_prefix(prefix)?.parse::<i32>().ok().filter(|pid| *pid > 0)?;
        (flags & LISTENS != 0).then_some(Pid(pid))
    };
    table.lines().filter_map(pid_of).collect()
}

pub(super) fn choose(pids: BTreeSet<Pid>) -> Result<Pid, AskError> {
    match pids.first() {
        None => Err(AskError::NotFound),
        // The lowest: pid 1 where it is among them.
        Some(pid) if *pid == Pid(1) || pids.len() == 1 => Ok(*pid),
        Some(_) => Err(AskError::Several(pids.into_iter().collect())),
    }
}

pub(super) fn ask_one(instance: Instance, pid: Pid, line: &str) -> Result<String, AskError> {
    let talk = |source| AskError::Talk { pid, source };
    if line.len() > LONGEST_REQUEST {
        return Err(AskError::Refused("the message is longer than 64 KiB".to_owned()));
    }
    let mut stream = connect(&format!("\0{}{pid}", prefix(instance))).map_err(talk)?;
    let found = Peer::of(&stream).map_err(talk)?;
    if found.pid != pid || (found.uid != 0 && found.uid != geteuid().as_raw()) {
        return Err(AskError::Stranger { named: pid, found });
    }
    // A server that has refused already may have closed its end: its answer tells more than the failure to write.
    let sent = stream.write_all(line.as_bytes());
    let mut answer = String::new();
    let received = stream.take(LONGEST_ANSWER).read_to_string(&mut answer);
    match answer.trim_end().split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some(("refused", text)) => Err(AskError::Refused(text.to_owned())),
        _ => {
            sent.and(received.map(drop)).map_err(talk)?;
            Err(AskError::NoAnswer { pid, answer })
        }
    }
}

/// The timeouts are set before connecting: whoever took the name may have a full backlog and never accept.
fn connect(name: &str) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(name)?)?;
    Ok(UnixStream::from(std::os::fd::OwnedFd::from(socket)))
}

fn list(pids: &[Pid]) -> String {
    pids.iter().map(Pid::to_string).collect::<Vec<_>>().join(", ")
}
