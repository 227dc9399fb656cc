//! clusterinit: PID 1 that turns one container into a cluster of workers.
//!
//! Read `ARCHITECTURE.md` for the picture, the state machines and where to change what. This is the short map.
//!
//! | room | what it does | may use |
//! |---|---|---|
//! | [`cluster`] | decides: events in, effects out; no I/O, no clock | nothing of ours |
//! | [`config`] | the environment becomes a `Config`, or all its mistakes | `cluster` |
//! | [`sys`] | one kernel facility per file, no policy | the words of `cluster`, `config::User`, the clock |
//! | [`notify`], [`listen`] | `sd_notify` and socket activation | `cluster`, `config` |
//! | [`share`] | one port, many workers | `sys`, the words of `cluster`, `config` |
//! | [`output`] | what workers write, line by line; no I/O | nothing of ours |
//! | [`node`] | Node's cluster protocol | `share`, `sys`, the words of `cluster` |
//! | [`control`], [`http`] | who asks for something; who looks | `cluster`, `sys`, the clock |
//! | [`plan`] | configuration and machine become a policy | `cluster`, `config`, `sys` |
//! | [`runtime`] | the only loop and the only owner | all of the above |
//! | [`cli`], [`start`] | the command line, and the way to the loop | everything |
//! | [`hints`] | what runtimes are told of their share | the words of `cluster` |
//! | [`exit`], [`telemetry`] | exit statuses; log lines that never block | `config` |
//!
//! # Laws
//! 1. **One owner.** The task that signals is the task that reaps: a leader's pid in the state is never a reused number.
//! 2. **Answers first.** A `Spawn` is answered by `Forked` or `ForkRefused` before anything else is read.
//! 3. **One reaper.** Every wait is in `sys/reap.rs`; it reaps until there is nothing left. No `tokio::process`, no `Child`.
//! 4. **After the first spawn nothing returns `Err`.** It becomes an event or a log line; PID 1 ends only by decision.
//! 5. **The data path belongs to the kernel.** Nothing of ours runs per connection or per request (Node's round robin, where a user
//!    asks for it, is the one exception).
//! 6. **Nothing is written** to a file system but the termination log, a socket file that `LISTEN=unix:` or a Node worker asks for, and groups of our own
//!    below a cgroup v2 that we may write.
//! 7. **A figure is true or null.**
//!
//! # Unsafe
//! Denied in `Cargo.toml`; these files expect it, each with its reason, one operation per block:
//!
//! | file | why |
//! |---|---|
//! | `main.rs` | names that the linker and jemalloc look for: the constructor, the allocator's options |
//! | `sys/init.rs` | the constructor before `main`, the raw signal mask, `prctl` |
//! | `sys/process.rs` | `fork`, the calls between fork and exec, `kill` |
//! | `sys/outcome.rs` | `sendmsg` between fork and exec; a descriptor that was received is taken into ownership |
//! | `sys/seccomp.rs` | `seccomp` between fork and exec, and the ioctls of its listeners |
//! | `sys/reap.rs` | `waitid`, `waitpid`: nix cannot represent an end by a real-time signal |
//! | `sys/signals.rs` | the sender's pid and uid are in a union of `siginfo_t` |
//! | `sys/poll.rs` | tokio wants a promise about the epoll descriptor |
//! | `sys/descriptor.rs` | a descriptor that the kernel has just made is taken into ownership |
//! | `sys/memory.rs` | `mallctl` and `madvise`, to give memory back |
//! | `sys/identity.rs` | raw calls that change the ids of one thread |
//! | `sys/xattr.rs` | `getxattr`, which nix does not have |
//! | `share/probe.rs` | the calls of a forked child |
//! | `share/probe/tests.rs` | tests fork, and take rights from themselves |
//! | `node/channel.rs` | a descriptor that was received is taken into ownership |
//! | `notify.rs` | `recvmsg`: nix keeps back the credentials where descriptors came along |
//! | `telemetry.rs` | `pwritev2`, which nix does not have; standard descriptors by number |
//! | `share/sockets/queue.rs` | `getsockopt(TCP_INFO)`: the safe wrappers panic where a kernel has less of it |
//! | `control/tests.rs` | a test becomes another user on one thread only |
//! | `share/connections/tests.rs` | the same |

pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod exit;
pub mod hints;
pub mod http;
pub mod listen;
pub mod node;
pub mod notify;
pub mod output;
pub mod plan;
pub mod runtime;
pub mod share;
#[cfg(test)]
mod skip;
pub mod start;
pub mod sys;
pub mod telemetry;
