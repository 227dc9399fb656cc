//! `OUTPUT=prefix` in the loop: each worker's stdout and stderr is a pipe that ends here, and goes out line by line.
//!
//! ```text
//! worker and all that it started -> pipe -> Source (Lines, Label) -> Outlet (Backlog) -> our stdout
//!                                -> pipe -> Source                -> Outlet           -> our stderr
//! ```
//! Where stdout and stderr are one file there is one outlet, so that neither cuts into a line of the other. The rules for lines are in
//! [`crate::output`]; here is what concerns time:
//!
//! - **Nobody waits.** Pipes are read as fast as we can, [`BYTES_PER_TURN`] of all of them in a turn of the loop, so that reaping, signals
//!   and the side port get theirs; a worker that writes faster than that waits for us, and never for whoever reads our
//!   stdout. What the reader does not take waits in the backlog; only then its descriptor is watched. Idle costs no wake-up.
//! - **Last words.** What was written before the leader ended is read before its end is logged. A line that has begun is ended when
//!   nothing is left of the tree, or at the end of its pipe.
//! - **Who outlives its tree** (it has shed all that it could be known by) keeps its pipe: closing it would kill it by SIGPIPE, and it
//!   would not die of it without us. It is read on; [`MOST_LEFT`] lives are, then the oldest is closed. Nothing waits for it.
//! - **The end.** A reader that is slow but reads gets up to a second for what still waits ([`LAST_ROUNDS`]), one that does not read
//!   a tenth of that; all workers have ended by then.
//! - **A reader that has gone** (EPIPE) is as if it read and threw away: the workers go on, and are read on.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use tracing::warn;

use crate::cluster::words::{Life, Slot, Time};
use crate::config::User;
use crate::output::backlog::Backlog;
use crate::output::label::Label;
use crate::output::lines::Lines;
use crate::sys::pipe;
use crate::sys::poll::Poller;
use crate::telemetry::{self, Sink};

use super::READS_PER_TURN;
use super::clock::Clock;
use super::token::Token;

/// What one read takes at most: what a pipe holds, as it is made (`man 7 pipe`).
const READ: usize = 64 * 1024;

/// What a turn of the loop reads of all workers together.
const BYTES_PER_TURN: usize = 256 * 1024;
const LEAST_READ: usize = 4096;

/// Reads at the end of a leader: no more can have been in its pipe (`/proc/sys/fs/pipe-max-size`).
const READS_AT_END: usize = 16;

/// Lives whose trees have gone, and whose pipes somebody holds all the same.
const MOST_LEFT: usize = 64;

/// While lines are being dropped without end that is said so often.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// At the very end: pauses in which somebody may read, and how many of them in vain.
const LAST_PAUSE: Duration = Duration::from_millis(5);
const LAST_ROUNDS: u32 = 200;
const LAST_VAIN_ROUNDS: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stream {
    Out,
    Err,
}

const STREAMS: [Stream; 2] = [Stream::Out, Stream::Err];

pub(super) struct Output {
    /// None where workers have our stdout and stderr.
    outlets: Vec<Outlet>,
    /// Which outlet is for which stream; `None`: the caller had closed it.
    ways: [Option<usize>; 2],
    sources: BTreeMap<(Life, Stream), Source>,
    left: VecDeque<Life>,
    buffer: Vec<u8>,
    user: Option<User>,
    clock: Clock,
}

/// What one worker writes to one of the two.
struct Source {
    slot: Slot,
    pipe: OwnedFd,
    lines: Lines,
    label: Label,
}

/// One of our own two, or both.
struct Outlet {
    name: &'static str,
    sink: Sink,
    backlog: Backlog,
    is_watched: bool,
    /// Our log goes there too.
    is_log: bool,
    reported: Time,
}

/// What a read has come to.
#[derive(PartialEq, Eq)]
enum Read {
    Some(usize),
    Nothing,
    End,
}

impl Output {
    pub(super) fn new(prefixes: bool, user: Option<User>, clock: Clock) -> Self {
        let (mut outlets, mut ways) = (Vec::new(), [None, None]);
        if prefixes {
            let ([out, err], are_one) = (pipe::handed_on(), pipe::are_one());
            if out {
                ways[0] = Some(outlets.len());
                outlets.push(Outlet::new("stdout", 1, are_one));
            }
            if err && out && are_one {
                ways[1] = ways[0];
            } else if err {
                ways[1] = Some(outlets.len());
                outlets.push(Outlet::new("stderr", 2, true));
            }
        }
        let buffer = if outlets.is_empty() { Vec::new() } else { vec![0; READ] };
        Self { outlets, ways, sources: BTreeMap::new(), left: VecDeque::new(), buffer, user, clock }
    }

    /// What becomes stdout and stderr of a worker that is about to start.
    pub(super) fn open(&mut self, poller: &Poller, life: Life, slot: Slot) -> io::Result<[Option<OwnedFd>; 2]> {
        let mut theirs = [None, None];
        for (stream, (way, end)) in STREAMS.into_iter().zip(self.ways.iter().zip(&mut theirs)) {
            if way.is_some() {
                let (ours, other) = pipe::pair(self.user.map(|user| user.uid))?;
                poller.watch(&ours, Token::Output(life, stream).number())?;
                *end = Some(other);
                let source = Source { slot, pipe: ours, lines: Lines::default(), label: Label::new(slot.0) };
                self.sources.insert((life, stream), source);
            }
        }
        Ok(theirs)
    }

    /// What it cost.
    pub(super) fn read(&mut self, poller: &Poller, life: Life, stream: Stream) -> usize {
        // All that are readable are read before anybody else's turn comes.
        let most = (BYTES_PER_TURN / self.sources.len().max(1)).clamp(LEAST_READ, READ);
        match self.read_once(poller, life, stream, most) {
            Read::Some(length) => 1 + length / (BYTES_PER_TURN / READS_PER_TURN),
            Read::Nothing | Read::End => 1,
        }
    }

    fn read_once(&mut self, poller: &Poller, life: Life, stream: Stream, most: usize) -> Read {
        let Some(outlet) = self.way(stream) else { return Read::End };
        let Some(source) = self.sources.get_mut(&(life, stream)) else { return Read::End };
        let length = match nix::unistd::read(&source.pipe, self.buffer.get_mut(..most).unwrap_or_default()) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Read::Nothing,
            Err(_) => 0,
        };
        let Some(Outlet { backlog, .. }) = self.outlets.get_mut(outlet) else { return Read::End };
        let bytes = self.buffer.get(..length).unwrap_or_default();
        source.lines.take(bytes, |line| backlog.push(source.slot.0, source.label.put_on(line)));
        if length == 0 {
            self.end_line(life, stream);
            self.close(poller, life, stream);
        }
        self.flush(poller, outlet);
        if length == 0 { Read::End } else { Read::Some(length) }
    }

    /// A leader has ended: what it wrote.
    pub(super) fn read_rest(&mut self, poller: &Poller, life: Life) {
        for stream in STREAMS {
            let mut reads = 0;
            while reads < READS_AT_END && matches!(self.read_once(poller, life, stream, READ), Read::Some(_)) {
                reads += 1;
            }
        }
    }

    /// Nothing is left of a tree, or nothing that is known.
    pub(super) fn tree_gone(&mut self, poller: &Poller, life: Life) {
        self.read_rest(poller, life);
        for stream in STREAMS {
            self.end_line(life, stream);
        }
        for outlet in 0..self.outlets.len() {
            self.flush(poller, outlet);
        }
        if STREAMS.iter().any(|stream| self.sources.contains_key(&(life, *stream))) {
            self.left.push_back(life);
        }
        if self.left.len() > MOST_LEFT
            && let Some(oldest) = self.left.pop_front()
        {
            self.forget(poller, oldest);
        }
    }

    /// It was not started, or is not listened to any more.
    pub(super) fn forget(&mut self, poller: &Poller, life: Life) {
        for stream in STREAMS {
            self.close(poller, life, stream);
        }
    }

    /// A line that was written for a worker. False: it is not ours to write.
    pub(super) fn say(&mut self, poller: &Poller, slot: Slot, text: &str) -> bool {
        let Some(number) = self.way(Stream::Out) else { return false };
        let Some(Outlet { backlog, .. }) = self.outlets.get_mut(number) else { return false };
        let (mut lines, label) = (Lines::default(), Label::new(slot.0));
        for part in [text.as_bytes(), b"\n"] {
            lines.take(part, |line| backlog.push(slot.0, label.put_on(line)));
        }
        self.flush(poller, number);
        true
    }

    /// Writes what there is room for. Our log waits while something does.
    pub(super) fn flush(&mut self, poller: &Poller, number: usize) {
        let now = self.clock.now();
        if let Some(outlet) = self.outlets.get_mut(number) {
            outlet.flush(poller, number, now);
        }
    }

    /// All has ended: what still waits.
    pub(super) async fn finish(&mut self, poller: &Poller) {
        let lives: Vec<Life> = self.sources.keys().map(|(life, _)| *life).collect();
        for life in lives {
            self.read_rest(poller, life);
            for stream in STREAMS {
                self.end_line(life, stream);
            }
        }
        let (mut before, mut in_vain) = (usize::MAX, 0);
        for _ in 0..LAST_ROUNDS {
            for outlet in 0..self.outlets.len() {
                self.flush(poller, outlet);
            }
            let waiting = self.outlets.iter().map(|outlet| outlet.backlog.waiting()).sum();
            in_vain = if waiting < before { 0 } else { in_vain + 1 };
            if waiting == 0 || in_vain > LAST_VAIN_ROUNDS {
                return;
            }
            before = waiting;
            tokio::time::sleep(LAST_PAUSE).await;
        }
    }

    fn way(&self, stream: Stream) -> Option<usize> {
        let [out, err] = self.ways;
        match stream {
            Stream::Out => out,
            Stream::Err => err,
        }
    }

    /// What has begun is a line.
    fn end_line(&mut self, life: Life, stream: Stream) {
        let outlet = self.way(stream).and_then(|number| self.outlets.get_mut(number));
        if let (Some(source), Some(outlet)) = (self.sources.get_mut(&(life, stream)), outlet) {
            source.lines.end(|line| outlet.backlog.push(source.slot.0, source.label.put_on(line)));
        }
    }

    fn close(&mut self, poller: &Poller, life: Life, stream: Stream) {
        if let Some(source) = self.sources.remove(&(life, stream)) {
            poller.forget(&source.pipe);
        }
        if !STREAMS.iter().any(|stream| self.sources.contains_key(&(life, *stream))) {
            self.left.retain(|left| *left != life);
        }
    }
}

impl Outlet {
    fn new(name: &'static str, number: i32, is_log: bool) -> Self {
        let (sink, backlog) = (Sink::open(number), Backlog::default());
        Self { name, sink, backlog, is_watched: false, is_log, reported: Time::default() }
    }

    fn flush(&mut self, poller: &Poller, number: usize, now: Time) {
        loop {
            self.write();
            let is_stuck = !self.backlog.is_empty();
            if self.backlog.has_dropped() && (!is_stuck || now.since(self.reported) >= REPORT_EVERY) {
                self.report(now);
            }
            if is_stuck {
                self.wait(poller, number);
                return;
            }
            let held = if self.is_log { telemetry::let_go() } else { Vec::new() };
            if held.is_empty() {
                if std::mem::take(&mut self.is_watched) {
                    poller.forget(&self.sink);
                }
                return;
            }
            self.backlog.push_own(&held);
        }
    }

    fn write(&mut self) {
        while !self.backlog.is_empty() {
            match self.sink.write_at_once(self.backlog.next()) {
                Ok(length @ 1..) => self.backlog.written(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The reader has gone, or the disk is full.
                Ok(_) | Err(_) => self.backlog.clear(),
            }
        }
    }

    /// Until there is room.
    fn wait(&mut self, poller: &Poller, number: usize) {
        if !self.is_watched {
            self.is_watched = poller.watch_room(self.sink.as_fd(), Token::Outlet(number).number()).is_ok();
        }
        if self.is_log {
            telemetry::hold();
            if self.backlog.has_room_for_own() {
                self.backlog.push_own(&telemetry::held());
            }
        }
    }

    /// On our log, which goes behind what waits.
    fn report(&mut self, now: Time) {
        if self.is_log {
            telemetry::hold();
        }
        self.reported = now;
        let stream = self.name;
        for (slot, lines) in self.backlog.take_dropped() {
            warn!(slot, lines, stream, "{lines} lines of worker {slot} were dropped: {stream} is not read fast enough");
        }
    }
}
