//! The whole body, pinned; and what it says of slots with two workers, with none, and of what cannot be had.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::table::FAMILIES;
use super::*;
use crate::cluster::status::{Channel, ChannelState, Facts};
use crate::cluster::words::{Life, Pid, Signal};
use crate::http::report::tests::example;
use crate::sys::cgroup::pressure::Waited;
use crate::sys::cgroup::throttled::Throttled;

fn at(millis: u64) -> Time {
    Time(Duration::from_millis(millis))
}

fn container() -> whole::Figures {
    let waited = |resource, micros| {
        let [some, full] = [micros, micros / 2].map(|micros| Some(Duration::from_micros(micros)));
        Waited { resource, some, full }
    };
    whole::Figures {
        memory_used: Some(104_857_600),
        throttled: Some(Throttled { periods: 70, throttled_periods: 7, throttled: Duration::from_millis(1500) }),
        pressure: vec![waited("cpu", 2_500_000), Waited { full: None, ..waited("memory", 1000) }],
    }
}

fn all_figures() -> Figures {
    Figures {
        processes: Some(2),
        memory_bytes: Some(48_123_904),
        cpu_time: Some(Duration::from_millis(400)),
        connections: Some(3),
        accept_queue: Some(1),
    }
}

fn told(snapshot: &Snapshot, figures: &ByLife, container: &whole::Figures) -> String {
    let (clock, now) = (Clock::start(), at(12_300));
    Memory::default().text(Sources { snapshot, figures, container, clock, now }).expect("text")
}

/// The value of a series, or `None` where there is no such series.
fn value(text: &str, series: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).map(str::to_owned)
}

/// Start times are of this day.
fn without_wall_clock(text: &str) -> String {
    let line = |line: &str| match line.split_once(' ') {
        Some((series, _)) if !line.starts_with('#') && series.contains("start_time_seconds") => format!("{series} NOW\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_body_is_the_pinned_one() {
    let figures = ByLife::from([(Life(3), all_figures())]);
    let text = told(&example(), &figures, &container());
    let pinned = include_str!("pinned.txt").replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(without_wall_clock(&text), pinned, "{text}");
    let described: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let all: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(described, all, "all families, in the order of the table");
}

#[test]
fn a_figure_that_cannot_be_had_is_left_out() {
    let mut snapshot = example();
    snapshot.facts = Arc::new(Facts::default());
    snapshot.channels.clear();
    snapshot.rows[0].last_start = None;
    snapshot.rows[0].memory_cap_bytes = None;
    let text = told(&snapshot, &ByLife::new(), &whole::Figures::default());
    assert!(!text.contains("clusterinit_container_"), "{text}");
    let left: BTreeSet<&str> =
        text.lines().filter(|line| line.contains("worker=\"0\"")).filter_map(|line| line.split('{').next()).collect();
    let known = ["up", "ready", "restarts_total", "start_time_seconds"].map(|name| format!("clusterinit_worker_{name}"));
    assert_eq!(left, known.iter().map(String::as_str).collect(), "{text}");
}

#[test]
fn a_slot_without_a_worker_has_no_processes_and_no_start() {
    let text = told(&example(), &ByLife::new(), &whole::Figures::default());
    for (name, expected) in [("up", "0"), ("ready", "0"), ("processes", "0")] {
        assert_eq!(value(&text, &format!("clusterinit_worker_{name}{{worker=\"1\"}}")).as_deref(), Some(expected), "{name}");
    }
    for name in ["start_time_seconds", "memory_bytes", "memory_cap_bytes", "cpu_seconds_total"] {
        assert_eq!(value(&text, &format!("clusterinit_worker_{name}{{worker=\"1\"}}")), None, "{name}");
    }
}

/// The predecessor leaves, its successor serves: one series for both.
#[test]
fn a_slot_with_two_workers_has_one_series() {
    let mut snapshot = example();
    let leaving = Row {
        life: Some(Life(2)),
        pid: Some(Pid(5)),
        state: RowState::Stopping,
        started: Some(at(50)),
        ..snapshot.rows[0].clone()
    };
    snapshot.rows.insert(0, leaving);
    let lag = |micros| Channel { state: ChannelState::Listening, lag: Some(Duration::from_micros(micros)), unanswered: None };
    snapshot.channels.extend([(Life(2), lag(900)), (Life(3), lag(400))]);
    let without_queue = Figures { accept_queue: None, ..all_figures() };
    let text = told(&snapshot, &ByLife::from([(Life(2), without_queue), (Life(3), all_figures())]), &container());
    let of_worker = |name: &str| value(&text, &format!("clusterinit_worker_{name}{{worker=\"0\"}}")).unwrap_or_default();
    assert_eq!([of_worker("up"), of_worker("ready"), of_worker("processes")], ["1", "1", "4"]);
    assert_eq!([of_worker("memory_bytes"), of_worker("memory_cap_bytes")], ["96247808", "503316480"]);
    assert_eq!([of_worker("cpu_seconds_total"), of_worker("accept_queue")], ["0.8", "1"]);
    assert_eq!(of_worker("event_loop_lag_seconds"), "0.0009");
    assert_eq!(value(&text, "clusterinit_workers_up").as_deref(), Some("2"));
    let [began, start] = [value(&text, "clusterinit_start_time_seconds"), Some(of_worker("start_time_seconds"))];
    let [began, start]: [f64; 2] = [began, start].map(|text| text.and_then(|text| text.parse().ok()).expect("a time"));
    assert!((start - began - 0.1).abs() < 0.001, "of the newest: {start} - {began}");
}

#[test]
fn the_state_is_one_of_all() {
    for (state, name) in STATES {
        let text = told(&Snapshot { state, ..example() }, &ByLife::new(), &whole::Figures::default());
        let ones: Vec<&str> =
            text.lines().filter(|line| line.starts_with("clusterinit_state{") && line.ends_with(" 1")).collect();
        assert_eq!(ones, [format!("clusterinit_state{{state=\"{name}\"}} 1")]);
        assert_eq!(serde_json::to_value(state).expect("JSON"), name);
    }
    for (reason, _) in Restarts::default().iter() {
        assert_eq!(serde_json::to_value(reason).expect("JSON"), reason.name());
    }
}

proptest! {
    /// As many series as slots ask for, each once, whatever happens: no label grows with time.
    #[test]
    fn no_series_comes_twice(lives in proptest::collection::vec((0u32..4, any::<bool>()), 0..9), signals in proptest::collection::btree_map(1i32..65, 0u64..9, 0..9)) {
        let template = example().rows[0].clone();
        let mut rows: Vec<Row> = (0..).zip(lives).map(|(life, (slot, lives))| {
            Row { slot: Slot(slot), life: lives.then_some(Life(life)), pid: lives.then_some(Pid(9)), ..template.clone() }
        }).collect();
        rows.sort_by_key(|row| (row.slot, row.life.is_none(), row.life));
        let figures: ByLife = rows.iter().filter_map(|row| Some((row.life?, all_figures()))).collect();
        let signals = signals.into_iter().map(|(number, count)| (Signal(number), count)).collect();
        let text = told(&Snapshot { signals, rows, ..example() }, &figures, &container());
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
        prop_assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len(), "{}", text);
        let headers: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        prop_assert_eq!(headers.iter().collect::<BTreeSet<_>>().len(), headers.len(), "{}", text);
        prop_assert!(text.ends_with('\n'));
    }
}
