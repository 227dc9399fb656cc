//! What is counted: replacements by reason, in each slot and in all, reloads by outcome, and how long the last start took.

use std::time::Duration;

use super::super::event::{Notice, Request};
use super::super::policy::{Policy, ReadyMode};
use super::super::sim::process::{Behaviour, OnStop};
use super::super::sim::world::World;
use super::super::status::{Reason, Restarts};
use super::workers;

/// Ready after 200 ms, gone 300 ms after the stop signal.
fn server() -> Behaviour {
    Behaviour::serves().notifies(199).on_stop(OnStop::Exits(0, 300))
}

fn notifying(count: u32) -> Policy {
    Policy { ready: ReadyMode::Notify, ..workers(count) }
}

/// What was counted at all.
fn counted(restarts: &Restarts) -> Vec<(Reason, u64)> {
    restarts.iter().filter(|(_, count)| *count > 0).collect()
}

fn in_slot(world: &World, slot: usize) -> Vec<(Reason, u64)> {
    counted(&world.snapshot().rows[slot].restarts_by)
}

#[test]
fn a_reload_counts_each_slot_and_itself() {
    let mut world = World::of(notifying(2), server());
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(60_000);
    let tally = world.snapshot().tally;
    assert_eq!((tally.reloads_done, tally.reloads_aborted), (1, 0));
    assert_eq!((in_slot(&world, 0), in_slot(&world, 1)), (vec![(Reason::Reload, 1)], vec![(Reason::Reload, 1)]));
    assert_eq!(counted(&tally.restarts), [(Reason::Reload, 2)]);
}

#[test]
fn an_aborted_reload_replaces_nobody() {
    let mut world = World::scripted(notifying(2), [server(), server(), Behaviour::exits(3, 100), server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(60_000);
    let tally = world.snapshot().tally;
    assert_eq!((tally.reloads_done, tally.reloads_aborted, counted(&tally.restarts)), (0, 1, vec![]));
}

#[test]
fn ends_of_their_own_are_told_apart() {
    let runs = |runs, status| Behaviour { runs, ..Behaviour::exits(status, runs).notifies(199) };
    let hangs = server().saying(500, Notice::WatchdogInterval(Duration::from_secs(2)));
    let mut world = World::scripted(notifying(1), [runs(5_000, 0), runs(5_000, 3), hangs, server()]);
    world.run_until(60_000);
    assert_eq!(in_slot(&world, 0), [(Reason::Exit, 1), (Reason::Crash, 1), (Reason::Hung, 1)]);
    assert_eq!(world.snapshot().rows[0].restarts, 3);
}

#[test]
fn what_a_slot_has_counted_goes_with_it_and_stays_in_all() {
    let mut world = World::scripted(notifying(2), [server(), Behaviour { runs: 5_000, ..server() }, server()]);
    world.run_until(10_000);
    assert_eq!(in_slot(&world, 1).iter().map(|(_, count)| count).sum::<u64>(), 1);
    let before = world.snapshot().tally.restarts;
    world.ask(Request::Scale(1));
    world.run_until(20_000);
    assert_eq!(world.snapshot().rows.len(), 1);
    assert_eq!(world.snapshot().tally.restarts, before, "whoever only goes is not replaced");
}

#[test]
fn the_last_start_is_that_of_whoever_got_ready() {
    let slower = Behaviour::serves().notifies(699).on_stop(OnStop::Exits(0, 300));
    let mut world = World::scripted(notifying(1), [server(), slower, Behaviour::exits(3, 100), server()]);
    world.run_until(100);
    assert_eq!(world.snapshot().rows[0].last_start, None);
    world.run_until(10_000);
    assert_eq!(world.snapshot().rows[0].last_start, Some(Duration::from_millis(200)));
    world.ask(Request::Reload);
    world.run_until(20_000);
    assert_eq!(world.snapshot().rows[0].last_start, Some(Duration::from_millis(700)));
    world.ask(Request::Reload);
    world.run_until(30_000);
    assert_eq!(world.snapshot().rows[0].last_start, Some(Duration::from_millis(700)), "the one that failed did not start");
}
