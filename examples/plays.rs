//! Plays a script of socket calls, given as words: `plays tcp4 reuseaddr bind:127.0.0.1:8080 listen serve`.
//!
//! Each word works on the current socket. With `=ERRNO` behind it a call has to fail in that way (`bind:0.0.0.0:80=EACCES`), without
//! it has to work. When all words are played it ends with 0; if one went otherwise, with its number, counted from 1.
//!
//! | word | what it does |
//! |---|---|
//! | `tcp4`, `tcp6`, `udp4` | a new socket becomes the current one, close-on-exec; `inherited`: it is not close-on-exec |
//! | `dup`, `close`, `back` | a duplicate becomes the current one; it is closed; the one before becomes the current one |
//! | `reuseaddr`, `reuseport`, `v6only`, `nonblocking` | options |
//! | `bind:ADDRESS`, `listen`, `connect:ADDRESS`, `unix:PATH` | calls; `unix` binds a new socket and listens |
//! | `is-nonblocking`, `is-blocking`, `is-cloexec`, `is-inherited`, `has-port:N` | what has to be so |
//! | `greet`, `serve` | accepts one client, or all for ever, and tells its own pid |
//! | `fork`, `twin` | a child plays the rest: the parent waits for it, or plays the rest too |
//! | `threads:N:ADDRESS` | N threads bind and listen at once, at N ports from this one on |
//! | `uid:N`, `uid-exec:N` | becomes another user, and with `-exec` is executed again for the rest |
//! | `own-net` | moves to a network namespace of its own |
//! | `times:N:ADDRESS` | N rounds of socket, bind, listen, close; writes the median times to standard output |
//! | `wait` | for ever |
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an example is a program of its own: what goes wrong in its script ends it"
)]
#![expect(unsafe_code, reason = "fork")]

use std::env;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let mut sockets: Vec<Socket> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let (call, expected) = word.split_once('=').map_or((word.as_str(), None), |(call, expected)| (call, Some(expected)));
        let outcome = match call {
            // SAFETY: this program has one thread here.
            "fork" => match unsafe { fork() }.expect("forked") {
                ForkResult::Child => Ok(()),
                ForkResult::Parent { child } => return status_of(child),
            },
            // SAFETY: this program has one thread here.
            "twin" => unsafe { fork() }.map(drop).map_err(io::Error::from),
            _ => play(call, words.get(index + 1..).unwrap_or_default(), &mut sockets),
        };
        let seen = outcome.err().map(|error| format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))));
        if seen.as_deref() != expected {
            complain(&format!("{word}: {seen:?}"));
            return ExitCode::from(u8::try_from(index + 1).unwrap_or(u8::MAX));
        }
    }
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "plays: {text}");
}

fn status_of(child: nix::unistd::Pid) -> ExitCode {
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        _ => ExitCode::FAILURE,
    }
}

fn play(word: &str, rest: &[String], sockets: &mut Vec<Socket>) -> io::Result<()> {
    let (verb, argument) = word.split_once(':').unwrap_or((word, ""));
    let current = sockets.last();
    let address = || argument.parse::<SocketAddr>().map_err(io::Error::other);
    let socket = || current.ok_or_else(|| io::Error::other("no socket"));
    match verb {
        "tcp4" => sockets.push(Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?),
        "tcp6" => sockets.push(Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?),
        "udp4" => sockets.push(Socket::new(Domain::IPV4, Type::DGRAM, None)?),
        "unix" => {
            let unix = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            unix.bind(&SockAddr::unix(argument)?)?;
            unix.listen(1)?;
            sockets.push(unix);
        }
        "inherited" => drop(fcntl(socket()?, FcntlArg::F_SETFD(FdFlag::empty()))?),
        "dup" => sockets.push(socket()?.try_clone()?),
        "close" => drop(sockets.pop()),
        "back" => sockets.rotate_right(1),
        "reuseaddr" => socket()?.set_reuse_address(true)?,
        "reuseport" => socket()?.set_reuse_port(true)?,
        "v6only" => socket()?.set_only_v6(true)?,
        "nonblocking" => socket()?.set_nonblocking(true)?,
        "bind" => socket()?.bind(&address()?.into())?,
        "listen" => socket()?.listen(64)?,
        "connect" => socket()?.connect(&address()?.into())?,
        "greet" => greet(socket()?)?,
        "serve" => loop {
            greet(socket()?)?;
        },
        "threads" => threads(argument, sockets)?,
        "uid" | "uid-exec" => become_user(argument.parse().map_err(io::Error::other)?, (verb == "uid-exec").then_some(rest))?,
        "own-net" => unshare(CloneFlags::CLONE_NEWNET)?,
        "times" => times(argument)?,
        "wait" => loop {
            thread::sleep(Duration::from_secs(1));
        },
        "has-port" => {
            let port = socket()?.local_addr()?.as_socket().map(|address| address.port().to_string());
            must_be(port.as_deref() == Some(argument))?;
        }
        _ => must_be(is_so(verb, socket()?)?)?,
    }
    Ok(())
}

fn must_be(so: bool) -> io::Result<()> {
    if so { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

fn is_so(claim: &str, socket: &Socket) -> io::Result<bool> {
    let status = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    let flags = FdFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFD)?);
    match claim {
        "is-nonblocking" => Ok(status.contains(OFlag::O_NONBLOCK)),
        "is-blocking" => Ok(!status.contains(OFlag::O_NONBLOCK)),
        "is-cloexec" => Ok(flags.contains(FdFlag::FD_CLOEXEC)),
        "is-inherited" => Ok(!flags.contains(FdFlag::FD_CLOEXEC)),
        _ => Err(io::Error::other("no such word")),
    }
}

fn greet(socket: &Socket) -> io::Result<()> {
    let (mut client, _) = socket.accept()?;
    writeln!(client, "{}", std::process::id())
}

/// Each keeps its socket.
fn threads(argument: &str, sockets: &mut Vec<Socket>) -> io::Result<()> {
    let (count, address) = argument.split_once(':').ok_or_else(|| io::Error::other("threads:N:ADDRESS"))?;
    let count: u16 = count.parse().map_err(io::Error::other)?;
    let first: SocketAddr = address.parse().map_err(io::Error::other)?;
    let together = Barrier::new(usize::from(count));
    let listen = |index| {
        let mut address = first;
        address.set_port(first.port() + index);
        together.wait();
        TcpListener::bind(address)
    };
    let outcomes: Vec<io::Result<TcpListener>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|index| scope.spawn(move || listen(index))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for outcome in outcomes {
        sockets.push(Socket::from(OwnedFd::from(outcome?)));
    }
    Ok(())
}

fn become_user(id: u32, rest: Option<&[String]>) -> io::Result<()> {
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(id.into(), id.into(), id.into())?;
    nix::unistd::setresuid(id.into(), id.into(), id.into())?;
    match rest {
        Some(rest) => Err(Command::new(env::current_exe()?).args(rest).exec()),
        None => Ok(()),
    }
}

fn times(argument: &str) -> io::Result<()> {
    let (count, address) = argument.split_once(':').ok_or_else(|| io::Error::other("times:N:ADDRESS"))?;
    let count: usize = count.parse().map_err(io::Error::other)?;
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let (mut binds, mut listens) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let begin = Instant::now();
        socket.bind(&address.into())?;
        let bound = Instant::now();
        socket.listen(64)?;
        listens.push(bound.elapsed());
        binds.push(bound - begin);
    }
    binds.sort_unstable();
    listens.sort_unstable();
    let middle = count / 2;
    println!("bind {:?}, listen {:?} (medians of {count})", binds.get(middle).unwrap(), listens.get(middle).unwrap());
    Ok(())
}
