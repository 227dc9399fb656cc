//! Port sharing in the loop: workers' calls are answered, workers put in and out of rotation, their accept queues looked at.
//!
//! A worker that floods us with calls hurts only itself: its calls are read a few at a time, and at a bounded rate.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::cluster::event::Event;
use crate::cluster::status::{self, Shared};
use crate::cluster::words::{Life, Slot, Time};
use crate::listen::{BACKLOG, Opened};
use crate::share::broker::{Broker, News};
use crate::share::queues::Queues;
use crate::share::sockets::LaneId;
use crate::sys::seccomp::Listener;

use super::node::Nodes;
use super::token::Token;
use super::{Runtime, earliest};

/// What is read of one worker's calls before everybody else gets a turn.
const CALLS_PER_READ: usize = 8;

/// Calls that a worker may make at once: a server with hundreds of ports is no flood.
const BURST: u32 = 2_000;

/// Then one each millisecond.
const CALL_EVERY: Duration = Duration::from_millis(1);

/// How long a worker that floods us is not listened to.
const MUTED: Duration = Duration::from_millis(20);

/// An address that no worker has, although all are ready, is given back after this: a worker opens its ports one after the other.
const UNUSED_AFTER: Duration = Duration::from_secs(10);

/// While connections wait that will still be accepted, refusing late clients is tried again this often.
const REFUSE_AGAIN: Duration = Duration::from_millis(10);

/// A worker that has its stop signal gets so long to close what it listens on by itself. Shut down under it, its `accept` fails, and
/// many a server ends with an error then. A client that was put off asks again after a second, not before.
const CLOSES_ITSELF: Duration = Duration::from_millis(800);

/// What the workers share, as the loop has it.
pub(super) struct Sharing {
    pub(super) broker: Broker,
    handed_out: Vec<Opened>,
    pub(super) queues: Queues,
    watched: HashSet<LaneId>,
    /// Workers that flood us with calls, until when they are not listened to.
    muted: BTreeSet<(Time, Life)>,
    release_at: Option<Time>,
    /// The cluster stops, and no worker accepts any more.
    pub(super) refuses: bool,
    refuse_at: Option<Time>,
    /// What the side port shows; `None`: has changed.
    pub(super) shown: Option<Arc<Shared>>,
    /// Lives that have listeners.
    pub(super) lives: BTreeSet<Life>,
    /// The sockets that a worker had when its queue was found stuck.
    pub(super) had: BTreeMap<Life, HashSet<u64>>,
}

/// The calls of one worker's tree.
#[derive(Debug)]
pub(super) struct Calls {
    listener: Listener,
    /// How far the worker is ahead of one call each [`CALL_EVERY`].
    ahead_until: Time,
    flooded: bool,
}

impl Sharing {
    pub(super) fn new(broker: Broker, handed_out: Vec<Opened>) -> Self {
        Self {
            broker,
            handed_out,
            queues: Queues::default(),
            watched: HashSet::new(),
            muted: BTreeSet::new(),
            release_at: None,
            refuses: false,
            refuse_at: None,
            shown: None,
            lives: BTreeSet::new(),
            had: BTreeMap::new(),
        }
    }

    /// The programs follow the live set, once a turn: a worker that has listened does not wait for it.
    pub(super) fn settle(&mut self) {
        self.broker.sockets.settle();
        for line in self.broker.sockets.take_remarks() {
            warn!("{line}");
        }
    }

    /// The cluster stops: where nobody takes connections any more they get nowhere.
    pub(super) fn close_doors(&mut self) {
        self.broker.sockets.close_doors();
        self.settle();
    }

    /// Addresses that nobody has are given back after a while.
    pub(super) fn release_soon(&mut self, now: Time) {
        if self.broker.sockets.has_unused() {
            self.release_at = Some(now + UNUSED_AFTER);
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let muted = self.muted.first().map(|(until, _)| *until);
        [muted, self.release_at, self.refuse_at].into_iter().fold(self.queues.next_look(), earliest)
    }

    /// What `LISTEN` hands to this life, in its order: lanes of its own, and what all have.
    pub(super) fn hand_out(&mut self, life: Life, slot: Slot) -> std::io::Result<Vec<Handed>> {
        let Self { handed_out, broker, .. } = self;
        let hand = |(index, opened): (usize, &Opened)| match opened {
            Opened::Tcp(address) => broker.sockets.listen(address, life, slot, BACKLOG).map(|lane| Handed::Lane(lane.id)),
            Opened::Unix(..) => Ok(Handed::Unix(index)),
        };
        handed_out.iter().enumerate().map(hand).collect()
    }

    pub(super) fn descriptor(&self, handed: Handed) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        match handed {
            Handed::Lane(lane) => self.broker.sockets.socket(lane),
            Handed::Unix(index) => match self.handed_out.get(index)? {
                Opened::Unix(socket, _) => Some(socket.as_fd()),
                Opened::Tcp(_) => None,
            },
        }
    }

    /// What the side port shows of it.
    pub(super) fn show(&mut self, nodes: &Nodes) -> Arc<Shared> {
        if let Some(shown) = &self.shown {
            return Arc::clone(shown);
        }
        let unix = self.handed_out.iter().filter_map(|opened| match opened {
            Opened::Unix(_, address) => Some(status::Listener { address: address.clone(), worker: None, disconnects: false }),
            Opened::Tcp(_) => None,
        });
        let tcp = self.broker.listeners().into_iter().map(|(address, worker, disconnects)| status::Listener {
            address: address.to_string(),
            worker,
            disconnects,
        });
        let listeners = tcp.chain(unix).chain(nodes.listeners()).collect();
        let mut by_life: BTreeMap<Life, Vec<(u64, u16)>> =
            self.lives.iter().map(|life| (*life, self.broker.listeners_of(*life))).collect();
        for (life, listener) in nodes.rotated_to() {
            by_life.entry(life).or_default().push(listener);
        }
        let shown = Arc::new(Shared { listeners, by_life });
        self.shown = Some(Arc::clone(&shown));
        shown
    }
}

/// One descriptor that `LISTEN` hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    Lane(LaneId),
    Unix(usize),
}

impl Calls {
    pub(super) fn descriptor(&self) -> &OwnedFd {
        self.listener.descriptor()
    }

    fn new(listener: Listener) -> Self {
        Self { listener, ahead_until: Time::default(), flooded: false }
    }

    /// Whether one more call is read now.
    fn admit(&mut self, now: Time) -> bool {
        self.ahead_until = self.ahead_until.max(now) + CALL_EVERY;
        self.ahead_until.since(now) <= CALL_EVERY * BURST
    }
}

impl Runtime {
    /// The worker's filter is in force: its calls arrive here.
    pub(super) fn listener_arrived(&mut self, life: Life, listener: Listener) {
        let Some(body) = self.lives.get_mut(life) else { return };
        if let Err(error) = self.poller.watch(listener.descriptor(), Token::Calls(life).number()) {
            warn!(slot = body.slot.0, %error, "the worker's ports are not shared: its calls cannot be watched");
            return;
        }
        body.calls = Some(Calls::new(listener));
    }

    /// How many were read.
    pub(super) fn read_calls(&mut self, life: Life) -> usize {
        for read in 0..CALLS_PER_READ {
            let now = self.clock.now();
            let Some(body) = self.lives.get_mut(life) else { return read };
            let Some(calls) = &mut body.calls else { return read };
            let call = match calls.listener.receive() {
                Ok(Some(call)) => call,
                Ok(None) => return read,
                // Nobody is left who could call.
                Err(_) => {
                    self.poller.forget(calls.listener.descriptor());
                    return read;
                }
            };
            let news = self.sharing.broker.handle(&calls.listener, life, body.slot, &call);
            let is_flood = !calls.admit(now);
            if is_flood {
                self.poller.forget(calls.listener.descriptor());
                self.sharing.muted.insert((now + MUTED, life));
                if !std::mem::replace(&mut calls.flooded, true) {
                    warn!(slot = body.slot.0, "the worker floods clusterinit with bind, listen or setsockopt; it is slowed down");
                }
            }
            for news in news {
                self.hear(life, news);
            }
            if is_flood {
                return read;
            }
        }
        CALLS_PER_READ
    }

    pub(super) fn hear(&mut self, life: Life, news: News) {
        match news {
            News::Listening { address, shared } => {
                debug!(?life, ?address, shared, "worker listens");
                if let Some(lane) =
                    address.filter(|_| shared).and_then(|address| self.sharing.broker.sockets.lane_of(&address, life))
                {
                    let lane = lane.id;
                    self.watch_lane(lane);
                }
                self.sharing.lives.insert(life);
                self.sharing.shown = None;
                self.apply(Event::Listened { life });
            }
            News::Remark(text) => {
                let slot = self.lives.get(life).map_or(0, |body| body.slot.0);
                warn!(slot, "{text}");
            }
        }
    }

    /// `LISTEN` has handed lanes to this life.
    pub(super) fn handed_out(&mut self, life: Life, handed: &[Handed]) {
        for handed in handed {
            if let Handed::Lane(lane) = handed {
                self.watch_lane(*lane);
            }
        }
        // Connections of unix sockets are not counted: those of a worker that has nothing else are unknown, not 0.
        if handed.iter().any(|handed| matches!(handed, Handed::Lane(_))) {
            self.sharing.lives.insert(life);
            self.sharing.shown = None;
        }
    }

    pub(super) fn watch_lane(&mut self, lane: LaneId) {
        if self.sharing.watched.insert(lane)
            && let Some(socket) = self.sharing.broker.sockets.socket(lane)
            && let Err(error) = self.poller.watch_once(socket, Token::Lane(lane).number())
        {
            warn!(%error, "an accept queue cannot be watched");
        }
    }

    pub(super) fn watch_lane_again(&self, lane: LaneId) {
        if let Some(socket) = self.sharing.broker.sockets.socket(lane)
            && let Err(error) = self.poller.watch_again(socket, Token::Lane(lane).number())
        {
            warn!(%error, "an accept queue cannot be watched");
        }
    }

    /// Something waits in this lane, or somebody has shut it down.
    pub(super) fn lane_stirred(&mut self, lane: LaneId) {
        let now = self.clock.now();
        match self.sharing.broker.sockets.queue(lane) {
            Some(queue) if queue.listens => self.sharing.queues.fill(lane, now),
            Some(_) if !self.sharing.refuses => {
                self.sharing.broker.sockets.was_shut(lane);
                self.watch_lane_again(lane);
            }
            Some(_) | None => {}
        }
    }

    // === in and out of rotation ===

    pub(super) fn join(&mut self, life: Life) {
        self.sharing.broker.sockets.join(life);
        self.rotate(life);
        self.sharing.release_soon(self.clock.now());
    }

    /// At once: what comes next in this turn may be its stop signal.
    pub(super) fn disconnect(&mut self, life: Life, hung: bool) {
        self.sharing.broker.sockets.leave(life, hung);
        self.rotate(life);
        self.sharing.settle();
    }

    /// Its leader has gone: nobody is sent to it any more, from this turn on, and a successor is to have what waits for it.
    pub(super) fn leave_rotation(&mut self, life: Life) {
        if self.sharing.broker.sockets.is_joined(life) {
            self.sharing.broker.sockets.leave(life, true);
            self.rotate(life);
        }
    }

    /// Nothing is left of it.
    pub(super) fn release_ports(&mut self, life: Life) {
        self.sharing.broker.ended(life);
        self.sharing.had.remove(&life);
        if self.sharing.lives.remove(&life) {
            self.sharing.shown = None;
        }
        if self.sharing.refuse_at.is_some() && !self.sharing.broker.sockets.have_owners() {
            self.refuse();
        }
    }

    /// No worker is to take connections any more: late clients are put off where that can be had, and refused when the workers have had
    /// time to close their listeners. Elsewhere they are refused at once, or, where a worker fails by it, after what else is to be done
    /// in this turn.
    pub(super) fn refuse_soon(&mut self) {
        let now = self.clock.now();
        self.sharing.close_doors();
        if self.sharing.broker.sockets.is_behind_doors() {
            self.refuse_turns();
            self.sharing.refuse_at = Some(now + CLOSES_ITSELF);
        } else if self.would_fail(false) {
            self.sharing.refuse_at = Some(now);
        } else {
            self.refuse();
        }
    }

    /// Late clients are refused at once.
    pub(super) fn refuse(&mut self) {
        self.sharing.refuses = true;
        self.refuse_turns();
        // The others are heard of when they have closed.
        if self.would_fail(true) {
            self.sharing.refuse_at = Some(self.clock.now() + REFUSE_AGAIN);
            return;
        }
        let all_are_shut = self.sharing.broker.sockets.refuse();
        self.sharing.refuse_at = (!all_are_shut).then(|| self.clock.now() + REFUSE_AGAIN);
    }

    // === in time ===

    pub(super) fn sharing_due(&mut self, now: Time) {
        while let Some((until, life)) = self.sharing.muted.first().copied().filter(|(until, _)| *until <= now) {
            self.sharing.muted.remove(&(until, life));
            let calls = self.lives.get(life).and_then(|body| body.calls.as_ref());
            if let Some(calls) = calls
                && let Err(error) = self.poller.watch(calls.listener.descriptor(), Token::Calls(life).number())
            {
                warn!(%error, "the worker's calls cannot be watched any more");
            }
        }
        if self.sharing.queues.next_look().is_some_and(|at| at <= now) {
            self.look_at_queues(now);
        }
        if self.sharing.refuse_at.is_some_and(|at| at <= now) {
            self.refuse();
        }
        if self.sharing.release_at.is_some_and(|at| at <= now) {
            self.sharing.release_at = None;
            self.settled_at = Some(now);
            let published = self.published.borrow();
            let all_are_ready = published.ready >= published.wanted;
            drop(published);
            if all_are_ready {
                let Sharing { broker, watched, shown, .. } = &mut self.sharing;
                broker.sockets.release_unused();
                watched.retain(|lane| broker.sockets.socket(*lane).is_some());
                *shown = None;
                self.stale = true;
            }
        }
    }
}
