//! One kernel facility per file, no policy.

pub mod init;
pub mod poll;
pub mod process;
pub mod procfs;
pub mod reap;
pub mod signals;
pub mod tree;
