//! The page as it is sent.

use serde_json::json;

use super::*;

fn pinned() -> Value {
    serde_json::from_str(include_str!("../workers.pinned.json")).expect("JSON")
}

/// The text between tags, of everything from `from` on.
fn text_from(page: &str, from: &str) -> String {
    let (_, mut rest) = page.split_once(from).expect("it is there");
    let mut text = String::new();
    while let Some((words, tag)) = rest.split_once('<') {
        text.push_str(words);
        text.push(' ');
        rest = tag.split_once('>').map_or("", |(_, further)| further);
    }
    text
}

#[test]
fn the_file_is_small_and_asks_for_nothing_elsewhere() {
    assert!(PAGE.len() <= 30 * 1024, "{} bytes", PAGE.len());
    for elsewhere in ["http://", "https://", "//cdn", "src=", "@import", "url(", "<iframe", "<object", "eval("] {
        assert!(!PAGE.contains(elsewhere), "{elsewhere}");
    }
    assert_eq!(PAGE.matches("<script").count(), 1);
    assert_eq!(PAGE.matches("<style").count(), 1);
    assert!(!PAGE.contains(" style=") && !PAGE.contains(" onclick"), "the policy would not let it");
}

#[test]
fn nothing_is_filled_into_script_or_style() {
    for (from, to) in [("<script>", "</script>"), ("<style>", "</style>")] {
        assert!(!between(PAGE, from, to).contains("{{"), "{from}");
    }
}

#[test]
fn every_field_is_filled() {
    let page = render(&pinned());
    assert!(!page.contains("{{"));
    let shown = text_from(&page, "<tbody");
    for text in ["0", "ready", "pid 7", "12.2s", "45.8Mi", "of 240.0Mi", "0.4s in all", "lag 0.4 ms", "SIGKILL, crash, 5.0s ago"]
    {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    for text in
        ["backoff", "starts in 0.5s", "exit 3, crash, 0.3s ago", "listen-fds, spread", "0.0.0.0:8080", "0.0.0.0:9101 (worker 1)"]
    {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    for text in
        ["240.0Mi for each worker", "off: none is held", "limit 1.5 CPU, 2 workers", "Not in force: CLUSTERINIT_HANG_TIMEOUT=5s"]
    {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    assert!(page.contains("1 of 2 workers are ready") && page.contains("<h1 id=\"head\" class=\"warn\">"));
}

/// A hostile text in every place of the report.
fn poisoned(value: &Value, poison: &str) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), poisoned(value, poison))).collect(),
        Value::Array(items) => items.iter().map(|item| poisoned(item, poison)).collect(),
        _ => json!(poison),
    }
}

#[test]
fn whatever_comes_in_is_escaped() {
    let poison = "\"'><script>alert(1)</script><img onerror=x>{{rows}}&\u{1b}";
    let mut report = poisoned(&pinned(), poison);
    report["events"] =
        json!([{"event": poison, "worker": poison, "detail": poison, "reason": poison, "pid": poison, "signal": poison}]);
    let (page, plain) = (render(&report), render(&json!({})));
    for tag in ["<script", "<img", "</script", "\u{1b}"] {
        assert_eq!(page.matches(tag).count(), plain.matches(tag).count(), "{tag}");
    }
    assert!(page.contains("&quot;&#39;&gt;&lt;script&gt;alert(1)"));
    // A value cannot close the attribute that it stands in: quotes are even in every tag.
    for tag in page.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag) {
        assert!(!tag.contains("onerror") || tag.contains("&lt;img"), "{tag}");
    }
}

#[test]
fn a_report_of_another_version_is_shown_all_the_same() {
    for odd in [json!({}), json!(null), json!({"workers": [null, 3, {}], "events": [null, {"seq": "x"}], "cpu": []})] {
        let page = render(&odd);
        assert!(page.contains("</html>") && !page.contains("{{"));
    }
}

#[test]
fn the_headline_says_what_is_the_matter() {
    let with = |state: &str, states: &[&str]| {
        let workers: Vec<_> = states.iter().map(|state| json!({"state": state})).collect();
        let report = json!({"state": state, "cpu": {"workers_wanted": 2}, "workers": workers});
        let whole = Whole::new(&report, report["workers"].as_array().expect("rows"));
        (whole.level(), whole.headline())
    };
    assert_eq!(with("running", &["ready", "ready"]), ("ok", "All 2 workers are ready".to_owned()));
    assert_eq!(with("running", &["ready", "backoff"]), ("warn", "1 of 2 workers are ready".to_owned()));
    assert_eq!(with("running", &["backoff", "backoff"]), ("bad", "0 of 2 workers are ready".to_owned()));
    assert_eq!(with("running", &["ready", "ready", "hung"]).0, "warn");
    assert_eq!(with("starting", &["starting"]), ("warn", "Starting: 0 of 2 workers ready".to_owned()));
    assert_eq!(with("draining", &["ready", "ready"]), ("off", "Stopping soon, still serving".to_owned()));
}
