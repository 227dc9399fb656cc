//! A load client that counts what goes wrong: `load 127.0.0.1:8080 [clients=16] [mode=close|keep] [path=/] [think=5ms] [for=10s]`
//!
//! Each client has one connection at a time: a new one for each request (`close`), or one that is kept (`keep`). It does what an
//! ordinary connection pool does: a request that fails on a *reused* connection before the first byte of its answer is sent once
//! more on a new one. At TERM, at the end of its stdin or after `for` it stops asking, waits for open answers, and prints:
//!
//! | name | meaning |
//! |---|---|
//! | `ok` | requests that were answered |
//! | `failed` | requests that were not: what a user of the pool sees |
//! | `reset`, `eof`, `refused`, `timeout`, `other` | the same by cause; `samples` tells some |
//! | `retried` | sent once more as above; they are `ok` or `failed` too |
//! | `answers` | how often each body was seen |
//! | `failed_ids` | with `ids`: `?id=N` of each request that got no answer where it was sent first, for servers that note what they begin |
//! | `median_us`, `p99_us`, `worst_us` | of the answered requests, connecting included |
//!
//! With `hold` it is another program: each client opens one connection, sends one request, and keeps it open until
//! the end; `retried` then counts the connections that the server gave up before that.
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]
#![expect(clippy::disallowed_methods, reason = "an example is a program of its own: it has a clock and may sleep")]

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);
const MOST_SAMPLES: usize = 10;

static OVER: AtomicBool = AtomicBool::new(false);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What was asked for on the command line.
#[derive(Clone)]
struct Task {
    server: SocketAddr,
    clients: usize,
    keep: bool,
    path: String,
    think: Duration,
    most: Option<Duration>,
    ids: bool,
    hold: bool,
    /// Client N connects from 127.0.0.(N modulo this + 1).
    sources: Option<u8>,
}

#[derive(Default)]
struct Tally {
    ok: u64,
    failed: u64,
    retried: u64,
    causes: BTreeMap<&'static str, u64>,
    samples: Vec<String>,
    answers: BTreeMap<String, u64>,
    failed_ids: Vec<u64>,
    micros: Vec<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let task = Task::read(env::args().skip(1))?;
    let (stop, stopped) = mpsc::channel();
    stops(&stop)?;
    let began = Instant::now();
    let clients: Vec<_> = (0..task.clients)
        .map(|number| {
            let task = task.clone();
            thread::spawn(move || if task.hold { held(&task, number) } else { Client::new(task, number).work() })
        })
        .collect();
    println!("loading");
    let _when = match task.most {
        Some(most) => stopped.recv_timeout(most).is_ok(),
        None => stopped.recv().is_ok(),
    };
    OVER.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let mut sum = Tally::default();
    for client in clients {
        sum.add(client.join().map_err(|_| "a client panicked")?);
    }
    println!("{}", sum.told(seconds));
    Ok(())
}

/// TERM, and the end of stdin where it is a pipe.
fn stops(stop: &mpsc::Sender<()>) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    let told = stop.clone();
    thread::spawn(move || signals.forever().next().map(|_| told.send(())));
    let is_pipe = std::fs::metadata("/proc/self/fd/0").is_ok_and(|stdin| stdin.file_type().is_fifo());
    if is_pipe {
        let told = stop.clone();
        thread::spawn(move || io::copy(&mut io::stdin(), &mut io::sink()).map(|_| told.send(())));
    }
    Ok(())
}

impl Task {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let server = words.next().ok_or("usage: load ADDRESS [NAME=VALUE...]")?.parse()?;
        let mut task = Self {
            server,
            clients: 16,
            keep: false,
            path: "/".to_owned(),
            think: Duration::ZERO,
            most: None,
            ids: false,
            hold: false,
            sources: None,
        };
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            match name {
                "clients" => task.clients = value.parse()?,
                "mode" => task.keep = value == "keep",
                "path" => value.clone_into(&mut task.path),
                "think" => task.think = duration(value)?,
                "for" => task.most = Some(duration(value)?),
                "ids" => task.ids = true,
                "hold" => task.hold = true,
                "sources" => task.sources = Some(value.parse()?),
                _ => return Err(format!("what is {word}?").into()),
            }
        }
        Ok(task)
    }

    fn connect(&self, number: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if let Some(sources) = self.sources {
            let last = u8::try_from(number % usize::from(sources)).unwrap_or(0) + 1;
            socket.bind(&SocketAddr::new(IpAddr::from([127, 0, 0, last]), 0).into())?;
        }
        socket.connect_timeout(&self.server.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

fn duration(text: &str) -> Result<Duration, Box<dyn Error>> {
    match text.strip_suffix("ms") {
        Some(number) => Ok(Duration::from_millis(number.parse()?)),
        None => Ok(Duration::from_secs_f64(text.strip_suffix('s').ok_or("a duration has a unit: 5ms, 2s")?.parse()?)),
    }
}

struct Client {
    task: Task,
    number: usize,
    kept: Option<BufReader<TcpStream>>,
    tally: Tally,
}

/// Why a request has no answer, and whether the server had begun to answer.
struct Failure {
    error: io::Error,
    answer_begun: bool,
}

impl Client {
    fn new(task: Task, number: usize) -> Self {
        Self { task, number, kept: None, tally: Tally::default() }
    }

    fn work(mut self) -> Tally {
        while !OVER.load(Ordering::Relaxed) {
            self.ask();
            if !self.task.think.is_zero() {
                thread::sleep(self.task.think);
            }
        }
        self.tally
    }

    fn ask(&mut self) {
        let began = Instant::now();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let reused = self.kept.is_some();
        let mut outcome = self.exchange(id);
        if let Err(failure) = &outcome
            && reused
            && !failure.answer_begun
            && failure.error.kind() != ErrorKind::WouldBlock
        {
            self.tally.retried += 1;
            self.note_failed(id);
            outcome = self.exchange(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        }
        match outcome {
            Ok(body) => {
                self.tally.ok += 1;
                self.tally.micros.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
                *self.tally.answers.entry(body).or_default() += 1;
            }
            Err(failure) => {
                self.tally.fail(&failure);
                self.note_failed(id);
                // A server that refuses is not asked in a busy loop.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn note_failed(&mut self, id: u64) {
        if self.task.ids {
            self.tally.failed_ids.push(id);
        }
    }

    /// One request on the kept connection or on a new one. After a failure none is kept.
    fn exchange(&mut self, id: u64) -> Result<String, Failure> {
        let mut answer_begun = false;
        let outcome = self.converse(id, &mut answer_begun);
        outcome.map_err(|error| Failure { error, answer_begun })
    }

    fn converse(&mut self, id: u64, answer_begun: &mut bool) -> io::Result<String> {
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => BufReader::new(self.task.connect(self.number)?),
        };
        let (path, server) = (&self.task.path, self.task.server);
        let query = if self.task.ids { format!("?id={id}") } else { String::new() };
        let connection = if self.task.keep { "keep-alive" } else { "close" };
        let request = format!("GET {path}{query} HTTP/1.1\r\nHost: {server}\r\nConnection: {connection}\r\n\r\n");
        // A server that closed before may still have sent its answer: the read tells.
        let written = stream.get_mut().write_all(request.as_bytes());
        let answer = read_answer(&mut stream, answer_begun);
        let (body, reusable) = match (answer, written) {
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
            (Ok(answer), _) => answer,
        };
        if self.task.keep && reusable {
            self.kept = Some(stream);
        }
        Ok(body)
    }
}

/// The body, and whether the connection can be used once more.
fn read_answer(stream: &mut BufReader<TcpStream>, begun: &mut bool) -> io::Result<(String, bool)> {
    let mut head = String::new();
    *begun = !stream.fill_buf()?.is_empty();
    loop {
        let start = head.len();
        if stream.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if head.get(start..).is_some_and(|line| line == "\r\n") {
            break;
        }
    }
    let head = head.to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") && !head.starts_with("http/1.0 200") {
        return Err(io::Error::other(format!("answered {}", head.lines().next().unwrap_or_default())));
    }
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    let mut body = Vec::new();
    let Some(length) = value("content-length") else {
        stream.read_to_end(&mut body)?;
        return Ok((String::from_utf8_lossy(&body).into_owned(), false));
    };
    let length: u64 = length.parse().map_err(io::Error::other)?;
    if u64::try_from(stream.by_ref().take(length).read_to_end(&mut body)?).unwrap_or(0) < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let reusable = head.starts_with("http/1.1") && value("connection") != Some("close");
    Ok((String::from_utf8_lossy(&body).into_owned(), reusable))
}

/// One connection, one answer, and then nothing until the end. A connection that the server gives up counts as failed.
fn held(task: &Task, number: usize) -> Tally {
    let mut client = Client::new(Task { keep: true, ..task.clone() }, number);
    client.ask();
    while !OVER.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    let gone = client.kept.take().is_none_or(|mut stream| {
        let nothing_yet = stream.get_mut().set_nonblocking(true).and_then(|()| stream.fill_buf().map(<[u8]>::len));
        nothing_yet.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    });
    client.tally.retried += u64::from(gone);
    client.tally
}

impl Tally {
    fn fail(&mut self, failure: &Failure) {
        let cause = match failure.error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "reset",
            ErrorKind::UnexpectedEof => "eof",
            ErrorKind::ConnectionRefused => "refused",
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "timeout",
            _ => "other",
        };
        self.failed += 1;
        *self.causes.entry(cause).or_default() += 1;
        self.samples.push(failure.error.to_string());
    }

    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.retried += other.retried;
        for (cause, count) in other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
        self.samples.extend(other.samples);
        self.failed_ids.extend(other.failed_ids);
        self.micros.extend(other.micros);
    }

    fn told(mut self, seconds: f64) -> serde_json::Value {
        self.micros.sort_unstable();
        self.samples.truncate(MOST_SAMPLES);
        let at = |part: usize| self.micros.get(self.micros.len() * part / 100).or(self.micros.last());
        let cause = |name: &str| self.causes.get(name).copied().unwrap_or(0);
        json!({
            "ok": self.ok, "failed": self.failed, "retried": self.retried, "seconds": seconds,
            "reset": cause("reset"), "eof": cause("eof"), "refused": cause("refused"), "timeout": cause("timeout"),
            "other": cause("other"), "samples": self.samples, "answers": self.answers, "failed_ids": self.failed_ids,
            "median_us": at(50), "p99_us": at(99), "worst_us": self.micros.last(),
        })
    }
}
