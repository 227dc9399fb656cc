//! One running clusterinit under test, and what a test may ask of it.
//!
//! [`Cluster::start`] runs the real binary with an environment of its own, as PID 1 of a new PID namespace or as a plain
//! process that becomes a subreaper, with a side port of its own. Whatever it started is found again by a mark in the
//! environment, and killed by pid when the handle is dropped. Tests wait for conditions ([`Cluster::until`]), never for a time.

mod cluster;
mod http;
mod launch;
mod load;
mod procs;
mod stage;
mod wait;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) use cluster::Cluster;
pub(crate) use http::{Reply, exchange, request};
pub(crate) use launch::{Launch, Sink, Stdin, free_port, free_ports};
pub(crate) use load::Load;
pub(crate) use procs::{in_namespace_of, is_alive, parent, state, status_lines};
pub(crate) use stage::{Stage, go, tool};
pub(crate) use wait::{DEADLINE, Stopwatch, wait_until};

/// How clusterinit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As any process: it becomes a subreaper.
    Plain,
    /// As PID 1 of a PID namespace made for it, with a `/proc` of its own.
    Pid1,
}

/// Both modes, or one with a loud line where PID namespaces cannot be made.
pub(crate) fn modes() -> Vec<Mode> {
    if has_pid1() { vec![Mode::Plain, Mode::Pid1] } else { vec![Mode::Plain] }
}

/// Whether [`Mode::Pid1`] can be had; if not, says so.
pub(crate) fn has_pid1() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = *WORKS.get_or_init(|| succeeds(&["unshare"], &[&namespace_flags()[..], &["true"]].concat()));
    if !works {
        skipped("PID namespaces cannot be made here (unshare of util-linux, as root or with user namespaces)");
    }
    works
}

/// Whether python3 is there; if not, says so.
pub(crate) fn has_python() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = *WORKS.get_or_init(|| succeeds(&["python3"], &["-c", "pass"]));
    if !works {
        skipped("python3 is not here");
    }
    works
}

/// Whether the tests run as the real root; if not, says so.
pub(crate) fn has_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("this needs root: it runs programs under other uids");
    }
    root
}

/// Says loudly that a test, or a part of one, could not run. With `CLUSTERINIT_TEST_NO_SKIP` that is a failure.
pub(crate) fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Straight to the descriptor: the test harness swallows what `eprintln!` says in a test that passes.
    writeln!(std::io::stderr(), "SKIPPED {name}: {why}").expect("stderr");
    assert!(std::env::var_os("CLUSTERINIT_TEST_NO_SKIP").is_none(), "skipping is not allowed: {why}");
}

/// One test at a time that keeps all CPUs busy: two of them would see each other instead of what they look for.
pub(crate) fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path of one of the programs in `examples/`, which cargo builds before it runs all tests.
pub(crate) fn example(name: &str) -> String {
    let tests = std::env::current_exe().expect("the test's own path");
    let path = tests.parent().and_then(std::path::Path::parent).expect("target/debug/deps").join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples`, or all tests at once", path.display());
    path.to_str().expect("UTF-8").to_owned()
}

/// The flags that make `unshare` run a program as PID 1; root needs no user namespace.
pub(crate) fn namespace_flags() -> Vec<&'static str> {
    let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    [user, &["--pid", "--fork", "--mount-proc", "--kill-child"]].concat()
}

/// The flags that make `nsenter` enter the namespaces of a [`Mode::Pid1`] cluster.
pub(crate) fn enter_flags() -> Vec<&'static str> {
    let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--preserve-credentials"] };
    [user, &["--pid", "--mount"]].concat()
}

/// Runs a program to its end, for tests that compare with what happens without clusterinit.
#[expect(clippy::disallowed_methods, reason = "a test is an ordinary parent, not PID 1")]
pub(crate) fn output_of(command: &mut Command) -> std::process::Output {
    command.stdin(Stdio::null()).output().expect("the program runs")
}

#[expect(clippy::disallowed_methods, reason = "a test is an ordinary parent, not PID 1")]
fn succeeds(program: &[&str], arguments: &[&str]) -> bool {
    let mut command = Command::new(program[0]);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
