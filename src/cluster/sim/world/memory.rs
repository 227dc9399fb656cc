//! What the workers of a [`World`] use, as the runtime measures it.

use super::{Event, Life, Process, World};
use crate::cluster::event::{Used, WorkerUses};
use crate::cluster::sizing::Caps;

/// The fastest that the core reckons with, per millisecond.
const FASTEST: u64 = 5 << 19;

impl World {
    /// What is asked for at this instant.
    pub(super) fn look(&mut self) {
        let look = self.supervisor.next_look().expect("a look is due");
        let workers =
            if look.workers { self.lives.keys().filter_map(|life| self.measure(*life, false)).collect() } else { Vec::new() };
        let container = look.container.map(|_| self.container_uses());
        self.step(Event::Used(Used { workers, container }));
    }

    pub(super) fn confirmed(&mut self, life: Life) {
        let Some(uses) = self.measure(life, true) else { return };
        self.step(Event::Used(Used { workers: vec![uses], container: None }));
    }

    fn container_uses(&self) -> u64 {
        self.lives.values().fold(self.others_use, |sum, process| sum.saturating_add(self.bytes(process)))
    }

    fn bytes(&self, process: &Process) -> u64 {
        let Some(executed) = process.executed else { return 0 };
        process.behaviour.appetite.after(u64::try_from(self.now.since(executed).as_millis()).unwrap())
    }

    fn measure(&self, life: Life, exactly: bool) -> Option<WorkerUses> {
        let process = self.lives.get(&life)?;
        let (bytes, appetite) = (self.bytes(process), process.behaviour.appetite);
        let exact = exactly || appetite.twice == 0;
        let estimate = if exact { bytes } else { bytes.saturating_add(appetite.twice) };
        Some(WorkerUses { life, bytes: estimate, returns: estimate.saturating_sub(appetite.stays), exact })
    }

    /// A worker may overshoot its cap by what it allocates until it is looked at, and by what an exact figure is not asked for.
    pub(super) fn nobody_is_far_above_its_cap(&self) {
        let Caps::Fixed(cap) = self.policy.inputs.caps else { return };
        if self.policy.kernel_caps || self.ended.is_some() {
            return;
        }
        for (life, process) in &self.lives {
            let appetite = process.behaviour.appetite;
            let unsure = if appetite.twice > 0 { cap / 50 + FASTEST * (20 + self.confirm_takes) } else { 0 };
            // What it begins with is there at once.
            let bound = cap.saturating_add(unsure).saturating_add(FASTEST * 25).saturating_add(appetite.begins);
            let reckoned_with = appetite.grows <= FASTEST;
            let spared = !reckoned_with || self.thrift.is_killed(*life);
            assert!(spared || self.bytes(process) <= bound, "{life:?} has {} of {cap} at {:?}", self.bytes(process), self.now);
        }
    }
}
