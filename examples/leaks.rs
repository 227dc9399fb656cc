//! A program that leaks: `leaks MB_PER_SECOND [MOST_MB]` takes memory steadily and gives none back; there it stops growing.
//!
//! Shows: what the figures in `/workers` say of a leak, and what a memory limit does.
#![expect(clippy::disallowed_methods, reason = "an example is a program of its own: it may sleep")]
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]

use std::env;
use std::error::Error;
use std::thread;
use std::time::Duration;

/// Memory is taken in steps of this many MiB.
const STEP: u32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let per_second: u32 = words.next().ok_or("usage: leaks MB_PER_SECOND [MOST_MB]")?.parse()?;
    let most: u32 = words.next().map_or(Ok(u32::MAX), |most| most.parse())?;
    let pause = Duration::from_secs(STEP.into()) / per_second.max(1);
    let mut leaked: Vec<Vec<u8>> = Vec::new();
    for taken in (STEP..=most).step_by(STEP as usize) {
        // Not zeroes: zeroed memory is not resident before it is written to.
        leaked.push(vec![1; (STEP as usize) << 20]);
        println!("leaked {taken} MiB");
        thread::sleep(pause);
    }
    loop {
        nix::unistd::pause();
    }
}
