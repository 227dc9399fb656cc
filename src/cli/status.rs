//! `clusterinit status [--json] [--watch] [--addr URL]`: the workers as a table, once or every second.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use thiserror::Error;

use super::side_port::{Error as SidePortError, SidePort};
use super::{DONE, NO, USAGE, complain, say, table};

const EVERY: Duration = Duration::from_secs(1);
/// Cursor to the top left, and away with what was below.
const REDRAW: &str = "\x1b[H\x1b[J";

#[derive(Debug, Error)]
enum Error {
    #[error(transparent)]
    SidePort(#[from] SidePortError),
    #[error("/workers was answered with {0}")]
    Status(hyper::StatusCode),
    #[error("/workers was answered with something that is no JSON")]
    Json(#[from] serde_json::Error),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    json: bool,
    watch: bool,
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
    match SidePort::find(options.addr.as_deref(), configured) {
        Ok(side_port) if options.watch => watch(&side_port, &options),
        Ok(side_port) => once(&side_port, &options),
        Err(error) => {
            complain(&error);
            if matches!(error, SidePortError::Off | SidePortError::Address(_)) { USAGE } else { NO }
        }
    }
}

fn once(side_port: &SidePort, options: &Options) -> u8 {
    match picture(side_port, options) {
        Ok(text) => {
            say(&text);
            DONE
        }
        Err(error) => {
            complain(&error);
            NO
        }
    }
}

/// Until interrupted, or until nobody reads any more. A cluster that does not answer may be back in a second.
fn watch(side_port: &SidePort, options: &Options) -> u8 {
    let (above, below) = match (options.json, io::stdout().is_terminal()) {
        (true, _) => ("", ""),
        (false, true) => (REDRAW, ""),
        (false, false) => ("", "\n"),
    };
    loop {
        match picture(side_port, options) {
            Ok(text) if !say(&format!("{above}{text}{below}")) => return DONE,
            Ok(_) => {}
            Err(error) => complain(&error),
        }
        side_port.pause(EVERY);
    }
}

fn picture(side_port: &SidePort, options: &Options) -> Result<String, Error> {
    let answer = side_port.get("/workers")?;
    if answer.status != hyper::StatusCode::OK {
        return Err(Error::Status(answer.status));
    }
    if options.json {
        return Ok(format!("{}\n", answer.body.trim_end()));
    }
    Ok(table::draw(&serde_json::from_str(&answer.body)?))
}

fn parse(mut parser: Parser) -> Result<Options, lexopt::Error> {
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("json") => options.json = true,
            Arg::Long("watch") => options.watch = true,
            Arg::Long("addr") => options.addr = Some(parser.value()?.string()?),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_anything_else_is_a_usage_error() {
        let read = |words: &[&str]| parse(Parser::from_args(words.iter().map(OsString::from)));
        let all = Options { json: true, watch: true, addr: Some("x:1".to_owned()) };
        assert_eq!(read(&["--json", "--watch", "--addr", "x:1"]).expect("all of them"), all);
        assert_eq!(read(&[]).expect("none"), Options::default());
        for wrong in [&["--addr"][..], &["--jsn"], &["3"], &["--json=yes"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        let run = |words: &[&str], addr| run(words.iter().map(OsString::from), addr);
        assert_eq!(run(&["--jsn"], None), USAGE);
        assert_eq!(run(&[], None), USAGE, "off");
        assert_eq!(run(&["--addr", "nowhere"], None), USAGE);
    }
}
