//! clusterinit: PID 1 that turns one container into a cluster.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod plan;
pub mod sys;
