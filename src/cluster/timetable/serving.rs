//! Who takes connections, and when: listening, jobs, the quiet instant, hanging, queues that nobody has.

use std::time::Duration;

use super::super::effect::{Effect, Note, Search};
use super::super::event::{Event, Notice, Request};
use super::super::policy::{Policy, ReadyMode};
use super::super::sim::process::{Behaviour, NEVER, OnStop};
use super::super::sim::world::{Happening, World, at};
use super::super::status::{Reason, ReloadState, RowState, State};
use super::super::words::Slot;
use super::{STOP, is_kill, is_ready, is_stop, story, workers};

const SECOND: Duration = Duration::from_secs(1);

/// Listening is seen, and the stop signal waits for a quiet instant: what sharing by seccomp comes to.
fn sharing(count: u32) -> Policy {
    Policy { sees_listening: true, quiet: true, ..workers(count) }
}

fn ready_by(ready: ReadyMode) -> Policy {
    Policy { ready, ..sharing(1) }
}

/// Listens after 200 ms, has a request in flight for 300 ms when it is to end, and is gone 50 ms after the stop signal.
fn server() -> Behaviour {
    Behaviour::serves().listens(199).quiet_after(300).on_stop(OnStop::Exits(0, 50))
}

fn is_seek(effect: &Effect) -> bool {
    matches!(effect, Effect::SeekQuiet { .. })
}

fn state(world: &World, row: usize) -> RowState {
    world.snapshot().rows[row].state
}

// === section 5: ready ===

#[test]
fn listening_makes_ready_where_it_is_seen_and_asked_for() {
    for (sees_listening, mode, ready) in [
        (true, ReadyMode::Auto, vec![301]),
        (true, ReadyMode::Listen, vec![301]),
        (true, ReadyMode::Running, vec![1_001]),
        (true, ReadyMode::Notify, vec![]),
        (false, ReadyMode::Auto, vec![1_001]),
        (false, ReadyMode::Listen, vec![1_001]),
    ] {
        let mut world = World::of(Policy { sees_listening, ..ready_by(mode) }, Behaviour::serves().listens(300));
        world.run_until(59_000);
        assert_eq!(world.times(is_ready), ready, "{mode:?}, {sees_listening}");
        assert_eq!(world.times(|effect| matches!(effect, Effect::Join { .. })), ready, "it joins when it is ready");
    }
}

#[test]
fn ready_1_before_it_listened_makes_ready_too() {
    for (mode, ready) in [(ReadyMode::Auto, vec![101]), (ReadyMode::Listen, vec![301])] {
        let mut world = World::of(ready_by(mode), Behaviour::serves().notifies(100).listens(300));
        world.run_until(59_000);
        assert_eq!(world.times(is_ready), ready, "{mode:?}");
    }
}

#[test]
fn what_the_first_one_has_shown_is_asked_of_all_later_ones() {
    let (listens, notifies) = (Behaviour::serves().listens(300), Behaviour::serves().notifies(300));
    for (first, other) in [(listens.clone(), notifies.clone()), (notifies, listens)] {
        let first = Behaviour { runs: 5_000, ..first };
        let mut world = World::scripted(sharing(1), [first.clone(), first, other, Behaviour::serves()]);
        world.run_until(10_303);
        assert_eq!((world.starts(0), world.times(is_ready)), (vec![0, 5_001, 10_002], vec![301, 5_302]));
        world.run_until(70_003);
        assert_eq!(world.times(is_kill), [70_002], "START_TIMEOUT after its start");
        assert_eq!(world.snapshot().rows[0].last_exit.unwrap().reason, Reason::StartTimeout);
    }
}

#[test]
fn none_that_was_started_before_the_first_one_listened_is_killed() {
    let mut world = World::scripted(sharing(2), [Behaviour::serves().listens(5_000), Behaviour::serves()]);
    world.run_until(59_999);
    assert_eq!((state(&world, 0), state(&world, 1)), (RowState::Ready, RowState::Starting));
    world.run_until(600_000);
    assert_eq!((world.times(is_kill), world.snapshot().ready), (vec![], 2));
    assert!(world.snapshot().unready.is_none(), "MIN_READY=1 has listened");
}

#[test]
fn a_program_that_shows_nothing_counts_at_start_timeout_but_not_for_readyz() {
    let mut world = World::of(sharing(2), Behaviour::serves());
    world.run_until(59_999);
    assert_eq!((world.snapshot().ready, world.snapshot().unhealthy_from), (0, Some(at(180_000))));
    world.run_until(60_000);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.ready, snapshot.unhealthy_from, snapshot.state), (2, None, State::Starting));
    assert!(snapshot.unready.is_some_and(|why| why.contains("CLUSTERINIT_READY=running")), "the remedy");
    // It is replaced as one that is ready.
    world.ask(Request::Reload);
    world.run_until(300_000);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.reload.state, world.times(is_kill)), (ReloadState::Done, vec![]));
    assert_eq!(world.starts(1), [0, 120_000], "a start that shows nothing is no slow start: START_TIMEOUT is what it was");
    assert!(snapshot.unready.is_some());
}

#[test]
fn late_listening_makes_sure_and_tells_how_long_a_start_takes() {
    let late = Behaviour { runs: 100_000, ..Behaviour::serves().listens(69_999) };
    let mut world = World::scripted(sharing(1), [late, Behaviour::serves()]);
    world.run_until(69_999);
    assert!(world.snapshot().unready.is_some());
    world.run_until(70_000);
    assert!(world.snapshot().unready.is_none() && world.snapshot().state == State::Running);
    world.run_until(400_000);
    assert_eq!(world.times(is_kill)[0], 100_001 + 3 * 70_000);
}

#[test]
fn listen_is_asked_of_the_first_one_too() {
    let mut world = World::of(ready_by(ReadyMode::Listen), Behaviour::serves());
    world.run_until(60_000);
    assert_eq!(world.times(is_kill), [60_000]);
}

#[test]
fn the_others_follow_slot_0_when_it_listens_or_at_start_timeout() {
    for (behaviour, follow) in [(Behaviour::serves().listens(700), 701), (Behaviour::serves(), 60_000)] {
        let mut world = World::of(Policy { slot_zero_first: true, ..sharing(2) }, behaviour);
        world.run_until(70_000);
        assert_eq!(world.starts(1), [follow]);
    }
}

// === section 6: jobs ===

#[test]
fn an_exit_with_0_of_a_program_that_never_listened_or_notified_is_a_job() {
    for runs in [500, 5_000, 100_000] {
        let mut world = World::of(sharing(1), Behaviour::exits(0, runs));
        world.run_until(200_000);
        assert_eq!((world.starts(0), world.end()), (vec![0], (runs + 1, 0)), "however long it ran");
    }
    let (served, silent) = (Behaviour { runs: 5_000, ..server() }, Behaviour::exits(0, 500));
    let mut world = World::scripted(sharing(1), [served, silent, server()]);
    world.run_until(20_000);
    assert_eq!(
        (world.starts(0).len(), world.ended),
        (3, None),
        "one that listened is a server, also when it ends before it listens"
    );
    let mut world = World::scripted(ready_by(ReadyMode::Listen), [Behaviour::exits(0, 500), server()]);
    world.run_until(5_000);
    assert_eq!((world.starts(0).len(), world.ended), (2, None), "READY is not auto: a failing start");
}

// === section 8: disconnected, quiet, stopped ===

#[test]
fn a_reload_disconnects_the_predecessor_when_the_successor_has_joined_and_stops_it_when_it_is_quiet() {
    let mut world = World::of(sharing(1), server());
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(10_200);
    assert_eq!((state(&world, 0), state(&world, 1), world.snapshot().ready), (RowState::Disconnecting, RowState::Ready, 1));
    world.run_until(20_000);
    let reload = "10000 start 1, 10200 join 1, 10200 disconnect 0, 10200 seek 0 until 14200, 10500 stop 0";
    assert_eq!(story(&world), format!("0 start 0, 200 join 0, {reload}"));
    let search = Some(Search { took: Duration::from_millis(300), quiet: true });
    assert!(world.notes().any(|note| matches!(note, Note::Stopping { search: found, .. } if *found == search)));
    assert!(world.notes().any(|note| matches!(note, Note::Disconnected { reason: Reason::Reload, .. })));
}

#[test]
fn it_is_stopped_at_half_the_grace_at_the_latest_and_killed_at_the_grace() {
    let busy = server().quiet_after(NEVER).on_stop(OnStop::Ignores);
    let mut world = World::scripted(sharing(1), [busy, server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(30_000);
    assert_eq!((world.times(is_seek), world.times(is_stop), world.times(is_kill)), (vec![10_200], vec![14_200], vec![18_200]));
    let search = Some(Search { took: 4 * SECOND, quiet: false });
    assert!(world.notes().any(|note| matches!(note, Note::Stopping { search: found, .. } if *found == search)));
}

#[test]
fn fewer_slots_lifetime_and_restart_disconnect_as_well() {
    let mut world = World::of(sharing(2), server());
    world.run_until(10_000);
    world.ask(Request::Fewer);
    assert_eq!((state(&world, 1), world.snapshot().ready), (RowState::Disconnecting, 1));
    world.run_until(20_000);
    let less = "10000 disconnect 1, 10000 seek 1 until 14000, 10300 stop 1";
    assert_eq!(story(&world), format!("0 start 0, 0 start 1, 200 join 0, 200 join 1, {less}"));

    let policy = Policy { max_lifetime: Some(100 * SECOND), ..sharing(1) };
    let mut world = World::of(policy, server());
    world.run_until(112_000);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(113_000);
    assert_eq!((world.times(is_seek).len(), world.times(is_stop).len()), (2, 2));
}

#[test]
fn a_stop_of_the_cluster_lets_everybody_serve_until_his_own_signal_and_then_refuses() {
    let mut world = World::scripted(sharing(2), [server(), server().quiet_after(1_000), server()]);
    world.run_until(10_000);
    world.ask(STOP);
    assert_eq!((state(&world, 0), state(&world, 1)), (RowState::Ready, RowState::Ready), "as before");
    world.run_until(10_300);
    assert_eq!((state(&world, 0), state(&world, 1)), (RowState::Stopping, RowState::Ready));
    world.run_until(20_000);
    let first = "10000 seek 0 until 14000, 10000 seek 1 until 14000, 10300 disconnect 0, 10300 stop 0";
    let last = "11000 disconnect 1, 11000 refuse, 11000 stop 1";
    assert_eq!(story(&world), format!("0 start 0, 0 start 1, 200 join 0, 200 join 1, {first}, {last}"));
    assert_eq!(world.end(), (11_050, 0));
}

#[test]
fn without_a_search_the_signal_follows_the_disconnect() {
    let mut world = World::of(Policy { quiet: false, ..sharing(2) }, server());
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(20_000);
    let stop = "10000 disconnect 0, 10000 stop 0, 10000 disconnect 1, 10000 refuse, 10000 stop 1";
    assert_eq!(story(&world), format!("0 start 0, 0 start 1, 200 join 0, 200 join 1, {stop}"));
    assert!(world.notes().all(|note| !matches!(note, Note::Disconnected { .. })), "one line is enough");
}

#[test]
fn a_grace_of_nothing_searches_for_nothing() {
    let mut world = World::of(Policy { grace: Duration::ZERO, ..sharing(1) }, server());
    world.run_until(10_000);
    world.ask(STOP);
    assert_eq!(story(&world), "0 start 0, 200 join 0, 10000 disconnect 0, 10000 refuse, 10000 stop 0, 10000 kill 0");
}

#[test]
fn a_worker_that_has_not_joined_is_stopped_at_once() {
    let mut world = World::of(sharing(1), Behaviour::serves());
    world.run_until(10_000);
    world.ask(STOP);
    assert_eq!(story(&world), "0 start 0, 10000 refuse, 10000 stop 0");
}

#[test]
fn late_clients_are_refused_also_when_the_last_one_ends_by_itself_and_when_it_is_now() {
    let dies = Behaviour { runs: 10_500, ..server().quiet_after(NEVER) };
    let mut world = World::of(sharing(1), dies);
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(20_000);
    assert_eq!(story(&world), "0 start 0, 200 join 0, 10000 seek 0 until 14000, 10501 refuse");

    let mut world = World::of(sharing(1), server().quiet_after(NEVER));
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(10_100);
    world.ask(Request::StopNow);
    world.run_until(20_000);
    let now = "10100 disconnect 0, 10100 refuse, 10100 kill 0";
    assert_eq!(story(&world), format!("0 start 0, 200 join 0, 10000 seek 0 until 14000, {now}"));
    assert_eq!(world.end(), (10_100, 137));
}

#[test]
fn in_the_drain_nobody_is_refused() {
    let policy = Policy { drain_delay: super::super::policy::DrainDelay::Always(5 * SECOND), ..sharing(1) };
    let mut world = World::scripted(policy, [Behaviour { runs: 11_000, ..server() }, Behaviour::serves()]);
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(20_000);
    let refused = world.times(|effect| *effect == Effect::Refuse);
    assert_eq!((world.starts(0), refused), (vec![0, 11_001], vec![15_000]));
}

#[test]
fn a_stop_during_a_reload_changes_no_deadline_for_the_worse() {
    let mut world = World::of(sharing(1), server().quiet_after(NEVER).on_stop(OnStop::Ignores));
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(12_000);
    world.ask(STOP);
    world.run_until(30_000);
    assert_eq!((world.times(is_seek), world.times(is_stop)), (vec![10_200, 12_000], vec![14_200, 16_000]));
    assert_eq!(world.times(is_kill), [18_200, 20_000]);
}

#[test]
fn a_predecessor_that_ends_while_it_looks_for_its_instant_has_ended_by_the_reload() {
    let mut world = World::scripted(sharing(1), [Behaviour { runs: 10_300, ..server() }, server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(20_000);
    let (snapshot, exit) = (world.snapshot(), world.snapshot().rows[0].last_exit.unwrap());
    assert_eq!((world.starts(0), world.times(is_stop)), (vec![0, 10_000], vec![]));
    assert_eq!((snapshot.reload.at, exit.reason), (Some(at(10_301)), Reason::Reload));
}

#[test]
fn one_that_says_it_stops_is_disconnected() {
    let mut world = World::scripted(sharing(1), [server().saying(5_000, Notice::Stopping), server()]);
    world.run_until(10_000);
    assert_eq!(story(&world), "0 start 0, 200 join 0, 5001 disconnect 0");
}

// === section 4: HANG_TIMEOUT ===

fn hanging(timeout: u64) -> Policy {
    Policy { hang_timeout: Some(Duration::from_secs(timeout)), ..sharing(1) }
}

#[test]
fn one_that_leaves_connections_waiting_for_hang_timeout_is_replaced_successor_first() {
    let mut world = World::scripted(hanging(3), [server().hangs(4_999, NEVER), server()]);
    world.run_until(7_999);
    assert_eq!(state(&world, 0), RowState::Ready);
    world.run_until(8_000);
    assert_eq!((state(&world, 0), world.snapshot().ready), (RowState::Hung, 0));
    world.run_until(20_000);
    assert_eq!(
        story(&world),
        "0 start 0, 200 join 0, 8000 hung 0, 8000 start 1, 8200 join 1, 8200 stop 0",
        "no search: it hangs"
    );
    let row = &world.snapshot().rows[0];
    assert_eq!((row.restarts, row.last_exit.unwrap().reason), (1, Reason::Hung));
}

#[test]
fn one_that_accepts_in_time_stays_and_without_a_timeout_all_stay() {
    for policy in [hanging(3), sharing(1)] {
        let until = if policy.hang_timeout.is_some() { 7_998 } else { 60_000 };
        let mut world = World::of(policy, server().hangs(4_999, until));
        world.run_until(100_000);
        assert_eq!(story(&world), "0 start 0, 200 join 0");
    }
}

#[test]
fn a_hung_worker_that_accepts_again_joins_again_and_keeps_its_place_until_its_turn() {
    let slow = server().listens(5_000);
    let policy = Policy { workers: 2, ..hanging(3) };
    let mut world = World::scripted(policy, [server(), server().hangs(8_999, 12_499), slow]);
    world.run_until(10_000);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(12_100);
    assert_eq!(state(&world, 2), RowState::Hung);
    world.run_until(60_000);
    let hangs = "12000 hung 1, 12500 join 1";
    assert!(story(&world).contains(hangs), "{}", story(&world));
    assert_eq!((world.starts(1), world.snapshot().ready), (vec![0], 2));
}

#[test]
fn one_that_hangs_in_both_ways_has_to_recover_from_both() {
    let hangs = server().hangs(4_999, 9_499).saying(6_000, Notice::Trigger).saying(9_000, Notice::Alive);
    let mut world = World::scripted(hanging(3), [hangs, server().listens(60_000)]);
    world.run_until(9_400);
    assert_eq!(state(&world, 0), RowState::Hung);
    world.run_until(9_600);
    assert_eq!(state(&world, 0), RowState::Ready);
}

#[test]
fn one_that_comes_back_is_not_stopped_when_its_successor_fails() {
    let hangs = server().hangs(4_999, 8_499);
    let mut world = World::scripted(hanging(3), [hangs, Behaviour::exits(3, 1_000), server()]);
    world.run_until(30_000);
    assert_eq!(
        (story(&world).as_str(), world.snapshot().ready),
        ("0 start 0, 200 join 0, 8000 hung 0, 8000 start 1, 8500 join 0", 1)
    );
}

#[test]
fn what_waited_before_it_was_ready_is_not_held_against_it() {
    let behaviour = Behaviour::serves().listens(100).hangs(200, 11_999).notifies(9_999);
    let mut world = World::of(Policy { ready: ReadyMode::Notify, ..hanging(3) }, behaviour);
    world.run_until(30_000);
    assert_eq!(story(&world), "0 start 0, 10000 join 0");
}

#[test]
fn healthz_fails_when_all_that_are_ready_leave_connections_waiting() {
    let mut world = World::scripted(sharing(2), [server().hangs(4_999, NEVER), server().hangs(7_999, 19_999)]);
    world.run_until(7_999);
    assert_eq!(world.snapshot().unhealthy_from, None, "one accepts");
    world.run_until(8_000);
    assert_eq!(world.snapshot().unhealthy_from, Some(at(8_000 + 120_000)), "from the last one on");
    world.run_until(20_000);
    assert_eq!(world.snapshot().unhealthy_from, None);
    let mut world = World::of(sharing(1), server().hangs(4_999, NEVER));
    world.run_until(10_000);
    world.ask(STOP);
    assert_eq!(world.snapshot().unhealthy_from, None, "never during a stop");
}

// === section 7: queues that nobody has ===

fn fill(world: &mut World, ms: u64, slot: u32) {
    world.plan(ms, Happening::Noise(Event::QueueFilled { slot: Slot(slot) }));
}

#[test]
fn a_filled_queue_waits_for_a_backoff_one_second_at_most_and_once() {
    let policy = || Policy { backoff: super::super::policy::Backoff { first: 10 * SECOND, longest: 10 * SECOND }, ..sharing(1) };
    let crash = Behaviour { runs: 400, ..server() };
    for (told, starts) in [(500, vec![0, 1_500]), (9_500, vec![0, 10_401])] {
        let mut world = World::scripted(policy(), [crash.clone(), server()]);
        fill(&mut world, told, 0);
        world.run_until(20_000);
        assert_eq!(world.starts(0).len(), starts.len());
        assert!(world.starts(0)[1].abs_diff(starts[1]) <= if told == 500 { 0 } else { 10 }, "{:?}", world.starts(0));
    }
    let mut world = World::of(policy(), crash);
    for ms in [500, 600, 2_500, 3_500] {
        fill(&mut world, ms, 0);
    }
    world.run_until(11_000);
    assert_eq!(world.starts(0), [0, 1_500], "once in a row of failures");
    // A worker that proves itself ends the row.
    let proves = Behaviour { runs: 5_000, ..server() };
    let crash = Behaviour { runs: 400, ..server() };
    let mut world = World::scripted(policy(), [crash.clone(), proves, crash, server()]);
    for ms in [500, 7_500] {
        fill(&mut world, ms, 0);
    }
    world.run_until(20_000);
    assert_eq!(world.starts(0), [0, 1_500, 6_501, 8_500]);
}

#[test]
fn a_queue_that_nobody_has_gets_an_owner_by_a_replacement_once() {
    let mut world = World::of(sharing(2), server());
    for ms in [10_000, 10_100, 10_250, 10_400] {
        fill(&mut world, ms, 1);
    }
    fill(&mut world, 10_000, 7);
    world.run_until(20_000);
    assert_eq!((world.starts(0), world.starts(1)), (vec![0], vec![0, 10_000]));
    // Told again afterwards, it is done again.
    fill(&mut world, 20_500, 1);
    world.run_until(30_000);
    assert_eq!(world.starts(1), [0, 10_000, 20_500]);
}

#[test]
fn a_successor_for_a_queue_that_fails_is_tried_again_later() {
    let mut world = World::scripted(sharing(1), [server(), Behaviour::exits(3, 99), server()]);
    for second in 10..60 {
        fill(&mut world, second * 1_000, 0);
    }
    world.run_until(60_000);
    assert_eq!(world.starts(0)[..3], [0, 10_000, 41_000], "after RESTART_BACKOFF's longest delay");
}
