//! `/proc/PID/*` of other processes (`man 5 proc`): pure parsers, and readers that answer `None` for a process that has gone.

use std::fs;

use crate::cluster::words::{Pid, Signal};

/// One line of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: Pid,
    pub name: String,
    /// `R`, `S`, `D`, `T`, `Z`, ...
    pub state: char,
    pub parent: Pid,
    pub group: Pid,
    pub session: Pid,
    /// Clock ticks, of the process and of its reaped children.
    pub cpu_ticks: u64,
    /// Clock ticks after boot; with the pid this names one process for ever.
    pub start: u64,
    pub resident_pages: u64,
}

impl Stat {
    /// Dead, and only waiting to be reaped.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The name may hold anything, also `) R 1`: the fields begin after the *last* closing parenthesis.
pub fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbers in the manual count from 1 and include pid and name: field N of the manual is `fields[N - 3]`.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let pid_field = |number: usize| fields.get(number - 3)?.parse::<i32>().ok().map(Pid);
    Some(Stat {
        pid: Pid(pid.parse().ok()?),
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: pid_field(4)?,
        group: pid_field(5)?,
        session: pid_field(6)?,
        cpu_ticks: field(14)? + field(15)? + field(16)? + field(17)?,
        start: field(22)?,
        resident_pages: field(24)?,
    })
}

pub fn stat(pid: Pid) -> Option<Stat> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// All processes that `/proc` shows, in no particular order; `None` where there is no `/proc`.
pub fn all() -> Option<impl Iterator<Item = Pid>> {
    let entries = fs::read_dir("/proc").ok()?;
    Some(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid)))
}

/// The children of every thread of `pid` (`/proc/PID/task/TID/children`, `CONFIG_PROC_CHILDREN`); `None` where the kernel has no such file.
pub fn children(pid: Pid) -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.filter_map(Result::ok) {
        let text = fs::read_to_string(task.path().join("children")).ok()?;
        found.extend(text.split_ascii_whitespace().filter_map(|child| child.parse().ok().map(Pid)));
    }
    Some(found)
}

/// Whether `/proc/PID/environ` holds exactly the entry `NAME=VALUE`. False where it may not be read.
pub fn has_environment_entry(pid: Pid, entry: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|found| found == entry))
}

/// The signals that a process catches or ignores (`SigCgt`, `SigIgn`), as bit masks with bit 0 for signal 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dispositions {
    pub caught: u64,
    pub ignored: u64,
}

impl Dispositions {
    /// Whether this signal would do what the kernel does by default.
    pub fn is_default(self, signal: Signal) -> bool {
        (self.caught | self.ignored) & (1 << (signal.0 - 1)) == 0
    }
}

pub fn parse_dispositions(status: &str) -> Option<Dispositions> {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    Some(Dispositions { caught: mask("SigCgt:")?, ignored: mask("SigIgn:")? })
}

pub fn dispositions(pid: Pid) -> Option<Dispositions> {
    let bytes = fs::read(format!("/proc/{pid}/status")).ok()?;
    parse_dispositions(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let line = "42 (a) R 1 (b) S 7 8 9 34816 42 4194560 1 2 3 4 100 20 30 4 20 0 1 0 777 5000000 321 18446744073709551615";
        let stat = parse_stat(line).expect("a line as the kernel writes it");
        assert_eq!(stat.pid, Pid(42));
        assert_eq!(stat.name, "a) R 1 (b");
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), ('S', Pid(7), Pid(8), Pid(9)));
        assert_eq!((stat.cpu_ticks, stat.start, stat.resident_pages), (154, 777, 321));
        assert_eq!(parse_stat("42 (cut off"), None);
    }

    #[test]
    fn our_own_entry_can_be_read() {
        let me = Pid(i32::try_from(std::process::id()).expect("pids fit"));
        let stat = stat(me).expect("/proc/self/stat");
        assert_eq!(stat.pid, me);
        assert!(stat.resident_pages > 0 && !stat.is_zombie());
        assert!(dispositions(me).is_some());
        assert!(all().is_some_and(|mut pids| pids.any(|pid| pid == me)));
    }

    #[test]
    fn dispositions_are_bit_masks_that_start_with_signal_one() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180004003\n";
        let found = parse_dispositions(status).expect("both lines");
        assert!(!found.is_default(Signal(1)) && !found.is_default(Signal(13)) && !found.is_default(Signal::TERM));
        assert!(found.is_default(Signal(12)));
    }
}
