//! Rolling restarts under load, of an application without a line of shutdown code and of one with a handler: nobody sees anything.

use super::{WORKERS, count, launch, node, serves, source, stops, version};
use crate::share::{local, reload};
use crate::support::{Load, Mode, Stopwatch, free_port};

const RELOADS: usize = 3;

fn rolls(node: &str, name: &str, settings: &[(&str, &str)]) {
    for (mode, think) in [("close", "0ms"), ("keep", "0ms"), ("keep", "5ms")] {
        let port = free_port();
        let mut launch = launch(Mode::Plain, node, &source(name), port);
        for (name, value) in settings {
            launch = launch.env(name, value);
        }
        let cluster = launch.start();
        serves(&cluster, port);
        let load = Load::start(local(port), &["clients=16", &format!("mode={mode}"), &format!("think={think}")]);
        let clock = Stopwatch::start();
        for _ in 0..RELOADS {
            reload(&cluster, WORKERS);
        }
        let took = clock.elapsed();
        let seen = load.finish();
        let what = format!("{name} {settings:?} {mode} {think}, {took:?}");
        assert_eq!(count(&seen, "failed"), 0, "{what}: {seen}\n{}", cluster.story());
        let processes = seen["answers"].as_object().map_or(0, serde_json::Map::len);
        assert!(processes > RELOADS, "{what}: {processes} processes answered: {seen}\n{}", cluster.story());
        stops(cluster);
    }
}

fn rolls_here(name: &str, settings: &[(&str, &str)]) {
    if let Some(node) = node() {
        rolls(&node, name, settings);
    }
}

#[test]
fn an_application_without_shutdown_code() {
    rolls_here("plain.js", &[]);
}

#[test]
fn an_application_without_shutdown_code_on_one_queue() {
    rolls_here("plain.js", &[("CLUSTERINIT_BALANCE", "queue")]);
}

#[test]
fn an_application_without_shutdown_code_round_robin() {
    rolls_here("plain.js", &[("CLUSTERINIT_BALANCE", "rr")]);
}

#[test]
fn an_application_with_a_handler() {
    rolls_here("graceful.js", &[]);
}

#[test]
fn an_application_with_a_handler_round_robin() {
    rolls_here("graceful.js", &[("NODE_CLUSTER_SCHED_POLICY", "rr")]);
}

#[test]
fn on_all_versions() {
    for major in [18, 20, 22, 24] {
        let Some(node) = version(major) else { continue };
        rolls(&node, "plain.js", &[]);
    }
}
