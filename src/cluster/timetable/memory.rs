//! A worker's memory: when it is looked at, and what follows at its soft share and at its cap (SPEC section 9).

use super::super::Supervisor;
use super::super::effect::{Effect, Note};
use super::super::event::{Event, Notice, Request, Used, WorkerUses};
use super::super::policy::{Policy, ReadyMode, Restart};
use super::super::sim::process::{Behaviour, OnStop};
use super::super::sim::world::{World, at};
use super::super::sizing::{Caps, Inputs};
use super::super::status::{Facts, Reason, ReloadState};
use super::super::words::{Life, Pid};
use super::{STOP, is_kill, is_stop, workers};

pub(super) const MIB: u64 = 1 << 20;

/// What can be allocated in a millisecond: 2.5 MiB.
const PER_MS: u64 = 5 << 19;

/// Ready by `READY=1`, with a hard cap each.
pub(super) fn capped(count: u32, cap: u64) -> Policy {
    let inputs = Inputs { caps: Caps::Fixed(cap), ..Inputs::default() };
    Policy { ready: ReadyMode::Notify, inputs, ..workers(count) }
}

/// Shares of a container.
pub(super) fn shared(count: u32, limit: u64) -> Policy {
    let inputs = Inputs { caps: Caps::Share, memory_limit: Some(limit), affinity: 8, ..Inputs::default() };
    Policy { ready: ReadyMode::Notify, inputs, ..workers(count) }
}

/// Ready after 200 ms, gone 300 ms after the stop signal, with 20 MiB.
pub(super) fn server() -> Behaviour {
    Behaviour::serves().notifies(199).on_stop(OnStop::Exits(0, 300)).uses(20 * MIB)
}

pub(super) fn count(world: &World, wanted: impl Fn(&Note) -> bool) -> usize {
    world.notes().filter(|note| wanted(note)).count()
}

pub(super) fn noted(world: &World, wanted: impl Fn(&Note) -> bool) -> Vec<u64> {
    world.times(|effect| matches!(effect, Effect::Note(note) if wanted(note)))
}

pub(super) fn is_cap(note: &Note) -> bool {
    matches!(note, Note::MemoryCap { .. })
}

fn is_soft(note: &Note) -> bool {
    matches!(note, Note::MemorySoft { .. })
}

fn is_confirm(effect: &Effect) -> bool {
    matches!(effect, Effect::Confirm { .. })
}

fn needs_more(note: &Note) -> bool {
    matches!(note, Note::NeedsMore { .. })
}

pub(super) fn predecessor_first(note: &Note) -> bool {
    matches!(note, Note::PredecessorFirst { .. })
}

/// A supervisor whose only worker runs since 0 ms, and nothing else: looks are taken by hand.
fn alone(policy: Policy) -> Supervisor {
    let mut supervisor = Supervisor::new(policy, Facts::default());
    drop(supervisor.start(at(0)));
    drop(supervisor.step(at(0), Event::Forked { life: Life(0), pid: Pid(2) }));
    supervisor
}

fn uses(bytes: u64, exact: bool) -> WorkerUses {
    WorkerUses { life: Life(0), bytes, returns: bytes, exact }
}

fn used(supervisor: &mut Supervisor, ms: u64, worker: Option<WorkerUses>, container: Option<u64>) -> Vec<Effect> {
    supervisor.step(at(ms), Event::Used(Used { workers: worker.into_iter().collect(), container }))
}

/// From this answer to the next look, in ms; and whether the workers are looked at.
fn next(supervisor: &Supervisor, ms: u64) -> Option<(f64, bool, bool)> {
    supervisor.next_look().map(|look| (look.at.since(at(ms)).as_secs_f64() * 1000.0, look.workers, look.container.is_some()))
}

// === when ===

#[test]
fn the_next_look_is_due_when_the_cap_could_be_reached_at_2_5_mib_per_ms() {
    let cap = 1024 * MIB;
    let mut supervisor = alone(capped(1, cap));
    assert_eq!(next(&supervisor, 0), Some((409.6, true, false)), "a worker without a figure counts as 0");
    for (below, ms) in [(1300 * MIB, 409.6), (250 * PER_MS, 250.0), (11 * PER_MS, 11.0), (9 * PER_MS, 10.0), (1, 10.0)] {
        used(&mut supervisor, 1_000, Some(uses(cap.saturating_sub(below), true)), None);
        assert_eq!(next(&supervisor, 1_000), Some((ms, true, false)), "{below} below its cap");
    }
    let mut supervisor = alone(capped(1, 2048 * MIB));
    used(&mut supervisor, 1_000, Some(uses(0, true)), None);
    assert_eq!(next(&supervisor, 1_000), Some((500.0, true, false)), "at the latest");
}

#[test]
fn where_the_kernel_holds_the_caps_the_soft_share_is_looked_at_from_100_ms_on() {
    let policy = Policy { kernel_caps: true, memory_soft: Some(0.5), ..capped(1, 1000 * MIB) };
    let mut supervisor = alone(policy.clone());
    used(&mut supervisor, 1_000, Some(uses(250 * MIB, true)), None);
    assert_eq!(next(&supervisor, 1_000), Some((100.0, true, false)));
    used(&mut supervisor, 2_000, Some(uses(0, true)), None);
    assert_eq!(next(&supervisor, 2_000), Some((200.0, true, false)));
    let off = alone(Policy { memory_soft: None, ..policy });
    assert_eq!(next(&off, 0), None, "MEMORY_SOFT=off: there is nothing to do");
}

#[test]
fn the_container_is_looked_at_when_it_could_have_become_short() {
    let limit = 1024 * MIB;
    let short = limit - limit / 20;
    let mut supervisor = alone(shared(1, limit));
    for (used_bytes, ms) in [(short - 100 * PER_MS, 100.0), (short - 2 * PER_MS, 10.0)] {
        used(&mut supervisor, 1_000, None, Some(used_bytes));
        assert_eq!(next(&supervisor, 1_000), Some((ms, false, true)), "of a share only the container");
    }
    used(&mut supervisor, 2_000, None, Some(short + 1));
    assert_eq!(next(&supervisor, 2_000), Some((0.0, true, true)), "now everybody, at once");
    used(&mut supervisor, 2_000, None, Some(short + 1));
    assert_eq!(next(&supervisor, 2_000), Some((396.8, true, true)), "in vain: he could be above his 992 MiB then");
}

/// Looks in the first ten seconds, each answered so.
fn looks(supervisor: &mut Supervisor, answer: impl Fn() -> Used) -> usize {
    let mut looks = 0;
    while let Some(look) = supervisor.next_look().filter(|look| look.at <= at(10_000)) {
        looks += 1;
        drop(supervisor.step(look.at, Event::Used(answer())));
    }
    looks
}

#[test]
fn what_cannot_be_had_is_asked_for_twice_a_second() {
    let limit = Some(1024 * MIB);
    let nothing = Used::default;
    assert_eq!(looks(&mut alone(shared(1, 1024 * MIB)), nothing), 20, "no figure of the container");
    assert_eq!(looks(&mut alone(capped(1, 100 * MIB)), nothing), 20, "none of the only worker");
    let short = || Used { container: Some(1_020 * MIB), ..Used::default() };
    assert_eq!(looks(&mut alone(shared(1, 1024 * MIB)), short), 26, "none of the worker, in a shortness: every 396.8 ms");

    // One that cannot be measured beside one that can.
    let beside = |inputs: Inputs, container: Option<u64>| {
        let mut supervisor = alone(Policy { memory_soft: None, inputs, ..capped(2, 2048 * MIB) });
        drop(supervisor.step(at(0), Event::Forked { life: Life(1), pid: Pid(3) }));
        looks(&mut supervisor, || Used { workers: vec![uses(20 * MIB, true)], container })
    };
    assert_eq!(beside(capped(2, 2048 * MIB).inputs, None), 20);
    let inputs = Inputs { memory_limit: limit, ..capped(2, 2048 * MIB).inputs };
    assert_eq!(beside(inputs, None), 20, "nor the container");
    // Half the fair share is 247 MiB: 91 ms.
    let looks = beside(shared(2, 1024 * MIB).inputs, Some(980 * MIB));
    assert!((100..=110).contains(&looks), "in a shortness by whoever can be measured: {looks}");
}

#[test]
fn an_exact_figure_that_was_asked_for_is_no_answer_to_a_look() {
    let inputs = Inputs { memory_limit: Some(1024 * MIB), ..capped(1, 100 * MIB).inputs };
    let mut supervisor = alone(Policy { memory_soft: None, inputs, ..capped(1, 100 * MIB) });
    used(&mut supervisor, 100, Some(uses(101 * MIB, false)), Some(700 * MIB));
    assert_eq!(next(&supervisor, 100), Some((10.0, true, false)));
    used(&mut supervisor, 300, Some(uses(60 * MIB, true)), None);
    assert_eq!(next(&supervisor, 300), Some((10.0, true, true)), "the container is as due as before");
}

#[test]
fn who_is_on_its_way_out_is_looked_at_as_any_other_in_a_shortness() {
    let mut supervisor = alone(shared(1, 1024 * MIB));
    drop(supervisor.step(at(0), Event::Notified { life: Life(0), notice: Notice::Stopping }));
    used(&mut supervisor, 1_000, Some(uses(480 * MIB, true)), Some(978 * MIB));
    // 20.4 MiB below the critical line, and so is its share.
    let (ms, ..) = next(&supervisor, 1_000).unwrap();
    assert!((ms - 10.0).abs() < f64::EPSILON, "{ms}");
}

#[test]
fn without_a_cap_or_a_limit_there_is_nothing_to_look_at() {
    let off = Inputs { caps: Caps::Off, memory_limit: Some(MIB), ..Inputs::default() };
    let unlimited = Inputs::default();
    for inputs in [off, unlimited] {
        assert_eq!(alone(Policy { inputs, ..workers(1) }).next_look(), None);
    }
}

#[test]
fn at_rest_there_are_two_looks_per_second() {
    let inputs = Inputs { caps: Caps::Fixed(2048 * MIB), memory_limit: Some(64 << 30), ..Inputs::default() };
    let mut supervisor = alone(Policy { inputs, ..workers(1) });
    let mut looks = 0;
    while let Some(look) = supervisor.next_look().filter(|look| look.at <= at(10_000)) {
        looks += 1;
        assert!(look.workers && look.container.is_some(), "one wake-up for both");
        let used = Used { workers: vec![uses(20 * MIB, true)], container: Some(100 * MIB) };
        drop(supervisor.step(look.at, Event::Used(used)));
    }
    assert_eq!(looks, 20);
}

// === the cap ===

#[test]
fn a_worker_at_its_cap_is_killed_and_its_slot_starts_as_after_a_crash() {
    let mut world =
        World::scripted(Policy { memory_soft: None, ..capped(2, 100 * MIB) }, [server().leaks(MIB / 10), server(), server()]);
    world.run_until(5_000);
    let killed = noted(&world, is_cap);
    assert!(matches!(killed[..], [ms] if (800..=812).contains(&ms)), "80 MiB at 0.1 MiB per ms: {killed:?}");
    assert_eq!((world.times(is_kill), world.times(is_stop)), (killed.clone(), vec![]), "at once, the whole tree");
    let row = &world.snapshot().rows[0];
    assert_eq!((row.restarts, row.last_exit.unwrap().reason), (1, Reason::Memory));
    let waited = world.starts(0)[1] - killed[0];
    assert!((100..=120).contains(&waited), "it was ready for less than a second: {waited}");
    assert_eq!(world.starts(1), [0], "the other worker is not touched");
}

#[test]
fn one_that_had_proved_itself_is_replaced_at_once() {
    let mut world = World::scripted(Policy { memory_soft: None, ..capped(1, 100 * MIB) }, [server().leaks(MIB / 50), server()]);
    world.run_until(10_000);
    let killed = noted(&world, is_cap);
    assert_eq!(world.starts(0), [0, killed[0]]);
}

#[test]
fn a_worker_that_starts_and_one_that_stops_are_held_to_their_cap_too() {
    let mut world = World::scripted(capped(1, 100 * MIB), [Behaviour::serves().leaks(MIB), server()]);
    world.run_until(1_000);
    assert_eq!(count(&world, is_cap), 1, "it never was ready");

    let stubborn = server().on_stop(OnStop::Ignores).leaks(MIB / 100);
    let mut world = World::of(Policy { memory_soft: None, ..capped(1, 100 * MIB) }, stubborn);
    world.run_until(3_000);
    world.ask(STOP);
    world.run_until(20_000);
    let (ended, code) = world.end();
    assert!((8_000..8_700).contains(&ended) && code == 137, "{ended}: not at the end of its grace, and killed by us");
}

#[test]
fn a_kill_for_memory_is_an_end_of_its_own_by_the_restart_rule() {
    let policy = Policy { restart: Restart::Never, memory_soft: None, ..capped(1, 100 * MIB) };
    let mut world = World::of(policy, server().leaks(MIB / 50));
    world.run_until(10_000);
    assert_eq!(world.end().1, 137);
    let policy = Policy { restart: Restart::OnFailure, memory_soft: None, ..capped(1, 100 * MIB) };
    let mut world = World::scripted(policy, [server().leaks(MIB / 50), server()]);
    world.run_until(10_000);
    assert_eq!(world.starts(0).len(), 2, "it failed, whatever its status");
}

#[test]
fn an_exit_with_0_between_our_kill_and_its_arrival_is_no_job_done() {
    let policy = Policy { restart: Restart::OnFailure, memory_soft: None, ..capped(1, 100 * MIB) };
    let exits = Behaviour { kill_takes: 50, runs: 4_020, ..server().leaks(MIB / 50) };
    let mut world = World::scripted(policy, [exits, server()]);
    world.run_until(10_000);
    let killed = noted(&world, is_cap)[0];
    assert!((3_971..4_021).contains(&killed), "{killed}");
    assert_eq!(world.starts(0), [0, 4_021]);
}

#[test]
fn a_successor_at_its_cap_aborts_the_reload() {
    let mut world = World::scripted(capped(1, 100 * MIB), [server(), Behaviour::serves().leaks(MIB), server()]);
    world.run_until(10_000);
    world.ask(Request::Reload);
    world.run_until(12_000);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.reload.state, snapshot.ready), (ReloadState::Aborted, 1));
    assert_eq!(snapshot.reload.reason.as_deref(), Some("the new worker of slot 0 used too much memory"));
}

// === estimates ===

#[test]
fn an_estimate_at_the_cap_is_confirmed_before_anybody_is_killed() {
    let mut supervisor = alone(Policy { memory_soft: None, ..capped(1, 100 * MIB) });
    let once = [Effect::Confirm { life: Life(0) }];
    assert_eq!(used(&mut supervisor, 100, Some(uses(99 * MIB, false)), None), []);
    assert!(used(&mut supervisor, 110, Some(uses(101 * MIB, false)), None) == once);
    assert_eq!(used(&mut supervisor, 120, Some(uses(102 * MIB, false)), None), [], "once");
    assert_eq!(used(&mut supervisor, 125, Some(uses(60 * MIB, true)), None), [], "42 MiB were counted twice");
    assert_eq!(used(&mut supervisor, 130, Some(uses(141 * MIB, false)), None), [], "99 MiB");
    assert!(used(&mut supervisor, 140, Some(uses(142 * MIB, false)), None) == once, "100 MiB");
    assert_eq!(used(&mut supervisor, 145, Some(uses(99 * MIB + MIB / 2, true)), None), []);
    assert_eq!(used(&mut supervisor, 150, Some(uses(143 * MIB - 1, false)), None), [], "by less than 1 % of its cap");
    assert_eq!(used(&mut supervisor, 160, Some(uses(143 * MIB + MIB / 2, false)), None), once, "by 1 %");
    let effects = used(&mut supervisor, 165, Some(uses(100 * MIB, true)), None);
    assert!(effects.contains(&Effect::KillTree { life: Life(0) }), "{effects:?}");
}

#[test]
fn a_question_that_is_not_answered_is_asked_again_after_a_second() {
    let mut supervisor = alone(capped(1, 100 * MIB));
    let asked: Vec<u64> = (0..250)
        .map(|n| n * 10)
        .filter(|ms| used(&mut supervisor, *ms, Some(uses(200 * MIB, false)), None).iter().any(is_confirm))
        .collect();
    assert_eq!(asked, [0, 1_000, 2_000]);
}

#[test]
fn what_was_counted_twice_may_be_gone_and_is_asked_for_when_as_much_could_have_been_allocated() {
    for (cap, exact, ms) in [(100, 50, 500), (10_240, 5_240, 2_000), (102_400, 1_000, 10_000)] {
        let mut supervisor = alone(Policy { memory_soft: None, ..capped(1, cap * MIB) });
        used(&mut supervisor, 0, Some(uses((cap + 50) * MIB, false)), None);
        used(&mut supervisor, 5, Some(uses(exact * MIB, true)), None);
        // Corrected it is far below; that may be as wrong as it was right.
        let estimate = Some(uses((cap + 60) * MIB, false));
        assert!(!used(&mut supervisor, ms + 4, estimate, None).iter().any(is_confirm), "{cap}");
        assert!(used(&mut supervisor, ms + 5, estimate, None).iter().any(is_confirm), "{cap}");
    }
}

#[test]
fn an_exact_figure_of_nothing_is_none() {
    let mut supervisor = alone(Policy { memory_soft: None, ..capped(1, 100 * MIB) });
    assert!(used(&mut supervisor, 0, Some(uses(150 * MIB, false)), None).iter().any(is_confirm));
    assert_eq!(used(&mut supervisor, 5, Some(uses(0, true)), None), [], "not asked for again at once");
    assert_eq!(used(&mut supervisor, 14, Some(uses(150 * MIB, false)), None), []);
    assert!(used(&mut supervisor, 15, Some(uses(150 * MIB, false)), None).iter().any(is_confirm), "asked for at the next look");
    let effects = used(&mut supervisor, 20, Some(uses(120 * MIB, true)), None);
    assert!(effects.contains(&Effect::KillTree { life: Life(0) }), "{effects:?}");
}

#[test]
fn the_simulated_tree_is_killed_by_what_it_really_uses() {
    let tree = server().leaks(MIB / 10).counted_twice(60 * MIB);
    let mut world = World::scripted(Policy { memory_soft: None, ..capped(1, 100 * MIB) }, [tree, server()]);
    world.run_until(2_000);
    let killed = noted(&world, is_cap);
    assert!(matches!(killed[..], [ms] if (800..=840).contains(&ms)), "80 MiB at 0.1 MiB per ms: {killed:?}");
    assert!(world.times(is_confirm).len() <= 3, "{:?}", world.times(is_confirm));
}

// === MEMORY_SOFT ===

#[test]
fn at_its_soft_share_a_worker_is_replaced_successor_first() {
    // 90 MiB after 14 s.
    let mut world = World::scripted(capped(1, 100 * MIB), [server().leaks(MIB / 200), server()]);
    world.run_until(20_000);
    let [asked] = noted(&world, is_soft)[..] else { panic!("one line") };
    assert!((14_000..=14_100).contains(&asked), "{asked}");
    assert_eq!((world.starts(0), world.times(is_stop)), (vec![0, asked], vec![asked + 200]));
    let row = &world.snapshot().rows[0];
    assert_eq!((row.restarts, row.last_exit.unwrap().reason, world.times(is_kill)), (1, Reason::Memory, vec![]));
}

#[test]
fn leakers_are_replaced_one_at_a_time() {
    let leaks = || server().leaks(MIB / 200);
    let mut world = World::scripted(capped(3, 100 * MIB), [leaks(), leaks(), leaks(), server()]);
    world.run_until(30_000);
    let mut starts: Vec<u64> = (0..3).map(|slot| world.starts(slot)[1]).collect();
    starts.sort_unstable();
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 500), "start, stop: {starts:?}");
    assert_eq!(world.snapshot().ready, 3);
}

#[test]
fn a_successor_that_gets_there_within_10_min_needs_more() {
    // 0.01 MiB per ms: soft after 7 s. The next one gets there in 592 s, or in 611 s.
    let slowly = |ms: u64| server().leaks(70 * MIB / ms);
    let mut world = World::scripted(capped(1, 100 * MIB), [slowly(7_000), slowly(590_000)]);
    world.run_until(620_000);
    assert_eq!((count(&world, is_soft), count(&world, needs_more), world.starts(0).len()), (1, 1, 2), "it stays, and one line");
    world.run_until(750_000);
    assert_eq!((count(&world, is_soft), count(&world, needs_more), count(&world, is_cap)), (1, 1, 1), "until its cap");

    let mut world = World::scripted(capped(1, 100 * MIB), [slowly(7_000), slowly(610_000), server()]);
    world.run_until(620_000);
    assert_eq!((count(&world, is_soft), count(&world, needs_more), world.starts(0).len()), (2, 0, 3), "it leaks");
}

#[test]
fn who_follows_a_worker_that_was_killed_at_its_cap_needs_more_too() {
    let policy = capped(1, 100 * MIB);
    let mut world = World::scripted(policy, [Behaviour::serves().leaks(MIB), server().uses(95 * MIB)]);
    world.run_until(5_000);
    assert_eq!((count(&world, is_cap), count(&world, is_soft), count(&world, needs_more)), (1, 0, 1));
}

#[test]
fn memory_soft_off_leaves_the_cap() {
    let mut world = World::scripted(Policy { memory_soft: None, ..capped(1, 100 * MIB) }, [server().leaks(MIB / 100), server()]);
    world.run_until(20_000);
    assert_eq!((count(&world, is_soft), count(&world, is_cap)), (0, 1));
}

#[test]
fn a_replacement_for_memory_that_fails_is_tried_again_later() {
    let grows = server().uses(92 * MIB);
    let mut world = World::scripted(capped(1, 100 * MIB), [grows, Behaviour::exits(3, 99), server()]);
    world.run_until(60_000);
    let starts = world.starts(0);
    assert_eq!((starts.len(), starts[2] - starts[1]), (3, 100 + 30_000));
    assert_eq!((count(&world, is_soft), world.snapshot().ready), (1, 1));
}
