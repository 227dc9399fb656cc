//! Accept queues that do not run dry: who leaves connections waiting, and who has fallen behind. PURE.
//!
//! A queue is looked at every [`LOOK`] from the moment when something waits in it until it is empty; an idle cluster looks at none.
//! The kernel counts no accepts, so a worker is seen to accept when its queue is shorter than before, or when it has a connection
//! that it did not have.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::words::{Life, Slot, Time};

use super::sockets::LaneId;

/// From one look to the next.
pub const LOOK: Duration = Duration::from_millis(100);

/// So many looks without an accept while others have nothing to do: the worker gets no new connections until it has caught up.
const BEHIND: u32 = 2;

/// Whether it has a new connection is asked at every so many looks: the descriptors of the whole tree have to be read.
const ASK_EVERY: u32 = 5;

/// So many looks without an accept are told; one alone may be a moment's work.
const TOLD: u32 = 2;

/// One filled queue at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub lane: LaneId,
    pub owner: Option<Life>,
    /// The slot of its owner, or of its last one.
    pub slot: Slot,
    pub waiting: u32,
    /// Its owner has got a connection since the last look that asked for this.
    pub accepted: bool,
    /// Another worker at this address has an empty queue.
    pub others_idle: bool,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing waits any more: to be watched again.
    Dry(LaneId),
    /// Since when this worker has left connections waiting; `None`: it accepts.
    Waits { life: Life, since: Option<Time> },
    /// In or out of the live set.
    Lags { lane: LaneId, lags: bool },
    /// Nobody has this queue.
    Unowned { slot: Slot },
}

/// The queues in which something waits.
#[derive(Debug, Default)]
pub struct Queues {
    filled: BTreeMap<LaneId, Filled>,
    next_look: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Filled {
    owner: Option<Life>,
    waiting: u32,
    /// The last accept that was seen, or the first look.
    since: Time,
    /// Looks without an accept.
    idle_looks: u32,
    lags: bool,
    told: Option<Life>,
}

impl Queues {
    /// Something waits in this lane: the first look is due after [`LOOK`].
    pub fn fill(&mut self, lane: LaneId, now: Time) {
        let new = Filled { owner: None, waiting: 0, since: now, idle_looks: 0, lags: false, told: None };
        self.filled.entry(lane).or_insert(new);
        self.next_look.get_or_insert(now + LOOK);
    }

    pub fn next_look(&self) -> Option<Time> {
        self.next_look
    }

    pub fn lanes(&self) -> Vec<LaneId> {
        self.filled.keys().copied().collect()
    }

    /// Whether it is worth finding out if the lane's owner has accepted anything: its queue alone does not show it.
    pub fn is_stuck(&self, lane: LaneId) -> bool {
        self.filled
            .get(&lane)
            .is_some_and(|filled| filled.idle_looks >= BEHIND && (filled.idle_looks - BEHIND).is_multiple_of(ASK_EVERY))
    }

    /// The lane is gone, or somebody else looks after it.
    pub fn forget(&mut self, lane: LaneId) {
        self.filled.remove(&lane);
    }

    /// Takes one sample of each filled lane.
    pub fn look(&mut self, now: Time, samples: &[Sample]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for sample in samples {
            let Some(filled) = self.filled.get_mut(&sample.lane) else { continue };
            filled.look(now, sample, &mut findings);
            if sample.waiting == 0 {
                self.filled.remove(&sample.lane);
            }
        }
        self.next_look = (!self.filled.is_empty()).then(|| now + LOOK);
        findings
    }
}

impl Filled {
    fn look(&mut self, now: Time, sample: &Sample, findings: &mut Vec<Finding>) {
        let changed_hands = self.owner != sample.owner && self.idle_looks > 0;
        if sample.waiting < self.waiting || sample.accepted || sample.waiting == 0 || changed_hands {
            self.since = now;
            self.idle_looks = 0;
            if let Some(life) = self.told.take() {
                findings.push(Finding::Waits { life, since: None });
            }
        } else {
            self.idle_looks = self.idle_looks.saturating_add(1);
        }
        self.waiting = sample.waiting;
        self.owner = sample.owner;
        let lags = sample.waiting > 0 && (self.lags || (self.idle_looks >= BEHIND && sample.others_idle));
        if lags != self.lags {
            self.lags = lags;
            findings.push(Finding::Lags { lane: sample.lane, lags });
        }
        match sample.owner {
            _ if sample.waiting == 0 => findings.push(Finding::Dry(sample.lane)),
            None => findings.push(Finding::Unowned { slot: sample.slot }),
            Some(life) if self.idle_looks >= TOLD && self.told.is_none() => {
                self.told = Some(life);
                findings.push(Finding::Waits { life, since: Some(self.since) });
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(7);
    const LIFE: Life = Life(3);

    fn at(looks: u32) -> Time {
        Time(LOOK * looks)
    }

    fn sample(waiting: u32) -> Sample {
        Sample { lane: LANE, owner: Some(LIFE), slot: Slot(1), waiting, accepted: false, others_idle: false }
    }

    /// The findings of each look at a lane that was filled at 0.
    fn looks(samples: &[Sample]) -> Vec<Vec<Finding>> {
        let mut queues = Queues::default();
        queues.fill(LANE, at(0));
        (1..).zip(samples).map(|(look, sample)| queues.look(at(look), &[*sample])).collect()
    }

    fn waits(since: u32) -> Finding {
        Finding::Waits { life: LIFE, since: Some(at(since)) }
    }

    const ACCEPTS: Finding = Finding::Waits { life: LIFE, since: None };

    #[test]
    fn a_queue_that_only_grows_is_left_waiting_since_it_was_filled() {
        assert_eq!(looks(&[sample(1), sample(1), sample(5)]), [vec![], vec![waits(0)], vec![]]);
    }

    #[test]
    fn a_queue_that_shrinks_or_a_new_connection_shows_an_accept() {
        assert_eq!(looks(&[sample(9), sample(5), sample(9), sample(9)]), [vec![], vec![], vec![], vec![waits(2)]]);
        let accepted = Sample { accepted: true, ..sample(9) };
        assert_eq!(looks(&[sample(9), sample(9), accepted, sample(9)]), [vec![], vec![waits(0)], vec![ACCEPTS], vec![]]);
    }

    #[test]
    fn an_empty_queue_is_watched_again_and_its_worker_accepts() {
        assert_eq!(looks(&[sample(1), sample(1), sample(0)])[2], [ACCEPTS, Finding::Dry(LANE)]);
        let mut queues = Queues::default();
        queues.fill(LANE, at(0));
        assert_eq!(queues.next_look(), Some(at(1)));
        let _ = queues.look(at(1), &[sample(0)]);
        assert_eq!((queues.next_look(), queues.lanes()), (None, Vec::new()), "an idle cluster looks at nothing");
    }

    #[test]
    fn who_falls_behind_while_others_are_idle_gets_nothing_until_it_has_caught_up() {
        let behind = |waiting, others_idle| Sample { others_idle, ..sample(waiting) };
        let found = looks(&[behind(4, true), behind(4, true), behind(2, false), behind(0, true)]);
        let lags = |lags| Finding::Lags { lane: LANE, lags };
        assert!(!found[0].contains(&lags(true)) && found[1].contains(&lags(true)), "{found:?}");
        assert!(!found[2].contains(&lags(false)) && found[3].contains(&lags(false)), "{found:?}");
        assert!(!looks(&[behind(4, false); 5]).concat().contains(&lags(true)), "all are busy");
    }

    #[test]
    fn a_queue_that_nobody_has_is_told_and_a_successor_starts_afresh() {
        let unowned = Sample { owner: None, ..sample(2) };
        let found = looks(&[unowned, unowned, sample(2), sample(2), sample(2)]);
        assert_eq!(found[..2].concat(), [Finding::Unowned { slot: Slot(1) }; 2]);
        assert_eq!(found[2..], [vec![], vec![], vec![waits(3)]]);
    }
}
