//! A program that never gets ready: it says `STATUS=still loading` on `NOTIFY_SOCKET`, but `READY=1` never.
//!
//! Shows: with `READY=notify` a start has a deadline, and a reload to such a program is given up.
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]

mod said;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let asked = said::to_supervisor("STATUS=still loading")?;
    println!("{}", if asked { "loading" } else { "loading, and nobody asked to be told" });
    loop {
        nix::unistd::pause();
    }
}
