//! A program that leaves children behind: `makes_orphans N [live] [leave]` makes N double-forked orphans.
//!
//! The orphans exit at once, or with `live` stay until somebody ends them. The program stays until TERM, or with `leave` exits 0.
//! It takes "no more processes" for an answer: it then says how far it came.
//!
//! Shows: PID 1 reaps what is not its own, and what a full pids limit does to the workers.
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]
#![expect(clippy::exit, reason = "a forked child must not return into main")]
#![expect(clippy::disallowed_methods, reason = "a forked child must not return into main")]
#![expect(unsafe_code, reason = "fork(2)")]

use std::env;
use std::error::Error;
use std::process;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    let wanted: u32 = words.first().ok_or("usage: makes_orphans N [live] [leave]")?.parse()?;
    let made = (0..wanted).find(|_| !makes_orphan(has("live"))).unwrap_or(wanted);
    println!("made {made} orphans");
    while !has("leave") {
        nix::unistd::pause();
    }
    Ok(())
}

/// False when the kernel refuses another process.
fn makes_orphan(live: bool) -> bool {
    match forks() {
        Ok(ForkResult::Parent { child }) => waitpid(child, None) == Ok(WaitStatus::Exited(child, 0)),
        Ok(ForkResult::Child) => match forks() {
            Ok(ForkResult::Child) if live => loop {
                nix::unistd::pause();
            },
            Ok(_) => process::exit(0),
            Err(_) => process::exit(1),
        },
        Err(_) => false,
    }
}

fn forks() -> Result<ForkResult, Errno> {
    // SAFETY: this program has one thread, so the child may go on as if nothing had happened.
    unsafe { fork() }
}
