//! A program that cannot be asked to leave: TERM is ignored, and so are the signals named as arguments (`ignores_term HUP INT`).
//!
//! Shows: the grace period ends in SIGKILL, the whole tree goes, and the exit status says so (137).
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]
#![expect(unsafe_code, reason = "signal(2) is unsafe because a handler could be; ignoring has none")]

use std::env;
use std::error::Error;

use clusterinit::cluster::words::Signal;

fn main() -> Result<(), Box<dyn Error>> {
    ignore(Signal::TERM);
    for name in env::args().skip(1) {
        ignore(Signal::parse(&name).ok_or(format!("{name} is no signal"))?);
    }
    println!("ignoring TERM");
    loop {
        nix::unistd::pause();
    }
}

fn ignore(signal: Signal) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signal.0, libc::SIG_IGN) };
}
