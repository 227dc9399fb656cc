//! Ready is who listens, without a word from the server.

use nix::sys::signal::Signal;

use super::{all_serve, borrowed, is_shared, local, script, sockets};
use crate::support::{Cluster, Launch, Mode, Stage, Stopwatch, example, free_port, modes};

fn reload_state(cluster: &Cluster) -> serde_json::Value {
    cluster.workers()["reload"]["state"].clone()
}

#[test]
fn a_server_is_ready_when_it_listens_and_not_before() {
    for mode in modes() {
        let (stage, port) = (Stage::new(), free_port());
        let (program, go) = (example("sockets"), stage.path("go"));
        let (wait, bind) = (format!("wait={go}"), format!("bind=127.0.0.1:{port}"));
        let cluster = Launch::of(mode, &sockets(&program, &[&bind, &wait, "listen", "serve"])).set("WORKERS", 2).start();
        cluster.until("both have bound", |cluster| cluster.out().matches("bound").count() == 2);
        // Longer than the second after which a program counts as running.
        let clock = Stopwatch::start();
        cluster.until("time goes by", |cluster| {
            assert!(cluster.pids_in("ready").is_empty(), "{}", cluster.story());
            clock.elapsed().as_secs_f64() > 1.5
        });
        assert_eq!((cluster.get("/readyz").0, cluster.get("/healthz").0), (503, 200));
        stage.write("go", "");
        cluster.ready(2);
        assert_eq!(cluster.get("/readyz").0, 200);
        is_shared(&cluster);
        all_serve(&cluster, local(port), "/", 2);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn the_others_follow_as_soon_as_slot_0_listens() {
    let (stage, port) = (Stage::new(), free_port());
    let (program, go) = (example("sockets"), stage.path("go"));
    let (wait, bind) = (format!("wait={go}"), format!("bind=127.0.0.1:{port}"));
    let launch = Launch::of(Mode::Plain, &sockets(&program, &[&bind, &wait, "listen", "serve"]));
    let cluster = launch.set("WORKERS_PER_CPU", 2).start();
    cluster.until("slot 0 has bound", |cluster| cluster.out().contains("bound"));
    let wanted = cluster.workers()["cpu"]["workers_wanted"].as_u64().expect("a number");
    assert!(wanted >= 2, "{}", cluster.story());
    assert_eq!(cluster.out().matches("bound").count(), 1, "the others wait for it");
    stage.write("go", "");
    cluster.ready(usize::try_from(wanted).expect("it fits"));
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn who_never_listens_is_killed_only_where_listening_is_asked_for() {
    let port = free_port();
    let (program, bind) = (example("sockets"), format!("bind=127.0.0.1:{port}"));
    let command = sockets(&program, &[&bind, "stay"]);
    let settings = [("WORKERS", "1"), ("START_TIMEOUT", "1s")];
    let cluster = Cluster::start(Mode::Plain, &[&settings[..], &[("READY", "listen")]].concat(), &command);
    cluster.until("it was killed", |cluster| {
        cluster.rows().first().is_some_and(|row| row["last_exit"]["reason"] == "start-timeout")
    });
    assert_eq!(cluster.get("/readyz").0, 503);
    assert_eq!(cluster.stop().0, 0);

    // A consumer: nobody has ever listened, so nobody has to. But nobody said that it is ready for connections, either.
    let cluster = Cluster::start(Mode::Plain, &settings, &command);
    cluster.until("it counts as started", |cluster| cluster.pids_in("ready").len() == 1);
    let pid = cluster.ready(1)[0];
    assert_eq!((cluster.get("/readyz").0, cluster.get("/healthz").0), (503, 200), "{}", cluster.story());
    assert!(cluster.get("/readyz").1.contains("READY=running"), "the remedy is named: {}", cluster.get("/readyz").1);
    let clock = Stopwatch::start();
    clock.reaches(std::time::Duration::from_secs(2));
    assert_eq!(cluster.ready(1), [pid], "it was left alone");
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn once_one_has_listened_all_later_ones_have_to() {
    let (stage, port) = (Stage::new(), free_port());
    let mark = stage.path("mark");
    let command = script(&format!("[ -e {mark} ] && exec $sockets stay; exec $sockets bind=127.0.0.1:{port} listen serve"));
    let launch = Launch::of(Mode::Plain, &borrowed(&command)).set("WORKERS", 1).set("START_TIMEOUT", "1s");
    let cluster = launch.start();
    let pid = cluster.ready(1)[0];
    stage.write("mark", "");
    cluster.signal_inner(pid, Signal::SIGKILL);
    cluster.until("the successor was killed", |cluster| {
        cluster.rows().first().is_some_and(|row| row["last_exit"]["reason"] == "start-timeout")
    });
    assert_eq!(cluster.get("/readyz").0, 503);
    std::fs::remove_file(&mark).expect("it was there");
    cluster.ready(1);
    assert_eq!(cluster.get("/readyz").0, 200);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_reload_goes_on_only_when_the_successor_listens() {
    for mode in modes() {
        let (stage, port) = (Stage::new(), free_port());
        let go = stage.path("go");
        let late = format!("[ $CLUSTERINIT_GENERATION = 1 ] || w=wait={go}; exec $sockets bind=127.0.0.1:{port} $w listen serve");
        let command = script(&late);
        let cluster = Launch::of(mode, &borrowed(&command)).set("WORKERS", 2).start();
        let before = cluster.ready(2);
        cluster.signal(Signal::SIGUSR2);
        cluster.until("a successor has bound", |cluster| cluster.out().matches("bound").count() == 3);
        let clock = Stopwatch::start();
        cluster.until("time goes by", |cluster| {
            assert_eq!(cluster.pids_in("ready"), before, "{}", cluster.story());
            clock.elapsed().as_secs_f64() > 1.5
        });
        assert_eq!(reload_state(&cluster), "running");
        all_serve(&cluster, local(port), "/", 2);
        stage.write("go", "");
        cluster.until("the reload is done", |cluster| reload_state(cluster) == "done");
        let after = cluster.ready(2);
        assert!(before.iter().all(|pid| !after.contains(pid)));
        all_serve(&cluster, local(port), "/", 2);
        assert_eq!(cluster.stop().0, 0);
    }
}

#[test]
fn a_reload_to_a_server_that_never_listens_is_aborted() {
    let port = free_port();
    let command = script(&format!(
        "[ $CLUSTERINIT_GENERATION = 1 ] || exec $sockets bind=127.0.0.1:{port} stay; exec $sockets bind=127.0.0.1:{port} listen serve"
    ));
    let launch = Launch::of(Mode::Plain, &borrowed(&command)).set("WORKERS", 2).set("START_TIMEOUT", "1s");
    let cluster = launch.start();
    let before = cluster.ready(2);
    cluster.signal(Signal::SIGUSR2);
    cluster.until("the reload is aborted", |cluster| reload_state(cluster) == "aborted");
    assert_eq!(cluster.ready(2), before, "the old ones stay");
    all_serve(&cluster, local(port), "/", 2);
    assert_eq!(cluster.stop().0, 0);
}

#[test]
fn a_job_ends_the_cluster_and_a_server_that_ends_is_replaced() {
    for mode in modes() {
        let program = example("sockets");
        let (code, out, err) = Cluster::start(mode, &[], &sockets(&program, &["bind=127.0.0.1:0", "exit=0"])).finish();
        assert_eq!((code, out.matches("bound").count()), (0, 1), "once, and done\n{err}");
        let (code, ..) = Cluster::start(mode, &[], &sockets(&program, &["exit=3"])).finish();
        assert_eq!(code, 3);

        let (stage, port) = (Stage::new(), free_port());
        let end = stage.path("end");
        let (bind, wait) = (format!("bind=127.0.0.1:{port}"), format!("wait={end}"));
        let cluster = Cluster::start(mode, &[("WORKERS", "1")], &sockets(&program, &[&bind, "listen", "late", &wait, "exit=0"]));
        let pid = cluster.ready(1)[0];
        cluster.until("it was ready for a second", |cluster| {
            cluster.rows().first().is_some_and(|row| row["uptime_seconds"].as_f64().is_some_and(|time| time > 1.5))
        });
        stage.write("end", "");
        cluster.until("it ended", |cluster| cluster.rows().first().is_some_and(|row| row["last_exit"]["reason"] == "exit"));
        std::fs::remove_file(&end).expect("it was there");
        assert_ne!(cluster.ready(1), [pid]);
        all_serve(&cluster, local(port), "/", 1);
        assert_eq!(cluster.stop().0, 0);
    }
}
