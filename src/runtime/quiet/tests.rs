//! Searches for quiet instants of real servers on the real kernel: they have no shutdown code, and know nothing of us.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::runtime::Builder;

use super::*;
use crate::skip::skipped;
use crate::sys::open_sockets::OpenSockets;
use crate::sys::sock_diag::{Diag, Family, LISTEN, Name, Tcp};

const PYTHON: [&str; 3] = ["python3", "-u", concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/quiet/server.py")];
const NODE: [&str; 2] = ["node", concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/quiet/server.js")];
/// Within which a doubt would not have been given up.
const LONG: Duration = Duration::from_millis(900);
const PATIENCE: Duration = Duration::from_secs(5);

/// A server and its processes, killed at the end of the test.
struct Server {
    child: Child,
    port: u16,
    listeners: Vec<(u64, u16)>,
    /// Asked for by name: a search asks often.
    queues: RefCell<Diag>,
    queue_names: Vec<Name>,
    /// Names of the requests that it has begun.
    begun: Arc<Mutex<BTreeSet<String>>>,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    fn start(command: &[&str], address: &str) -> Option<Self> {
        use std::os::unix::process::CommandExt;
        let (program, arguments) = command.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(arguments).arg(address).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skipped(&format!("this needs {program}"));
                return None;
            }
            Err(error) => panic!("{program}: {error}"),
        };
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says its port");
        let port = line.trim().parse().expect("a port");
        let begun: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let heard = Arc::clone(&begun);
        drop(thread::spawn(move || {
            said.lines().map_while(Result::ok).for_each(|name| drop(heard.lock().map(|mut begun| begun.insert(name))));
        }));
        let queues = RefCell::new(Diag::open().expect("sock_diag"));
        let mut server = Self { child, port, listeners: Vec::new(), queues, queue_names: Vec::new(), begun };
        let listening = server.listening();
        server.listeners = listening.iter().map(|tcp| (tcp.inode, port)).collect();
        server.queue_names = listening.iter().map(|tcp| tcp.name).collect();
        assert!(!server.listeners.is_empty());
        Some(server)
    }

    fn pid(&self) -> Pid {
        Pid(i32::try_from(self.child.id()).expect("pids fit"))
    }

    fn listening(&self) -> Vec<Tcp> {
        let mut open = Vec::new();
        let mut look = OpenSockets::of(self.pid()).expect("ours");
        while look.read_more(&mut open) {}
        let mut diag = Diag::open().expect("sock_diag");
        let mut found = Vec::new();
        for family in Family::BOTH {
            diag.list(family, self.port, &[LISTEN]).expect("a list");
            while diag.read_more(&mut found).expect("a part") {}
        }
        found.retain(|tcp| open.iter().any(|(_, inode)| *inode == tcp.inode));
        found
    }

    fn search(&self, clock: Clock, length: Duration, arrivals: Arrivals) -> Search {
        let now = clock.now();
        Search::new(clock, Window { from: now, until: now + length }, arrivals, &self.listeners).expect("sock_diag")
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("connected");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
        Client { stream }
    }

    fn is_frozen(&self) -> bool {
        threads::all_stopped(self.pid())
    }
}

impl Worker for &Server {
    fn members(&mut self) -> Vec<Member> {
        let mut pids = vec![self.pid()];
        let mut next = 0;
        while let Some(pid) = pids.get(next).copied() {
            pids.extend(procfs::children(pid).unwrap_or_default());
            next += 1;
        }
        pids.into_iter().filter_map(Member::of).collect()
    }

    fn waiting(&mut self) -> u32 {
        let mut queues = self.queues.borrow_mut();
        self.queue_names.iter().filter_map(|name| queues.ask(name).expect("asked")).map(|tcp| tcp.unread).sum()
    }

    fn sockets_of(&mut self, _: Pid) -> Option<Vec<(RawFd, u64)>> {
        None
    }
}

impl Drop for Server {
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    fn drop(&mut self) {
        process::signal_group(self.pid(), Signal::KILL);
        self.child.wait().expect("its own child");
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    fn ask(&mut self, path: &str) {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    }

    fn try_ask(&mut self, path: &str) -> bool {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").is_ok()
    }

    /// True: a whole answer.
    fn answer(&mut self) -> bool {
        let mut answer = Vec::new();
        let mut part = [0; 1024];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return false,
                Ok(length) => answer.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            if answer.windows(104).any(|end| end.starts_with(b"\r\n\r\n") && end.ends_with(&[b'x'; 100])) {
                return true;
            }
        }
    }

    /// Whether a whole answer is there by now.
    fn has_answer(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a TCP socket");
        self.answer()
    }
}

/// Steps until it has come to something.
fn drive(search: &mut Search, mut server: &Server) -> Outcome {
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(async {
        loop {
            match search.step(&mut server) {
                Outcome::Later => tokio::time::sleep(search.due().since(search.clock.now())).await,
                // Where nothing can be done about arrivals, as in all of these.
                Outcome::Calm => {}
                end => return end,
            }
        }
    })
}

/// Idle connections, each used once, and a request that takes 300 ms, on one of them or on a new one.
fn one_slow_request(command: &[&str], address: &str) {
    for fresh in [true, false] {
        let Some(server) = Server::start(command, address) else { return };
        slow_request(&server, fresh);
    }
}

fn slow_request(server: &Server, fresh: bool) {
    let mut idle: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut idle {
        // Longer than a tick of any kernel's clock: no doubts.
        client.ask("/30");
        assert!(client.answer());
    }
    // One that never said anything.
    let silent = server.connect();
    let mut slow = if fresh { server.connect() } else { idle.pop().expect("several") };
    slow.ask("/300/slow");
    let clock = Clock::start();
    while !server.begun.lock().expect("no panic").contains("slow") {
        assert!(clock.now() < Time(PATIENCE));
        thread::yield_now();
    }
    let mut search = server.search(clock, PATIENCE, Arrivals::Possible);
    // No strictness here: it shall be right at once.
    search.window.from = search.window.until;
    let outcome = drive(&mut search, server);
    assert!(matches!(outcome, Outcome::Quiet), "{outcome:?} {:#?}", search.connections);
    assert!(server.is_frozen(), "found, and held");
    assert!(slow.has_answer(), "not before the answer was sent: {:?}", clock.now());
    assert!(clock.now() < Time(LONG), "soon after it: {:?}", clock.now());
    search.thaw();
    assert!(!server.is_frozen());
    let mut after = server.connect();
    after.ask("/0");
    assert!(after.answer(), "it goes on");
    drop(silent);
}

#[test]
fn a_request_in_flight_is_waited_for_with_a_thread_per_connection() {
    one_slow_request(&PYTHON, "127.0.0.1");
}

#[test]
fn a_request_in_flight_is_waited_for_with_one_thread_and_dual_stack() {
    one_slow_request(&NODE, "::");
}

#[test]
fn a_thread_that_waits_in_read_settles_a_doubt() {
    let Some(server) = Server::start(&PYTHON, "127.0.0.1") else { return };
    let clock = Clock::start();
    let mut search = server.search(clock, PATIENCE, Arrivals::Over);
    search.window.from = search.window.until;
    // Answered within a tick, most of them, and acknowledged as well.
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.ask("/0");
        assert!(client.answer());
    }
    let asked = clock.now();
    assert!(matches!(drive(&mut search, &server), Outcome::Quiet));
    assert!(clock.now().since(asked) < LONG, "{:?}", clock.now());
}

#[test]
fn the_window_ends_with_everything_thawed() {
    let Some(server) = Server::start(&PYTHON, "127.0.0.1") else { return };
    let mut slow = server.connect();
    slow.ask("/10000");
    let clock = Clock::start();
    let mut search = server.search(clock, Duration::from_millis(150), Arrivals::Over);
    assert!(matches!(drive(&mut search, &server), Outcome::Over));
    assert!(clock.now() >= Time(Duration::from_millis(150)) && !server.is_frozen());
}

#[test]
fn a_search_that_is_dropped_thaws() {
    let Some(server) = Server::start(&PYTHON, "127.0.0.1") else { return };
    let mut search = server.search(Clock::start(), PATIENCE, Arrivals::Possible);
    assert!(matches!(drive(&mut search, &server), Outcome::Quiet));
    assert!(server.is_frozen());
    drop(search);
    assert!(!server.is_frozen());
}

#[test]
fn without_connections_and_arrivals_nothing_is_frozen() {
    let Some(server) = Server::start(&NODE, "127.0.0.1") else { return };
    let mut search = server.search(Clock::start(), PATIENCE, Arrivals::Over);
    assert!(matches!(drive(&mut search, &server), Outcome::Quiet));
    assert!(!server.is_frozen());
}

#[test]
fn before_anything_is_frozen_arrivals_can_be_ended() {
    let Some(server) = Server::start(&NODE, "127.0.0.1") else { return };
    let mut client = server.connect();
    client.ask("/0");
    assert!(client.answer());
    let mut search = server.search(Clock::start(), PATIENCE, Arrivals::Possible);
    let calm = loop {
        match search.step(&mut &server) {
            Outcome::Later => thread::yield_now(),
            end => break end,
        }
    };
    assert!(matches!(calm, Outcome::Calm) && !server.is_frozen(), "{calm:?}");
    search.no_more_arrivals();
    drop(client);
    assert!(matches!(drive(&mut search, &server), Outcome::Quiet));
}

#[test]
fn what_waits_in_the_queue_is_waited_for() {
    let Some(server) = Server::start(&PYTHON, "127.0.0.1") else { return };
    // It cannot accept.
    process::signal(server.pid(), Signal::STOP).expect("ours");
    let clock = Clock::start();
    while !server.is_frozen() {
        thread::yield_now();
    }
    let _client = server.connect();
    let mut search = server.search(clock, Duration::from_millis(100), Arrivals::Over);
    assert!(matches!(drive(&mut search, &server), Outcome::Over));
    process::signal(server.pid(), Signal::CONT).expect("ours");
    let mut search = server.search(clock, PATIENCE, Arrivals::Over);
    assert!(matches!(drive(&mut search, &server), Outcome::Quiet), "accepted, and nobody asks");
}

#[test]
fn what_forks_is_frozen_with_all_its_children() {
    let script = "import os,subprocess,sys; subprocess.Popen(['sh','-c','while :; do sleep 0.001 & wait; done'])\nexec(open(sys.argv[1]).read().replace('argv[1]','argv[2]'))";
    let Some(server) = Server::start(&["python3", "-c", script, PYTHON[2]], "127.0.0.1") else { return };
    for _ in 0..10 {
        let mut search = server.search(Clock::start(), PATIENCE, Arrivals::Possible);
        assert!(matches!(drive(&mut search, &server), Outcome::Quiet));
        let members = (&mut &server).members();
        assert!(members.len() >= 2 && members.iter().all(|member| threads::all_stopped(member.pid)), "{members:?}");
        search.thaw();
        assert!(!members.iter().all(|member| threads::all_stopped(member.pid)));
    }
}

/// What became of the requests of one stop.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    cut_off: usize,
    stale: usize,
    late: usize,
    took: Vec<Duration>,
}

/// One stop of a fresh server under load: at a quiet instant, or at a random one.
fn stop_once(command: &[&str], clients: usize, think: Duration, quiet: bool, round: usize, tally: &mut Tally) {
    let Some(server) = Server::start(command, "127.0.0.1") else { return };
    let stopping = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..clients)
        .map(|number| {
            let (mut client, stopping) = (server.connect(), Arc::clone(&stopping));
            thread::spawn(move || {
                let mut answered = 0;
                for count in 0.. {
                    let name = format!("{number}-{count}");
                    if !client.try_ask(&format!("/4/{name}")) {
                        return (answered, None);
                    }
                    if !client.answer() {
                        return (answered, Some(name));
                    }
                    answered += 1;
                    if !think.is_zero() {
                        // Not in step with each other.
                        thread::park_timeout(think + Duration::from_micros(((number * 37 + count * 11) % 100) as u64 * 20));
                    }
                    assert!(!stopping.load(Ordering::Relaxed) || count < 1_000_000);
                }
                (answered, None)
            })
        })
        .collect();
    let clock = Clock::start();
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(async {
        tokio::time::sleep(Duration::from_millis(150) + Duration::from_micros((round * 7919 % 20_000) as u64)).await;
    });
    let asked = clock.now();
    if quiet {
        let mut search = server.search(clock, Duration::from_secs(4), Arrivals::Over);
        // The strict phases are for streams, and cost a fifth of the window: not what is measured here.
        search.window.from = search.window.until;
        let outcome = drive(&mut search, &server);
        process::signal(server.pid(), Signal::TERM).expect("ours");
        tally.late += usize::from(!matches!(outcome, Outcome::Quiet));
        search.thaw();
    } else {
        process::signal(server.pid(), Signal::TERM).expect("ours");
    }
    tally.took.push(clock.now().since(asked));
    stopping.store(true, Ordering::Relaxed);
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("a client")).collect();
    let begun = server.begun.lock().expect("no panic").clone();
    for (answered, open) in ends {
        tally.answered += answered;
        match open {
            Some(name) if begun.contains(&name) => tally.cut_off += 1,
            Some(_) => tally.stale += 1,
            None => {}
        }
    }
}

#[test]
#[ignore = "a measurement of minutes: cargo test --release runtime::quiet -- --ignored --nocapture"]
#[expect(clippy::print_stdout, reason = "a measurement is for reading")]
fn requests_cut_off_by_a_stop() {
    for (clients, think) in [(8, 5), (4, 5), (16, 5), (8, 0)] {
        for (name, command) in [("python", &PYTHON[..]), ("node", &NODE[..])] {
            for quiet in [false, true] {
                let mut tally = Tally::default();
                for round in 0..30 {
                    stop_once(command, clients, Duration::from_millis(think), quiet, round, &mut tally);
                }
                tally.took.sort();
                let (median, worst) = (tally.took[tally.took.len() / 2], tally.took[tally.took.len() - 1]);
                println!(
                    "{name}, {clients} connections, think {think} ms, {}: cut off {}, stale {}, too late {}, median {median:?}, worst {worst:?}, answered {}",
                    if quiet { "quiet" } else { "random" },
                    tally.cut_off,
                    tally.stale,
                    tally.late,
                    tally.answered,
                );
            }
        }
    }
}
