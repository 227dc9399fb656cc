//! One connection: hyper speaks HTTP/1, we bound its time.
//!
//! ```text
//! waiting for a complete request (hyper: 5 s) --request--> busy: answer and write (ours: 5 s) --all written--> waiting
//! ```
//! Only a waiting connection may be closed to make room for a new one, so it is known from outside which of the two it is.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::answer::Desk;
use super::serve::Limits;
use crate::cluster::words::Time;
use crate::runtime::clock::Clock;

/// What a connection is doing, as its task and the table of connections both see it.
pub(super) struct Activity {
    clock: Clock,
    answering: Cell<bool>,
    busy_since: Cell<Option<Time>>,
}

impl Activity {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, answering: Cell::new(false), busy_since: Cell::new(None) }
    }

    /// No complete request is being answered.
    pub(super) fn is_waiting(&self) -> bool {
        self.busy_since.get().is_none()
    }

    fn began(&self) {
        if self.is_waiting() {
            self.busy_since.set(Some(self.clock.now()));
        }
    }

    /// All that hyper had to write is with the kernel.
    fn flushed(&self) {
        if !self.answering.get() {
            self.busy_since.set(None);
        }
    }
}

/// Until the client has gone, or was too slow to ask or to read.
pub(super) async fn converse(stream: TcpStream, desk: Rc<Desk>, activity: Rc<Activity>, limits: Limits) {
    let io = Watched { inner: TokioIo::new(stream), activity: Rc::clone(&activity) };
    let seen = Rc::clone(&activity);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (desk, seen) = (Rc::clone(&desk), Rc::clone(&seen));
        seen.answering.set(true);
        seen.began();
        async move {
            let answer = desk.answer(&request).await;
            seen.answering.set(false);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(limits.head_bytes);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut deadline = pin!(sleep(limits.answer_time));
    let mut armed = None;
    poll_fn(|context| {
        // An error is the client's: it has gone, or sent what is no request. hyper has said so to it.
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let since = activity.busy_since.get();
        if since.is_some() && since != armed {
            deadline.as_mut().reset(Instant::now() + limits.answer_time);
        }
        armed = since;
        if since.is_some() { deadline.as_mut().poll(context) } else { Poll::Pending }
    })
    .await;
}

/// The stream, which notes when there is something to be written and when all of it has been.
struct Watched {
    inner: TokioIo<TcpStream>,
    activity: Rc<Activity>,
}

impl Watched {
    fn inner(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.get_mut().inner)
    }
}

impl Read for Watched {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, buffer)
    }
}

impl Write for Watched {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.began();
        self.inner().poll_write(context, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.activity.began();
        self.inner().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper calls this when its own buffer is empty, and only then.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let activity = Rc::clone(&self.activity);
        let flushed = self.inner().poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }
}
