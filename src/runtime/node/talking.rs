//! What programs say to each other, and what people say to them.

use serde_json::value::RawValue;
use tracing::debug;

use crate::cluster::event::{Event, Notice};
use crate::cluster::status::ChannelState;
use crate::cluster::words::{Life, Slot};
use crate::control::Whom as Addressee;
use crate::node::message;
use crate::node::routing::{self, Route, Whom};

use super::super::Runtime;

impl Runtime {
    pub(super) fn said(&mut self, life: Life, message: &RawValue) {
        match routing::route(message) {
            Route::Ready => self.apply(Event::Notified { life, notice: Notice::Ready }),
            Route::To(whom, data) => self.hand_on(life, whom, &data),
            Route::Nobody(whom) => {
                let text = format!("a message to {whom:?} was dropped: allowed: \"all\", \"others\" or the number of a slot");
                self.remark(life, "nobody", &text);
            }
            Route::Log(text) => self.written_for(life, &text),
            Route::Metrics { request, metrics } => self.collect(life, request, &metrics),
            Route::Unknown(name) => {
                let text = format!(
                    "a message that only a primary of the program's own would understand was dropped: {name}; other workers are \
                     reached by process.send({{clusterinit: {{to: 'all' | 'others' | SLOT}}, data}})"
                );
                self.remark(life, &name, &text);
            }
        }
    }

    /// What a program leaves to its primary to write goes where all that it writes goes.
    fn written_for(&mut self, life: Life, text: &str) {
        let Some(slot) = self.nodes.peers.get(&life).map(|peer| peer.slot) else { return };
        if !self.output.say(&self.poller, slot, text) {
            self.nodes.stdout.say(text);
        }
    }

    fn hand_on(&mut self, from: Life, whom: Whom, data: &RawValue) {
        let Some(slot) = self.nodes.peers.get(&from).map(|peer| peer.slot) else { return };
        let text = message::from_worker(slot.0, data);
        let to: Vec<Life> = match whom {
            Whom::All => self.listeners(None),
            Whom::Others => self.listeners(None).into_iter().filter(|life| *life != from).collect(),
            Whom::Slot(slot) => self.listeners(Some(Slot(slot))),
        };
        if to.is_empty() && whom != Whom::Others {
            self.remark(from, "nobody", "a message to a slot that has no worker was dropped");
        }
        self.send_to(&to, &text);
    }

    /// What a person says, as it is. The error says why it reached nobody.
    pub(in super::super) fn said_by_person(&mut self, whom: Addressee, json: &str) -> Result<String, String> {
        if self.nodes.terms.is_none() {
            return Err("workers do not speak Node's cluster protocol here (CLUSTERINIT_NODE_IPC)".to_owned());
        }
        let Some(text) = message::from_person(json) else {
            return Err("the message is no JSON, or one that Node takes for its own".to_owned());
        };
        let to = match whom {
            Addressee::All => self.listeners(None),
            Addressee::Slot(slot) => self.listeners(Some(slot)),
        };
        match self.send_to(&to, &text) {
            0 => Err(match whom {
                Addressee::All => "no worker with a channel is there".to_owned(),
                Addressee::Slot(slot) => format!("slot {slot} has no worker with a channel"),
            }),
            1 => Ok("sent to 1 worker".to_owned()),
            reached => Ok(format!("sent to {reached} workers")),
        }
    }

    /// Whose programs can hear us.
    fn listeners(&self, slot: Option<Slot>) -> Vec<Life> {
        let hears = |state| matches!(state, ChannelState::Online | ChannelState::Listening);
        let peers = self.nodes.peers.iter().filter(|(_, peer)| hears(peer.state) && slot.is_none_or(|slot| slot == peer.slot));
        peers.map(|(life, _)| *life).collect()
    }

    /// How many it was sent to.
    fn send_to(&mut self, to: &[Life], text: &str) -> usize {
        let mut reached = 0;
        for life in to {
            let Some(peer) = self.nodes.peers.get_mut(life) else { continue };
            if peer.channel.offer(text.to_owned()) {
                reached += 1;
            } else {
                debug!(slot = peer.slot.0, "the worker does not read its messages");
                self.remark(
                    *life,
                    "deaf",
                    "the worker does not read its messages: those that come for it are dropped until it does",
                );
            }
            self.tend(*life);
        }
        reached
    }
}
