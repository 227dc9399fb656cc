//! Processes as `/proc` shows them: who is alive, who belongs to a test.

use std::fs;

/// The letter of `/proc/PID/stat` (`R`, `S`, `T`, `Z`, ...), or `None` when the process has gone.
pub(crate) fn state(pid: i32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// There, and not only waiting to be reaped.
pub(crate) fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The parent, as our PID namespace numbers it.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Every pid in `/proc`.
pub(crate) fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether the environment of a process holds this entry.
pub(crate) fn has_entry(pid: i32, entry: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
}

/// The value of a variable in a process's environment.
pub(crate) fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let entries = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    entries.into_iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// The pid of a process in its own (innermost) PID namespace.
pub(crate) fn inner(pid: i32) -> Option<i32> {
    let line = status_lines(pid, &["NSpid"]).pop()?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

/// The process that has this number in the PID namespace of `init`, as our own namespace numbers it.
pub(crate) fn in_namespace_of(init: i32, number: i32) -> Option<i32> {
    let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(init)?;
    all().into_iter().find(|pid| inner(*pid) == Some(number) && namespace(*pid).as_ref() == Some(&wanted))
}

/// The zombies among the children of a process.
pub(crate) fn zombies_of(pid: i32) -> usize {
    all().into_iter().filter(|child| parent(*child) == Some(pid) && state(*child) == Some('Z')).count()
}

/// The lines of `/proc/PID/status` that begin with one of these names; empty when the process has gone.
pub(crate) fn status_lines(pid: i32, names: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let wanted = |line: &&str| names.iter().any(|name| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')));
    text.lines().filter(wanted).map(str::to_owned).collect()
}
