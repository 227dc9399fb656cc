//! Layer 1: the real binary, end to end, as a subreaper and as real PID 1 of a PID namespace.
//!
//! One file per subject of the contract; `support` runs the binary and watches it. All in one crate, so that it links once.
//! `cargo test --test e2e stop::` runs one subject. What cannot run on a machine says `SKIPPED`, loudly, and fails with
//! `CLUSTERINIT_TEST_NO_SKIP=1`.

#[cfg(test)]
mod config;
#[cfg(test)]
mod exit_status;
#[cfg(test)]
mod hints;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod node;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod output;
#[cfg(test)]
mod page;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod reaping;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod robustness;
#[cfg(test)]
mod share;
#[cfg(test)]
mod side_port;
#[cfg(test)]
mod signals;
#[cfg(test)]
mod status;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod support;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod worker_environment;
