//! `/metrics`: a document that Prometheus reads, with the values of `/workers`, whatever the workers do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Cluster, Launch, Mode, Stage, has_python, modes, output_of, request, skipped};

/// Values by series, out of a document that holds to the rules of text format 0.0.4.
pub(crate) type Series = BTreeMap<String, f64>;

pub(crate) fn scraped(cluster: &Cluster) -> Series {
    let reply = request(cluster.side_port(), "GET", "/metrics").expect("an answer");
    assert_eq!(reply.status, 200, "{}", cluster.story());
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    others_read_it(&reply.body);
    parsed(&reply.body)
}

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>: HELP and TYPE once, before the samples of the family, which come together,
/// and no series twice.
pub(crate) fn parsed(text: &str) -> Series {
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut helped, mut typed, mut found) = (BTreeSet::new(), BTreeSet::new(), Series::new());
    let mut family = ("", "");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().unwrap_or_default();
            assert!(helped.insert(name) && !typed.contains(name), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').expect("a name and a type");
            assert!(typed.insert(family.0) && helped.contains(family.0), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let name = series.split('{').next().unwrap_or_default();
            let suffix = name.strip_prefix(family.0).unwrap_or_else(|| panic!("{line} among the samples of {family:?}"));
            let may_have =
                if ["histogram", "summary"].contains(&family.1) { &["", "_bucket", "_sum", "_count"][..] } else { &[""] };
            assert!(may_have.contains(&suffix), "{line} of {family:?}");
            // prom-client has gauges that end so.
            let is_ours = name.starts_with("clusterinit_");
            assert!(!is_ours || (family.1 == "counter") == name.ends_with("_total"), "{line} is a {}", family.1);
            let before = found.insert(series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}: no number")));
            assert!(before.is_none(), "twice: {line}");
        }
    }
    found
}

/// The parser of Prometheus' own client for Python reads as many samples.
fn others_read_it(text: &str) {
    const PARSE: &str = "import sys, prometheus_client.parser as p
families = list(p.text_string_to_metric_families(open(sys.argv[1]).read()))
print(sum(len(family.samples) for family in families))";
    // A Python of one's own in front of the distribution's has not its packages.
    let usual = Some("/usr/bin/python3").filter(|python| Path::new(python).exists());
    let imports =
        |python: &&str| output_of(Command::new(python).args(["-c", "import prometheus_client.parser"])).status.success();
    let Some(python) = usual.into_iter().chain(has_python().then_some("python3")).find(imports) else {
        return skipped("prometheus_client of python3 is not here: .ci/install test");
    };
    let stage = Stage::new();
    let output = output_of(Command::new(python).args(["-c", PARSE, &stage.write("metrics.txt", text)]));
    let count = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    let (told, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.trim(), count.to_string(), "{complaint}\n{text}");
}

pub(crate) fn of_worker(series: &Series, name: &str, slot: u64) -> Option<f64> {
    series.get(&format!("clusterinit_worker_{name}{{worker=\"{slot}\"}}")).copied()
}

fn restarts(series: &Series, slot: u64, reason: &str) -> Option<f64> {
    let (of_slot, of_all) = (
        series.get(&format!("clusterinit_worker_restarts_total{{worker=\"{slot}\",reason=\"{reason}\"}}"))?,
        series.get(&format!("clusterinit_restarts_total{{reason=\"{reason}\"}}"))?,
    );
    assert!(of_all >= of_slot, "{reason}: {of_all} in all, {of_slot} in slot {slot}");
    Some(*of_slot)
}

#[test]
fn it_says_what_workers_says() {
    for mode in modes() {
        let settings = [("WORKERS", "2"), ("READY", "running"), ("WORKER_MEMORY", "64Mi"), ("MEMORY_SOFT", "off")];
        let cluster = Cluster::start(mode, &settings, &["sleep", "1000"]);
        cluster.ready(2);
        let (series, workers) = (scraped(&cluster), cluster.workers());
        let whole = |name: &str| series.get(&format!("clusterinit_{name}")).copied();
        assert_eq!(whole("workers_wanted"), workers["cpu"]["workers_wanted"].as_f64());
        assert_eq!([whole("workers_ready"), whole("workers_up")], [Some(2.0); 2]);
        assert_eq!(whole("generation"), workers["generation"].as_f64());
        assert_eq!(whole("state{state=\"running\"}"), Some(1.0));
        assert_eq!(whole("container_memory_limit_bytes"), workers["memory"]["limit_bytes"].as_f64());
        assert_eq!(whole("container_cpu_limit_cores"), workers["cpu"]["limit"].as_f64());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let rows = workers["workers"].as_array().expect("rows");
        for (slot, row) in (0..).zip(rows) {
            for (ours, theirs) in [
                ("memory_bytes", "memory_bytes"),
                ("memory_cap_bytes", "memory_cap_bytes"),
                ("processes", "processes"),
                ("connections", "connections"),
                ("accept_queue", "accept_queue"),
                ("event_loop_lag_seconds", "event_loop_lag_seconds"),
            ] {
                assert_eq!(of_worker(&series, ours, slot), row[theirs].as_f64(), "{ours}: {row}");
            }
            assert_eq!([of_worker(&series, "up", slot), of_worker(&series, "ready", slot)], [Some(1.0); 2]);
            let began = of_worker(&series, "start_time_seconds", slot).expect("a time");
            let uptime = row["uptime_seconds"].as_f64().expect("an age");
            assert!((now - began - uptime).abs() < 5.0, "{now} - {began}, {row}");
            // A second of running is what makes it ready.
            let start = of_worker(&series, "last_start_duration_seconds", slot).expect("a duration");
            assert!((1.0..30.0).contains(&start), "{start}");
        }
        assert_eq!(cluster.stop().0, 0);
    }
}

/// The busy one uses CPU; what it has used is not lost with it.
#[test]
fn restarts_have_reasons_and_cpu_time_only_grows() {
    for mode in modes() {
        let busy = "[ \"$CLUSTERINIT_WORKER_ID\" = 1 ] && while :; do :; done; exec sleep 1000";
        let settings = [("WORKERS", "2"), ("READY", "running"), ("STOP_WHEN", "now")];
        let cluster = Launch::of(mode, &["sh", "-c", busy]).apart();
        let cluster = settings.iter().fold(cluster, |launch, (name, value)| launch.set(name, value)).start();
        let before = cluster.ready(2);
        let mut used = 0.0;
        cluster.until("the busy one has used some CPU", |cluster| {
            used = of_worker(&scraped(cluster), "cpu_seconds_total", 1).unwrap_or_default();
            used > 0.3
        });
        cluster.signal_inner(before[1], Signal::SIGKILL);
        cluster.until("its successor is counted", |cluster| restarts(&scraped(cluster), 1, "crash") == Some(1.0));
        let after = of_worker(&scraped(&cluster), "cpu_seconds_total", 1).expect("a figure");
        assert!(after >= used, "{after} < {used}");
        cluster.ready(2);
        assert_eq!(restarts(&scraped(&cluster), 0, "crash"), Some(0.0));

        cluster.signal(Signal::SIGUSR2);
        cluster.until("the reload is counted", |cluster| {
            scraped(cluster).get("clusterinit_reloads_total{outcome=\"done\"}") == Some(&1.0)
        });
        let series = scraped(&cluster);
        for slot in [0, 1] {
            assert_eq!(restarts(&series, slot, "reload"), Some(1.0), "slot {slot}\n{}", cluster.story());
        }
        assert_eq!(series.get("clusterinit_restarts_total{reason=\"reload\"}"), Some(&2.0));
        assert_eq!(series.get("clusterinit_reloads_total{outcome=\"aborted\"}"), Some(&0.0));
        assert_eq!(series.get("clusterinit_signals_received_total{signal=\"USR2\"}"), Some(&1.0));
        assert!(!series.keys().any(|key| key.contains("signal=\"CHLD\"")), "{series:?}");
        // `restarts` in /workers is without those that were asked for.
        assert_eq!(cluster.rows()[1]["restarts"], 1);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn series_are_as_many_as_slots_through_replacements() {
    let settings = [("WORKERS", "2"), ("READY", "running"), ("STOP_WHEN", "now")];
    let cluster = Cluster::start(Mode::Plain, &settings, &["sleep", "1000"]);
    cluster.ready(2);
    let names = |cluster: &Cluster| -> Vec<String> {
        scraped(cluster).into_keys().filter(|key| !key.starts_with("clusterinit_signals_received_total")).collect()
    };
    let before = names(&cluster);
    for count in [1.0, 2.0] {
        cluster.signal(Signal::SIGUSR2);
        cluster.until("the reload is over", |cluster| {
            scraped(cluster).get("clusterinit_reloads_total{outcome=\"done\"}") == Some(&count)
        });
    }
    cluster.ready(2);
    assert_eq!(names(&cluster), before);
    assert_eq!(cluster.stop().0, 0);
}

/// Nobody is asked where nobody speaks Node's protocol, and a stop is no reason to be silent.
#[test]
fn it_is_there_for_every_program_and_during_a_stop() {
    let settings = [("WORKERS", "1"), ("READY", "running"), ("DRAIN_DELAY", "20m")];
    let cluster = Cluster::start(Mode::Plain, &settings, &["sleep", "1000"]);
    cluster.ready(1);
    assert_eq!(scraped(&cluster).get("clusterinit_workers_ready"), Some(&1.0));
    cluster.signal(Signal::SIGTERM);
    cluster.until("it drains", |cluster| scraped(cluster).get("clusterinit_state{state=\"draining\"}") == Some(&1.0));
    assert_eq!(cluster.workers()["state"], Value::from("draining"));
}
