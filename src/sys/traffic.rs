//! Open connections and filled accept queues of each worker, for the side port: measured when asked, with yields in between.
//!
//! One list of all listeners, one of the connections on each port (of all, where there are several), and the descriptors of the
//! processes that may have them. A connection is its worker's once it was accepted; before, it is one of the accept queue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use tokio::task::yield_now;

use super::open_sockets::OpenSockets;
use super::sock_diag::{ANY_PORT, Diag, ESTABLISHED, Family, LISTEN, Tcp};
use crate::cluster::words::{Life, Pid};

/// Inode and port of each listener of a worker. A worker that is not in it: nobody knows.
pub type Listeners = BTreeMap<Life, Vec<(u64, u16)>>;

/// `None`: cannot be had here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Accepted on one of its listeners, and established.
    pub connections: Option<u32>,
    /// In a queue that several workers share: all that wait in it.
    pub accept_queue: Option<u32>,
}

/// The traffic of these workers, given with all their processes.
pub async fn traffic(workers: &[(Life, Vec<Pid>)], listeners: &Listeners) -> HashMap<Life, Traffic> {
    let mut found = HashMap::new();
    if listeners.is_empty() {
        return found;
    }
    let tables = Tables::read(listeners).await.ok();
    for (life, processes) in workers {
        let (Some(own), Some(tables)) = (listeners.get(life), &tables) else { continue };
        found.insert(*life, tables.of(own, processes).await);
    }
    found
}

/// What the kernel lists.
struct Tables {
    /// How many wait, by the listener's inode.
    queues: HashMap<u64, u32>,
    /// Local port by the connection's inode.
    connections: HashMap<u64, u16>,
}

impl Tables {
    async fn read(listeners: &Listeners) -> io::Result<Self> {
        let mut diag = Diag::open()?;
        let mut queues = HashMap::new();
        for family in Family::BOTH {
            let listed = list(&mut diag, family, ANY_PORT, LISTEN).await?;
            queues.extend(listed.iter().map(|listener| (listener.inode, listener.unread)));
        }
        let all: Vec<(u64, u16)> = listeners.values().flatten().copied().collect();
        let mut connections = HashMap::new();
        for (family, port) in diag.lists(&all)? {
            let listed = list(&mut diag, family, port, ESTABLISHED).await?;
            // What waits in a queue has no inode.
            connections.extend(listed.iter().filter(|one| one.inode != 0).map(|one| (one.inode, one.port)));
        }
        Ok(Self { queues, connections })
    }

    async fn of(&self, own: &[(u64, u16)], processes: &[Pid]) -> Traffic {
        let ports: HashSet<u16> = own.iter().map(|(_, port)| *port).collect();
        let sockets = if ports.is_empty() { Some(HashSet::new()) } else { sockets(processes).await };
        let connections = sockets.map(|sockets| {
            let accepted = sockets.iter().filter_map(|inode| self.connections.get(inode)).filter(|port| ports.contains(port));
            u32::try_from(accepted.count()).unwrap_or(u32::MAX)
        });
        // One that is not listed has been shut down, and nothing waits in it.
        let accept_queue = own.iter().filter_map(|(inode, _)| self.queues.get(inode)).sum();
        Traffic { connections, accept_queue: Some(accept_queue) }
    }
}

async fn list(diag: &mut Diag, family: Family, port: u16, state: u8) -> io::Result<Vec<Tcp>> {
    let mut found = Vec::new();
    diag.list(family, port, &[state])?;
    while diag.read_more(&mut found)? {
        yield_now().await;
    }
    Ok(found)
}

/// `None`: one of them may not be looked into.
async fn sockets(processes: &[Pid]) -> Option<HashSet<u64>> {
    let mut sockets = HashSet::new();
    for process in processes {
        let mut look = OpenSockets::of(*process)?;
        let mut found = Vec::new();
        while look.read_more(&mut found) {
            yield_now().await;
        }
        sockets.extend(found.into_iter().map(|(_, inode)| inode));
        yield_now().await;
    }
    Some(sockets)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use tokio::runtime::Builder;

    use super::*;

    fn run(workers: &[(Life, Vec<Pid>)], listeners: &Listeners) -> HashMap<Life, Traffic> {
        Builder::new_current_thread().build().expect("a runtime").block_on(traffic(workers, listeners))
    }

    fn own() -> Pid {
        Pid(i32::try_from(std::process::id()).expect("pids fit"))
    }

    fn named(listener: &TcpListener) -> (u64, u16) {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).expect("open");
        let inode = link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        (inode.expect("a socket"), listener.local_addr().expect("bound").port())
    }

    #[test]
    fn what_was_accepted_counts_apart_from_what_waits_in_each_family() {
        let listeners = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))];
        let listeners = listeners.map(|listener| listener.expect("bound"));
        let names: Vec<_> = listeners.iter().map(named).collect();
        // The second speaks IPv4 too.
        let mut clients: Vec<TcpStream> = Vec::new();
        let mut accepted = Vec::new();
        for (listener, (_, port)) in listeners.iter().zip(&names) {
            clients.extend((0..5).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).expect("connected")));
            accepted.extend((0..3).map(|_| listener.accept().expect("one waits")));
        }
        let workers = [(Life(1), vec![own()]), (Life(2), vec![own()]), (Life(3), vec![Pid(i32::MAX)]), (Life(4), vec![own()])];
        let known = Listeners::from([(Life(1), names.clone()), (Life(2), Vec::new()), (Life(3), names)]);
        let found = run(&workers, &known);
        assert_eq!(found[&Life(1)], Traffic { connections: Some(6), accept_queue: Some(4) });
        assert_eq!(found[&Life(2)], Traffic { connections: Some(0), accept_queue: Some(0) }, "without a listener");
        assert_eq!(found[&Life(3)].connections, Some(0), "gone");
        assert_eq!(found.get(&Life(4)), None, "nobody knows its listeners");
        drop((clients, accepted));
    }

    #[test]
    fn where_ports_are_not_shared_nothing_is_known() {
        assert!(run(&[(Life(1), vec![own()])], &Listeners::new()).is_empty());
    }
}
