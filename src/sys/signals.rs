//! Signals as a stream, each with its sender (`man 2 sigaction`, `siginfo_t`).
#![expect(unsafe_code, reason = "the sender's pid and uid are in a union of siginfo_t")]

use std::io;
use std::pin::Pin;
use std::task::Poll;

use futures_core::Stream;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;
use signal_hook_tokio::SignalsInfo;

use crate::cluster::words::{Pid, Signal};

use super::init::{FAULTS, LAST_SIGNAL};

pub const CHLD: Signal = Signal(libc::SIGCHLD);

/// A signal that arrived, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: Signal,
    /// 0: from outside the PID namespace, that is the container runtime, or the kernel itself.
    pub sender: Pid,
    pub uid: u32,
}

/// All signals that can be caught, as a stream.
pub struct Signals {
    stream: SignalsInfo<WithRawSiginfo>,
    pub handled: Vec<Signal>,
}

impl Signals {
    /// Installs a handler for every signal that can have one, but for `left_alone`. Needs the tokio runtime.
    pub fn install(left_alone: &[Signal]) -> io::Result<Self> {
        let stream = SignalsInfo::<WithRawSiginfo>::new([libc::SIGCHLD])?;
        let handle = stream.handle();
        let mut handled = vec![CHLD];
        for number in 1..=LAST_SIGNAL {
            let untouchable = [libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD].contains(&number) || FAULTS.contains(&number);
            if untouchable || left_alone.contains(&Signal(number)) {
                continue;
            }
            // libc refuses the two or three real-time signals that it keeps for itself.
            if handle.add_signal(number).is_ok() {
                handled.push(Signal(number));
            }
        }
        Ok(Self { stream, handled })
    }

    pub async fn next(&mut self) -> Received {
        let info = std::future::poll_fn(|context| match Pin::new(&mut self.stream).poll_next(context) {
            Poll::Ready(Some(info)) => Poll::Ready(info),
            // The stream ends only when its handle is closed, which nobody does.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        })
        .await;
        Received::from(&info)
    }
}

impl From<&libc::siginfo_t> for Received {
    fn from(info: &libc::siginfo_t) -> Self {
        let signal = Signal(info.si_signo);
        // Only a process that called kill, tgkill or sigqueue has put its pid here; elsewhere the bytes mean something else.
        if !matches!(info.si_code, libc::SI_USER | libc::SI_TKILL | libc::SI_QUEUE) {
            return Self { signal, sender: Pid(0), uid: 0 };
        }
        // SAFETY: these codes say that the kernel has filled in pid and uid.
        let sender = Pid(unsafe { info.si_pid() });
        // SAFETY: as above.
        let uid = unsafe { info.si_uid() };
        Self { signal, sender, uid }
    }
}
