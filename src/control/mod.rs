//! `clusterinit reload | stop | scale N | restart SLOT | send all|SLOT JSON`: how a person inside the container asks, without a port and without a file.
//!
//! ```text
//! client: /proc/net/unix -> @clusterinit/MNT/PID/1 --"scale 4\n"--> server -> runtime
//!                                    "ok ...\n" or "refused ...\n" <--
//! ```
//! The socket is abstract, named by the namespaces of its owner and its pid. Abstract names belong to the network namespace, which
//! the containers of a pod share: anybody there may connect, or take a name first. So each side looks at the credentials that the
//! kernel gives it, and goes on only with a process of its own PID namespace that runs as the same user or as root.

mod client;
mod server;

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;

use crate::cluster::event::Request;
use crate::cluster::words::{Pid, Slot};
use crate::sys::instance::Instance;

pub use client::{AskError, ask};
pub use server::{Asked, Server, serve};

/// What a request line may have, its newline included: most of it is for the JSON of `send`.
const LONGEST_REQUEST: usize = 64 * 1024;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    Cluster(Request),
    /// A message for the programs of workers that speak Node's protocol.
    Send(Whom, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    All,
    Slot(Slot),
}

impl Whom {
    /// `all`, or the number of a slot.
    pub fn parse(word: &str) -> Option<Self> {
        if word == "all" { Some(Self::All) } else { word.parse().ok().map(|slot| Self::Slot(Slot(slot))) }
    }
}

/// The abstract name, without the NUL in front and without the pid at the end.
fn prefix(instance: Instance) -> String {
    format!("clusterinit/{}/{}/", instance.mnt, instance.pid)
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// 0: not in our PID namespace.
    pub pid: Pid,
    pub uid: u32,
}

impl Peer {
    fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, PeerCredentials)?;
        Ok(Self { pid: Pid(credentials.pid()), uid: credentials.uid() })
    }

    /// The same user or root, from a process that we can see.
    fn may_ask(self) -> bool {
        self.pid != Pid(0) && (self.uid == 0 || self.uid == geteuid().as_raw())
    }
}

/// The request as it goes over the socket; `None` for one that only signals can make.
fn to_line(demand: &Demand) -> Option<String> {
    let request = match demand {
        Demand::Cluster(request) => request,
        // Line breaks are blanks in JSON: inside of strings they are escaped.
        Demand::Send(whom, json) => {
            let whom = match whom {
                Whom::All => "all".to_owned(),
                Whom::Slot(slot) => slot.to_string(),
            };
            return Some(format!("send {whom} {}\n", json.replace(['\n', '\r'], " ")));
        }
    };
    match request {
        Request::Reload => Some("reload\n".to_owned()),
        Request::Stop { .. } => Some("stop\n".to_owned()),
        Request::Scale(count) => Some(format!("scale {count}\n")),
        Request::Restart(Slot(slot)) => Some(format!("restart {slot}\n")),
        Request::StopNow | Request::More | Request::Fewer => None,
    }
}

/// A request as it is written on the command line and on the socket, without the newline. Whether something listens is for the
/// runtime to fill in.
pub fn parse(line: &str) -> Option<Demand> {
    if let Some(rest) = line.strip_prefix("send ") {
        let (whom, json) = rest.split_once(' ')?;
        return Some(Demand::Send(Whom::parse(whom)?, json.to_owned()));
    }
    request(line).map(Demand::Cluster)
}

fn request(line: &str) -> Option<Request> {
    let mut words = line.split(' ');
    let request = match words.next()? {
        "reload" => Request::Reload,
        "stop" => Request::Stop { interrupt: false, listening: false },
        "scale" => Request::Scale(words.next()?.parse().ok()?),
        "restart" => Request::Restart(Slot(words.next()?.parse().ok()?)),
        _ => return None,
    };
    words.next().is_none().then_some(request)
}

#[cfg(test)]
mod tests;
