//! The last events, as `/workers?events=1` has them.

use serde::Serialize;

use super::report::seconds;
use crate::cluster::journal::{Entry, Journal, What};
use crate::cluster::status::Reason;
use crate::cluster::words::{ExitStatus, Pid, Slot, Time};

/// What does not belong to an event is left out.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    seq: u64,
    seconds_ago: f64,
    #[serde(rename = "event")]
    what: What,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<Slot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<Pid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The oldest first.
pub(super) fn all(journal: &Journal, now: Time) -> Vec<Event> {
    journal.entries().map(|(seq, entry)| Event::new(seq, entry, now)).collect()
}

impl Event {
    fn new(seq: u64, entry: &Entry, now: Time) -> Self {
        let (code, signal) = match entry.status {
            Some(ExitStatus::Code(code)) => (Some(code), None),
            Some(ExitStatus::Signal { signal, .. }) => (None, Some(signal.to_string())),
            None => (None, None),
        };
        Self {
            seq,
            seconds_ago: seconds(now.since(entry.at)),
            what: entry.what,
            worker: entry.slot,
            pid: entry.pid,
            code,
            signal,
            reason: entry.reason,
            detail: (!entry.detail.is_none()).then(|| entry.detail.to_string()),
        }
    }
}
