//! The receiving side of `sd_notify` (`man 3 sd_notify`): one datagram socket per life.
//!
//! The socket's name is in the abstract namespace and picked by the kernel (autobind, `man 7 unix`), so nothing is written to any
//! file system and the name is unique among living sockets: found in a process's environment, it says whose process that is.
//! Abstract names can be seen and used by everybody in the network namespace, which containers of a pod share: a message counts
//! only if the kernel's word on its sender (`SCM_CREDENTIALS`) is a process of this worker's tree.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockname, recvmsg, setsockopt, socket,
    sockopt,
};

use crate::cluster::event::Notice;
use crate::cluster::words::Pid;

/// systemd's own limit; what is longer is cut, and its last line with it.
const LONGEST: usize = 4096;

/// The receiving end of one worker's `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct NotifySocket {
    descriptor: OwnedFd,
    address: String,
}

/// One datagram, with what the kernel says of its sender.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// `None`: the sender is in another PID namespace.
    pub sender: Option<Pid>,
    pub notices: Vec<Notice>,
}

impl NotifySocket {
    pub fn bind() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let descriptor = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&descriptor, sockopt::PassCred, &true)?;
        bind(descriptor.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let name: UnixAddr = getsockname(descriptor.as_raw_fd())?;
        let name =
            name.as_abstract().ok_or_else(|| io::Error::other("the kernel bound the notify socket to no abstract name"))?;
        let address = format!("@{}", String::from_utf8_lossy(name));
        Ok(Self { descriptor, address })
    }

    /// As `NOTIFY_SOCKET` has it: `@` stands for the leading zero byte.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// The next message, or `None` when there is none. Descriptors that come with it (`BARRIER=1`, `FDSTORE=1`) are closed by the
    /// kernel because we leave no room for them, which is what a barrier waits for.
    pub fn receive(&self) -> Option<Message> {
        let mut buffer = [0_u8; LONGEST];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
        let received =
            recvmsg::<UnixAddr>(self.descriptor.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT).ok()?;
        let length = received.bytes;
        let sender = received.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::ScmCredentials(credentials) => Some(Pid(credentials.pid())).filter(|pid| pid.0 > 0),
                _ => None,
            })
        });
        let notices = buffer.get(..length).map(parse).unwrap_or_default();
        Some(Message { sender, notices })
    }
}

/// The assignments that concern us, in their order. Anything may be in a datagram; what is not understood is passed over.
pub fn parse(datagram: &[u8]) -> Vec<Notice> {
    let lines = datagram.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.split_once('=')).filter_map(|(name, value)| notice(name, value)).collect()
}

fn notice(name: &str, value: &str) -> Option<Notice> {
    match (name, value) {
        ("READY", "1") => Some(Notice::Ready),
        ("STOPPING", "1") => Some(Notice::Stopping),
        ("RELOADING", "1") => Some(Notice::Reloading),
        ("WATCHDOG", "1") => Some(Notice::Alive),
        ("WATCHDOG", "trigger") => Some(Notice::Trigger),
        ("WATCHDOG_USEC", micros) => micros.parse().ok().map(|micros| Notice::WatchdogInterval(Duration::from_micros(micros))),
        ("STATUS", text) => Some(Notice::Status(text.chars().filter(|character| !character.is_control()).take(200).collect())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_arrives_with_the_pid_of_its_sender() {
        let socket = NotifySocket::bind().expect("a socket");
        assert_eq!(socket.receive(), None);
        let name = socket.address().strip_prefix('@').expect("an abstract name");
        let to = SocketAddr::from_abstract_name(name).expect("a name as the kernel gives it");
        let from = UnixDatagram::unbound().expect("a socket");
        from.send_to_addr(b"READY=1\nSTATUS=up \x07and running\nWHAT=ever\n", &to).expect("sent");
        let message = socket.receive().expect("it is there");
        assert_eq!(message.sender, Some(Pid(i32::try_from(std::process::id()).expect("pids fit"))));
        assert_eq!(message.notices, [Notice::Ready, Notice::Status("up and running".to_owned())]);
    }

    #[test]
    fn every_assignment_that_concerns_us_is_understood_and_no_other() {
        let text =
            b"RELOADING=1\nSTOPPING=1\nWATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG_USEC=2000000\nREADY=0\nREADY=\nX\n=1\nFDSTORE=1";
        let expected = [
            Notice::Reloading,
            Notice::Stopping,
            Notice::Alive,
            Notice::Trigger,
            Notice::WatchdogInterval(Duration::from_secs(2)),
        ];
        assert_eq!(parse(text), expected);
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
