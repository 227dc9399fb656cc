//! The body of `/workers`: names and order of the fields are a contract.
//!
//! Identities, states and instants come from a snapshot, ages from the clock at the time of the answer, figures from a measurement.
//! A figure that cannot be had is null, never 0.

use std::time::Duration;

use serde::Serialize;

use super::events::{self, Event};
use crate::cluster::status::{self, ChannelState, Reason, ReloadState, RowState, Snapshot, State};
use crate::cluster::words::{ExitStatus, Pid, Slot, Time};
use crate::sys::measure::{ByLife, Figures};

#[derive(Debug, Serialize)]
pub struct Report<'a> {
    version: &'static str,
    pid: u32,
    state: State,
    generation: u32,
    uptime_seconds: f64,
    cpu: Cpu<'a>,
    memory: Memory<'a>,
    share: Share<'a>,
    orphans_reaped: u64,
    workers: Vec<Worker>,
    reload: Reload<'a>,
    not_in_force: &'a [String],
    /// Only where they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<Event>>,
}

#[derive(Debug, Serialize)]
struct Cpu<'a> {
    limit: Option<f64>,
    source: Option<&'a str>,
    workers_wanted: u32,
}

#[derive(Debug, Serialize)]
struct Memory<'a> {
    limit_bytes: Option<u64>,
    worker_cap_bytes: Option<u64>,
    enforced_by: &'a str,
    source: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Share<'a> {
    mechanism: &'a str,
    balance: Option<&'a str>,
    reason: Option<&'a str>,
    disconnect: bool,
    listeners: Vec<Listener<'a>>,
}

#[derive(Debug, Serialize)]
struct Listener<'a> {
    address: &'a str,
    disconnect: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<Slot>,
}

#[derive(Debug, Serialize)]
struct Worker {
    id: Slot,
    pid: Option<Pid>,
    state: RowState,
    generation: u32,
    uptime_seconds: Option<f64>,
    restarts: u32,
    processes: Option<u32>,
    memory_bytes: Option<u64>,
    memory_cap_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
    /// Known only where ports are shared.
    connections: Option<u32>,
    /// Known only where ports are shared.
    accept_queue: Option<u32>,
    /// Only where Node's protocol is spoken.
    #[serde(flatten)]
    node: Option<Node>,
    next_start_seconds: Option<f64>,
    last_exit: Option<LastExit>,
}

#[derive(Debug, Serialize)]
struct Node {
    channel: Option<ChannelState>,
    event_loop_lag_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct LastExit {
    code: Option<u8>,
    signal: Option<String>,
    reason: Reason,
    seconds_ago: f64,
}

#[derive(Debug, Serialize)]
struct Reload<'a> {
    state: ReloadState,
    reason: Option<&'a str>,
    seconds_ago: Option<f64>,
}

impl<'a> Report<'a> {
    pub fn new(snapshot: &'a Snapshot, figures: &ByLife, pid: u32, now: Time) -> Self {
        let facts = &*snapshot.facts;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid,
            state: snapshot.state,
            generation: snapshot.generation,
            uptime_seconds: seconds(now.0),
            cpu: Cpu { limit: facts.cpu_limit, source: facts.cpu_source.as_deref(), workers_wanted: snapshot.wanted },
            memory: Memory {
                limit_bytes: facts.memory_limit_bytes,
                worker_cap_bytes: facts.worker_cap_bytes,
                enforced_by: facts.memory_enforced_by,
                source: facts.memory_source.as_deref(),
            },
            share: Share {
                mechanism: facts.share_mechanism,
                balance: facts.balance,
                reason: facts.share_reason.as_deref(),
                disconnect: facts.share_disconnects,
                listeners: snapshot.shared.listeners.iter().map(Listener::new).collect(),
            },
            orphans_reaped: snapshot.orphans_reaped,
            workers: snapshot.rows.iter().map(|row| Worker::new(row, snapshot, figures, now)).collect(),
            reload: Reload {
                state: snapshot.reload.state,
                reason: snapshot.reload.reason.as_deref(),
                seconds_ago: snapshot.reload.at.map(|at| seconds(now.since(at))),
            },
            not_in_force: &facts.not_in_force,
            events: None,
        }
    }

    pub(super) fn with_events(self, snapshot: &Snapshot, now: Time) -> Self {
        Self { events: Some(events::all(&snapshot.events, now)), ..self }
    }
}

impl<'a> Listener<'a> {
    fn new(listener: &'a status::Listener) -> Self {
        Self { address: &listener.address, disconnect: listener.disconnects, worker: listener.worker }
    }
}

impl Worker {
    fn new(row: &status::Row, snapshot: &Snapshot, figures: &ByLife, now: Time) -> Self {
        let channel = row.life.and_then(|life| snapshot.channels.get(&life));
        let used = match row.life {
            Some(life) => figures.get(&life).copied().unwrap_or_default(),
            None => Figures { processes: Some(0), ..Figures::default() },
        };
        Self {
            id: row.slot,
            pid: row.pid,
            state: row.state,
            generation: row.generation,
            uptime_seconds: row.started.filter(|_| row.life.is_some()).map(|started| seconds(now.since(started))),
            restarts: row.restarts,
            processes: used.processes,
            memory_bytes: used.memory_bytes,
            memory_cap_bytes: row.memory_cap_bytes,
            cpu_seconds: used.cpu_time.map(seconds),
            connections: used.connections,
            accept_queue: used.accept_queue,
            node: snapshot.facts.speaks_node.then(|| Node {
                channel: channel.map(|channel| channel.state),
                event_loop_lag_seconds: channel.and_then(|channel| lag(channel, now)),
            }),
            next_start_seconds: row.next_start.map(|due| seconds(due.since(now))),
            last_exit: row.last_exit.map(|exit| LastExit::new(exit, now)),
        }
    }
}

impl LastExit {
    fn new(exit: status::LastExit, now: Time) -> Self {
        let (code, signal) = match exit.status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal { signal, .. } => (None, Some(signal.to_string())),
        };
        Self { code, signal, reason: exit.reason, seconds_ago: seconds(now.since(exit.at)) }
    }
}

/// What the last heartbeat took, or the present one takes already.
pub(super) fn lag(channel: &status::Channel, now: Time) -> Option<f64> {
    let unanswered = channel.unanswered.map(|since| now.since(since));
    let lag = unanswered.filter(|unanswered| channel.lag.is_none_or(|lag| lag < *unanswered)).or(channel.lag)?;
    // To the microsecond: an idle loop answers within one millisecond.
    Some(f64::from(u32::try_from(lag.as_micros()).unwrap_or(u32::MAX)) / 1e6)
}

/// To the nearest millisecond: more digits would be noise in every diff.
pub(super) fn seconds(duration: Duration) -> f64 {
    let rounded = duration.saturating_add(Duration::from_micros(500));
    Duration::new(rounded.as_secs(), rounded.subsec_millis() * 1_000_000).as_secs_f64()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::journal::Journal;
    use crate::cluster::status::{Facts, Restarts, Row, Shared, Tally};
    use crate::cluster::words::{Life, Signal};

    fn at(millis: u64) -> Time {
        Time(Duration::from_millis(millis))
    }

    /// Two slots: a worker that replaced a killed one, and one in backoff.
    pub(crate) fn example() -> Snapshot {
        let facts = Facts {
            cpu_limit: Some(1.5),
            cpu_source: Some("/sys/fs/cgroup/cpu.max".to_owned()),
            memory_limit_bytes: Some(536_870_912),
            memory_source: Some("/sys/fs/cgroup/memory.max".to_owned()),
            memory_enforced_by: "off",
            worker_cap_bytes: Some(251_658_240),
            share_mechanism: "listen-fds",
            balance: Some("spread"),
            share_reason: None,
            share_disconnects: true,
            speaks_node: true,
            not_in_force: vec!["CLUSTERINIT_HANG_TIMEOUT=5s: hung workers are not seen yet".to_owned()],
        };
        let listeners = vec![
            status::Listener { address: "0.0.0.0:8080".to_owned(), worker: None, disconnects: true },
            status::Listener { address: "0.0.0.0:9101".to_owned(), worker: Some(Slot(1)), disconnects: true },
        ];
        let replaced = Row {
            slot: Slot(0),
            life: Some(Life(3)),
            pid: Some(Pid(7)),
            state: RowState::Ready,
            generation: 1,
            started: Some(at(100)),
            restarts: 1,
            restarts_by: Restarts::default(),
            last_start: Some(Duration::from_millis(180)),
            memory_cap_bytes: Some(251_658_240),
            next_start: None,
            last_exit: Some(status::LastExit {
                status: ExitStatus::Signal { signal: Signal::KILL, core: false },
                reason: Reason::Crash,
                at: at(7300),
            }),
        };
        let failing = Row {
            slot: Slot(1),
            life: None,
            pid: None,
            state: RowState::Backoff,
            generation: 1,
            started: None,
            restarts: 4,
            restarts_by: Restarts::default(),
            last_start: None,
            memory_cap_bytes: Some(251_658_240),
            next_start: Some(at(12_800)),
            last_exit: Some(status::LastExit { status: ExitStatus::Code(3), reason: Reason::Crash, at: at(12_000) }),
        };
        Snapshot {
            facts: Arc::new(facts),
            state: State::Running,
            generation: 1,
            wanted: 2,
            ready: 1,
            unready: None,
            unhealthy_from: None,
            orphans_reaped: 0,
            tally: Tally::default(),
            signals: BTreeMap::from([(Signal::HUP, 2)]),
            reload: status::Reload { state: ReloadState::None, reason: None, at: None },
            shared: Arc::new(Shared { listeners, by_life: BTreeMap::new() }),
            channels: BTreeMap::from([(
                Life(3),
                status::Channel { state: ChannelState::Listening, lag: Some(Duration::from_micros(420)), unanswered: None },
            )]),
            rows: vec![replaced, failing],
            events: Journal::default(),
        }
    }

    #[test]
    fn the_body_is_the_pinned_one() {
        let used = Figures {
            processes: Some(1),
            memory_bytes: Some(48_123_904),
            cpu_time: Some(Duration::from_millis(400)),
            ..Figures::default()
        };
        let figures = ByLife::from([(Life(3), used)]);
        let snapshot = example();
        let body = serde_json::to_string_pretty(&Report::new(&snapshot, &figures, 1, at(12_300))).expect("JSON");
        let pinned = include_str!("workers.pinned.json").replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(body, pinned.trim_end());
    }

    #[test]
    fn a_figure_that_cannot_be_had_is_null() {
        let snapshot = example();
        let report = Report::new(&snapshot, &ByLife::new(), 1, at(12_300));
        let worker = serde_json::to_value(&report.workers[0]).expect("JSON");
        for figure in ["processes", "memory_bytes", "cpu_seconds", "connections", "accept_queue"] {
            assert!(worker[figure].is_null(), "{figure}");
        }
        let empty = serde_json::to_value(&report.workers[1]).expect("JSON");
        assert_eq!(empty["processes"], 0);
    }

    #[test]
    fn what_is_nodes_alone_is_not_shown_elsewhere() {
        let mut snapshot = example();
        let facts = Facts { speaks_node: false, ..Facts::clone(&snapshot.facts) };
        snapshot.facts = Arc::new(facts);
        let worker = serde_json::to_value(&Report::new(&snapshot, &ByLife::new(), 1, at(0)).workers[0]).expect("JSON");
        assert!(worker.get("channel").is_none() && worker.get("event_loop_lag_seconds").is_none(), "{worker}");
    }

    #[test]
    fn what_is_overdue_is_due_now() {
        let snapshot = example();
        let report = Report::new(&snapshot, &ByLife::new(), 1, at(20_000));
        assert_eq!(report.workers[1].next_start_seconds, Some(0.0));
    }

    proptest! {
        #[test]
        fn seconds_are_whole_milliseconds_and_near(nanos in 0u64..4_000_000_000_000_000_000) {
            let exact = Duration::from_nanos(nanos);
            let text = serde_json::to_string(&seconds(exact)).expect("JSON");
            prop_assert!(text.split_once('.').is_some_and(|(_, digits)| digits.len() <= 3), "{}", text);
            prop_assert!((seconds(exact) - exact.as_secs_f64()).abs() < 0.000_501);
        }
    }
}
