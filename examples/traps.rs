//! A program that counts what it is sent: `traps [exit=CODE] [after=MS] [SIGNAL...]` prints `got TERM 1`, `got HUP 1`, `got TERM 2`.
//!
//! Without names it catches TERM, INT, QUIT, HUP, USR1, USR2, CONT and WINCH. After its first TERM it stays MS milliseconds more
//! (default 0), still counting, and exits with CODE (default 0). It prints `trapping` when it is set up.
//!
//! Shows: each worker gets the stop signal once, what is forwarded and what is not, and which exit status counts after a stop.
#![expect(clippy::print_stdout, reason = "its output is what tests wait for")]
#![expect(clippy::disallowed_methods, reason = "an example is a program of its own: it may sleep and exit")]

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::process;
use std::thread;
use std::time::Duration;

use clusterinit::cluster::words::Signal;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut code, mut after, mut traps) = (0, Duration::ZERO, Vec::new());
    for word in env::args().skip(1) {
        match word.split_once('=') {
            Some(("exit", value)) => code = value.parse()?,
            Some(("after", value)) => after = Duration::from_millis(value.parse()?),
            _ => traps.push(Signal::parse(&word).ok_or(format!("{word} is no signal"))?),
        }
    }
    if traps.is_empty() {
        traps.extend([15, 2, 3, 1, 10, 12, 18, 28].map(Signal));
    }
    // Raw: one entry per signal. The plain iterator merges those that come close together.
    let mut caught = SignalsInfo::<WithRawSiginfo>::new(traps.iter().map(|signal| signal.0))?;
    println!("trapping");
    let mut counts = BTreeMap::new();
    for info in caught.forever() {
        let signal = Signal(info.si_signo);
        let count: &mut u32 = counts.entry(signal).or_default();
        *count += 1;
        println!("got {} {count}", signal.name());
        if signal == Signal::TERM && *count == 1 {
            thread::spawn(move || {
                thread::sleep(after);
                process::exit(code);
            });
        }
    }
    Ok(())
}
