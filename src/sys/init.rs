//! What must happen before `main`: signals are kept from the first instruction that is ours.
//!
//! The kernel discards a signal that PID 1 neither blocks nor handles, so a TERM in the first milliseconds of a container would be
//! lost (and the platform would wait out its grace period). A constructor runs before Rust's runtime and blocks everything; what
//! arrives stays pending until the handlers are there. The same constructor notes what the caller had, before Rust's runtime
//! changes it: the signal mask, the disposition of SIGPIPE, transparent huge pages, and whether descriptors 0 to 2 are open.
//!
//! # Safety
//! The constructor runs in a single-threaded process and makes system calls only; it neither allocates nor touches Rust's runtime.
#![expect(unsafe_code, reason = "a constructor, raw signal calls, prctl")]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cluster::words::Signal;

/// Signals are numbered from 1 to this, as the kernel counts.
pub const LAST_SIGNAL: i32 = 64;

/// Raised by the kernel for a fault of our own: blocking them would only hide where it happened.
pub const FAULTS: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

static CALLERS_MASK: AtomicU64 = AtomicU64::new(0);
static CALLER_HAD_NO_HUGE_PAGES: AtomicBool = AtomicBool::new(false);
static CALLER_IGNORED_PIPE: AtomicBool = AtomicBool::new(false);

/// The constructor. `main.rs` puts it into `.init_array`, so that only the program has it and no test binary.
pub extern "C" fn before_main() {
    let mut kept = u64::MAX;
    for fault in FAULTS {
        kept &= !bit(fault);
    }
    CALLERS_MASK.store(set_mask(kept), Ordering::Relaxed);
    CALLER_IGNORED_PIPE.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
    // SAFETY: numbers only.
    let disabled = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) };
    CALLER_HAD_NO_HUGE_PAGES.store(disabled == 1, Ordering::Relaxed);
    huge_pages(true);
    for descriptor in 0..3 {
        // Rust's runtime would open /dev/null here, and abort where there is none. A path-only descriptor keeps the number taken,
        // answers EBADF to reads and writes as a closed one does, and is gone after exec: workers find it closed, as the caller had it.
        // SAFETY: asks for a flag of a number; no memory is involved.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
            // SAFETY: the path is a constant NUL-terminated string.
            let opened = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
            debug_assert!(opened == descriptor || opened < 0);
        }
    }
}

/// What the caller of clusterinit had, to be given to each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Bit 0 is signal 1.
    pub mask: u64,
    pub ignored: u64,
    pub huge_pages_disabled: bool,
}

impl Inherited {
    /// To be taken before any handler is installed.
    pub fn take() -> Self {
        let mut ignored = 0;
        for signal in 1..=LAST_SIGNAL {
            if signal != libc::SIGPIPE && is_ignored(signal) {
                ignored |= bit(signal);
            }
        }
        if CALLER_IGNORED_PIPE.load(Ordering::Relaxed) {
            ignored |= bit(libc::SIGPIPE);
        }
        let huge_pages_disabled = CALLER_HAD_NO_HUGE_PAGES.load(Ordering::Relaxed);
        Self { mask: CALLERS_MASK.load(Ordering::Relaxed), ignored, huge_pages_disabled }
    }
}

pub fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Sets the signal mask and answers the one before. By the raw call: libc hides the signals that it keeps for itself (32 to 34),
/// and the caller's mask is to be restored bit by bit.
pub fn set_mask(mask: u64) -> u64 {
    let mut before: u64 = 0;
    // SAFETY: both pointers are to live 8-byte sets, and 8 is the kernel's sigset size on every supported architecture.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut before, 8) };
    debug_assert_eq!(result, 0);
    before
}

/// Holds one signal back; it stays pending until [`allow`].
pub fn block(signal: Signal) {
    change_mask(libc::SIG_BLOCK, signal);
}

pub fn allow(signal: Signal) {
    change_mask(libc::SIG_UNBLOCK, signal);
}

fn change_mask(how: libc::c_int, signal: Signal) {
    let set = bit(signal.0);
    // SAFETY: as in `set_mask`; nobody asks for the old set.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const set, std::ptr::null_mut::<u64>(), 8) };
}

/// The mask while handlers are at work: only the signals are blocked that nobody handles.
pub fn unblock(handled: &[Signal]) {
    let mut blocked = u64::MAX;
    for signal in handled.iter().map(|signal| signal.0).chain(FAULTS) {
        blocked &= !bit(signal);
    }
    set_mask(blocked);
}

/// Transparent huge pages for this process (`man 2 prctl`, `PR_SET_THP_DISABLE`): where they are `always`, the allocator's first
/// touch would make 2 MiB of what needs 100 KiB. Inherited over exec, so each worker gets back what the caller had. A kernel that
/// refuses leaves us as large as everybody.
pub fn huge_pages(disabled: bool) {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(disabled), 0, 0, 0) };
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only asks; the old one is live.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Ignores a signal.
pub fn ignore(signal: Signal) {
    // SAFETY: SIG_IGN is no function, so nothing can be called.
    unsafe { libc::signal(signal.0, libc::SIG_IGN) };
}

pub fn is_pid_1() -> bool {
    std::process::id() == 1
}

/// Makes orphans of our descendants our children (`man 2 prctl`, `PR_SET_CHILD_SUBREAPER`), and checks that it is so.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: takes a number, no pointer.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut is_subreaper: libc::c_int = 0;
    // SAFETY: writes one int to a live one.
    if unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is_subreaper, 0, 0, 0) } != 0 || is_subreaper != 1 {
        return Err(io::Error::other("PR_SET_CHILD_SUBREAPER had no effect"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_seen_as_inherited() {
        ignore(Signal(libc::SIGURG));
        assert_ne!(Inherited::take().ignored & bit(libc::SIGURG), 0);
        assert_eq!(Inherited::take().ignored & bit(libc::SIGUSR1), 0);
    }
}
