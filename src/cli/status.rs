//! `clusterinit status [--json] [--watch] [--addr URL]`: the workers as a table, once or every second.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use super::side_port::{Error as SidePortError, SidePort};
use super::{DONE, NO, complain, say, table};
use crate::exit;

const EVERY: Duration = Duration::from_secs(1);
/// Cursor to the top left, over the picture before; what was longer there goes line by line, and then what was below.
const TOP: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\n";
const REST: &str = "\x1b[J";

#[derive(Debug, Error)]
enum Error {
    #[error(transparent)]
    SidePort(#[from] SidePortError),
    #[error("/workers was answered with {0}")]
    Status(hyper::StatusCode),
    #[error("/workers was answered with something that is no JSON")]
    Json(#[from] serde_json::Error),
}

/// How the workers are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub json: bool,
    pub watch: bool,
}

/// `configured` is `CLUSTERINIT_HEALTH_ADDR` as it is in force; `None` where the side port is off.
pub fn run(options: Options, addr: Option<&str>, configured: Option<SocketAddr>) -> u8 {
    match SidePort::find(addr, configured) {
        Ok(side_port) if options.watch => watch(&side_port, options),
        Ok(side_port) => once(&side_port, options),
        Err(error) => {
            complain(&error);
            if matches!(error, SidePortError::Off | SidePortError::Address(_)) { exit::USAGE } else { NO }
        }
    }
}

fn once(side_port: &SidePort, options: Options) -> u8 {
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
fn watch(side_port: &SidePort, options: Options) -> u8 {
    let is_terminal = io::stdout().is_terminal();
    let framed = |text: &str| match options.json {
        true => text.to_owned(),
        false if is_terminal => format!("{TOP}{}{REST}", text.replace('\n', END_OF_LINE)),
        false => format!("{text}\n"),
    };
    loop {
        match picture(side_port, options) {
            Ok(text) if !say(&framed(&text)) => return DONE,
            Ok(_) => {}
            Err(error) => complain(&error),
        }
        side_port.pause(EVERY);
    }
}

fn picture(side_port: &SidePort, options: Options) -> Result<String, Error> {
    let answer = side_port.get(if options.json { "/workers" } else { "/workers?events=1" })?;
    if answer.status != hyper::StatusCode::OK {
        return Err(Error::Status(answer.status));
    }
    if options.json {
        return Ok(format!("{}\n", answer.body.trim_end()));
    }
    Ok(table::draw(&serde_json::from_str(&answer.body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_to_ask_is_a_usage_error() {
        assert_eq!(run(Options::default(), None, None), exit::USAGE, "off");
        assert_eq!(run(Options::default(), Some("nowhere"), None), exit::USAGE);
    }
}
