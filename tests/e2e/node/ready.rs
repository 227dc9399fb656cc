//! Ready is who says `listening`, or whose program sends `ready`.

use super::{GRACE, WORKERS, is_node, launch, log_lines, node, program, row, serves, stops};
use crate::support::{Cluster, Launch, Mode, Stage, Stopwatch, free_port, modes};

/// Longer than the second after which a program without a channel counts as running.
const LONGER: f64 = 1.5;

fn stays(cluster: &Cluster, what: &str, mut condition: impl FnMut(&Cluster) -> bool) {
    let clock = Stopwatch::start();
    cluster.until("time goes by", |cluster| {
        assert!(condition(cluster), "no longer: {what}\n{}", cluster.story());
        clock.elapsed().as_secs_f64() > LONGER
    });
}

/// Waits for a file, then goes on.
const WHEN: &str = "
const when = (file, then) => fs.existsSync(__dirname + '/' + file) ? then() : setTimeout(when, 20, file, then);
";

#[test]
fn a_worker_is_ready_when_it_listens_and_not_before() {
    for mode in modes() {
        let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
        let file = program(&stage, &format!("{WHEN} say('up'); when('go', () => server().listen(PORT));"));
        let cluster = launch(mode, &node, &file, port).start();
        cluster.until("both run", |cluster| cluster.out().matches("up").count() == WORKERS);
        cluster.until("both are online", |cluster| cluster.rows().iter().all(|row| row["channel"] == "online"));
        stays(&cluster, "nobody is ready", |cluster| cluster.pids_in("ready").is_empty());
        assert_eq!((cluster.get("/readyz").0, cluster.get("/healthz").0), (503, 200));
        stage.write("go", "");
        serves(&cluster, port);
        assert_eq!(row(&cluster, 0)["channel"], "listening");
        assert_eq!(cluster.get("/readyz").0, 200);
        stops(cluster);
    }
}

#[test]
fn the_others_follow_as_soon_as_slot_0_listens() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(&stage, &format!("{WHEN} say('up'); when('go', () => server().listen(PORT));"));
    let cluster =
        Launch::of(Mode::Plain, &[&node, &file]).env("PORT", port).set("WORKERS_PER_CPU", 2).set(GRACE.0, GRACE.1).start();
    cluster.until("slot 0 runs", |cluster| cluster.out().contains("up"));
    stays(&cluster, "it is alone", |cluster| cluster.out().matches("up").count() == 1);
    let wanted = cluster.workers()["cpu"]["workers_wanted"].as_u64().expect("a number");
    assert!(wanted >= 2, "{}", cluster.story());
    stage.write("go", "");
    cluster.ready(usize::try_from(wanted).expect("it fits"));
    is_node(&cluster);
    stops(cluster);
}

/// PM2's `wait_ready`: the program listens early and says when it is warm.
#[test]
fn a_program_may_say_ready_itself() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = format!("{WHEN} server().listen(PORT, () => {{ say('up'); when('go', () => process.send('ready')); }});");
    let cluster = launch(Mode::Plain, &node, &program(&stage, &text), port).set("READY", "notify").start();
    cluster.until("both listen", |cluster| cluster.out().matches("up").count() == WORKERS);
    stays(&cluster, "nobody is ready", |cluster| cluster.pids_in("ready").is_empty());
    stage.write("go", "");
    serves(&cluster, port);
    stops(cluster);
}

/// A consumer opens no server: it says that it is ready, or counts when the time is up.
#[test]
fn a_consumer_is_ready_when_it_says_so() {
    let (Some(node), stage) = (node(), Stage::new()) else { return };
    let file = program(&stage, "process.send('ready'); setInterval(() => {}, 1000);");
    let cluster = launch(Mode::Plain, &node, &file, 0).start();
    cluster.ready(WORKERS);
    cluster.until("it is in rotation", |cluster| cluster.answers("/readyz") == 200);
    // `ready` is understood: nobody is told that it is not.
    assert_eq!(log_lines(&cluster, &["WARN"]), 0, "{}", cluster.story());
    stops(cluster);
}

#[test]
fn who_has_to_listen_and_does_not_is_killed() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(&stage, "setInterval(() => {}, 1000);");
    let launch = launch(Mode::Plain, &node, &file, port).set("READY", "listen").set("START_TIMEOUT", "1s").set("GRACE", "2s");
    let cluster = launch.start();
    cluster.until("it was killed", |cluster| row(cluster, 0)["last_exit"]["reason"] == "start-timeout");
    assert_eq!(cluster.get("/readyz").0, 503);
    cluster.stop();
}

#[test]
fn a_reload_goes_on_only_when_the_successor_listens() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = format!(
        "{WHEN} const go = () => server().listen(PORT); say('up');
        process.env.CLUSTERINIT_GENERATION === '1' ? go() : when('go', go);"
    );
    let cluster = launch(Mode::Plain, &node, &program(&stage, &text), port).start();
    serves(&cluster, port);
    let before = cluster.ready(WORKERS);
    cluster.signal(nix::sys::signal::Signal::SIGUSR2);
    cluster.until("a successor runs", |cluster| cluster.out().matches("up").count() == WORKERS + 1);
    stays(&cluster, "the old ones serve", |cluster| cluster.pids_in("ready") == before);
    stage.write("go", "");
    cluster.until("the reload is done", |cluster| cluster.workers()["reload"]["state"] == "done");
    let after = cluster.ready(WORKERS);
    assert!(before.iter().all(|pid| !after.contains(pid)));
    stops(cluster);
}
