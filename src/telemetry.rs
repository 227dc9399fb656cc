//! Log lines on stderr, text or JSON, that never block PID 1 and never kill it.
//!
//! stderr may be a pipe that nobody reads, or closed. Its open file description is shared with the workers, so it must not be made
//! non-blocking; a pipe or a terminal is opened anew instead (`/proc/self/fd/2`), which gives us a description of our own. (Not so a
//! regular file: it never blocks, and two descriptions would write over each other.) Where that is not possible,
//! a write is tried with `RWF_NOWAIT`, and where the kernel does not know that either, only after `poll` says that there is room.
//! What cannot be written at once is dropped and counted; the next line that gets through says how many there were.
//!
//! Where workers' lines go to the same stderr by our hand (`runtime/output.rs`) and one of them is half written, log lines
//! are [held](hold) and written by that hand.
#![expect(unsafe_code, reason = "pwritev2, which nix does not have; standard descriptors by number")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// A line up to this length goes into a pipe whole or not at all (`PIPE_BUF`, `man 7 pipe`).
const LONGEST_LINE: usize = 4096;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Bytes of log lines that are held at most.
const MOST_HELD: usize = 64 * 1024;

/// Log lines that wait for what is on its way to stderr; `None`: they are written at once.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Starts logging. `filter` was checked when the configuration was read; a second call changes nothing.
pub fn start(filter: &str, format: LogFormat) {
    let targets: Targets = filter.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let layer = tracing_subscriber::fmt::layer().with_writer(Sink::open(2)).with_target(false);
    let registry = tracing_subscriber::registry().with(targets);
    let outcome = match format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    debug_assert!(outcome.is_ok());
}

/// From now on log lines are kept, for [`held`].
pub fn hold() {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
}

/// What was kept until now.
pub fn held() -> Vec<u8> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(std::mem::take).unwrap_or_default()
}

/// From now on log lines are written at once. What was kept comes back.
pub fn let_go() -> Vec<u8> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}

/// Whether the line was kept, or had to be dropped because too many are.
fn is_held(line: &[u8]) -> bool {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(held) = held.as_mut() else { return false };
    if held.len() + line.len() <= MOST_HELD {
        held.extend_from_slice(line);
    } else {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
    true
}

/// One line for people where no log is set up: mistakes of usage and configuration. It does not wait either: PID 1 must end.
pub fn complain(text: &str) {
    // Nobody is there to read it where this fails.
    let _ = Sink::open(2).write_at_once(format!("clusterinit: {text}\n").as_bytes());
}

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// Our own open file description, non-blocking.
    Own(File),
    /// The caller's: to be asked before each write.
    Shared(RawFd),
    /// A regular file, which is always ready.
    File(RawFd),
    Socket(RawFd),
}

/// One line on its way.
#[derive(Debug)]
pub struct Line<'a> {
    to: &'a Sink,
    text: Vec<u8>,
}

impl Sink {
    /// Of our own stdout (1) or stderr (2).
    pub fn open(number: RawFd) -> Self {
        let link = format!("/proc/self/fd/{number}");
        if nix::sys::socket::getsockopt(&standard(number), nix::sys::socket::sockopt::SockType).is_ok() {
            return Self::Socket(number);
        }
        if std::fs::metadata(&link).is_ok_and(|data| data.is_file()) {
            return Self::File(number);
        }
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        match OpenOptions::new().write(true).custom_flags(flags).open(&link) {
            Ok(file) => Self::Own(file),
            Err(_) => Self::Shared(number),
        }
    }

    /// One line, or nothing where there is no room for it.
    pub fn say(&self, text: &str) {
        // Dropped as log lines are.
        let _ = self.write_at_once(format!("{text}\n").as_bytes());
    }

    /// Writes as much as there is room for; `WouldBlock` where there is none.
    pub fn write_at_once(&self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(file) => (&*file).write(line),
            Self::Socket(number) => Ok(send(*number, line, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?),
            Self::Shared(number) => write_without_waiting(*number, line),
            Self::File(number) => Ok(nix::unistd::write(standard(*number), line)?),
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(file) => file.as_fd(),
            Self::Shared(number) | Self::File(number) | Self::Socket(number) => standard(*number),
        }
    }
}

/// One of our three.
fn standard(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: nobody here closes these, and where the caller had closed them the kernel says so.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn write_without_waiting(number: RawFd, line: &[u8]) -> io::Result<usize> {
    let part = libc::iovec { iov_base: line.as_ptr().cast_mut().cast(), iov_len: line.len() };
    // SAFETY: one live part that is only read; offset -1 means the current position (its second half is unused on 64 bit).
    let written = unsafe { libc::syscall(libc::SYS_pwritev2, number, &raw const part, 1, -1_i64, -1_i64, libc::RWF_NOWAIT) };
    if let Ok(written) = usize::try_from(written) {
        return Ok(written);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) if !has_room(standard(number)) => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
            // The room that `poll` tells of is no more than this.
            let part = line.get(..LONGEST_LINE).unwrap_or(line);
            Ok(nix::unistd::write(standard(number), part)?)
        }
        _ => Err(error),
    }
}

fn has_room(descriptor: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(descriptor, PollFlags::POLLOUT)];
    let ready = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    ready && asked.first().and_then(PollFd::revents).is_some_and(|events| events.contains(PollFlags::POLLOUT))
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { to: self, text: Vec::new() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST_LINE.saturating_sub(self.text.len());
        self.text.extend(bytes.iter().take(room));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.text.len() == LONGEST_LINE
            && let Some(last) = self.text.last_mut()
        {
            *last = b'\n';
        }
        if is_held(&self.text) {
            return;
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let notice = format!("clusterinit: {dropped} log lines were dropped because nobody read stderr\n");
            if self.to.write_at_once(notice.as_bytes()).is_err() {
                DROPPED.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        if self.to.write_at_once(&self.text).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}
