//! The witness for "a worker sees what the caller had": prints one line of JSON about itself, and with the argument `stay` then
//! waits for a signal.
//!
//! Fields: `pid ppid pgid sid foreground tty uid gid cwd umask pdeathsig args fds rlimits environment`, and as `/proc/self/status`
//! has them: `SigBlk SigIgn SigCgt Groups CapEff NoNewPrivs Cpus_allowed_list`.
//!
//! It has no Rust `main`: the runtime would ignore SIGPIPE, catch SEGV and BUS and open descriptors 0 to 2 where they are closed,
//! and then tell of itself and not of its caller.
#![no_main]
#![expect(clippy::print_stdout, reason = "its output is what tests read")]
#![expect(unsafe_code, reason = "main by its C name, and facts that only system calls tell")]

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::fs;

use serde_json::{Map, Value, json};

const STATUS: [&str; 7] = ["SigBlk", "SigIgn", "SigCgt", "Groups", "CapEff", "NoNewPrivs", "Cpus_allowed_list"];

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let args = arguments(count, words);
    // First of all: later code may open descriptors.
    let fds = descriptors();
    let mut shown = json!({
        "pid": nix::unistd::getpid().as_raw(),
        "ppid": nix::unistd::getppid().as_raw(),
        "pgid": nix::unistd::getpgrp().as_raw(),
        "sid": nix::unistd::getsid(None).map(nix::unistd::Pid::as_raw).ok(),
        "foreground": nix::unistd::tcgetpgrp(std::io::stdin()).map(nix::unistd::Pid::as_raw).ok(),
        "tty": nix::unistd::isatty(std::io::stdin()).unwrap_or(false),
        "uid": nix::unistd::getuid().as_raw(),
        "gid": nix::unistd::getgid().as_raw(),
        "cwd": env::current_dir().ok(),
        "umask": format!("{:04o}", nix::sys::stat::umask(nix::sys::stat::Mode::empty()).bits()),
        "pdeathsig": nix::sys::prctl::get_pdeathsig().ok().flatten().map(|signal| signal as i32),
        "fds": fds,
        "rlimits": limits(),
        "environment": environment(),
        "args": args,
    });
    if let Some(shown) = shown.as_object_mut() {
        shown.extend(status());
    }
    println!("{shown}");
    while args.iter().any(|word| word == "stay") {
        nix::unistd::pause();
    }
    0
}

fn arguments(count: c_int, words: *const *const c_char) -> Vec<String> {
    let word = |index: usize| {
        // SAFETY: `index` is below `count`, the length of the array that the C runtime hands over.
        let place = unsafe { words.add(index) };
        // SAFETY: each place of that array holds a pointer.
        let start = unsafe { place.read() };
        // SAFETY: it points to a string with its NUL, which lives as long as the process.
        unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
    };
    (0..usize::try_from(count).unwrap_or(0)).map(word).collect()
}

/// Number to target, as `/proc/self/fd` has them, without the one that the look itself opens.
fn descriptors() -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return BTreeMap::new() };
    let named = entries.filter_map(Result::ok).filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), target.to_string_lossy().into_owned()))
    });
    let own = format!("/proc/{}/fd", std::process::id());
    named.filter(|(_, target)| *target != own).collect()
}

/// `Max open files` and so on, each as `[soft, hard]` in the kernel's own words.
fn limits() -> BTreeMap<String, [String; 2]> {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = |line: &str| {
        let (name, rest) = line.split_at_checked(26)?;
        let mut values = rest.split_ascii_whitespace().map(str::to_owned);
        Some((name.trim().to_owned(), [values.next()?, values.next()?]))
    };
    text.lines().skip(1).filter_map(limit).collect()
}

fn environment() -> BTreeMap<String, String> {
    env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect()
}

fn status() -> Map<String, Value> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let asked = fields.filter(|(name, _)| STATUS.contains(name));
    asked.map(|(name, value)| (name.to_owned(), Value::from(value.trim()))).collect()
}
