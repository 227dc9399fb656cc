//! prom-client's metrics of all workers behind ours, in one document.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{launch, packages, pid_of, program, serves, version};
use crate::metrics::{of_worker, parsed, scraped};
use crate::share::hold;
use crate::support::{Stage, Stopwatch, free_port, modes};

/// The newest of `.ci/install`.
const NODE: u32 = 24;

/// prom-client's, of a program that has a family of our name too, behind ours in one document; a mute worker costs 200 ms at most.
#[test]
fn programs_metrics_follow_ours_and_nobody_waits_for_a_mute_worker() {
    let (Some(node), Some(packages)) = (version(NODE), packages()) else { return };
    for mode in modes() {
        let (stage, port) = (Stage::new(), free_port());
        let text = "const { AggregatorRegistry, Counter, collectDefaultMetrics } = require('prom-client'); new AggregatorRegistry();
            collectDefaultMetrics();
            const hits = new Counter({ name: 'hits_total', help: 'h' }), ours = new Counter({ name: 'clusterinit_restarts_total', help: 'h' });
            hits.inc(7); ours.inc(7); server().listen(PORT);";
        let cluster = launch(mode, &node, &program(&stage, text), port).env("NODE_PATH", &packages).start();
        serves(&cluster, port);
        let hits = |cluster: &crate::support::Cluster| scraped(cluster).get("hits_total").copied();
        cluster.until("both have told", |cluster| hits(cluster) == Some(14.0));
        let series = scraped(&cluster);
        assert_eq!(series.get("clusterinit_restarts_total{reason=\"crash\"}"), Some(&0.0));
        assert!(!series.contains_key("clusterinit_restarts_total"), "{series:?}");
        assert!(series.contains_key("nodejs_eventloop_lag_seconds"), "{series:?}");
        cluster.until("lag is known", |cluster| of_worker(&scraped(cluster), "event_loop_lag_seconds", 0).is_some());

        hold(&cluster, pid_of(&cluster, 0));
        let mut took = Duration::MAX;
        cluster.until("the answer comes, with what the other one says", |cluster| {
            let clock = Stopwatch::start();
            let reply = cluster.try_get("/metrics");
            took = took.min(clock.elapsed());
            let told = reply.map(|reply| parsed(&reply.body)).unwrap_or_default();
            told.get("hits_total") == Some(&7.0)
                && told.contains_key("clusterinit_workers_ready")
                && took < Duration::from_millis(300)
        });
        assert!(took > Duration::from_millis(150), "the mute one was waited for: {took:?}");
        cluster.signal_inner(pid_of(&cluster, 0), Signal::SIGCONT);
        cluster.until("both tell again", |cluster| hits(cluster) == Some(14.0));
        assert_eq!(cluster.stop().0, 0);
    }
}
