//! The subcommands that look at, or ask something of, the clusterinit that runs in this container.
//!
//! `args` reads the command line. Each `run` answers the exit code: 0, 1 for "no", 64 for a mistake in calling it. They are ordinary
//! short-lived processes: they may block, and they end in bounded time.

pub mod args;
pub mod ask;
pub mod healthcheck;
pub mod plan;
mod side_port;
pub mod status;
mod table;

use std::error::Error;
use std::io::{self, Write};

pub const DONE: u8 = 0;
pub const NO: u8 = 1;

/// The one place that writes to stdout. Whoever closed the other end has seen enough, which is no failure of ours: `false`.
pub fn say(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// One line on stderr: the error and what is behind it.
pub fn complain(error: &dyn Error) {
    let mut line = format!("clusterinit: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    // There is nobody left to tell about a stderr that cannot be written.
    let _unheard = writeln!(io::stderr(), "{line}");
}
