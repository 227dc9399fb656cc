//! What the core wants measured: the workers' trees, the container. And what the kernel did about memory by itself.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use tracing::{debug, warn};

use crate::cluster::event::{Event, Used, WorkerUses};
use crate::cluster::words::{ExitStatus, Life, Signal, Time};
use crate::sys::cgroup::used::Container;
use crate::sys::footprint::{Births, Footprint, Reading};
use crate::sys::smaps::Confirmations;
use crate::sys::subgroups::{Group, Subgroups};
use crate::sys::tree::Strays;

use super::{Runtime, clock};

/// Looking for the processes of all trees may take a tenth of the time.
const TREES_PAUSE: u32 = 9;

/// And no more than this at once, whatever it is looked for among.
const TREES_COST: Duration = Duration::from_millis(5);
const STRAYS_AT_ONCE: usize = 16;

/// A leader that the OOM killer chose gives all of its memory back before it can be reaped: so long its end is put down to that.
const OOM_IS_RECENT: Duration = Duration::from_secs(5);

/// What is known of the memory of workers and container.
pub(super) struct Memory {
    container: Option<Container>,
    groups: Option<Subgroups>,
    /// `WORKER_MEMORY` is a size: what the kernel is told of a worker is its own cap.
    hard_caps: bool,
    pub(super) confirmations: Confirmations,
    footprints: BTreeMap<Life, Footprint>,
    births: Births,
    /// Processes were started since the trees were looked for.
    trees_changed: bool,
    trees_not_before: Time,
    ooms: Ooms,
    told_inexact: bool,
    /// Groups of workers that have gone in which something is left.
    left: Vec<Group>,
}

/// The kernel's OOM killer, as far as nobody's end was put down to it yet.
#[derive(Debug, Default)]
struct Ooms {
    counted: u64,
    open: u64,
    at: Time,
}

impl Memory {
    pub(super) fn new(groups: Option<Subgroups>, hard_caps: bool) -> Self {
        Self {
            // With the first reading of the limits.
            container: None,
            groups,
            hard_caps,
            confirmations: Confirmations::new(),
            footprints: BTreeMap::new(),
            births: Births::default(),
            trees_changed: true,
            trees_not_before: Time::default(),
            ooms: Ooms::default(),
            told_inexact: false,
            left: Vec::new(),
        }
    }

    /// Of the cgroup whose limit is in force, which may be another one after a resize.
    pub(super) fn open_container(&mut self, now: Time) {
        // A limit that was lowered may have been what brought it.
        self.count_ooms(now);
        self.container = Container::open(Path::new("/"));
        self.ooms.counted = self.container.as_mut().and_then(Container::oom_kills).unwrap_or(0);
    }

    /// Where workers have groups: one for this life, with its cap where that is a hard one. Without one it would run uncapped, beside us.
    pub(super) fn group(&self, life: Life, cap: Option<u64>) -> io::Result<Option<Group>> {
        self.groups.as_ref().map(|groups| groups.create(life, cap.filter(|_| self.hard_caps))).transpose()
    }

    /// Workers see the limits of the container in their own groups.
    pub(super) fn show_limits(&self) {
        if let Some(groups) = &self.groups {
            groups.show_limits(self.hard_caps);
        }
    }

    pub(super) fn bound(&self, bytes: Option<u64>) {
        if let Some(Err(error)) = self.groups.as_ref().map(|groups| groups.bound(bytes)) {
            warn!(%error, "the memory of all workers cannot be bounded");
        }
        self.show_limits();
    }

    /// Nothing is left of this life.
    pub(super) fn forget(&mut self, life: Life, group: Option<Group>) {
        self.footprints.remove(&life);
        self.left.extend(group);
        self.left.retain(|group| {
            // Nothing of it was seen any more; what is there all the same is nobody's.
            let removed = group.remove();
            if !removed && let Err(error) = group.kill() {
                debug!(%error, "what is left in a worker's cgroup cannot be killed");
            }
            !removed
        });
    }

    /// How often the OOM killer came since this was asked last.
    pub(super) fn count_ooms(&mut self, now: Time) {
        let Some(count) = self.container.as_mut().and_then(Container::oom_kills) else { return };
        let new = count.saturating_sub(self.ooms.counted);
        if new > 0 {
            self.ooms = Ooms { counted: count, open: self.ooms.open.saturating_add(new), at: now };
        }
    }

    /// Puts an end by SIGKILL down to the OOM killer, if it came and nobody else's was.
    fn was_chosen(&mut self, now: Time) -> bool {
        self.count_ooms(now);
        let recent = self.ooms.open > 0 && now.since(self.ooms.at) <= OOM_IS_RECENT;
        self.ooms.open = if recent { self.ooms.open - 1 } else { 0 };
        recent
    }
}

impl Runtime {
    /// Measures what is due.
    pub(super) fn look_at_memory(&mut self, now: Time) {
        let Some(look) = self.supervisor.next_look().filter(|look| look.at <= now) else { return };
        self.memory.count_ooms(now);
        let container = look.container.and_then(|enough| self.memory.container.as_mut()?.used(enough));
        let workers = if look.workers { self.workers_use(now) } else { Vec::new() };
        self.apply(Event::Used(Used { workers, container }));
    }

    fn workers_use(&mut self, now: Time) -> Vec<WorkerUses> {
        let sampled = self.lives.iter().any(|(_, body)| body.group.is_none());
        self.memory.trees_changed |= sampled && self.memory.births.any();
        if sampled && self.memory.trees_changed && now >= self.memory.trees_not_before {
            self.find_trees(now);
        }
        // Whose tree was not looked for yet is at least its leader.
        for (life, body) in self.lives.iter().filter(|(_, body)| body.group.is_none()) {
            let processes = body.leader();
            self.memory.footprints.entry(life).or_insert_with(|| Footprint::of(processes.as_slice()));
        }
        let lives: Vec<Life> = self.lives.ids().collect();
        lives.into_iter().filter_map(|life| self.worker_uses(life)).collect()
    }

    fn worker_uses(&mut self, life: Life) -> Option<WorkerUses> {
        let body = self.lives.get_mut(life)?;
        if let Some(group) = &mut body.group {
            // The kernel's own figure of what it holds against the cap, less what it gives back by itself.
            let (bytes, returns) = group.used()?;
            return Some(WorkerUses { life, bytes, returns, exact: true });
        }
        let Reading { bytes, returns, exact, .. } = self.memory.footprints.get_mut(&life)?.read()?;
        Some(WorkerUses { life, bytes, returns, exact })
    }

    fn find_trees(&mut self, now: Time) {
        let before = clock::cpu_time();
        let mut strays = Strays::list();
        let mut more = true;
        while more && clock::cpu_time().saturating_sub(before) < TREES_COST {
            more = strays.look(STRAYS_AT_ONCE, &mut self.known_strays, |pid| self.lives.is_leader(pid));
        }
        for (life, body) in self.lives.iter().filter(|(_, body)| body.group.is_none()) {
            self.memory.footprints.entry(life).or_default().set(&body.processes(&strays, &self.known_strays));
        }
        // In a storm of orphans those that are not known yet are looked at the next time.
        self.memory.trees_changed = more;
        self.memory.trees_not_before = now + clock::cpu_time().saturating_sub(before) * TREES_PAUSE;
    }

    /// The exact figure takes long to read, so it comes later.
    pub(super) fn confirm(&mut self, life: Life) {
        let strays = self.strays_now();
        let Some(body) = self.lives.get(life) else { return };
        let processes = body.processes(&strays, &self.known_strays);
        debug!(life = life.0, processes = processes.len(), "an estimate has reached the cap: reading the exact figure");
        self.memory.confirmations.ask(self.clock.now(), life, processes);
    }

    /// `None`: it may not be read (the processes changed their user after they were forked, and we are not allowed to trace them). Then
    /// what is certain counts: nobody is killed for pages that may be shared.
    pub(super) fn confirmed(&mut self, life: Life, exact: Option<u64>) {
        let Some(estimate) = self.memory.footprints.get_mut(&life).and_then(Footprint::read) else { return };
        if exact.is_none() && !std::mem::replace(&mut self.memory.told_inexact, true) {
            let slot = self.lives.get(life).map_or(0, |body| body.slot.0);
            warn!(slot, "the exact memory of a worker cannot be read (CAP_SYS_PTRACE): of its processes the largest counts");
        }
        let bytes = exact.unwrap_or(estimate.least);
        let returns = estimate.returns.min(bytes);
        let uses = WorkerUses { life, bytes, returns, exact: true };
        self.apply(Event::Used(Used { workers: vec![uses], container: None }));
    }

    /// Whether the kernel ended this worker for want of memory.
    pub(super) fn ended_by_oom(&mut self, life: Life, status: ExitStatus) -> bool {
        if !matches!(status, ExitStatus::Signal { signal: Signal::KILL, .. }) {
            return false;
        }
        match self.lives.get_mut(life).and_then(|body| body.group.as_mut()) {
            Some(group) => group.oom_kills() > 0,
            None => self.memory.was_chosen(self.clock.now()),
        }
    }
}
