//! Which mechanism shares the ports here, and where there is none, why and what to do. Never silent.
//!
//! In this order: Node's own protocol and seccomp (both, where both work), `LISTEN`, the server's own `SO_REUSEPORT` (nothing of ours),
//! one worker.

use super::Machine;
use crate::cluster::sizing::Workers;
use crate::config::{Balance, Config, ListenAddress, NodeIpc, Share, StopWhen};

/// What is done about ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Workers' `bind` and `listen` are answered by us.
    pub seccomp: bool,
    /// Each worker gives up its right to gain privileges by exec.
    pub no_new_privs: bool,
    /// Why `seccomp` is not in force.
    pub reason: Option<String>,
    /// Workers speak Node's cluster protocol with us.
    pub node: Option<Node>,
}

/// How Node's protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub preload: bool,
    pub shutdown_message: bool,
    /// Connections are handed over one by one.
    pub rotates: bool,
}

/// What to do where ports cannot be shared, for people.
const REMEDY: &str = "CLUSTERINIT_LISTEN hands listeners to the workers, servers that set SO_REUSEPORT share by themselves, \
                      CLUSTERINIT_WORKERS=N runs N all the same";

impl Sharing {
    pub fn new(config: &Config, machine: &Machine) -> Self {
        let node = node(config, machine);
        match refusal(config, machine) {
            Some(reason) => Self { seccomp: false, no_new_privs: false, reason: Some(reason), node },
            None => Self { seccomp: true, no_new_privs: machine.needs_no_new_privs(), reason: None, node },
        }
    }

    /// Ports that a server opens by itself are shared.
    pub fn shares(&self) -> bool {
        self.seccomp || self.node.is_some()
    }

    /// `share.mechanism` of `/workers`.
    pub fn mechanism(&self, config: &Config) -> &'static str {
        match self.seccomp {
            _ if !config.listen.is_empty() => "listen-fds",
            _ if self.node.is_some() => "node",
            true => "seccomp",
            false => "none",
        }
    }

    /// `share.reason`: only where nothing is shared.
    pub fn reason(&self, config: &Config) -> Option<String> {
        self.reason.clone().filter(|_| config.listen.is_empty() && self.node.is_none())
    }

    /// The balance in force.
    pub fn balance(&self, config: &Config) -> Option<&'static str> {
        (self.shares() || !config.listen.is_empty()).then_some(match config.balance {
            _ if self.node.is_some_and(|node| node.rotates) => "rr",
            Balance::Spread | Balance::Rr => "spread",
            Balance::Queue => "queue",
            Balance::Sticky => "sticky",
        })
    }

    /// A worker can be taken out of rotation while it goes on with what it has. Unix sockets are one queue for all.
    pub fn disconnects(&self, config: &Config) -> bool {
        let hands_out_tcp = config.listen.iter().any(|listen| matches!(listen.address, ListenAddress::Tcp(_)));
        config.balance != Balance::Queue && if config.listen.is_empty() { self.shares() } else { hands_out_tcp }
    }

    /// Connections of a worker are known by its listeners, so that an instant of quiet can be found.
    pub fn finds_quiet(&self, config: &Config) -> bool {
        config.stop_when == StopWhen::Quiet && (self.shares() || !config.listen.is_empty())
    }

    /// `WORKERS=auto` runs one: a second copy of an ordinary server would fail at its `bind`.
    pub fn allows_one_only(&self, config: &Config) -> bool {
        config.workers == Workers::Auto && config.share == Share::Auto && !self.shares() && config.listen.is_empty()
    }

    /// What the start says about it.
    pub fn lines(&self, config: &Config, automatic: u32) -> Vec<String> {
        if self.no_new_privs && self.seccomp {
            let line =
                "sharing ports needs no_new_privs in the workers: setuid programs and file capabilities have no effect there";
            return vec![format!("{line} (CLUSTERINIT_SHARE=off does without)")];
        }
        let Some(reason) = self.reason.as_ref().filter(|_| config.listen.is_empty() && config.share == Share::Auto) else {
            return Vec::new();
        };
        if self.node.is_some() {
            vec![format!("ports are shared by Node's cluster protocol only, not those that other programs open: {reason}")]
        } else if self.allows_one_only(config) && automatic > 1 {
            vec![format!("ports are not shared: {reason}; so 1 worker in place of {automatic}: {REMEDY}")]
        } else {
            vec![format!("ports are not shared: {reason}")]
        }
    }
}

/// Whether workers are Node's, and how it is spoken with them.
fn node(config: &Config, machine: &Machine) -> Option<Node> {
    let NodeIpc { speaks, preload, shutdown_message } = config.node_ipc;
    let speaks = speaks.unwrap_or(machine.script.is_some() && config.share != Share::Off);
    let rotates = config.balance == Balance::Rr || machine.round_robin && config.balance == Balance::Spread;
    let may_preload = machine.script.is_none_or(|script| script.preload);
    speaks.then_some(Node { preload: preload && may_preload, shutdown_message, rotates })
}

/// Why workers' calls are left to the kernel.
fn refusal(config: &Config, machine: &Machine) -> Option<String> {
    match config.share {
        Share::Off => return Some("CLUSTERINIT_SHARE=off says so".to_owned()),
        Share::Auto if machine.stdin_is_terminal && config.workers == Workers::Auto => {
            return Some("stdin is a terminal".to_owned());
        }
        Share::Auto | Share::On => {}
    }
    match &machine.sharing {
        Err(refusal) => Some(refusal.to_string()),
        Ok(_) => machine.privileged_file.clone().filter(|_| config.share == Share::Auto && machine.needs_no_new_privs()),
    }
}
