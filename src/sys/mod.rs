//! One kernel facility per file, no policy.

pub mod descriptor;
pub mod instance;
pub mod measure;
pub mod procfs;
pub mod tree;
