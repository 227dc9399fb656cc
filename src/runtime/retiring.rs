//! Workers that are to be stopped at a quiet instant: their accept queues run dry, then one search for each (`quiet.rs`).

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::time::Duration;

use tracing::warn;

use crate::cluster::event::Event;
use crate::cluster::words::{Life, Pid, Time};
use crate::share::broker::Broker;
use crate::share::caller;
use crate::share::quiet::Window;
use crate::sys::tree::{KnownStrays, Member, Strays};

use super::lives::Lives;
use super::quiet::{Arrivals, Outcome, Search, Worker};
use super::{Runtime, earliest};

/// The queue is chosen at the first packet of a handshake: so long nothing has come any more when none is under way. (No bound can be
/// had from the kernel; on loopback the last one came 0.2 ms after the change, on an overloaded machine 5 ms.)
const DRY: Duration = Duration::from_millis(50);

/// While something still comes it is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Where the cluster stops and a worker never is without a request, new connections are kept from it after a quarter of its window, or
/// this. Then it may come to an end with what it has.
const CALM_AT_LAST: Duration = Duration::from_secs(2);

/// Where nobody else takes them, new connections are put off for so long at most: a client's kernel asks again after a second. A worker
/// that is not quiet by then takes them again.
const PUT_OFF: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Searches(BTreeMap<Life, Retiring>);

struct Retiring {
    /// `None`: nothing that it listens on is known, so it is quiet when its clients have had their time.
    search: Option<Search>,
    drying: Drying,
    from: Time,
    /// Until then its clients get their last answers: a Node that is draining.
    not_before: Time,
    /// The cluster stops, and new connections reach it still, or did. They are kept from it when it is calm, or at this instant.
    of_all: Option<Time>,
    /// Since when nobody takes what it could.
    closed: Option<Time>,
}

/// Whether its queue has run dry.
enum Drying {
    /// Connections may arrive until its stop signal; or it has been dry for long enough.
    Over,
    /// `since` when it has been empty.
    Going { since: Option<Time>, due: Time },
}

impl Searches {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.0.values().map(Retiring::due).fold(None, |first, due| earliest(first, Some(due)))
    }

    /// It is known now when its clients have had their last answers.
    pub(super) fn not_before(&mut self, life: Life, wait: Duration) {
        if let Some(retiring) = self.0.get_mut(&life) {
            retiring.not_before = retiring.from + wait;
        }
    }

    /// Its leader has gone: there is nothing to find any more. (What was frozen goes on.)
    pub(super) fn forget(&mut self, life: Life) {
        self.0.remove(&life);
    }
}

impl Retiring {
    fn due(&self) -> Time {
        let due = match self.drying {
            Drying::Over => self.search.as_ref().map_or(self.not_before, Search::due).max(self.not_before),
            Drying::Going { due, .. } => due,
        };
        self.closed.map_or(due, |since| due.min(since + PUT_OFF))
    }

    /// True once the queue has been empty for [`DRY`].
    fn is_dry(&mut self, now: Time, waiting: u32) -> bool {
        let Drying::Going { since, .. } = self.drying else { return true };
        let since = if waiting == 0 { since.or(Some(now)) } else { None };
        if since.is_some_and(|since| now.since(since) >= DRY) {
            self.drying = Drying::Over;
            return true;
        }
        let due = since.map_or(now + LOOK_AGAIN, |since| (since + DRY).min(now + LOOK_AGAIN));
        self.drying = Drying::Going { since, due };
        false
    }
}

impl Runtime {
    /// The answer, where there is nothing to wait for.
    pub(super) fn seek_quiet(&mut self, life: Life, from: Time, until: Time) -> Option<Event> {
        let mut listeners = self.sharing.broker.listeners_of(life);
        listeners.extend(self.nodes.rotated_to().filter(|(of, _)| *of == life).map(|(_, listener)| listener));
        let draining = if self.searches.0.contains_key(&life) { None } else { self.drain_node(life) };
        if listeners.is_empty() && draining.is_none() {
            return Some(Event::Quiet { life });
        }
        let not_before = self.searches.0.get(&life).map_or(from + draining.unwrap_or_default(), |known| known.not_before);
        let joined = self.sharing.broker.sockets.is_joined(life);
        let of_all = joined.then(|| from + (until.since(from) / 4).min(CALM_AT_LAST));
        let has_own_queue = self.sharing.broker.sockets.disconnects() && !self.sharing.broker.sockets.of(life).is_empty();
        let (arrivals, drying) = if joined || !has_own_queue {
            (Arrivals::Possible, Drying::Over)
        } else {
            (Arrivals::Over, Drying::Going { since: None, due: from })
        };
        if listeners.is_empty() {
            self.searches.0.insert(life, Retiring { search: None, drying, from, not_before, of_all, closed: None });
            return None;
        }
        match Search::new(self.clock, Window { from, until }, arrivals, &listeners) {
            Ok(search) => {
                self.searches.0.insert(life, Retiring { search: Some(search), drying, from, not_before, of_all, closed: None });
                None
            }
            Err(error) => Some(self.unknown(life, &error)),
        }
    }

    fn unknown(&self, life: Life, error: &std::io::Error) -> Event {
        let slot = self.lives.get(life).map_or(0, |body| body.slot.0);
        warn!(slot, %error, "connections cannot be listed here (sock_diag): the worker is stopped without waiting for a quiet instant");
        Event::Quiet { life }
    }

    pub(super) fn search(&mut self, now: Time) {
        let due: Vec<Life> = self.searches.0.iter().filter(|(_, one)| one.due() <= now).map(|(life, _)| *life).collect();
        for life in due {
            let Some(mut retiring) = self.searches.0.remove(&life) else { continue };
            match self.look(now, life, &mut retiring) {
                Look::Later => _ = self.searches.0.insert(life, retiring),
                Look::Over => {}
                Look::End(event) => {
                    // It is frozen until it has its signal: what was found holds.
                    self.apply(event);
                    retiring.search.iter_mut().for_each(Search::thaw);
                }
            }
        }
    }

    fn look(&mut self, now: Time, life: Life, retiring: &mut Retiring) -> Look {
        let waiting = self.sharing.broker.sockets.waiting(life);
        // While it is connected itself nothing that it could take is put off.
        if retiring.of_all.is_some() && !self.sharing.broker.sockets.is_joined(life) {
            self.mind_the_door(now, life, retiring);
        }
        if !retiring.is_dry(now, waiting) || now < retiring.not_before {
            return Look::Later;
        }
        if retiring.of_all.is_some_and(|latest| latest <= now) && self.retreats(now, life, retiring) {
            return Look::Later;
        }
        // It is its own business when its requests are done.
        if waiting == 0 && self.can_part(life) {
            if self.retreats(now, life, retiring) {
                return Look::Later;
            }
            self.apply(Event::Parts { life, parts: true });
            return Look::End(Event::Quiet { life });
        }
        loop {
            let Some(search) = &mut retiring.search else { return Look::End(Event::Quiet { life }) };
            let Runtime { lives, sharing, known_strays, .. } = self;
            return match search.step(&mut Seen { life, lives, broker: &sharing.broker, known_strays }) {
                Outcome::Later => Look::Later,
                Outcome::Calm if self.retreats(now, life, retiring) => Look::Later,
                Outcome::Calm => continue,
                Outcome::Quiet => Look::End(Event::Quiet { life }),
                // The core has the same deadline.
                Outcome::Over => Look::Over,
                Outcome::Unknown(error) => Look::End(self.unknown(life, &error)),
            };
        }
    }

    /// It may be closed now because the last one that took connections has ended; and it is not closed for long.
    fn mind_the_door(&mut self, now: Time, life: Life, retiring: &mut Retiring) {
        self.sharing.close_doors();
        if !self.sharing.broker.sockets.are_put_off(life) {
            retiring.closed = None;
        } else if now.since(*retiring.closed.get_or_insert(now)) >= PUT_OFF {
            retiring.closed = None;
            // From now on only when it is calm.
            retiring.of_all = Some(Time(Duration::MAX));
            retiring.drying = Drying::Over;
            retiring.search.iter_mut().for_each(Search::arrivals_again);
            self.sharing.broker.sockets.return_to(life);
            self.rotate(life);
            self.sharing.settle();
        }
    }

    /// The cluster stops: from here on this worker's queue runs dry, where new connections can be kept from it.
    fn retreats(&mut self, now: Time, life: Life, retiring: &mut Retiring) -> bool {
        let sockets = &mut self.sharing.broker.sockets;
        let has_queue = !sockets.of(life).is_empty();
        if retiring.of_all.is_none() || !sockets.is_joined(life) || !has_queue || !sockets.retreat(life) {
            return false;
        }
        self.rotate(life);
        self.sharing.settle();
        retiring.search.iter_mut().for_each(Search::no_more_arrivals);
        retiring.drying = Drying::Going { since: None, due: now };
        true
    }
}

/// What one look has come to.
enum Look {
    Later,
    Over,
    End(Event),
}

/// A worker, as far as a search asks about it.
struct Seen<'a> {
    life: Life,
    lives: &'a Lives,
    broker: &'a Broker,
    known_strays: &'a mut KnownStrays,
}

impl Worker for Seen<'_> {
    fn members(&mut self) -> Vec<Member> {
        let Some(body) = self.lives.get(self.life) else { return Vec::new() };
        let strays = Strays::look_now(self.known_strays, |pid| self.lives.is_leader(pid));
        let leader = Member::of(body.pid).filter(|_| !body.leader_gone);
        leader.into_iter().chain(body.members(&strays, self.known_strays)).collect()
    }

    fn waiting(&mut self) -> u32 {
        self.broker.sockets.waiting(self.life)
    }

    fn sockets_of(&mut self, pid: Pid) -> Option<Vec<(RawFd, u64)>> {
        caller::sockets_of(pid)
    }
}
