//! The pure core: what happens next, and why. No I/O, no clock, no tokio, no nix; time comes in as an argument.

pub mod event;
pub mod policy;
pub mod sizing;
pub mod status;
pub mod units;
pub mod words;
