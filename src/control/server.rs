//! The end of the control socket that listens: one line in, one line out, all of it bounded.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Demand, LONGEST_REQUEST, Peer, parse, prefix};
use crate::sys::descriptor;
use crate::sys::instance::Instance;

/// Connections at a time; more wait in the backlog.
const CONNECTIONS: usize = 16;
/// For the request to come; again for the runtime to answer and for the client to take it.
const PATIENCE: Duration = Duration::from_secs(2);
/// After an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A request and who made it. The answer is one line; without one the client is told that it was refused.
#[derive(Debug)]
pub struct Asked {
    pub demand: Demand,
    pub by: Peer,
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// The listening socket.
#[derive(Debug)]
pub struct Server {
    listener: net::UnixListener,
}

impl Server {
    /// Takes the name that [`ask`](super::ask) looks for; fails if somebody else in the network namespace has it.
    pub fn bind(instance: Instance) -> io::Result<Self> {
        let name = format!("{}{}", prefix(instance), std::process::id());
        let listener = net::UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        listener.set_nonblocking(true)?;
        let listener = net::UnixListener::from(descriptor::lift(listener.into()));
        Ok(Self { listener })
    }
}

/// Serves for ever, on the thread that polls it; all connections end when it is dropped.
pub async fn serve(server: Server, asked: mpsc::Sender<Asked>) {
    match UnixListener::from_std(server.listener) {
        Ok(listener) => LocalSet::new().run_until(accept(listener, asked)).await,
        Err(error) => warn!(%error, "the control socket cannot be watched and stays silent"),
    }
}

async fn accept(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    let places = Rc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so there is always a place after a while.
        let Ok(place) = places.acquire().await else { return };
        place.forget();
        let Ok((stream, _)) = listener.accept().await else {
            places.add_permits(1);
            sleep(PAUSE).await;
            continue;
        };
        let (asked, place) = (asked.clone(), Place(Rc::clone(&places)));
        spawn_local(async move {
            converse(&stream, &asked).await;
            drop(place);
        });
    }
}

/// One of [`CONNECTIONS`], given back however the task ends.
struct Place(Rc<Semaphore>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

async fn converse(stream: &UnixStream, asked: &mpsc::Sender<Asked>) {
    let by = match Peer::of(stream) {
        Ok(peer) if peer.may_ask() => peer,
        Ok(peer) => {
            info!(pid = %peer.pid, uid = peer.uid, "a request on the control socket was refused: not this container's user or root");
            return say(stream, Err("only root and the user that clusterinit runs as may ask, from inside the container")).await;
        }
        Err(_) => return,
    };
    let Ok(request) = timeout(PATIENCE, read_request(stream)).await else { return };
    let answer = match request {
        Ok(request) => forward(asked, request, by).await,
        Err(why) => Err(why.to_owned()),
    };
    say(stream, answer.as_deref().map_err(String::as_str)).await;
}

async fn read_request(stream: &UnixStream) -> Result<Demand, &'static str> {
    const UNKNOWN: &str = "the request is none of: reload, stop, scale N, restart SLOT, send all|SLOT JSON";
    const AT_FIRST: usize = 256;
    let mut bytes = vec![0; AT_FIRST];
    let mut filled = 0;
    loop {
        if filled == bytes.len() {
            bytes.resize((filled * 4).min(LONGEST_REQUEST), 0);
        }
        let room = bytes.get_mut(filled..).filter(|room| !room.is_empty()).ok_or("the request is longer than 64 KiB")?;
        let read = match stream.try_read(room) {
            Ok(0) => return Err("the request has no end of line"),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.readable().await.map_err(|_| UNKNOWN)?;
                continue;
            }
            Err(_) => return Err(UNKNOWN),
        };
        filled += read;
        let sofar = bytes.get(..filled).unwrap_or_default();
        if let Some(end) = sofar.iter().position(|byte| *byte == b'\n') {
            let line = sofar.get(..end).and_then(|line| str::from_utf8(line).ok());
            return line.and_then(parse).ok_or(UNKNOWN);
        }
    }
}

async fn forward(asked: &mpsc::Sender<Asked>, demand: Demand, by: Peer) -> Result<String, String> {
    let (reply, answer) = oneshot::channel();
    let answered = async {
        asked.send(Asked { demand, by, reply }).await.ok()?;
        answer.await.ok()
    };
    let in_time = timeout(PATIENCE, answered).await;
    in_time.ok().flatten().unwrap_or_else(|| Err("clusterinit did not answer; its log may say why".to_owned()))
}

/// Whoever does not take its line within [`PATIENCE`] does not get it.
async fn say(stream: &UnixStream, answer: Result<&str, &str>) {
    let (word, text) = match answer {
        Ok(text) => ("ok", text),
        Err(text) => ("refused", text),
    };
    let line = format!("{word} {}\n", text.replace(['\r', '\n'], " "));
    let written = timeout(PATIENCE, write_all(stream, line.as_bytes())).await;
    // The client has gone, or would not read: it has no use for an answer any more, and what it asked for is under way.
    drop(written);
}

async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
