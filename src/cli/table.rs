//! The body of `/workers` for a person in a terminal.
//!
//! It is read leniently: another version's body may lack fields or have more, and a table with a `-` is better than none. Control
//! characters are not repeated: with `--addr` the text is somebody else's.

use serde_json::Value;

const HEADINGS: [&str; 10] = ["ID", "PID", "STATE", "GEN", "UPTIME", "RESTARTS", "PROCS", "MEMORY", "CPU", "LAST EXIT"];

pub(super) fn draw(report: &Value) -> String {
    let mut text = head(report);
    text.push('\n');
    let rows = report.get("workers").and_then(Value::as_array);
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.into_iter().flatten().map(row));
    let mut widths = [0; HEADINGS.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let padded: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
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
    let mut text = format!(
        "clusterinit {}, pid {}: {}, generation {}, up {}\n\
         cpu limit {} ({}), {} workers wanted\n\
         sharing: {}, balance {}{share}\n\
         reload: {}{}{reload}\n",
        at("/version"),
        at("/pid"),
        at("/state"),
        at("/generation"),
        span(report.pointer("/uptime_seconds")),
        at("/cpu/limit"),
        at("/cpu/source"),
        at("/cpu/workers_wanted"),
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
        plain(at("restarts")),
        plain(at("processes")),
        size(at("memory_bytes")),
        span(at("cpu_seconds")),
        last_exit(at("last_exit")),
    ]
}

fn last_exit(exit: Option<&Value>) -> String {
    let at = |name: &str| exit.and_then(|exit| exit.get(name));
    if at("reason").is_none() {
        return "-".to_owned();
    }
    let how = match at("signal").and_then(Value::as_str) {
        Some(_) => plain(at("signal")),
        None => format!("exit {}", plain(at("code"))),
    };
    format!("{how}, {}{}", plain(at("reason")), ago(at("seconds_ago")))
}

fn plain(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn ago(value: Option<&Value>) -> String {
    value.and_then(Value::as_f64).map_or_else(String::new, |_| format!(" {} ago", span(value)))
}

/// `4.2s`, `3m07s`, `2h05m`, `9d04h`: two units are enough.
fn span(value: Option<&Value>) -> String {
    let Some(exact) = value.and_then(Value::as_f64).and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
    else {
        return "-".to_owned();
    };
    match exact.as_secs() {
        0..60 => format!("{}.{}s", exact.as_secs(), exact.subsec_millis() / 100),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// As the environment writes sizes: `45.8Mi`.
fn size(value: Option<&Value>) -> String {
    const UNITS: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    let Some(bytes) = value.and_then(Value::as_u64) else { return "-".to_owned() };
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit),
        None => bytes.to_string(),
    }
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
sharing: listen-fds, balance spread
reload: none
not in force: CLUSTERINIT_HANG_TIMEOUT=5s: hung workers are not seen yet

ID  PID  STATE         GEN  UPTIME  RESTARTS  PROCS  MEMORY  CPU   LAST EXIT
0   7    ready         1    12.2s   1         1      45.8Mi  0.4s  SIGKILL, crash 5.0s ago
1   -    backoff 0.5s  1    -       4         0      -       -     exit 3, crash 0.3s ago
";
        assert_eq!(draw(&report), expected);
    }

    #[test]
    fn spans_and_sizes_have_units() {
        let spans = [(0.0, "0.0s"), (59.99, "59.9s"), (187.0, "3m07s"), (7500.0, "2h05m"), (792_000.0, "9d04h"), (-1.0, "-")];
        for (seconds, shown) in spans {
            assert_eq!(span(Some(&json!(seconds))), shown);
        }
        for (bytes, shown) in [(0u64, "0"), (1023, "1023"), (1024, "1.0Ki"), (1_610_612_736, "1.5Gi"), (u64::MAX, "16777215.9Ti")]
        {
            assert_eq!(size(Some(&json!(bytes))), shown);
        }
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
            prop_assert_eq!(drawn.lines().count(), 7);
        }
    }
}
