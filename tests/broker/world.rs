//! What each test plays PID 1 with: a broker, and workers that it starts, answers and reaps.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clusterinit::cluster::words::{ExitStatus, Life, Pid, Signal, Slot};
use clusterinit::config::{Balance, SharePorts};
use clusterinit::share::address::Address;
use clusterinit::share::broker::{Broker, News, Rules};
use clusterinit::share::filter;
use clusterinit::share::sockets::Sockets;
use clusterinit::sys::descriptor::lift;
use clusterinit::sys::init::Inherited;
use clusterinit::sys::outcome::{self, Outcome};
use clusterinit::sys::process::{self, Handed, Launch, Terms};
use clusterinit::sys::reap;
use clusterinit::sys::seccomp::{Call, Filter, Listener};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// For one thing that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at whether a worker has ended.
const LOOK: u16 = 5; // milliseconds

pub(crate) struct Worker {
    pub(crate) pid: Pid,
    pub(crate) life: Life,
    slot: Slot,
    listener: Listener,
    pub(crate) news: Vec<News>,
    pub(crate) ended: Option<ExitStatus>,
}

/// What PID 1 has: the broker and the workers.
pub(crate) struct Cluster {
    pub(crate) broker: Broker,
    pub(crate) workers: Vec<Worker>,
}

fn plays() -> String {
    let tests = std::env::current_exe().expect("the test's own path");
    let path = tests.parent().and_then(std::path::Path::parent).expect("target/debug/deps").join("examples/plays");
    assert!(path.exists(), "{} is missing: run `cargo build --examples`, or all tests at once", path.display());
    path.to_str().expect("UTF-8").to_owned()
}

fn launch(script: &str, filtered: bool) -> Launch {
    let program = plays();
    let command: Vec<OsString> = std::iter::once(program.as_str()).chain(script.split(' ')).map(OsString::from).collect();
    let filter = filtered.then(|| Filter { program: filter::program(), no_new_privs: true });
    let terms = Terms { filter, ..Terms::default() };
    Launch::new(&command, &[], Inherited::take(), terms).expect("no NUL in it")
}

/// Starts it, and waits until it has been executed: one at a time, because what is being forked has copies of our sockets until then,
/// those of other tests too.
fn execute(script: &str, filtered: bool) -> (Pid, Option<Listener>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let started = launch(script, filtered).start(&[], Handed::default()).expect("forked");
    let mut listener = None;
    loop {
        let mut asked = [PollFd::new(started.outcome.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut asked, PollTimeout::try_from(DEADLINE).expect("short")), Ok(1), "it has to start");
        match outcome::read(&started.outcome) {
            Some(Outcome::Listener(descriptor)) => listener = Some(Listener::new(lift(descriptor))),
            Some(Outcome::Executed) => return (started.pid, listener),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::with(SharePorts::All, &[])
    }

    pub(crate) fn with(ports: SharePorts, per_worker: &[u16]) -> Self {
        let rules = Rules { ports, per_worker: per_worker.to_vec() };
        Self { broker: Broker::new(Sockets::new(Balance::Spread), rules), workers: Vec::new() }
    }

    /// Its index, which is its slot too.
    pub(crate) fn start(&mut self, script: &str) -> usize {
        let (pid, listener) = execute(script, true);
        let index = self.workers.len();
        let listener = listener.expect("it comes before exec");
        let life = Life(100 + u64::try_from(index).unwrap());
        let slot = Slot(u32::try_from(index).unwrap());
        self.workers.push(Worker { pid, life, slot, listener, news: Vec::new(), ended: None });
        index
    }

    /// Answers what waits, until it is so.
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            self.turn();
        }
    }

    pub(crate) fn turn(&mut self) {
        let asked = self.workers.iter().filter(|worker| worker.ended.is_none());
        let mut asked: Vec<_> =
            asked.map(|worker| PollFd::new(worker.listener.descriptor().as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut asked, PollTimeout::from(LOOK)).expect("polled");
        for worker in self.workers.iter_mut().filter(|worker| worker.ended.is_none()) {
            while let Ok(Some(call)) = worker.listener.receive() {
                let news = self.broker.handle(&worker.listener, worker.life, worker.slot, &call);
                if news.iter().any(|news| matches!(news, News::Listening { .. })) {
                    self.broker.sockets.join(worker.life);
                }
                worker.news.extend(news);
            }
            if reap::has_ended(worker.pid) {
                worker.ended = reap::wait_for_end(worker.pid);
                self.broker.ended(worker.life);
            }
        }
        self.broker.sockets.settle();
    }

    /// Until that worker has listened so many times.
    pub(crate) fn listened(&mut self, worker: usize, times: usize) {
        self.until("it listens", |cluster| {
            assert_eq!(cluster.workers[worker].ended, None, "it has ended: {:?}", cluster.workers[worker].news);
            cluster.listenings(worker).len() >= times
        });
    }

    pub(crate) fn listenings(&self, worker: usize) -> Vec<(Option<Address>, bool)> {
        let news = self.workers[worker].news.iter();
        news.filter_map(|news| if let News::Listening { address, shared } = news { Some((*address, *shared)) } else { None })
            .collect()
    }

    pub(crate) fn remarks(&self, worker: usize) -> Vec<&str> {
        let news = self.workers[worker].news.iter();
        news.filter_map(|news| if let News::Remark(text) = news { Some(text.as_str()) } else { None }).collect()
    }

    pub(crate) fn ends(&mut self, worker: usize) -> u8 {
        self.until("it ends", |cluster| cluster.workers[worker].ended.is_some());
        self.workers[worker].ended.map(ExitStatus::as_code).unwrap()
    }

    pub(crate) fn pids(&self) -> BTreeSet<i32> {
        self.workers.iter().map(|worker| worker.pid.0).collect()
    }

    /// Answers that call alone.
    pub(crate) fn answer(&mut self, worker: usize, call: &Call) {
        let Worker { listener, life, slot, news, .. } = &mut self.workers[worker];
        news.extend(self.broker.handle(listener, *life, *slot, call));
    }

    pub(crate) fn next_call(&mut self, worker: usize) -> Call {
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "no call");
            if let Some(call) = self.workers[worker].listener.receive().expect("the worker is there") {
                return call;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for worker in self.workers.iter().filter(|worker| worker.ended.is_none()) {
            process::signal_group(worker.pid, Signal::KILL);
            reap::wait_for_end(worker.pid);
        }
    }
}

/// The script is played with us and without us, and goes the same way.
pub(crate) fn same_with_and_without(script: &str) {
    let (pid, _) = execute(script, false);
    assert_eq!(reap::wait_for_end(pid), Some(ExitStatus::Code(0)), "without us: {script}");
    let mut cluster = Cluster::new();
    let worker = cluster.start(script);
    assert_eq!(cluster.ends(worker), 0, "with us: {script}: {:?}", cluster.workers[worker].news);
}

pub(crate) fn parsed(address: &str) -> Address {
    Address::new(address.parse().expect("an address"), false)
}

/// The pid that whoever accepts tells.
pub(crate) fn greeting(address: &str) -> i32 {
    let address: SocketAddr = address.parse().expect("an address");
    let deadline = Instant::now() + DEADLINE;
    // What the kernel was left to do, it does after it was told of.
    let mut client = loop {
        match TcpStream::connect_timeout(&address, DEADLINE) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline => std::thread::yield_now(),
            connected => break connected.expect("somebody listens"),
        }
    };
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("an answer in time");
    text.trim().parse().expect("a pid")
}

/// Connects until all of these have answered.
pub(crate) fn all_answer(address: &str, pids: &BTreeSet<i32>) {
    let mut missing = pids.clone();
    for _ in 0..500 {
        let pid = greeting(address);
        assert!(pids.contains(&pid), "{pid} is none of {pids:?}");
        missing.remove(&pid);
        if missing.is_empty() {
            return;
        }
    }
    panic!("never answered: {missing:?}");
}
