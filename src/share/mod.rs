//! One port, many workers: the copies of a server that was not written for it share its listening TCP ports.
//!
//! A worker's `bind` and `listen` stop in the kernel (seccomp user notification) until clusterinit has answered them; every other
//! call runs at the kernel's own speed. What the worker gets is a socket that PID 1 keeps for the container's life:
//!
//! ```text
//! worker            broker                         sockets
//! bind(fd, A)   ->  a sibling of A, bound      ->  anchor of A (holds the address, never listens)
//! listen(fd)    ->  the lane of this life      ->  lanes of A: one accept queue each, SO_REUSEPORT
//!                                                  balance: a BPF program picks among the lanes of the live set
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `address.rs` | PURE: socket addresses as workers name them |
//! | `balance.rs` | PURE: live set -> classic BPF |
//! | `sockets/` | the sockets by address: anchor, lanes, owners, live set |
//! | `filter.rs` | the seccomp program |
//! | `caller.rs` | what can be learned of the process whose call it is |
//! | `broker.rs` | one call, one answer |
//! | `queues.rs` | PURE: who leaves connections waiting |
//! | `decide.rs` | PURE: what becomes of a `bind` |
//! | `marks.rs` | PURE: what is remembered of a worker's sockets |
//! | `holder.rs` | who has a port that a worker could not get |
//! | `probe.rs` | what works here, and if not, why |
//! | `connections.rs` | open connections of a worker (`sock_diag`) |
//! | `quiet.rs` | PURE: has a connection a request in flight? |

pub mod address;
pub mod balance;
pub mod broker;
pub mod caller;
pub mod connections;
mod decide;
pub mod filter;
mod holder;
mod marks;
pub mod probe;
pub mod queues;
pub mod quiet;
pub mod sockets;
