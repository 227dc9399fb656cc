//! A program that ends badly: `crashes MS exit CODE` or `crashes MS signal NAME`, MS milliseconds after its start.
//!
//! Shows: every exit code and every signal reaches the logs, `/workers` and the exit status as what it was; backoff; giving up.
#![expect(clippy::disallowed_methods, reason = "an example is a program of its own: it may sleep and exit")]
#![expect(unsafe_code, reason = "signal(2) and kill(2) for signals that no safe wrapper has a name for")]

use std::env;
use std::error::Error;
use std::process;
use std::thread;
use std::time::Duration;

use clusterinit::cluster::words::Signal;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [after, how, what] = words.as_slice() else { return Err("usage: crashes MS exit CODE | crashes MS signal NAME".into()) };
    thread::sleep(Duration::from_millis(after.parse()?));
    match how.as_str() {
        "exit" => process::exit(what.parse()?),
        "signal" => die_by(Signal::parse(what).ok_or(format!("{what} is no signal"))?),
        _ => Err(format!("{how} is neither exit nor signal").into()),
    }
}

/// Returns only for signals that do not kill.
fn die_by(signal: Signal) -> Result<(), Box<dyn Error>> {
    // The runtime catches SEGV and BUS and ignores PIPE.
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(signal.0, libc::SIG_DFL) };
    let me = nix::unistd::getpid().as_raw();
    // SAFETY: a signal to ourselves.
    unsafe { libc::kill(me, signal.0) };
    Err(format!("survived {signal}").into())
}
