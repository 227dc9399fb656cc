//! The timetable: one example for every number of the contract, by the clock, in the simulated world.
//!
//! `starts.rs`: readiness, restart, giving up (SPEC sections 5, 5a and 6); `stops.rs`: the phases of a stop and the exit status
//! (section 8); `changes.rs`: reload, lifetime, watchdog, scaling, probes (sections 8 and 10).

mod changes;
mod starts;
mod stops;

use super::effect::{Effect, Note};
use super::event::Request;
use super::policy::{Policy, ReadyMode};
use super::sim::world::World;

const STOP: Request = Request::Stop { interrupt: false, listening: false };
const INTERRUPT: Request = Request::Stop { interrupt: true, listening: false };

/// So many workers at once, and the defaults.
fn workers(workers: u32) -> Policy {
    Policy { workers, most_workers: 4 * workers, ..Policy::default() }
}

fn ready_by(ready: ReadyMode) -> Policy {
    Policy { ready, ..Policy::default() }
}

fn is_stop(effect: &Effect) -> bool {
    matches!(effect, Effect::StopLeader { .. })
}

fn is_kill(effect: &Effect) -> bool {
    matches!(effect, Effect::KillTree { .. })
}

fn is_ready(effect: &Effect) -> bool {
    matches!(effect, Effect::Note(Note::Ready { .. }))
}

/// The exit status of a cluster that somebody asks to stop after ten seconds.
fn status_after_a_stop(mut world: World) -> u8 {
    world.run_until(10_000);
    world.ask(STOP);
    world.run_until(30_000);
    world.end().1
}
