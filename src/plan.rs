//! From what the user asked for and what this machine is to what will be done: the one place where `auto` becomes a number.
//!
//! Read-only and repeatable, so `clusterinit plan` shows exactly what a start with the same environment does.

pub mod sharing;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process;
use std::time::Duration;

use crate::cluster::policy::{Policy, ReadyMode, Restart};
use crate::cluster::sizing::{Caps, Inputs, Rule, Sizing};
use crate::cluster::status::Facts;
use crate::config::{self, Config, Output, Ready, Share, WorkerMemory, Workers};
use crate::node::command::{self, Script};
use crate::share::probe::{self, Refusal, Works};
use crate::sys::affinity;
use crate::sys::cgroup::{self, Limits};
use crate::sys::subgroups::Subgroups;

pub use sharing::Sharing;

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
    /// What it takes to answer workers' `bind` and `listen` here, or why that cannot be done.
    pub sharing: Result<Works, Refusal>,
    /// Where the command's file has privileges that `no_new_privs` would take from it: which.
    pub privileged_file: Option<String>,
    /// The command is node with a script.
    pub script: Option<Script>,
    /// `NODE_CLUSTER_SCHED_POLICY=rr` in the caller's environment.
    pub round_robin: bool,
    /// Whether each worker can have a cgroup of its own here, or why not.
    pub subgroups: Result<(), String>,
}

impl Machine {
    /// This very one, as this process sees it. `share`: whether it is worth trying what sharing needs; `file`: the command's.
    pub fn look(command: Vec<OsString>, share: Share, file: Option<&Path>) -> Self {
        let sharing = match share {
            Share::Off => Err(Refusal("it was not asked for".to_owned())),
            Share::Auto | Share::On => probe::probe(),
        };
        let is_pid1 = process::id() == 1;
        // Groups are the container's to divide: only its init may take them for its own.
        let subgroups = if is_pid1 { Subgroups::probe(Path::new("/")) } else { Err("clusterinit is not PID 1 here".to_owned()) };
        Self {
            sharing,
            subgroups,
            script: command::runs_script(&command),
            round_robin: false,
            privileged_file: file.and_then(probe::privileged_file),
            limits: cgroup::read(Path::new("/")),
            affinity: affinity::cpus(),
            stdin_is_terminal: io::stdin().is_terminal(),
            is_pid1,
            command,
            watchdog: None,
        }
    }

    fn needs_no_new_privs(&self) -> bool {
        self.sharing.as_ref().is_ok_and(|works| works.needs_no_new_privs)
    }

    /// `memory.enforced_by` of `/workers`: what holds workers to this cap.
    fn enforces(&self, cap: Option<u64>) -> &'static str {
        match (cap, &self.subgroups) {
            // `WORKER_MEMORY=off`, or a share of what has no limit.
            (None, _) => "off",
            (Some(_), Ok(())) => "cgroup",
            (Some(_), Err(_)) => "sampling",
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
    pub sharing: Sharing,
    /// `OUTPUT=prefix` is in force.
    pub prefixes: bool,
    /// What the start says about the choices that were made, one log line each.
    pub lines: Vec<String>,
}

impl Plan {
    /// `seed` is that of the jitter.
    pub fn new(config: &Config, machine: &Machine, seed: u64) -> Self {
        let sharing = Sharing::new(config, machine);
        let inputs = inputs(config, machine, &sharing);
        let sizing = Sizing::new(&inputs);
        let enforced_by = machine.enforces(sizing.share.memory);
        let kernel_caps = enforced_by == "cgroup";
        let policy = Policy { inputs, kernel_caps, ..policy(config, machine, &sizing, &sharing, seed) };
        let mut lines = vec![format!("{}: {}", workers(sizing.workers), sizing.explanation)];
        if policy.restart != config.restart {
            lines.push("a worker that ends is not replaced because stdin is a terminal".to_owned());
        }
        lines.extend(sizing.warnings.iter().cloned());
        lines.extend(sharing.lines(config, sizing.with_sharing));
        let mut facts =
            Facts { memory_enforced_by: enforced_by, worker_cap_bytes: sizing.share.memory, ..facts(config, machine, &sharing) };
        let asks = config.output == Output::Prefix;
        // Line by line, a shell could not even show its prompt.
        let interactive = machine.stdin_is_terminal && sizing.workers == 1;
        if asks && interactive {
            let why = "stdin is a terminal, so the only worker has it to itself";
            facts.not_in_force.push(format!("OUTPUT=prefix: {why}"));
        }
        Self { policy, facts, sizing, sharing, prefixes: asks && !interactive, lines }
    }
}

fn workers(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

fn inputs(config: &Config, machine: &Machine, sharing: &Sharing) -> Inputs {
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
        caps: match config.worker_memory {
            WorkerMemory::Cap(bytes) => Caps::Fixed(bytes),
            WorkerMemory::Auto => Caps::Share,
            WorkerMemory::Off => Caps::Off,
        },
        program: machine.program(),
        stdin_is_terminal: machine.stdin_is_terminal,
        one_port_each: sharing.allows_one_only(config),
    }
}

fn policy(config: &Config, machine: &Machine, sizing: &Sizing, sharing: &Sharing, seed: u64) -> Policy {
    let auto = config.workers == Workers::Auto;
    Policy {
        workers: sizing.workers,
        slot_zero_first: auto && config.listen.is_empty() && config.ready != Ready::Running,
        end_with_first: auto && config.restart == Restart::Auto,
        most_workers: sizing.automatic.max(sizing.workers).saturating_mul(4),
        memory_allows: sizing.memory_allows,
        inputs: Inputs::default(),
        memory_soft: config.memory_soft,
        kernel_caps: false,
        // An explicit RESTART is what the user wants, at a terminal too.
        restart: match config.restart {
            Restart::Auto if sizing.rule == Rule::Terminal => Restart::Never,
            asked => asked,
        },
        backoff: config.backoff,
        ready: match config.ready {
            Ready::Auto => ReadyMode::Auto,
            Ready::Notify => ReadyMode::Notify,
            Ready::Listen => ReadyMode::Listen,
            Ready::Running => ReadyMode::Running,
        },
        // With LISTEN the sockets listen before the worker runs.
        sees_listening: sharing.shares() && config.listen.is_empty(),
        quiet: sharing.finds_quiet(config),
        hang_timeout: config.hang_timeout,
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

fn facts(config: &Config, machine: &Machine, sharing: &Sharing) -> Facts {
    let (cpu, memory) = (machine.limits.cpu.as_ref(), machine.limits.memory.as_ref());
    Facts {
        cpu_limit: cpu.map(|limit| limit.cpus),
        cpu_source: cpu.map(|limit| limit.source.display().to_string()),
        memory_limit_bytes: memory.map(|limit| limit.bytes),
        memory_source: memory.map(|limit| limit.source.display().to_string()),
        memory_enforced_by: "off",
        worker_cap_bytes: None,
        share_mechanism: sharing.mechanism(config),
        balance: sharing.balance(config),
        share_disconnects: sharing.disconnects(config),
        speaks_node: sharing.node.is_some(),
        share_reason: sharing.reason(config),
        not_in_force: config::not_in_force(config, sharing.shares(), sharing.node.is_some()),
    }
}
