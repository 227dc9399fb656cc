//! A program that slips away: it leaves a daemon behind (double fork, setsid), which lives on until TERM.
//!
//! Arguments, in any order: `ends` (the leader exits 0 when the daemon runs, else it stays until TERM), `clear` (the daemon starts
//! over with an empty environment, so that not even that tells where it came from), `deaf` (the daemon ignores TERM and HUP).
//!
//! Shows: a worker's tree is more than its group and its children, and a stop reaches all of it.
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]
#![expect(clippy::disallowed_methods, reason = "a forked child must not return into main")]
#![expect(unsafe_code, reason = "fork(2) and signal(2)")]

use std::env;
use std::error::Error;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::process;

use nix::unistd::{execve, fork, setsid};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    if has("daemon") {
        return be_daemon(has("deaf"));
    }
    let (mut seen, mut running) = io::pipe()?;
    if forks()? {
        setsid()?;
        if forks()? {
            running.write_all(b"r")?;
            drop(running);
            start_over(has("clear"), has("deaf"))?;
        }
        process::exit(0);
    }
    drop(running);
    seen.read_to_end(&mut Vec::new())?;
    while !has("ends") {
        nix::unistd::pause();
    }
    Ok(())
}

/// True in the child. The parent does not wait: what it leaves behind is PID 1's to reap.
fn forks() -> Result<bool, nix::errno::Errno> {
    // SAFETY: this program has one thread, so the child may go on as if nothing had happened.
    Ok(unsafe { fork() }?.is_child())
}

/// Executes this file again: only a new program has a new `/proc/PID/environ`.
fn start_over(clear: bool, deaf: bool) -> Result<(), Box<dyn Error>> {
    let mut words = vec![c"daemonizes".to_owned(), c"daemon".to_owned()];
    if deaf {
        words.push(c"deaf".to_owned());
    }
    let kept: Result<Vec<CString>, _> = env::vars().map(|(name, value)| CString::new(format!("{name}={value}"))).collect();
    execve(c"/proc/self/exe", &words, &if clear { Vec::new() } else { kept? })?;
    Ok(())
}

fn be_daemon(deaf: bool) -> Result<(), Box<dyn Error>> {
    if deaf {
        for signal in [libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: SIG_IGN runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
    println!("daemon {}", process::id());
    loop {
        nix::unistd::pause();
    }
}
