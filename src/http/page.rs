//! The status page: one HTML file without anything from elsewhere, filled with what `/workers?events=1` says.
//!
//! It is a plain table where scripts are off, and the same table with its script, which then asks `/workers?events=1` by itself. Rows
//! have one markup for both: a `<template>` in the page, filled here for each worker and cloned there. Whatever is filled in is
//! escaped, as text and as the value of an attribute alike; nothing is filled in within the script or the style.

use std::fmt::Write;

use serde_json::Value;

use super::shown::{ago, detail, ended, plain, size, span};

const PAGE: &str = include_str!("page.html");

/// Filled in here; the script fetches all. The page is to stay below 30 KiB with four workers.
const MOST_EVENTS: usize = 8;

/// Nothing from elsewhere, no script and no style but our own: their digests are held against the page by a test. The icon is drawn by
/// the script, as `data:`.
pub(super) const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-F9N7H24mWZuSXWaPkbKU4fN79+5DyzkfBq+5vPKfnVs='; \
    style-src 'sha256-xZx/yyIOzVjiTYFcI30RgcGuZJtW7r5dEAw5p68j/LY='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `report`: the body of `/workers?events=1`.
pub(super) fn render(report: &Value) -> String {
    let rows = list(report, "workers");
    let (row, event) = (between(PAGE, "<!--row-->", "<!--/row-->"), between(PAGE, "<!--event-->", "<!--/event-->"));
    let whole = Whole::new(report, rows);
    let mut page = String::with_capacity(PAGE.len() + rows.len() * row.len() * 2 + MOST_EVENTS * event.len() * 2);
    let (shown, templates) = PAGE.split_at(PAGE.find("<template").unwrap_or(PAGE.len()));
    fill(&mut page, shown, |page, name| match name {
        "rows" => rows.iter().for_each(|worker| fill(page, row, |page, name| escape(page, &of_worker(worker, name)))),
        "events" => {
            let latest_first = list(report, "events").iter().rev().take(MOST_EVENTS);
            latest_first.for_each(|one| fill(page, event, |page, name| escape(page, &of_event(one, name))));
        }
        name => escape(page, &whole.field(name)),
    });
    // The script fills its copies; a width must be a number until then.
    fill(&mut page, templates, |page, name| page.push_str(if name == "width" { "0" } else { "" }));
    page
}

/// `template` with each `{{name}}` replaced.
fn fill(page: &mut String, template: &str, mut replace: impl FnMut(&mut String, &str)) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let Some((name, further)) = after.split_once("}}") else { return };
        replace(page, name);
        rest = further;
    }
    page.push_str(rest);
}

/// For text and for the value of an attribute in double quotes.
fn escape(page: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            letter => page.push(letter),
        }
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map_or("", |(found, _)| found)
}

fn list<'a>(report: &'a Value, name: &str) -> &'a [Value] {
    report.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What is said of the cluster as a whole.
struct Whole<'a> {
    report: &'a Value,
    rows: &'a [Value],
    ready: u64,
    wanted: u64,
    hung: usize,
}

impl<'a> Whole<'a> {
    fn new(report: &'a Value, rows: &'a [Value]) -> Self {
        let in_state = |state: &str| rows.iter().filter(|row| row.get("state").is_some_and(|found| found == state)).count();
        Self {
            report,
            rows,
            ready: in_state("ready") as u64,
            wanted: report.pointer("/cpu/workers_wanted").and_then(Value::as_u64).unwrap_or(0),
            hung: in_state("hung"),
        }
    }

    fn at(&self, pointer: &str) -> Option<&'a Value> {
        self.report.pointer(pointer).filter(|value| !value.is_null())
    }

    fn plain(&self, pointer: &str) -> String {
        plain(self.at(pointer))
    }

    /// What all workers have together; `-` where none is known.
    fn sum(&self, name: &str) -> Option<Value> {
        let known = self.rows.iter().filter_map(|row| row.get(name)?.as_u64());
        known.reduce(u64::saturating_add).map(Value::from)
    }

    /// One name per `{{name}}` of the page; the script says the same in the same words.
    fn field(&self, name: &str) -> String {
        let (ready, wanted) = (self.ready, self.wanted);
        match name {
            "title" => format!("{ready}/{wanted} ready, clusterinit"),
            "version" => self.plain("/version"),
            "level" => self.level().to_owned(),
            "headline" => self.headline(),
            "under" => format!(
                "{}, generation {}, up {}, pid {}, {} reaped",
                self.plain("/state"),
                self.plain("/generation"),
                span(self.at("/uptime_seconds")),
                self.plain("/pid"),
                many(self.at("/orphans_reaped").and_then(Value::as_u64).unwrap_or(0), "orphan"),
            ),
            "ready" => format!("{ready} of {wanted}"),
            "readysub" if self.hung > 0 => format!("{} hung", many(self.hung as u64, "worker")),
            "readysub" if self.rows.len() as u64 > wanted => "a replacement is under way".to_owned(),
            "cpu" => "-".to_owned(),
            "cpusub" => self
                .at("/cpu/limit")
                .and_then(Value::as_f64)
                .map_or("no limit".to_owned(), |cpus| format!("limit {} %", cpus * 100.0)),
            "mem" => size(self.sum("memory_bytes").as_ref()),
            "memsub" => self
                .at("/memory/limit_bytes")
                .map_or("no container limit".to_owned(), |limit| format!("container limit {}", size(Some(limit)))),
            "conn" => plain(self.sum("connections").as_ref()),
            "connsub" => self.sum("accept_queue").map_or("not known here".to_owned(), |waiting| format!("{waiting} waiting")),
            "restarts" => plain(self.sum("restarts").as_ref()),
            "restartssub" => self.last_end(),
            "nolag" if !self.rows.iter().any(|row| row.get("event_loop_lag_seconds").is_some()) => "nolag".to_owned(),
            "share" => format!("{}{}", self.plain("/share/mechanism"), after_comma(self.at("/share/balance"))),
            "sharesub" => self.sharing(),
            "caps" => self
                .at("/memory/worker_cap_bytes")
                .map_or("no cap".to_owned(), |cap| format!("{} for each worker", size(Some(cap)))),
            "capssub" => self.caps(),
            "limit" => {
                let limit = self.at("/cpu/limit").map_or("no CPU limit".to_owned(), |cpus| format!("limit {} CPU", number(cpus)));
                format!("{limit}, {}", many(wanted, "worker"))
            }
            "limitsub" => self.at("/cpu/source").map_or(String::new(), |source| plain(Some(source))),
            "reload" => match ago(self.at("/reload/seconds_ago")) {
                ago if ago.is_empty() => self.plain("/reload/state"),
                ago => format!("{},{ago}", self.plain("/reload/state")),
            },
            "reloadsub" => self
                .at("/reload/reason")
                .map_or_else(|| format!("generation {}", self.plain("/generation")), |why| plain(Some(why))),
            "unforced" => {
                let lines = list(self.report, "not_in_force").iter().map(|line| format!("Not in force: {}", plain(Some(line))));
                lines.collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        }
    }

    fn stops(&self) -> bool {
        matches!(self.report.get("state").and_then(Value::as_str), Some("draining" | "stopping"))
    }

    fn level(&self) -> &'static str {
        match self.report.get("state").and_then(Value::as_str) {
            _ if self.stops() => "off",
            _ if self.ready >= self.wanted && self.hung == 0 => "ok",
            Some("running") if self.ready == 0 => "bad",
            _ => "warn",
        }
    }

    fn headline(&self) -> String {
        let (ready, wanted) = (self.ready, self.wanted);
        match self.report.get("state").and_then(Value::as_str) {
            Some("draining") => "Stopping soon, still serving".to_owned(),
            Some("stopping") => "Stopping".to_owned(),
            Some("starting") => format!("Starting: {ready} of {wanted} workers ready"),
            _ if ready < wanted => format!("{ready} of {wanted} workers are ready"),
            _ if wanted == 1 => "The worker is ready".to_owned(),
            _ => format!("All {wanted} workers are ready"),
        }
    }

    fn last_end(&self) -> String {
        let ends = self.rows.iter().filter_map(|row| row.get("last_exit")).filter(|exit| !exit.is_null());
        let since = |exit: &&Value| exit.get("seconds_ago").and_then(Value::as_f64).unwrap_or(f64::INFINITY);
        let last = ends.min_by(|one, other| since(one).total_cmp(&since(other)));
        last.and_then(|exit| Some(format!("{},{}", ended(Some(exit))?, ago(exit.get("seconds_ago")))))
            .unwrap_or("none has ended".to_owned())
    }

    fn sharing(&self) -> String {
        let how = match self.at("/share/mechanism").and_then(Value::as_str) {
            Some("seccomp") => "bind and listen are answered by clusterinit",
            Some("node") => "Node's cluster protocol",
            Some("listen-fds") => "sockets that LISTEN opened",
            _ => "nothing is shared",
        };
        let mut lines = vec![how.to_owned()];
        lines.extend(self.at("/share/reason").map(|why| plain(Some(why))));
        if self.at("/share/disconnect").and_then(Value::as_bool) == Some(false) {
            lines.push("workers cannot be disconnected".to_owned());
        }
        for listener in self.at("/share").map_or(&[][..], |share| list(share, "listeners")) {
            let mut line = plain(listener.get("address"));
            if let Some(worker) = listener.get("worker") {
                // Writing to a string cannot fail.
                let _written = write!(line, " (worker {worker})");
            }
            lines.push(line);
        }
        lines.join("\n")
    }

    fn caps(&self) -> String {
        let by = self.plain("/memory/enforced_by");
        let how = match by.as_str() {
            "cgroup" => "held by the kernel, a cgroup for each worker",
            "sampling" => "held by measuring, 10 to 500 ms apart",
            "off" => "none is held",
            _ => "",
        };
        let source = self.at("/memory/source").map(|source| format!("\n{}", plain(Some(source))));
        format!("{by}: {how}{}", source.unwrap_or_default())
    }
}

fn of_worker(worker: &Value, name: &str) -> String {
    let at = |name: &str| worker.get(name).filter(|value| !value.is_null());
    match name {
        "id" | "state" => plain(at(name)),
        "pid" => match (at("pid"), at("next_start_seconds")) {
            (Some(pid), _) if at("generation").and_then(Value::as_u64) > Some(1) => {
                format!("pid {}, gen {}", plain(Some(pid)), plain(at("generation")))
            }
            (Some(pid), _) => format!("pid {}", plain(Some(pid))),
            (None, due @ Some(_)) => format!("starts in {}", span(due)),
            (None, None) => "no process".to_owned(),
        },
        "age" => span(at("uptime_seconds")),
        "mem" => size(at("memory_bytes")),
        "cap" => at("memory_cap_bytes").map_or("no cap".to_owned(), |cap| format!("of {}", size(Some(cap)))),
        "width" => format!("{:.1}", of_cap(worker)),
        "near" => match of_cap(worker) {
            100.0.. => "full".to_owned(),
            90.0.. => "near".to_owned(),
            _ => String::new(),
        },
        // A share of a CPU needs two looks.
        "cpu" => "-".to_owned(),
        "cpusub" => at("cpu_seconds").map_or(String::new(), |used| format!("{} in all", span(Some(used)))),
        "conn" => plain(at("connections")),
        "lag" => {
            at("event_loop_lag_seconds").and_then(Value::as_f64).map_or(String::new(), |lag| format!("lag {:.1} ms", lag * 1e3))
        }
        "queue" => plain(at("accept_queue")),
        "restarts" => plain(at("restarts")),
        "exit" => match ended(at("last_exit")) {
            Some(how) => format!("{how},{}", ago(worker.pointer("/last_exit/seconds_ago"))),
            None => "never ended".to_owned(),
        },
        _ => String::new(),
    }
}

/// Percent of its cap that a worker uses.
fn of_cap(worker: &Value) -> f64 {
    let of = |name: &str| worker.get(name).and_then(Value::as_f64);
    match (of("memory_bytes"), of("memory_cap_bytes")) {
        (Some(used), Some(cap)) if cap > 0.0 => (used / cap * 100.0).min(100.0),
        _ => 0.0,
    }
}

fn of_event(event: &Value, name: &str) -> String {
    match name {
        "ago" => ago(event.get("seconds_ago")).trim_start().to_owned(),
        "worker" => plain(event.get("worker")),
        "what" => plain(event.get("event")),
        "detail" => detail(event),
        "tone" => format!("{}{}", tone(event), if event.get("worker").is_none() { " whole" } else { "" }),
        _ => String::new(),
    }
}

const BAD: [&str; 10] = [
    "hung",
    "kill",
    "unkillable",
    "exec-failed",
    "fork-refused",
    "not-ready",
    "reload-aborted",
    "replacement-failed",
    "giving-up",
    "memory",
];

/// What somebody who looks for a cause looks for first.
fn tone(event: &Value) -> &'static str {
    let word = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    match (word("event"), word("reason")) {
        (_, "crash") => "bad-event",
        (word, _) if BAD.contains(&word) => "bad-event",
        ("ready" | "reload-done", _) => "good-event",
        _ => "",
    }
}

fn many(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Without the `.0` of a whole number.
fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| plain(Some(value)), |number| number.to_string())
}

fn after_comma(value: Option<&Value>) -> String {
    value.map_or_else(String::new, |value| format!(", {}", plain(Some(value))))
}

#[cfg(test)]
mod tests;
