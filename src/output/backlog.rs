//! Lines that wait for whoever reads our stdout, in a bounded room, and what had to be dropped.

use std::collections::{BTreeMap, VecDeque};

/// Bytes that wait at most, of workers.
pub const ROOM: usize = 1 << 20;

/// Where so many bytes of our own log lines wait beside them, no more are added.
pub const ROOM_FOR_OWN: usize = 64 * 1024;

/// A write of so many bytes goes into a pipe whole or not at all (`PIPE_BUF`, `man 7 pipe`).
const AT_ONCE: usize = 4096;

/// What is kept while nothing waits.
const KEPT: usize = 128 * 1024;

#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    /// What of them was written.
    start: usize,
    lines: VecDeque<Waiting>,
    /// Bytes that wait, by worker.
    shares: BTreeMap<u32, usize>,
    own: usize,
    dropped: BTreeMap<u32, u64>,
}

#[derive(Debug)]
struct Waiting {
    /// `None`: our own.
    worker: Option<u32>,
    length: usize,
}

impl Backlog {
    /// A worker's line, without its newline; it waits, or is dropped and counted. A worker gets at most as much room as is left free
    /// beside it: whoever floods fills half.
    pub fn push(&mut self, worker: u32, parts: [&[u8]; 2]) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + 1;
        let free = ROOM.saturating_sub(self.waiting() - self.own + length);
        let share = self.shares.entry(worker).or_default();
        if *share + length > free {
            *self.dropped.entry(worker).or_default() += 1;
            return;
        }
        *share += length;
        self.lines.push_back(Waiting { worker: Some(worker), length });
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(b'\n');
    }

    /// Log lines of ours, each with its newline. Whoever has them asks for [room](Self::has_room_for_own).
    pub fn push_own(&mut self, text: &[u8]) {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            self.own += line.len();
            self.lines.push_back(Waiting { worker: None, length: line.len() });
            self.bytes.extend_from_slice(line);
        }
    }

    pub fn has_room_for_own(&self) -> bool {
        self.own < ROOM_FOR_OWN
    }

    /// What is to be written next, in one write: lines up to `AT_ONCE`, or what is left of one that is longer.
    pub fn next(&self) -> &[u8] {
        let mut length = 0;
        for line in &self.lines {
            if length > 0 && length + line.length > AT_ONCE {
                break;
            }
            length += line.length;
        }
        self.bytes.get(self.start..self.start + length).unwrap_or_default()
    }

    /// So much of it was.
    pub fn written(&mut self, mut length: usize) {
        self.start = (self.start + length).min(self.bytes.len());
        while length > 0
            && let Some(line) = self.lines.front_mut()
        {
            let part = length.min(line.length);
            line.length -= part;
            length -= part;
            let share = match line.worker {
                Some(worker) => self.shares.entry(worker).or_default(),
                None => &mut self.own,
            };
            *share = share.saturating_sub(part);
            if line.length == 0 {
                self.lines.pop_front();
            }
        }
        self.tidy();
    }

    /// Nobody reads any more.
    pub fn clear(&mut self) {
        *self = Self { dropped: std::mem::take(&mut self.dropped), ..Self::default() };
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// How many lines of each worker were dropped since this was last asked.
    pub fn take_dropped(&mut self) -> BTreeMap<u32, u64> {
        std::mem::take(&mut self.dropped)
    }

    pub fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    fn tidy(&mut self) {
        if self.lines.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.lines.shrink_to(KEPT / size_of::<Waiting>());
            self.shares.clear();
            self.start = 0;
        } else if self.start >= KEPT / 2 && self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(line: &str) -> [&[u8]; 2] {
        [b"> ", line.as_bytes()]
    }

    /// Writes all that waits to somebody who takes so much at once.
    fn drain(backlog: &mut Backlog, mouthful: usize) -> String {
        let mut text = Vec::new();
        while !backlog.is_empty() {
            let next = backlog.next();
            assert!(!next.is_empty());
            let taken = next[..next.len().min(mouthful)].to_vec();
            backlog.written(taken.len());
            text.extend(taken);
        }
        assert_eq!(backlog.waiting(), 0);
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn one_that_floods_leaves_room_for_the_others() {
        let mut backlog = Backlog::default();
        for _ in 0..100_000 {
            backlog.push(0, parts("a line of some length, over and over again"));
        }
        assert!(backlog.waiting() <= ROOM / 2);
        for _ in 0..1000 {
            backlog.push(1, parts("quiet"));
        }
        let dropped = backlog.take_dropped();
        assert!(dropped[&0] > 80_000 && !dropped.contains_key(&1), "{dropped:?}");
        assert!(!backlog.has_dropped());
        let text = drain(&mut backlog, usize::MAX);
        assert_eq!(text.matches("> quiet\n").count(), 1000);
        assert!(text.lines().all(|line| line.starts_with("> ") && (line.ends_with("again") || line.ends_with("quiet"))));
        assert!(backlog.bytes.capacity() <= KEPT && backlog.shares.is_empty());
    }

    #[test]
    fn a_write_holds_whole_lines_that_a_pipe_takes_at_once() {
        let mut backlog = Backlog::default();
        let long = "x".repeat(3 * AT_ONCE);
        for line in ["one", "two", &long, "three"] {
            backlog.push(0, parts(line));
        }
        assert_eq!(backlog.next(), b"> one\n> two\n");
        backlog.written(12);
        assert_eq!(backlog.next().len(), long.len() + 3, "by itself");
        backlog.written(2);
        assert!(backlog.next().starts_with(b"xxx") && backlog.next().len() == long.len() + 1);
        backlog.written(long.len() + 1);
        assert_eq!(backlog.next(), b"> three\n");
    }

    #[test]
    fn own_lines_have_room_of_their_own() {
        let mut backlog = Backlog::default();
        while !backlog.has_dropped() {
            backlog.push(0, parts("flood"));
        }
        backlog.push_own(b"first\nsecond\n");
        assert!(backlog.has_room_for_own());
        backlog.push_own(&vec![b'x'; ROOM_FOR_OWN]);
        assert!(!backlog.has_room_for_own());
        assert!(drain(&mut backlog, 100).contains("> flood\nfirst\nsecond\nxxx"));
        assert!(backlog.has_room_for_own());
        backlog.push_own(b"third\n");
        backlog.clear();
        assert!(backlog.is_empty() && backlog.has_dropped());
    }

    proptest! {
        #[test]
        fn what_was_not_dropped_comes_out_whole_and_in_order(
            lines in proptest::collection::vec((0_u32..4, 0_usize..70_000), 0..60), mouthful in 1_usize..9000,
        ) {
            let (mut backlog, mut expected) = (Backlog::default(), Vec::new());
            let mut dropped = 0;
            for (number, (worker, length)) in lines.iter().enumerate() {
                let line = format!("{worker} {number} {}", "x".repeat(*length));
                backlog.push(*worker, parts(&line));
                prop_assert!(backlog.waiting() <= ROOM);
                let now: u64 = backlog.dropped.values().sum();
                if now == dropped {
                    expected.push(format!("> {line}\n"));
                }
                dropped = now;
            }
            prop_assert_eq!(drain(&mut backlog, mouthful), expected.concat());
        }
    }
}
