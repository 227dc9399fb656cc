//! Replacements of living workers, scaling, and what the probes say.

use std::time::Duration;

use super::super::effect::{Effect, Note};
use super::super::event::{Notice, Request};
use super::super::policy::{Policy, ReadyMode, Restart};
use super::super::sim::process::{Behaviour, NEVER, OnStop};
use super::super::sim::world::{World, at};
use super::super::status::{Reason, ReloadState, RowState, State};
use super::super::words::Slot;
use super::{is_ready, is_stop, workers};

fn notifying(count: u32) -> Policy {
    Policy { ready: ReadyMode::Notify, ..workers(count) }
}

/// Ready after 200 ms, gone 300 ms after the stop signal.
fn server() -> Behaviour {
    Behaviour::serves().notifies(199).on_stop(OnStop::Exits(0, 300))
}

fn refusals(world: &World) -> usize {
    world.notes().filter(|note| matches!(note, Note::Refused { .. })).count()
}

#[test]
fn a_reload_goes_slot_by_slot_successor_first() {
    let mut world = World::of(notifying(2), server());
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(10_199);
    let rows: Vec<_> = world.snapshot().rows.iter().map(|row| (row.slot.0, row.state, row.generation)).collect();
    assert_eq!(rows, [(0, RowState::Ready, 1), (0, RowState::Starting, 2), (1, RowState::Ready, 1)], "predecessor first");
    world.run_until(60_000);
    assert_eq!((world.starts(0), world.starts(1)), (vec![0, 10_000], vec![0, 10_500]));
    assert_eq!(world.times(is_stop), [10_200, 10_700], "only when the successor is ready");
    let snapshot = world.snapshot();
    assert_eq!((snapshot.reload.state, snapshot.reload.at), (ReloadState::Done, Some(at(11_000))));
    assert!(snapshot.rows.iter().all(|row| (row.generation, row.restarts) == (2, 0)), "{:?}", snapshot.rows);
}

#[test]
fn a_reload_shows_in_the_last_exit() {
    let mut world = World::of(notifying(1), server());
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(20_000);
    let exit = world.snapshot().rows[0].last_exit.expect("the predecessor ended");
    assert_eq!((exit.reason, exit.at), (Reason::Reload, at(10_500)));
}

#[test]
fn a_reload_is_aborted_when_a_successor_ends_or_is_too_late() {
    let dies = Behaviour::exits(3, 100);
    let silent = Behaviour::serves();
    for (successor, aborted) in [(dies, 10_101), (silent, 70_000)] {
        let mut world = World::scripted(notifying(2), [server(), server(), successor, server()]);
        world.run_until(10_000);
        world.ask(Request::Reload);
        world.run_until(100_000);
        let snapshot = world.snapshot();
        assert_eq!((snapshot.reload.state, snapshot.reload.at), (ReloadState::Aborted, Some(at(aborted))));
        assert!(snapshot.reload.reason.is_some_and(|why| why.starts_with("the new worker of slot 0")));
        assert_eq!((snapshot.generation, snapshot.ready), (2, 2), "the old workers stay, the generation too");
        assert!(snapshot.rows.iter().all(|row| row.generation == 1) && world.times(is_stop).is_empty());
    }
}

#[test]
fn a_crash_respawn_gets_the_present_generation() {
    let crashes = Behaviour { runs: 30_000, ..server() };
    let mut world = World::scripted(notifying(1), [crashes, Behaviour::exits(3, 10), server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(40_000);
    assert_eq!(world.snapshot().rows[0].generation, 2);
}

#[test]
fn a_predecessor_that_ends_by_itself_leaves_the_slot_to_its_successor() {
    let policy = Policy { restart: Restart::Never, ..notifying(1) };
    let mut world = World::scripted(policy, [Behaviour { runs: 10_100, ..server() }, server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(20_000);
    assert_eq!((world.ended, world.starts(0), world.snapshot().ready), (None, vec![0, 10_000], 1));
    assert_eq!(world.snapshot().reload.state, ReloadState::Done);
}

#[test]
fn a_reload_during_a_reload_is_remembered_once() {
    let mut world = World::of(notifying(1), server());
    world.run_until(10_000);
    for _ in 0..3 {
        world.ask(Request::Reload);
    }
    world.run_until(60_000);
    assert_eq!((world.starts(0), world.snapshot().generation), (vec![0, 10_000, 10_500], 3));
    assert_eq!(world.snapshot().reload.state, ReloadState::Done);
}

#[test]
fn a_predecessor_whose_fork_is_refused_leaves_the_slot_to_its_successor() {
    // The first predecessor outlives its successor: when it ends, its slot starts anew and the second reload begins, in one step.
    let (slow, short) = (server().on_stop(OnStop::Exits(0, 3_000)), Behaviour { runs: 500, ..server() });
    let mut world = World::scripted(notifying(1), [slow, short, Behaviour::refused(), server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.ask(Request::Reload);
    world.run_until(60_000);
    assert_eq!(world.starts(0), [0, 10_000, 13_200, 13_200]);
    assert_eq!((world.snapshot().reload.state, world.snapshot().ready), (ReloadState::Done, 1));
}

#[test]
fn a_slot_whose_predecessor_and_successor_are_both_refused_starts_anew() {
    let (slow, short) = (server().on_stop(OnStop::Exits(0, 3_000)), Behaviour { runs: 500, ..server() });
    let mut world = World::scripted(notifying(1), [slow, short, Behaviour::refused(), Behaviour::refused(), server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.ask(Request::Reload);
    world.run_until(60_000);
    assert_eq!(world.snapshot().ready, 1);
}

#[test]
fn a_predecessor_that_cannot_be_killed_does_not_hold_the_reload_up() {
    let stuck = Behaviour { kill_takes: NEVER, ..server().on_stop(OnStop::Ignores) };
    let mut world = World::scripted(notifying(2), [stuck, server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(30_000);
    assert_eq!(world.snapshot().reload.state, ReloadState::Done);
    assert_eq!(world.starts(1), [0, 10_200 + 8_000 + 1_260]);
}

#[test]
fn one_slot_can_be_restarted() {
    let mut world = World::of(notifying(2), server());
    world.run_until(10_000);
    world.ask(Request::Restart(Slot(1)));
    world.ask(Request::Restart(Slot(2)));
    world.run_until(20_000);
    assert_eq!((world.starts(0), world.starts(1), refusals(&world)), (vec![0], vec![0, 10_000], 1));
    assert_eq!(world.snapshot().generation, 1);
}

#[test]
fn a_restart_does_not_wait_for_the_backoff() {
    let mut world = World::scripted(workers(1), [Behaviour::exits(3, 1_500), server()]);
    world.run_until(1_550);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(5_000);
    assert_eq!(world.starts(0), [0, 1_550]);
}

#[test]
fn a_worker_older_than_max_lifetime_is_replaced_one_at_a_time() {
    let lifetime = Duration::from_secs(100);
    let mut world = World::of(Policy { max_lifetime: Some(lifetime), ..notifying(3) }, server());
    world.run_until(112_000);
    let mut starts: Vec<u64> = (0..3).flat_map(|slot| world.starts(slot)).filter(|at| *at > 0).collect();
    starts.sort_unstable();
    assert_eq!(starts.len(), 3);
    assert!(starts.iter().all(|at| (100_000..=111_500).contains(at)), "up to 10 % of jitter: {starts:?}");
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 500), "one at a time: {starts:?}");
    assert!(starts[1] - starts[0] > 500 || starts[2] - starts[1] > 500, "jitter: {starts:?}");
    assert_eq!(world.snapshot().rows[0].last_exit.unwrap().reason, Reason::Lifetime);
}

#[test]
fn a_missed_watchdog_is_hung_and_replaced_successor_first() {
    let interval = Notice::WatchdogInterval(Duration::from_secs(2));
    let hangs = server().saying(500, interval).saying(1_900, Notice::Alive);
    let mut world = World::scripted(notifying(1), [hangs, server()]);
    world.run_until(3_900);
    assert_eq!(world.snapshot().rows[0].state, RowState::Ready);
    world.run_until(3_901);
    assert_eq!((world.snapshot().rows[0].state, world.snapshot().ready), (RowState::Hung, 0), "2 s after its last sign");
    world.run_until(10_000);
    assert_eq!((world.starts(0), world.times(is_stop)), (vec![0, 3_901], vec![4_101]));
    let row = &world.snapshot().rows[0];
    assert_eq!((row.restarts, row.last_exit.unwrap().reason), (1, Reason::Hung));
}

#[test]
fn a_worker_that_hangs_in_its_first_second_is_a_failing_start() {
    let mut world = World::of(notifying(1), Behaviour::serves().notifies(99).saying(99, Notice::Trigger));
    world.run_until(20_000);
    let waits: Vec<u64> = world.starts(0).windows(2).map(|pair| pair[1] - pair[0] - 100).collect();
    assert!(waits.iter().take(6).enumerate().all(|(n, wait)| (100 << n..=120 << n).contains(wait)), "backoff: {waits:?}");
}

#[test]
fn a_hung_worker_without_a_successor_ends_and_its_slot_starts_again() {
    // Exit 0 after our stop signal is no end of its own: RESTART=on-failure replaces it too.
    let policy = Policy { restart: Restart::OnFailure, ..notifying(1) };
    let hangs = server().saying(5_000, Notice::Trigger);
    let mut world = World::scripted(policy, [hangs, Behaviour::exits(3, 100), server()]);
    world.run_until(20_000);
    assert_eq!((world.starts(0), world.times(is_stop)), (vec![0, 5_001, 5_402], vec![5_102]));
}

#[test]
fn a_lifetime_without_a_successor_is_tried_again_later() {
    let policy = Policy { max_lifetime: Some(Duration::from_secs(100)), ..notifying(1) };
    let mut world = World::scripted(policy, [server(), Behaviour::exits(3, 99), server()]);
    world.run_until(150_000);
    let starts = world.starts(0);
    assert_eq!((starts.len(), starts[2] - starts[1]), (3, 100 + 30_000));
}

#[test]
fn a_hung_worker_may_recover_before_its_turn_comes() {
    let trigger = server().saying(12_000, Notice::Trigger).saying(12_100, Notice::Alive);
    let slow = Behaviour::serves().notifies(3_000);
    let mut world = World::scripted(notifying(2), [server(), trigger, slow]);
    world.run_until(10_000);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(12_050);
    assert_eq!(world.snapshot().rows[2].state, RowState::Hung);
    world.run_until(20_000);
    assert_eq!((world.starts(1), world.snapshot().ready), (vec![0], 2));
}

#[test]
fn a_stale_reason_replaces_nobody() {
    // Slot 1 hangs and crashes while slot 0 is being replaced: its fresh worker is not the one that hung.
    let hangs = Behaviour { runs: 12_500, ..server() }.saying(12_000, Notice::Trigger);
    let slow = Behaviour::serves().notifies(3_000);
    let mut world = World::scripted(notifying(2), [server(), hangs, slow, server()]);
    world.run_until(10_000);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(60_000);
    assert_eq!(world.starts(1), [0, 12_501]);
}

#[test]
fn the_default_watchdog_arms_with_the_first_sign_of_life() {
    let policy = || Policy { watchdog: Some(Duration::from_secs(1)), ..notifying(1) };
    let mut world = World::of(policy(), server());
    world.run_until(60_000);
    assert_eq!(world.starts(0), [0]);
    let mut world = World::scripted(policy(), [server().saying(999, Notice::Alive), server()]);
    world.run_until(60_000);
    assert_eq!(world.starts(0), [0, 2_000]);
}

#[test]
fn an_announced_stop_gets_the_grace() {
    let announces = server().saying(10_000, Notice::Stopping);
    let mut world = World::scripted(notifying(1), [announces, server()]);
    world.run_until(18_000);
    assert_eq!((world.snapshot().ready, world.starts(0)), (0, vec![0]));
    world.run_until(18_001);
    assert_eq!((world.starts(0), world.times(is_stop)), (vec![0, 18_001], vec![]));
}

#[test]
fn scaling_goes_from_1_to_4_times_the_larger_count() {
    let mut world = World::of(workers(2), server());
    world.run_until(2_000);
    world.ask(Request::Scale(9));
    world.ask(Request::Scale(0));
    assert_eq!((world.snapshot().wanted, refusals(&world)), (2, 2));
    world.ask(Request::Scale(8));
    world.ask(Request::More);
    assert_eq!((world.snapshot().wanted, refusals(&world)), (8, 3));
    world.run_until(4_000);
    assert_eq!((world.snapshot().ready, world.starts(7)), (8, vec![2_000]));
    world.ask(Request::Scale(1));
    world.ask(Request::Fewer);
    assert_eq!((world.snapshot().wanted, refusals(&world)), (1, 4));
    world.run_until(4_300);
    assert_eq!((world.times(is_stop), world.snapshot().rows.len()), (vec![4_000; 7], 1), "gracefully, the highest");
}

#[test]
fn memory_refuses_more_but_never_fewer() {
    let mut world = World::of(Policy { memory_allows: Some(2), ..workers(3) }, server());
    world.ask(Request::More);
    assert_eq!((world.snapshot().wanted, refusals(&world)), (3, 1));
    world.ask(Request::Fewer);
    world.ask(Request::Fewer);
    world.ask(Request::More);
    assert_eq!((world.snapshot().wanted, refusals(&world)), (2, 1));
}

#[test]
fn a_slot_that_is_opened_again_waits_for_its_old_worker() {
    let mut world = World::of(workers(2), server());
    world.run_until(10_000);
    world.ask(Request::Fewer);
    world.run_until(10_100);
    world.ask(Request::Restart(Slot(1)));
    assert_eq!(refusals(&world), 1, "a slot on its way out is no slot to restart");
    world.ask(Request::More);
    world.run_until(20_000);
    assert_eq!(world.starts(1), [0, 10_300]);
}

#[test]
fn it_ends_when_the_last_slot_that_runs_is_scaled_away() {
    let mut world = World::scripted(workers(2), [Behaviour::exits(0, 100), server()]);
    world.run_until(10_000);
    world.ask(Request::Scale(1));
    world.run_until(20_000);
    assert_eq!(world.end(), (10_300, 0));
}

// === what the probes say ===

#[test]
fn healthz_fails_when_no_worker_was_ready_for_unhealthy_after() {
    let mut world = World::of(notifying(1), Behaviour::serves());
    assert_eq!(world.snapshot().unhealthy_from, Some(at(60_000 + 120_000)), "from START_TIMEOUT on");
    world.run_until(30_000);
    assert_eq!(world.snapshot().unhealthy_from, Some(at(180_000)));
    let mut world = World::scripted(notifying(1), [Behaviour { runs: 9_999, ..server() }, Behaviour::serves()]);
    world.run_until(9_000);
    assert_eq!(world.snapshot().unhealthy_from, None);
    world.run_until(20_000);
    assert_eq!(world.snapshot().unhealthy_from, Some(at(10_000 + 120_000)), "from its end on");
    world.ask(super::STOP);
    assert_eq!(world.snapshot().unhealthy_from, None, "never during a stop");
}

#[test]
fn readyz_wants_all_workers_the_first_time_and_then_min_ready() {
    let slow = |ms| Behaviour::serves().notifies(ms);
    let mut world = World::scripted(Policy { min_ready: 2, ..notifying(3) }, [slow(99), slow(199), slow(999)]);
    world.run_until(999);
    assert!(world.snapshot().unready.is_some() && world.snapshot().state == State::Starting);
    world.run_until(1_000);
    assert!(world.snapshot().unready.is_none() && world.snapshot().state == State::Running);

    let crash = |ms| Behaviour { runs: ms, ..slow(99) };
    let mut world = World::scripted(Policy { min_ready: 2, ..notifying(3) }, [crash(5_000), crash(6_000), slow(99), slow(NEVER)]);
    world.run_until(5_500);
    assert!(world.snapshot().unready.is_none(), "two are enough now");
    world.run_until(6_500);
    assert!(world.snapshot().unready.is_some_and(|why| why.contains("MIN_READY")));
}

#[test]
fn readyz_is_content_with_min_ready_once_start_timeout_has_passed() {
    let mut world = World::scripted(notifying(2), [server(), Behaviour::serves()]);
    world.run_until(59_999);
    assert!(world.snapshot().unready.is_some());
    world.run_until(60_000);
    assert!(world.snapshot().unready.is_none());
    assert_eq!(world.times(is_ready), [200]);
    assert!(world.times(|effect| matches!(effect, Effect::Note(Note::NotReadyInTime { .. }))) == [60_000]);
}
