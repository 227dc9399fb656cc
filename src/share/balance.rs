//! Which accept queue gets a new connection: a classic BPF program made from the live set. PURE.
//!
//! The kernel runs it at each SYN on the group of sockets that listen on one address (`SO_ATTACH_REUSEPORT_CBPF`, `man 7 socket`)
//! and takes its result as an index in that group.
//!
//! ```text
//! spread   A = random mod n          --+
//!                                      +--> binary tree over A --> ret index
//! sticky   A = hash(client) mod B    --+
//!          bucket -> slot by rendezvous: a slot that goes moves only its own buckets, a successor in the slot inherits them
//! ```
//!
//! Two limits: 4096 instructions (`BPF_MAXINSNS`), and up to Linux 6.7 20 kB of what they are translated to (`net.core.optmem_max`).

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::words::Slot;

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub if_true: u8,
    pub if_false: u8,
    pub k: u32,
}

/// What is attached to a group. Empty: nothing to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program(pub Vec<Instruction>);

/// So many runs of neighbouring indices fit under both limits. There are more of them only where more than 1,500 sockets listen
/// and every other one is out of the live set: what is over the limit gets no connections until there are fewer gaps.
const MOST_RUNS: usize = 780;

/// At random, evenly over these indices.
pub fn spread(indices: &BTreeSet<u32>) -> Program {
    let mut runs: Vec<Run> = Vec::new();
    let mut all = 0;
    for index in indices {
        let full = runs.len() == MOST_RUNS;
        match runs.last_mut() {
            Some(run) if run.index + run.length == *index => run.length += 1,
            _ if full => break,
            _ => runs.push(Run { from: all, index: *index, length: 1 }),
        }
        all += 1;
    }
    let leaves: Vec<Leaf> = runs.iter().map(Run::leaf).collect();
    let chosen = tree(&leaves);
    match all {
        0 => Program::default(),
        1 => Program(chosen),
        all => Program([vec![load_word(RANDOM), modulo(all)], chosen].concat()),
    }
}

/// Neighbouring indices: the numbers from `from` on stand for the indices from `index` on.
struct Run {
    from: u32,
    index: u32,
    length: u32,
}

impl Run {
    fn leaf(&self) -> Leaf {
        let code = match (self.length, self.index - self.from) {
            (1, _) => vec![answer(self.index)],
            (_, 0) => vec![answer_number()],
            (_, shift) => vec![add(shift), answer_number()],
        };
        Leaf { from: self.from, code }
    }
}

/// Which slot has which share of the clients. Kept between programs, so that a change costs one pass over the buckets.
#[derive(Clone, Debug)]
pub struct Table {
    /// The best slot for each bucket, with its score.
    buckets: Vec<(u64, Slot)>,
    slots: BTreeSet<Slot>,
}

/// Enough for an even share in up to [`FEW`] slots: the share of a slot is off by 1/√(buckets per slot), 9 % with four of them.
pub const COARSE: u32 = 512;
/// As many as fit into 4096 instructions: two per bucket, the hash, and the far jumps. Needs Linux 6.8 or a raised `optmem_max`.
pub const FINE: u32 = 1920;
/// From more slots on, [`COARSE`] would leave some of them without any client.
pub const FEW: u32 = 64;

/// What nobody wants yet.
const NOBODY: (u64, Slot) = (0, Slot(0));

impl Table {
    pub fn new(buckets: u32) -> Self {
        Self { buckets: vec![NOBODY; buckets as usize], slots: BTreeSet::new() }
    }

    pub fn size(&self) -> u32 {
        u32::try_from(self.buckets.len()).unwrap_or(u32::MAX)
    }

    /// From now on these slots get clients.
    fn become_of(&mut self, slots: &BTreeSet<Slot>) {
        let none_before = self.slots.is_disjoint(slots);
        let lost = |slot: &Slot| !slots.contains(slot);
        for (bucket, best) in (0_u64..).zip(&mut self.buckets) {
            if none_before || lost(&best.1) {
                *best = slots.iter().map(|slot| (score(bucket, *slot), *slot)).max().unwrap_or(NOBODY);
            } else {
                *best = slots.difference(&self.slots).map(|slot| (score(bucket, *slot), *slot)).fold(*best, Ord::max);
            }
        }
        self.slots.clone_from(slots);
    }
}

/// By the client's address, so that a client stays with its slot: which index each slot has.
pub fn sticky(table: &mut Table, lanes: &BTreeMap<Slot, u32>) -> Program {
    table.become_of(&lanes.keys().copied().collect());
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut last = None;
    for (from, (_, slot)) in (0_u32..).zip(&table.buckets) {
        let Some(index) = lanes.get(slot) else { return Program::default() };
        if last.replace(*index) != Some(*index) {
            leaves.push(Leaf { from, code: vec![answer(*index)] });
        }
    }
    let chosen = tree(&leaves);
    if leaves.len() < 2 {
        return Program(chosen);
    }
    Program([client(), mixed(), vec![modulo(table.size())], chosen].concat())
}

/// How much a slot wants a bucket: whoever wants it most gets it, whoever else there is (rendezvous hashing).
fn score(bucket: u64, slot: Slot) -> u64 {
    // The finalizer of SplitMix64: every bit of both decides on every bit of the score.
    let mut z = (bucket << 32 | u64::from(slot.0)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A := the client's address: IPv4 as it is, IPv6 folded. A dual-stack socket sees both.
fn client() -> Vec<Instruction> {
    let word = |at: u32| load_word(NETWORK.wrapping_add(at));
    let folded = |at: u32| [operate(MULTIPLY, 0x9e37_79b1), copy_to_x(), word(at), xor_x()];
    let mut six = vec![word(8)];
    six.extend([12, 16, 20].into_iter().flat_map(folded));
    let mut code = vec![load_byte(NETWORK), operate(SHIFT_RIGHT, 4), jump_if(EQUAL, 6, 2, 0), word(12)];
    code.push(jump(u32::try_from(six.len()).unwrap_or_default()));
    code.extend(six);
    code
}

/// A := every bit of A decides on every bit (the finalizer of MurmurHash3): addresses of one network differ in few bits.
fn mixed() -> Vec<Instruction> {
    let fold = |by: u32| [copy_to_x(), operate(SHIFT_RIGHT, by), xor_x()];
    let mut code = fold(16).to_vec();
    code.push(operate(MULTIPLY, 0x85eb_ca6b));
    code.extend(fold(13));
    code.push(operate(MULTIPLY, 0xc2b2_ae35));
    code.extend(fold(16));
    code
}

/// What is done from this value of A on, up to the next leaf's.
struct Leaf {
    from: u32,
    code: Vec<Instruction>,
}

/// The leaf whose range A is in. Leaves are in ascending order.
fn tree(leaves: &[Leaf]) -> Vec<Instruction> {
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let Some(first) = high.first() else { return Vec::new() };
    if low.is_empty() {
        return first.code.clone();
    }
    let (low, high) = (tree(low), tree(high));
    let over = low.len();
    // A conditional jump reaches over 255 instructions, an unconditional one over all.
    let choice = match u8::try_from(over) {
        Ok(near) => vec![jump_if(AT_LEAST, first.from, near, 0)],
        Err(_) => vec![jump_if(AT_LEAST, first.from, 0, 1), jump(u32::try_from(over).unwrap_or_default())],
    };
    [choice, low, high].concat()
}

/// A header of the network layer, and the ancillary value, by their negative offsets (`linux/filter.h`).
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();

const MULTIPLY: u32 = libc::BPF_MUL;
const SHIFT_RIGHT: u32 = libc::BPF_RSH;
const EQUAL: u32 = libc::BPF_JEQ;
const AT_LEAST: u32 = libc::BPF_JGE;

const fn plain(code: u32, k: u32) -> Instruction {
    jumping(code, k, 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "the codes of classic BPF are one byte, libc has them as u32")]
const fn jumping(code: u32, k: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code: code as u16, if_true, if_false, k }
}

const fn load_word(from: u32) -> Instruction {
    plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, from)
}

const fn load_byte(from: u32) -> Instruction {
    plain(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, from)
}

const fn operate(operation: u32, by: u32) -> Instruction {
    plain(libc::BPF_ALU | operation | libc::BPF_K, by)
}

const fn add(by: u32) -> Instruction {
    operate(libc::BPF_ADD, by)
}

const fn modulo(by: u32) -> Instruction {
    operate(libc::BPF_MOD, by)
}

const fn copy_to_x() -> Instruction {
    plain(libc::BPF_MISC | libc::BPF_TAX, 0)
}

const fn xor_x() -> Instruction {
    plain(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0)
}

const fn jump(over: u32) -> Instruction {
    plain(libc::BPF_JMP | libc::BPF_JA, over)
}

const fn jump_if(comparison: u32, with: u32, if_true: u8, if_false: u8) -> Instruction {
    jumping(libc::BPF_JMP | comparison | libc::BPF_K, with, if_true, if_false)
}

const fn answer(value: u32) -> Instruction {
    plain(libc::BPF_RET | libc::BPF_K, value)
}

const fn answer_number() -> Instruction {
    plain(libc::BPF_RET | libc::BPF_A, 0)
}

#[cfg(test)]
mod tests;
