//! The body of `/metrics`: what clusterinit knows, and behind it what the programs of Node workers collect with prom-client.
//!
//! It comes from the published snapshot and from the figures that `/workers` shows too; the supervisor is not asked. One format, which
//! every Prometheus reads and prom-client writes: text 0.0.4. Of `OpenMetrics` it has the names, not the syntax.
//!
//! A slot has one series also while two workers are in it, the one that goes and its successor: what adds up is their sum (memory and its
//! cap, CPU time, processes, connections, queues); `up` and `ready` are 1 where either is; the start is that of the newest.

mod cpu;
mod page;
pub mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;

use self::cpu::CpuTimes;
use self::page::{Page, Value};
use self::table::Family;
use crate::cluster::status::{Restarts, Row, RowState, Snapshot, State};
use crate::cluster::words::{Slot, Time};
use crate::http::report;
use crate::runtime::clock::Clock;
use crate::sys::cgroup::whole;
use crate::sys::measure::{ByLife, Figures};

pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

const STATES: [(State, &str); 4] =
    [(State::Starting, "starting"), (State::Running, "running"), (State::Draining, "draining"), (State::Stopping, "stopping")];

/// What is kept from one answer to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    cpu: CpuTimes,
}

/// Where the values of one answer come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) figures: &'a ByLife,
    pub(super) container: &'a whole::Figures,
    pub(super) clock: Clock,
    pub(super) now: Time,
}

/// What one slot says. `None`: cannot be had.
#[derive(Debug)]
struct OfSlot {
    slot: Slot,
    up: u32,
    is_ready: bool,
    restarts: Restarts,
    started: Option<f64>,
    last_start: Option<Duration>,
    cpu: Option<Duration>,
    memory: Option<u64>,
    cap: Option<u64>,
    processes: Option<u64>,
    connections: Option<u64>,
    accept_queue: Option<u64>,
    lag: Option<f64>,
}

impl Memory {
    pub(super) fn text(&mut self, from: Sources<'_>) -> Result<String, fmt::Error> {
        self.cpu.update(&from.snapshot.rows, from.figures);
        let slots = from.snapshot.rows.chunk_by(|one, other| one.slot == other.slot);
        let slots: Vec<OfSlot> = slots.filter_map(|rows| OfSlot::new(rows, from, &self.cpu)).collect();
        let mut page = Page::default();
        add_cluster(&mut page, from, &slots);
        add_workers(&mut page, &slots);
        add_container(&mut page, from);
        page.text()
    }
}

impl OfSlot {
    /// Of the rows of one slot, the newest worker last.
    fn new(rows: &[Row], from: Sources<'_>, cpu: &CpuTimes) -> Option<Self> {
        let Sources { snapshot, figures, clock, now, .. } = from;
        let newest = rows.last()?;
        let workers = || rows.iter().filter(|row| row.pid.is_some());
        let used = |figure: fn(&Figures) -> Option<u64>| sum(workers().filter_map(|row| figure(figures.get(&row.life?)?)));
        let nobody = workers().next().is_none();
        let channels = rows.iter().filter_map(|row| snapshot.channels.get(&row.life?));
        Some(Self {
            slot: newest.slot,
            up: u32::try_from(workers().count()).unwrap_or(u32::MAX),
            is_ready: rows.iter().any(|row| row.state == RowState::Ready),
            restarts: newest.restarts_by,
            started: workers().next_back().and_then(|row| row.started).map(|started| clock.unix_seconds(started)),
            last_start: newest.last_start,
            cpu: cpu.of(newest.slot),
            memory: used(|figures| figures.memory_bytes),
            cap: sum(workers().filter_map(|row| row.memory_cap_bytes)),
            processes: if nobody { Some(0) } else { used(|figures| figures.processes.map(u64::from)) },
            connections: used(|figures| figures.connections.map(u64::from)),
            accept_queue: used(|figures| figures.accept_queue.map(u64::from)),
            lag: channels.filter_map(|channel| report::lag(channel, now)).reduce(f64::max),
        })
    }
}

fn add_cluster(page: &mut Page, from: Sources<'_>, slots: &[OfSlot]) {
    let Sources { snapshot, clock, .. } = from;
    page.named(&table::BUILD, env!("CARGO_PKG_VERSION"), 1_u32);
    page.one(&table::START_TIME, Some(clock.unix_seconds(Time::default())));
    for (state, name) in STATES {
        page.named(&table::STATE, name, snapshot.state == state);
    }
    page.one(&table::GENERATION, Some(snapshot.generation));
    page.one(&table::WANTED, Some(snapshot.wanted));
    page.one(&table::WORKERS_UP, Some(slots.iter().map(|slot| slot.up).sum::<u32>()));
    page.one(&table::WORKERS_READY, Some(snapshot.ready));
    for (reason, count) in snapshot.tally.restarts.iter() {
        page.named(&table::RESTARTS, reason.name(), count);
    }
    page.named(&table::RELOADS, "done", snapshot.tally.reloads_done);
    page.named(&table::RELOADS, "aborted", snapshot.tally.reloads_aborted);
    page.one(&table::ORPHANS, Some(snapshot.orphans_reaped));
    for (signal, count) in &snapshot.signals {
        page.named(&table::SIGNALS, signal.name(), *count);
    }
}

/// One family after the other, as the format asks for, and in each all slots.
fn add_workers(page: &mut Page, slots: &[OfSlot]) {
    let mut each = |family: &'static Family, value: &dyn Fn(&OfSlot) -> Option<Value>| {
        for slot in slots {
            page.worker(family, slot.slot, value(slot));
        }
    };
    let seconds = |time: Option<Duration>| time.map(|time| Value::Part(time.as_secs_f64()));
    each(&table::UP, &|slot| Some((slot.up > 0).into()));
    each(&table::READY, &|slot| Some(slot.is_ready.into()));
    each(&table::WORKER_START_TIME, &|slot| slot.started.map(Value::from));
    each(&table::START_DURATION, &|slot| seconds(slot.last_start));
    each(&table::CPU, &|slot| seconds(slot.cpu));
    each(&table::MEMORY, &|slot| slot.memory.map(Value::from));
    each(&table::MEMORY_CAP, &|slot| slot.cap.map(Value::from));
    each(&table::PROCESSES, &|slot| slot.processes.map(Value::from));
    each(&table::CONNECTIONS, &|slot| slot.connections.map(Value::from));
    each(&table::ACCEPT_QUEUE, &|slot| slot.accept_queue.map(Value::from));
    each(&table::LAG, &|slot| slot.lag.map(Value::from));
    for slot in slots {
        for (reason, count) in slot.restarts.iter() {
            page.worker_named(&table::WORKER_RESTARTS, slot.slot, reason.name(), count);
        }
    }
}

fn add_container(page: &mut Page, from: Sources<'_>) {
    let (facts, container) = (&from.snapshot.facts, from.container);
    page.one(&table::CPU_LIMIT, facts.cpu_limit);
    let throttled = container.throttled;
    page.one(&table::PERIODS, throttled.map(|seen| seen.periods));
    page.one(&table::THROTTLED_PERIODS, throttled.map(|seen| seen.throttled_periods));
    page.one(&table::THROTTLED, throttled.map(|seen| seen.throttled.as_secs_f64()));
    page.one(&table::MEMORY_LIMIT, facts.memory_limit_bytes);
    page.one(&table::MEMORY_USED, container.memory_used);
    for waited in &container.pressure {
        for (kind, time) in [("some", waited.some), ("full", waited.full)] {
            page.named_twice(&table::PRESSURE, [waited.resource, kind], time.map(|time| time.as_secs_f64()));
        }
    }
}

/// Of what is known; `None` where nothing is.
fn sum(known: impl Iterator<Item = u64>) -> Option<u64> {
    known.reduce(u64::saturating_add)
}
