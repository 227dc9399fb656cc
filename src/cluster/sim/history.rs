//! What proptest draws: a policy, what each worker does, and what else happens when.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::process::{Behaviour, Exec, Ms, NEVER, OnStop, Rest};
use super::world::{Happening, Script, Strays, World};
use crate::cluster::event::{Event, ExecFailure, Left, Notice, Request};
use crate::cluster::policy::{Backoff, DrainDelay, Policy, ReadyMode, Restart};
use crate::cluster::words::{ExitStatus, Life, Pid, Signal, Slot};

#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) policy: Policy,
    lives: Vec<Behaviour>,
    then: Behaviour,
    strays: Strays,
    deadlines_first: bool,
    pub(super) happenings: Vec<(Ms, Happening)>,
    pub(super) length: Ms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything, all the time.
    Wild,
    /// Nobody asks for a stop, and after a number of lives all workers behave.
    Recovering,
}

impl History {
    pub(super) fn world(&self) -> World {
        let script = Script { lives: self.lives.clone(), then: self.then.clone() };
        let mut world = World::start(self.policy.clone(), script);
        world.strays = self.strays;
        world.deadlines_first = self.deadlines_first;
        world
    }
}

pub(super) fn any(kind: Kind) -> impl Strategy<Value = History> {
    let then = match kind {
        Kind::Wild => behaviour().boxed(),
        Kind::Recovering => Just(Behaviour::serves().notifies(20)).boxed(),
    };
    let happenings = vec((instant(), happening(kind)), 0..24);
    (policy(kind), vec(behaviour(), 0..16), then, strays(), any_bool(), happenings, 0..30_000_u64).prop_map(
        |(policy, lives, then, strays, deadlines_first, happenings, length)| {
            let then = if then.fork_refused { Behaviour::serves() } else { then };
            History { policy, lives, then, strays, deadlines_first, happenings, length }
        },
    )
}

fn any_bool() -> impl Strategy<Value = bool> {
    proptest::bool::ANY
}

/// Near to each other and to round numbers, where the collisions are.
fn instant() -> impl Strategy<Value = Ms> {
    prop_oneof![0..50_u64, 950..1100_u64, 0..4_000_u64, 0..30_000_u64, (0..40_u64).prop_map(|n| n * 500)]
}

fn short() -> impl Strategy<Value = Ms> {
    prop_oneof![Just(0), 1..20_u64, 20..1_500_u64, (0..8_u64).prop_map(|n| n * 500)]
}

fn policy(kind: Kind) -> impl Strategy<Value = Policy> {
    let counts = (1..=6_u32, any_bool(), any_bool(), proptest::option::of(1..10_u32), 1..=3_u32);
    let restart = match kind {
        Kind::Wild => {
            prop_oneof![Just(Restart::Auto), Just(Restart::Always), Just(Restart::OnFailure), Just(Restart::Never)].boxed()
        }
        Kind::Recovering => prop_oneof![Just(Restart::Auto), Just(Restart::Always), Just(Restart::OnFailure)].boxed(),
    };
    let ready = prop_oneof![Just(ReadyMode::Auto), Just(ReadyMode::Notify), Just(ReadyMode::Running)];
    let drain = (short(), any_bool()).prop_map(|(ms, always)| match Duration::from_millis(ms) {
        drain if always => DrainDelay::Always(drain),
        drain => DrainDelay::WhereListening(drain),
    });
    let backoff = (1..300_u64, 0..2_000_u64);
    let lifetime = proptest::option::weighted(0.3, 1_500..8_000_u64);
    let watchdog = proptest::option::weighted(0.2, 50..2_000_u64);
    let times = (500..5_000_u64, short(), backoff, lifetime, watchdog);
    (counts, restart, ready, drain, times, any_bool(), proptest::num::u64::ANY).prop_map(
        move |((workers, first, end_with_first, memory_allows, min_ready), restart, ready, drain_delay, times, owns, seed)| {
            let (start, grace, (first_delay, more), lifetime, watchdog) = times;
            let ms = Duration::from_millis;
            Policy {
                workers,
                slot_zero_first: first,
                end_with_first,
                most_workers: workers * 4,
                memory_allows,
                restart,
                backoff: Backoff { first: ms(first_delay), longest: ms(first_delay + more) },
                ready,
                start_timeout: ms(start),
                min_ready,
                unhealthy_after: ms(5_000),
                stop_signal: Signal::TERM,
                drain_delay,
                grace: ms(grace),
                max_lifetime: lifetime.filter(|_| kind == Kind::Wild).map(ms),
                watchdog: watchdog.map(ms),
                owns_namespace: owns,
                seed,
            }
        },
    )
}

fn status() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        3 => Just(ExitStatus::Code(0)),
        2 => proptest::num::u8::ANY.prop_map(ExitStatus::Code),
        1 => Just(ExitStatus::Code(143)),
        2 => prop_oneof![Just(9), Just(11), Just(15)].prop_map(|n| ExitStatus::Signal { signal: Signal(n), core: n == 11 }),
    ]
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let exec = prop_oneof![
        12 => short().prop_map(Exec::After),
        1 => Just(Exec::Fails(ExecFailure::Transient)),
        1 => prop_oneof![Just(ExecFailure::NotFound), Just(ExecFailure::NotExecutable)].prop_map(Exec::Fails),
    ];
    let on_stop = prop_oneof![
        3 => Just(OnStop::Dies),
        3 => (prop_oneof![Just(0), Just(143), proptest::num::u8::ANY], short()).prop_map(|(code, ms)| OnStop::Exits(code, ms)),
        2 => Just(OnStop::Ignores),
    ];
    let rest = (prop_oneof![3 => Just(0), 1 => 1..3_u32], or_never(), or_never());
    let rest = rest.prop_map(|(count, stays, stop_takes)| Rest { count, stays, stop_takes });
    let kill_takes = prop_oneof![6 => Just(0), 3 => 1..50_u64, 1 => short(), 1 => Just(NEVER)];
    let says = vec((short(), notice()), 0..4);
    (proptest::bool::weighted(0.1), exec, or_never(), status(), on_stop, rest, kill_takes, says).prop_map(
        |(fork_refused, exec, runs, status, on_stop, rest, kill_takes, says)| Behaviour {
            fork_refused,
            exec,
            runs,
            status,
            on_stop,
            rest,
            kill_takes,
            says,
        },
    )
}

fn or_never() -> impl Strategy<Value = Ms> {
    prop_oneof![2 => short(), 1 => Just(NEVER)]
}

fn notice() -> impl Strategy<Value = Notice> {
    prop_oneof![
        5 => Just(Notice::Ready),
        1 => Just(Notice::Stopping),
        1 => Just(Notice::Reloading),
        1 => Just(Notice::Status("fine".to_owned())),
        2 => Just(Notice::Alive),
        1 => Just(Notice::Trigger),
        1 => (0..1_500_u64).prop_map(|ms| Notice::WatchdogInterval(Duration::from_millis(ms))),
    ]
}

fn strays() -> impl Strategy<Value = Strays> {
    let group = || (prop_oneof![2 => Just(0), 1 => 1..3_u32], or_never());
    (group(), group(), proptest::bool::weighted(0.1)).prop_map(|((own, own_takes), (entered, entered_takes), unkillable)| {
        Strays { own, own_takes, entered, entered_takes, unkillable }
    })
}

fn happening(kind: Kind) -> impl Strategy<Value = Happening> {
    let stop = if kind == Kind::Wild { 2 } else { 0 };
    prop_oneof![
        12 => request().prop_map(Happening::Asked),
        stop => stop_request().prop_map(Happening::Asked),
        3 => noise().prop_map(Happening::Noise),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => Just(Request::Reload),
        2 => Just(Request::More),
        2 => Just(Request::Fewer),
        2 => (0..10_u32).prop_map(Request::Scale),
        1 => Just(Request::Scale(u32::MAX)),
        3 => (0..8_u32).prop_map(|slot| Request::Restart(Slot(slot))),
    ]
}

fn stop_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (any_bool(), any_bool()).prop_map(|(interrupt, listening)| Request::Stop { interrupt, listening }),
        1 => Just(Request::StopNow),
    ]
}

/// Nobody's events: of lives that are over or never were, repeated, too early.
fn noise() -> impl Strategy<Value = Event> {
    let nobody = Life(1_000_000);
    let early = (0..6_u64).prop_map(Life);
    prop_oneof![
        4 => Just(Event::DeadlineReached),
        1 => Just(Event::TreeEnded { life: nobody }),
        1 => Just(Event::LeaderEnded { life: nobody, status: ExitStatus::Code(0), rest: 0 }),
        1 => Just(Event::Executed { life: nobody }),
        1 => early.clone().prop_map(|life| Event::Forked { life, pid: Pid(4_000) }),
        1 => early.prop_map(|life| Event::ForkRefused { life, why: "late".to_owned() }),
        1 => Just(Event::NamespaceSeen { left: Left { own: 1, entered: 0 } }),
    ]
}
