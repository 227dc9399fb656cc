//! What the threads of a process are doing at this moment (`/proc/PID/task/TID/*`, `man 5 proc`).

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::RawFd;

use super::procfs;
use crate::cluster::words::Pid;

/// Whether all threads are stopped (`man 7 signal`, SIGSTOP), ended or held by a debugger: none of them runs any program.
/// A process that has gone is stopped for ever.
pub fn all_stopped(pid: Pid) -> bool {
    let mut stopped = BTreeSet::new();
    // A thread that was started while we looked is in the next list; once all are stopped nobody starts another.
    loop {
        let threads = threads(pid);
        if threads.iter().all(|thread| stopped.contains(thread)) {
            return true;
        }
        for thread in threads {
            if !stopped.contains(&thread) && !is_stopped(pid, thread) {
                return false;
            }
            stopped.insert(thread);
        }
    }
}

/// The descriptors on which a thread waits in `read` or `recv`. Of stopped threads: they take the call up again when they go on.
/// Empty where that may not be seen (it needs the right to trace, `man 2 ptrace`).
pub fn awaited(pid: Pid) -> BTreeSet<RawFd> {
    let files = threads(pid).into_iter().filter_map(|thread| read(pid, thread, "syscall"));
    files.filter_map(|text| awaited_in(&text)).collect()
}

fn threads(pid: Pid) -> Vec<Pid> {
    let entries = procfs::root().and_then(|root| fs::read_dir(root.join(format!("{pid}/task"))).ok());
    let names = entries.into_iter().flatten().filter_map(Result::ok).map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok().map(Pid)).collect()
}

fn read(pid: Pid, thread: Pid, file: &str) -> Option<String> {
    let bytes = fs::read(procfs::root()?.join(format!("{pid}/task/{thread}/{file}"))).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_stopped(pid: Pid, thread: Pid) -> bool {
    read(pid, thread, "stat").is_none_or(|text| is_stopped_in(&text))
}

/// The name may hold anything: the state comes after the *last* parenthesis.
fn is_stopped_in(stat: &str) -> bool {
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't' | 'Z' | 'X' | 'x'))
}

/// Number and arguments of the call that a thread is in: `45 0x4 0x7f...`; `running`, or `-1 ...` between calls.
fn awaited_in(syscall: &str) -> Option<RawFd> {
    const READS: [libc::c_long; 4] = [libc::SYS_read, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmsg];
    let mut words = syscall.split_ascii_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let first = words.next()?.strip_prefix("0x")?;
    READS.contains(&number).then(|| RawFd::from_str_radix(first, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_await_and_only_stopped_threads_are_stopped() {
        let recv = format!("{} 0x1a 0x7f00 0x1000 0x0 0x0 0x0 0x7ffd 0x7f12\n", libc::SYS_recvfrom);
        assert_eq!(awaited_in(&recv), Some(26));
        for other in ["running\n", "-1 0x7ffd 0x7f12\n", "", "x 0x1", &format!("{} 0x4 0x0\n", libc::SYS_write)] {
            assert_eq!(awaited_in(other), None, "{other}");
        }
        for (line, stopped) in [("7 (a) T (b) S 1 2", false), ("7 (a) T 1 2", true), ("7 (a) Z 1 2", true), ("7 (a", false)] {
            assert_eq!(is_stopped_in(line), stopped, "{line}");
        }
    }

    #[test]
    fn we_are_not_stopped_and_who_has_gone_is() {
        assert!(!all_stopped(Pid(i32::try_from(std::process::id()).expect("pids fit"))));
        assert!(all_stopped(Pid(i32::MAX)));
    }
}
