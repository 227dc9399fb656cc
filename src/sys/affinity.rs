//! How many CPUs this process may run on: its affinity mask, which a cpuset and `taskset` both narrow.

use std::fs;
use std::num::NonZero;
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// CPUs in the affinity mask, at least 1.
pub fn cpus() -> u32 {
    let count = from_call().or_else(from_status).filter(|count| *count > 0);
    // Neither the call nor /proc: what is online, as far as std can tell.
    count.unwrap_or_else(|| {
        thread::available_parallelism().map_or(1, |count| u32::try_from(NonZero::get(count)).unwrap_or(u32::MAX))
    })
}

/// The call fits 1024 CPUs; a kernel that was built for more answers EINVAL.
fn from_call() -> Option<u32> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let members = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    u32::try_from(members.count()).ok()
}

fn from_status() -> Option<u32> {
    parse_status(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `Cpus_allowed:` in `/proc/PID/status`: a mask of any width, in hexadecimal groups of 32 bits.
fn parse_status(status: &str) -> Option<u32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?.trim();
    mask.chars().filter(|character| *character != ',').map(|digit| Some(digit.to_digit(16)?.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_and_proc_agree_on_this_machine() {
        assert_eq!(from_call(), from_status());
        assert!(from_call().is_some_and(|count| count >= 1 && count == cpus()));
    }

    #[test]
    fn a_mask_of_two_thousand_cpus_is_counted() {
        let wide = vec!["ffffffff"; 64].join(",");
        assert_eq!(parse_status(&format!("Name:\tx\nCpus_allowed:\t{wide}\nCpus_allowed_list:\t0-2047\n")), Some(2048));
        assert_eq!(parse_status("Cpus_allowed:\t00000000,80000003\n"), Some(3));
        assert_eq!(parse_status("Cpus_allowed:\tnot a mask\n"), None);
        assert_eq!(parse_status("Cpus_allowed_list:\t0-3\n"), None);
    }
}
