//! Limits that change while we run: read again when their files were written, and told to the core when they are different.

use std::path::Path;
use std::time::Duration;

use tracing::warn;

use crate::cluster::event::Event;
use crate::cluster::sizing::Limits;
use crate::cluster::words::Time;
use crate::sys::limits::Watch;
use crate::sys::{affinity, cgroup};

use super::Runtime;

/// A runtime writes one file after the other (quota, period, memory): they are read when it has finished.
const SETTLE: Duration = Duration::from_millis(50);

/// The limits as they were told to the core last.
pub(super) struct Limited {
    pub(super) watch: Watch,
    /// `None`: not yet. They may have changed since the plan was made.
    known: Option<Limits>,
    due: Option<Time>,
}

impl Limited {
    /// Watches nothing yet: that begins with the first reading, which is due at once, and so when the first worker is on its way.
    pub(super) fn new() -> Self {
        Self { watch: Watch::new(&[]), known: None, due: Some(Time::default()) }
    }

    /// Before the first reading, so that no change is lost between the two.
    fn begin(&mut self) {
        self.watch = Watch::new(&cgroup::limit_files(Path::new("/")));
        if let Some(error) = self.watch.polls() {
            warn!(error, "changes of the limits cannot be watched; they are read again every 5 s");
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }
}

impl Runtime {
    pub(super) fn limits_stirred(&mut self) {
        let due = self.clock.now() + SETTLE;
        self.limited.due.get_or_insert(due);
    }

    pub(super) fn limits_due(&mut self, now: Time) {
        if self.limited.due.take_if(|at| *at <= now).is_none() {
            return;
        }
        if self.limited.known.is_none() {
            self.limited.begin();
        }
        let limits = read();
        if self.limited.known.as_ref() != Some(&limits) {
            self.limited.known = Some(limits.clone());
            self.memory.open_container(now);
            self.memory.show_limits();
            self.apply(Event::LimitsRead(limits));
        }
    }
}

fn read() -> Limits {
    let found = cgroup::read(Path::new("/"));
    let (cpu, memory) = (found.cpu, found.memory);
    Limits {
        cpu: cpu.as_ref().map(|limit| limit.cpus),
        cpu_source: cpu.map(|limit| limit.source.display().to_string()),
        memory: memory.as_ref().map(|limit| limit.bytes),
        memory_source: memory.map(|limit| limit.source.display().to_string()),
        affinity: affinity::cpus(),
    }
}
