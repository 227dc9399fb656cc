//! `clusterinit healthcheck [--ready] [--addr URL]`: 0 healthy, 1 not; for Docker HEALTHCHECK and exec probes in images without curl.

use std::ffi::OsString;
use std::net::SocketAddr;

use lexopt::{Arg, Parser, ValueExt};
use thiserror::Error;

use super::side_port::{Error as SidePortError, SidePort};
use super::{DONE, NO, USAGE, complain};

#[derive(Debug, Error)]
#[error("{what}: {status}, {reason}")]
struct Unwell {
    what: &'static str,
    status: hyper::StatusCode,
    reason: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    ready: bool,
    addr: Option<String>,
}

/// `configured` is `CLUSTERINIT_HEALTH_ADDR` as it is in force; `None` where the side port is off.
pub fn run(arguments: impl IntoIterator<Item = OsString>, configured: Option<SocketAddr>) -> u8 {
    let options = match parse(Parser::from_args(arguments)) {
        Ok(options) => options,
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    let (path, what) = if options.ready { ("/readyz", "not ready") } else { ("/healthz", "not healthy") };
    let answer = SidePort::find(options.addr.as_deref(), configured).and_then(|side_port| side_port.get(path));
    match answer {
        Ok(answer) if answer.status == hyper::StatusCode::OK => DONE,
        Ok(answer) => {
            complain(&Unwell { what, status: answer.status, reason: answer.body.trim_end().to_owned() });
            NO
        }
        Err(error) => {
            complain(&error);
            if matches!(error, SidePortError::Off | SidePortError::Address(_)) { USAGE } else { NO }
        }
    }
}

fn parse(mut parser: Parser) -> Result<Options, lexopt::Error> {
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("ready") => options.ready = true,
            Arg::Long("addr") => options.addr = Some(parser.value()?.string()?),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests;
