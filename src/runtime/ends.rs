//! What workers say, and how everybody ends: the only place that reads exec outcomes and notifications, and the only one that reaps.

use std::time::Duration;

use nix::errno::Errno;
use tokio::task::yield_now;
use tracing::{debug, warn};

use crate::cluster::event::{Event, ExecFailure};
use crate::cluster::words::{Life, Pid};
use crate::sys::init;
use crate::sys::process::{self, Failed, Step};
use crate::sys::signals::CHLD;
use crate::sys::{reap, tree};

use super::{READS_PER_TURN, Runtime};

/// After so many ends the side port gets a turn: a yield, not a limit.
const REAPS_PER_TURN: u32 = 256;

/// How long SIGCHLD waits after a turn that reaped orphans.
const FLOCK: Duration = Duration::from_millis(1);

/// A datagram socket holds few messages; a worker that floods it waits for the next turn.
const MESSAGES_PER_READ: usize = 32;

impl Runtime {
    /// Reads what the watched descriptors hold. True: there may be more.
    pub(super) fn read_workers(&mut self) -> bool {
        let mut read = 0;
        loop {
            let tokens = self.poller.ready();
            if tokens.is_empty() {
                return false;
            }
            for token in tokens {
                let life = Life(token >> 1);
                if token & 1 == 1 {
                    self.read_outcome(life);
                } else {
                    self.read_messages(life);
                }
                read += 1;
            }
            if read >= READS_PER_TURN {
                return true;
            }
        }
    }

    fn read_outcome(&mut self, life: Life) {
        let Some(body) = self.lives.get_mut(life) else { return };
        let Some(pipe) = &body.outcome else { return };
        let mut bytes = [0; 8];
        let length = match nix::unistd::read(pipe, &mut bytes) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => 0,
        };
        body.outcome = None;
        match bytes.get(..length).and_then(process::parse_outcome) {
            None => {
                body.executed = true;
                self.apply(Event::Executed { life });
            }
            Some(failed) => {
                let (failure, why) = explain(failed, &self.launch.command());
                self.apply(Event::ExecFailed { life, failure, why });
            }
        }
    }

    fn read_messages(&mut self, life: Life) {
        for _ in 0..MESSAGES_PER_READ {
            let Some(body) = self.lives.get(life) else { return };
            let Some(message) = body.notify.receive() else { return };
            let from_tree = message.sender.is_some_and(|sender| tree::belongs(sender, body.mark()));
            if !from_tree {
                let sender = message.sender.map_or(0, |pid| pid.0);
                warn!(
                    slot = body.slot.0,
                    sender, "dropped a notification: its sender is not (or no longer) of this worker's tree"
                );
                continue;
            }
            for notice in message.notices {
                self.apply(Event::Notified { life, notice });
            }
        }
    }

    /// Reaps until there is nothing left to reap. In a storm a wake for each orphan would cost five times what its reaping costs, so
    /// after a turn that reaped orphans SIGCHLD waits for [`FLOCK`]; the deaths of workers alone are answered at once, always.
    pub(super) async fn reap(&mut self) {
        if self.next_flock.is_some() {
            return;
        }
        // One SIGCHLD for all that end meanwhile, in place of one handler run after each system call.
        init::block(CHLD);
        let (mut ended, mut orphans) = (0_u32, 0_u32);
        while let Some(pid) = reap::ended_child() {
            match self.lives.led_by(pid) {
                Some(life) => self.leader_ended(life, pid),
                None if reap::reap(pid).is_some() => orphans += 1,
                // Not ours to reap, whatever it is (a tracer's): it must not keep us in this loop.
                None => break,
            }
            ended += 1;
            if ended.is_multiple_of(REAPS_PER_TURN) {
                self.count_orphans(std::mem::take(&mut orphans));
                self.publish();
                yield_now().await;
            }
        }
        self.count_orphans(orphans);
        if ended > 0 {
            self.look_after_orphaned_trees();
        }
        if orphans > 0 && self.exit.is_none() {
            self.next_flock = Some(self.clock.now() + FLOCK);
        } else {
            init::allow(CHLD);
        }
    }

    fn count_orphans(&mut self, orphans: u32) {
        if orphans > 0 {
            self.supervisor.orphans_reaped(u64::from(orphans));
            self.stale = true;
            debug!(orphans, "reaped orphans");
        }
    }

    fn leader_ended(&mut self, life: Life, pid: Pid) {
        // What it said last comes before its end.
        self.read_outcome(life);
        self.read_messages(life);
        // While it is a zombie its pid, and so its group's, is nobody else's.
        let rest = u32::try_from(self.members(life).len()).unwrap_or(u32::MAX);
        let Some(status) = reap::reap(pid) else { return };
        self.lives.leader_gone(life, rest > 0);
        self.apply(Event::LeaderEnded { life, status, rest });
    }

    fn look_after_orphaned_trees(&mut self) {
        for life in self.lives.orphaned() {
            if self.members(life).is_empty() {
                self.lives.tree_gone(life);
                self.apply(Event::TreeEnded { life });
            }
        }
        if self.sweeping {
            let left = self.look_around();
            self.apply(Event::NamespaceSeen { left });
        }
    }
}

fn explain(failed: Failed, command: &str) -> (ExecFailure, String) {
    let errno = Errno::from_raw(failed.errno);
    let why = errno.desc();
    match failed.step {
        Step::Directory => (ExecFailure::NotExecutable, format!("cannot enter the working directory: {why}")),
        Step::User => (
            ExecFailure::NotExecutable,
            format!("cannot become CLUSTERINIT_USER: {why}; it needs root with CAP_SETUID and CAP_SETGID"),
        ),
        Step::Parent => (ExecFailure::Transient, format!("clusterinit ended during the start: {why}")),
        Step::Listeners => (ExecFailure::Transient, format!("cannot hand over the listeners: {why}")),
        Step::Exec => {
            let failure = match errno {
                Errno::ENOENT | Errno::ENOTDIR => ExecFailure::NotFound,
                Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ETXTBSY => ExecFailure::Transient,
                _ => ExecFailure::NotExecutable,
            };
            (failure, format!("{command}: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::carry_out::token;

    #[test]
    fn tokens_tell_life_and_descriptor_apart() {
        for life in [0, 1, 77] {
            assert_eq!((token(Life(life), true) >> 1, token(Life(life), true) & 1), (life, 1));
            assert_eq!((token(Life(life), false) >> 1, token(Life(life), false) & 1), (life, 0));
        }
    }

    #[test]
    fn exec_failures_are_sorted_by_what_to_do() {
        let of = |errno| explain(Failed { step: Step::Exec, errno }, "./x").0;
        assert_eq!(of(libc::ENOENT), ExecFailure::NotFound);
        assert_eq!(of(libc::EACCES), ExecFailure::NotExecutable);
        assert_eq!(of(libc::ENOEXEC), ExecFailure::NotExecutable);
        assert_eq!(of(libc::ETXTBSY), ExecFailure::Transient);
        let (_, why) = explain(Failed { step: Step::Exec, errno: libc::ENOENT }, "./x");
        assert_eq!(why, "./x: No such file or directory");
    }
}
