//! The model server: small, and with the manners that a good worker has.
//!
//! HTTP/1.1 with keep-alive on the inherited `LISTEN_FDS` when they are meant for this process, else on `PORT` (default 8080).
//! It says `READY=1` when it listens. At TERM it takes what already waits in its queue, answers every open request, closes idle
//! connections, and exits 0.
//!
//! | path | what it does |
//! |---|---|
//! | `/` | `{"worker":0,"pid":7,"generation":1,"count":2}` |
//! | `/slow?ms=N` | the same, N milliseconds later |
//! | `/crash` | aborts (SIGABRT), without an answer |
//! | `/exit?code=N` | exits N, without an answer |
//! | `/leak?mb=N` | takes N MiB more and keeps them |
//! | `/hang` | answers, then accepts and answers nothing any more, not even TERM |
#![expect(
    clippy::disallowed_methods,
    reason = "an example is a program of its own: it reads its environment and may sleep and exit"
)]
#![expect(clippy::print_stderr, reason = "a server without a log library")]
#![expect(clippy::exit, reason = "/exit exists to do that")]

mod said;

use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

/// Longest request head that is read.
const LONGEST_HEAD: u64 = 16 * 1024;
/// How long a client that connected just before TERM has for its first request.
const LAST_CHANCE_MS: u16 = 500;

static HUNG: AtomicBool = AtomicBool::new(false);
static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn main() -> Result<(), Box<dyn Error>> {
    // Nobody ever reads from this pipe: from TERM on it stays readable, for every thread that polls it.
    let (stop, term) = io::pipe()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, OwnedFd::from(term))?;
    let listeners = match inherited()? {
        some if !some.is_empty() => some,
        _ => vec![own()?],
    };
    said::to_supervisor("READY=1")?;
    thread::scope(|threads| {
        let serve = |connection: Socket| {
            let stop = &stop;
            threads.spawn(move || converse(&connection, stop));
        };
        accept_until_stopped(&listeners, &stop, serve)
    })?;
    Ok(())
}

/// The sockets that a supervisor opened for us: `LISTEN_FDS` of them from descriptor 3 on, if `LISTEN_PID` names us.
fn inherited() -> Result<Vec<Socket>, Box<dyn Error>> {
    if env::var("LISTEN_PID").ok().as_deref() != Some(process::id().to_string().as_str()) {
        return Ok(Vec::new());
    }
    let count: i32 = env::var("LISTEN_FDS")?.parse()?;
    Ok((3..3 + count).map(inherited_socket).collect())
}

#[expect(unsafe_code, reason = "a descriptor handed over by number can only be taken raw")]
fn inherited_socket(number: i32) -> Socket {
    // SAFETY: the LISTEN_FDS protocol gives us this descriptor; nothing else in this process knows of it.
    unsafe { Socket::from_raw_fd(number) }
}

/// A socket of our own on `PORT`: dual stack, or IPv4 where the kernel has no IPv6.
fn own() -> Result<Socket, Box<dyn Error>> {
    let port: u16 = env::var("PORT").map_or(Ok(8080), |port| port.parse())?;
    let bind = |domain, address: SocketAddr| {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket)
    };
    bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()),
        })
        .map_err(|error| format!("cannot listen on port {port}: {error}").into())
}

/// After TERM, one more look: what already waits in the queues is still served.
fn accept_until_stopped(listeners: &[Socket], stop: &io::PipeReader, mut serve: impl FnMut(Socket)) -> io::Result<()> {
    for listener in listeners {
        listener.set_nonblocking(true)?;
    }
    loop {
        let mut watched: Vec<PollFd<'_>> =
            listeners.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        watched.push(PollFd::new(stop.as_fd(), PollFlags::POLLIN));
        wait(&mut watched, PollTimeout::NONE)?;
        hang_if_told();
        let stopping = watched.last().is_some_and(is_readable);
        for listener in listeners {
            while let Ok((connection, _)) = listener.accept() {
                serve(connection);
            }
        }
        if stopping {
            return Ok(());
        }
    }
}

/// One connection, from its first request to its last.
fn converse(connection: &Socket, stop: &io::PipeReader) {
    if let Err(error) = answer_requests(connection, stop) {
        eprintln!("server: {error}");
    }
}

fn answer_requests(connection: &Socket, stop: &io::PipeReader) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    let mut input = BufReader::new(connection);
    let mut fresh = true;
    while !input.buffer().is_empty() || request_comes(connection, stop, fresh)? {
        hang_if_told();
        fresh = false;
        let Some((target, keep_alive)) = read_request(&mut input)? else { break };
        let (status, body) = respond(&target);
        let keep = keep_alive && !is_stopping(stop)?;
        let fate = if keep { "keep-alive" } else { "close" };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: {fate}\r\n\r\n{body}"
        );
        let mut output = connection;
        output.write_all(answer.as_bytes())?;
        if target == "/hang" {
            HUNG.store(true, Ordering::Relaxed);
        }
        if !keep {
            break;
        }
    }
    Ok(())
}

/// Waits for the next request; at TERM an idle connection is over, but one that has not said anything yet gets a last chance.
fn request_comes(connection: &Socket, stop: &io::PipeReader, fresh: bool) -> io::Result<bool> {
    let mut both = [PollFd::new(connection.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    wait(&mut both, PollTimeout::NONE)?;
    let [client, _] = &both;
    if is_readable(client) || !fresh {
        return Ok(is_readable(client));
    }
    let mut client = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
    wait(&mut client, LAST_CHANCE_MS.into())?;
    Ok(client.iter().all(is_readable))
}

/// The target of the request and whether the client would like to go on; `None` at the end of the connection.
fn read_request(input: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut head = String::new();
    let mut body = 0;
    let mut keep_alive = true;
    let mut limited = input.by_ref().take(LONGEST_HEAD);
    loop {
        let start = head.len();
        if limited.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        let line = head.get(start..).unwrap_or_default().trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => body = value.trim().parse().unwrap_or(0),
                "connection" => keep_alive = !value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
    }
    io::copy(&mut input.by_ref().take(body), &mut io::sink())?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let target = words.nth(1).unwrap_or_default().to_owned();
    Ok(Some((target, keep_alive && words.next() == Some("HTTP/1.1"))))
}

fn respond(target: &str) -> (&'static str, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number = query.split_once('=').and_then(|(_, value)| value.parse::<u32>().ok()).unwrap_or(0);
    match path {
        "/" | "/hang" => {}
        "/slow" => thread::sleep(Duration::from_millis(number.into())),
        "/crash" => process::abort(),
        "/exit" => process::exit(i32::try_from(number).unwrap_or(255)),
        "/leak" => leak(number),
        _ => return ("404 Not Found", "{}\n".to_owned()),
    }
    ("200 OK", who_am_i())
}

fn who_am_i() -> String {
    let own = |name: &str| env::var(name).unwrap_or_else(|_| "null".to_owned());
    format!(
        "{{\"worker\":{},\"pid\":{},\"generation\":{},\"count\":{}}}\n",
        own("CLUSTERINIT_WORKER_ID"),
        process::id(),
        own("CLUSTERINIT_GENERATION"),
        own("CLUSTERINIT_WORKER_COUNT"),
    )
}

fn leak(mebibytes: u32) {
    // Not zeroes: zeroed memory is not resident before it is written to.
    let bytes = usize::try_from(mebibytes).unwrap_or(0) << 20;
    if let Ok(mut leaked) = LEAKED.lock() {
        leaked.push(vec![1; bytes]);
    }
}

fn hang_if_told() {
    while HUNG.load(Ordering::Relaxed) {
        thread::park();
    }
}

fn is_stopping(stop: &io::PipeReader) -> io::Result<bool> {
    let mut now = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    wait(&mut now, PollTimeout::ZERO)?;
    Ok(now.iter().all(is_readable))
}

/// Readable, closed, or broken: the next read will not block.
fn is_readable(watched: &PollFd<'_>) -> bool {
    watched.revents().is_some_and(|seen| !seen.is_empty())
}

fn wait(watched: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    loop {
        match poll(watched, timeout) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
