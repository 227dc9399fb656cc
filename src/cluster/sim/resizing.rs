//! Limits that change, and at last hold: then count and caps are what they come to.

use proptest::collection::vec;
use proptest::prelude::*;

use super::process::{Behaviour, Ms, OnStop};
use super::world::{Happening, World};
use crate::cluster::event::Request;
use crate::cluster::policy::{Policy, ReadyMode};
use crate::cluster::sizing::{Caps, Inputs, Limits, Sizing};
use crate::cluster::words::Slot;

const MIB: u64 = 1 << 20;

/// When the limits are read last.
const END: Ms = 100_000;

fn limits() -> impl Strategy<Value = Limits> {
    let memory = proptest::option::weighted(0.8, (200..4_000_u64).prop_map(|mib| mib * MIB));
    let cpu = proptest::option::weighted(0.8, (1..14_u32).prop_map(|halves| f64::from(halves) / 2.0));
    (cpu, memory, 1..8_u32).prop_map(|(cpu, memory, affinity)| Limits { cpu, memory, affinity, ..Limits::default() })
}

fn caps() -> impl Strategy<Value = Caps> {
    prop_oneof![3 => Just(Caps::Share), 1 => Just(Caps::Fixed(128 * MIB)), 1 => Just(Caps::Off)]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => limits().prop_map(Happening::LimitsRead),
        1 => Just(Happening::Asked(Request::Reload)),
        1 => (0..4_u32).prop_map(|slot| Happening::Asked(Request::Restart(Slot(slot)))),
    ]
}

proptest! {
    // Each takes minutes of virtual time.
    #![proptest_config(ProptestConfig { cases: super::cases().cases / 4, ..super::cases() })]

    #[test]
    fn limits_that_hold_are_in_force(
        caps in caps(),
        first in limits(),
        happenings in vec((0..100_000_u64, happening()), 1..8),
        last in limits(),
    ) {
        let inputs = Inputs { caps, ..Inputs::default() }.under(&first);
        let sizing = Sizing::new(&inputs);
        let policy = Policy {
            workers: sizing.workers,
            most_workers: sizing.automatic.max(sizing.workers) * 4,
            memory_allows: sizing.memory_allows,
            inputs: inputs.clone(),
            ready: ReadyMode::Notify,
            ..Policy::default()
        };
        let behaviour = Behaviour::serves().notifies(50).on_stop(OnStop::Exits(0, 20)).uses(10 * MIB);
        let mut world = World::of(policy, behaviour);
        for (ms, happening) in happenings {
            world.plan(ms, happening);
        }
        world.plan(END, Happening::LimitsRead(last.clone()));
        world.run_until(END + 60_000 - 1);
        let inputs = inputs.under(&last);
        let target = Sizing::new(&inputs);
        prop_assert!(world.snapshot().wanted >= target.workers, "more is in force at once");
        world.run_until(END + 60_000 + 10_000);
        let snapshot = world.snapshot();
        let cap = inputs.share(target.workers).memory;
        prop_assert_eq!((snapshot.wanted, snapshot.ready), (target.workers, target.workers));
        prop_assert_eq!(snapshot.facts.worker_cap_bytes, cap);
        prop_assert_eq!((snapshot.facts.memory_limit_bytes, snapshot.facts.cpu_limit), (last.memory, last.cpu));
        for row in &snapshot.rows {
            let near = match (row.memory_cap_bytes, cap) {
                (Some(one), Some(other)) => one.abs_diff(other) * 10 <= other,
                (one, other) => one == other,
            };
            prop_assert!(near, "{row:?}, and a worker gets {cap:?} now");
        }
    }
}
