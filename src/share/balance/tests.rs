//! The programs, run by a small interpreter of classic BPF.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// `BPF_MAXINSNS`
const MOST: usize = 4096;

/// What the kernel would answer for a packet from this client, with this random number.
fn run(program: &Program, client: IpAddr, random: u32) -> u32 {
    let mut header = [0_u8; 40];
    match client {
        IpAddr::V4(ip) => {
            header[0] = 0x45;
            header[12..16].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            header[0] = 0x60;
            header[8..24].copy_from_slice(&ip.octets());
        }
    }
    let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
    loop {
        let one = program.0[at];
        at += 1;
        let operand = if u32::from(one.code) & libc::BPF_X != 0 { x } else { one.k };
        let (class, rest) = (u32::from(one.code) & 7, u32::from(one.code) & 0xf0);
        match class {
            libc::BPF_LD if one.k == RANDOM => a = random,
            libc::BPF_LD => {
                let from = one.k.wrapping_sub(NETWORK) as usize;
                let byte = u32::from(one.code) & 0x18 == libc::BPF_B;
                a = if byte { header[from].into() } else { u32::from_be_bytes(header[from..from + 4].try_into().unwrap()) };
            }
            libc::BPF_ALU => {
                a = match rest {
                    libc::BPF_ADD => a + operand,
                    libc::BPF_MUL => a.wrapping_mul(operand),
                    libc::BPF_MOD => a % operand,
                    libc::BPF_RSH => a >> operand,
                    libc::BPF_XOR => a ^ operand,
                    other => panic!("operation {other:x}"),
                }
            }
            libc::BPF_JMP => {
                at += match rest {
                    libc::BPF_JA => one.k as usize,
                    libc::BPF_JEQ => usize::from(if a == operand { one.if_true } else { one.if_false }),
                    libc::BPF_JGE => usize::from(if a >= operand { one.if_true } else { one.if_false }),
                    other => panic!("jump {other:x}"),
                }
            }
            libc::BPF_RET => return if u32::from(one.code) & 0x18 == libc::BPF_A { a } else { one.k },
            libc::BPF_MISC => x = a,
            other => panic!("class {other:x}"),
        }
    }
}

/// How many instructions of extended BPF the kernel makes of it (`bpf_convert_filter`), at most.
fn translated(program: &Program) -> usize {
    let size = |one: &Instruction| match u32::from(one.code) & 7 {
        libc::BPF_LD => 8,
        libc::BPF_RET => 2,
        _ => 1 + usize::from(one.if_true > 0 && one.if_false > 0),
    };
    3 + program.0.iter().map(size).sum::<usize>()
}

fn nobody() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}

fn set(indices: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    indices.into_iter().collect()
}

/// Slot n has index n.
fn lanes(slots: impl IntoIterator<Item = u32>) -> BTreeMap<Slot, u32> {
    slots.into_iter().map(|slot| (Slot(slot), slot)).collect()
}

fn clients() -> Vec<IpAddr> {
    let four = (0..6000_u32).map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)));
    let six = (0..6000_u128).map(|n| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | (n % 7) << 64 | n)));
    four.chain(six).collect()
}

#[test]
fn neighbours_from_0_on_need_no_table() {
    assert_eq!(spread(&set(0..4)).0, [load_word(RANDOM), modulo(4), answer_number()]);
    assert_eq!(spread(&set([7])).0, [answer(7)]);
    assert_eq!(spread(&set([])), Program::default());
    assert_eq!(spread(&set([2, 3, 4])).0, [load_word(RANDOM), modulo(3), add(2), answer_number()]);
}

#[test]
fn spread_is_even_with_gaps_too() {
    let indices = set((0..200).filter(|index| index % 5 != 3));
    let program = spread(&indices);
    for (random, index) in (160..).zip(&indices) {
        assert_eq!(run(&program, nobody(), random), *index);
    }
}

#[test]
fn a_thousand_lanes_fit_in_the_worst_order() {
    let odd = set((0..2000).map(|n| 2 * n + 1));
    let program = spread(&odd);
    assert!(program.0.len() <= MOST && 8 * translated(&program) < 20_000, "{} {}", program.0.len(), translated(&program));
    assert!((0..5000).all(|random| odd.contains(&run(&program, nobody(), random))));
    let most = set((0..1560).filter(|n| n % 2 == 0));
    let reached: BTreeSet<u32> = (0..780).map(|random| run(&spread(&most), nobody(), random)).collect();
    assert_eq!(reached, most);
    let shuffled = (0..1000_u32).map(|n| (Slot(n), n * 387 % 1000)).collect();
    let fine = sticky(&mut Table::new(FINE), &shuffled);
    assert!(fine.0.len() <= MOST, "{}", fine.0.len());
    let coarse = sticky(&mut Table::new(COARSE), &shuffled);
    assert!(8 * translated(&coarse) < 20_000, "{}", translated(&coarse));
}

#[test]
fn every_client_has_one_slot_and_slots_have_even_shares() {
    for count in [2, 3, 4, 8, 16] {
        let program = sticky(&mut Table::new(COARSE), &lanes(0..count));
        let mut shares = vec![0_u32; count as usize];
        for client in clients() {
            let index = run(&program, client, 1);
            assert_eq!(index, run(&program, client, 2), "no chance in it");
            shares[index as usize] += 1;
        }
        let fair = 12_000 / count;
        assert!(shares.iter().all(|share| (fair / 2..fair * 3 / 2).contains(share)), "{shares:?}");
    }
}

#[test]
fn a_lost_slot_moves_only_its_own_clients_and_gets_them_back() {
    let mut table = Table::new(COARSE);
    let all = sticky(&mut table, &lanes(0..5));
    let without = sticky(&mut table, &lanes([0, 1, 2, 4]));
    let mut heirs = BTreeSet::new();
    for client in clients() {
        let (before, after) = (run(&all, client, 0), run(&without, client, 0));
        if before == 3 {
            heirs.insert(after);
        } else {
            assert_eq!(before, after, "{client}");
        }
    }
    assert_eq!(heirs, set([0, 1, 2, 4]), "the others share what is left");
    // The successor has another socket, which now stands at index 9.
    let mut successor = lanes(0..5);
    successor.insert(Slot(3), 9);
    let again = sticky(&mut table, &successor);
    for client in clients() {
        let (before, after) = (run(&all, client, 0), run(&again, client, 0));
        assert_eq!(if before == 3 { 9 } else { before }, after, "{client}");
    }
}

#[test]
fn near_addresses_do_not_go_together() {
    let program = sticky(&mut Table::new(COARSE), &lanes(0..4));
    let near = (1..=12).map(|n| run(&program, Ipv4Addr::new(127, 0, 0, n).into(), 0)).collect::<BTreeSet<_>>();
    assert!(near.len() > 1, "{near:?}");
    let six = (1..=40).map(|n| run(&program, Ipv6Addr::from_bits(0xfe80 << 112 | n).into(), 0)).collect::<BTreeSet<_>>();
    assert_eq!(six.len(), 4, "{six:?}");
    let nets = (1..=40).map(|n| run(&program, Ipv6Addr::from_bits(n << 96).into(), 0)).collect::<BTreeSet<_>>();
    assert_eq!(nets.len(), 4, "{nets:?}");
}

proptest! {
    #[test]
    fn spread_answers_what_it_may_and_all_of_it(indices in proptest::collection::btree_set(0_u32..3000, 1..600), random: u32) {
        let program = spread(&indices);
        prop_assert!(program.0.len() <= MOST);
        prop_assert!(indices.contains(&run(&program, nobody(), random)));
        let count = u32::try_from(indices.len()).unwrap();
        let reached: BTreeSet<u32> = (0..count).map(|random| run(&program, nobody(), random)).collect();
        prop_assert_eq!(reached, indices);
    }

    /// Whatever came and went before: the table is what it would have been from the start.
    #[test]
    fn a_table_has_no_past(steps in proptest::collection::vec(proptest::collection::btree_set(0_u32..12, 0..12), 1..6)) {
        let mut kept = Table::new(64);
        for step in steps {
            let program = sticky(&mut kept, &lanes(step.iter().copied()));
            prop_assert_eq!(&program, &sticky(&mut Table::new(64), &lanes(step.iter().copied())));
            prop_assert_eq!(program == Program::default(), step.is_empty());
            if !step.is_empty() {
                prop_assert!(clients().iter().step_by(97).all(|client| step.contains(&run(&program, *client, 0))));
            }
        }
    }
}
