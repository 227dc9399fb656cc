//! Starting a worker: fork, the caller's process state put back, exec.
//!
//! Nothing here waits. `fork` answers with the pid or an errno; the outcome of exec arrives on a socket that exec closes, and the
//! loop reads it as an event. `std::process::Command` would block PID 1 until exec is done, and knows nothing of masks.
//!
//! # Safety
//! Between fork and exec the child calls async-signal-safe functions only (`man 7 signal-safety`): no allocation, no locks. All
//! that it needs is made ready in [`Launch`] before the fork. Signals are blocked meanwhile, so that no handler of ours runs in it.
#![expect(unsafe_code, reason = "fork, and system calls between fork and exec")]

#[cfg(test)]
use std::ffi::CStr;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use crate::cluster::words::{Pid, Signal};
use crate::config::User;

use super::descriptor::move_up;
use super::init::{Inherited, LAST_SIGNAL, bit, huge_pages, set_mask};
use super::outcome::{self, Failed, Step};
use super::seccomp::{self, Filter};

/// The first descriptor that a listener gets (`man 3 sd_listen_fds`).
const LISTEN_FDS_START: RawFd = 3;

/// Exit status of the forked child where exec failed; the socket says why.
const NOT_EXECUTED: libc::c_int = 127;

/// What every worker's start has in common, made ready once.
#[derive(Debug)]
pub struct Launch {
    argv: Vec<CString>,
    /// The files to try: one, or one for each entry of PATH.
    candidates: Vec<CString>,
    environment: Vec<CString>,
    /// Where the caller was; `None`: we are still there.
    directory: Option<CString>,
    inherited: Inherited,
    terms: Terms,
}

/// What a start depends on besides the command.
#[derive(Debug, Default)]
pub struct Terms {
    /// The caller's limit on descriptors; ours is raised.
    pub descriptors: Option<libc::rlimit>,
    pub user: Option<User>,
    /// How many descriptors each start hands on, as 3, 4, ...
    pub listeners: usize,
    /// The caller handed descriptors to us (`LISTEN_PID`): they are meant for each worker.
    pub hands_on_listeners: bool,
    /// The number that a worker's channel gets, behind all listeners; `None`: workers have no channel.
    pub channel: Option<RawFd>,
    /// The worker becomes the terminal's foreground process group.
    pub takes_terminal: bool,
    /// Workers die with us: where we are not PID 1, whose end the kernel answers with SIGKILL to all.
    pub dies_with_us: bool,
    /// `None`: no call of the workers stops.
    pub filter: Option<Filter>,
}

/// What one start hands to its worker. All descriptors are kept above those that they become, so that none is in the way of another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handed<'a> {
    /// They become 3, 4, ...: as many as [`Terms::listeners`] says.
    pub listeners: &'a [BorrowedFd<'a>],
    /// It becomes [`Terms::channel`].
    pub channel: Option<BorrowedFd<'a>>,
    /// They become stdout and stderr; `None`: it has ours.
    pub output: [Option<BorrowedFd<'a>>; 2],
    /// The `cgroup.procs` of the group that it enters before all else.
    pub group: Option<BorrowedFd<'a>>,
}

/// A forked worker.
#[derive(Debug)]
pub struct Started {
    pub pid: Pid,
    /// What [`outcome::read`] reads.
    pub outcome: OwnedFd,
}

/// What one start needs between fork and exec.
struct Start<'a> {
    argv: &'a [*const libc::c_char],
    envp: &'a [*const libc::c_char],
    listen_pid: [u8; 22],
    handed: Handed<'a>,
    /// Our pid, as the child must see it.
    parent: u32,
    report: BorrowedFd<'a>,
}

impl Launch {
    /// `environment` is what all workers see; `PATH` is looked up in it, as the caller's shell would.
    pub fn new(
        command: &[OsString],
        environment: &[(OsString, OsString)],
        inherited: Inherited,
        terms: Terms,
    ) -> io::Result<Self> {
        let argv = command.iter().map(|word| c_string(word)).collect::<io::Result<Vec<_>>>()?;
        let program = command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        Ok(Self {
            argv,
            candidates: candidates(program, path)?,
            environment: environment.iter().map(|(name, value)| entry(name, value)).collect::<io::Result<_>>()?,
            directory: None,
            inherited,
            terms,
        })
    }

    /// The command as messages show it.
    pub fn command(&self) -> String {
        self.argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The file that will be executed, as far as that can be told before it is tried.
    pub fn file(&self) -> Option<PathBuf> {
        let files = self.candidates.iter().map(|file| Path::new(OsStr::from_bytes(file.as_bytes())));
        let mut runnable = files.filter(|file| file.is_file() && nix::unistd::access(*file, AccessFlags::X_OK).is_ok());
        runnable.next().map(Path::to_owned)
    }

    pub fn has_filter(&self) -> bool {
        self.terms.filter.is_some()
    }

    /// Who workers are, where they are not who we are.
    pub fn user(&self) -> Option<User> {
        self.terms.user
    }

    pub fn channel_number(&self) -> Option<RawFd> {
        self.terms.channel
    }

    /// What all workers see under this name; empty where it is not set.
    pub fn value(&self, name: &str) -> OsString {
        let entry = self.environment.iter().find(|entry| is_named(entry, name));
        let value = entry.and_then(|entry| entry.as_bytes().get(name.len() + 1..));
        value.map(|value| OsString::from_vec(value.to_vec())).unwrap_or_default()
    }

    pub fn has_listeners(&self) -> bool {
        self.terms.listeners > 0
    }

    /// Goes to `/`, so that we pin no mount by standing in it; workers are started where the caller was. We stay where that place
    /// cannot be entered again by its name: it was deleted, or we may not pass a directory above it.
    pub fn leave_directory(&mut self) {
        let Ok(here) = std::env::current_dir() else { return };
        let may_return = std::env::set_current_dir(&here).is_ok();
        if may_return && std::env::set_current_dir("/").is_ok() {
            self.directory = c_string(here.as_os_str()).ok();
        }
    }

    pub fn takes_terminal(&self) -> bool {
        self.terms.takes_terminal
    }

    /// Forks. `more` is this worker's part of the environment, in place of what the caller had under the same names; `LISTEN_PID` is
    /// added where there are listeners.
    pub fn start(&self, more: &[(&str, OsString)], handed: Handed<'_>) -> io::Result<Started> {
        let first_free = first_free(self.terms.listeners).max(self.terms.channel.map_or(0, |number| number + 1));
        debug_assert_eq!(handed.listeners.len(), self.terms.listeners);
        debug_assert!(
            handed
                .listeners
                .iter()
                .chain(&handed.channel)
                .chain(handed.output.iter().flatten())
                .all(|descriptor| descriptor.as_raw_fd() >= first_free)
        );
        let mut environment: Vec<CString> = self.environment.clone();
        for (name, value) in more {
            environment.retain(|entry| !is_named(entry, name));
            environment.push(entry(OsStr::new(name), value)?);
        }
        let (outcome, mut report) = outcome::pair()?;
        if report.as_raw_fd() < first_free {
            report = move_up(&report, first_free)?;
        }
        // Room for the digits: the pid is known in the child only, where nothing can be allocated.
        let listen_pid = *b"LISTEN_PID=0000000000\0";
        let parent = std::process::id();
        let mut start = Start { argv: &[], envp: &[], listen_pid, handed, parent, report: report.as_fd() };
        let mut envp: Vec<*const libc::c_char> = environment.iter().map(|entry| entry.as_ptr()).collect();
        if self.terms.hands_on_listeners || self.has_listeners() {
            envp.push(start.listen_pid.as_ptr().cast());
        }
        envp.push(std::ptr::null());
        let mut argv: Vec<*const libc::c_char> = self.argv.iter().map(|word| word.as_ptr()).collect();
        argv.push(std::ptr::null());
        (start.argv, start.envp) = (&argv, &envp);

        let pid = in_child(libc::SIGCHLD, || {
            let failed = self.become_worker(&mut start);
            outcome::send_failed(start.report, failed);
            NOT_EXECUTED
        })?;
        Ok(Started { pid, outcome })
    }

    /// In the child: gives back what the caller had and executes the command. Returns only with an errno.
    fn become_worker(&self, start: &mut Start<'_>) -> Failed {
        restore_dispositions(self.inherited.ignored);
        huge_pages(self.inherited.huge_pages_disabled);
        // A group of its own: the worker's tree can be told apart by it. A failure means that it has one already.
        // SAFETY: numbers only.
        unsafe { libc::setpgid(0, 0) };
        if self.terms.takes_terminal {
            // SIGTTOU is blocked here, so this may be done from the background. No terminal, or not ours: nothing to take.
            // SAFETY: getpgrp takes nothing and cannot fail.
            let group = unsafe { libc::getpgrp() };
            // SAFETY: numbers only.
            unsafe { libc::tcsetpgrp(libc::STDIN_FILENO, group) };
        }
        if let Err(failed) = self.enter_place(start) {
            return failed;
        }
        let channel = self.terms.channel.zip(start.handed.channel.as_ref());
        let output = (libc::STDOUT_FILENO..).zip(&start.handed.output);
        let output = output.filter_map(|(number, descriptor)| Some((number, descriptor.as_ref()?)));
        for (number, descriptor) in (LISTEN_FDS_START..).zip(start.handed.listeners).chain(channel).chain(output) {
            // SAFETY: numbers only; dup2 also clears close-on-exec in the copy.
            if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } < 0 {
                return Failed { step: Step::Listeners, errno: last_errno() };
            }
        }
        write_digits(&mut start.listen_pid, std::process::id());
        set_mask(self.inherited.mask);
        Failed { step: Step::Exec, errno: self.execute(start.argv, start.envp) }
    }

    /// Group, directory, filter, limits, user, parent-death signal.
    fn enter_place(&self, start: &Start<'_>) -> Result<(), Failed> {
        if let Some(group) = start.handed.group {
            enter_group(group)?;
        }
        if let Some(directory) = &self.directory {
            // SAFETY: a live NUL-terminated string.
            Step::Directory.check(unsafe { libc::chdir(directory.as_ptr()) })?;
        }
        if let Some(filter) = &self.terms.filter {
            // Before the user changes: with CAP_SYS_ADMIN it needs no no_new_privs, and nothing below makes a call that stops.
            send_listener(filter, start.report)?;
        }
        if let Some(limit) = &self.terms.descriptors {
            // SAFETY: a live rlimit. A failure leaves the raised limit, which harms nobody.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
        }
        if let Some(User { uid, gid }) = self.terms.user {
            // In this order: after setuid the others are no longer permitted. By the raw calls: libc's want to change all threads that
            // it remembers, and wait for those that the fork left behind.
            // SAFETY: one live gid.
            Step::User.check(unsafe { libc::syscall(libc::SYS_setgroups, 1, &raw const gid) })?;
            // SAFETY: a number.
            Step::User.check(unsafe { libc::syscall(libc::SYS_setgid, gid) })?;
            // SAFETY: a number.
            Step::User.check(unsafe { libc::syscall(libc::SYS_setuid, uid) })?;
        }
        if self.terms.dies_with_us {
            // After setuid, which would clear it.
            // SAFETY: numbers only.
            Step::Parent.check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
            // SAFETY: takes nothing and cannot fail.
            if u32::try_from(unsafe { libc::getppid() }) != Ok(start.parent) {
                // The parent has gone already: the signal will never come.
                return Err(Failed { step: Step::Parent, errno: libc::ESRCH });
            }
        }
        Ok(())
    }

    fn execute(&self, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> libc::c_int {
        let mut worst = libc::ENOENT;
        for candidate in &self.candidates {
            // SAFETY: all three are live, NUL-terminated, and the arrays end with a null pointer.
            unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            match last_errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                // As `execvp` does: a later entry of PATH may do, else this is what is said.
                libc::EACCES => worst = libc::EACCES,
                errno => return errno,
            }
        }
        worst
    }
}

/// Whatever it uses from here on counts there. The file was opened by us, so it is our rights that decide.
fn enter_group(group: BorrowedFd<'_>) -> Result<(), Failed> {
    let myself = b"0";
    // SAFETY: one live byte.
    let written = unsafe { libc::write(group.as_raw_fd(), myself.as_ptr().cast(), myself.len()) };
    if written == 1 { Ok(()) } else { Err(Failed { step: Step::Group, errno: last_errno() }) }
}

/// A worker whose calls cannot stop is a worker all the same. One whose calls would stop with nobody to answer them is none.
fn send_listener(filter: &Filter, report: BorrowedFd<'_>) -> Result<(), Failed> {
    match seccomp::install(filter) {
        // Our copy is closed here: numbers from 3 on are for listeners, and its end must be seen when the worker's tree has gone.
        Ok(listener) => outcome::send_listener(report, listener.as_fd())
            .map_err(|errno| Failed { step: Step::Filter, errno: errno as libc::c_int }),
        Err(errno) => {
            outcome::send_no_listener(report, errno);
            Ok(())
        }
    }
}

/// Forks; the child runs `body` with all signals blocked and ends with its status. `signal` is what its parent gets then (0: none).
///
/// `body` keeps to async-signal-safe calls: no allocation, no locks. By the raw call: libc's would lock and unlock the allocator on
/// both sides, for children that go on allocating. Ours does not, and each lock is a page to be copied.
pub(crate) fn in_child(signal: libc::c_int, body: impl FnOnce() -> libc::c_int) -> io::Result<Pid> {
    let mask = set_mask(u64::MAX);
    // SAFETY: no stack, no shared memory, no pointers: a plain fork. The child keeps to async-signal-safe calls until exec or _exit.
    let forked = unsafe { libc::syscall(libc::SYS_clone, signal, 0, 0, 0, 0) };
    if forked == 0 {
        let status = body();
        // SAFETY: ends the child without running destructors or handlers that belong to the parent.
        unsafe { libc::_exit(status) };
    }
    let error = io::Error::last_os_error();
    set_mask(mask);
    libc::pid_t::try_from(forked).ok().filter(|pid| *pid > 0).map(Pid).ok_or(error)
}

/// A signal to one process. `Ok(false)`: it has gone.
pub fn signal(pid: Pid, signal: Signal) -> io::Result<bool> {
    // SAFETY: numbers only.
    if unsafe { libc::kill(pid.0, signal.0) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        error => Err(error),
    }
}

/// A signal to the process group of a leader that is not reaped yet; `false` where the group is not there.
pub fn signal_group(leader: Pid, signal: Signal) -> bool {
    // SAFETY: numbers only.
    leader.0 > 1 && unsafe { libc::kill(-leader.0, signal.0) } == 0
}

/// A signal to every process of the PID namespace but us. Only PID 1 may ask for it: anybody else would reach strangers.
pub fn signal_namespace(signal: Signal) {
    if super::init::is_pid_1() {
        // SAFETY: numbers only.
        unsafe { libc::kill(-1, signal.0) };
    }
}

/// Raises our own soft limit on descriptors to the hard one and answers what the caller had.
pub fn raise_descriptor_limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 || limit.rlim_cur == limit.rlim_max {
        return None;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: a live rlimit.
    (unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0).then_some(limit)
}

/// Replaces this process by `command`, as the caller would have started it. Returns only with an error.
pub fn replace_by(command: &[OsString], environment: &[(OsString, OsString)], inherited: Inherited) -> io::Error {
    let launch = match Launch::new(command, environment, inherited, Terms::default()) {
        Ok(launch) => launch,
        Err(error) => return error,
    };
    let ends_with_null = std::iter::once(std::ptr::null());
    let argv: Vec<_> = launch.argv.iter().map(|word| word.as_ptr()).chain(ends_with_null.clone()).collect();
    let envp: Vec<_> = launch.environment.iter().map(|entry| entry.as_ptr()).chain(ends_with_null).collect();
    restore_dispositions(inherited.ignored);
    huge_pages(inherited.huge_pages_disabled);
    set_mask(inherited.mask);
    io::Error::from_raw_os_error(launch.execute(&argv, &envp))
}

/// Ignored stays ignored, all else becomes the default. exec would do that for caught signals, but not for those that we ignore.
fn restore_dispositions(ignored: u64) {
    for signal in 1..=LAST_SIGNAL {
        let disposition = if ignored & bit(signal) == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
        // SAFETY: neither value is a function. KILL, STOP and those that libc keeps are refused, and unchanged anyway.
        unsafe { libc::signal(signal, disposition) };
    }
}

fn candidates(program: &OsStr, path: Option<&OsStr>) -> io::Result<Vec<CString>> {
    if program.as_bytes().contains(&b'/') || program.is_empty() {
        return Ok(vec![c_string(program)?]);
    }
    let path = path.unwrap_or(OsStr::new("/usr/local/bin:/bin:/usr/bin")).as_bytes();
    let mut files = Vec::new();
    for directory in path.split(|byte| *byte == b':') {
        // An empty entry is the working directory.
        let mut file = if directory.is_empty() { b".".to_vec() } else { directory.to_vec() };
        file.push(b'/');
        file.extend_from_slice(program.as_bytes());
        files.push(c_string(&OsString::from_vec(file))?);
    }
    Ok(files)
}

fn is_named(entry: &CString, name: &str) -> bool {
    entry.as_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in a word of the command"))
}

fn entry(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut entry = name.to_owned();
    entry.push("=");
    entry.push(value);
    c_string(&entry)
}

/// The lowest number that is free in a worker that gets so many listeners.
pub fn first_free(listeners: usize) -> RawFd {
    RawFd::try_from(listeners).unwrap_or(RawFd::MAX - LISTEN_FDS_START) + LISTEN_FDS_START
}

/// Writes the value behind `LISTEN_PID=` without leading zeros, which some parsers would take for octal.
fn write_digits(buffer: &mut [u8; 22], number: u32) {
    let mut digits = [0_u8; 10];
    let mut count = 0;
    let mut left = number;
    for digit in &mut digits {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        count += 1;
        if left == 0 {
            break;
        }
    }
    let digits = digits.iter().take(count).rev().chain(std::iter::once(&0));
    for (place, digit) in buffer.iter_mut().skip(11).zip(digits) {
        *place = *digit;
    }
}

impl Step {
    fn check(self, result: impl Into<libc::c_long>) -> Result<(), Failed> {
        if result.into() == 0 { Ok(()) } else { Err(Failed { step: self, errno: last_errno() }) }
    }
}

fn last_errno() -> libc::c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_s_pid_has_no_leading_zeros() {
        for pid in [1, 7, 10, 4_194_304, u32::MAX] {
            let mut buffer = *b"LISTEN_PID=0000000000\0";
            write_digits(&mut buffer, pid);
            let text = CStr::from_bytes_until_nul(&buffer).expect("NUL-terminated");
            assert_eq!(text.to_str(), Ok(format!("LISTEN_PID={pid}").as_str()));
        }
    }

    #[test]
    fn a_bare_name_is_looked_for_in_path_and_a_path_is_not() {
        let files = |program: &str, path: Option<&str>| candidates(OsStr::new(program), path.map(OsStr::new)).expect("no NUL");
        assert_eq!(files("./server", Some("/bin")), [c"./server".to_owned()]);
        assert_eq!(files("sh", Some("/a::/b")), [c"/a/sh".to_owned(), c"./sh".to_owned(), c"/b/sh".to_owned()]);
        assert_eq!(files("sh", None).len(), 3);
        assert!(candidates(OsStr::new("a\0b"), None).is_err());
    }
}
