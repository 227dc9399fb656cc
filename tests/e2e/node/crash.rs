//! `kill -9` under load: only what was inside the killed process is lost, and nothing hangs.

use nix::sys::signal::Signal;

use super::{WORKERS, count, launch, node, pid_of, proven, replaced, serves, source, stops};
use crate::share::local;
use crate::support::{Load, Mode, free_port};

const CRASHES: usize = 4;
const CLIENTS: usize = 8;

#[test]
fn a_crash_costs_open_requests_at_most() {
    for balance in ["spread", "queue", "rr"] {
        for mode in ["close", "keep"] {
            let (Some(node), port) = (node(), free_port()) else { return };
            let cluster = launch(Mode::Plain, &node, &source("plain.js"), port).set("BALANCE", balance).start();
            serves(&cluster, port);
            let load = Load::start(local(port), &[&format!("clients={CLIENTS}"), &format!("mode={mode}")]);
            for round in 0..CRASHES {
                proven(&cluster);
                let victim = pid_of(&cluster, round % WORKERS);
                cluster.signal_inner(victim, Signal::SIGKILL);
                replaced(&cluster, victim);
            }
            let seen = load.finish();
            // Each client has one request open, and each crash hits those of one worker.
            assert!(count(&seen, "failed") <= CRASHES * CLIENTS, "{balance}, {mode}: {seen}");
            let others = (count(&seen, "refused"), count(&seen, "timeout"), count(&seen, "other"));
            assert_eq!(others, (0, 0, 0), "{balance}, {mode}: {seen}\n{}", cluster.story());
            assert!(count(&seen, "ok") > 1000, "{balance}, {mode}: {seen}");
            stops(cluster);
        }
    }
}

/// All of them at once: clients wait, and are served by the successors.
#[test]
fn after_the_death_of_all_their_queues_are_served() {
    for balance in ["spread", "queue", "rr"] {
        let (Some(node), port) = (node(), free_port()) else { return };
        let cluster = launch(Mode::Plain, &node, &source("plain.js"), port).set("BALANCE", balance).start();
        serves(&cluster, port);
        proven(&cluster);
        let load = Load::start(local(port), &[&format!("clients={CLIENTS}")]);
        let victims = cluster.ready(WORKERS);
        for victim in &victims {
            cluster.signal_inner(*victim, Signal::SIGKILL);
        }
        cluster.until("all were replaced", |cluster| {
            let ready = cluster.pids_in("ready");
            ready.len() == WORKERS && victims.iter().all(|victim| !ready.contains(victim))
        });
        let seen = load.finish();
        assert!(count(&seen, "failed") <= CLIENTS, "{balance}: {seen}\n{}", cluster.story());
        let others = (count(&seen, "refused"), count(&seen, "timeout"), count(&seen, "other"));
        assert_eq!(others, (0, 0, 0), "{balance}: {seen}\n{}", cluster.story());
        stops(cluster);
    }
}
