//! `/proc/PID/*` of other processes (`man 5 proc`): pure parsers, and readers that answer `None` for a process that has gone.
//!
//! A `/proc` that was mounted for another PID namespace (`unshare --pid` without `--mount-proc`) numbers processes in its own way:
//! what it says under our numbers is about strangers. It counts as no `/proc` at all.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::cluster::words::{Pid, Signal};

/// What every process of a worker has in its environment, unless it was cleaned.
pub const NOTIFY_SOCKET: &[u8] = b"NOTIFY_SOCKET=";

/// Bytes: what we want of the line of `/proc/PID/stat` is in the first half of them.
const STAT_LINE: usize = 1024;

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
    pub threads: u64,
}

impl Stat {
    /// Dead, and only waiting to be reaped. Not so a process whose first thread has ended (`pthread_exit` in `main`) and others run.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
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
        threads: field(20)?,
    })
}

/// `CAP_KILL` (`man 7 capabilities`).
pub const KILL: u32 = 5;

/// Whether this process has an effective capability; true where that cannot be read.
pub fn has_capability(number: u32) -> bool {
    let Ok(text) = fs::read_to_string("/proc/self/status") else { return true };
    mask(&text, "CapEff:").is_none_or(|mask| mask & (1 << number) != 0)
}

/// A line of `/proc/PID/status` that is a bit mask, by its name with the colon.
pub fn mask(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

pub fn stat(pid: Pid) -> Option<Stat> {
    // With one read: `fs::read` takes six for a file that says nothing of its size, and this is read of every process there is.
    let mut line = [0; STAT_LINE];
    let length = fs::File::open(root()?.join(format!("{pid}/stat"))).ok()?.read(&mut line).ok()?;
    parse_stat(&String::from_utf8_lossy(line.get(..length)?))
}

/// All processes that `/proc` shows, in no particular order; `None` where there is no `/proc` of ours.
pub fn all() -> Option<impl Iterator<Item = Pid>> {
    let entries = fs::read_dir(root()?).ok()?;
    Some(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid)))
}

/// The children of every thread of `pid` (`/proc/PID/task/TID/children`, `CONFIG_PROC_CHILDREN`); `None` where the kernel has no
/// such file, or the process has gone.
pub fn children(pid: Pid) -> Option<Vec<Pid>> {
    let tasks = fs::read_dir(root()?.join(format!("{pid}/task"))).ok()?;
    // A thread that ends meanwhile has left its children to another one.
    let lists: Vec<_> =
        tasks.filter_map(Result::ok).filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let found = lists.iter().flat_map(|list| list.split_ascii_whitespace()).filter_map(|child| child.parse().ok().map(Pid));
    (!lists.is_empty()).then(|| found.collect())
}

/// Our own children, read in parts: there may be tens of thousands. While we read we reap nobody, so the kernel's list only grows at
/// its end and none is passed over.
#[derive(Debug)]
pub struct ChildrenFile {
    file: fs::File,
    /// The digits at the end of the last read, which may go on in the next.
    cut: Vec<u8>,
}

impl ChildrenFile {
    /// `None` where the kernel has no such file. We have one thread, so there is one list.
    pub fn open_own() -> Option<Self> {
        let me = std::process::id();
        let file = fs::File::open(root()?.join(format!("{me}/task/{me}/children"))).ok()?;
        Some(Self { file, cut: Vec::new() })
    }

    /// Adds the next part to `found`. False: there was none.
    pub fn read_more(&mut self, found: &mut Vec<Pid>) -> bool {
        let mut bytes = [0; 4096];
        let length = self.file.read(&mut bytes).unwrap_or(0);
        self.cut.extend(bytes.iter().take(length));
        let whole = self.cut.iter().rposition(u8::is_ascii_whitespace).map_or(0, |end| end + 1);
        let rest = if length == 0 { Vec::new() } else { self.cut.split_off(whole) };
        let list = std::mem::replace(&mut self.cut, rest);
        let list = String::from_utf8_lossy(&list);
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok().map(Pid)));
        length > 0
    }
}

/// The entry `NAME=VALUE` of `/proc/PID/environ`, for a `name` that ends with `=`. `None` also where it may not be read.
pub fn environment_entry(pid: Pid, name: &[u8]) -> Option<Vec<u8>> {
    let bytes = fs::read(root()?.join(format!("{pid}/environ"))).ok()?;
    bytes.split(|byte| *byte == 0).find(|entry| entry.starts_with(name)).map(<[u8]>::to_vec)
}

/// `/proc`, if it numbers processes as we do.
pub fn root() -> Option<&'static PathBuf> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let look = || {
        let own = fs::read_link("/proc/self").ok()?;
        (own.to_str() == Some(&std::process::id().to_string())).then(|| PathBuf::from("/proc"))
    };
    ROOT.get_or_init(look).as_ref()
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
    Some(Dispositions { caught: mask(status, "SigCgt:")?, ignored: mask(status, "SigIgn:")? })
}

pub fn dispositions(pid: Pid) -> Option<Dispositions> {
    let bytes = fs::read(root()?.join(format!("{pid}/status"))).ok()?;
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
        assert_eq!((stat.cpu_ticks, stat.start, stat.resident_pages, stat.threads), (154, 777, 321, 1));
        assert_eq!(parse_stat("42 (cut off"), None);
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_alive() {
        let line = |threads: u32| format!("42 (x) Z 1 8 9 0 -1 4 1 2 3 4 5 6 7 8 20 0 {threads} 0 777 0 0 18446744073709551615");
        assert!(parse_stat(&line(1)).is_some_and(|stat| stat.is_zombie()));
        assert!(parse_stat(&line(3)).is_some_and(|stat| !stat.is_zombie()));
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
