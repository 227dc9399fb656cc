//! Workers on their way out, and workers whose event loop does not come round.

use std::time::Duration;

use crate::cluster::event::Event;
use crate::cluster::status::ChannelState;
use crate::cluster::words::{Life, Time};
use crate::node::message;
use crate::node::servers::Kind;
use crate::sys::memory as own_memory;

use super::super::{Runtime, earliest};

/// From draining to `disconnect`: clients that go on with a connection get their last answer on it.
const DRAIN: Duration = Duration::from_millis(100);
/// A worker that does not come round to accepting what waits is asked to disconnect all the same.
const DRY_AT_LAST: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// So long after somebody has looked at `/workers` hearts go on being listened to: scrapers come every 15 or 30 s.
const WATCHED: Duration = Duration::from_secs(40);
/// What its program handles by itself is known when the worker says that it is draining. One that does not come round to that in so
/// long is asked to disconnect all the same.
const ANSWERS: Duration = Duration::from_secs(1);

/// A worker without the preload gets so long to handle its stop signal before it is asked to disconnect: of two that come at once Node
/// may take the second first, and end by it.
const HANDLES_STOP: Duration = Duration::from_millis(500);

/// When a worker is asked to disconnect: between these, as soon as it takes no more connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    from: Time,
    until: Time,
}

impl Runtime {
    /// The worker is to end soon. How long it has at most before it is asked to disconnect; `None`: it has no channel.
    pub(in super::super) fn drain_node(&mut self, life: Life) -> Option<Duration> {
        let shutdown = self.nodes.terms?.shutdown_message;
        let peer = self.nodes.peers.get_mut(&life)?;
        if !matches!(peer.state, ChannelState::Online | ChannelState::Listening) {
            return None;
        }
        if shutdown {
            peer.channel.owe(message::SHUTDOWN.to_owned());
        }
        peer.is_draining = true;
        let preloaded = peer.is_preloaded;
        if preloaded {
            peer.channel.owe(message::DRAIN.to_owned());
        }
        self.tend(life);
        Some(if preloaded { ANSWERS } else { Duration::ZERO })
    }

    /// The worker has said that it is draining.
    pub(super) fn drained(&mut self, life: Life) {
        self.searches.not_before(life, DRAIN);
    }

    /// A worker would fail if its listener was shut while it listens: `accept` then throws in Node before 20. `told`: one that has its
    /// `disconnect` before it closes in time.
    pub(in super::super) fn would_fail(&self, told: bool) -> bool {
        self.nodes.peers.iter().any(|(life, peer)| {
            let lives = self.lives.get(*life).is_some_and(|body| !body.leader_gone) && peer.major < 20;
            let has_lane = |life| {
                self.nodes
                    .servers
                    .iter()
                    .any(|(_, server)| matches!(server.kind, Kind::Lanes(_)) && server.holders.contains(life))
            };
            lives && !(told && peer.asked_to_disconnect) && !peer.channel.is_closed() && has_lane(life)
        })
    }

    /// It ends by itself when it is asked to disconnect: all that it listens on came by its channel (a wrapper such as npm has one too,
    /// and its server has not), and its program does not handle the stop signal, as far as the preload can tell. Without it nobody can.
    pub(in super::super) fn can_part(&self, life: Life) -> bool {
        let Some(peer) = self.nodes.peers.get(&life) else { return false };
        if peer.channel.is_closed() || peer.handles_stop || !peer.is_preloaded {
            return false;
        }
        let lanes = self.nodes.servers.iter().filter(|(_, server)| server.holders.contains(&life));
        let lanes = lanes.filter(|(_, server)| matches!(server.kind, Kind::Lanes(_))).count();
        self.sharing.broker.listeners_of(life).len() <= lanes
    }

    /// `disconnect`, as soon as nothing waits for it to be accepted: it would close its listener and leave that behind.
    pub(in super::super) fn part(&mut self, life: Life) {
        let now = self.clock.now();
        self.nodes.to_part.insert(life, Due { from: now, until: now + DRY_AT_LAST });
        self.part_all();
    }

    fn part_all(&mut self) {
        let now = self.clock.now();
        self.nodes.part_at = None;
        for (life, due) in self.nodes.to_part.clone() {
            if now >= due.until || now >= due.from && self.takes_no_more(life) {
                self.nodes.to_part.remove(&life);
                self.ask_to_disconnect(life);
            } else {
                self.nodes.part_at = earliest(self.nodes.part_at, Some(due.from.max(now + LOOK_AGAIN)));
            }
        }
    }

    /// Nothing waits in its queues and nothing more comes: others are there for it, or its listeners are shut. (In Node before 20 that
    /// has to come after.)
    fn takes_no_more(&mut self, life: Life) -> bool {
        if self.sharing.refuses && !self.would_fail(true) {
            self.refuse();
            return self.sharing.broker.sockets.are_shut(life);
        }
        self.sharing.broker.sockets.waiting(life) == 0
    }

    fn ask_to_disconnect(&mut self, life: Life) {
        let seq = self.nodes.next_seq();
        let Some(peer) = self.nodes.peers.get_mut(&life) else { return };
        if std::mem::replace(&mut peer.asked_to_disconnect, true) {
            return;
        }
        if peer.is_preloaded {
            peer.channel.owe(message::CLOSE_IDLE.to_owned());
        }
        peer.channel.owe(message::disconnect(seq));
        self.tend(life);
        self.rotate(life);
    }

    /// It has got its stop signal. Without the preload an open channel would keep it, whatever its program does.
    pub(in super::super) fn release_channel(&mut self, life: Life) {
        self.nodes.to_part.remove(&life);
        if self.nodes.peers.get(&life).is_some_and(|peer| !peer.is_preloaded && peer.state != ChannelState::Open) {
            let at = self.clock.now() + HANDLES_STOP;
            self.nodes.to_part.insert(life, Due { from: at, until: at });
            self.part_all();
        }
    }

    // === hearts ===

    pub(in super::super) fn nodes_due(&mut self, now: Time) {
        if self.nodes.next_beat.is_some_and(|at| at <= now) {
            if self.nodes.always_beats || now < self.nodes.watched_until {
                self.nodes.next_beat = (!self.nodes.peers.is_empty()).then(|| now + self.nodes.beat_every);
                self.beat(now);
            } else {
                self.rest();
            }
        }
        if self.nodes.part_at.is_some_and(|at| at <= now) {
            self.part_all();
        }
        self.collection_due(now);
    }

    /// Somebody looks at `/workers`.
    pub(in super::super) fn lag_asked(&mut self) {
        let now = self.clock.now();
        self.nodes.watched_until = now + WATCHED;
        self.nodes.next_beat.get_or_insert(now);
    }

    /// Nobody looks any more: no wake-ups, and an old figure is none.
    fn rest(&mut self) {
        self.nodes.next_beat = None;
        for peer in self.nodes.peers.values_mut() {
            peer.lag = None;
        }
        self.stale = true;
        own_memory::forget_pages();
    }

    fn beat(&mut self, now: Time) {
        let lives: Vec<Life> = self.nodes.peers.keys().copied().collect();
        for life in lives {
            let Some(peer) = self.nodes.peers.get_mut(&life) else { continue };
            if peer.channel.is_closed() || peer.state == ChannelState::Open {
                continue;
            }
            match &mut peer.beat {
                None if peer.channel.beat() => peer.beat = Some((now, false)),
                Some((since, told)) if !*told => {
                    let since = *since;
                    *told = true;
                    self.stale = true;
                    self.apply(Event::Unanswered { life, since: Some(since) });
                }
                None | Some(_) => {}
            }
            self.tend(life);
        }
    }

    pub(super) fn heart_beats(&mut self, life: Life) {
        let now = self.clock.now();
        let Some(peer) = self.nodes.peers.get_mut(&life) else { return };
        let Some((since, told)) = peer.beat.take() else { return };
        peer.lag = Some(now.since(since));
        self.stale = true;
        if told {
            self.apply(Event::Unanswered { life, since: None });
        }
    }
}
