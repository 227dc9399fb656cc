//! The command line: what was asked for, and the read-only commands.

pub mod args;
pub mod plan;
