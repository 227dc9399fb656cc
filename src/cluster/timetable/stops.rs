//! The phases of a stop by the clock, and the exit status.

use std::time::Duration;

use super::super::effect::{Effect, Note};
use super::super::event::Request;
use super::super::policy::{DrainDelay, Policy, ReadyMode, Restart};
use super::super::sim::process::{Behaviour, NEVER, OnStop, Rest};
use super::super::sim::world::{Strays, World};
use super::super::status::{ReloadState, State};
use super::super::words::Signal;
use super::{INTERRUPT, STOP, is_kill, is_stop, ready_by, status_after_a_stop, workers};

fn stubborn() -> Behaviour {
    Behaviour::serves().on_stop(OnStop::Ignores)
}

fn exiting(code: u8) -> Behaviour {
    Behaviour::serves().on_stop(OnStop::Exits(code, 50))
}

#[test]
fn the_stop_signal_follows_drain_delay_and_the_kill_follows_grace() {
    let drain = Duration::from_secs(5);
    for (delay, listening, begins) in [
        (DrainDelay::Always(drain), false, 15_000),
        (DrainDelay::WhereListening(drain), true, 15_000),
        (DrainDelay::WhereListening(drain), false, 10_000),
    ] {
        let mut world = World::of(Policy { drain_delay: delay, ..workers(2) }, stubborn());
        world.run_until(10_000);
        world.ask(Request::Stop { interrupt: false, listening });
        assert!(world.snapshot().unready.is_some(), "readiness fails at once");
        if begins > 10_000 {
            assert_eq!((world.snapshot().state, world.snapshot().ready), (State::Draining, 2), "and they still serve");
        }
        world.run_until(60_000);
        assert_eq!(world.times(is_stop), [begins; 2], "{delay:?}");
        assert_eq!((world.times(is_kill), world.end()), (vec![begins + 8_000; 2], (begins + 8_000, 137)));
    }
}

#[test]
fn it_ends_at_the_moment_when_nothing_is_left() {
    let mut world = World::of(workers(3), exiting(0));
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(60_000);
    assert_eq!(world.end(), (10_050, 0));
}

#[test]
fn everything_goes_on_in_the_drain() {
    let policy = Policy { drain_delay: DrainDelay::Always(Duration::from_secs(5)), ..Policy::default() };
    let mut world = World::scripted(policy, [Behaviour::exits(3, 11_000), Behaviour::serves()]);
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(60_000);
    assert_eq!((world.starts(0), world.end()), (vec![0, 11_001], (15_000, 0)), "a crash is replaced in the drain");
}

#[test]
fn a_start_that_is_due_when_the_drain_ends_does_not_happen() {
    let policy = Policy { drain_delay: DrainDelay::Always(Duration::from_millis(1_001)), ..Policy::default() };
    let mut world = World::of(policy, Behaviour::exits(3, 11_000));
    world.deadlines_first = true;
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(60_000);
    assert_eq!(world.starts(0), [0]);
}

#[test]
fn a_second_interrupt_means_now_after_500_ms() {
    for (second, end) in [(10_499, 18_000), (10_500, 10_500)] {
        let mut world = World::of(Policy::default(), stubborn());
        world.run_until(10_000);
        world.ask(INTERRUPT);
        world.run_until(second);
        world.ask(INTERRUPT);
        world.run_until(60_000);
        assert_eq!(world.end(), (end, 137), "the second one at {second}");
    }
}

#[test]
fn interrupts_are_counted_from_the_first() {
    let mut world = World::of(Policy::default(), stubborn());
    world.run_until(10_000);
    for at in [10_000, 10_300, 10_600] {
        world.run_until(at);
        world.ask(INTERRUPT);
    }
    world.run_until(60_000);
    assert_eq!(world.end(), (10_600, 137));
}

#[test]
fn what_a_job_leaves_in_the_namespace_gets_the_grace() {
    let mut world = World::of(Policy::default(), Behaviour::exits(0, 100));
    world.strays = Strays { own: 1, own_takes: 3_000, ..Strays::default() };
    world.run_until(60_000);
    let (at, code) = world.end();
    assert!((3_101..=3_201).contains(&at) && code == 0, "{at}, {code}");
}

#[test]
fn a_second_term_changes_nothing() {
    for second in [STOP, INTERRUPT] {
        let mut world = World::of(Policy::default(), exiting(0));
        world.run_until(10_000);
        world.ask(STOP);
        world.run_until(10_020);
        world.ask(second);
        assert!(world.notes().any(|note| *note == Note::AlreadyStopping));
        world.run_until(60_000);
        assert_eq!((world.times(is_stop), world.end()), (vec![10_000], (10_050, 0)));
    }
}

#[test]
fn now_kills_and_is_137_whatever_they_say() {
    let mut world = World::of(workers(2), exiting(0));
    world.run_until(10_000);
    world.ask(Request::StopNow);
    world.run_until(10_001);
    assert_eq!((world.times(is_stop), world.times(is_kill), world.end()), (vec![], vec![10_000; 2], (10_000, 137)));
}

#[test]
fn a_second_now_puts_nothing_off() {
    let mut world = World::of(Policy::default(), Behaviour { kill_takes: NEVER, ..stubborn() });
    world.run_until(10_000);
    world.ask(Request::StopNow);
    for later in [10_500, 11_000, 11_500] {
        world.run_until(later);
        if world.ended.is_none() {
            world.ask(Request::StopNow);
        }
    }
    world.run_until(60_000);
    assert_eq!(world.end(), (11_000, 137));
}

#[test]
fn a_stop_in_backoff_or_in_a_start_starts_nothing_more() {
    let mut world = World::of(Policy { restart: Restart::Always, ..workers(2) }, Behaviour::exits(3, 1_400));
    world.run_until(1_450);
    world.ask(STOP);
    world.run_until(60_000);
    assert_eq!((world.starts(0), world.end()), (vec![0], (1_450, 0)), "in backoff");

    let mut world = World::of(ready_by(ReadyMode::Notify), Behaviour::serves());
    world.run_until(500);
    world.ask(STOP);
    world.run_until(60_000);
    assert_eq!(world.end(), (500, 0), "in the start");
}

#[test]
fn a_stop_ends_a_reload() {
    let policy = Policy { ready: ReadyMode::Notify, ..workers(2) };
    let mut world = World::scripted(policy, [exiting(0).notifies(5), exiting(0).notifies(5), exiting(0)]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.ask(Request::Reload);
    world.run_until(10_500);
    world.ask(STOP);
    assert_eq!(world.snapshot().reload.state, ReloadState::Aborted);
    world.run_until(60_000);
    assert_eq!((world.times(is_stop).len(), world.end()), (3, (10_550, 0)), "the successor stops too");
    assert_eq!(world.snapshot().generation, 2, "the remembered one is forgotten");
}

#[test]
fn what_a_leader_leaves_gets_the_stop_signal_and_the_rest_of_the_grace() {
    let stop_rest = |effect: &Effect| matches!(effect, Effect::StopRest { .. });
    for (takes, end, code) in [(2_000, 12_050, 0), (NEVER, 18_000, 137)] {
        let mut world = World::of(Policy::default(), exiting(0).leaving(Rest { count: 2, stays: NEVER, stop_takes: takes }));
        world.run_until(10_000);
        world.ask(STOP);
        world.run_until(60_000);
        assert_eq!((world.times(stop_rest), world.end()), (vec![10_050], (end, code)));
    }
}

#[test]
fn then_the_namespace_gets_what_is_left_of_the_grace() {
    for (takes, end) in [(3_000, 13_050), (NEVER, 18_000)] {
        let mut world = World::of(Policy::default(), exiting(0));
        world.strays = Strays { own: 2, own_takes: takes, ..Strays::default() };
        world.run_until(10_000);
        world.ask(STOP);
        world.run_until(60_000);
        assert_eq!(world.times(|effect| *effect == Effect::AskNamespace), [10_050]);
        let (at, code) = world.end();
        // A kill comes to the millisecond; a death that nobody announces is seen at the next look.
        let latest = if takes == NEVER { end + 10 } else { end + 100 };
        assert!((end..=latest).contains(&at), "{at}");
        assert_eq!(code, 0, "processes of no worker are named and do not count");
    }
}

#[test]
fn what_entered_from_outside_gets_one_second() {
    let mut world = World::of(Policy::default(), exiting(0));
    world.strays = Strays { entered: 1, entered_takes: NEVER, ..Strays::default() };
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(60_000);
    let killed = world.times(|effect| *effect == Effect::KillEntered);
    assert!(killed.len() == 1 && (11_050..=11_060).contains(&killed[0]), "{killed:?}");
    assert!(world.end().0 <= 11_070 && world.end().1 == 0, "{:?}", world.end());
}

#[test]
fn what_cannot_be_killed_is_left_behind_after_a_second() {
    let mut world = World::of(Policy::default(), Behaviour { kill_takes: NEVER, ..stubborn() });
    world.strays = Strays { own: 1, own_takes: NEVER, unkillable: true, ..Strays::default() };
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(60_000);
    let (at, code) = world.end();
    assert!((20_000..=20_020).contains(&at), "a second for the worker, a second for the namespace: {at}");
    assert_eq!(code, 137);
}

#[test]
fn a_grace_of_nothing_kills_at_once() {
    let mut world = World::of(Policy { grace: Duration::ZERO, ..Policy::default() }, stubborn());
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(60_000);
    assert_eq!((world.times(is_stop), world.times(is_kill), world.end()), (vec![10_000], vec![10_000], (10_000, 137)));
}

// === exit status after a requested stop ===

#[test]
fn ending_by_0_by_the_stop_signal_or_by_143_is_a_clean_stop() {
    for behaviour in [exiting(0), Behaviour::serves(), exiting(143)] {
        assert_eq!(status_after_a_stop(World::of(workers(2), behaviour.clone())), 0, "{behaviour:?}");
    }
    let quit = || Policy { stop_signal: Signal::QUIT, ..Policy::default() };
    assert_eq!(status_after_a_stop(World::of(quit(), Behaviour::serves())), 0);
    assert_eq!(status_after_a_stop(World::of(quit(), exiting(131))), 0, "128 + QUIT");
    assert_eq!(status_after_a_stop(World::of(quit(), exiting(143))), 143, "TERM is not its stop signal");
}

#[test]
fn the_first_other_status_counts_and_a_kill_above_all() {
    let slow = |code, takes| Behaviour::serves().on_stop(OnStop::Exits(code, takes));
    assert_eq!(status_after_a_stop(World::scripted(workers(3), [slow(9, 300), slow(7, 100), slow(0, 10)])), 7);
    assert_eq!(status_after_a_stop(World::scripted(workers(2), [slow(7, 100), stubborn()])), 137);
    assert_eq!(status_after_a_stop(World::of(Policy::default(), slow(137, 100))), 137, "by itself, but so it says");
}

#[test]
fn a_worker_that_failed_before_the_stop_and_was_not_replaced_counts() {
    let never = Policy { restart: Restart::Never, ..workers(2) };
    assert_eq!(status_after_a_stop(World::scripted(never, [Behaviour::exits(3, 2_000), exiting(0)])), 3);
    assert_eq!(status_after_a_stop(World::scripted(workers(2), [Behaviour::exits(3, 2_000), exiting(0)])), 0, "it was replaced");
}
