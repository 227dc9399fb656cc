//! One kernel facility per file, no policy.

pub mod affinity;
pub mod cgroup;
pub mod procfs;
