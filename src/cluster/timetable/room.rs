//! A container without memory to spare: who goes while it is short, what the kernel's OOM killer did, and whether a successor has room
//! beside its predecessor (SPEC sections 8 and 9).

use std::time::Duration;

use super::super::Supervisor;
use super::super::effect::Note;
use super::super::event::{Event, Notice, Request, Used, WorkerUses};
use super::super::policy::{DrainDelay, Policy, Restart};
use super::super::sim::process::{Appetite, Behaviour, OnStop};
use super::super::sim::world::{Happening, World, at};
use super::super::sizing::Inputs;
use super::super::status::{Facts, Reason, ReloadState, RowState};
use super::super::words::{ExitStatus, Life, Pid, Signal, Slot};
use super::memory::{MIB, capped, count, is_cap, noted, predecessor_first, server, shared};
use super::{STOP, is_kill, is_stop};

// === a container that is short ===

#[test]
fn a_short_container_replaces_the_worker_farthest_above_its_share_predecessor_first() {
    // 1 GiB: short above 972.8 MiB; a share of (998.4 - 30) / 3 = 322.8 MiB, of which others have 30.
    let workers = [server().uses(350 * MIB), server().uses(400 * MIB), server().uses(200 * MIB), server()];
    let mut world = World::scripted(shared(3, 1024 * MIB), workers);
    world.run_until(2_000);
    assert!(world.times(is_stop).is_empty());
    world.others_use = 30 * MIB;
    world.run_until(10_000);
    let told: Vec<_> = world.notes().filter(|note| matches!(note, Note::MemoryShort { .. })).cloned().collect();
    assert!(
        matches!(told[..], [Note::MemoryShort { slot: Slot(1), share: 338_480_333, killed: false, limit: 1_073_741_824, .. }]),
        "{told:?}"
    );
    let stopped = world.times(is_stop)[0];
    assert_eq!((world.starts(1), noted(&world, predecessor_first)), (vec![0, stopped + 300], vec![stopped]));
    assert_eq!((world.times(is_kill), world.snapshot().ready), (vec![], 3));
    let row = &world.snapshot().rows[1];
    assert_eq!((row.restarts, row.last_exit.unwrap().reason), (1, Reason::Memory));
}

#[test]
fn a_critical_container_kills_one_worker_per_second() {
    // Critical above 998.4 MiB, and nobody gives enough back.
    let greedy = || server().uses(300 * MIB);
    let mut world = World::scripted(shared(4, 1024 * MIB), [greedy(), greedy(), greedy(), greedy(), server()]);
    world.others_use = 1_000 * MIB;
    world.run_until(5_000);
    let killed = noted(&world, |note| matches!(note, Note::MemoryShort { killed: true, .. }));
    assert_eq!(killed.len(), 4);
    assert!(killed.windows(2).all(|pair| (1_000..=1_010).contains(&(pair[1] - pair[0]))), "{killed:?}");
    assert_eq!(count(&world, |note| matches!(note, Note::NobodyAboveShare { .. })), 1, "then nobody is above his share");
    assert!(world.snapshot().rows.iter().all(|row| row.state == RowState::Ready), "and nobody is touched");
}

#[test]
fn at_or_below_half_its_fair_share_nobody_is_touched() {
    let share = (1024 - 32) / 2 * MIB;
    let mut world = World::of(shared(2, 1024 * MIB), server().uses(share / 2));
    world.others_use = 520 * MIB;
    world.run_until(5_000);
    assert_eq!((world.times(is_kill), world.times(is_stop)), (vec![], vec![]));
    assert_eq!(count(&world, |note| matches!(note, Note::NobodyAboveShare { .. })), 1, "one line");
}

#[test]
fn at_or_below_its_share_of_what_others_leave_nobody_is_touched() {
    // 998.4 MiB are critical: 448 MiB are left for each of two.
    let mut world = World::scripted(shared(2, 1024 * MIB), [server().uses(447 * MIB), server().uses(430 * MIB), server()]);
    world.others_use = 102 * MIB;
    world.run_until(5_000);
    assert_eq!((world.times(is_kill), world.times(is_stop)), (vec![], vec![]), "979 MiB");
    assert_eq!(count(&world, |note| matches!(note, Note::NobodyAboveShare { .. })), 1, "one line");
}

#[test]
fn the_largest_goes_before_the_kernel_comes_though_all_are_below_their_fair_share() {
    // A share of 496 MiB; all grow evenly, and others use more than the reserve.
    let policy = Policy { memory_soft: None, ..shared(2, 1024 * MIB) };
    let leaks =
        |from: u64| Behaviour { appetite: Appetite { begins: from * MIB, ..server().leaks(MIB / 100).appetite }, ..server() };
    let mut world = World::scripted(policy, [leaks(300), leaks(310), server()]);
    world.others_use = 200 * MIB;
    world.run_until(20_000);
    let told: Vec<_> = world.notes().filter(|note| matches!(note, Note::MemoryShort { .. })).collect();
    assert!(
        matches!(told[..], [Note::MemoryShort { slot: Slot(1), killed: true, share, used, .. }] if *used < 1024 * MIB && *share < 400 * MIB),
        "{told:?}"
    );
}

#[test]
fn who_goes_on_growing_after_its_stop_signal_is_killed_when_the_container_is_critical() {
    // Replaced at 973 MiB, it ignores that and is at 999 MiB after 2.6 s.
    let leaker = server().uses(500 * MIB).leaks(MIB / 100).on_stop(OnStop::Ignores);
    let mut world = World::scripted(shared(2, 1024 * MIB), [leaker, server().uses(300 * MIB), server()]);
    world.others_use = 150 * MIB;
    world.run_until(8_000);
    let (stopped, killed) = (world.times(is_stop), world.times(is_kill));
    assert!(
        matches!((&stopped[..], &killed[..]), ([stop], [kill]) if (2_500..2_700).contains(&(kill - stop))),
        "{stopped:?} {killed:?}"
    );
}

#[test]
fn who_was_asked_to_end_has_200_ms_before_it_is_killed_for_a_shortness() {
    let policy = Policy { memory_soft: None, ..shared(2, 1024 * MIB) };
    for (takes, kills) in [(150, 0), (5_000, 1)] {
        let large = server().uses(700 * MIB).on_stop(OnStop::Exits(0, takes));
        let mut world = World::scripted(policy.clone(), [large, server().uses(200 * MIB), server()]);
        world.run_until(3_000);
        world.ask(Request::Restart(Slot(0)));
        world.others_use = 110 * MIB;
        world.run_until(4_000);
        let killed = world.times(is_kill);
        assert!(killed.len() == kills && killed.iter().all(|ms| (3_200..=3_210).contains(ms)), "{killed:?}");
    }
}

#[test]
fn who_needs_more_stays_also_after_10_min() {
    // 1 GiB, short above 972.8 MiB; the share of each of two is 496 MiB: 600 MiB are needed again.
    let large = || server().uses(600 * MIB);
    let mut world = World::scripted(shared(2, 1024 * MIB), [large(), server().uses(250 * MIB), large()]);
    world.others_use = 130 * MIB;
    world.run_until(1_500_000);
    assert_eq!((world.starts(0).len(), count(&world, |note| matches!(note, Note::NeedsMore { .. }))), (2, 1));
}

#[test]
fn only_what_comes_back_counts() {
    let mut cached = server().uses(700 * MIB);
    cached.appetite.stays = 400 * MIB;
    let mut world = World::scripted(shared(2, 1024 * MIB), [cached, server().uses(510 * MIB), server()]);
    world.run_until(3_000);
    let killed: Vec<_> = world.notes().filter(|note| matches!(note, Note::MemoryShort { .. })).collect();
    assert!(matches!(killed[..], [Note::MemoryShort { slot: Slot(1), killed: true, .. }]), "{killed:?}");
}

#[test]
fn with_memory_soft_off_a_short_container_waits_until_it_is_critical() {
    let policy = Policy { memory_soft: None, ..shared(2, 1024 * MIB) };
    let mut world = World::scripted(policy, [server().uses(700 * MIB), server().uses(285 * MIB), server()]);
    world.run_until(3_000);
    assert_eq!((world.times(is_stop), world.times(is_kill)), (vec![], vec![]), "985 MiB");
    world.others_use = 14 * MIB;
    world.run_until(4_000);
    assert_eq!(world.times(is_kill).len(), 1, "999 MiB");
}

#[test]
fn hard_caps_go_by_the_share_too_while_the_container_is_short() {
    let inputs = Inputs { memory_limit: Some(1024 * MIB), ..capped(2, 600 * MIB).inputs };
    let mut world = World::scripted(
        Policy { inputs, ..capped(2, 600 * MIB) },
        [server().uses(530 * MIB), server().uses(480 * MIB), server()],
    );
    world.run_until(3_000);
    assert_eq!((count(&world, is_cap), world.times(is_kill).len(), world.starts(0).len()), (0, 1, 2));
}

#[test]
fn a_critical_container_is_relieved_during_a_stop_and_nobody_is_replaced() {
    let policy = Policy { drain_delay: DrainDelay::Always(Duration::from_secs(5)), ..shared(2, 1024 * MIB) };
    let mut world = World::scripted(policy, [server().uses(700 * MIB), server().uses(200 * MIB), server()]);
    world.run_until(3_000);
    world.ask(STOP);
    world.others_use = 80 * MIB;
    world.run_until(4_000);
    assert_eq!((world.times(is_stop), world.times(is_kill), count(&world, predecessor_first)), (vec![], vec![], 0), "short");
    world.others_use = 120 * MIB;
    world.run_until(4_500);
    assert_eq!(world.times(is_kill).len(), 1, "critical");
}

// === the kernel's OOM killer ===

#[test]
fn what_the_kernels_oom_killer_ended_is_named_so() {
    let mut world = World::scripted(capped(1, 100 * MIB), [server(), server()]);
    world.plan(5_000, Happening::Noise(Event::OutOfMemory { life: Life(0) }));
    world.plan(5_000, Happening::LeaderEnds(Life(0), ExitStatus::Signal { signal: Signal::KILL, core: false }));
    world.run_until(10_000);
    let row = &world.snapshot().rows[0];
    assert_eq!((row.restarts, row.last_exit.unwrap().reason), (1, Reason::Memory));
    assert_eq!((world.starts(0), count(&world, |note| matches!(note, Note::OutOfMemory { .. }))), (vec![0, 5_000], 1));
}

#[test]
fn a_leader_that_outlives_it_and_ends_later_has_a_reason_of_its_own() {
    let mut world = World::scripted(capped(1, 100 * MIB), [Behaviour { runs: 8_000, ..server() }, server()]);
    world.plan(5_000, Happening::Noise(Event::OutOfMemory { life: Life(0) }));
    world.run_until(10_000);
    assert_eq!(world.snapshot().rows[0].last_exit.unwrap().reason, Reason::Exit);
}

// === room ===

/// 1 GiB, of which 300 MiB are for each of the two workers, and 350 MiB for others: there is no room for a third worker.
fn crowded(behaviours: [Behaviour; 4]) -> World {
    let inputs = Inputs { memory_limit: Some(1024 * MIB), ..capped(2, 400 * MIB).inputs };
    let mut world = World::scripted(Policy { inputs, ..capped(2, 400 * MIB) }, behaviours);
    world.others_use = 350 * MIB;
    world.run_until(10_000);
    world
}

fn large() -> Behaviour {
    server().uses(300 * MIB)
}

#[test]
fn a_reload_without_room_goes_predecessor_first() {
    let mut world = crowded([large(), large(), large(), large()]);
    world.ask(Request::Reload);
    world.run_until(20_000);
    assert_eq!(world.times(is_stop), [10_000, 10_500], "one slot at a time");
    assert_eq!((world.starts(0), world.starts(1)), (vec![0, 10_300], vec![0, 10_800]), "when its tree has gone");
    let snapshot = world.snapshot();
    assert_eq!((snapshot.reload.state, snapshot.reload.at), (ReloadState::Done, Some(at(11_000))));
    assert_eq!((noted(&world, predecessor_first), snapshot.ready), (vec![10_000, 10_500], 2));
    assert!(snapshot.rows.iter().all(|row| (row.generation, row.restarts) == (2, 0)), "{:?}", snapshot.rows);
}

#[test]
fn such_a_reload_is_aborted_where_the_successor_fails_and_its_slot_goes_on() {
    let mut world = crowded([large(), large(), Behaviour::exits(3, 99), large()]);
    world.ask(Request::Reload);
    world.run_until(20_000);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.reload.state, snapshot.reload.at), (ReloadState::Aborted, Some(at(10_400))));
    assert_eq!((world.times(is_stop), world.starts(1)), (vec![10_000], vec![0]), "the other worker stays");
    let waited = world.starts(0)[2] - 10_400;
    assert!((100..=120).contains(&waited), "by the restart rule: {waited}");
    assert_eq!(snapshot.ready, 2);
}

#[test]
fn a_stop_ends_a_replacement_whose_predecessor_went_first() {
    let mut world = crowded([large(), large(), large(), large()]);
    world.ask(Request::Reload);
    world.run_until(10_100);
    world.ask(STOP);
    world.run_until(20_000);
    assert_eq!((world.end(), world.starts(0)), ((10_400, 0), vec![0]));
}

#[test]
fn a_slot_that_is_closed_meanwhile_stays_empty() {
    let mut world = crowded([large(), large(), large(), large()]);
    world.ask(Request::Restart(Slot(1)));
    world.run_until(10_100);
    world.ask(Request::Fewer);
    world.run_until(15_000);
    assert_eq!((world.starts(1), world.snapshot().rows.len()), (vec![0], 1));
    world.ask(Request::Restart(Slot(0)));
    world.run_until(20_000);
    assert_eq!(world.starts(0).len(), 2, "and the next replacement has its turn");
}

#[test]
fn a_hung_worker_without_room_goes_first_too() {
    let hangs = large().saying(12_000, Notice::Trigger);
    let mut world = crowded([large(), hangs, large(), large()]);
    world.run_until(20_000);
    assert_eq!((world.times(is_stop), world.starts(1)), (vec![12_001], vec![0, 12_301]));
    let row = &world.snapshot().rows[1];
    assert_eq!((row.restarts, row.last_exit.unwrap().reason), (1, Reason::Hung));
}

#[test]
fn who_goes_first_for_a_successor_is_replaced_whatever_restart_says() {
    let inputs = Inputs { memory_limit: Some(1024 * MIB), ..capped(2, 400 * MIB).inputs };
    let policy = Policy { inputs, restart: Restart::Never, ..capped(2, 400 * MIB) };
    let hangs = large().saying(12_000, Notice::Trigger);
    let mut world = World::scripted(policy, [large(), hangs, large()]);
    world.others_use = 350 * MIB;
    world.run_until(20_000);
    assert_eq!((world.starts(1), world.snapshot().ready), (vec![0, 12_301], 2));
}

#[test]
fn what_a_worker_used_within_10_s_of_being_ready_is_what_a_successor_needs() {
    // 20 MiB at its start, and 390 MiB a minute later: a successor has room.
    let grows = || server().leaks(370 * MIB / 60_000);
    let inputs = Inputs { memory_limit: Some(1024 * MIB), ..capped(2, 400 * MIB).inputs };
    let policy = Policy { inputs, memory_soft: None, ..capped(2, 400 * MIB) };
    for (others, first) in [(100, 0), (180, 1)] {
        let mut world = World::of(policy.clone(), grows());
        world.others_use = others * MIB;
        world.run_until(60_000);
        world.ask(Request::Restart(Slot(0)));
        world.run_until(60_100);
        assert_eq!(count(&world, predecessor_first), first, "{others} MiB of others, 780 of ours, 82 needed, 972.8 in all");
    }
}

#[test]
fn where_workers_are_not_measured_a_successor_needs_an_equal_part_of_the_container() {
    // 1 GiB, and nobody is short: 972.8 MiB.
    for (each, first) in [(320, 0), (330, 2)] {
        let mut world = World::of(shared(2, 1024 * MIB), server().uses(each * MIB));
        world.run_until(10_000);
        world.ask(Request::Reload);
        world.run_until(20_000);
        assert_eq!(count(&world, predecessor_first), first, "{each} MiB each");
        assert_eq!((world.snapshot().reload.state, world.times(is_kill)), (ReloadState::Done, vec![]));
    }
}

#[test]
fn an_estimate_is_not_what_a_successor_needs_until_it_was_corrected_and_never_more_than_a_cap() {
    // Of 2 GiB 1536 are in use; the estimates of 700 MiB are 100 MiB too high, and a cap is 500 MiB.
    let inputs = Inputs { memory_limit: Some(2048 * MIB), ..capped(2, 500 * MIB).inputs };
    let policy = Policy { inputs, memory_soft: None, ..capped(2, 500 * MIB) };
    let mut world = World::of(policy, server().uses(300 * MIB).counted_twice(400 * MIB));
    world.others_use = 936 * MIB;
    world.run_until(10_000);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(20_000);
    assert_eq!(count(&world, predecessor_first), 0, "it needs 300 MiB");
    world.others_use = 1_046 * MIB;
    world.run_until(30_000);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(40_000);
    assert_eq!(count(&world, predecessor_first), 1);
}

#[test]
fn what_the_old_generation_needed_is_forgotten_with_a_reload() {
    let inputs = Inputs { memory_limit: Some(1024 * MIB), ..capped(1, 600 * MIB).inputs };
    let policy = Policy { inputs, memory_soft: None, ..capped(1, 600 * MIB) };
    let mut world = World::scripted(policy, [server().uses(500 * MIB), server().uses(100 * MIB)]);
    world.run_until(20_000);
    world.ask(Request::Reload);
    world.run_until(40_000);
    assert_eq!(count(&world, predecessor_first), 1, "500 + 500");
    world.others_use = 700 * MIB;
    world.run_until(60_000);
    world.ask(Request::Restart(Slot(0)));
    world.run_until(70_000);
    assert_eq!(count(&world, predecessor_first), 1, "800 + 100");
}

#[test]
fn page_cache_takes_no_room() {
    // What a look calls enough may be page cache, all of it: it must not refuse a successor, that of a large worker neither.
    let inputs = Inputs { memory_limit: Some(4096 * MIB), ..capped(1, 3_000 * MIB).inputs };
    for policy in [shared(1, 4096 * MIB), Policy { inputs, ..capped(1, 3_000 * MIB) }] {
        let mut supervisor = Supervisor::new(policy, Facts::default());
        drop(supervisor.start(at(0)));
        drop(supervisor.step(at(0), Event::Forked { life: Life(0), pid: Pid(2) }));
        drop(supervisor.step(at(0), Event::Notified { life: Life(0), notice: Notice::Ready }));
        let mut look = |workers: Vec<WorkerUses>, bytes: u64| {
            drop(supervisor.step(at(1_000), Event::Used(Used { workers, container: Some(bytes) })));
            (supervisor.next_look().and_then(|look| look.container), supervisor.has_room_for_one_more())
        };
        let uses = WorkerUses { life: Life(0), bytes: 2_000 * MIB, returns: 2_000 * MIB, exact: true };
        for (workers, bytes) in [(vec![], 0), (vec![], 1_900 * MIB), (vec![uses], 2_000 * MIB)] {
            let (enough, _) = look(workers, bytes);
            let (_, has_room) = look(vec![], enough.unwrap());
            assert!(has_room, "{enough:?} after {bytes}");
        }
    }
}

#[test]
fn without_a_limit_or_without_a_figure_there_is_room() {
    let mut world = World::of(capped(1, 400 * MIB), large());
    world.others_use = 1 << 40;
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(20_000);
    assert_eq!((count(&world, predecessor_first), world.snapshot().reload.state), (0, ReloadState::Done));
}
