//! What a worker may write to its channel, whatever it is: nothing of it may panic, and no line may keep more than it has.
#![no_main]

use clusterinit::node::lines::{Line, Lines};
use clusterinit::node::message::{self, Incoming};
use clusterinit::node::routing::{self, Route};
use clusterinit::node::servers::{Place, Servers};
use clusterinit::node::{log4js, metrics};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = Lines::default();
    for part in bytes.chunks(64) {
        for line in lines.take(part) {
            if let Line::Whole(line) = line {
                understand(&line);
            }
        }
    }
    understand(bytes);
});

fn understand(line: &[u8]) {
    match message::parse(line) {
        Incoming::User(value) => {
            if let Route::To(_, data) = routing::route(&value) {
                let text = message::from_worker(0, &data);
                assert_eq!(text.matches('\n').count(), 1, "one line stays one line");
            }
            if let Ok(value) = serde_json::from_str(value.get()) {
                metrics::merge(&[value]);
            }
        }
        Incoming::Query { query, .. } => drop((Place::of(&query), Servers::key(&query))),
        _ => {}
    }
    if let Ok(text) = str::from_utf8(line) {
        log4js::line(text);
        message::from_person(text);
    }
}
