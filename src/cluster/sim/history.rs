//! What proptest draws: a policy, what each worker does, and what else happens when.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::process::{Appetite, Behaviour, Exec, Ms, NEVER, OnPart, OnStop, Rest};
use super::world::{Happening, Script, Strays, World};
use crate::cluster::event::{Event, ExecFailure, Left, Notice, Request};
use crate::cluster::policy::{Backoff, DrainDelay, Policy, ReadyMode, Restart};
use crate::cluster::sizing::{Caps, Inputs, Limits, Workers};
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
    /// What the container uses besides its workers, and from `Confirm` to its answer.
    memory: (u64, Ms),
}

const MIB: u64 = 1 << 20;

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
        (world.others_use, world.confirm_takes) = self.memory;
        world
    }
}

pub(super) fn any(kind: Kind) -> impl Strategy<Value = History> {
    let then = match kind {
        Kind::Wild => behaviour().boxed(),
        Kind::Recovering => Just(Behaviour::serves().notifies(20).listens(20)).boxed(),
    };
    let happenings = vec((instant(), happening(kind)), 0..24);
    let memory = (0..200_u64, 0..40_u64).prop_map(|(mib, ms)| (mib * MIB, ms));
    (policy(kind), vec(behaviour(), 0..16), then, strays(), any_bool(), happenings, 0..30_000_u64, memory).prop_map(
        |(policy, lives, then, strays, deadlines_first, happenings, length, memory)| {
            let then = if then.fork_refused { Behaviour::serves() } else { then };
            History { policy, lives, then, strays, deadlines_first, happenings, length, memory }
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
    let ready = prop_oneof![
        2 => Just(ReadyMode::Auto), 1 => Just(ReadyMode::Listen), 1 => Just(ReadyMode::Notify), 1 => Just(ReadyMode::Running)
    ];
    let hang_timeout = proptest::option::weighted(0.3, 50..3_000_u64);
    let ready = (ready, any_bool(), any_bool(), hang_timeout);
    let drain = (short(), any_bool()).prop_map(|(ms, always)| match Duration::from_millis(ms) {
        drain if always => DrainDelay::Always(drain),
        drain => DrainDelay::WhereListening(drain),
    });
    let backoff = (1..300_u64, 0..2_000_u64);
    let lifetime = proptest::option::weighted(0.3, 1_500..8_000_u64);
    let watchdog = proptest::option::weighted(0.2, 50..2_000_u64);
    let times = (500..5_000_u64, short(), backoff, lifetime, watchdog);
    let memory = (inputs(kind), proptest::option::weighted(0.8, 0.2..1.0_f64), proptest::bool::weighted(0.2));
    (counts, restart, ready, drain, times, any_bool(), proptest::num::u64::ANY, memory).prop_map(
        move |(
            (workers, first, end_with_first, memory_allows, min_ready),
            restart,
            ready,
            drain_delay,
            times,
            owns,
            seed,
            memory,
        )| {
            let (start, grace, (first_delay, more), lifetime, watchdog) = times;
            let (ready, sees_listening, quiet, hang_timeout) = ready;
            let ms = Duration::from_millis;
            let (inputs, memory_soft, kernel_caps) = memory;
            Policy {
                workers,
                slot_zero_first: first,
                end_with_first,
                most_workers: workers * 4,
                memory_allows,
                inputs,
                memory_soft,
                kernel_caps,
                restart,
                backoff: Backoff { first: ms(first_delay), longest: ms(first_delay + more) },
                ready,
                sees_listening,
                quiet,
                hang_timeout: hang_timeout.map(ms),
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

/// Most histories are not about memory.
fn inputs(kind: Kind) -> impl Strategy<Value = Inputs> {
    let caps =
        prop_oneof![2 => Just(Caps::Share), 2 => (40..400_u64).prop_map(|mib| Caps::Fixed(mib * MIB)), 1 => Just(Caps::Off)];
    let workers = prop_oneof![Just(Workers::Auto), (1..6_u32).prop_map(Workers::Count)];
    let limited = (caps, workers, limits()).prop_map(|(caps, workers, limits)| {
        let inputs = Inputs { caps, workers, memory_per_worker: 64 * MIB, ..Inputs::default() };
        inputs.under(&limits)
    });
    let others = if kind == Kind::Wild { 2 } else { 8 };
    prop_oneof![others => Just(Inputs::default()), 1 => limited]
}

fn limits() -> impl Strategy<Value = Limits> {
    let memory = proptest::option::weighted(0.8, (64..1_500_u64).prop_map(|mib| mib * MIB));
    let cpu = proptest::option::weighted(0.8, (1..14_u32).prop_map(|halves| f64::from(halves) / 2.0));
    (cpu, memory, 1..8_u32).prop_map(|(cpu, memory, affinity)| Limits { cpu, memory, affinity, ..Limits::default() })
}

/// Mostly small and steady; some leak, slowly or as fast as they can.
fn appetite() -> impl Strategy<Value = Appetite> {
    let leak = (0..200_u64, prop_oneof![1..2_000_u64, 1..(5_u64 << 19)], 0..60_u64, 0..60_u64).prop_map(
        |(from, grows, twice, stays)| Appetite {
            begins: from * MIB,
            grows,
            most: 2_000 * MIB,
            twice: twice * MIB,
            stays: stays * MIB,
        },
    );
    prop_oneof![2 => Just(Appetite { begins: 20 * MIB, most: 20 * MIB, ..Appetite::default() }), 1 => leak]
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
    let says = vec((prop_oneof![4 => short(), 1 => 1_000..10_000_u64], notice()), 0..4);
    let on_part = prop_oneof![
        3 => Just(OnPart::Cannot),
        2 => short().prop_map(OnPart::Ends),
        1 => short().prop_map(OnPart::Stays),
        1 => Just(OnPart::Serves),
    ];
    let serving = (or_never(), or_never(), on_part, vec((prop_oneof![short(), 1_000..10_000_u64], any_bool()), 0..4));
    let serving = (serving, appetite());
    (proptest::bool::weighted(0.1), exec, or_never(), status(), on_stop, rest, kill_takes, says, serving).prop_map(
        |(
            fork_refused,
            exec,
            runs,
            status,
            on_stop,
            rest,
            kill_takes,
            says,
            ((listens, quiet_takes, on_part, waits), appetite),
        )| {
            Behaviour {
                fork_refused,
                exec,
                runs,
                status,
                on_stop,
                rest,
                kill_takes,
                says,
                listens,
                quiet_takes,
                on_part,
                waits,
                appetite,
            }
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
        2 => limits().prop_map(Happening::LimitsRead),
        1 => (0..1_000_u64).prop_map(|mib| Happening::OthersUse(mib * MIB)),
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

/// Nobody's events: of lives that are over or never were, repeated, too early. Figures are not among them: they are what is measured.
fn noise() -> impl Strategy<Value = Event> {
    let nobody = Life(1_000_000);
    let early = (0..6_u64).prop_map(Life);
    prop_oneof![
        4 => Just(Event::DeadlineReached),
        1 => Just(Event::TreeEnded { life: nobody }),
        1 => Just(Event::LeaderEnded { life: nobody, status: ExitStatus::Code(0), rest: 0 }),
        1 => Just(Event::Executed { life: nobody }),
        1 => early.clone().prop_map(|life| Event::Forked { life, pid: Pid(4_000) }),
        1 => early.clone().prop_map(|life| Event::ForkRefused { life, why: "late".to_owned() }),
        1 => early.clone().prop_map(|life| Event::Quiet { life }),
        1 => early.clone().prop_map(|life| Event::Parted { life }),
        1 => early.clone().prop_map(|life| Event::Unanswered { life, since: None }),
        1 => early.clone().prop_map(|life| Event::Listened { life }),
        1 => early.prop_map(|life| Event::Waiting { life, since: None }),
        1 => (0..6_u64).prop_map(|life| Event::OutOfMemory { life: Life(life) }),
        2 => (0..8_u32).prop_map(|slot| Event::QueueFilled { slot: Slot(slot) }),
        1 => Just(Event::NamespaceSeen { left: Left { own: 1, entered: 0 } }),
    ]
}
