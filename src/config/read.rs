//! From texts to a [`Config`]: each variable by its own parser, then what must hold between them.

use std::ffi::OsString;
use std::path::PathBuf;

use super::environment::{self, Environment};
use super::mistakes::{Mistakes, printable_name};
use super::raw::RawConfig;
use super::words::{one_of, or, parts, switch};
use super::{
    Balance, Config, LogFormat, NodeIpc, Output, Ready, Rounding, Share, StopWhen, WorkerMemory, Workers, duration, listen, log,
    number, ports, signals, size, user,
};
use crate::cluster::policy::Restart;

impl Config {
    /// The configuration that an environment asks for, or everything that is wrong with it.
    pub fn from_env(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let environment = Environment::sort(vars, &mut mistakes);
        let raw = RawConfig::from_known(&environment.given).unwrap_or_else(|error| {
            mistakes.add_name("*", &error.to_string());
            RawConfig::default()
        });
        let mut config = Self::default();
        sizing(&raw, &mut config, &mut mistakes);
        stopping(&raw, &mut config, &mut mistakes);
        starting(&raw, &mut config, &mut mistakes);
        sharing(&raw, &mut config, &mut mistakes);
        telling(&raw, &mut config, &mut mistakes);
        surroundings(&environment, &mut config);
        strictness(&raw, &environment, &mut config, &mut mistakes);
        config.given = environment.given;
        agreement(&config, &mut mistakes);
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes.in_order()) }
    }
}

/// How many workers, and what memory each may have.
fn sizing(raw: &RawConfig, config: &mut Config, mistakes: &mut Mistakes) {
    mistakes.read(&mut config.workers, "WORKERS", raw.workers.as_ref(), |text| {
        Ok(or("auto", number::count)(text)?.map_or(Workers::Auto, Workers::Count))
    });
    mistakes.read(&mut config.workers_per_cpu, "WORKERS_PER_CPU", raw.workers_per_cpu.as_ref(), number::factor);
    let rounding = one_of(&[("ceil", Rounding::Ceil), ("floor", Rounding::Floor), ("nearest", Rounding::Nearest)]);
    mistakes.read(&mut config.cpu_rounding, "CPU_ROUNDING", raw.cpu_rounding.as_ref(), rounding);
    mistakes.read(&mut config.worker_memory, "WORKER_MEMORY", raw.worker_memory.as_ref(), worker_memory);
    mistakes.read(&mut config.worker_memory_min, "WORKER_MEMORY_MIN", raw.worker_memory_min.as_ref(), size::of_a_process);
    mistakes.read(&mut config.memory_reserve, "MEMORY_RESERVE", raw.memory_reserve.as_ref(), or("auto", size::parse));
    mistakes.read(&mut config.memory_soft, "MEMORY_SOFT", raw.memory_soft.as_ref(), or("off", number::percentage));
    mistakes.read(&mut config.runtime_hints, "RUNTIME_HINTS", raw.runtime_hints.as_ref(), switch);
}

/// How workers, and the whole, come to an end.
fn stopping(raw: &RawConfig, config: &mut Config, mistakes: &mut Mistakes) {
    mistakes.read(&mut config.stop_signal, "STOP_SIGNAL", raw.stop_signal.as_ref(), signals::stop_signal);
    mistakes.read(&mut config.drain_delay, "DRAIN_DELAY", raw.drain_delay.as_ref(), or("auto", duration::parse));
    mistakes.read(&mut config.grace, "GRACE", raw.grace.as_ref(), or("auto", duration::parse));
    let when = one_of(&[("quiet", StopWhen::Quiet), ("now", StopWhen::Now)]);
    mistakes.read(&mut config.stop_when, "STOP_WHEN", raw.stop_when.as_ref(), when);
    mistakes.read(&mut config.hang_timeout, "HANG_TIMEOUT", raw.hang_timeout.as_ref(), or("off", duration::positive));
    mistakes.read(&mut config.max_lifetime, "MAX_LIFETIME", raw.max_lifetime.as_ref(), or("off", duration::positive));
    mistakes.read(&mut config.signals, "SIGNALS", raw.signals.as_ref(), signals::parse);
}

/// When a worker is started (again), by whom it is run, and when it counts as ready.
fn starting(raw: &RawConfig, config: &mut Config, mistakes: &mut Mistakes) {
    let restart = one_of(&[
        ("auto", Restart::Auto),
        ("always", Restart::Always),
        ("on-failure", Restart::OnFailure),
        ("never", Restart::Never),
    ]);
    mistakes.read(&mut config.restart, "RESTART", raw.restart.as_ref(), restart);
    mistakes.read(&mut config.backoff, "RESTART_BACKOFF", raw.restart_backoff.as_ref(), duration::backoff);
    mistakes.read(&mut config.start_timeout, "START_TIMEOUT", raw.start_timeout.as_ref(), duration::positive);
    mistakes.read(&mut config.min_ready, "MIN_READY", raw.min_ready.as_ref(), number::count);
    mistakes.read(&mut config.unhealthy_after, "UNHEALTHY_AFTER", raw.unhealthy_after.as_ref(), duration::positive);
    let ready = one_of(&[
        ("auto", Ready::Auto),
        ("listen", Ready::Listen),
        ("notify", Ready::Notify),
        ("running", Ready::Running),
        ("exec", Ready::Running),
    ]);
    mistakes.read(&mut config.ready, "READY", raw.ready.as_ref(), ready);
    mistakes.read(&mut config.user, "USER", raw.user.as_ref(), or("none", user::parse));
}

/// How workers come to share their ports.
fn sharing(raw: &RawConfig, config: &mut Config, mistakes: &mut Mistakes) {
    let share = one_of(&[("auto", Share::Auto), ("on", Share::On), ("off", Share::Off)]);
    mistakes.read(&mut config.share, "SHARE", raw.share.as_ref(), share);
    mistakes.read(&mut config.share_ports, "SHARE_PORTS", raw.share_ports.as_ref(), ports::shared);
    mistakes.read(&mut config.port_per_worker, "PORT_PER_WORKER", raw.port_per_worker.as_ref(), |text| {
        or("none", ports::list)(text).map(Option::unwrap_or_default)
    });
    let balance =
        one_of(&[("spread", Balance::Spread), ("queue", Balance::Queue), ("sticky", Balance::Sticky), ("rr", Balance::Rr)]);
    mistakes.read(&mut config.balance, "BALANCE", raw.balance.as_ref(), balance);
    mistakes.read(&mut config.listen, "LISTEN", raw.listen.as_ref(), |text| {
        or("none", listen::parse)(text).map(Option::unwrap_or_default)
    });
    mistakes.read(&mut config.node_ipc, "NODE_IPC", raw.node_ipc.as_ref(), node_ipc);
}

/// `on,no-preload`: a word, and what is done otherwise.
fn node_ipc(text: &str) -> Result<NodeIpc, String> {
    let mut read = Config::default().node_ipc;
    for (place, word) in parts(text).enumerate() {
        match (place, word) {
            (0, "auto") => read.speaks = None,
            (0, "on") => read.speaks = Some(true),
            (0, "off") => read.speaks = Some(false),
            (1.., "no-preload") => read.preload = false,
            (1.., "shutdown") => read.shutdown_message = true,
            _ => return Err("allowed: auto, on, off; behind it, separated by commas, no-preload and shutdown".to_owned()),
        }
    }
    Ok(read)
}

/// What the world is told: side port, output, log.
fn telling(raw: &RawConfig, config: &mut Config, mistakes: &mut Mistakes) {
    mistakes.read(&mut config.health_addr, "HEALTH_ADDR", raw.health_addr.as_ref(), or("off", listen::tcp));
    let output = one_of(&[("inherit", Output::Inherit), ("prefix", Output::Prefix)]);
    mistakes.read(&mut config.output, "OUTPUT", raw.output.as_ref(), output);
    mistakes.read(&mut config.log, "LOG", raw.log.as_ref(), log::parse);
    let format = one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    mistakes.read(&mut config.log_format, "LOG_FORMAT", raw.log_format.as_ref(), format);
    mistakes.read(&mut config.termination_log, "TERMINATION_LOG", raw.termination_log.as_ref(), absolute_path);
}

/// The variables of other people that are honoured.
fn surroundings(environment: &Environment, config: &mut Config) {
    config.kubernetes = environment.kubernetes;
    if environment.given.contains_key("WORKERS") {
        return;
    }
    match environment.web_concurrency() {
        Ok(Some(count)) => config.workers = Workers::WebConcurrency(count),
        Ok(None) => {}
        Err(warning) => config.warnings.push(warning),
    }
}

fn strictness(raw: &RawConfig, environment: &Environment, config: &mut Config, mistakes: &mut Mistakes) {
    let mut strict = true;
    mistakes.read(&mut strict, "STRICT", raw.strict.as_ref(), switch);
    for name in &environment.unknown {
        let hint = environment::hint(name);
        if strict {
            mistakes.add_name(name, &format!("{hint} (CLUSTERINIT_STRICT=off makes this a warning)"));
        } else {
            config.warnings.push(format!("{}: {hint}", printable_name(name)));
        }
    }
}

/// What must hold between variables. A variable that has a mistake of its own is not held against another one.
fn agreement(config: &Config, mistakes: &mut Mistakes) {
    let text = |name: &str| config.given.get(name).map_or("", String::as_str);
    if config.backoff.longest >= config.unhealthy_after
        && !mistakes.concern("RESTART_BACKOFF")
        && !mistakes.concern("UNHEALTHY_AFTER")
    {
        let (longest, after) = (duration::show(config.backoff.longest), duration::show(config.unhealthy_after));
        if config.given.contains_key("UNHEALTHY_AFTER") {
            let why = format!("allowed: more than {longest}, the longest delay of CLUSTERINIT_RESTART_BACKOFF");
            mistakes.add("UNHEALTHY_AFTER", text("UNHEALTHY_AFTER"), &why);
        } else {
            let why = format!("allowed: delays shorter than CLUSTERINIT_UNHEALTHY_AFTER, which is {after}");
            mistakes.add("RESTART_BACKOFF", text("RESTART_BACKOFF"), &why);
        }
    }
    let (workers, source) = match config.workers {
        Workers::Count(workers) => (workers, "CLUSTERINIT_WORKERS"),
        Workers::WebConcurrency(workers) => (workers, "WEB_CONCURRENCY"),
        Workers::Auto => return,
    };
    if config.min_ready > workers {
        let why = format!("more than {source}={workers} can ever be ready; allowed: 1 to {workers}");
        mistakes.add("MIN_READY", text("MIN_READY"), &why);
    }
    if let Some(why) = ports::crowded(&config.port_per_worker, workers) {
        mistakes.add("PORT_PER_WORKER", text("PORT_PER_WORKER"), &why);
    }
}

fn worker_memory(text: &str) -> Result<WorkerMemory, String> {
    match text {
        "auto" => Ok(WorkerMemory::Auto),
        "off" => Ok(WorkerMemory::Off),
        size => size::of_a_process(size).map(WorkerMemory::Cap).map_err(|why| format!("{why}, or auto, or off")),
    }
}

/// Absolute, because our working directory is `/` and not the caller's.
fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("allowed: an absolute path".to_owned()) }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
