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
mod tests {
    use std::ffi::OsString;
    use std::path::PathBuf;

    use super::*;
    use crate::share::probe::Works;
    use crate::sys::cgroup::{CpuLimit, Limits, MemoryLimit};

    fn machine() -> Machine {
        Machine {
            limits: Limits {
                cpu: Some(CpuLimit { cpus: 1.5, source: PathBuf::from("/sys/fs/cgroup/cpu.max") }),
                memory: Some(MemoryLimit { bytes: 512 << 20, source: PathBuf::from("/sys/fs/cgroup/memory.max") }),
            },
            affinity: 4,
            stdin_is_terminal: false,
            is_pid1: true,
            command: vec!["./server".into(), "--port".into(), "8080".into()],
            watchdog: None,
            sharing: Ok(Works { needs_no_new_privs: false }),
            privileged_file: None,
            script: None,
            round_robin: false,
            subgroups: Err("cgroups are read-only here".to_owned()),
        }
    }

    fn printed(given: &[(&str, &str)], machine: &Machine) -> String {
        let environment: Vec<(OsString, OsString)> = given.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let hints = Hints::new(&machine.command, &environment);
        print(&Config::from_env(environment).expect("a good environment"), machine, &hints)
    }

    fn has_lines(page: &str, lines: &[&str]) {
        for line in lines {
            assert!(page.lines().any(|found| found == *line), "{line}\n{page}");
        }
    }

    #[test]
    fn the_defaults_in_a_container() {
        let expected = "\
command
  run               ./server --port 8080
  as                PID 1 of this namespace

cpu
  limit             1.5 CPUs, from /sys/fs/cgroup/cpu.max
  affinity mask     4 CPUs

workers
  count             2
  decided by        CPU limit
  auto              CPU limit 1.5 x 1 per CPU = 1.5, ceil: 2
                    affinity mask: at most 4
                    memory: (512Mi - 36Mi reserve) / 128Mi per worker allows 3
  start             slot 0 alone, the others when it is ready
  scaling           1 to 8

memory
  limit             512Mi, from /sys/fs/cgroup/memory.max
  reserve           32Mi: 32Mi + 4Mi for each worker above 2, at most a quarter of the limit
  room for          3 workers of 128Mi
  share of a worker (512Mi - 32Mi reserve) / 2 = 240Mi
  enforced by       sampling, while the container is short of memory (no cgroup for each worker: cgroups are read-only here)
  replaced          above its share, before the container is so short that it is killed

runtime hints
  share             for 1 CPU and 240Mi of memory: each of 2 workers
                    NODE_OPTIONS=--max-old-space-size=180
                    GOMEMLIMIT=188743680
                    JAVA_TOOL_OPTIONS=-XX:MaxRAM=251658240
                    DOTNET_GCHeapHardLimit=B400000
                    GOMAXPROCS=1
                    OMP_NUM_THREADS=1
                    RAYON_NUM_THREADS=1
                    TOKIO_WORKER_THREADS=1

port sharing
  mechanism         seccomp
  balance           spread
  no_new_privs      not needed

settings (CLUSTERINIT_...)
  WORKERS           default  2 (auto)
";
        let page = printed(&[], &machine());
        assert!(page.starts_with(expected), "{page}");
        for line in ["  GRACE             default  8s (auto)\n", "  MEMORY_RESERVE    default  32Mi (auto)\n"] {
            assert!(page.contains(line), "{line}{page}");
        }
        assert!(!page.contains("not in force"), "{page}");
    }

    #[test]
    fn every_setting_is_there_with_its_origin() {
        let page = printed(&[("CLUSTERINIT_GRACE", "3s"), ("CLUSTERINIT_OUTPUT", "prefix")], &machine());
        for variable in VARIABLES {
            let line = page.lines().find(|line| line.split_whitespace().next() == Some(variable.name) && line.starts_with("  "));
            let origin = line.and_then(|line| line.split_whitespace().nth(1));
            let expected = if ["GRACE", "OUTPUT"].contains(&variable.name) { "set" } else { "default" };
            assert_eq!(origin, Some(expected), "{}\n{page}", variable.name);
        }
        assert!(page.contains("  GRACE             set      3s\n"), "{page}");
        assert!(page.contains("\nnot in force\n  OUTPUT=prefix: "), "{page}");
    }

    #[test]
    fn what_auto_comes_to_is_shown() {
        let given = [
            ("WEB_CONCURRENCY", "6"),
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("CLUSTERINIT_LISTEN", "8080,unix:/run/app.sock"),
            ("CLUSTERINIT_SIGNALS", "HUP=QUIT,USR2=ignore"),
        ];
        let page = printed(&given, &machine());
        for line in [
            "  decided by        WEB_CONCURRENCY",
            "                    would be 2",
            "  start             all at once",
            "  WORKERS           default  6, from WEB_CONCURRENCY (auto)",
            "  DRAIN_DELAY       default  5s where something listens (auto)",
            "  GRACE             default  20s (auto)",
            "  BALANCE           default  spread",
            "  mechanism         listen-fds",
            "  listeners         [::]:8080",
            "                    unix:/run/app.sock",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        let signals = "SIGNALS           set      HUP=QUIT, INT=stop, QUIT=stop, USR2=ignore, TERM=stop, TTIN=more, TTOU=fewer, RTMIN+3=stop, others forwarded";
        assert!(page.contains(signals), "{page}");
    }

    #[test]
    fn without_limits_and_at_a_terminal_it_says_so() {
        let bare = Machine { limits: Limits::default(), stdin_is_terminal: true, command: Vec::new(), ..machine() };
        let page = printed(&[], &bare);
        for line in [
            "  limit             none that can be seen here",
            "  decided by        terminal",
            "                    no CPU limit: at most 8",
            "  RESTART           default  never (auto)",
            "  MEMORY_RESERVE    default  auto",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }

    #[test]
    fn every_number_about_memory_is_explained() {
        let page = printed(&[("CLUSTERINIT_WORKERS", "3"), ("CLUSTERINIT_MEMORY_RESERVE", "40Mi")], &machine());
        let lines = [
            "  reserve           40Mi, as MEMORY_RESERVE says",
            "  share of a worker (512Mi - 40Mi reserve) / 3 = about 157Mi, 164975957 bytes",
            "                    NODE_OPTIONS=--max-old-space-size=117",
        ];
        has_lines(&page, &lines);
        let given = [("CLUSTERINIT_WORKERS", "4"), ("CLUSTERINIT_WORKER_MEMORY", "200Mi"), ("GOMAXPROCS", "5")];
        let page = printed(&given, &Machine { subgroups: Ok(()), ..machine() });
        let lines = [
            "  room for          2 workers of 200Mi",
            "  cap of a worker   200Mi, as WORKER_MEMORY says",
            "  enforced by       cgroup, at any time",
            "  replaced          at 90 % of the cap: 180Mi, 188743680 bytes",
            "warnings",
        ];
        has_lines(&page, &lines);
        assert!(
            page.contains("\n  CLUSTERINIT_WORKERS=4 x CLUSTERINIT_WORKER_MEMORY=200Mi + 40Mi reserve is more than"),
            "{page}"
        );
        assert!(!page.contains("GOMAXPROCS"), "{page}");
    }

    #[test]
    fn what_is_off_is_said_to_be_off() {
        let off = [("CLUSTERINIT_WORKER_MEMORY", "off"), ("CLUSTERINIT_WORKERS", "1")];
        let lines = [
            "  cap of a worker   none: WORKER_MEMORY=off",
            "  enforced by       off: there is no cap",
            "  replaced          never for its memory",
            "  share             none: one worker has all",
        ];
        has_lines(&printed(&off, &machine()), &lines);
        let unlimited = Machine { limits: Limits::default(), ..machine() };
        let page = printed(&[("CLUSTERINIT_WORKERS", "2")], &unlimited);
        has_lines(
            &page,
            &["  share of a worker none: there is no limit to share", "  share             for 2 CPUs: each of 2 workers"],
        );
        assert!(page.contains("GOMAXPROCS=2") && !page.contains("GOMEMLIMIT"), "{page}");
        has_lines(&printed(&[("CLUSTERINIT_MEMORY_SOFT", "off")], &machine()), &["  replaced          never for its memory"]);
    }

    #[test]
    fn a_line_stays_a_line() {
        let hostile = Machine { command: vec!["x\nsettings".into(), "\u{1b}[31m".into()], ..machine() };
        assert!(printed(&[], &hostile).contains("  run               x?settings ?[31m\n"));
    }
}
