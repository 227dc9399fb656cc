//! One kernel facility per file, no policy.

pub mod procfs;
