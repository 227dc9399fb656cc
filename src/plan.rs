//! From what the user asked for and what this machine is to what will be done: the one place where `auto` becomes a number.
//!
//! Read-only and repeatable, so `clusterinit plan` shows exactly what a start with the same environment does.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process;
use std::time::Duration;

use crate::cluster::policy::{Policy, ReadyMode, Restart};
use crate::cluster::sizing::{Inputs, Rule, Sizing};
use crate::cluster::status::Facts;
use crate::config::{self, Config, Ready, WorkerMemory, Workers};
use crate::sys::affinity;
use crate::sys::cgroup::{self, Limits};

/// What the plan depends on besides the configuration.
#[derive(Clone, Debug)]
pub struct Machine {
    pub limits: Limits,
    /// CPUs in the affinity mask.
    pub affinity: u32,
    pub stdin_is_terminal: bool,
    pub is_pid1: bool,
    /// The command and its arguments; empty where `plan` was asked without one.
    pub command: Vec<OsString>,
    /// `WATCHDOG_USEC` of the caller's environment, which only `main` reads.
    pub watchdog: Option<Duration>,
}

impl Machine {
    /// This very one, as this process sees it.
    pub fn look(command: Vec<OsString>) -> Self {
        Self {
            limits: cgroup::read(Path::new("/")),
            affinity: affinity::cpus(),
            stdin_is_terminal: io::stdin().is_terminal(),
            is_pid1: process::id() == 1,
            command,
            watchdog: None,
        }
    }

    /// The command's base name: `java` for `/usr/bin/java`.
    fn program(&self) -> String {
        let name = self.command.first().and_then(|command| Path::new(command).file_name());
        name.unwrap_or_default().to_string_lossy().into_owned()
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub policy: Policy,
    pub facts: Facts,
    pub sizing: Sizing,
    /// What the start says about the choices that were made, one log line each.
    pub lines: Vec<String>,
}

const NO_SHARING: &str = "port sharing is not in this version";

impl Plan {
    /// `seed` is that of the jitter.
    pub fn new(config: &Config, machine: &Machine, seed: u64) -> Self {
        let sizing = Sizing::new(&inputs(config, machine));
        let policy = policy(config, machine, &sizing, seed);
        let mut lines = vec![format!("{}: {}", workers(sizing.workers), sizing.explanation)];
        if policy.restart != config.restart {
            lines.push("a worker that ends is not replaced because stdin is a terminal".to_owned());
        }
        Self { policy, facts: facts(config, machine), sizing, lines }
    }
}

fn workers(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

fn inputs(config: &Config, machine: &Machine) -> Inputs {
    Inputs {
        workers: config.workers,
        per_cpu: config.workers_per_cpu,
        rounding: config.cpu_rounding,
        cpu_limit: machine.limits.cpu.as_ref().map(|limit| limit.cpus),
        affinity: machine.affinity,
        memory_limit: machine.limits.memory.as_ref().map(|limit| limit.bytes),
        memory_reserve: config.memory_reserve,
        memory_per_worker: match config.worker_memory {
            WorkerMemory::Cap(bytes) => bytes,
            // A count that starts what cannot live is no better without caps.
            WorkerMemory::Auto | WorkerMemory::Off => config.worker_memory_min,
        },
        program: machine.program(),
        stdin_is_terminal: machine.stdin_is_terminal,
    }
}

fn policy(config: &Config, machine: &Machine, sizing: &Sizing, seed: u64) -> Policy {
    let auto = config.workers == Workers::Auto;
    Policy {
        workers: sizing.workers,
        slot_zero_first: auto && config.listen.is_empty() && config.ready != Ready::Running,
        end_with_first: auto && config.restart == Restart::Auto,
        most_workers: sizing.automatic.max(sizing.workers).saturating_mul(4),
        memory_allows: sizing.memory_allows,
        // An explicit RESTART is what the user wants, at a terminal too.
        restart: match config.restart {
            Restart::Auto if sizing.rule == Rule::Terminal => Restart::Never,
            asked => asked,
        },
        backoff: config.backoff,
        ready: match config.ready {
            Ready::Auto => ReadyMode::Auto,
            Ready::Notify => ReadyMode::Notify,
            // Listening cannot be seen yet; with LISTEN it is `running` for good.
            Ready::Listen | Ready::Running => ReadyMode::Running,
        },
        start_timeout: config.start_timeout,
        min_ready: config.min_ready,
        unhealthy_after: config.unhealthy_after,
        stop_signal: config.stop_signal,
        drain_delay: config.drain_delay(),
        grace: config.grace(),
        max_lifetime: config.max_lifetime,
        watchdog: machine.watchdog,
        owns_namespace: machine.is_pid1,
        seed,
    }
}

fn facts(config: &Config, machine: &Machine) -> Facts {
    let listens = !config.listen.is_empty();
    let (cpu, memory) = (machine.limits.cpu.as_ref(), machine.limits.memory.as_ref());
    Facts {
        cpu_limit: cpu.map(|limit| limit.cpus),
        cpu_source: cpu.map(|limit| limit.source.display().to_string()),
        memory_limit_bytes: memory.map(|limit| limit.bytes),
        memory_source: memory.map(|limit| limit.source.display().to_string()),
        memory_enforced_by: "off",
        worker_cap_bytes: None,
        share_mechanism: if listens { "listen-fds" } else { "none" },
        balance: listens.then_some("queue"),
        share_reason: (!listens).then(|| NO_SHARING.to_owned()),
        listeners: config.listen.iter().map(|listen| listen.address.to_string()).collect(),
        not_in_force: config::not_in_force(config),
    }
}
