//! From the command line to the loop: everything that can be a mistake of the user's is found here, before the first worker.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use crate::cli;
use crate::cli::args::Command;
use crate::cli::healthcheck::Question;
use crate::cluster::words::Signal;
use crate::config::{Config, Share, Workers};
use crate::hints::Hints;
use crate::plan::{Machine, Plan};
use crate::runtime::clock::Clock;
use crate::runtime::{self, Setup};
use crate::share::broker::{Broker, Rules};
use crate::share::filter;
use crate::share::sockets::Sockets;
use crate::sys::init::{self, Inherited};
use crate::sys::instance::Instance;
use crate::sys::process::{self, Launch, Terms};
use crate::sys::seccomp::Filter;
use crate::sys::subgroups::Subgroups;
use crate::sys::{procfs, terminal};
use crate::{exit, http, listen, telemetry};

/// The caller's environment, read once.
pub type Environment = Vec<(OsString, OsString)>;

/// The names of socket activation (`man 3 sd_listen_fds`).
const LISTEN_NAMES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Carries out one command line and answers the exit status.
pub fn run(command: Command, environment: &Environment) -> u8 {
    match command {
        Command::Run(words) => cluster(words, environment),
        Command::Help => print(&cli::args::help()),
        Command::Version => print(&cli::args::version()),
        other => {
            // An ordinary short-lived process: signals may do what the caller wants.
            init::set_mask(Inherited::take().mask);
            match configured(environment) {
                Ok(config) => look(other, &config, environment),
                Err(code) => code,
            }
        }
    }
}

fn look(command: Command, config: &Config, environment: &Environment) -> u8 {
    match command {
        Command::Plan(words) => {
            let hints = hints(&words, config, environment);
            print(&cli::plan::print(config, &machine(words, config, environment), &hints))
        }
        Command::Status { json, watch, addr } => {
            cli::status::run(cli::status::Options { json, watch }, addr.as_deref(), config.health_addr)
        }
        Command::Healthcheck { ready, addr } => {
            let question = if ready { Question::Ready } else { Question::Healthy };
            cli::healthcheck::run(question, addr.as_deref(), config.health_addr)
        }
        Command::Control(demand) => cli::ask::run(&demand),
        Command::Run(_) | Command::Help | Command::Version => exit::INTERNAL,
    }
}

fn print(text: &str) -> u8 {
    cli::say(text);
    0
}

fn configured(environment: &Environment) -> Result<Config, u8> {
    Config::from_env(environment.iter().cloned()).map_err(|mistakes| {
        for line in mistakes.lines() {
            telemetry::complain(line);
        }
        exit::USAGE
    })
}

fn machine(words: Vec<OsString>, config: &Config, environment: &Environment) -> Machine {
    let file = words.first().and_then(|program| command_file(program, environment));
    let watchdog = value(environment, "WATCHDOG_USEC").and_then(|micros| micros.parse().ok()).map(Duration::from_micros);
    let round_robin = value(environment, "NODE_CLUSTER_SCHED_POLICY") == Some("rr");
    Machine { watchdog, round_robin, ..Machine::look(words, config.share, file.as_deref()) }
}

/// What workers are told of their share.
fn hints(words: &[OsString], config: &Config, environment: &Environment) -> Hints {
    if config.runtime_hints { Hints::new(words, environment) } else { Hints::default() }
}

/// The file that the command's first word means, as a shell would find it.
fn command_file(program: &OsStr, environment: &Environment) -> Option<PathBuf> {
    let program = Path::new(program);
    if program.components().count() != 1 || program.is_absolute() || program.starts_with(".") {
        return Some(program.to_owned());
    }
    let (_, path) = environment.iter().find(|(name, _)| name == "PATH")?;
    std::env::split_paths(path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn value<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.iter().find(|(found, _)| found == name).and_then(|(_, value)| value.to_str())
}

/// The main job.
fn cluster(words: Vec<OsString>, environment: &Environment) -> u8 {
    let started = Clock::start();
    let inherited = Inherited::take();
    if !init::is_pid_1() && value(environment, "CLUSTERINIT_WORKER_ID").is_some() {
        return nested(&words, environment, inherited);
    }
    let config = match configured(environment) {
        Ok(config) => config,
        Err(code) => return code,
    };
    telemetry::start(&config.log, config.log_format);
    let machine = machine(words, &config, environment);
    let plan = Plan::new(&config, &machine, seed());
    let setup = match prepare(&config, &machine, plan, environment, inherited, started) {
        Ok(setup) => setup,
        Err(Refusal { code, line }) => return refuse(&config, code, &line),
    };
    match runtime::run(setup) {
        Ok(code) => code,
        Err(error) => refuse(&config, exit::INTERNAL, &error.to_string()),
    }
}

/// Base image and CMD both name us: the outer one does the work.
fn nested(words: &[OsString], environment: &Environment, inherited: Inherited) -> u8 {
    telemetry::complain("started inside a worker of clusterinit: executing the command in its place");
    let error = process::replace_by(words, environment, inherited);
    let command = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    telemetry::complain(&format!("cannot execute {command}: {error}"));
    exit::of_exec_error(&error)
}

fn refuse(config: &Config, code: u8, line: &str) -> u8 {
    telemetry::complain(line);
    runtime::write_termination_log(&config.termination_log, &format!("clusterinit: exit status {code}: {line}\n"));
    code
}

/// Why nothing is started.
struct Refusal {
    code: u8,
    line: String,
}

fn prepare(
    config: &Config,
    machine: &Machine,
    mut plan: Plan,
    environment: &Environment,
    inherited: Inherited,
    started: Clock,
) -> Result<Setup, Refusal> {
    if !machine.is_pid1 {
        let refused = |error| Refusal { code: exit::INTERNAL, line: format!("cannot become a subreaper: {error}") };
        init::become_subreaper().map_err(refused)?;
    }
    let descriptors = process::raise_descriptor_limit();
    let side_port = open_side_port(config)?;
    may_signal(config)?;
    let mut sockets = Sockets::new(config.balance);
    let usage = |line| Refusal { code: exit::USAGE, line };
    let handed_out = listen::open(&config.listen, &mut sockets).map_err(|error| usage(error.to_string()))?;
    if let (Share::On, Some(reason), None) = (config.share, &plan.sharing.reason, plan.sharing.node) {
        return Err(usage(format!("CLUSTERINIT_SHARE=on, but ports cannot be shared here: {reason}")));
    }
    let terms = Terms {
        descriptors,
        user: config.user,
        listeners: handed_out.len(),
        hands_on_listeners: hands_on_listeners(config, environment),
        channel: plan.sharing.node.map(|_| channel_number(config, environment)),
        takes_terminal: machine.stdin_is_terminal && plan.policy.workers == 1 && terminal::is_ours(),
        dies_with_us: !machine.is_pid1,
        filter: plan.sharing.seccomp.then(|| Filter { program: filter::program(), no_new_privs: plan.sharing.no_new_privs }),
    };
    let groups = own_groups(&mut plan);
    let hints = hints(&machine.command, config, environment);
    let mut launch = Launch::new(&machine.command, &workers_environment(config, environment), inherited, terms)
        .map_err(|error| Refusal { code: exit::USAGE, line: format!("the command: {error}") })?;
    say_hello(config, &plan.lines, &plan.facts.not_in_force, side_port.as_ref());
    // After the last look at relative paths.
    launch.leave_directory();
    Ok(Setup {
        policy: plan.policy,
        facts: plan.facts,
        launch,
        hints,
        groups,
        broker: Broker::new(sockets, Rules { ports: config.share_ports.clone(), per_worker: config.port_per_worker.clone() }),
        handed_out,
        node: plan.sharing.node,
        actions: config.signals.clone(),
        left_alone: leave_job_control_alone(),
        side_port,
        prefixes: plan.prefixes,
        instance: Instance::own().unwrap_or(Instance { mnt: 0, pid: 0 }),
        termination_log: config.termination_log.clone(),
        started,
    })
}

/// A cgroup for each worker, where that was planned; sampling where it does not work after all.
fn own_groups(plan: &mut Plan) -> Option<Subgroups> {
    if !plan.policy.kernel_caps {
        return None;
    }
    match Subgroups::set_up(Path::new("/")) {
        Ok(groups) => Some(groups),
        Err(why) => {
            plan.policy.kernel_caps = false;
            plan.facts.memory_enforced_by = "sampling";
            plan.lines.push(format!("workers get no cgroups of their own, their memory is sampled: {why}"));
            None
        }
    }
}

/// Root without `CAP_KILL` cannot end workers of another user: a stop would hang.
fn may_signal(config: &Config) -> Result<(), Refusal> {
    let Some(user) = config.user else { return Ok(()) };
    let own = nix::unistd::geteuid();
    if own.as_raw() == user.uid || !own.is_root() || procfs::has_capability(procfs::KILL) {
        return Ok(());
    }
    let line = format!(
        "CLUSTERINIT_USER: clusterinit runs as root without CAP_KILL, so it could not stop workers of uid {}; give the container \
         CAP_KILL, or run all of it as that user",
        user.uid
    );
    Err(Refusal { code: exit::USAGE, line })
}

fn open_side_port(config: &Config) -> Result<Option<TcpListener>, Refusal> {
    let Some(address) = config.health_addr else { return Ok(None) };
    http::bind(address).map(Some).map_err(|error| {
        let hint = "set CLUSTERINIT_HEALTH_ADDR to another address or to off (the containers of a pod share their ports)";
        Refusal { code: exit::USAGE, line: format!("cannot open the side port {address}: {error}; {hint}") }
    })
}

/// Descriptors that were handed to us by socket activation are meant for each worker, which must find its own pid beside them.
fn hands_on_listeners(config: &Config, environment: &Environment) -> bool {
    config.listen.is_empty() && value(environment, "LISTEN_PID") == Some(&std::process::id().to_string())
}

/// Behind the descriptors that are announced to workers. (Node's own primary uses 3; any number does.)
fn channel_number(config: &Config, environment: &Environment) -> i32 {
    let handed_on = value(environment, "LISTEN_FDS").filter(|_| hands_on_listeners(config, environment));
    let listeners = handed_on.and_then(|count| count.parse().ok()).unwrap_or(config.listen.len());
    process::first_free(listeners.min(1024))
}

/// The caller's, with what all workers have in common.
fn workers_environment(config: &Config, environment: &Environment) -> Environment {
    let own_listeners = !config.listen.is_empty();
    let handed_on = hands_on_listeners(config, environment);
    let mut seen: Environment = environment.clone();
    seen.retain(|(name, _)| {
        let is_listener = LISTEN_NAMES.iter().any(|known| name == known);
        !(own_listeners && is_listener || handed_on && name == "LISTEN_PID")
    });
    if own_listeners {
        let names: Vec<&str> = config.listen.iter().map(|listen| listen.name.as_str()).collect();
        seen.push(("LISTEN_FDS".into(), config.listen.len().to_string().into()));
        seen.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
    }
    if let Workers::WebConcurrency(_) = config.workers {
        seen.retain(|(name, _)| name != "WEB_CONCURRENCY");
        seen.push(("WEB_CONCURRENCY".into(), "1".into()));
    }
    seen
}

fn say_hello(config: &Config, plan: &[String], not_in_force: &[String], side_port: Option<&TcpListener>) {
    for line in plan {
        info!("{line}");
    }
    for line in config.warnings.iter().chain(not_in_force) {
        warn!("{line}");
    }
    if let Some(address) = side_port.and_then(|listener| listener.local_addr().ok()) {
        info!(%address, "side port");
    }
}

/// On a terminal the kernel uses these to stop whoever reads or writes in the background: ignoring them lets us log there, and
/// catching them would make us try for ever.
fn leave_job_control_alone() -> Vec<Signal> {
    let on_terminal = io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal();
    let signals: &[i32] = if on_terminal { &[libc::SIGTTIN, libc::SIGTTOU, libc::SIGTSTP] } else { &[] };
    let signals: Vec<_> = signals.iter().map(|signal| Signal(*signal)).collect();
    for signal in &signals {
        init::ignore(*signal);
    }
    signals
}

/// Two clusters that start together shall not back off in step.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() ^ u64::from(now.subsec_nanos()).rotate_left(32) ^ u64::from(std::process::id()).rotate_left(17)
}
