//! The only loop and the only owner: it waits, tells the core what happened, carries out what the core answers, and publishes.
//!
//! ```text
//! wait: signal | worker's descriptor | control socket | deadline
//!   -> read what workers said  -> reap  -> (each an Event) -> Supervisor::step -> Effects, in order  -> publish
//! ```
//! After the first worker was started nothing in here returns an error: what the kernel refuses becomes an event or a log line, and
//! the loop ends only by [`Effect::End`](crate::cluster::effect::Effect::End).
//!
//! | file | what |
//! |---|---|
//! | `carry_out.rs` | effects -> system calls |
//! | `ends.rs` | reaping, and what is left of a tree |
//! | `sharing.rs` | workers' calls answered; in and out of rotation |
//! | `queues.rs` | accept queues that do not run dry |
//! | `quiet.rs` | freeze, look, decide: an instant at which a worker may be stopped |
//! | `retiring.rs` | which workers are being looked at so |
//! | `token.rs` | what a readable descriptor stands for |
//! | `node/` | Node's cluster protocol |
//! | `output.rs` | what workers write, line by line |
//! | `memory.rs` | what the core wants measured; what the OOM killer did |
//! | `limits.rs` | limits that change while we run |
//! | `requests.rs` | signals and control requests -> the core, or forwarded |
//! | `lives.rs` | which pid, descriptors and mark a life has |
//! | `lines.rs` | the core's notes -> log lines |
//! | `clock.rs` | the one place that reads the clock |

mod carry_out;
pub mod clock;
mod ends;
mod limits;
mod lines;
mod lives;
mod memory;
mod node;
mod output;
mod queues;
pub mod quiet;
mod requests;
mod retiring;
mod sharing;
mod token;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, consume_budget, yield_now};

use crate::cluster::Supervisor;
use crate::cluster::event::Event;
use crate::cluster::policy::Policy;
use crate::cluster::sizing::Caps;
use crate::cluster::status::{Facts, Snapshot};
use crate::cluster::words::{Life, Signal, Time};
use crate::config::SignalAction;
use crate::control::{self, Asked};
use crate::hints::Hints;
use crate::http;
use crate::listen::Opened;
use crate::plan::sharing::Node as NodeTerms;
use crate::share::broker::Broker;
use crate::sys::init;
use crate::sys::instance::Instance;
use crate::sys::memory as own_memory;
use crate::sys::poll::Poller;
use crate::sys::process::Launch;
use crate::sys::signals::{Received, Signals};
use crate::sys::subgroups::Subgroups;
use crate::sys::timer::Timer;
use crate::sys::tree::KnownStrays;

pub(crate) use carry_out::write_termination_log;
use clock::Clock;
use limits::Limited;
use lives::Lives;
use memory::Memory;
use node::Nodes;
use output::Output;
use retiring::Searches;
use sharing::Sharing;
use token::Token;

/// Requests on the control socket that wait for the loop.
const WAITING_REQUESTS: usize = 16;

/// So many turns in a row, and the side port gets one.
const TURNS_BEFORE_YIELD: u32 = 16;

/// A request takes so many turns at most: accepted, read, answered, written.
const TURNS_OF_A_REQUEST: usize = 8;

/// What a turn reads of what workers say before everybody else gets theirs.
const READS_PER_TURN: usize = 256;

/// So long after a start little of the program is run that has not been run since.
const SETTLED: Duration = Duration::from_secs(2);

/// Everything that was made ready before the first worker: from here on nothing can be a mistake of the user's.
pub struct Setup {
    pub policy: Policy,
    pub facts: Facts,
    pub launch: Launch,
    /// What runtimes are told of their share.
    pub hints: Hints,
    /// Where each worker has a cgroup of its own.
    pub groups: Option<Subgroups>,
    /// What workers share.
    pub broker: Broker,
    /// How Node's cluster protocol is spoken, where it is.
    pub node: Option<NodeTerms>,
    /// `LISTEN`: what each worker gets as 3, 4, ...
    pub handed_out: Vec<Opened>,
    /// What each signal does; one that is absent is forwarded.
    pub actions: BTreeMap<Signal, SignalAction>,
    /// Signals that are not ours to catch (job control, where there is a terminal).
    pub left_alone: Vec<Signal>,
    pub side_port: Option<TcpListener>,
    /// `OUTPUT=prefix` is in force.
    pub prefixes: bool,
    pub instance: Instance,
    pub termination_log: PathBuf,
    pub started: Clock,
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot start the event loop: {0}")]
    Loop(#[source] io::Error),
    #[error("cannot install signal handlers: {0}")]
    Signals(#[source] io::Error),
    #[error("cannot watch workers: {0}")]
    Poller(#[source] io::Error),
}

/// Runs the cluster to its end and answers its exit status.
pub fn run(setup: Setup) -> Result<u8, StartError> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(StartError::Loop)?;
    LocalSet::new().block_on(&tokio, async {
        let runtime = Runtime::new(setup)?;
        Ok(runtime.run().await)
    })
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Runtime {
    supervisor: Supervisor,
    clock: Clock,
    launch: Launch,
    stop_signal: Signal,
    owns_namespace: bool,
    actions: BTreeMap<Signal, SignalAction>,
    lives: Lives,
    sharing: Sharing,
    nodes: Nodes,
    output: Output,
    searches: Searches,
    memory: Memory,
    limited: Limited,
    hints: Hints,
    /// Our children that are no leaders, as far as they were looked at.
    known_strays: KnownStrays,
    signals: Signals,
    /// How often each arrived.
    received: BTreeMap<Signal, u64>,
    poller: Poller,
    timer: Timer,
    asked: mpsc::Receiver<Asked>,
    /// From those who look at the side port.
    looks: mpsc::Receiver<http::Asking>,
    published: watch::Sender<Arc<Snapshot>>,
    /// Orphans come in flocks: until this instant SIGCHLD is held back, and then all that have ended are reaped together.
    next_flock: Option<Time>,
    /// `/readyz` has answered 200 once: the start is over.
    was_up: bool,
    /// When what a start needed of our program will not be needed again soon.
    settled_at: Option<Time>,
    /// Something happened since the last snapshot.
    stale: bool,
    /// What was not carried out of the last request, and why.
    refusal: Option<String>,
    /// The namespace is being emptied: every end is a reason to look around again.
    sweeping: bool,
    termination_log: PathBuf,
    /// Why this ends, for the termination log.
    last_words: Option<String>,
    exit: Option<u8>,
}

/// Why the loop woke up.
enum Wake {
    Signal(Received),
    Readable,
    Asked(Option<Asked>),
    Looked(Option<http::Asking>),
    /// What a worker uses exactly.
    Confirmed(Life, Option<u64>),
    Limits,
    Deadline,
}

impl Runtime {
    fn new(setup: Setup) -> Result<Self, StartError> {
        let signals = Signals::install(&setup.left_alone).map_err(StartError::Signals)?;
        let poller = Poller::new().map_err(StartError::Poller)?;
        let timer = Timer::new().map_err(StartError::Poller)?;
        poller.watch(timer.descriptor(), Token::Deadline.number()).map_err(StartError::Poller)?;
        let (stop_signal, owns_namespace) = (setup.policy.stop_signal, setup.policy.owns_namespace);
        let hang_timeout = setup.policy.hang_timeout;
        let hard_caps = matches!(setup.policy.inputs.caps, Caps::Fixed(_));
        let mut facts = setup.facts;
        let (requests, asked) = mpsc::channel(WAITING_REQUESTS);
        let (asking, looks) = mpsc::channel(WAITING_REQUESTS);
        match control::Server::bind(setup.instance) {
            Ok(server) => drop(tokio::task::spawn_local(control::serve(server, requests))),
            Err(error) => {
                let line = format!("control socket: {error}; clusterinit reload, stop, scale and restart do not work");
                tracing::warn!("{line}");
                facts.not_in_force.push(line);
            }
        }
        let supervisor = Supervisor::new(setup.policy, facts);
        let (published, snapshot) = watch::channel(Arc::new(supervisor.snapshot()));
        if let Some(listener) = setup.side_port {
            let side = http::Side {
                snapshot,
                clock: setup.started,
                pid: std::process::id(),
                instance: setup.instance.to_string(),
                asking: setup.node.map(|_| asking),
            };
            drop(tokio::task::spawn_local(http::serve(listener, side)));
        }
        Ok(Self {
            supervisor,
            clock: setup.started,
            stop_signal,
            owns_namespace,
            actions: setup.actions,
            lives: Lives::default(),
            sharing: Sharing::new(setup.broker, setup.handed_out),
            nodes: Nodes::new(setup.node, setup.launch.has_filter(), hang_timeout),
            output: Output::new(setup.prefixes, setup.launch.user(), setup.started),
            launch: setup.launch,
            searches: Searches::default(),
            memory: Memory::new(setup.groups, hard_caps),
            limited: Limited::new(),
            hints: setup.hints,
            known_strays: KnownStrays::default(),
            signals,
            received: BTreeMap::new(),
            poller,
            timer,
            asked,
            looks,
            next_flock: None,
            published,
            was_up: false,
            settled_at: Some(setup.started.now() + SETTLED),
            stale: true,
            refusal: None,
            sweeping: false,
            termination_log: setup.termination_log,
            last_words: None,
            exit: None,
        })
    }

    async fn run(mut self) -> u8 {
        let effects = self.supervisor.start(self.clock.now());
        self.carry_out_all(effects);
        // What arrived since the first instruction is delivered now.
        init::unblock(&self.signals.handled);
        let mut turns: u32 = 0;
        loop {
            let more = self.read_workers();
            self.reap().await;
            self.sharing.settle();
            if let Some(code) = self.exit {
                self.publish();
                // Whoever asked for this end gets an answer: what is written to a local socket is written at once.
                let_others_go_on().await;
                self.output.finish(&self.poller).await;
                return code;
            }
            self.publish();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_BEFORE_YIELD) {
                // A loop that always finds something to do would never let the side port answer.
                let_others_go_on().await;
            }
            match self.wait(more).await {
                Wake::Signal(received) => self.received(received),
                Wake::Asked(Some(asked)) => self.asked(asked),
                Wake::Looked(Some(http::Asking::Lag)) => self.lag_asked(),
                Wake::Looked(Some(http::Asking::Metrics(reply))) => self.metrics_asked(reply),
                Wake::Confirmed(life, bytes) => self.confirmed(life, bytes),
                Wake::Limits => self.limits_stirred(),
                Wake::Deadline => self.deadline_reached(),
                Wake::Readable | Wake::Asked(None) | Wake::Looked(None) => {}
            }
        }
    }

    /// Nothing has precedence: whoever floods one source keeps no other waiting.
    async fn wait(&mut self, more: bool) -> Wake {
        let measured = self.supervisor.next_look().map(|look| look.at);
        let deadline = [
            self.next_flock,
            self.nodes.deadline(),
            self.sharing.deadline(),
            self.searches.deadline(),
            self.limited.deadline(),
            self.settled_at,
            measured,
        ]
        .into_iter()
        .fold(self.supervisor.next_deadline(), earliest);
        let (signals, poller, asked, clock) = (&mut self.signals, &self.poller, &mut self.asked, self.clock);
        let looks = &mut self.looks;
        let (confirmations, limits, timer) = (&mut self.memory.confirmations, &self.limited.watch, &self.timer);
        tokio::select! {
            received = signals.next() => Wake::Signal(received),
            () = poller.readable() => Wake::Readable,
            () = yield_now(), if more => Wake::Readable,
            request = asked.recv(), if !asked.is_closed() => Wake::Asked(request),
            look = looks.recv(), if !looks.is_closed() => Wake::Looked(look),
            (life, bytes) = confirmations.next() => Wake::Confirmed(life, bytes),
            () = limits.changed() => Wake::Limits,
            () = until(clock, timer, deadline) => Wake::Deadline,
        }
    }

    fn deadline_reached(&mut self) {
        let now = self.clock.now();
        if self.next_flock.is_some_and(|at| at <= now) {
            self.next_flock = None;
        }
        self.sharing_due(now);
        self.nodes_due(now);
        self.search(now);
        self.look_at_memory(now);
        self.limits_due(now);
        if self.supervisor.next_deadline().is_some_and(|at| at <= now) {
            self.apply(Event::DeadlineReached);
        }
        if self.settled_at.is_some_and(|at| at <= now) {
            self.settled_at = None;
            own_memory::forget_pages();
        }
    }

    /// Tells the core one thing, and carries out what follows until nothing follows any more.
    fn apply(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            // Figures are not published: most looks at memory change nothing.
            let may_show = !matches!(event, Event::Used(_));
            let effects = self.supervisor.step(self.clock.now(), event);
            self.stale |= may_show || !effects.is_empty();
            events.extend(effects.into_iter().filter_map(|effect| self.carry_out(effect)));
        }
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.stale) {
            let shared = self.sharing.show(&self.nodes);
            let (channels, signals) = (self.nodes.show(), self.received.clone());
            let snapshot = Snapshot { signals, shared, channels, ..self.supervisor.snapshot() };
            if snapshot.unready.is_none() && !std::mem::replace(&mut self.was_up, true) {
                self.settled_at = Some(self.clock.now() + SETTLED);
            }
            self.published.send_replace(Arc::new(snapshot));
            own_memory::give_back();
        }
    }
}

/// The side port and the control socket may answer whoever has asked by now. A single yield would be one step of many.
async fn let_others_go_on() {
    for _ in 0..TURNS_OF_A_REQUEST {
        yield_now().await;
    }
}

fn earliest(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    one.into_iter().chain(other).min()
}

/// At once where the deadline has come. Else never: the timer wakes the poller then. Without one an idle clusterinit does not wake up.
async fn until(clock: Clock, timer: &Timer, deadline: Option<Time>) {
    if let Some(at) = deadline {
        match at.since(clock.now()) {
            Duration::ZERO => return consume_budget().await,
            wait => timer.set(at, wait),
        }
    }
    std::future::pending::<()>().await;
}
