//! `clusterinit plan`: what would be done here, and why. Nothing is started.
//!
//! For people: a section per question, one aligned line per answer, the same for the same machine and environment. A setting is
//! shown as it was written, and `auto` as what it comes to.

use std::fmt::Write;

use crate::cluster::policy::{DrainDelay, Restart};
use crate::cluster::units::{about, decimal, size};
use crate::config::{Config, Ready, SignalAction, VARIABLES, WorkerMemory, Workers, show_duration};
use crate::hints::Hints;
use crate::plan::{Machine, Plan};

/// The whole answer, ending in a newline.
pub fn print(config: &Config, machine: &Machine, hints: &Hints) -> String {
    let plan = Plan::new(config, machine, 0);
    let mut page = Page::default();
    command(&mut page, machine);
    cpu(&mut page, &plan, machine);
    workers(&mut page, &plan);
    memory(&mut page, config, &plan, machine);
    told(&mut page, config, &plan, hints);
    sharing(&mut page, config, &plan);
    settings(&mut page, config, &plan);
    notes(&mut page, "not in force", &plan.facts.not_in_force);
    notes(&mut page, "warnings", &[&config.warnings[..], &plan.sizing.warnings[..]].concat());
    page.0
}

/// Text in sections of aligned lines.
#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(title);
    }

    fn row(&mut self, label: &str, value: &str) {
        self.line(&format!("  {label:<17} {value}"));
    }

    fn line(&mut self, text: &str) {
        // A path may hold anything; a line stays a line.
        self.0.extend(text.trim_end().chars().map(|character| if character.is_control() { '?' } else { character }));
        self.0.push('\n');
    }
}

fn command(page: &mut Page, machine: &Machine) {
    page.section("command");
    let words: Vec<_> = machine.command.iter().map(|word| word.to_string_lossy()).collect();
    page.row(
        "run",
        if words.is_empty() { "none given: plan -- COMMAND takes it into account".to_owned() } else { words.join(" ") }.as_str(),
    );
    let role = if machine.is_pid1 { "PID 1 of this namespace" } else { "not PID 1: subreaper of its own descendants" };
    page.row("as", role);
}

fn cpu(page: &mut Page, plan: &Plan, machine: &Machine) {
    page.section("cpu");
    let limit = plan.facts.cpu_limit.map(|limit| counted(&decimal(limit), "CPU"));
    page.row("limit", &found(limit, plan.facts.cpu_source.as_ref()));
    page.row("affinity mask", &counted(&machine.affinity.to_string(), "CPU"));
}

fn counted(number: &str, noun: &str) -> String {
    if number == "1" { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A limit and the file it came from.
fn found(limit: Option<String>, source: Option<&String>) -> String {
    match (limit, source) {
        (Some(limit), Some(source)) => format!("{limit}, from {source}"),
        _ => "none that can be seen here".to_owned(),
    }
}

fn workers(page: &mut Page, plan: &Plan) {
    let sizing = &plan.sizing;
    page.section("workers");
    page.row("count", &sizing.workers.to_string());
    page.row("decided by", &sizing.rule.to_string());
    for (at, step) in sizing.steps.iter().enumerate() {
        page.row(if at == 0 { "auto" } else { "" }, step);
    }
    if sizing.automatic != sizing.workers {
        page.row("", &format!("would be {}", sizing.automatic));
    }
    let order = if plan.policy.slot_zero_first && sizing.workers > 1 {
        "slot 0 alone, the others when it is ready"
    } else {
        "all at once"
    };
    page.row("start", order);
    page.row("scaling", &format!("1 to {}", plan.policy.most_workers));
}

fn memory(page: &mut Page, config: &Config, plan: &Plan, machine: &Machine) {
    let (sizing, facts) = (&plan.sizing, &plan.facts);
    page.section("memory");
    page.row("limit", &found(facts.memory_limit_bytes.map(size), facts.memory_source.as_ref()));
    if let Some(reserve) = sizing.reserve_bytes {
        let formula = if config.memory_reserve.is_none() {
            ": 32Mi + 4Mi for each worker above 2, at most a quarter of the limit"
        } else {
            ", as MEMORY_RESERVE says"
        };
        page.row("reserve", &format!("{}{formula}", size(reserve)));
    }
    if let Some(allowed) = sizing.memory_allows {
        let each = size(plan.policy.inputs.memory_per_worker);
        page.row("room for", &format!("{} of {each}", counted(&allowed.to_string(), "worker")));
    }
    let (label, cap) = cap(config, plan);
    page.row(label, &cap);
    page.row("enforced by", &enforcement(config, plan, machine));
    page.row("replaced", &replacement(config, plan));
}

/// What a worker's tree may use, and where the number comes from.
fn cap(config: &Config, plan: &Plan) -> (&'static str, String) {
    let (sizing, inputs) = (&plan.sizing, &plan.policy.inputs);
    let fair = || {
        let (limit, reserve) = (inputs.memory_limit?, sizing.reserve_bytes?);
        let share = inputs.fair_share(sizing.workers)?;
        let exactly = if about(share) == size(share) { String::new() } else { format!(", {share} bytes") };
        Some(format!("({} - {} reserve) / {} = {}{exactly}", size(limit), size(reserve), sizing.workers, about(share)))
    };
    match config.worker_memory {
        WorkerMemory::Cap(bytes) => ("cap of a worker", format!("{}, as WORKER_MEMORY says", size(bytes))),
        WorkerMemory::Auto => ("share of a worker", fair().unwrap_or_else(|| "none: there is no limit to share".to_owned())),
        WorkerMemory::Off => ("cap of a worker", "none: WORKER_MEMORY=off".to_owned()),
    }
}

fn enforcement(config: &Config, plan: &Plan, machine: &Machine) -> String {
    let when = match config.worker_memory {
        WorkerMemory::Cap(_) => "at any time",
        WorkerMemory::Auto | WorkerMemory::Off => "while the container is short of memory",
    };
    match (plan.facts.memory_enforced_by, &machine.subgroups) {
        ("sampling", Err(why)) => format!("sampling, {when} (no cgroup for each worker: {why})"),
        ("off", _) => "off: there is no cap".to_owned(),
        (by, _) => format!("{by}, {when}"),
    }
}

/// When a worker is replaced before it would have to be killed.
fn replacement(config: &Config, plan: &Plan) -> String {
    let Some(soft) = config.memory_soft.filter(|_| plan.facts.memory_enforced_by != "off") else {
        return "never for its memory".to_owned();
    };
    match config.worker_memory {
        WorkerMemory::Cap(cap) => {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "for people"
            )]
            let bytes = (cap as f64 * soft) as u64;
            format!("at {} % of the cap: {}, {bytes} bytes", decimal(soft * 100.0), about(bytes))
        }
        _ => "above its share, before the container is so short that it is killed".to_owned(),
    }
}

/// Each variable that a worker gets beside what the caller has set.
fn told(page: &mut Page, config: &Config, plan: &Plan, hints: &Hints) {
    let (sizing, share) = (&plan.sizing, plan.sizing.share);
    page.section("runtime hints");
    let cpus = counted(&share.cpus.to_string(), "CPU");
    let memory = share.memory.map_or_else(String::new, |bytes| format!(" and {} of memory", about(bytes)));
    let why = match sizing.workers {
        _ if !config.runtime_hints => "none: RUNTIME_HINTS=off".to_owned(),
        1 => "none: one worker has all".to_owned(),
        workers => format!("for {cpus}{memory}: each of {workers} workers"),
    };
    page.row("share", &why);
    for hint in hints.shown(share, sizing.workers) {
        page.row("", &hint);
    }
}

fn sharing(page: &mut Page, config: &Config, plan: &Plan) {
    let facts = &plan.facts;
    page.section("port sharing");
    let mechanism = match &facts.share_reason {
        Some(reason) => format!("{}: {reason}", facts.share_mechanism),
        None => facts.share_mechanism.to_owned(),
    };
    page.row("mechanism", &mechanism);
    if let Some(balance) = facts.balance {
        page.row("balance", balance);
    }
    if let Some(node) = plan.sharing.node {
        let how = match (node.preload, config.node_ipc.preload) {
            (true, _) => "with a preload in NODE_OPTIONS",
            (false, true) => "without the preload: the script's extension is none of .js, .cjs, .mjs",
            (false, false) => "without the preload: CLUSTERINIT_NODE_IPC says so",
        };
        page.row("node", &format!("its cluster protocol is spoken, {how}"));
        let others = if plan.sharing.seccomp { "shared too" } else { "not shared" };
        page.row("", &format!("ports that other programs open are {others}"));
    }
    if plan.sharing.seccomp {
        let rights = if plan.sharing.no_new_privs { "needed: setuid programs have no effect in workers" } else { "not needed" };
        page.row("no_new_privs", rights);
    }
    for (at, listen) in config.listen.iter().enumerate() {
        page.row(if at == 0 { "listeners" } else { "" }, &listen.address.to_string());
    }
}

fn settings(page: &mut Page, config: &Config, plan: &Plan) {
    let rows: Vec<(&str, String, &str)> = VARIABLES
        .iter()
        .map(|variable| {
            let given = config.given.get(variable.name).map(String::as_str);
            let value = in_force(variable.name, given.unwrap_or(variable.default), config, plan);
            (variable.name, value, if given.is_some() { "set" } else { "default" })
        })
        .collect();
    page.section("settings (CLUSTERINIT_...)");
    for (name, value, origin) in rows {
        page.row(name, &format!("{origin:<8} {value}"));
    }
}

/// The value as it was written, with what it comes to in front where that is something else.
fn in_force(name: &str, written: &str, config: &Config, plan: &Plan) -> String {
    match effective(name, config, plan) {
        Some(table) if name == "SIGNALS" => table,
        Some(value) if value != written => format!("{value} ({written})"),
        _ => written.to_owned(),
    }
}

/// What a setting comes to, for those whose text does not say it.
fn effective(name: &str, config: &Config, plan: &Plan) -> Option<String> {
    match name {
        "WORKERS" => match config.workers {
            Workers::WebConcurrency(count) => Some(format!("{count}, from WEB_CONCURRENCY")),
            Workers::Auto => Some(plan.sizing.workers.to_string()),
            Workers::Count(_) => None,
        },
        "MEMORY_RESERVE" if config.memory_reserve.is_none() => plan.sizing.reserve_bytes.map(size),
        "DRAIN_DELAY" if config.drain_delay.is_none() => Some(match plan.policy.drain_delay {
            DrainDelay::Always(delay) => show_duration(delay),
            DrainDelay::WhereListening(delay) => format!("{} where something listens", show_duration(delay)),
        }),
        "GRACE" if config.grace.is_none() => Some(show_duration(plan.policy.grace)),
        "RESTART" if plan.policy.restart == Restart::Never => Some("never".to_owned()),
        "READY" if config.ready == Ready::Listen && !plan.policy.sees_listening => Some("running".to_owned()),
        "SHARE" => Some(plan.facts.share_mechanism.to_owned()),
        "BALANCE" => plan.facts.balance.map(str::to_owned),
        "NODE_IPC" => Some(match plan.sharing.node {
            None => "off".to_owned(),
            Some(node) => format!("on{}", if node.preload { "" } else { ",no-preload" }),
        }),
        "OUTPUT" if !plan.prefixes => Some("inherit".to_owned()),
        "SIGNALS" => Some(signals(config)),
        _ => None,
    }
}

/// The whole table: the defaults are in force where `SIGNALS` says nothing else.
fn signals(config: &Config) -> String {
    let mut table = String::new();
    for (signal, action) in &config.signals {
        let action = match action {
            SignalAction::Stop => "stop".to_owned(),
            SignalAction::Now => "now".to_owned(),
            SignalAction::Reload => "reload".to_owned(),
            SignalAction::More => "more".to_owned(),
            SignalAction::Fewer => "fewer".to_owned(),
            SignalAction::Forward => "forward".to_owned(),
            SignalAction::Ignore => "ignore".to_owned(),
            SignalAction::Send(other) => other.name(),
        };
        let _ = write!(table, "{}={action}, ", signal.name());
    }
    table + "others forwarded"
}

fn notes(page: &mut Page, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    page.section(title);
    for line in lines {
        page.line(&format!("  {line}"));
    }
}

#[cfg(test)]
mod tests;
