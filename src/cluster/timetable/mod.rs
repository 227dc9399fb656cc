//! The timetable: one example for every number of the contract, by the clock, in the simulated world.
//!
//! `starts.rs`: readiness, restart, giving up (SPEC sections 5, 5a and 6); `stops.rs`: the phases of a stop and the exit status
//! (section 8); `changes.rs`: reload, lifetime, watchdog, scaling, probes (sections 8 and 10); `serving.rs`: who takes connections,
//! where listening is seen (sections 4 to 8); `memory.rs`, `room.rs`, `resize.rs`: caps, a container that is
//! short, limits that change (section 9); `counts.rs`: what is counted.

mod changes;
mod counts;
mod memory;
mod parting;
mod resize;
mod room;
mod serving;
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

/// What became of the workers, in order and by life: `200 join 0, 10000 stop 0`.
fn story(world: &World) -> String {
    let told = world.log.iter().filter_map(|(at, effect)| {
        let what = match effect {
            Effect::Spawn { life, .. } => format!("start {}", life.0),
            Effect::Join { life } => format!("join {}", life.0),
            Effect::Disconnect { life, hung: false } => format!("disconnect {}", life.0),
            Effect::Disconnect { life, hung: true } => format!("hung {}", life.0),
            Effect::SeekQuiet { life, until, .. } => format!("seek {} until {}", life.0, until.0.as_millis()),
            Effect::Part { life } => format!("part {}", life.0),
            Effect::StopLeader { life } => format!("stop {}", life.0),
            Effect::StopRest { life } => format!("stop rest of {}", life.0),
            Effect::KillTree { life } => format!("kill {}", life.0),
            Effect::Refuse => "refuse".to_owned(),
            Effect::Confirm { .. }
            | Effect::Bound { .. }
            | Effect::LookAround
            | Effect::AskNamespace
            | Effect::KillEntered
            | Effect::KillNamespace
            | Effect::Note(_)
            | Effect::End { .. } => return None,
        };
        Some(format!("{} {what}", at.0.as_millis()))
    });
    told.collect::<Vec<_>>().join(", ")
}
