//! Limits that change while we run (SPEC section 9).

use super::super::effect::{Effect, Note};
use super::super::event::Request;
use super::super::policy::{Policy, ReadyMode};
use super::super::sim::process::{Behaviour, OnStop};
use super::super::sim::world::{Happening, World};
use super::super::sizing::{Caps, Inputs, Limits, Sizing, Workers};
use super::super::status::Reason;
use super::{STOP, is_kill, is_stop};

const MIB: u64 = 1 << 20;

fn limits(cpu: f64, mib: u64) -> Limits {
    Limits { cpu: Some(cpu), memory: Some(mib * MIB), affinity: 16, ..Limits::default() }
}

fn policy(inputs: Inputs) -> Policy {
    let sizing = Sizing::new(&inputs);
    Policy {
        workers: sizing.workers,
        most_workers: 4 * sizing.automatic.max(sizing.workers),
        memory_allows: sizing.memory_allows,
        inputs,
        ready: ReadyMode::Notify,
        ..Policy::default()
    }
}

fn auto(cpu: f64, mib: u64) -> Policy {
    policy(Inputs::default().under(&limits(cpu, mib)))
}

/// Ready after 200 ms, gone 300 ms after the stop signal, with 20 MiB.
fn server() -> Behaviour {
    Behaviour::serves().notifies(199).on_stop(OnStop::Exits(0, 300)).uses(20 * MIB)
}

fn world(policy: Policy) -> World {
    let mut world = World::of(policy, server());
    world.run_until(10_000);
    world
}

fn read(world: &mut World, limits: Limits) {
    let now = u64::try_from(world.now.0.as_millis()).unwrap();
    world.plan(now, Happening::LimitsRead(limits));
    world.run_until(now);
}

fn bounds(world: &World) -> Vec<Option<u64>> {
    world.log.iter().filter_map(|(_, effect)| if let Effect::Bound { bytes } = effect { Some(*bytes) } else { None }).collect()
}

fn later(world: &World) -> usize {
    world.notes().filter(|note| matches!(note, Note::LessLater { .. })).count()
}

#[test]
fn more_cpus_are_more_workers_at_once() {
    let mut world = world(auto(2.0, 2048));
    read(&mut world, limits(4.0, 2048));
    assert_eq!(world.snapshot().wanted, 4);
    assert_eq!((world.starts(2), world.starts(3)), (vec![10_000], vec![10_000]));
    // (2048 - 40) / 4, and (2048 - 32) / 2 before.
    assert_eq!(world.snapshot().facts.worker_cap_bytes, Some(502 * MIB));
    let told: Vec<_> = world.notes().filter(|note| matches!(note, Note::Resized { .. })).collect();
    assert!(
        matches!(told[..], [Note::Resized { from: 2, to: 4, cap: Some(cap), why }]
            if *cap == 502 * MIB && why == "CPU limit 4 x 1 per CPU = 4, ceil: 4; memory limit 2Gi"),
        "{told:?}"
    );
    world.run_until(20_000);
    let snapshot = world.snapshot();
    assert!(snapshot.rows.iter().all(|row| row.memory_cap_bytes == Some(502 * MIB)), "the running ones too: {:?}", snapshot.rows);
    assert_eq!((snapshot.rows[0].last_exit.unwrap().reason, snapshot.rows[0].restarts), (Reason::Reload, 0));
    assert_eq!((world.times(is_stop).len(), world.times(is_kill)), (2, vec![]), "gracefully");
}

#[test]
fn less_counts_when_it_has_held_for_60_s() {
    let mut world = world(auto(4.0, 2048));
    read(&mut world, limits(2.0, 2048));
    let snapshot = world.snapshot();
    assert_eq!((snapshot.wanted, snapshot.facts.cpu_limit), (4, Some(2.0)), "what is published is what was read");
    world.run_until(69_999);
    assert_eq!((world.snapshot().wanted, later(&world)), (4, 1));
    world.run_until(70_000);
    assert_eq!((world.snapshot().wanted, world.times(is_stop)), (2, vec![70_000; 2]), "the highest slots");
    world.run_until(80_000);
    assert_eq!(world.snapshot().rows.iter().filter(|row| row.memory_cap_bytes == Some(1008 * MIB)).count(), 2);
}

#[test]
fn what_is_taken_back_within_60_s_was_nothing() {
    let mut world = world(auto(4.0, 2048));
    read(&mut world, limits(2.0, 2048));
    world.run_until(60_000);
    read(&mut world, limits(4.0, 2048));
    world.run_until(200_000);
    assert_eq!((world.snapshot().wanted, world.times(is_stop)), (4, vec![]));
}

#[test]
fn an_other_less_takes_its_place_and_the_same_does_not() {
    let mut world = world(auto(4.0, 2048));
    read(&mut world, limits(2.0, 2048));
    world.run_until(40_000);
    read(&mut world, limits(2.0, 2048));
    world.run_until(70_000);
    assert_eq!((world.snapshot().wanted, later(&world)), (2, 1), "read again, it holds since 10 s");
    read(&mut world, limits(1.0, 2048));
    world.run_until(100_000);
    read(&mut world, limits(0.5, 4096));
    assert_eq!(world.snapshot().facts.worker_cap_bytes, Some((4096 - 32) / 2 * MIB), "more memory at once");
    world.run_until(159_999);
    assert_eq!(world.snapshot().wanted, 2);
    world.run_until(160_000);
    assert_eq!(world.snapshot().wanted, 1);
}

#[test]
fn less_memory_is_what_the_container_has_at_once_and_the_caps_follow() {
    let mut world = world(auto(2.0, 2048));
    // A quarter of the margin of 102.4 MiB, and of 51.2 MiB.
    assert_eq!(bounds(&world), [Some(2048 * MIB - 26_843_545)]);
    read(&mut world, limits(2.0, 1024));
    world.run_for(500);
    assert_eq!(bounds(&world)[1..], [Some(1024 * MIB - 13_421_772)], "what the kernel enforces is no matter of patience");
    assert_eq!(world.snapshot().facts.memory_limit_bytes, Some(1024 * MIB));
    assert_eq!(world.snapshot().facts.worker_cap_bytes, Some(1008 * MIB));
    world.run_until(70_000);
    assert_eq!(world.snapshot().facts.worker_cap_bytes, Some(496 * MIB));
    world.run_until(80_000);
    assert!(world.snapshot().rows.iter().all(|row| row.memory_cap_bytes == Some(496 * MIB)));
    assert_eq!(bounds(&world).len(), 2);
}

#[test]
fn a_lower_bound_waits_until_less_is_used() {
    let mut world = world(auto(2.0, 2048));
    world.others_use = 1_100 * MIB;
    world.run_until(20_000);
    read(&mut world, limits(2.0, 1024));
    world.run_until(30_000);
    assert_eq!(bounds(&world).len(), 1, "1140 MiB");
    world.others_use = 900 * MIB;
    world.run_until(30_600);
    assert_eq!(bounds(&world)[1..], [Some(1024 * MIB - 13_421_772)]);
    read(&mut world, limits(2.0, 2048));
    assert_eq!(bounds(&world)[2..], [Some(2048 * MIB - 26_843_545)], "a higher one is in force at once");
}

#[test]
fn the_bound_is_above_the_critical_line_and_the_shares_together_and_below_the_limit() {
    for (mib, reserve, free) in [(1024, None, 13_421_772), (100, None, 8 * MIB), (1024, Some(MIB), MIB), (16, None, 4 * MIB)] {
        let inputs = Inputs { memory_reserve: reserve, ..Inputs::default() }.under(&limits(2.0, mib));
        let shares = inputs.fair_share(2).unwrap() * 2;
        let world = world(policy(inputs));
        let bound = mib * MIB - free;
        assert_eq!(bounds(&world), [Some(bound)]);
        assert!(bound >= shares, "{mib} MiB");
    }
}

#[test]
fn a_cap_that_differs_by_a_tenth_is_left_alone() {
    for (mib, replaced) in [(1_800, 0), (1_830, 0), (1_860, 0), (1_800 + 220, 2), (2_048, 2)] {
        let mut world = world(auto(2.0, 1_800));
        read(&mut world, limits(2.0, mib));
        world.run_until(20_000);
        assert_eq!(world.times(is_stop).len(), replaced, "{mib} MiB");
    }
}

#[test]
fn a_limit_that_comes_and_goes_is_a_cap_that_comes_and_goes() {
    let mut world = world(policy(Inputs { affinity: 2, ..Inputs::default() }));
    assert_eq!(bounds(&world), []);
    let limited = Limits { memory: Some(1024 * MIB), affinity: 2, ..Limits::default() };
    read(&mut world, limited);
    world.run_until(80_000);
    assert_eq!(world.snapshot().facts.worker_cap_bytes, Some(496 * MIB));
    assert_eq!(world.snapshot().facts.memory_enforced_by, "sampling");
    read(&mut world, Limits { affinity: 2, ..Limits::default() });
    assert_eq!((world.snapshot().facts.worker_cap_bytes, bounds(&world)), (None, vec![Some(1024 * MIB - 13_421_772), None]));
    assert_eq!(world.snapshot().facts.memory_enforced_by, "off");
}

#[test]
fn an_explicit_count_stays_and_its_caps_follow() {
    let inputs = Inputs { workers: Workers::Count(3), ..Inputs::default() }.under(&limits(1.0, 1024));
    let mut world = world(policy(inputs));
    read(&mut world, limits(8.0, 4096));
    world.run_until(20_000);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.wanted, snapshot.rows[2].memory_cap_bytes), (3, Some((4096 - 36) * MIB / 3)));
    world.ask(Request::Scale(32));
    assert_eq!(world.snapshot().wanted, 3, "memory allows 30");
    world.ask(Request::Scale(20));
    assert_eq!(world.snapshot().wanted, 20, "four times the automatic count");
}

#[test]
fn a_count_by_hand_stays_until_the_automatic_one_changes() {
    let mut world = world(auto(4.0, 8192));
    world.ask(Request::Scale(6));
    read(&mut world, limits(4.0, 16_384));
    assert_eq!(world.snapshot().wanted, 6);
    read(&mut world, limits(7.0, 16_384));
    assert_eq!(world.snapshot().wanted, 7);
    world.ask(Request::Scale(9));
    read(&mut world, limits(8.0, 16_384));
    world.run_until(69_999);
    assert_eq!(world.snapshot().wanted, 9, "8 is less than runs");
    world.run_until(70_000);
    assert_eq!(world.snapshot().wanted, 8);
}

#[test]
fn scaling_by_hand_gives_new_caps_to_new_workers_only() {
    let mut world = world(auto(2.0, 2048));
    world.ask(Request::Scale(4));
    world.run_until(20_000);
    let snapshot = world.snapshot();
    let caps: Vec<_> = snapshot.rows.iter().map(|row| row.memory_cap_bytes.unwrap() / MIB).collect();
    assert_eq!((caps, world.times(is_stop)), (vec![1008, 1008, 502, 502], vec![]));
    assert_eq!(snapshot.facts.worker_cap_bytes, Some(502 * MIB));
    assert_eq!(bounds(&world).len(), 1, "the limit is the same");
}

#[test]
fn an_explicit_cap_stays_and_memory_bounds_the_count() {
    let inputs = Inputs { caps: Caps::Fixed(400 * MIB), memory_per_worker: 400 * MIB, ..Inputs::default() };
    let mut world = world(policy(inputs.under(&limits(4.0, 1024))));
    assert_eq!(world.snapshot().wanted, 2);
    read(&mut world, limits(4.0, 2048));
    world.run_until(20_000);
    assert_eq!((world.snapshot().wanted, world.times(is_stop)), (4, vec![]));
    assert!(world.snapshot().rows.iter().all(|row| row.memory_cap_bytes == Some(400 * MIB)));
}

#[test]
fn more_cpus_and_less_memory_are_no_more_workers_than_memory_allows() {
    let mut world = world(auto(2.0, 2048));
    read(&mut world, limits(8.0, 256));
    assert_eq!(world.snapshot().wanted, 2);
    world.run_until(70_000);
    assert_eq!(world.snapshot().wanted, 1);
}

#[test]
fn a_stop_leaves_counts_and_caps_alone() {
    let mut world = World::of(auto(2.0, 2048), server().on_stop(OnStop::Ignores));
    world.run_until(10_000);
    read(&mut world, limits(1.0, 2048));
    world.ask(STOP);
    read(&mut world, limits(8.0, 512));
    world.run_for(500);
    assert_eq!((world.snapshot().wanted, bounds(&world)[1..].to_vec()), (2, vec![Some((512 - 8) * MIB)]));
    world.run_until(30_000);
    assert_eq!(world.end(), (18_000, 137));
}
