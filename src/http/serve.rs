//! The accept loop and the table of open connections: bounded in number, and the loop never ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, LocalSet, spawn_local, yield_now};
use tokio::time::sleep;
use tracing::{error, warn};

use super::Side;
use super::answer::Desk;
use super::connection::{Activity, converse};

/// What one client, and all of them together, may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    connections: usize,
    pub(super) head_bytes: usize,
    /// To send a complete head; also how long an idle connection is kept.
    pub(super) head_time: Duration,
    /// From a complete request until the client has taken the answer.
    pub(super) answer_time: Duration,
}

const LIMITS: Limits =
    Limits { connections: 256, head_bytes: 16 * 1024, head_time: Duration::from_secs(5), answer_time: Duration::from_secs(5) };

/// After an accept that failed for want of descriptors or memory which no client of ours holds.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves for ever, on the thread that polls it; all connections end when it is dropped.
pub async fn serve(listener: std::net::TcpListener, side: Side) {
    serve_within(LIMITS, listener, side).await;
}

async fn serve_within(limits: Limits, listener: std::net::TcpListener, side: Side) {
    match TcpListener::from_std(listener) {
        Ok(listener) => LocalSet::new().run_until(accept(listener, Hall::new(limits, side))).await,
        Err(error) => error!(%error, "the side port cannot be watched and stays silent"),
    }
}

async fn accept(listener: TcpListener, hall: Rc<Hall>) {
    let mut complained = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                hall.admit(stream);
                complained = false;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !complained {
                    warn!(%error, "the side port cannot accept connections for now");
                }
                complained = true;
                // What an idle client holds may be just what is missing, here and for the next worker. Its task drops it in its turn.
                if hall.close_oldest_waiting() {
                    yield_now().await;
                } else {
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The client gave up before it was accepted, or the network did (`man 2 accept`): the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::EPERM
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EOPNOTSUPP
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENONET
        )
    )
}

/// All open connections, by age.
struct Hall {
    limits: Limits,
    desk: Rc<Desk>,
    next: Cell<u64>,
    open: RefCell<BTreeMap<u64, Open>>,
}

struct Open {
    activity: Rc<Activity>,
    task: AbortHandle,
}

impl Hall {
    fn new(limits: Limits, side: Side) -> Rc<Self> {
        Rc::new(Self { limits, desk: Rc::new(Desk::new(side)), next: Cell::new(0), open: RefCell::default() })
    }

    /// One more closes the oldest that waits; where all are being answered, the new one.
    fn admit(self: &Rc<Self>, stream: TcpStream) {
        let full = self.open.borrow().len() >= self.limits.connections;
        if full && !self.close_oldest_waiting() {
            return;
        }
        let number = self.next.replace(self.next.get() + 1);
        let activity = Rc::new(Activity::new(self.desk.side.clock));
        let place = Place { hall: Rc::clone(self), number };
        let conversation = converse(stream, Rc::clone(&self.desk), Rc::clone(&activity), self.limits);
        let task = spawn_local(async move {
            conversation.await;
            drop(place);
        });
        self.open.borrow_mut().insert(number, Open { activity, task: task.abort_handle() });
    }

    fn close_oldest_waiting(&self) -> bool {
        let oldest = self.open.borrow().iter().find(|(_, open)| open.activity.is_waiting()).map(|(number, _)| *number);
        let closed = oldest.and_then(|number| self.open.borrow_mut().remove(&number));
        closed.inspect(|open| open.task.abort()).is_some()
    }
}

/// A connection's place in the hall, given back however its task ends.
struct Place {
    hall: Rc<Hall>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hall.open.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
