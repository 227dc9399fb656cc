//! A program that stops itself (SIGSTOP): it runs again only when somebody sends it CONT, and then waits for TERM.
//!
//! Shows: TERM to a stopped process stays pending, so a stop signal must be followed by CONT.
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]

use std::error::Error;

use nix::sys::signal::{Signal, raise};

fn main() -> Result<(), Box<dyn Error>> {
    println!("stopping");
    raise(Signal::SIGSTOP)?;
    println!("continued");
    loop {
        nix::unistd::pause();
    }
}
