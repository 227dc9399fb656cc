//! One worker's channel: lines both ways, and descriptors that go with them. Nothing here waits.
//!
//! A line with a descriptor is one `sendmsg`, the descriptor with its first byte; Node pairs it with the first `NODE_HANDLE` line that
//! it reads from there on. A heartbeat that is still unread when such a line follows is read together with it and takes its descriptor:
//! so after a heartbeat those lines wait for its answer.
#![expect(unsafe_code, reason = "a descriptor that was received is taken into ownership")]

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg, socketpair,
};

use super::lines::{Line, Lines};
use super::message::{self, Incoming};
use crate::sys::descriptor::lift;

/// Bytes that may wait for a worker that does not read; what it is owed (answers, `disconnect`) goes out all the same.
const MOST_WAITING: usize = 1 << 20;
/// A worker that is owed more than this is not listened to until it reads.
const MOST_OWED: usize = 4 << 20;
/// Descriptors that came and whose line has not: a Node sends one at a time.
const MOST_RECEIVED: usize = 8;

#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    lines: Lines,
    received: VecDeque<OwnedFd>,
    out: VecDeque<Message>,
    /// Lines with a descriptor, while a heartbeat is unanswered.
    held: VecDeque<Message>,
    waiting: usize,
    /// What the worker is to acknowledge, in this order.
    expected: VecDeque<Expected>,
    /// A heartbeat is on its way or unanswered.
    beating: bool,
    closed: bool,
}

#[derive(Debug)]
struct Message {
    text: String,
    sent: usize,
    descriptor: Option<Rc<OwnedFd>>,
    /// What it is to be acknowledged as.
    expects: Option<Expected>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Heartbeat,
    Descriptor,
}

/// What a read brought.
#[derive(Debug)]
pub enum Heard {
    Message(Incoming),
    /// A line that is longer than a line may be.
    TooLong,
    /// The heartbeat's answer.
    Alive,
    /// A descriptor of ours could not be taken: the worker has no room for it.
    Refused,
}

/// Our end, and the worker's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((lift(ours), lift(theirs)))
}

impl Channel {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            lines: Lines::default(),
            received: VecDeque::new(),
            out: VecDeque::new(),
            held: VecDeque::new(),
            waiting: 0,
            expected: VecDeque::new(),
            beating: false,
            closed: false,
        }
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.socket
    }

    /// The other end has gone: nothing comes and nothing goes any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// More is to be written as soon as there is room.
    pub fn wants_to_write(&self) -> bool {
        !self.closed && !self.out.is_empty()
    }

    /// Whether it is listened to: a worker that makes us owe it answers and does not read them waits for itself.
    pub fn wants_to_read(&self) -> bool {
        !self.closed && self.waiting < MOST_OWED
    }

    /// Reads one part, into a buffer that many may use. `None`: there is nothing now, or the channel has closed.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<Vec<Heard>> {
        let mut heard = Vec::new();
        let length = self.receive(buffer)?;
        for line in self.lines.take(buffer.get(..length).unwrap_or_default()) {
            match line {
                Line::TooLong => heard.push(Heard::TooLong),
                Line::Whole(line) => heard.extend(self.understand(message::parse(&line))),
            }
        }
        Some(heard)
    }

    fn understand(&mut self, incoming: Incoming) -> Option<Heard> {
        match incoming {
            Incoming::HandleAck => {
                // One that is not owed means nothing.
                self.take_expected(Expected::Descriptor);
                None
            }
            Incoming::HandleNack if self.take_expected(Expected::Heartbeat) => {
                self.beating = false;
                self.out.append(&mut self.held);
                Some(Heard::Alive)
            }
            Incoming::HandleNack => self.take_expected(Expected::Descriptor).then_some(Heard::Refused),
            Incoming::Handle => {
                // We have no use for it; without an answer nothing more would come from this worker.
                let answer = if self.received.pop_front().is_some() { message::HANDLE_ACK } else { message::HANDLE_NACK };
                self.owe(answer.to_owned());
                Some(Heard::Message(Incoming::Handle))
            }
            other => Some(Heard::Message(other)),
        }
    }

    fn take_expected(&mut self, what: Expected) -> bool {
        let is_next = self.expected.front() == Some(&what);
        if is_next {
            self.expected.pop_front();
        }
        is_next
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let mut parts = [IoSliceMut::new(bytes)];
        let mut room = cmsg_space!([RawFd; MOST_RECEIVED]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            Err(_) => {
                self.close();
                return None;
            }
        };
        // One that was cut has brought what there was room for.
        for control in received.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                for number in numbers {
                    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
                    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                    if self.received.len() < MOST_RECEIVED {
                        self.received.push_back(descriptor);
                    }
                }
            }
        }
        let length = received.bytes;
        if length == 0 {
            self.close();
            return None;
        }
        Some(length)
    }

    /// What the worker has asked for, or has to know.
    pub fn owe(&mut self, text: String) {
        self.push(text, None, None);
    }

    /// With a descriptor, which is kept until it is on its way.
    pub fn hand(&mut self, text: String, descriptor: Rc<OwnedFd>) {
        self.push(text, Some(descriptor), Some(Expected::Descriptor));
    }

    /// What somebody has sent to its program. False: it has not read what was sent before, so this is dropped.
    pub fn offer(&mut self, text: String) -> bool {
        let has_room = self.waiting + text.len() <= MOST_WAITING;
        if has_room {
            self.push(text, None, None);
        }
        has_room && !self.closed
    }

    /// Asks whether its loop comes round. False: it has not answered the last time.
    pub fn beat(&mut self) -> bool {
        let unanswered = self.beating;
        if !unanswered {
            self.push(message::HEARTBEAT.to_owned(), None, Some(Expected::Heartbeat));
            self.beating = !self.closed;
        }
        !unanswered
    }

    fn push(&mut self, text: String, descriptor: Option<Rc<OwnedFd>>, expects: Option<Expected>) {
        if self.closed {
            return;
        }
        self.waiting += text.len();
        let message = Message { text, sent: 0, descriptor, expects };
        if message.descriptor.is_some() && self.beating {
            self.held.push_back(message);
        } else {
            self.out.push_back(message);
        }
    }

    /// Writes what there is room for.
    pub fn write(&mut self) {
        while let Some(message) = self.out.front_mut() {
            let rest = message.text.as_bytes().get(message.sent..).unwrap_or_default();
            let numbers: Vec<RawFd> = message.descriptor.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&numbers)];
            let control = if numbers.is_empty() { &[][..] } else { &rights[..] };
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(rest)], control, flags, None) {
                Ok(length) => {
                    message.sent += length;
                    self.waiting = self.waiting.saturating_sub(length);
                    message.descriptor = None;
                    self.expected.extend(message.expects.take());
                    if message.sent >= message.text.len() {
                        self.out.pop_front();
                    }
                }
                Err(Errno::EINTR) => {}
                // Too many descriptors are on their way to somebody who does not read (ETOOMANYREFS): later.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS) => return,
                Err(_) => return self.close(),
            }
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.waiting = 0;
        self.out.clear();
        self.held.clear();
        self.received.clear();
        self.expected.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn both() -> (Channel, UnixStream) {
        let (ours, theirs) = pair().expect("a pair");
        (Channel::new(ours), UnixStream::from(theirs))
    }

    fn hear(channel: &mut Channel) -> Vec<Heard> {
        channel.read(&mut [0; 4096]).unwrap_or_default()
    }

    fn read_some(worker: &mut UnixStream) -> String {
        let mut bytes = vec![0; 1 << 16];
        let length = worker.read(&mut bytes).expect("something");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    fn descriptor() -> Rc<OwnedFd> {
        Rc::new(std::fs::File::open("/dev/null").expect("there").into())
    }

    #[test]
    fn after_a_heartbeat_a_descriptor_waits_for_its_answer() {
        let (mut channel, mut worker) = both();
        channel.hand("first\n".to_owned(), descriptor());
        assert!(channel.beat() && !channel.beat(), "one at a time");
        channel.hand("second\n".to_owned(), descriptor());
        channel.owe("plain\n".to_owned());
        channel.write();
        let mut said = read_some(&mut worker);
        if !said.contains("plain") {
            said += &read_some(&mut worker);
        }
        assert_eq!(said, format!("first\n{}plain\n", message::HEARTBEAT));
        worker.write_all(b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n").expect("written");
        assert!(matches!(hear(&mut channel).as_slice(), [Heard::Refused]), "the first descriptor was not to be had");
        worker.write_all(b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n").expect("written");
        assert!(hear(&mut channel).is_empty() && !channel.wants_to_write(), "not owed");
        worker.write_all(b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n").expect("written");
        assert!(matches!(hear(&mut channel).as_slice(), [Heard::Alive]));
        channel.write();
        assert_eq!(read_some(&mut worker), "second\n");
    }

    #[test]
    fn a_heartbeat_is_answered_and_what_was_held_goes_out() {
        let (mut channel, mut worker) = both();
        assert!(channel.beat());
        channel.hand("held\n".to_owned(), descriptor());
        channel.write();
        assert_eq!(read_some(&mut worker), message::HEARTBEAT);
        worker.write_all(b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n").expect("written");
        assert!(matches!(hear(&mut channel).as_slice(), [Heard::Alive]));
        assert!(channel.wants_to_write());
        channel.write();
        assert_eq!(read_some(&mut worker), "held\n");
    }

    #[test]
    fn whoever_does_not_read_gets_no_more_than_there_is_room_for() {
        let (mut channel, worker) = both();
        let text = "x".repeat(1000);
        let taken = (0..10_000).take_while(|_| {
            let taken = channel.offer(text.clone());
            channel.write();
            taken
        });
        assert!(taken.count() < 5_000);
        assert!(channel.waiting <= MOST_WAITING && channel.wants_to_read());
        (0..10_000).for_each(|_| channel.owe(text.clone()));
        assert!(!channel.wants_to_read(), "it is owed so much that it may read first");
        drop(worker);
        assert!(hear(&mut channel).is_empty() && channel.is_closed() && channel.waiting == 0);
    }

    #[test]
    fn a_handle_with_nothing_is_not_acknowledged() {
        let (mut channel, mut worker) = both();
        worker.write_all(b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n").expect("written");
        assert!(matches!(hear(&mut channel).as_slice(), [Heard::Message(Incoming::Handle)]));
        channel.write();
        assert_eq!(read_some(&mut worker), message::HANDLE_NACK);
    }
}
