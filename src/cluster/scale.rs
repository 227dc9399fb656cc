//! More and fewer slots: the highest go first, and only gracefully.

use super::effect::Note;
use super::slots::Occupancy;
use super::status::Reason;
use super::supervisor::Supervisor;
use super::words::{Slot, Time};

impl Supervisor {
    pub(super) fn scale_asked(&mut self, now: Time, to: u32) {
        match self.refusal(to) {
            Some(reason) => self.note(Note::Refused { reason }),
            None => self.scale(now, to),
        }
    }

    fn refusal(&self, to: u32) -> Option<String> {
        let most = self.policy.most_workers;
        if !self.course.is_running() {
            Some("scale: a stop is under way".to_owned())
        } else if to < 1 {
            Some("scale: at least 1 worker stays".to_owned())
        } else if to > most {
            Some(format!("scale to {to}: at most {most} workers (four times the larger of the automatic and the starting count)"))
        } else {
            let allowed = self.policy.memory_allows.filter(|allowed| to > self.wanted && to > *allowed)?;
            Some(format!("scale to {to}: memory allows {allowed}"))
        }
    }

    fn scale(&mut self, now: Time, to: u32) {
        let from = self.wanted;
        if to == from {
            return;
        }
        self.note(Note::Scaled { from, to });
        self.rescale(now, to);
    }

    /// From here on so many workers are wanted.
    pub(super) fn rescale(&mut self, now: Time, to: u32) {
        let from = std::mem::replace(&mut self.wanted, to);
        self.keep_shares_right();
        for id in from..to {
            let slot = Slot(id);
            // A slot that is still on its way out keeps its worker until that has gone, then starts anew.
            if self.slots.get(slot).is_none() {
                self.slots.open(slot);
                if self.learned.others_follow {
                    self.start_at(now, slot);
                }
            }
        }
        for id in to..from {
            self.close(now, Slot(id));
        }
        self.finish_if_all_done(now);
    }

    fn close(&mut self, now: Time, slot: Slot) {
        let deadline = now + self.policy.grace;
        if let Some(successor) = self.rollout.forget_slot(slot) {
            self.stop_worker(now, successor, Reason::Scale, deadline);
        }
        match self.slots.get(slot).map(|state| state.occupancy) {
            Some(Occupancy::Worker(life)) => self.stop_worker(now, life, Reason::Scale, deadline),
            Some(Occupancy::Waiting | Occupancy::Backoff { .. } | Occupancy::Done { .. }) => self.slots.remove(slot),
            None => {}
        }
    }
}
