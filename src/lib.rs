//! clusterinit: PID 1 that turns one container into a cluster.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod exit;
pub mod http;
pub mod listen;
pub mod notify;
pub mod plan;
pub mod runtime;
pub mod start;
pub mod sys;
pub mod telemetry;
