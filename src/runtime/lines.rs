//! The core's notes as log lines: one per transition, with the same field names everywhere.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::cluster::effect::{Finish, Hang, Note, Search};
use crate::cluster::event::Left;
use crate::cluster::status::Reason;

#[expect(clippy::too_many_lines, reason = "a table: a line for each note")]
pub(super) fn log(note: &Note) {
    match note {
        Note::Started { slot, pid, generation } => info!(slot = slot.0, pid = pid.0, generation, "worker started"),
        Note::ForkRefused { slot, why, retry_in: Some(wait) } => {
            error!(slot = slot.0, why, retry_in = ?ms(*wait), "no worker could be started; the living ones go on");
        }
        Note::ForkRefused { slot, why, retry_in: None } => error!(slot = slot.0, why, "no successor could be started"),
        Note::ExecFailed { slot, why } => error!(slot = slot.0, why, "the command could not be executed"),
        Note::Ready { slot, pid, after } => info!(slot = slot.0, pid = pid.0, after = ?ms(*after), "worker ready"),
        Note::CountsAsReady { slot, pid, after } => {
            let after = ms(*after);
            warn!(
                slot = slot.0,
                pid = pid.0,
                ?after,
                "worker has neither listened nor notified; it counts as ready, but not for /readyz (CLUSTERINIT_READY=running if it is not meant to)"
            );
        }
        Note::Says { slot, text } => debug!(slot = slot.0, text, "worker says"),
        Note::AnnouncedStop { slot, pid } => info!(slot = slot.0, pid = pid.0, "worker says that it is stopping"),
        Note::Hung { slot, pid, hang: Hang::Watchdog } => {
            warn!(slot = slot.0, pid = pid.0, "worker missed its watchdog and is to be replaced");
        }
        Note::Hung { slot, pid, hang: Hang::Queue } => {
            warn!(slot = slot.0, pid = pid.0, "worker left connections waiting (CLUSTERINIT_HANG_TIMEOUT) and is to be replaced");
        }
        Note::Hung { slot, pid, hang: Hang::Heartbeat } => {
            warn!(
                slot = slot.0,
                pid = pid.0,
                "worker's event loop stands still (CLUSTERINIT_HANG_TIMEOUT) and is to be replaced"
            );
        }
        Note::QueueFilled { slot } => {
            info!(slot = slot.0, "connections wait in an accept queue that no worker has; a worker is started for them");
        }
        Note::Recovered { slot, pid } => info!(slot = slot.0, pid = pid.0, "worker is alive again"),
        Note::NotReadyInTime { slot, pid, waited } => {
            error!(slot = slot.0, pid = pid.0, waited = ?ms(*waited), "worker was not ready in time (CLUSTERINIT_START_TIMEOUT)");
        }
        Note::Disconnected { slot, pid, reason } => {
            info!(slot = slot.0, pid = pid.0, reason = word(*reason), "worker disconnected: new connections go to others");
        }
        Note::Parting { slot, pid, reason } => {
            info!(slot = slot.0, pid = pid.0, reason = word(*reason), "worker was asked to finish what it has and to end");
        }
        Note::Stopping { slot, pid, reason, search: Some(Search { took, quiet }) } if !took.is_zero() => {
            let (after, reason) = (ms(*took), word(*reason));
            info!(slot = slot.0, pid = pid.0, reason, ?after, quiet, "stopping worker");
        }
        Note::Stopping { slot, pid, reason, .. } => {
            info!(slot = slot.0, pid = pid.0, reason = word(*reason), "stopping worker");
        }
        Note::Killing { slot, pid, reason: Reason::Crash } => {
            warn!(slot = slot.0, pid = pid.0, "killing what the worker left behind");
        }
        Note::Killing { slot, pid, reason } => warn!(slot = slot.0, pid = pid.0, reason = word(*reason), "killing worker"),
        Note::StillThere { slot, pid } => {
            error!(slot = slot.0, pid = pid.0, "worker does not end on SIGKILL: it hangs in the kernel; going on without it");
        }
        Note::Ended { slot, pid, status, reason, rest } => {
            let (slot, pid, reason) = (slot.0, pid.0, word(*reason));
            if reason == "crash" {
                warn!(slot, pid, %status, reason, rest, "worker ended");
            } else {
                info!(slot, pid, %status, reason, rest, "worker ended");
            }
        }
        Note::Waits { slot, failures, delay } => warn!(slot = slot.0, failures, delay = ?ms(*delay), "the next start waits"),
        Note::SlotDone { slot } => info!(slot = slot.0, "slot is done and not started again"),
        Note::OthersFollow { workers, ready: true } => info!(workers, "slot 0 is ready, the others follow"),
        Note::OthersFollow { workers, ready: false } => {
            warn!(workers, "slot 0 was not ready within CLUSTERINIT_START_TIMEOUT, the others follow");
        }
        Note::ReloadBegan { generation, workers } => info!(generation, workers, "reload begins"),
        Note::ReloadRemembered => info!("a reload is under way; one more follows"),
        Note::ReloadDone { generation } => info!(generation, "reload done"),
        Note::ReloadAborted { reason } => error!(reason, "reload aborted, the old workers stay"),
        Note::ReplacementFailed { slot, reason } => error!(slot = slot.0, reason, "worker could not be replaced"),
        Note::Scaled { from, to } => info!(from, to, "scaling"),
        Note::Resized { from, to, cap, why } => {
            info!(from, to, cap = optional(*cap), "the container was resized: {why}");
        }
        Note::LessLater { to, cap, wait } => {
            info!(to, cap = optional(*cap), ?wait, "the container was made smaller; that counts when it has held for a while");
        }
        Note::MemorySoft { slot, pid, bytes, cap } => {
            warn!(
                slot = slot.0,
                pid = pid.0,
                bytes,
                cap,
                "worker uses nearly all of its memory (CLUSTERINIT_MEMORY_SOFT) and is to be replaced"
            );
        }
        Note::MemoryCap { slot, pid, bytes, cap } => {
            error!(slot = slot.0, pid = pid.0, bytes, cap, "worker has reached its memory cap (CLUSTERINIT_WORKER_MEMORY)");
        }
        Note::MemoryShort { slot, pid, bytes, share, used, limit, killed } => {
            let (slot, pid) = (slot.0, pid.0);
            if *killed {
                error!(
                    slot,
                    pid,
                    bytes,
                    share,
                    used,
                    limit,
                    "the container runs out of memory: killing the worker farthest above its share"
                );
            } else {
                warn!(
                    slot,
                    pid,
                    bytes,
                    share,
                    used,
                    limit,
                    "the container is short of memory: replacing the worker farthest above its share"
                );
            }
        }
        Note::NobodyAboveShare { used, limit } => {
            warn!(used, limit, "the container is short of memory, but no worker is above its share");
        }
        Note::NeedsMore { slot, pid, bytes, cap } => {
            warn!(
                slot = slot.0,
                pid = pid.0,
                bytes,
                cap,
                "worker needs more memory, soon after its predecessor did: it is not replaced, and killed only at its cap"
            );
        }
        Note::OutOfMemory { slot, pid } => error!(slot = slot.0, pid = pid.0, "the kernel's OOM killer ended the worker"),
        Note::PredecessorFirst { slot } => {
            info!(slot = slot.0, "there is no memory for a successor beside its predecessor: the predecessor is stopped first");
        }
        Note::Refused { reason } => warn!(reason, "refused"),
        Note::StopBegan { drain, grace } => info!(?drain, ?grace, "stopping"),
        Note::DrainEnded => debug!("sending the stop signal"),
        Note::AlreadyStopping => info!("a stop is under way already"),
        Note::KillNow => warn!("killing everything now"),
        Note::Finishing { why: why @ (Finish::NothingLeftToRun | Finish::FirstEnded) } => info!("{}", finish(why)),
        Note::Finishing { why } => error!("{}", finish(why)),
        Note::NamespaceLeft { left } => info!(own = left.own, entered = left.entered, "asking what is left to end"),
        Note::NamespaceKilled { left: Left { own, entered } } => warn!(own, entered, "killing what is left"),
        Note::Abandoned { left, workers } => {
            error!(own = left.own, entered = left.entered, workers, "ending although something hangs in the kernel");
        }
    }
}

pub(super) fn finish(why: &Finish) -> String {
    match why {
        Finish::NothingLeftToRun => "every worker has ended and none is to be started again".to_owned(),
        Finish::FirstEnded => "the first worker ended before the others were started: nothing is retried".to_owned(),
        Finish::GaveUp { failures } => {
            format!("giving up: no worker was ever ready, and every slot failed {failures} times in a row")
        }
        Finish::CannotExecute { why } => format!("cannot execute the command: {why}"),
    }
}

pub(super) fn end(code: u8) {
    info!(code, "clusterinit ends");
}

/// Bytes, or a word where there is no cap.
fn optional(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string())
}

/// Digits that nobody reads are left out.
fn ms(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn word(reason: Reason) -> &'static str {
    reason.name()
}
