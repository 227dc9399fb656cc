//! The heartbeat: lag of the event loop in `/workers`, and a worker that spins is replaced where that is asked for.

use serde_json::Value;

use super::{WORKERS, launch, node, pid_of, program, proven, replaced, row, serves, stops};
use crate::share::{hold, local, slot_at_once};
use crate::support::{Cluster, Load, Mode, Stage, free_port, modes};

/// `GET /spin?MS` blocks the loop after its answer.
const SPINS: &str = "
http.createServer((request, answer) => {
    const [path, ms] = request.url.split('?');
    answer.setHeader('Connection', 'close');
    answer.end(me(), () => { const end = Date.now() + Number(ms || 0); while (path === '/spin' && Date.now() < end); });
}).listen(PORT);
";

fn started(mode: Mode, port: u16, stage: &Stage, timeout: &str) -> Option<Cluster> {
    let launch = launch(mode, &node()?, &program(stage, SPINS), port).set("HANG_TIMEOUT", timeout);
    let cluster = launch.start();
    serves(&cluster, port);
    proven(&cluster);
    Some(cluster)
}

fn lag(cluster: &Cluster, slot: usize) -> Option<f64> {
    row(cluster, slot)["event_loop_lag_seconds"].as_f64()
}

/// The worker that spins from now on.
fn spin(cluster: &Cluster, port: u16, ms: u32) -> usize {
    let body =
        crate::share::body(local(port), &format!("/spin?{ms}")).unwrap_or_else(|| panic!("no answer\n{}", cluster.story()));
    let told: Value = serde_json::from_str(&body).expect("JSON");
    usize::try_from(told["worker"].as_u64().expect("a slot")).expect("it fits")
}

#[test]
fn the_lag_of_an_idle_worker_is_small_and_that_of_a_busy_one_is_seen() {
    for mode in modes() {
        let (stage, port) = (Stage::new(), free_port());
        let Some(cluster) = started(mode, port, &stage, "8s") else { return };
        cluster.until("both have been measured", |cluster| (0..WORKERS).all(|slot| lag(cluster, slot).is_some()));
        cluster.until("the lag of both is small", |cluster| {
            (0..WORKERS).all(|slot| lag(cluster, slot).is_some_and(|lag| lag < 0.5))
        });
        let slot = spin(&cluster, port, 5000);
        cluster.until("it is seen", |cluster| lag(cluster, slot).is_some_and(|lag| lag > 1.0));
        assert_eq!(row(&cluster, slot)["restarts"], 0, "{}", cluster.story());
        cluster.until("it is small again", |cluster| lag(cluster, slot).is_some_and(|lag| lag < 0.5));
        stops(cluster);
    }
}

#[test]
fn a_worker_that_spins_is_replaced() {
    let (stage, port) = (Stage::new(), free_port());
    let Some(cluster) = started(Mode::Plain, port, &stage, "1s") else { return };
    let pids: Vec<_> = (0..WORKERS).map(|slot| pid_of(&cluster, slot)).collect();
    let slot = spin(&cluster, port, 600_000);
    let victim = pids[slot];
    replaced(&cluster, victim);
    let last = row(&cluster, slot);
    assert_eq!((&last["last_exit"]["reason"], &last["restarts"]), (&"hung".into(), &1.into()), "{last}");
    serves(&cluster, port);
    stops(cluster);
}

/// Without a client, nothing but the heartbeat can tell.
#[test]
fn a_worker_that_is_stopped_is_replaced_though_nobody_asks_it() {
    let (stage, port) = (Stage::new(), free_port());
    let Some(cluster) = started(Mode::Plain, port, &stage, "1s") else { return };
    let victim = pid_of(&cluster, 1);
    hold(&cluster, victim);
    replaced(&cluster, victim);
    assert_eq!(row(&cluster, 1)["last_exit"]["reason"], "hung", "{}", cluster.story());
    serves(&cluster, port);
    stops(cluster);
}

#[test]
fn without_a_timeout_it_is_left_alone() {
    let (stage, port) = (Stage::new(), free_port());
    let Some(cluster) = started(Mode::Plain, port, &stage, "off") else { return };
    let before = cluster.ready(WORKERS);
    let slot = spin(&cluster, port, 3000);
    cluster.until("the other one answers", |_| slot_at_once(local(port)).is_some_and(|other| usize::try_from(other) != Ok(slot)));
    cluster.until("it is back", |_| slot_at_once(local(port)).is_some_and(|other| usize::try_from(other) == Ok(slot)));
    assert_eq!(cluster.ready(WORKERS), before);
    stops(cluster);
}

/// Shorter pauses than the timeout, one after the other, are no hang.
#[test]
fn a_busy_worker_is_not_taken_for_a_hung_one() {
    let (stage, port) = (Stage::new(), free_port());
    let Some(cluster) = started(Mode::Plain, port, &stage, "3s") else { return };
    let before = cluster.ready(WORKERS);
    let load = Load::start(local(port), &["clients=4", "path=/spin?300"]);
    let clock = crate::support::Stopwatch::start();
    cluster.until("time goes by", |_| clock.elapsed().as_secs_f64() > 8.0);
    let seen = load.finish();
    assert_eq!(seen["failed"], 0, "{seen}\n{}", cluster.story());
    assert_eq!(cluster.ready(WORKERS), before);
    stops(cluster);
}
