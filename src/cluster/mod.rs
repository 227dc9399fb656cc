//! The pure core: what happens next, and why. No I/O, no clock, no tokio, no nix; time comes in as an argument.
//!
//! Facts come in as [`event::Event`]s (past tense), decisions go out as [`effect::Effect`]s (imperative), and the one state machine
//! between them is [`Supervisor`]. Because it is pure, `sim` can drive thousands of histories through it in virtual time.
#![warn(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod effect;
mod ending;
pub mod event;
mod hang;
pub mod journal;
mod memory;
pub mod policy;
mod publish;
mod readiness;
mod resize;
mod restart;
mod retire;
mod rollout;
mod roster;
mod scale;
mod shutdown;
#[cfg(test)]
mod sim;
pub mod sizing;
mod slots;
pub mod status;
mod supervisor;
mod tally;
#[cfg(test)]
mod timetable;
pub mod units;
pub mod words;
mod worker;

pub use memory::Look;
pub use supervisor::Supervisor;
