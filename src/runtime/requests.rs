//! What people and platforms ask for: by signal, or over the control socket.

use tracing::{info, warn};

use crate::cluster::event::{Event, Request};
use crate::cluster::words::{Pid, Signal};
use crate::config::SignalAction;
use crate::control::{Asked, Demand};
use crate::sys::signals::{CHLD, Received};
use crate::sys::{listening, process, procfs};

use super::Runtime;
use super::lives::Body;

/// Signals whose default action neither ends nor stops anybody: sent to workers as they come (`man 7 signal`).
const HARMLESS: [i32; 3] = [libc::SIGCONT, libc::SIGWINCH, libc::SIGURG];

impl Runtime {
    pub(super) fn received(&mut self, received: Received) {
        let Received { signal, sender, .. } = received;
        let own = Pid(i32::try_from(std::process::id()).unwrap_or(0));
        // A write to a closed pipe raises PIPE at ourselves; a child's end is found by reaping, which follows every wake.
        if signal == CHLD || sender == own {
            return;
        }
        // At most one entry for each of 64 numbers.
        let count = self.received.entry(signal).or_default();
        *count = count.saturating_add(1);
        self.stale = true;
        match self.actions.get(&signal).copied().unwrap_or(SignalAction::Forward) {
            SignalAction::Stop => {
                let interrupt = matches!(signal, Signal::INT | Signal::QUIT);
                let listening = self.something_listens();
                self.asked_by_signal(received, "stop", Request::Stop { interrupt, listening });
            }
            SignalAction::Now => self.asked_by_signal(received, "kill now", Request::StopNow),
            SignalAction::Reload => self.asked_by_signal(received, "reload", Request::Reload),
            SignalAction::More => self.asked_by_signal(received, "one worker more", Request::More),
            SignalAction::Fewer => self.asked_by_signal(received, "one worker fewer", Request::Fewer),
            SignalAction::Forward => self.forward(received),
            SignalAction::Send(other) => self.send_to_all(received, other),
            SignalAction::Ignore => {}
        }
    }

    fn asked_by_signal(&mut self, received: Received, what: &str, request: Request) {
        let Received { signal, sender, uid } = received;
        info!(%signal, sender = sender.0, uid, "{what} asked for");
        self.apply(Event::Asked(request));
    }

    /// To each leader that catches or ignores it: behind an init a server has lost PID 1's immunity, and a default action would
    /// end it.
    fn forward(&mut self, received: Received) {
        let Received { signal, sender, uid } = received;
        let mut reached = 0_usize;
        for body in self.lives.running() {
            let takes_it = procfs::dispositions(body.pid).is_some_and(|dispositions| !dispositions.is_default(signal));
            if takes_it || HARMLESS.contains(&signal.0) {
                deliver(body.pid, signal);
                reached += 1;
            }
        }
        if reached > 0 {
            info!(%signal, sender = sender.0, uid, workers = reached, "forwarded");
        } else if signal == Signal::HUP && !self.actions.contains_key(&signal) {
            self.asked_by_signal(received, "reload (no worker takes the signal itself)", Request::Reload);
        } else {
            info!(%signal, sender = sender.0, uid, "not forwarded: no worker catches or ignores it, and its default would end them");
        }
    }

    /// `SIGNALS=INT=QUIT`: the user wants it sent, so it is sent.
    fn send_to_all(&self, received: Received, other: Signal) {
        let Received { signal, sender, uid } = received;
        let mut reached = 0_usize;
        for body in self.lives.running() {
            deliver(body.pid, other);
            reached += 1;
        }
        info!(%signal, sender = sender.0, uid, sent = %other, workers = reached, "translated");
    }

    pub(super) fn asked(&mut self, asked: Asked) {
        let Asked { demand, by, reply } = asked;
        let request = match demand {
            Demand::Cluster(Request::Stop { interrupt, .. }) => Request::Stop { interrupt, listening: self.something_listens() },
            Demand::Cluster(other) => other,
            Demand::Send(whom, json) => {
                info!(sender = by.pid.0, uid = by.uid, ?whom, "a message for workers came on the control socket");
                // Whoever does not wait for the answer does not need it.
                let _ = reply.send(self.said_by_person(whom, &json));
                return;
            }
        };
        info!(sender = by.pid.0, uid = by.uid, ?request, "asked for on the control socket");
        self.refusal = None;
        self.apply(Event::Asked(request));
        let answer = match self.refusal.take() {
            Some(reason) => Err(reason),
            None => Ok(describe(request)),
        };
        // Whoever does not wait for the answer does not need it.
        let _ = reply.send(answer);
    }

    /// Load balancers have to be given time only where somebody connects. The listener may be a child's (`sh -c`, a forking server).
    fn something_listens(&mut self) -> bool {
        if self.launch.has_listeners() {
            return true;
        }
        let strays = self.strays_now();
        let tree =
            |body: &Body| strays.members(body.mark(), &self.known_strays).into_iter().map(|member| member.pid).chain([body.pid]);
        listening::any_listens(self.lives.running().flat_map(tree))
    }
}

fn deliver(pid: Pid, signal: Signal) {
    if let Err(error) = process::signal(pid, signal) {
        warn!(pid = pid.0, %signal, %error, "the worker cannot be signalled");
    }
}

fn describe(request: Request) -> String {
    match request {
        Request::Stop { .. } | Request::StopNow => "stopping".to_owned(),
        Request::Reload => "rolling restart; /workers shows how it goes".to_owned(),
        Request::More | Request::Fewer => "scaling".to_owned(),
        Request::Scale(workers) => format!("scaling to {workers}"),
        Request::Restart(slot) => format!("restarting slot {slot}"),
    }
}
