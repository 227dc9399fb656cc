//! How many workers: what the container pays for, what memory holds, what the program makes of it, and which of these decided.
//!
//! ```text
//! CPU limit x WORKERS_PER_CPU -> rounded -> at most the affinity mask -> at most what memory allows -> at least 1
//!   (without a limit the mask stands for it, and 8 is the most)
//! then 1 for programs that use all CPUs by themselves, 1 at a terminal, and 1 where ports cannot be shared
//! ```
//!
//! An explicit `WORKERS` or `WEB_CONCURRENCY` decides by itself; the automatic number is worked out all the same, because
//! scaling up is bounded by it. An automatic number never promises more memory than there is: its caps and the reserve together
//! are within the limit. Explicit numbers may, and then there is a warning.

#[cfg(test)]
mod tests;

use std::fmt;

use super::units;

/// `WORKERS`: who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    Auto,
    /// An explicit `CLUSTERINIT_WORKERS`.
    Count(u32),
    /// `WORKERS` is unset and `WEB_CONCURRENCY` is a number: workers then see `WEB_CONCURRENCY=1`.
    WebConcurrency(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Ceil,
    Floor,
    Nearest,
}

/// `WORKER_MEMORY`: what one worker's tree may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caps {
    /// An equal share of what the container has, enforced only while the container is short.
    Share,
    /// Bytes, a hard cap.
    Fixed(u64),
    Off,
}

/// The limits of the container at one instant, and where they come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// In CPUs.
    pub cpu: Option<f64>,
    pub cpu_source: Option<String>,
    /// In bytes.
    pub memory: Option<u64>,
    pub memory_source: Option<String>,
    /// CPUs in the affinity mask.
    pub affinity: u32,
}

/// What one worker gets of the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes that its tree may use; `None`: no cap.
    pub memory: Option<u64>,
    /// What it may count on when it sizes its thread pools: whole CPUs, at least 1.
    pub cpus: u32,
}

/// All that the count depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    pub workers: Workers,
    /// `WORKERS_PER_CPU`
    pub per_cpu: f64,
    pub rounding: Rounding,
    /// In CPUs.
    pub cpu_limit: Option<f64>,
    /// CPUs in the affinity mask.
    pub affinity: u32,
    pub memory_limit: Option<u64>,
    /// `MEMORY_RESERVE`; `None`: `auto`.
    pub memory_reserve: Option<u64>,
    /// What one worker is counted with: `WORKER_MEMORY` where it is a size, else `WORKER_MEMORY_MIN`.
    pub memory_per_worker: u64,
    /// `WORKER_MEMORY`
    pub caps: Caps,
    /// The base name of the command.
    pub program: String,
    pub stdin_is_terminal: bool,
    /// Ports cannot be shared here: a second copy of an ordinary server would fail at its `bind`.
    pub one_port_each: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Workers to start with.
    pub workers: u32,
    /// What `auto` would be: the same, unless the user decided.
    pub automatic: u32,
    /// What `auto` would be if ports were shared.
    pub with_sharing: u32,
    /// What made it this number and no other.
    pub rule: Rule,
    /// `rule` with its numbers, for the log.
    pub explanation: String,
    /// Every number on the way to `automatic`, one line each.
    pub steps: Vec<String>,
    /// How many workers memory holds (it may be none); `None` where there is no limit.
    pub memory_allows: Option<u32>,
    /// What is kept for us and for what is no worker's, with this many workers; `None` where there is no limit.
    pub reserve_bytes: Option<u64>,
    /// What each of `workers` gets.
    pub share: Share,
    /// What the user asked for and memory does not hold, one line each.
    pub warnings: Vec<String>,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Workers,
    WebConcurrency,
    Terminal,
    Program,
    /// Ports are not shared.
    NoSharing,
    AtLeastOne,
    Memory,
    Affinity,
    NoCpuLimit,
    CpuLimit,
}

/// Without a CPU limit no more than this: a container on a large host that says nothing does not mean all of it.
const MOST_WITHOUT_LIMIT: u32 = 8;

/// Base names of runtimes that use all CPUs with one process. BEAM has several ways in: `elixir`, `iex` and `mix` end in `erl`, and
/// that in `beam.smp`. (A release's own start script has any name, and needs `WORKERS=1`.)
const USE_ALL_CPUS: [&str; 9] = ["java", "dotnet", "beam", "beam.smp", "erl", "erlexec", "elixir", "iex", "mix"];

impl Default for Inputs {
    fn default() -> Self {
        Self {
            workers: Workers::Auto,
            per_cpu: 1.0,
            rounding: Rounding::Ceil,
            cpu_limit: None,
            affinity: 1,
            memory_limit: None,
            memory_reserve: None,
            memory_per_worker: 128 * MIB,
            caps: Caps::Share,
            program: String::new(),
            stdin_is_terminal: false,
            one_port_each: false,
        }
    }
}

impl Inputs {
    /// The same with other limits.
    #[must_use]
    pub fn under(&self, limits: &Limits) -> Self {
        Self { cpu_limit: limits.cpu, memory_limit: limits.memory, affinity: limits.affinity, ..self.clone() }
    }

    /// What each of so many workers gets.
    pub fn share(&self, workers: u32) -> Share {
        let workers = workers.max(1);
        let memory = match self.caps {
            Caps::Off => None,
            Caps::Fixed(bytes) => Some(bytes),
            Caps::Share => self.fair_share(workers),
        };
        let cpus = self.cpu_limit.unwrap_or(f64::from(self.affinity)).min(f64::from(self.affinity));
        Share { memory, cpus: round(cpus / f64::from(workers), Rounding::Ceil).max(1) }
    }

    /// (limit - reserve) / workers, in bytes; `None` where there is no limit.
    pub fn fair_share(&self, workers: u32) -> Option<u64> {
        let limit = self.memory_limit?;
        Some(limit.saturating_sub(self.reserve(workers)?) / u64::from(workers.max(1)))
    }

    /// What is kept for us and for what is no worker's, with so many workers; `None` where there is no limit.
    pub fn reserve(&self, workers: u32) -> Option<u64> {
        let limit = self.memory_limit?;
        Some(self.memory_reserve.unwrap_or_else(|| auto_reserve(workers, limit)))
    }
}

impl Sizing {
    pub fn new(inputs: &Inputs) -> Self {
        let memory_allows = inputs.memory_limit.map(|limit| memory_allows(inputs, limit));
        let mut steps = Vec::new();
        let mut automatic = automatic(inputs, memory_allows, &mut steps);
        let with_sharing = automatic.workers;
        if inputs.one_port_each && with_sharing > 1 {
            steps.push("ports are not shared: 1".to_owned());
            automatic = Verdict { workers: 1, rule: Rule::NoSharing, why: "ports are not shared".to_owned() };
        }
        let (workers, rule, explanation) = match inputs.workers {
            Workers::Auto => (automatic.workers, automatic.rule, automatic.why),
            Workers::Count(count) => (count, Rule::Workers, format!("CLUSTERINIT_WORKERS={count} says so")),
            Workers::WebConcurrency(count) => (count, Rule::WebConcurrency, format!("WEB_CONCURRENCY={count} says so")),
        };
        let workers = workers.max(1);
        Self {
            workers,
            automatic: automatic.workers,
            with_sharing,
            rule,
            explanation,
            steps,
            memory_allows,
            reserve_bytes: inputs.reserve(workers),
            share: inputs.share(workers),
            warnings: too_much(inputs, workers).into_iter().collect(),
        }
    }
}

/// Where so many workers do not fit into memory: that, and what follows from it.
fn too_much(inputs: &Inputs, workers: u32) -> Option<String> {
    let (limit, reserve, fair) = (inputs.memory_limit?, inputs.reserve(workers)?, inputs.fair_share(workers)?);
    let count = match inputs.workers {
        // The one that is started where memory allows none.
        Workers::Auto => "1 worker".to_owned(),
        Workers::Count(count) => format!("CLUSTERINIT_WORKERS={count}"),
        Workers::WebConcurrency(count) => format!("WEB_CONCURRENCY={count}"),
    };
    let (total, kept, part) = (units::size(limit), units::size(reserve), units::about(fair));
    match inputs.caps {
        Caps::Fixed(cap) if cap.saturating_mul(u64::from(workers)).saturating_add(reserve) > limit => {
            let cap = units::size(cap);
            Some(format!(
                "{count} x CLUSTERINIT_WORKER_MEMORY={cap} + {kept} reserve is more than the limit of {total}: caps alone do not keep the \
                 container from running out of memory; while it is short, the worker farthest above its fair share of {part} goes first"
            ))
        }
        // The automatic number says by itself that memory allows none.
        Caps::Share if inputs.workers != Workers::Auto && fair < inputs.memory_per_worker => {
            let least = units::size(inputs.memory_per_worker);
            Some(format!(
                "{count} leaves {part} of memory to each worker, ({total} - {kept} reserve) / {workers}: less than \
                 CLUSTERINIT_WORKER_MEMORY_MIN={least}"
            ))
        }
        Caps::Fixed(_) | Caps::Share | Caps::Off => None,
    }
}

/// A count, and why it is not another.
struct Verdict {
    workers: u32,
    rule: Rule,
    why: String,
}

fn automatic(inputs: &Inputs, memory_allows: Option<u32>, steps: &mut Vec<String>) -> Verdict {
    let mut verdict = by_cpu(inputs, steps);
    if let (Some(limit), Some(allowed)) = (inputs.memory_limit, memory_allows) {
        let reserve = inputs.memory_reserve.unwrap_or_else(|| auto_reserve(allowed, limit));
        let (limit, reserve, each) = (units::size(limit), units::size(reserve), units::size(inputs.memory_per_worker));
        steps.push(format!("memory: ({limit} - {reserve} reserve) / {each} per worker allows {allowed}"));
        if allowed < verdict.workers {
            let why = format!("{}, but memory allows {allowed}", verdict.why);
            verdict = Verdict { workers: allowed, rule: Rule::Memory, why };
        }
    }
    if verdict.workers == 0 {
        steps.push("at least 1".to_owned());
        verdict = Verdict { workers: 1, rule: Rule::AtLeastOne, why: format!("{}: one is started all the same", verdict.why) };
    }
    if USE_ALL_CPUS.contains(&inputs.program.as_str()) {
        steps.push(format!("{} uses all CPUs by itself: 1", inputs.program));
        verdict = Verdict { workers: 1, rule: Rule::Program, why: format!("{} uses all CPUs by itself", inputs.program) };
    }
    if inputs.stdin_is_terminal {
        steps.push("stdin is a terminal: 1".to_owned());
        verdict = Verdict { workers: 1, rule: Rule::Terminal, why: "stdin is a terminal".to_owned() };
    }
    verdict
}

/// Without a limit the affinity mask is the limit: `WORKERS_PER_CPU` is a factor to either.
fn by_cpu(inputs: &Inputs, steps: &mut Vec<String>) -> Verdict {
    let affinity = inputs.affinity.max(1);
    let paid = inputs.cpu_limit.unwrap_or_else(|| f64::from(affinity));
    let product = paid * inputs.per_cpu;
    let rounded = round(product, inputs.rounding);
    let (name, number) = match inputs.cpu_limit {
        Some(limit) => ("CPU limit", units::decimal(limit)),
        None => ("no CPU limit, affinity mask", affinity.to_string()),
    };
    let (factor, product, rounding) = (units::decimal(inputs.per_cpu), units::decimal(product), inputs.rounding);
    let formula = format!("{name} {number} x {factor} per CPU = {product}, {rounding}: {rounded}");
    steps.push(formula.clone());
    steps.push(format!("affinity mask: at most {affinity}"));
    let rule = if inputs.cpu_limit.is_some() { Rule::CpuLimit } else { Rule::NoCpuLimit };
    let mut verdict = Verdict { workers: rounded, rule, why: formula };
    if affinity < verdict.workers {
        let why = format!("{}, but the affinity mask has {affinity}", verdict.why);
        verdict = Verdict { workers: affinity, rule: Rule::Affinity, why };
    }
    if inputs.cpu_limit.is_none() {
        steps.push(format!("no CPU limit: at most {MOST_WITHOUT_LIMIT}"));
        if MOST_WITHOUT_LIMIT < verdict.workers {
            let why = format!("{}, but at most {MOST_WITHOUT_LIMIT} without a CPU limit", verdict.why);
            verdict = Verdict { workers: MOST_WITHOUT_LIMIT, rule: Rule::NoCpuLimit, why };
        }
    }
    verdict
}

/// A product of decimals is not exact: 1.1 x 10 is a little above 11, and must not be 12. A quota is exact to 1 in 1,000,000.
const NOISE: f64 = 1e-9;

fn round(product: f64, rounding: Rounding) -> u32 {
    let rounded = match rounding {
        Rounding::Ceil => (product * (1.0 - NOISE)).ceil(),
        Rounding::Floor => (product * (1.0 + NOISE)).floor(),
        Rounding::Nearest => (product * (1.0 + NOISE)).round(),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; NaN and less than nothing are 0")]
    let count = rounded as u32;
    count
}

const MIB: u64 = 1 << 20;

/// `MEMORY_RESERVE=auto`: 32 MiB + 4 MiB for each worker above 2, at most a quarter of the limit.
fn auto_reserve(workers: u32, limit: u64) -> u64 {
    (32 * MIB + 4 * MIB * u64::from(workers.saturating_sub(2))).min(limit / 4)
}

/// The most workers for which `workers x memory_per_worker + reserve` is within the limit.
fn memory_allows(inputs: &Inputs, limit: u64) -> u32 {
    let each = inputs.memory_per_worker.max(1);
    let left_by = |reserve: u64| limit.saturating_sub(reserve) / each;
    let allowed = inputs.memory_reserve.map_or_else(
        // The automatic reserve grows with the count that it bounds. It is the smaller of two, so whichever of them leaves more room is right.
        || left_by(limit / 4).max(with_growing_reserve(limit, each)),
        left_by,
    );
    u32::try_from(allowed).unwrap_or(u32::MAX)
}

/// As if the reserve had no upper bound: 32 MiB up to 2 workers, from there on each worker takes 4 MiB more.
fn with_growing_reserve(limit: u64, each: u64) -> u64 {
    let flat = limit.saturating_sub(32 * MIB) / each;
    if flat <= 2 {
        return flat;
    }
    (limit.saturating_sub(24 * MIB) / each.saturating_add(4 * MIB)).max(2)
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ceil => "ceil",
            Self::Floor => "floor",
            Self::Nearest => "nearest",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workers => "WORKERS",
            Self::WebConcurrency => "WEB_CONCURRENCY",
            Self::Terminal => "terminal",
            Self::Program => "program",
            Self::NoSharing => "no sharing",
            Self::AtLeastOne => "at least one",
            Self::Memory => "memory",
            Self::Affinity => "affinity mask",
            Self::NoCpuLimit => "no CPU limit",
            Self::CpuLimit => "CPU limit",
        })
    }
}
