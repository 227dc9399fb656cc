//! One kernel facility per file, no policy.

pub mod affinity;
pub mod cgroup;
pub mod descriptor;
#[cfg(test)]
mod family;
pub mod footprint;
pub mod identity;
pub mod init;
pub mod instance;
mod kept;
pub mod limits;
pub mod listening;
pub mod measure;
pub mod memory;
pub mod open_sockets;
pub mod outcome;
pub mod owners;
pub mod pipe;
pub mod poll;
pub mod process;
pub mod procfs;
pub mod reap;
pub mod seccomp;
pub mod signals;
pub mod smaps;
pub mod sock_diag;
pub mod subgroups;
pub mod terminal;
pub mod threads;
pub mod timer;
pub mod traffic;
pub mod tree;
pub mod xattr;
