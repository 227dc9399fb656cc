//! The core's notes as log lines: one per transition, with the same field names everywhere.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::cluster::effect::{Finish, Note};
use crate::cluster::event::Left;
use crate::cluster::status::Reason;

pub(super) fn log(note: &Note) {
    match note {
        Note::Started { slot, pid, generation } => info!(slot = slot.0, pid = pid.0, generation, "worker started"),
        Note::ForkRefused { slot, why, retry_in: Some(wait) } => {
            error!(slot = slot.0, why, retry_in = ?ms(*wait), "no worker could be started; the living ones go on");
        }
        Note::ForkRefused { slot, why, retry_in: None } => error!(slot = slot.0, why, "no successor could be started"),
        Note::ExecFailed { slot, why } => error!(slot = slot.0, why, "the command could not be executed"),
        Note::Ready { slot, pid, after } => info!(slot = slot.0, pid = pid.0, after = ?ms(*after), "worker ready"),
        Note::Says { slot, text } => debug!(slot = slot.0, text, "worker says"),
        Note::AnnouncedStop { slot, pid } => info!(slot = slot.0, pid = pid.0, "worker says that it is stopping"),
        Note::Hung { slot, pid } => warn!(slot = slot.0, pid = pid.0, "worker missed its watchdog and is to be replaced"),
        Note::Recovered { slot, pid } => info!(slot = slot.0, pid = pid.0, "worker is alive again"),
        Note::NotReadyInTime { slot, pid, waited } => {
            error!(slot = slot.0, pid = pid.0, waited = ?ms(*waited), "worker was not ready in time (CLUSTERINIT_START_TIMEOUT)");
        }
        Note::Stopping { slot, pid, reason } => info!(slot = slot.0, pid = pid.0, reason = word(*reason), "stopping worker"),
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

/// Digits that nobody reads are left out.
fn ms(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Exit => "exit",
        Reason::Crash => "crash",
        Reason::Hung => "hung",
        Reason::StartTimeout => "start-timeout",
        Reason::Reload => "reload",
        Reason::Lifetime => "lifetime",
        Reason::Scale => "scale",
        Reason::Stop => "stop",
    }
}
