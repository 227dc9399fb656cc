//! Readiness, restart, backoff, giving up.

use std::time::Duration;

use super::super::effect::{Effect, Finish, Note};
use super::super::event::{ExecFailure, Notice};
use super::super::policy::{Backoff, Policy, ReadyMode, Restart};
use super::super::restart::{self, Jitter};
use super::super::sim::process::{Behaviour, Exec, NEVER, OnStop, Rest};
use super::super::sim::world::World;
use super::super::status::{Reason, RowState};
use super::super::words::Signal;
use super::{is_kill, is_ready, ready_by, workers};

fn restarting(restart: Restart) -> Policy {
    Policy { restart, ..Policy::default() }
}

// === section 5 ===

#[test]
fn running_means_one_second_of_running() {
    let slow_exec = Behaviour { exec: Exec::After(900), ..Behaviour::serves() };
    for mode in [ReadyMode::Running, ReadyMode::Auto] {
        let mut world = World::of(ready_by(mode), slow_exec.clone());
        world.run_until(10_000);
        assert_eq!(world.times(is_ready), [1900], "{mode:?}");
    }
}

#[test]
fn notify_means_its_word_and_running_ignores_it() {
    for (mode, ready) in [(ReadyMode::Notify, 301), (ReadyMode::Auto, 301), (ReadyMode::Running, 1001)] {
        let mut world = World::of(ready_by(mode), Behaviour::serves().notifies(300));
        world.run_until(10_000);
        assert_eq!(world.times(is_ready), [ready], "{mode:?}");
    }
}

#[test]
fn what_one_worker_has_said_is_asked_of_all_later_ones() {
    let (says, silent) = (Behaviour { runs: 5_000, ..Behaviour::serves().notifies(300) }, Behaviour::serves());
    let mut world = World::scripted(ready_by(ReadyMode::Auto), [says, silent]);
    world.run_until(65_000);
    assert_eq!((world.starts(0), world.times(is_ready)), (vec![0, 5_001], vec![301]));
    world.run_until(65_002);
    assert_eq!(world.times(is_kill), [65_001], "START_TIMEOUT after its start");
    assert_eq!(world.snapshot().rows[0].last_exit.unwrap().reason, Reason::StartTimeout);
}

#[test]
fn a_start_timeout_is_for_those_that_are_asked() {
    for (mode, kills) in [(ReadyMode::Notify, vec![60_000]), (ReadyMode::Running, vec![]), (ReadyMode::Auto, vec![])] {
        let mut world = World::of(ready_by(mode), Behaviour::serves());
        world.run_until(61_000);
        assert_eq!(world.times(is_kill), kills, "{mode:?}");
    }
}

#[test]
fn the_timeout_follows_the_slowest_start() {
    let slow = Behaviour { runs: 100_000, ..Behaviour::serves().notifies(40_000) };
    let mut world = World::scripted(ready_by(ReadyMode::Notify), [slow, Behaviour::serves()]);
    world.run_until(300_000);
    assert_eq!(world.times(is_kill)[0], 100_001 + 3 * 40_001);

    // Ready by running for a second, it tells only later how long a start takes; a reload of its own says nothing of that.
    let slow = Behaviour { runs: 100_000, ..Behaviour::serves().notifies(40_000) };
    let slow = slow.saying(50_000, Notice::Reloading).saying(90_000, Notice::Ready);
    let mut world = World::scripted(ready_by(ReadyMode::Auto), [slow, Behaviour::serves()]);
    world.run_until(300_000);
    assert_eq!(world.times(is_kill)[0], 100_001 + 3 * 40_001);
}

// === section 5a ===

#[test]
fn the_others_follow_slot_0_when_it_is_ready() {
    let policy = Policy { slot_zero_first: true, ..workers(3) };
    let mut world = World::of(policy, Behaviour::serves().notifies(700));
    world.run_until(700);
    assert_eq!((world.starts(1), world.snapshot().rows[1].state), (vec![], RowState::Backoff));
    world.run_until(2_000);
    assert_eq!([world.starts(0), world.starts(1), world.starts(2)], [[0], [701], [701]]);
}

#[test]
fn the_others_follow_slot_0_at_the_latest_after_start_timeout() {
    let policy = Policy { slot_zero_first: true, start_timeout: Duration::from_secs(60), ready: ReadyMode::Notify, ..workers(2) };
    let mut world = World::of(policy, Behaviour::serves().notifies(59_000_000));
    world.run_until(59_999);
    assert!(world.starts(1).is_empty());
    world.run_until(60_000);
    assert_eq!(world.starts(1), [60_000]);
}

#[test]
fn a_first_worker_that_ends_ends_the_cluster() {
    for count in [1, 3] {
        let policy = Policy { slot_zero_first: true, end_with_first: true, ..workers(count) };
        let mut world = World::of(policy.clone(), Behaviour::exits(3, 500));
        world.run_until(60_000);
        assert_eq!((world.starts(0), world.starts(1), world.end()), (vec![0], vec![], (501, 3)), "{count} workers");

        let mut world = World::of(policy, Behaviour::exits(3, 1_500));
        world.run_until(4_000);
        assert_eq!(world.ended, None, "it was ready: a server that crashes is replaced");
    }
    let asked_for = Policy { slot_zero_first: true, ..workers(2) };
    let mut world = World::of(asked_for, Behaviour::exits(3, 500));
    world.run_until(3_000);
    assert!(world.starts(0).len() > 2, "an explicit RESTART retries");
}

// === section 6 ===

#[test]
fn backoff_doubles_from_100_ms_to_30_s_within_its_bounds() {
    let backoff = Policy::default().backoff;
    let mut jitter = Jitter::new(7);
    for failures in 1..=40 {
        let base = u64::from(100 * 2_u32.pow((failures - 1).min(9))).min(30_000);
        for _ in 0..100 {
            let delay = restart::delay(backoff, failures, jitter.next());
            let (least, most) = if base == 30_000 { (24_000, 30_000) } else { (base * 4 / 5, (base * 6 / 5).min(30_000)) };
            let bounds = Duration::from_millis(least.max(100))..=Duration::from_millis(most);
            assert!(bounds.contains(&delay), "{failures}: {delay:?} is not in {bounds:?}");
        }
    }
    let narrow = Backoff { first: Duration::from_millis(100), longest: Duration::from_millis(105) };
    for failures in 1..100 {
        let delay = restart::delay(narrow, failures, jitter.next());
        assert!((narrow.first..=narrow.longest).contains(&delay), "{delay:?}");
    }
    let delays: Vec<Duration> = (0..8).map(|_| restart::delay(backoff, 3, jitter.next())).collect();
    assert!(delays.iter().any(|delay| *delay != delays[0]), "jitter: {delays:?}");
}

#[test]
fn failing_starts_wait_longer_and_longer() {
    // Ready for 0.4 s: a failing start, but the cluster never gives up any more.
    let mut world = World::of(Policy::default(), Behaviour::exits(3, 1_400));
    world.run_until(120_000);
    let starts = world.starts(0);
    let waits: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0] - 1_401).collect();
    for (failures, wait) in waits.iter().take(8).enumerate() {
        let base = 100 << failures;
        assert!((base..=base * 6 / 5).contains(wait), "failure {failures}: {wait} ms");
    }
    assert_eq!(
        world.snapshot().rows[0].restarts,
        u32::try_from(starts.len()).unwrap() - u32::from(world.snapshot().rows[0].life.is_some())
    );
}

#[test]
fn a_worker_that_was_ready_for_a_second_is_replaced_at_once() {
    let mut world = World::of(Policy::default(), Behaviour::exits(3, 2_000));
    world.run_until(10_000);
    assert_eq!(world.starts(0), [0, 2_001, 4_002, 6_003, 8_004]);
    let mut world = World::of(Policy::default(), Behaviour::exits(3, 1_999));
    world.run_until(2_050);
    assert_eq!(world.starts(0), [0], "999 ms are not enough");
}

#[test]
fn after_five_failures_of_every_slot_it_gives_up_with_the_last_status() {
    let mut lives = vec![Behaviour::exits(3, 10); 9];
    lives.push(Behaviour::crashes(Signal(11), 10));
    let script: [Behaviour; 10] = lives.try_into().unwrap();
    let mut world = World::scripted(workers(2), script);
    world.run_until(60_000);
    assert_eq!((world.starts(0).len(), world.starts(1).len()), (5, 5));
    assert_eq!(world.end().1, 139);
    assert!(world.notes().any(|note| *note == Note::Finishing { why: Finish::GaveUp { failures: 5 } }));
}

#[test]
fn once_any_worker_was_ready_it_never_gives_up() {
    let mut world = World::scripted(workers(2), [Behaviour::serves(), Behaviour::exits(3, 10)]);
    world.run_until(600_000);
    assert!(world.ended.is_none() && world.starts(1).len() > 20);
}

#[test]
fn a_recycle_breaks_the_row_of_failures() {
    let (fails, recycles) = (Behaviour::exits(3, 10), Behaviour::exits(0, 10));
    let mut lives = vec![fails.clone(); 4];
    lives.push(recycles);
    lives.extend(vec![fails; 4]);
    lives.push(Behaviour::serves());
    let script: [Behaviour; 10] = lives.try_into().unwrap();
    let mut world = World::scripted(ready_by(ReadyMode::Running), script);
    world.run_until(60_000);
    assert_eq!((world.ended, world.snapshot().ready), (None, 1));
}

#[test]
fn a_command_that_cannot_be_executed_is_127_or_126_and_never_retried() {
    for (failure, code) in [(ExecFailure::NotFound, 127), (ExecFailure::NotExecutable, 126)] {
        let mut world = World::of(workers(3), Behaviour::cannot_execute(failure));
        world.run_until(60_000);
        assert_eq!(world.end(), (0, code));
        assert_eq!(world.times(|effect| matches!(effect, Effect::Spawn { .. })).len(), 3);
    }
    // Later it is a failing start; so is one that may work the next time.
    let mut world = World::scripted(
        Policy::default(),
        [Behaviour::exits(1, 5_000), Behaviour::cannot_execute(ExecFailure::NotFound), Behaviour::serves()],
    );
    world.run_until(10_000);
    assert_eq!((world.starts(0).len(), world.snapshot().ready), (3, 1));
    let mut world = World::scripted(Policy::default(), [Behaviour::cannot_execute(ExecFailure::Transient), Behaviour::serves()]);
    world.run_until(10_000);
    assert_eq!((world.starts(0).len(), world.snapshot().ready), (2, 1));
}

#[test]
fn a_refused_fork_is_retried_with_backoff_and_the_others_go_on() {
    let mut world =
        World::scripted(workers(2), [Behaviour::serves(), Behaviour::refused(), Behaviour::refused(), Behaviour::serves()]);
    world.run_until(5_000);
    let starts = world.starts(1);
    assert!((100..=120).contains(&starts[1]) && (200..=240).contains(&(starts[2] - starts[1])), "{starts:?}");
    assert_eq!((world.starts(0).len(), world.snapshot().ready), (1, 2));
}

#[test]
fn a_job_that_ends_with_0_is_done_and_jobs_end_with_the_worst() {
    let mut world = World::of(Policy::default(), Behaviour::exits(0, 500));
    world.run_until(60_000);
    assert_eq!((world.starts(0), world.end()), (vec![0], (501, 0)));
    let never = Policy { restart: Restart::Never, ..workers(3) };
    let mut world =
        World::scripted(never, [Behaviour::exits(4, 10), Behaviour::crashes(Signal::TERM, 700), Behaviour::exits(0, 3_000)]);
    world.run_until(60_000);
    assert_eq!(world.end(), (3_001, 143));
}

#[test]
fn an_exit_with_0_is_a_recycle_where_the_mode_is_explicit() {
    for mode in [ReadyMode::Running, ReadyMode::Notify] {
        let mut world = World::of(ready_by(mode), Behaviour::exits(0, 500));
        world.run_until(2_100);
        assert_eq!(world.starts(0), [0, 501, 1_002, 1_503, 2_004], "{mode:?}");
    }
    let mut world = World::of(ready_by(ReadyMode::Running), Behaviour::exits(0, 0));
    world.run_until(1_000);
    assert_eq!(world.starts(0).len(), 11, "one that ends in no time does not spin");
    // A program that has notified is a server, in any mode and also when it ends before it is ready.
    let (says, silent) = (Behaviour::exits(0, 5_000).notifies(10), Behaviour::exits(0, 500));
    let mut world = World::scripted(Policy::default(), [says, silent, Behaviour::serves()]);
    world.run_until(10_000);
    assert_eq!((world.starts(0).len(), world.ended), (3, None));
}

#[test]
fn each_restart_mode_by_how_a_ready_worker_ends() {
    for (mode, clean, failed) in [
        (Restart::Auto, true, true),
        (Restart::Always, true, true),
        (Restart::OnFailure, false, true),
        (Restart::Never, false, false),
    ] {
        for (code, replaced) in [(0, clean), (3, failed)] {
            let mut world = World::scripted(restarting(mode), [Behaviour::exits(code, 5_000), Behaviour::serves()]);
            world.run_until(10_000);
            assert_eq!(world.starts(0).len(), if replaced { 2 } else { 1 }, "{mode:?}, exit {code}");
            assert_eq!(world.ended.map(|(_, code)| code), (!replaced).then_some(code));
        }
    }
    let mut world = World::of(restarting(Restart::Always), Behaviour::exits(0, 100));
    world.run_until(400);
    assert!(world.starts(0).len() > 1, "always: a job too");
}

#[test]
fn what_a_crash_leaves_behind_is_gone_before_the_slot_starts_again() {
    let rest = Rest { count: 2, stays: NEVER, stop_takes: NEVER };
    let crash = Behaviour { kill_takes: 15, ..Behaviour::exits(3, 5_000).leaving(rest) };
    let mut world = World::scripted(Policy::default(), [crash, Behaviour::serves().on_stop(OnStop::Dies)]);
    world.run_until(10_000);
    assert_eq!((world.times(is_kill), world.starts(0)), (vec![5_001], vec![0, 5_016]));
}

#[test]
fn what_outlives_sigkill_does_not_keep_its_slot() {
    let stuck = Behaviour { kill_takes: NEVER, ..Behaviour::serves() };
    let mut world = World::scripted(ready_by(ReadyMode::Notify), [stuck, Behaviour::serves().notifies(5)]);
    world.run_until(62_000);
    assert_eq!(world.times(is_kill), [60_000, 60_020, 60_060, 60_140, 60_300, 60_620, 61_260]);
    assert_eq!((world.starts(0).len(), world.snapshot().ready), (2, 1));
    assert_eq!(world.snapshot().rows.len(), 2, "both are shown");
}
