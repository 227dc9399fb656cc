//! Workers that are asked to part, and hearts that stand still: Node's cluster protocol (sections 4, 7 and 8).

use super::super::event::{Event, Request};
use super::super::policy::Policy;
use super::super::sim::process::{Behaviour, OnPart, OnStop};
use super::super::sim::world::{Happening, World};
use super::super::words::{ExitStatus, Life};
use super::{STOP, story, workers};
use crate::cluster::words::Time;
use std::time::Duration;

fn sharing(count: u32) -> Policy {
    Policy { sees_listening: true, quiet: true, ..workers(count) }
}

/// Listens after 200 ms; its clients have their last answers 100 ms after it was to end.
fn node(on_part: OnPart) -> Behaviour {
    Behaviour::serves().listens(199).quiet_after(100).on_part(on_part)
}

fn until(mut world: World, ms: u64) -> World {
    world.run_until(ms);
    world
}

#[test]
fn one_that_parts_gets_no_stop_signal() {
    let mut world = World::of(sharing(2), node(OnPart::Ends(50)));
    world.run_until(10_000);
    world.ask(Request::Reload);
    let world = until(world, 20_000);
    let told = story(&world);
    assert!(told.contains("10200 disconnect 0, 10200 seek 0 until 14200, 10300 part 0, 10350 start 3"), "{told}");
    assert!(!told.contains("stop "), "{told}");
}

#[test]
fn a_stop_asks_all_to_part_and_ends_with_0() {
    let mut world = World::of(sharing(2), node(OnPart::Ends(50)));
    world.run_until(10_000);
    world.ask(STOP);
    let world = until(world, 20_000);
    assert_eq!(world.end().1, 0);
    let told = story(&world);
    assert!(told.ends_with("10100 disconnect 0, 10100 part 0, 10100 disconnect 1, 10100 refuse, 10100 part 1"), "{told}");
}

#[test]
fn one_that_has_parted_and_stays_gets_the_stop_signal_a_second_later() {
    let mut world = World::of(sharing(1), node(OnPart::Stays(30)));
    world.run_until(10_000);
    world.ask(STOP);
    let told = story(&until(world, 20_000));
    assert!(told.ends_with("10100 part 0, 11130 stop 0"), "{told}");
}

#[test]
fn connections_that_do_not_end_are_given_half_of_what_is_left_of_the_grace() {
    let mut world = World::of(sharing(1), node(OnPart::Serves).on_stop(OnStop::Ignores));
    world.run_until(10_000);
    world.ask(STOP);
    let world = until(world, 30_000);
    let told = story(&world);
    assert!(told.ends_with("10100 part 0, 14050 stop 0, 18000 kill 0"), "{told}");
    assert_eq!(world.end().1, 137);
}

#[test]
fn one_that_ends_while_it_is_asked_is_not_signalled() {
    let dies = Behaviour { runs: 10_349, status: ExitStatus::Code(3), ..node(OnPart::Serves) };
    let mut world = World::of(sharing(1), dies);
    world.run_until(10_000);
    world.ask(STOP);
    let world = until(world, 30_000);
    assert_eq!(world.end().1, 3);
    assert!(story(&world).ends_with("10100 part 0"), "{}", story(&world));
}

fn unanswered(ms: u64, since: Option<u64>) -> (u64, Happening) {
    let since = since.map(|ms| Time(Duration::from_millis(ms)));
    (ms, Happening::Noise(Event::Unanswered { life: Life(0), since }))
}

#[test]
fn a_heart_that_stands_still_for_hang_timeout_is_replaced() {
    let policy = Policy { hang_timeout: Some(Duration::from_secs(4)), ..sharing(1) };
    let mut world = World::of(policy.clone(), node(OnPart::Serves));
    let (at, happening) = unanswered(11_000, Some(10_000));
    world.plan(at, happening);
    let told = story(&until(world, 15_000));
    assert!(told.contains("14000 hung 0, 14000 start 1"), "{told}");
    // One that answers in time is left alone, and one that comes back is taken back.
    let mut world = World::of(policy, node(OnPart::Serves));
    for (at, happening) in
        [unanswered(11_000, Some(10_000)), unanswered(13_999, None), unanswered(21_000, Some(20_000)), unanswered(24_100, None)]
    {
        world.plan(at, happening);
    }
    let told = story(&until(world, 30_000));
    assert!(told.contains("24000 hung 0") && told.contains("24100 join 0") && !told.contains("14000"), "{told}");
}

#[test]
fn a_long_start_is_no_hang() {
    let policy = Policy { hang_timeout: Some(Duration::from_secs(2)), ..sharing(1) };
    let slow = Behaviour::serves().listens(9_999);
    let mut world = World::of(policy, slow);
    for (at, happening) in [unanswered(500, Some(0)), unanswered(10_100, None)] {
        world.plan(at, happening);
    }
    let told = story(&until(world, 20_000));
    assert!(!told.contains("hung"), "{told}");
}
