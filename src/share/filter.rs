//! The seccomp program: which calls of a worker stop until clusterinit has answered them. PURE.
//!
//! ```text
//! bind, listen, setsockopt(SOL_SOCKET, SO_REUSEPORT), setsockopt(IPPROTO_IPV6, IPV6_V6ONLY)  ->  stop, and tell clusterinit
//! all else, and every call of another architecture (32-bit programs, x32)                    ->  the kernel's own speed
//! ```
//! Arguments are looked at for `setsockopt` alone: what a program decides by the number only, the kernel remembers (since 5.11) and
//! does not run it again, so other calls cost nothing where the container has a seccomp profile anyway.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF, sock_filter};

/// What one architecture calls itself and the calls that stop.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// `AUDIT_ARCH_...` (linux/audit.h): the ELF machine, and the flags for 64 bits and little endian.
    architecture: u32,
    bind: u32,
    listen: u32,
    setsockopt: u32,
}

/// 64 bits, little endian (`__AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE`, linux/audit.h).
const WIDE_LITTLE_ENDIAN: u32 = 0xc000_0000;

/// Its second numbering, x32, has bit 30 set in every number, so none of these is met by it.
#[cfg(any(test, target_arch = "x86_64"))]
const X86_64: Numbers = Numbers { architecture: WIDE_LITTLE_ENDIAN | 0x3e, bind: 49, listen: 50, setsockopt: 54 };

#[cfg(any(test, target_arch = "aarch64"))]
const AARCH64: Numbers = Numbers { architecture: WIDE_LITTLE_ENDIAN | 0xb7, bind: 200, listen: 201, setsockopt: 208 };

#[cfg(target_arch = "x86_64")]
const OWN: Numbers = X86_64;
#[cfg(target_arch = "aarch64")]
const OWN: Numbers = AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the numbers of bind, listen and setsockopt on this architecture are missing in src/share/filter.rs");

/// Offsets in `struct seccomp_data` (linux/seccomp.h). Arguments are 64 bits wide; of an `int` the lower half counts, which comes
/// first in little endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

/// The program for workers of this architecture.
pub fn program() -> Vec<sock_filter> {
    program_for(OWN)
}

fn program_for(numbers: Numbers) -> Vec<sock_filter> {
    let (level, option) = (libc::SOL_SOCKET.cast_unsigned(), libc::SO_REUSEPORT.cast_unsigned());
    let (level_6, option_6) = (libc::IPPROTO_IPV6.cast_unsigned(), libc::IPV6_V6ONLY.cast_unsigned());
    // A jump counts the instructions that it skips: from the next one to 13 (go on) or to 14 (stop).
    vec![
        /*  0 */ load(ARCHITECTURE),
        /*  1 */ unless(numbers.architecture, 13 - 2),
        /*  2 */ load(NUMBER),
        /*  3 */ equals(numbers.bind, 14 - 4, 0),
        /*  4 */ equals(numbers.listen, 14 - 5, 0),
        /*  5 */ unless(numbers.setsockopt, 13 - 6),
        /*  6 */ load(SECOND_ARGUMENT),
        /*  7 */ unless(level, 10 - 8),
        /*  8 */ load(THIRD_ARGUMENT),
        /*  9 */ equals(option, 14 - 10, 13 - 10),
        /* 10 */ unless(level_6, 13 - 11),
        /* 11 */ load(THIRD_ARGUMENT),
        /* 12 */ equals(option_6, 14 - 13, 0),
        /* 13 */ answer(SECCOMP_RET_ALLOW),
        /* 14 */ answer(SECCOMP_RET_USER_NOTIF),
    ]
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

/// Goes on if the loaded word is `value`, else skips so many instructions.
fn unless(value: u32, skipped: u8) -> sock_filter {
    equals(value, 0, skipped)
}

/// Skips so many instructions if the loaded word is `value`, so many if it is not.
fn equals(value: u32, skipped: u8, skipped_else: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, value, skipped, skipped_else)
}

fn answer(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // Every code of classic BPF is a byte.
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel hands to the program: number, architecture, instruction pointer, and the arguments as words of 32 bits.
    fn data(architecture: u32, number: u32, arguments: [u64; 6]) -> Vec<u32> {
        let mut words = vec![number, architecture, 0xdead_beef, 0x7fff];
        for argument in arguments {
            words.extend([u32::try_from(argument & 0xffff_ffff).unwrap(), u32::try_from(argument >> 32).unwrap()]);
        }
        words
    }

    /// A machine for classic BPF, as far as our program goes; answers the action and how many instructions it took.
    fn run(program: &[sock_filter], data: &[u32]) -> (u32, usize) {
        let (mut at, mut loaded) = (0, 0);
        for steps in 1..=program.len() {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => loaded = data[usize::try_from(k / 4).unwrap()],
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += usize::from(if loaded == k { jt } else { jf }),
                code if code == BPF_RET | BPF_K => return (k, steps),
                code => panic!("no such instruction: {code:#x}"),
            }
        }
        panic!("the program does not end");
    }

    const BOTH: [Numbers; 2] = [X86_64, AARCH64];

    fn stops(numbers: Numbers, architecture: u32, number: u32, arguments: [u64; 6]) -> bool {
        let (action, _) = run(&program_for(numbers), &data(architecture, number, arguments));
        assert!(action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_USER_NOTIF);
        action == SECCOMP_RET_USER_NOTIF
    }

    #[test]
    fn the_numbers_are_those_that_this_architecture_has() {
        let own = [libc::SYS_bind, libc::SYS_listen, libc::SYS_setsockopt];
        assert_eq!(own, [OWN.bind, OWN.listen, OWN.setsockopt].map(libc::c_long::from));
        assert_eq!(X86_64.architecture, 0xc000_003e, "AUDIT_ARCH_X86_64");
        assert_eq!(AARCH64.architecture, 0xc000_00b7, "AUDIT_ARCH_AARCH64");
    }

    #[test]
    fn of_all_numbers_only_bind_and_listen_stop_whatever_their_arguments() {
        for numbers in BOTH {
            for arguments in [[0; 6], [u64::MAX; 6], [3, 1, 15, 0, 4, 0]] {
                for number in (0..600).filter(|number| *number != numbers.setsockopt) {
                    let expected = number == numbers.bind || number == numbers.listen;
                    assert_eq!(stops(numbers, numbers.architecture, number, arguments), expected, "{number}");
                }
            }
        }
    }

    #[test]
    fn of_setsockopt_two_options_stop_and_the_upper_half_of_an_int_means_nothing() {
        let (socket, ipv6) = (1, 41);
        for numbers in BOTH {
            for garbage in [0, 0xffff_ffff_0000_0000] {
                for level in 0..300 {
                    for option in 0..80 {
                        let arguments = [3, level | garbage, option | garbage, 0x7fff_0000, 4, 0];
                        let expected = (level, option) == (socket, 15) || (level, option) == (ipv6, 26);
                        let stopped = stops(numbers, numbers.architecture, numbers.setsockopt, arguments);
                        assert_eq!(stopped, expected, "{level} {option}");
                    }
                }
            }
        }
    }

    #[test]
    fn another_architecture_and_the_second_numbering_go_on() {
        const I386: u32 = 0x4000_0003;
        const X32: u32 = 0x4000_0000;
        for numbers in BOTH {
            for number in [numbers.bind, numbers.listen, numbers.setsockopt, 361, 363, 541] {
                let reuse_port = [3, 1, 15, 0, 4, 0];
                assert!(!stops(numbers, I386, number, reuse_port));
                assert!(!stops(numbers, numbers.architecture, X32 | number, reuse_port));
            }
        }
    }

    #[test]
    fn what_does_not_concern_us_takes_seven_instructions() {
        for numbers in BOTH {
            let getpid = data(numbers.architecture, 39, [0; 6]);
            assert_eq!(run(&program_for(numbers), &getpid), (SECCOMP_RET_ALLOW, 7));
        }
    }
}
