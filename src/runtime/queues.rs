//! Looks at the accept queues that do not run dry, and tells the core and the sockets what was found.

use std::collections::HashSet;

use crate::cluster::event::Event;
use crate::cluster::words::{Life, Pid, Time};
use crate::share::caller;
use crate::share::queues::{Finding, Sample};
use crate::share::sockets::LaneId;

use super::Runtime;

impl Runtime {
    pub(super) fn look_at_queues(&mut self, now: Time) {
        let mut samples = Vec::new();
        for lane in self.sharing.queues.lanes() {
            match self.sample(lane) {
                Some(sample) => samples.push(sample),
                None => self.sharing.queues.forget(lane),
            }
        }
        for finding in self.sharing.queues.look(now, &samples) {
            match finding {
                Finding::Dry(lane) => self.watch_lane_again(lane),
                Finding::Waits { life, since } => self.apply(Event::Waiting { life, since }),
                Finding::Lags { lane, lags } => self.sharing.broker.sockets.set_lagging(lane, lags),
                Finding::Unowned { slot } => self.apply(Event::QueueFilled { slot }),
            }
        }
    }

    fn sample(&mut self, lane: LaneId) -> Option<Sample> {
        let sockets = &self.sharing.broker.sockets;
        let (owner, slot) = sockets.holder(lane)?;
        let queue = sockets.queue(lane).filter(|queue| queue.listens)?;
        let others_idle = sockets.others_idle(lane);
        let is_stuck = self.sharing.queues.is_stuck(lane);
        let accepted = owner.is_some_and(|life| is_stuck && self.has_new_connection(life));
        Some(Sample { lane, owner, slot, waiting: queue.waiting, accepted, others_idle })
    }

    /// Whether the worker has got a socket that it did not have when this was asked last. True where that cannot be seen: a worker
    /// is not replaced on a guess.
    fn has_new_connection(&mut self, life: Life) -> bool {
        let Some(leader) = self.lives.get(life).map(|body| body.pid) else { return true };
        let mut members: Vec<Pid> = self.members(life).into_iter().map(|member| member.pid).collect();
        members.push(leader);
        let mut open = HashSet::new();
        for pid in members {
            match caller::sockets_of(pid) {
                Some(sockets) => open.extend(sockets.into_iter().map(|(_, inode)| inode)),
                None => return true,
            }
        }
        let has_new = self.sharing.had.get(&life).is_none_or(|before| !open.is_subset(before));
        self.sharing.had.insert(life, open);
        has_new
    }
}
