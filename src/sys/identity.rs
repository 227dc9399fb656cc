//! A thread that is another user for a moment.
//!
//! Root without `CAP_SYS_PTRACE` (what containers give) may not look into a process of another user. That user may. A forked process
//! would do as well, but not where yama allows ancestors only: a thread of ours is as much an ancestor as we are.
//!
//! The ids change by raw system calls, which the kernel applies to the calling thread; libc's would change all threads. The thread
//! keeps our capabilities, so a process of that user cannot trace it: that takes all the capabilities of the one that is traced.
//! Whoever changes its ids makes the process undumpable (`man 2 prctl`, `PR_SET_DUMPABLE`), all of it. Root does not notice for its own
//! `/proc/self`; others of our kind would, for `/proc/1` (a shell that the container's owner has entered it with), so it is put back.
#![expect(unsafe_code, reason = "system calls that change the ids of one thread")]

use std::io;
use std::sync::OnceLock;
use std::thread;

use super::init::set_mask;

/// Bytes: a few paths and buffers, and the allocator's way down.
const STACK: usize = 128 * 1024;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Runs `task` on a thread with these effective, real and saved ids, and waits for its end. Fails where we may not change ids, or where
/// no thread can be had. Nothing of it stays with the caller.
pub fn as_user<T: Send>(uid: u32, gid: u32, task: impl FnOnce() -> T + Send) -> io::Result<T> {
    // As it was before the first of all: two at a time must not take each other's state for the one to be put back.
    static WAS_DUMPABLE: OnceLock<bool> = OnceLock::new();
    let was_dumpable = *WAS_DUMPABLE.get_or_init(is_dumpable);
    let outcome = thread::scope(|threads| {
        let become_it = || become_user(uid, gid).map(|()| task());
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(threads, become_it)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    });
    if was_dumpable && !is_dumpable() {
        // SAFETY: numbers only.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    }
    outcome
}

/// Changes the calling thread, which has to end soon.
fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // Signals are for the thread that expects them.
    set_mask(u64::MAX);
    // SAFETY: numbers only; this attribute belongs to the thread.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }))?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    raise_capabilities()
}

/// Effective as permitted: a process that has kept some of its capabilities is looked into by those only that have them as well.
fn raise_capabilities() -> io::Result<()> {
    let header = [CAPABILITY_VERSION_3, 0];
    // Two times effective, permitted, inheritable (`man 2 capget`).
    let mut sets = [0_u32; 6];
    // SAFETY: a header and the two sets that belong to its version, both live.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    let [low, permitted_low, _, high, permitted_high, _] = &mut sets;
    *low = *permitted_low;
    *high = *permitted_high;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

fn is_dumpable() -> bool {
    // SAFETY: takes numbers, answers a number.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) == 1 }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::skip::skipped;

    /// The lines of ids and capabilities of the calling thread.
    fn ids() -> Vec<String> {
        let status = fs::read_to_string("/proc/thread-self/status").expect("our own");
        let of_interest = ["Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "SigBlk:"];
        status.lines().filter(|line| of_interest.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
    }

    #[test]
    fn a_task_runs_as_another_user_and_nothing_of_it_stays() {
        if !nix::unistd::geteuid().is_root() {
            skipped("only root can become somebody else");
            return;
        }
        let (before, dumpable) = (ids(), is_dumpable());
        let during = as_user(4711, 4712, ids).expect("root may");
        assert!(during.iter().any(|line| line == "Uid:\t4711\t4711\t4711\t4711"), "{during:?}");
        assert!(during.iter().any(|line| line == "Gid:\t4712\t4712\t4712\t4712"), "{during:?}");
        assert_eq!(ids(), before);
        assert_eq!(is_dumpable(), dumpable);
        assert_eq!(fs::metadata("/proc/self/fd").expect("our own").uid(), 0);
        let leader = fs::read_to_string("/proc/self/status").expect("our own");
        assert!(leader.contains("Uid:\t0\t0\t0\t0"), "other threads keep their ids");
    }
}
