//! One kernel facility per file, no policy.

pub mod affinity;
pub mod cgroup;
pub mod descriptor;
pub mod init;
pub mod instance;
pub mod listening;
pub mod measure;
pub mod memory;
pub mod owners;
pub mod poll;
pub mod process;
pub mod procfs;
pub mod reap;
pub mod signals;
pub mod tree;
