//! Every rule of the count, every number on the way, and what holds for any input at all.

use proptest::prelude::*;

use super::*;

/// A machine of 4 CPUs with nothing to say.
fn inputs() -> Inputs {
    Inputs {
        one_port_each: false,
        workers: Workers::Auto,
        per_cpu: 1.0,
        rounding: Rounding::Ceil,
        cpu_limit: None,
        affinity: 4,
        memory_limit: None,
        memory_reserve: None,
        memory_per_worker: 128 * MIB,
        caps: Caps::Share,
        program: "server".to_owned(),
        stdin_is_terminal: false,
    }
}

fn decided(inputs: &Inputs) -> (u32, Rule) {
    let sizing = Sizing::new(inputs);
    (sizing.workers, sizing.rule)
}

#[test]
fn a_quota_is_rounded_as_asked() {
    let cases = [
        // limit, factor: ceil, floor, nearest
        (1.5, 1.0, [2, 1, 2]),
        (1.2, 1.0, [2, 1, 1]),
        (0.5, 1.0, [1, 1, 1]),
        (0.001, 1.0, [1, 1, 1]),
        (1.99999, 1.0, [2, 1, 2]),
        (1.000_001, 1.0, [2, 1, 1]),
        (2.0, 1.0, [2, 2, 2]),
        (2.5, 2.0, [5, 5, 5]),
        (2.5, 0.5, [2, 1, 1]),
        // None of these products is exact.
        (1.1, 10.0, [11, 11, 11]),
        (0.1, 30.0, [3, 3, 3]),
        (0.29, 100.0, [29, 29, 29]),
        (2.000_000_000_1, 1.0, [2, 2, 2]),
        (1.999_999_999_9, 1.0, [2, 2, 2]),
        (10_000.0, 1.0, [64, 64, 64]),
        (10_000.0, 1e300, [64, 64, 64]),
    ];
    for (limit, per_cpu, expected) in cases {
        for (rounding, workers) in [Rounding::Ceil, Rounding::Floor, Rounding::Nearest].into_iter().zip(expected) {
            let inputs = Inputs { cpu_limit: Some(limit), per_cpu, rounding, affinity: 64, ..inputs() };
            assert_eq!(Sizing::new(&inputs).workers, workers, "{limit} x {per_cpu}, {rounding}");
        }
    }
}

#[test]
fn each_rule_decides_where_it_is_the_tightest() {
    let gib = Some(1024 * MIB);
    let cases = [
        ((2, Rule::CpuLimit), Inputs { cpu_limit: Some(1.5), ..inputs() }),
        ((4, Rule::CpuLimit), Inputs { cpu_limit: Some(2.0), per_cpu: 2.0, ..inputs() }),
        ((4, Rule::Affinity), Inputs { cpu_limit: Some(6.0), ..inputs() }),
        ((4, Rule::Affinity), Inputs { cpu_limit: Some(3.0), per_cpu: 2.0, ..inputs() }),
        ((4, Rule::NoCpuLimit), inputs()),
        ((2, Rule::NoCpuLimit), Inputs { per_cpu: 0.5, ..inputs() }),
        ((4, Rule::Affinity), Inputs { per_cpu: 2.0, ..inputs() }),
        ((8, Rule::NoCpuLimit), Inputs { affinity: 64, ..inputs() }),
        ((8, Rule::NoCpuLimit), Inputs { affinity: 8, ..inputs() }),
        ((64, Rule::CpuLimit), Inputs { affinity: 64, cpu_limit: Some(64.0), ..inputs() }),
        ((1, Rule::AtLeastOne), Inputs { cpu_limit: Some(0.5), rounding: Rounding::Floor, ..inputs() }),
        ((1, Rule::AtLeastOne), Inputs { memory_limit: Some(64 * MIB), ..inputs() }),
        ((7, Rule::Memory), Inputs { cpu_limit: Some(16.0), affinity: 16, memory_limit: gib, ..inputs() }),
        ((4, Rule::NoCpuLimit), Inputs { memory_limit: gib, ..inputs() }),
        ((1, Rule::Program), Inputs { program: "java".to_owned(), ..inputs() }),
        ((1, Rule::Program), Inputs { program: "beam.smp".to_owned(), ..inputs() }),
        ((4, Rule::NoCpuLimit), Inputs { program: "javascript".to_owned(), ..inputs() }),
        ((1, Rule::NoSharing), Inputs { one_port_each: true, ..inputs() }),
        ((1, Rule::Program), Inputs { one_port_each: true, program: "java".to_owned(), ..inputs() }),
        ((1, Rule::Terminal), Inputs { stdin_is_terminal: true, ..inputs() }),
        ((1, Rule::Terminal), Inputs { stdin_is_terminal: true, program: "java".to_owned(), ..inputs() }),
        ((3, Rule::Workers), Inputs { workers: Workers::Count(3), stdin_is_terminal: true, ..inputs() }),
        ((100, Rule::Workers), Inputs { workers: Workers::Count(100), memory_limit: gib, ..inputs() }),
        ((6, Rule::WebConcurrency), Inputs { workers: Workers::WebConcurrency(6), program: "java".to_owned(), ..inputs() }),
    ];
    for (expected, inputs) in cases {
        assert_eq!(decided(&inputs), expected, "{inputs:?}");
    }
}

#[test]
fn an_explicit_count_leaves_the_automatic_one_known() {
    let sizing = Sizing::new(&Inputs { workers: Workers::Count(1), cpu_limit: Some(3.0), ..inputs() });
    assert_eq!((sizing.workers, sizing.automatic), (1, 3));
}

#[test]
fn the_automatic_reserve_grows_with_the_count_and_is_a_quarter_at_most() {
    let reserve = |workers, limit: u64| auto_reserve(workers, limit * MIB) / MIB;
    assert_eq!([1, 2, 3, 10].map(|workers| reserve(workers, 1024)), [32, 32, 36, 64]);
    assert_eq!([1, 2, 3, 10].map(|workers| reserve(workers, 128)), [32, 32, 32, 32]);
    assert_eq!(reserve(1, 64), 16);
}

#[test]
fn memory_allows_what_fits_beside_the_reserve() {
    let allows = |limit: u64, each: u64, reserve: Option<u64>| {
        let reserve = reserve.map(|mib| mib * MIB);
        let inputs = Inputs { memory_per_worker: each * MIB, memory_reserve: reserve, ..inputs() };
        memory_allows(&inputs, limit * MIB)
    };
    assert_eq!(allows(512, 128, None), 3); // 3 x 128 + 36 = 420; 4 x 128 + 40 = 552
    assert_eq!(allows(544, 128, None), 3); // 4 x 128 = 512 and 32 would fit, 40 does not
    assert_eq!(allows(552, 128, None), 4);
    assert_eq!(allows(288, 128, None), 2); // 2 x 128 + 32, to the byte
    assert_eq!(allows(287, 128, None), 1);
    assert_eq!(allows(64, 48, None), 1); // a quarter, 16, is less than 32
    assert_eq!(allows(64, 49, None), 0);
    assert_eq!(allows(512, 1, None), 384); // bounded by the quarter
    assert_eq!(allows(512, 100, Some(12)), 5);
    assert_eq!(allows(512, 100, Some(600)), 0);
}

#[test]
fn the_words_name_every_number() {
    let inputs = Inputs { cpu_limit: Some(1.5), affinity: 16, memory_limit: Some(512 * MIB), per_cpu: 4.0, ..inputs() };
    let sizing = Sizing::new(&inputs);
    let expected = [
        "CPU limit 1.5 x 4 per CPU = 6, ceil: 6",
        "affinity mask: at most 16",
        "memory: (512Mi - 36Mi reserve) / 128Mi per worker allows 3",
    ];
    assert_eq!(sizing.steps, expected);
    assert_eq!(sizing.explanation, "CPU limit 1.5 x 4 per CPU = 6, ceil: 6, but memory allows 3");
    assert_eq!((sizing.workers, sizing.memory_allows, sizing.reserve_bytes), (3, Some(3), Some(36 * MIB)));
}

/// Workers, cap and limit in MiB.
fn warned(workers: Workers, caps: Caps, limit: u64) -> Vec<String> {
    let memory_per_worker = if let Caps::Fixed(bytes) = caps { bytes } else { 128 * MIB };
    let inputs = Inputs { workers, caps, memory_per_worker, memory_limit: Some(limit * MIB), ..inputs() };
    Sizing::new(&inputs).warnings
}

#[test]
fn explicit_numbers_that_do_not_fit_are_said_with_what_follows() {
    let fixed = Caps::Fixed(256 * MIB);
    assert_eq!(
        warned(Workers::Count(8), fixed, 1024),
        [
            "CLUSTERINIT_WORKERS=8 x CLUSTERINIT_WORKER_MEMORY=256Mi + 56Mi reserve is more than the limit of 1Gi: caps alone do not keep \
          the container from running out of memory; while it is short, the worker farthest above its fair share of 121Mi goes first"
        ]
    );
    let web = warned(Workers::WebConcurrency(8), fixed, 1024);
    assert!(web[0].starts_with("WEB_CONCURRENCY=8 x "), "{web:?}");
    let one = warned(Workers::Auto, fixed, 256);
    assert!(one[0].starts_with("1 worker x CLUSTERINIT_WORKER_MEMORY=256Mi + 32Mi reserve"), "{one:?}");
    assert_eq!(
        warned(Workers::Count(3), Caps::Share, 256),
        ["CLUSTERINIT_WORKERS=3 leaves about 73Mi of memory to each worker, (256Mi - 36Mi reserve) / 3: less than \
          CLUSTERINIT_WORKER_MEMORY_MIN=128Mi"]
    );
}

#[test]
fn what_fits_or_is_not_capped_is_not_warned_of() {
    // 3 x 256 + 36 = 804
    let fixed = Caps::Fixed(256 * MIB);
    assert_eq!(warned(Workers::Count(3), fixed, 804), Vec::<String>::new());
    assert_eq!(warned(Workers::Count(3), fixed, 803).len(), 1);
    assert_eq!(warned(Workers::Count(3), Caps::Share, 420), Vec::<String>::new());
    assert_eq!(warned(Workers::Count(3), Caps::Off, 64), Vec::<String>::new());
    assert_eq!(warned(Workers::Auto, Caps::Share, 64), Vec::<String>::new());
    let unlimited = Inputs { workers: Workers::Count(99), caps: fixed, ..inputs() };
    assert_eq!(Sizing::new(&unlimited).warnings, Vec::<String>::new());
}

#[test]
fn an_explicit_cap_lowers_the_automatic_count() {
    let capped = |mib: u64| {
        let (caps, memory_per_worker) = (Caps::Fixed(mib * MIB), mib * MIB);
        let sizing = Sizing::new(&Inputs { caps, memory_per_worker, memory_limit: Some(1024 * MIB), ..inputs() });
        (sizing.workers, sizing.share.memory)
    };
    assert_eq!(capped(200), (4, Some(200 * MIB)));
    assert_eq!(capped(300), (3, Some(300 * MIB)));
    assert_eq!(capped(600), (1, Some(600 * MIB)));
}

#[test]
fn a_share_is_of_what_is_paid_for() {
    let cases = [
        // CPU limit, affinity, workers: CPUs of each
        (Some(1.5), 4, 2, 1),
        (Some(3.0), 4, 2, 2),
        (Some(8.0), 4, 2, 2),
        (Some(4.0), 4, 4, 1),
        (Some(0.5), 4, 1, 1),
        (None, 8, 3, 3),
        (None, 1, 5, 1),
    ];
    for (cpu_limit, affinity, workers, cpus) in cases {
        let inputs = Inputs { cpu_limit, affinity, memory_limit: Some(552 * MIB), ..inputs() };
        assert_eq!(inputs.share(workers).cpus, cpus, "{cpu_limit:?} of {affinity}, {workers} workers");
    }
    let limited = Inputs { memory_limit: Some(552 * MIB), ..inputs() };
    assert_eq!(limited.share(4).memory, Some(128 * MIB));
    assert_eq!(Inputs { caps: Caps::Off, ..limited.clone() }.share(4).memory, None);
    assert_eq!(Inputs { caps: Caps::Fixed(7), ..limited }.share(4).memory, Some(7));
    assert_eq!(inputs().share(4).memory, None);
    assert_eq!(Inputs { caps: Caps::Fixed(7), ..inputs() }.share(4).memory, Some(7));
}

fn any_inputs() -> impl Strategy<Value = Inputs> {
    let number = || prop_oneof![any::<f64>(), 0.0..100.0, Just(0.001), Just(f64::NAN), Just(f64::INFINITY)];
    let bytes = || prop_oneof![any::<u64>(), 0..(1_u64 << 36), (0..4096_u64).prop_map(|mib| mib * MIB)];
    let rounding = prop_oneof![Just(Rounding::Ceil), Just(Rounding::Floor), Just(Rounding::Nearest)];
    let cpu = (number(), rounding, prop::option::of(number()), prop_oneof![any::<u32>(), 0..300_u32]);
    let memory = (prop::option::of(bytes()), prop::option::of(bytes()), bytes());
    let program = prop_oneof![Just("server"), Just("java"), Just("")];
    (cpu, memory, program, any::<(bool, bool)>()).prop_map(|(cpu, memory, program, (stdin_is_terminal, one_port_each))| Inputs {
        workers: Workers::Auto,
        per_cpu: cpu.0,
        rounding: cpu.1,
        cpu_limit: cpu.2,
        affinity: cpu.3,
        memory_limit: memory.0,
        memory_reserve: memory.1,
        memory_per_worker: memory.2,
        caps: Caps::Share,
        program: program.to_owned(),
        stdin_is_terminal,
        one_port_each,
    })
}

proptest! {
    #[test]
    fn at_least_one_and_never_more_than_anything_allows(inputs in any_inputs()) {
        let sizing = Sizing::new(&inputs);
        prop_assert!(sizing.workers >= 1);
        prop_assert!(sizing.workers <= inputs.affinity.max(1));
        prop_assert!(sizing.memory_allows.is_none_or(|allowed| sizing.workers <= allowed.max(1)));
        prop_assert!(inputs.cpu_limit.is_some() || sizing.workers <= MOST_WITHOUT_LIMIT);
        prop_assert_eq!(sizing.workers, sizing.automatic);
    }

    #[test]
    fn memory_holds_what_it_allows_and_not_one_more(limit in 0..(1_u64 << 40), each in 1..(1_u64 << 33)) {
        let inputs = Inputs { memory_per_worker: each, ..inputs() };
        let allowed = memory_allows(&inputs, limit);
        let needed = |workers: u32| u64::from(workers) * each + auto_reserve(workers, limit);
        prop_assume!(allowed < u32::MAX);
        prop_assert!(allowed == 0 || needed(allowed) <= limit);
        prop_assert!(needed(allowed + 1) > limit);
    }

    #[test]
    fn an_explicit_count_is_the_count(mut inputs in any_inputs(), count in 1..10_000_u32, web in any::<bool>()) {
        inputs.workers = if web { Workers::WebConcurrency(count) } else { Workers::Count(count) };
        prop_assert_eq!(Sizing::new(&inputs).workers, count);
    }

    /// `WORKERS=auto` never promises more memory than there is, unless not even one worker fits.
    #[test]
    fn automatic_caps_and_the_reserve_are_within_the_limit(mut inputs in any_inputs(), cap in prop::option::of(0..(1_u64 << 36))) {
        if let Some(cap) = cap {
            (inputs.caps, inputs.memory_per_worker) = (Caps::Fixed(cap), cap);
        }
        let sizing = Sizing::new(&inputs);
        let total = |workers: u32| {
            let cap = u128::from(inputs.share(workers).memory.unwrap_or(0));
            u128::from(workers) * cap + u128::from(inputs.reserve(workers).unwrap_or(0))
        };
        if let Some(limit) = inputs.memory_limit.filter(|_| sizing.memory_allows != Some(0)) {
            prop_assert!(total(sizing.workers) <= u128::from(limit));
            prop_assert_eq!(&sizing.warnings, &Vec::<String>::new());
        }
        prop_assert_eq!(sizing.share, inputs.share(sizing.workers));
    }

    #[test]
    fn shares_of_the_cpus_cover_them(cpu in prop::option::of(0.0..300.0_f64), affinity in 1..300_u32, workers in 1..300_u32) {
        let inputs = Inputs { cpu_limit: cpu, affinity, ..inputs() };
        let paid = cpu.unwrap_or(f64::from(affinity)).min(f64::from(affinity));
        let given = inputs.share(workers).cpus;
        prop_assert!(given >= 1 && f64::from(given) * f64::from(workers) >= paid * (1.0 - 1e-6));
        prop_assert!(given == 1 || f64::from(given - 1) * f64::from(workers) < paid, "one less would not cover them");
    }

    #[test]
    fn more_of_anything_is_never_less(a in 0..(1_u64 << 36), b in 0..(1_u64 << 36), c in 0.0..64.0_f64, d in 0.0..64.0_f64, count in 1..64_u32) {
        let with = |memory: u64, cpu: f64| {
            Sizing::new(&Inputs { memory_limit: Some(memory), cpu_limit: Some(cpu), affinity: 64, ..inputs() }).workers
        };
        let of = |memory: u64, count: u32| Inputs { memory_limit: Some(memory), ..inputs() }.fair_share(count);
        prop_assert!(with(a.min(b), c.min(d)) <= with(a.max(b), c.max(d)));
        prop_assert!(of(a.min(b), count) <= of(a.max(b), count));
        prop_assert!(of(a, count + 1) <= of(a, count));
    }
}
