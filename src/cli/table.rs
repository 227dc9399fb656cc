//! The body of `/workers?events=1` for a person in a terminal: what the status page shows, as text.
//!
//! It is read leniently: another version's body may lack fields or have more, and a table with a `-` is better than none. Control
//! characters are not repeated: with `--addr` the text is somebody else's.

use serde_json::Value;

use crate::http::shown::{ago, detail, ended, plain, size, span};

const HEADINGS: [&str; 14] =
    ["ID", "PID", "STATE", "GEN", "UPTIME", "MEMORY", "CAP", "CPU", "CONNS", "QUEUE", "LAG", "PROCS", "RESTARTS", "LAST EXIT"];
/// Only where Node's protocol is spoken.
const LAG: usize = 10;

/// So many of the last events are shown.
const EVENTS: usize = 12;

pub(super) fn draw(report: &Value) -> String {
    let list = |name: &str| report.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let rows = list("workers");
    let has_lag = rows.iter().any(|worker| worker.get("event_loop_lag_seconds").is_some());
    let mut lines = vec![HEADINGS.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|worker| row(worker).to_vec()));
    if !has_lag {
        for line in &mut lines {
            line.remove(LAG);
        }
    }
    let mut text = head(report);
    text.push('\n');
    align(&mut text, &lines);
    let events = list("events");
    if !events.is_empty() {
        text.push('\n');
        let heading = ["EVENT", "WORKER", "WHEN", "DETAIL"].map(str::to_owned).to_vec();
        let latest = events.iter().skip(events.len().saturating_sub(EVENTS)).map(happened);
        align(&mut text, &std::iter::once(heading).chain(latest).collect::<Vec<_>>());
    }
    text
}

/// Columns as wide as their widest cell.
fn align(text: &mut String, lines: &[Vec<String>]) {
    let mut widths = vec![0; lines.first().map_or(0, Vec::len)];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in lines {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
}

fn head(report: &Value) -> String {
    let at = |pointer: &str| plain(report.pointer(pointer));
    let share = match at("/share/reason") {
        reason if reason == "-" => String::new(),
        reason => format!(" ({reason})"),
    };
    let reload = match at("/reload/reason") {
        reason if reason == "-" => String::new(),
        reason => format!(": {reason}"),
    };
    let addresses = report.pointer("/share/listeners").and_then(Value::as_array).into_iter().flatten();
    let addresses: Vec<String> = addresses.map(|listener| plain(listener.get("address"))).collect();
    let listeners = if addresses.is_empty() { String::new() } else { format!(", on {}", addresses.join(" ")) };
    let mut text = format!(
        "clusterinit {}, pid {}: {}, generation {}, up {}\n\
         cpu limit {} ({}), {} workers wanted\n\
         memory limit {} ({}), cap {} for each worker ({})\n\
         sharing: {}, balance {}{share}{listeners}\n\
         reload: {}{}{reload}\n",
        at("/version"),
        at("/pid"),
        at("/state"),
        at("/generation"),
        span(report.pointer("/uptime_seconds")),
        at("/cpu/limit"),
        at("/cpu/source"),
        at("/cpu/workers_wanted"),
        size(report.pointer("/memory/limit_bytes")),
        at("/memory/source"),
        size(report.pointer("/memory/worker_cap_bytes")),
        at("/memory/enforced_by"),
        at("/share/mechanism"),
        at("/share/balance"),
        at("/reload/state"),
        ago(report.pointer("/reload/seconds_ago")),
    );
    for setting in report.get("not_in_force").and_then(Value::as_array).into_iter().flatten() {
        text.push_str("not in force: ");
        text.push_str(&plain(Some(setting)));
        text.push('\n');
    }
    text
}

fn row(worker: &Value) -> [String; HEADINGS.len()] {
    let at = |name: &str| worker.get(name);
    let state = match at("next_start_seconds").and_then(Value::as_f64) {
        Some(_) => format!("{} {}", plain(at("state")), span(at("next_start_seconds"))),
        None => plain(at("state")),
    };
    [
        plain(at("id")),
        plain(at("pid")),
        state,
        plain(at("generation")),
        span(at("uptime_seconds")),
        size(at("memory_bytes")),
        size(at("memory_cap_bytes")),
        span(at("cpu_seconds")),
        plain(at("connections")),
        plain(at("accept_queue")),
        at("event_loop_lag_seconds").and_then(Value::as_f64).map_or("-".to_owned(), |lag| format!("{:.1}ms", lag * 1e3)),
        plain(at("processes")),
        plain(at("restarts")),
        match ended(at("last_exit")) {
            Some(how) => format!("{how}{}", ago(worker.pointer("/last_exit/seconds_ago"))),
            None => "-".to_owned(),
        },
    ]
}

fn happened(event: &Value) -> Vec<String> {
    vec![
        plain(event.get("event")),
        plain(event.get("worker")),
        ago(event.get("seconds_ago")).trim_start().to_owned(),
        detail(event),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_tells_what_the_body_tells() {
        let report = serde_json::from_str(include_str!("../http/workers.pinned.json")).expect("JSON");
        let expected = "\
clusterinit VERSION, pid 1: running, generation 1, up 12.3s
cpu limit 1.5 (/sys/fs/cgroup/cpu.max), 2 workers wanted
memory limit 512.0Mi (/sys/fs/cgroup/memory.max), cap 240.0Mi for each worker (off)
sharing: listen-fds, balance spread, on 0.0.0.0:8080 0.0.0.0:9101
reload: none
not in force: CLUSTERINIT_HANG_TIMEOUT=5s: hung workers are not seen yet

ID  PID  STATE         GEN  UPTIME  MEMORY  CAP      CPU   CONNS  QUEUE  LAG    PROCS  RESTARTS  LAST EXIT
0   7    ready         1    12.2s   45.8Mi  240.0Mi  0.4s  -      -      0.4ms  1      1         SIGKILL, crash 5.0s ago
1   -    backoff 0.5s  1    -       -       240.0Mi  -     -      -      -      0      4         exit 3, crash 0.3s ago
";
        assert_eq!(draw(&report), expected);
    }

    #[test]
    fn the_last_events_stand_below() {
        let events: Vec<Value> =
            (1..=20).map(|seq| json!({"seq": seq, "seconds_ago": 20 - seq, "event": "fork", "worker": 0, "pid": seq})).collect();
        let drawn = draw(&json!({"workers": [{"id": 0}], "events": events}));
        assert!(!drawn.contains("LAG"), "nobody speaks Node here");
        let below: Vec<_> = drawn.lines().skip_while(|line| !line.starts_with("EVENT")).collect();
        assert_eq!(below.len(), 1 + EVENTS);
        assert_eq!(below.last(), Some(&"fork   0       0.0s ago   pid 20"));
    }

    #[test]
    fn what_is_missing_is_a_dash_and_control_characters_stay_out() {
        assert!(draw(&json!({})).contains("pid -"));
        let drawn = draw(&json!({"state": "\u{1b}[2Jrunning\r", "workers": [{"id": 0}, null, 3]}));
        assert!(drawn.contains("?[2Jrunning?") && !drawn.contains('\u{1b}'), "{drawn}");
    }

    proptest! {
        #[test]
        fn any_number_is_drawn(seconds in proptest::num::f64::ANY, bytes: u64) {
            let worker = json!({"uptime_seconds": seconds, "memory_bytes": bytes, "last_exit": {"reason": "exit", "seconds_ago": seconds}});
            let drawn = draw(&json!({"workers": [worker]}));
            prop_assert_eq!(drawn.lines().count(), 8);
        }
    }
}
