//! prom-client's metrics of all workers: one request to each, and whoever does not answer in time is left out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tracing::debug;

use crate::cluster::status::ChannelState;
use crate::cluster::words::{Life, Time};
use crate::node::metrics;

use super::super::Runtime;

/// A mute worker must not spoil what the others say.
const PATIENCE: Duration = Duration::from_millis(200);

/// Answers that are being waited for.
pub(super) struct Collection {
    request: u64,
    awaited: BTreeSet<Life>,
    replies: Vec<Value>,
    due: Time,
    askers: Vec<oneshot::Sender<String>>,
}

impl Collection {
    pub(super) fn due(&self) -> Time {
        self.due
    }
}

impl Runtime {
    /// Somebody wants to know; whoever asks meanwhile gets the same answer.
    pub(in super::super) fn metrics_asked(&mut self, reply: oneshot::Sender<String>) {
        if let Some(collection) = &mut self.nodes.collection {
            collection.askers.push(reply);
            return;
        }
        let request = self.nodes.next_seq();
        let text = format!("{{\"type\":\"prom-client:getMetricsReq\",\"requestId\":{request}}}\n");
        let mut awaited = BTreeSet::new();
        for (life, peer) in &mut self.nodes.peers {
            let hears = matches!(peer.state, ChannelState::Online | ChannelState::Listening);
            if hears && peer.beat.is_none_or(|(_, told)| !told) && peer.channel.offer(text.clone()) {
                awaited.insert(*life);
            }
        }
        let due = self.clock.now() + PATIENCE;
        let lives: Vec<Life> = awaited.iter().copied().collect();
        self.nodes.collection = Some(Collection { request, awaited, replies: Vec::new(), due, askers: vec![reply] });
        for life in lives {
            self.tend(life);
        }
        self.finish_collection(false);
    }

    /// One has answered.
    pub(super) fn collect(&mut self, life: Life, request: u64, metrics: &RawValue) {
        if self.nodes.collection.as_ref().is_some_and(|collection| collection.request == request) {
            self.collected(life, serde_json::from_str(metrics.get()).ok());
        }
    }

    /// `None`: it will not.
    pub(super) fn collected(&mut self, life: Life, reply: Option<Value>) {
        if let Some(collection) = &mut self.nodes.collection
            && collection.awaited.remove(&life)
        {
            collection.replies.extend(reply);
            self.finish_collection(false);
        }
    }

    pub(super) fn collection_due(&mut self, now: Time) {
        if self.nodes.collection.as_ref().is_some_and(|collection| collection.due <= now) {
            self.finish_collection(true);
        }
    }

    fn finish_collection(&mut self, over: bool) {
        let Some(collection) = self.nodes.collection.take_if(|collection| over || collection.awaited.is_empty()) else { return };
        let merged = metrics::merge(&collection.replies);
        if merged.skipped > 0 || !collection.awaited.is_empty() {
            debug!(skipped = merged.skipped, mute = collection.awaited.len(), "metrics of workers are not whole");
        }
        for asker in collection.askers {
            // Whoever does not wait any more does not need it.
            let _ = asker.send(merged.text.clone());
        }
    }
}
