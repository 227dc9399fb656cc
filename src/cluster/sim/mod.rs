//! The supervisor in a simulated world, in virtual time: thousands of histories that no machine would have the patience for.
//!
//! `process.rs` is what one worker does, `world.rs` the runtime and the kernel around the supervisor, `safety.rs`, `rotation.rs` and
//! `memory.rs` what must never happen, `resizing.rs` limits that hold, `history.rs` what proptest draws. Here is what must happen at last: a stop ends, a cluster that is left alone recovers,
//! a reload comes to an end.

mod history;
mod memory;
pub(crate) mod process;
mod resizing;
mod rotation;
mod safety;
pub(crate) mod world;

use proptest::prelude::*;

use self::history::{History, Kind};
use self::world::{World, at};
use super::event::Request;
use super::policy::{DrainDelay, Policy};
use super::status::{ReloadState, RowState};

/// What SIGKILL may take in each of the two phases of a stop.
const KILL_PATIENCE: u64 = 1000;

fn cases() -> ProptestConfig {
    // PROPTEST_CASES asks for more.
    ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

/// A history is cut off behind so many effects; each costs a look at all that went before.
const ENOUGH_EFFECTS: usize = 4_000;

/// The longest that a stop may take.
fn stop_takes(policy: &Policy) -> u64 {
    let (DrainDelay::Always(drain) | DrainDelay::WhereListening(drain)) = policy.drain_delay;
    u64::try_from((drain + policy.grace).as_millis()).unwrap() + 2 * KILL_PATIENCE + 50
}

fn live_through(history: &History) -> World {
    let mut world = history.world();
    for (ms, happening) in &history.happenings {
        world.plan(*ms, happening.clone());
    }
    // A program that ends at once, under a backoff of a millisecond, has said all that it has to say after a while.
    let mut ms = 0;
    while ms < history.length && world.log.len() < ENOUGH_EFFECTS {
        ms = history.length.min(ms + 100);
        world.run_until(ms);
    }
    world
}

proptest! {
    #![proptest_config(cases())]

    /// Safety alone: anything may happen, in any order.
    #[test]
    fn nothing_ever_happens_that_must_not(history in history::any(Kind::Wild)) {
        live_through(&history);
    }

    #[test]
    fn a_stop_ends_from_any_point(history in history::any(Kind::Wild)) {
        let mut world = live_through(&history);
        let begun = world.now;
        if world.ended.is_none() {
            world.ask(Request::Stop { interrupt: false, listening: true });
        }
        world.run_for(stop_takes(&history.policy));
        prop_assert!(world.ended.is_some(), "asked at {:?}, still there at {:?}: {:#?}", begun, world.now, world.snapshot());
    }

    #[test]
    fn now_is_now(history in history::any(Kind::Wild)) {
        let mut world = live_through(&history);
        if world.ended.is_none() {
            world.ask(Request::StopNow);
        }
        world.run_for(2 * KILL_PATIENCE + 50);
        prop_assert!(world.ended.is_some(), "still there at {:?}: {:#?}", world.now, world.snapshot());
    }

    /// The misfortunes come to an end, and nobody stops the cluster: then all wanted workers get ready, unless it had a reason to end.
    #[test]
    fn a_cluster_that_is_left_alone_recovers(history in history::any(Kind::Recovering)) {
        let mut world = live_through(&history);
        world.run_for(180_000);
        if world.ended.is_none() {
            let snapshot = world.snapshot();
            let served = snapshot.rows.iter().filter(|row| row.state != RowState::Stopped);
            prop_assert!(snapshot.ready > 0, "all done and not ended, or nobody ready: {snapshot:#?}");
            prop_assert!(served.filter(|row| row.life.is_none()).count() == 0, "a slot still waits: {snapshot:#?}");
            // What outlives SIGKILL keeps its row.
            let mut rows = snapshot.rows.iter().filter(|row| row.state != RowState::Killed);
            prop_assert!(rows.all(|row| row.slot.0 < snapshot.wanted), "a slot too many: {snapshot:#?}");
            prop_assert!(snapshot.reload.state != ReloadState::Running, "a reload without an end: {snapshot:#?}");
            prop_assert_eq!(world.reloads_due(), 0, "a reload was forgotten: {:#?}", snapshot);
        }
    }
}

/// Histories are only worth their invariants if the world can be wrong: a process that ignores everything is there until SIGKILL.
#[test]
fn the_world_is_as_stubborn_as_its_processes() {
    let stubborn = process::Behaviour::serves().on_stop(process::OnStop::Ignores);
    let mut world = World::of(Policy::default(), stubborn);
    world.run_until(5_000);
    assert_eq!(world.snapshot().ready, 1);
    world.ask(Request::Stop { interrupt: false, listening: false });
    world.run_until(12_999);
    assert!(world.ended.is_none());
    world.run_until(13_001);
    assert_eq!(world.ended, Some((at(13_000), 137)));
}
