//! `clusterinit healthcheck [--ready] [--addr URL]`: 0 healthy, 1 not; for Docker HEALTHCHECK and exec probes in images without curl.

use std::net::SocketAddr;

use thiserror::Error;

use super::side_port::{Error as SidePortError, SidePort};
use super::{DONE, NO, complain};
use crate::exit;

#[derive(Debug, Error)]
#[error("{what}: {status}, {reason}")]
struct Unwell {
    what: &'static str,
    status: hyper::StatusCode,
    reason: String,
}

/// What is asked: whether a restart of the container would help, or whether it may get requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Healthy,
    Ready,
}

/// `configured` is `CLUSTERINIT_HEALTH_ADDR` as it is in force; `None` where the side port is off.
pub fn run(question: Question, addr: Option<&str>, configured: Option<SocketAddr>) -> u8 {
    let (path, what) = match question {
        Question::Healthy => ("/healthz", "not healthy"),
        Question::Ready => ("/readyz", "not ready"),
    };
    let answer = SidePort::find(addr, configured).and_then(|side_port| side_port.get(path));
    match answer {
        Ok(answer) if answer.status == hyper::StatusCode::OK => DONE,
        Ok(answer) => {
            complain(&Unwell { what, status: answer.status, reason: answer.body.trim_end().to_owned() });
            NO
        }
        Err(error) => {
            complain(&error);
            if matches!(error, SidePortError::Off | SidePortError::Address(_)) { exit::USAGE } else { NO }
        }
    }
}

#[cfg(test)]
mod tests;
