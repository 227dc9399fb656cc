//! A program that does with sockets what it is told, word by word: `sockets bind=127.0.0.1:8080 listen serve`.
//!
//! | word | what it does |
//! |---|---|
//! | `bind=ADDRESS` | a new TCP socket, bound; `say` lines tell `bound ADDRESS` |
//! | `v6only`, `reuseport` | options of the sockets that are made from here on |
//! | `listen`, `listen=N` | the last socket listens, with a backlog of N |
//! | `connect=ADDRESS` | the last socket connects; tells `connected` |
//! | `close` | closes the last socket; tells `closed` |
//! | `many=PORT,COUNT` | binds and listens on so many ports of 127.0.0.1 from PORT on |
//! | `threads=PORT,COUNT` | the same, each port in a thread of its own, all at the same time |
//! | `next=PORT` | binds and listens on PORT + its own pid modulo 1000 |
//! | `flood=COUNT` | so many threads that make, bind and close sockets for ever |
//! | `wait=FILE` | until the file is there |
//! | `fork` | goes on in a child; the parent takes over its exit status |
//! | `exec` | goes on as a new program |
//! | `uid=N` | becomes this user, without executing anything |
//! | `serve`, `late` | answers `{"worker":0,"pid":7}` on all listeners for ever; `late`: in the background |
//! | `stay`, `exit=N` | neither needs a word |
//! | `try` | in front of a word: what fails is told (`failed: ...`) and does no harm |
//!
//! Shows: what a server may do with `bind` and `listen`, and what it may do wrong.
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]
#![expect(clippy::disallowed_methods, reason = "an example is a program of its own: it may sleep and exit")]
#![expect(clippy::exit, reason = "`exit` exists to do that")]
#![expect(unsafe_code, reason = "fork(2)")]

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::ffi::CString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Uid, execv, fork, pause, setresuid};
use socket2::{Domain, Socket, Type};

const BACKLOG: i32 = 1024;
const NAP: Duration = Duration::from_millis(5);

type Outcome = Result<(), Box<dyn Error>>;

/// What this process has by now.
#[derive(Default)]
struct Hands {
    sockets: Vec<Socket>,
    v6only: bool,
    reuseport: bool,
}

fn main() -> Outcome {
    let mut words = env::args().skip(1);
    let mut hands = Hands::default();
    while let Some(word) = words.next() {
        if word != "try" {
            hands.obey(&word, &mut words)?;
        } else if let Some(word) = words.next()
            && let Err(error) = hands.obey(&word, &mut words)
        {
            println!("failed: {word}: {error}");
        }
    }
    Ok(())
}

impl Hands {
    fn obey(&mut self, word: &str, rest: &mut dyn Iterator<Item = String>) -> Outcome {
        let (verb, value) = word.split_once('=').unwrap_or((word, ""));
        match verb {
            "v6only" => self.v6only = true,
            "reuseport" => self.reuseport = true,
            "bind" => self.bind(value.parse()?)?,
            "listen" => self.last()?.listen(if value.is_empty() { BACKLOG } else { value.parse()? })?,
            "connect" => self.connect(value.parse()?)?,
            "close" => {
                self.sockets.pop();
                println!("closed");
            }
            "many" => ports(value)?.try_for_each(|port| self.open(port))?,
            "threads" => self.open_at_once(ports(value)?)?,
            "next" => self.open(value.parse::<u16>()? + u16::try_from(process::id() % 1000)?)?,
            "flood" => flood(value.parse()?),
            "wait" => await_file(Path::new(value)),
            "fork" => forks()?,
            "exec" => return start_over(rest).map(|never| match never {}),
            "uid" => {
                let user = Uid::from_raw(value.parse()?);
                setresuid(user, user, user)?;
                println!("uid {user}");
            }
            "late" => self.accept_in_threads()?,
            "serve" => {
                self.accept_in_threads()?;
                stay()
            }
            "stay" => stay(),
            "exit" => process::exit(value.parse()?),
            _ => return Err(format!("what is {word}?").into()),
        }
        Ok(())
    }

    fn last(&self) -> Result<&Socket, &'static str> {
        self.sockets.last().ok_or("no socket was made")
    }

    fn bind(&mut self, address: SocketAddr) -> Outcome {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(self.v6only)?;
        }
        if self.reuseport {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into()).map_err(|error| format!("{address}: {error}"))?;
        println!("bound {address}");
        self.sockets.push(socket);
        Ok(())
    }

    fn open(&mut self, port: u16) -> Outcome {
        self.bind((Ipv4Addr::LOCALHOST, port).into())?;
        Ok(self.last()?.listen(BACKLOG)?)
    }

    fn open_at_once(&mut self, ports: impl Iterator<Item = u16>) -> Outcome {
        let open = |port| {
            let mut hands = Self::default();
            hands.open(port).map_err(|error| error.to_string())?;
            Ok::<_, String>(hands.sockets)
        };
        let threads: Vec<_> = ports.map(|port| thread::spawn(move || open(port))).collect();
        for thread in threads {
            self.sockets.extend(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(())
    }

    fn connect(&self, address: SocketAddr) -> Outcome {
        let socket = self.last()?;
        socket.connect(&address.into())?;
        let (own, peer) = (socket.local_addr()?, socket.peer_addr()?);
        println!("connected {:?} {:?}", own.as_socket(), peer.as_socket());
        Ok(())
    }

    /// A thread for each socket that listens; they stay in `sockets`, so that later words may close or name them.
    fn accept_in_threads(&self) -> Outcome {
        for socket in self.sockets.iter().filter(|socket| socket.is_listener().unwrap_or(false)) {
            let listener = TcpListener::from(socket.try_clone()?);
            thread::spawn(move || {
                for connection in listener.incoming().flatten() {
                    thread::spawn(move || converse(connection));
                }
            });
        }
        println!("serving");
        Ok(())
    }
}

/// HTTP/1.1 with keep-alive; whoever breaks off has his reasons.
fn converse(connection: TcpStream) -> io::Result<()> {
    let mut input = BufReader::new(connection.try_clone()?);
    let mut output = connection;
    let worker = env::var("CLUSTERINIT_WORKER_ID").unwrap_or_else(|_| "null".to_owned());
    let body = format!("{{\"worker\":{worker},\"pid\":{}}}\n", process::id());
    let mut close = false;
    while !close {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            close |= line.eq_ignore_ascii_case("connection: close\r\n");
        }
        let connection = if close { "close" } else { "keep-alive" };
        let length = body.len();
        write!(output, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}")?;
    }
    Ok(())
}

/// `PORT,COUNT`
fn ports(text: &str) -> Result<std::ops::Range<u16>, Box<dyn Error>> {
    let (first, count) = text.split_once(',').ok_or("PORT,COUNT")?;
    let first: u16 = first.parse()?;
    Ok(first..first + count.parse::<u16>()?)
}

/// Errors are ignored: it is the calls that count.
fn flood(threads: u32) {
    for _ in 0..threads {
        thread::spawn(|| {
            loop {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1 + u16::try_from(process::id() % 30_000).unwrap_or(0)));
                let bound = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| socket.bind(&address.into()));
                drop(bound);
            }
        });
    }
    println!("flooding");
}

fn await_file(path: &Path) {
    while !path.exists() {
        thread::sleep(NAP);
    }
}

/// Returns in the child. The parent only waits for it, and ends as it ended.
fn forks() -> Outcome {
    // SAFETY: no word before this one has left a thread behind that the child would need.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(()),
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, status) => process::exit(status),
            _ => process::exit(1),
        },
    }
}

fn start_over(rest: &mut dyn Iterator<Item = String>) -> Result<Infallible, Box<dyn Error>> {
    let words: Result<Vec<CString>, _> = std::iter::once("sockets".to_owned()).chain(rest).map(CString::new).collect();
    Ok(execv(c"/proc/self/exe", &words?)?)
}

fn stay() -> ! {
    loop {
        pause();
    }
}
