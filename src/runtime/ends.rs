//! What workers say, and how everybody ends: the only place that reads exec outcomes and notifications, and the only one that reaps.

use std::collections::HashSet;
use std::time::Duration;

use nix::errno::Errno;
use tracing::{debug, warn};

use crate::cluster::event::{Event, ExecFailure};
use crate::cluster::words::{Life, Pid};
use crate::sys::descriptor::lift;
use crate::sys::init;
use crate::sys::outcome::{self, Failed, Outcome, Step};
use crate::sys::reap;
use crate::sys::seccomp::Listener;
use crate::sys::signals::CHLD;
use crate::sys::tree::{self, Strays};

use super::clock;
use super::token::Token;
use super::{READS_PER_TURN, Runtime, let_others_go_on};

/// After so many ends the side port gets a turn: a yield, not a limit.
const REAPS_PER_TURN: u32 = 256;

/// How long SIGCHLD waits after a turn that reaped orphans.
const FLOCK: Duration = Duration::from_millis(1);

/// A turn that cost less than this needs no pause: it was no look at many strays.
const COSTLY: Duration = Duration::from_millis(4);

/// However long a look took, ends are noticed after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A worker that floods its socket waits for the others.
const MESSAGES_PER_READ: usize = 8;

/// So many children of ours are looked at before the side port gets a turn: some 300 µs.
const STRAYS_PER_TURN: usize = 16;

/// One look at what leaders that have ended leave behind.
struct Remains {
    /// Leaders that had ended before the look. What ends later may leave more.
    of: HashSet<Pid>,
    strays: Strays,
}

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
                read += match Token::of(token) {
                    Token::Messages(life) => self.read_messages(life),
                    Token::Outcome(life) => {
                        self.read_outcome(life);
                        1
                    }
                    Token::Calls(life) => self.read_calls(life),
                    Token::Lane(lane) => {
                        self.lane_stirred(lane);
                        1
                    }
                    Token::Channel(life) => self.read_channel(life),
                    Token::Turns(number) => {
                        self.turn(number);
                        1
                    }
                    Token::Output(life, stream) => self.output.read(&self.poller, life, stream),
                    Token::Outlet(number) => {
                        self.output.flush(&self.poller, number);
                        1
                    }
                    Token::Deadline => {
                        self.timer.clear();
                        self.deadline_reached();
                        1
                    }
                };
            }
            if read >= READS_PER_TURN {
                return true;
            }
        }
    }

    fn read_outcome(&mut self, life: Life) {
        loop {
            let Some(body) = self.lives.get_mut(life) else { return };
            let Some(socket) = &body.outcome else { return };
            match outcome::read(socket) {
                None => return,
                Some(Outcome::Listener(descriptor)) => self.listener_arrived(life, Listener::new(lift(descriptor))),
                Some(Outcome::NoListener(errno)) => {
                    let (slot, why) = (body.slot.0, errno.desc());
                    warn!(slot, why, "this worker cannot share ports");
                }
                Some(Outcome::Failed(failed)) => {
                    let (failure, why) = explain(failed, &self.launch.command());
                    self.forget_outcome(life);
                    self.apply(Event::ExecFailed { life, failure, why });
                }
                Some(Outcome::Executed) => {
                    body.executed = true;
                    self.forget_outcome(life);
                    self.apply(Event::Executed { life });
                }
            }
        }
    }

    fn forget_outcome(&mut self, life: Life) {
        if let Some(socket) = self.lives.get_mut(life).and_then(|body| body.outcome.take()) {
            self.poller.forget(&socket);
        }
    }

    /// How many were read.
    fn read_messages(&mut self, life: Life) -> usize {
        for read in 0..MESSAGES_PER_READ {
            let Some(body) = self.lives.get_mut(life) else { return read };
            let Some(message) = body.notify.receive() else { return read };
            if message.sender.is_some_and(|sender| tree::belongs(sender, body.mark())) {
                for notice in message.notices {
                    self.apply(Event::Notified { life, notice });
                }
            } else if !std::mem::replace(&mut body.strangers_notify, true) {
                // Said once: whoever shares our network namespace could fill the log.
                let (slot, sender) = (body.slot.0, message.sender.map_or(0, |pid| pid.0));
                warn!(slot, sender, "dropped a notification: its sender is not (or no longer) of this worker's tree");
            }
        }
        MESSAGES_PER_READ
    }

    /// Reaps until there is nothing left to reap. In a storm a wake for each orphan would cost five times what its reaping costs, so
    /// after a turn that reaped orphans SIGCHLD waits for [`FLOCK`]; the deaths of workers alone are answered at once, always.
    pub(super) async fn reap(&mut self) {
        if self.next_flock.is_some() {
            return;
        }
        // One SIGCHLD for all that end meanwhile, in place of one handler run after each system call.
        init::block(CHLD);
        let before = clock::cpu_time();
        let (mut ended, mut orphans) = (0_u32, 0_u32);
        let mut remains = None;
        while let Some(pid) = reap::ended_child() {
            let was_reaped = match self.lives.led_by(pid) {
                Some(life) => {
                    let known = self.remains_of(pid, remains.take()).await;
                    let was_reaped = self.leader_ended(life, pid, &known.strays);
                    remains = Some(known);
                    // Its successor was forked: a millisecond or so.
                    let_others_go_on().await;
                    was_reaped
                }
                None => self.reap_orphan(pid, &mut orphans),
            };
            if !was_reaped {
                // Not ours to reap, whatever it is (a tracer's): it must not keep us in this loop.
                break;
            }
            ended += 1;
            if ended.is_multiple_of(REAPS_PER_TURN) {
                self.count_orphans(std::mem::take(&mut orphans));
                self.publish();
                let_others_go_on().await;
            }
        }
        if ended > 0 {
            self.memory.count_ooms(self.clock.now());
            self.look_after_orphaned_trees().await;
        }
        let was_storm = orphans > 0 || ended >= REAPS_PER_TURN;
        self.count_orphans(orphans);
        match pause_after(was_storm, ended, clock::cpu_time().saturating_sub(before)) {
            Some(pause) if self.exit.is_none() => self.next_flock = Some(self.clock.now() + pause),
            _ => init::allow(CHLD),
        }
    }

    fn reap_orphan(&mut self, pid: Pid, orphans: &mut u32) -> bool {
        let was_reaped = reap::reap(pid).is_some();
        *orphans += u32::from(was_reaped);
        self.known_strays.forget(pid);
        was_reaped
    }

    /// What the strays were when this leader had ended already: an earlier look, or a new one. The first look of a turn is for one
    /// leader; where a second one follows there may be many, and the next look serves all that have ended by then.
    async fn remains_of(&mut self, leader: Pid, earlier: Option<Remains>) -> Remains {
        let of = match earlier {
            Some(earlier) if earlier.of.contains(&leader) => return earlier,
            Some(_) => self.lives.leaders().filter(|leader| reap::has_ended(*leader)).collect(),
            None => HashSet::from([leader]),
        };
        Remains { of, strays: self.look_at_strays().await }
    }

    async fn look_at_strays(&mut self) -> Strays {
        let mut strays = Strays::list();
        while strays.look(STRAYS_PER_TURN, &mut self.known_strays, |pid| self.lives.is_leader(pid)) {
            let_others_go_on().await;
        }
        // They are in nobody's way any more when the next leader has ended.
        let mut orphans = 0;
        for part in std::mem::take(&mut strays.ended).chunks(STRAYS_PER_TURN * 4) {
            for pid in part {
                self.reap_orphan(*pid, &mut orphans);
            }
            let_others_go_on().await;
        }
        self.count_orphans(orphans);
        strays
    }

    fn count_orphans(&mut self, orphans: u32) {
        if orphans > 0 {
            self.supervisor.orphans_reaped(u64::from(orphans));
            self.stale = true;
            debug!(orphans, "reaped orphans");
        }
    }

    /// False: it could not be reaped.
    fn leader_ended(&mut self, life: Life, pid: Pid, strays: &Strays) -> bool {
        // What it said last comes before its end.
        self.read_outcome(life);
        self.read_messages(life);
        self.output.read_rest(&self.poller, life);
        // While it is a zombie its pid, and so its group's, is nobody else's.
        let members = self.lives.get(life).map_or_else(Vec::new, |body| body.members(strays, &self.known_strays));
        let rest = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let Some(status) = reap::reap(pid) else { return false };
        let out_of_memory = self.ended_by_oom(life, status);
        self.channel_lost(life, status);
        self.lives.leader_gone(life);
        // From this turn on nobody is sent to it.
        self.leave_rotation(life);
        self.searches.forget(life);
        if rest == 0 {
            self.forget(life);
        }
        if out_of_memory {
            self.apply(Event::OutOfMemory { life });
        }
        self.apply(Event::LeaderEnded { life, status, rest });
        true
    }

    async fn look_after_orphaned_trees(&mut self) {
        let orphaned = self.lives.orphaned();
        if !orphaned.is_empty() {
            let strays = self.look_at_strays().await;
            for life in orphaned {
                if self.lives.get(life).is_some_and(|body| body.members(&strays, &self.known_strays).is_empty()) {
                    self.forget(life);
                    self.apply(Event::TreeEnded { life });
                }
            }
        }
        if self.sweeping {
            let left = self.look_around();
            self.apply(Event::NamespaceSeen { left });
        }
    }

    fn forget(&mut self, life: Life) {
        if let Some(body) = self.lives.tree_gone(life) {
            self.memory.forget(life, body.group);
            self.poller.forget(body.notify.descriptor());
            if let Some(calls) = &body.calls {
                self.poller.forget(calls.descriptor());
            }
            self.channel_gone(life);
            self.output.tree_gone(&self.poller, life);
            self.release_ports(life);
        }
    }
}

/// How long SIGCHLD waits after a turn. Where there are tens of thousands of strays a look at them takes long: it may take a tenth of
/// the time, not all of it. (The kernel lists children by the page, and goes through all before for each: 25 ms for 20,000.) `cost` is
/// CPU time: that others kept the machine busy is no reason to notice a death late.
fn pause_after(was_storm: bool, ended: u32, cost: Duration) -> Option<Duration> {
    let pauses = was_storm || (ended > 0 && cost >= COSTLY);
    pauses.then(|| (cost * 9).clamp(FLOCK, LONGEST_PAUSE))
}

fn explain(failed: Failed, command: &str) -> (ExecFailure, String) {
    let errno = Errno::from_raw(failed.errno);
    let why = errno.desc();
    match failed.step {
        Step::Group => (ExecFailure::Transient, format!("cannot enter the worker's cgroup: {why}")),
        Step::Directory => (ExecFailure::NotExecutable, format!("cannot enter the working directory: {why}")),
        Step::Filter => (ExecFailure::Transient, format!("cannot hand over the listener of stopped calls: {why}")),
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

    #[test]
    fn only_storms_and_costly_looks_are_paused_after() {
        let ms = Duration::from_millis;
        assert_eq!(pause_after(false, 1, ms(1)), None, "a worker died");
        assert_eq!(pause_after(false, 0, ms(50)), None, "nobody did");
        assert_eq!(pause_after(true, 1, Duration::ZERO), Some(FLOCK), "an orphan did");
        assert_eq!(pause_after(false, 1, ms(10)), Some(ms(90)), "a tenth of the time");
        assert_eq!(pause_after(true, 9, ms(1_000)), Some(LONGEST_PAUSE));
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
