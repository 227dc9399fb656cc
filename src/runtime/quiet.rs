//! Looks for an instant at which a worker has no request in flight, so that it can be stopped then: freeze, look, decide.
//!
//! ```text
//!            looks quiet            all threads stopped            still quiet
//! Glancing -------------> Stopping --------------------> Frozen ---------------> Found: the caller signals, then thaws
//!    ^                       | 20 ms                        |
//!    +---- 1 to 5 ms --------+----- thaw: it is not --------+          the window is over: thaw, stopped anyway
//! ```
//! Where new connections still reach the worker, the first glance that is quiet is [`Outcome::Calm`]: the caller's chance to see to it
//! that no more come.
//!
//! Without the freeze a request comes between the look and the signal. Without the glance before it a busy worker would be stopped
//! in vain several hundred times a second.
//!
//! PID 1 never waits for a freeze: a thread in `vfork`, in the disk or in a `bind` that we are to answer does not stop, and a step of
//! this ends after a millisecond, done or not. Whatever becomes of a [`Search`], also when it is dropped, what it froze goes on.
//! SIGCONT makes `epoll_wait` return EINTR, and parents that ask for it hear of stopped children; servers are used to both.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use super::clock::Clock;
use crate::cluster::words::{Pid, Signal, Time};
use crate::share::connections::{Connections, Part};
use crate::share::quiet::{Verdict, Window};
use crate::sys::tree::Member;
use crate::sys::{process, procfs, threads};

/// What a step may take of PID 1's time.
const STEP: Duration = Duration::from_millis(1);
/// Threads that sleep stop within 0.1 ms: so long it is asked again at once, ...
const STOPS_AT_ONCE: Duration = Duration::from_micros(300);
/// ... then this often, ...
const TICK: Duration = Duration::from_millis(1);
/// ... and one that does not stop within this is in a place where it may stay.
const STOPS_LATE: Duration = Duration::from_millis(20);
/// A look at ten thousand connections takes 15 ms; at whatever takes longer than this we do not look while it is frozen.
const FROZEN: Duration = Duration::from_millis(50);
/// Between two glances, at least: a quiet instant among eight busy clients lasts half a millisecond.
const PAUSE: Duration = Duration::from_millis(1);
/// And four times what the glance took: the search is to leave the CPU to the worker.
const PAUSE_PER_GLANCE: u32 = 4;

/// What a search needs to know of its worker.
pub trait Worker {
    /// All living processes of its tree, the leader too.
    fn members(&mut self) -> Vec<Member>;

    /// Connections that wait in its accept queues.
    fn waiting(&mut self) -> u32;

    /// Descriptors and inodes of the sockets of one of its processes that we may not look into; `None`: nobody can.
    fn sockets_of(&mut self, pid: Pid) -> Option<Vec<(RawFd, u64)>>;
}

/// Whether new connections may still reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// A stop of the whole cluster: it takes what comes until it is calm, or until its signal.
    Possible,
    /// It is disconnected: a worker without connections needs no freeze.
    Over,
}

/// What a step has come to.
#[derive(Debug)]
pub enum Outcome {
    /// The next step is due at [`Search::due`].
    Later,
    /// A glance was quiet, and connections still come: [`Search::no_more_arrivals`], or another step.
    Calm,
    /// Now. It is frozen, unless it had no connection: signal it, then [`Search::thaw`].
    Quiet,
    /// The window is over.
    Over,
    /// The kernel does not say which connections there are.
    Unknown(io::Error),
}

/// One search.
#[derive(Debug)]
pub struct Search {
    clock: Clock,
    window: Window,
    arrivals: Arrivals,
    connections: Connections,
    /// As they were last listed.
    members: Vec<Member>,
    frozen: Frozen,
    phase: Phase,
    /// The last glance.
    began: Time,
    /// In vain.
    freezes: u32,
    due: Time,
}

#[derive(Clone, Debug)]
enum Phase {
    Idle,
    Glancing,
    Calm,
    Stopping { since: Time, running: Vec<Pid> },
    Frozen { since: Time },
    Found,
}

/// What a phase has come to.
enum Turn {
    Go,
    Wait(Duration),
    End(Outcome),
}

impl Search {
    /// For a worker with these listeners (inode and port of each). An error: the kernel does not list sockets here.
    pub fn new(clock: Clock, window: Window, arrivals: Arrivals, listeners: &[(u64, u16)]) -> io::Result<Self> {
        let connections = Connections::new(listeners)?;
        let (members, frozen) = Default::default();
        Ok(Self {
            clock,
            window,
            arrivals,
            connections,
            members,
            frozen,
            phase: Phase::Idle,
            began: clock.now(),
            freezes: 0,
            due: clock.now(),
        })
    }

    /// When the next step is due: often at once.
    pub fn due(&self) -> Time {
        self.due
    }

    /// All connections on its ports counted as its own, because nobody could look into its processes.
    pub fn is_blind(&self) -> bool {
        self.connections.is_blind()
    }

    /// What is frozen goes on; the search may be gone on with.
    pub fn thaw(&mut self) {
        self.frozen.thaw();
        self.phase = Phase::Idle;
    }

    /// New connections do not reach the worker any more; those that did are looked at anew.
    pub fn no_more_arrivals(&mut self) {
        self.arrivals = Arrivals::Over;
        self.thaw();
    }

    /// They do again.
    pub fn arrivals_again(&mut self) {
        self.arrivals = Arrivals::Possible;
        self.thaw();
    }

    /// Goes on for a millisecond at most. While the worker is frozen the next step should come soon; it may come late.
    pub fn step(&mut self, worker: &mut impl Worker) -> Outcome {
        let began = self.clock.now();
        loop {
            let now = self.clock.now();
            if self.window.is_over(now) {
                self.thaw();
                return Outcome::Over;
            }
            let wait = match self.turn(now, worker) {
                Turn::Go if now.since(began) < STEP => continue,
                Turn::Go => Duration::ZERO,
                Turn::Wait(wait) => wait,
                Turn::End(outcome) => return outcome,
            };
            self.due = now + wait;
            return Outcome::Later;
        }
    }

    fn turn(&mut self, now: Time, worker: &mut impl Worker) -> Turn {
        match &mut self.phase {
            Phase::Idle => self.glance(now, worker),
            Phase::Glancing => match self.connections.look(&mut |pid| worker.sockets_of(pid)) {
                Ok(Part::More) => Turn::Go,
                Ok(Part::Done(verdicts)) => self.glanced(now, &verdicts),
                Err(error) => self.unknown(error),
            },
            Phase::Calm => self.freeze(now),
            Phase::Stopping { since, running } => {
                running.retain(|pid| !threads::all_stopped(*pid));
                let (took, stopped) = (now.since(*since), running.is_empty());
                if stopped { self.stopped(now, worker) } else { self.not_stopped(took) }
            }
            Phase::Frozen { since } => {
                let took = now.since(*since);
                match self.connections.look(&mut |pid| worker.sockets_of(pid)) {
                    Ok(Part::More) if took >= FROZEN => self.give_up(),
                    Ok(Part::More) => Turn::Go,
                    Ok(Part::Done(verdicts)) => self.decide(now, &verdicts, worker),
                    Err(error) => self.unknown(error),
                }
            }
            Phase::Found => Turn::End(Outcome::Quiet),
        }
    }

    fn glance(&mut self, now: Time, worker: &mut impl Worker) -> Turn {
        self.began = now;
        // First the queue, then the connections: what leaves the one meanwhile is seen in the other.
        if worker.waiting() > 0 {
            return self.pause();
        }
        self.members = worker.members();
        self.connections.begin(self.members.iter().map(|member| member.pid));
        self.phase = Phase::Glancing;
        Turn::Go
    }

    fn glanced(&mut self, now: Time, verdicts: &[Verdict]) -> Turn {
        if verdicts.is_empty() && self.arrivals == Arrivals::Over {
            self.phase = Phase::Found;
            return Turn::Go;
        }
        if !self.window.accepts(now, verdicts.iter().copied()) {
            return self.pause();
        }
        if self.arrivals == Arrivals::Possible {
            self.phase = Phase::Calm;
            return Turn::End(Outcome::Calm);
        }
        self.freeze(now)
    }

    fn freeze(&mut self, now: Time) -> Turn {
        for member in &self.members {
            self.frozen.freeze(member);
        }
        self.phase = Phase::Stopping { since: now, running: self.members.iter().map(|member| member.pid).collect() };
        Turn::Go
    }

    fn not_stopped(&mut self, took: Duration) -> Turn {
        if took >= STOPS_LATE {
            return self.give_up();
        }
        if took >= STOPS_AT_ONCE {
            return Turn::Wait(TICK);
        }
        // With one CPU its threads need ours to stop.
        std::thread::yield_now();
        Turn::Go
    }

    /// All that were listed are stopped; what they forked just before is not.
    fn stopped(&mut self, now: Time, worker: &mut impl Worker) -> Turn {
        self.members = worker.members();
        let new: Vec<Pid> = self.members.iter().filter(|member| self.frozen.freeze(member)).map(|member| member.pid).collect();
        if let Phase::Stopping { running, .. } = &mut self.phase
            && !new.is_empty()
        {
            *running = new;
            return Turn::Go;
        }
        self.connections.begin(self.members.iter().map(|member| member.pid));
        self.phase = Phase::Frozen { since: now };
        Turn::Go
    }

    fn decide(&mut self, now: Time, verdicts: &[Verdict], worker: &mut impl Worker) -> Turn {
        if !self.window.accepts(now, verdicts.iter().copied()) || worker.waiting() > 0 {
            return self.give_up();
        }
        self.phase = Phase::Found;
        Turn::Go
    }

    fn unknown(&mut self, error: io::Error) -> Turn {
        self.thaw();
        Turn::End(Outcome::Unknown(error))
    }

    /// It is not quiet: nothing that a glance saw is worth a freeze.
    fn pause(&mut self) -> Turn {
        self.phase = Phase::Idle;
        Turn::Wait((self.clock.now().since(self.began) * PAUSE_PER_GLANCE).max(PAUSE))
    }

    /// It was frozen in vain: not too often.
    fn give_up(&mut self) -> Turn {
        self.thaw();
        self.freezes = self.freezes.wrapping_add(1);
        Turn::Wait(PAUSE * (self.freezes % 5 + 1))
    }
}

/// Processes that were sent SIGSTOP: they get SIGCONT, whatever happens.
#[derive(Debug, Default)]
struct Frozen(Vec<Member>);

impl Frozen {
    /// False: it was before.
    fn freeze(&mut self, member: &Member) -> bool {
        if self.0.contains(member) {
            return false;
        }
        self.0.push(member.clone());
        member.signal(Signal::STOP);
        true
    }

    fn thaw(&mut self) {
        for member in self.0.drain(..) {
            // Where it cannot be looked at (no descriptor is left, say) it may be there all the same, and must not stay as it is.
            if !member.signal(Signal::CONT) && procfs::stat(member.pid).is_none() {
                let _ = process::signal(member.pid, Signal::CONT);
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
    }
}

#[cfg(test)]
mod tests;
