//! How the values of `/workers` are written for people: in the status page and in the table of `clusterinit status`.
//!
//! They are read leniently: another version's body may lack fields or have more, and a `-` is better than nothing.

use std::time::Duration;

use serde_json::Value;

/// As it is; control characters are not repeated.
pub(crate) fn plain(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// ` 4.2s ago` with a space in front, or nothing.
pub(crate) fn ago(value: Option<&Value>) -> String {
    value.and_then(Value::as_f64).map_or_else(String::new, |_| format!(" {} ago", span(value)))
}

/// `4.2s`, `3m07s`, `2h05m`, `9d04h`: two units are enough.
pub(crate) fn span(value: Option<&Value>) -> String {
    let Some(exact) = value.and_then(Value::as_f64).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
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
pub(crate) fn size(value: Option<&Value>) -> String {
    const UNITS: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    let Some(bytes) = value.and_then(Value::as_u64) else { return "-".to_owned() };
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit),
        None => bytes.to_string(),
    }
}

/// What is known of how something ended: `SIGKILL, crash`, `exit 3, crash`.
pub(crate) fn ended(exit: Option<&Value>) -> Option<String> {
    let at = |name: &str| exit.and_then(|exit| exit.get(name));
    at("reason")?;
    let how = match at("signal").and_then(Value::as_str) {
        Some(_) => plain(at("signal")),
        None => format!("exit {}", plain(at("code"))),
    };
    Some(format!("{how}, {}", plain(at("reason"))))
}

/// What an event says besides its name and its slot: `pid 7, SIGKILL, crash`.
pub(crate) fn detail(event: &Value) -> String {
    let at = |name: &str| event.get(name).filter(|value| !value.is_null());
    let pid = at("pid").map(|pid| format!("pid {}", plain(Some(pid))));
    let status = at("signal").map(|signal| plain(Some(signal)));
    let status = status.or_else(|| at("code").map(|code| format!("exit {}", plain(Some(code)))));
    let parts = [pid, status, at("reason").map(|value| plain(Some(value))), at("detail").map(|value| plain(Some(value)))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
    fn an_event_says_what_it_has() {
        let killed = json!({"event": "exit", "worker": 0, "pid": 7, "signal": "SIGKILL", "reason": "crash"});
        assert_eq!(detail(&killed), "pid 7, SIGKILL, crash");
        assert_eq!(detail(&json!({"event": "exit", "pid": 8, "code": 0, "reason": "exit"})), "pid 8, exit 0, exit");
        assert_eq!(detail(&json!({"event": "reload", "detail": "generation 2"})), "generation 2");
        assert_eq!(detail(&json!(3)), "");
    }
}
