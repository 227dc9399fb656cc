//! Node's protocol in the loop: workers' channels read and written, their questions answered, their programs' messages handed on.
//!
//! | file | what |
//! |---|---|
//! | this one | which channels there are; what is heard on them |
//! | `listening.rs` | `queryServer`, `close`, round robin |
//! | `talking.rs` | messages of programs and of people |
//! | `leaving.rs` | drained, asked to disconnect; hearts that have stopped |
//! | `asking.rs` | prom-client's metrics of all workers |

mod asking;
mod leaving;
mod listening;
mod talking;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::cluster::event::{Event, Notice};
use crate::cluster::status::{self, ChannelState};
use crate::cluster::words::{ExitStatus, Life, Slot, Time};
use crate::node::channel::{Channel, Heard, pair};
use crate::node::message::{self, Incoming};
use crate::node::servers::{At, Kind, Servers};
use crate::plan::sharing::Node as Terms;
use crate::telemetry::Sink;

use super::Runtime;
use super::token::Token;
use asking::Collection;
use leaving::Due;

/// While somebody looks: event-loop lag is shown as of the last heartbeat.
const BEAT: Duration = Duration::from_secs(5);
/// Parts of 64 KiB that are read of one worker before everybody else gets a turn.
const PARTS_PER_READ: usize = 4;
/// What is said once of each kind, of one worker.
const MOST_REMARKS: usize = 32;
/// Scripts that start node themselves, and keep the channel from it.
const WRAPPERS: [&str; 5] = ["npm", "npx", "yarn", "pnpm", "corepack"];
/// node: an option that is not allowed in `NODE_OPTIONS`.
const BAD_OPTION: ExitStatus = ExitStatus::Code(9);
/// Bytes of the buffer that all channels are read into.
const BUFFER: usize = 64 * 1024;

/// All channels.
pub(super) struct Nodes {
    /// `None`: the protocol is not spoken.
    terms: Option<Terms>,
    /// Ports are shared without it too.
    seccomp: bool,
    peers: BTreeMap<Life, Peer>,
    servers: Servers,
    /// Keys of listeners that are ours, by their number for the poller; `None`: the number is free.
    rotated: Vec<Option<String>>,
    seq: u64,
    preload: String,
    /// This Node refuses the preload.
    refused: bool,
    beat_every: Duration,
    /// `HANG_TIMEOUT`: hearts are listened to though nobody looks.
    always_beats: bool,
    /// Somebody has looked lately.
    watched_until: Time,
    next_beat: Option<Time>,
    /// Workers that are to be asked to disconnect when their queues are empty, at the latest then; and when that is looked at again.
    to_part: BTreeMap<Life, Due>,
    part_at: Option<Time>,
    buffer: Vec<u8>,
    stdout: Sink,
    collection: Option<Collection>,
}

/// One worker's channel and what is known by it.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Peer {
    channel: Channel,
    slot: Slot,
    state: ChannelState,
    /// It has said so, whatever has become of its channel since.
    was_online: bool,
    /// It was started with the preload.
    was_offered: bool,
    is_preloaded: bool,
    /// Its version; 0: not known.
    major: u32,
    /// The program handles the stop signal by itself, as it was when the worker was set to draining.
    handles_stop: bool,
    /// It is on its way out: what it closes, its successor opens.
    is_draining: bool,
    asked_to_disconnect: bool,
    /// Since when a heartbeat is unanswered, and whether the core knows.
    beat: Option<(Time, bool)>,
    lag: Option<Duration>,
    said: BTreeSet<String>,
    /// What the poller watches it for.
    interest: (bool, bool),
}

impl Nodes {
    pub(super) fn new(terms: Option<Terms>, seccomp: bool, hang_timeout: Option<Duration>) -> Self {
        Self {
            terms,
            seccomp,
            peers: BTreeMap::new(),
            servers: Servers::default(),
            rotated: Vec::new(),
            seq: 0,
            preload: terms.filter(|terms| terms.preload).map(|_| crate::node::preload()).unwrap_or_default(),
            refused: false,
            beat_every: hang_timeout.map_or(BEAT, |timeout| BEAT.min(timeout / 4).max(Duration::from_millis(10))),
            always_beats: hang_timeout.is_some(),
            watched_until: Time::default(),
            next_beat: None,
            to_part: BTreeMap::new(),
            part_at: None,
            buffer: Vec::new(),
            stdout: Sink::open(1),
            collection: None,
        }
    }

    /// A channel for a worker that is about to start: our end and its.
    pub(super) fn open(&self) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        self.terms.is_some().then(pair).transpose()
    }

    /// What tells the worker of its channel.
    pub(super) fn variables(&self, life: Life, number: RawFd, variables: &mut Vec<(&'static str, OsString)>, before: &OsString) {
        variables.extend([
            ("NODE_CHANNEL_FD", number.to_string().into()),
            ("NODE_CHANNEL_SERIALIZATION_MODE", "json".into()),
            ("NODE_UNIQUE_ID", unique_id(life).to_string().into()),
        ]);
        if !self.preloads() {
            return;
        }
        let options = variables.iter_mut().find(|(name, _)| *name == "NODE_OPTIONS");
        if let Some((_, options)) = options {
            append(options, &self.preload);
        } else {
            let mut options = before.clone();
            append(&mut options, &self.preload);
            variables.push(("NODE_OPTIONS", options));
        }
    }

    fn preloads(&self) -> bool {
        !self.preload.is_empty() && !self.refused
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let due = super::earliest(self.next_beat, self.collection.as_ref().map(Collection::due));
        super::earliest(due, self.part_at)
    }

    /// What workers share by their channels alone, for the side port. (Lanes are the broker's to tell.)
    pub(super) fn listeners(&self) -> impl Iterator<Item = status::Listener> {
        self.servers.iter().filter_map(|(_, server)| {
            let (address, disconnects) = match &server.kind {
                Kind::Lanes(_) => return None,
                Kind::Rotated { at: At::Address(address), .. } => (address.to_string(), true),
                Kind::Rotated { at: At::Path(path), .. } => (format!("unix:{}", path.display()), true),
                Kind::Stream { path, .. } => (format!("unix:{}", path.display()), false),
                Kind::Datagram(socket) => {
                    let at = socket2::SockRef::from(&**socket).local_addr().ok().and_then(|at| at.as_socket());
                    (format!("udp:{}", at.map_or_else(|| "?".to_owned(), |at| at.to_string())), false)
                }
            };
            Some(status::Listener { address, worker: None, disconnects })
        })
    }

    /// Whose connections come from which listener of ours: its inode and port.
    pub(super) fn rotated_to(&self) -> impl Iterator<Item = (Life, (u64, u16))> {
        self.servers.iter().flat_map(|(_, server)| {
            let listener = match &server.kind {
                Kind::Rotated { at: At::Address(at), inode, .. } => Some((*inode, at.port())),
                Kind::Rotated { .. } | Kind::Lanes(_) | Kind::Stream { .. } | Kind::Datagram(_) => None,
            };
            listener.into_iter().flat_map(|listener| server.holders.iter().map(move |life| (*life, listener)))
        })
    }

    /// What the side port shows of each.
    pub(super) fn show(&self) -> BTreeMap<Life, status::Channel> {
        let channel = |peer: &Peer| status::Channel { state: peer.state, lag: peer.lag, unanswered: peer.beat.map(|(at, _)| at) };
        self.peers.iter().map(|(life, peer)| (*life, channel(peer))).collect()
    }
}

/// As Node's own primary has it: from 1 on, never given again.
fn unique_id(life: Life) -> u64 {
    life.0 + 1
}

fn append(options: &mut OsString, word: &str) {
    if !options.is_empty() {
        options.push(" ");
    }
    options.push(word);
}

impl Runtime {
    /// The worker has been forked with the other end.
    pub(super) fn channel_opened(&mut self, life: Life, slot: Slot, ours: OwnedFd) {
        let peer = Peer {
            channel: Channel::new(ours),
            slot,
            state: ChannelState::Open,
            was_online: false,
            was_offered: self.nodes.preloads(),
            is_preloaded: false,
            major: 0,
            handles_stop: false,
            is_draining: false,
            asked_to_disconnect: false,
            beat: None,
            lag: None,
            said: BTreeSet::new(),
            interest: (true, false),
        };
        if let Err(error) = self.poller.watch(peer.channel.descriptor(), Token::Channel(life).number()) {
            warn!(slot = slot.0, %error, "the worker's channel cannot be watched: node waits for answers that do not come");
        }
        self.nodes.peers.insert(life, peer);
        if self.nodes.always_beats {
            self.nodes.next_beat.get_or_insert(self.clock.now() + self.nodes.beat_every);
        }
    }

    /// How many parts were read.
    pub(super) fn read_channel(&mut self, life: Life) -> usize {
        let mut read = 0;
        while read < PARTS_PER_READ {
            let buffer = &mut self.nodes.buffer;
            buffer.resize(BUFFER, 0);
            let Some(peer) = self.nodes.peers.get_mut(&life).filter(|peer| peer.channel.wants_to_read()) else { break };
            let heard = peer.channel.read(buffer);
            if heard.is_none() {
                break;
            }
            read += 1;
            for heard in heard.into_iter().flatten() {
                self.hear_node(life, heard);
            }
        }
        self.tend(life);
        // Also where it was ready to be written only.
        read.max(1)
    }

    /// What was heard of a worker's end, and what becomes of its channel, when its leader has ended.
    pub(super) fn channel_lost(&mut self, life: Life, status: ExitStatus) {
        while self.nodes.peers.get(&life).is_some_and(|peer| !peer.channel.is_closed()) && self.read_channel(life) > 1 {}
        let Some(peer) = self.nodes.peers.get(&life) else { return };
        let in_vain = status == BAD_OPTION && peer.was_offered && !peer.was_online;
        if in_vain && !self.nodes.peers.values().any(|peer| peer.is_preloaded) {
            if !std::mem::replace(&mut self.nodes.refused, true) {
                info!("this version of node takes no --import in NODE_OPTIONS: workers are started without the preload");
            }
            self.apply(Event::StartedInVain { life });
        }
    }

    /// Nothing is left of the worker.
    pub(super) fn channel_gone(&mut self, life: Life) {
        self.nodes.to_part.remove(&life);
        if let Some(peer) = self.nodes.peers.remove(&life) {
            self.poller.forget(peer.channel.descriptor());
            if peer.was_online {
                info!(slot = peer.slot.0, worker_id = unique_id(life), "node: exit");
            }
        }
        self.release_servers(life);
        self.collected(life, None);
        if self.nodes.peers.is_empty() {
            self.nodes.next_beat = None;
        }
    }

    /// Writes what there is to be written, and watches for what matters next.
    pub(super) fn tend(&mut self, life: Life) {
        let Some(peer) = self.nodes.peers.get_mut(&life) else { return };
        peer.channel.write();
        if peer.channel.is_closed() {
            if peer.state != ChannelState::Disconnected {
                let was_open = std::mem::replace(&mut peer.state, ChannelState::Disconnected) == ChannelState::Open;
                peer.beat = None;
                self.poller.forget(peer.channel.descriptor());
                if !was_open {
                    info!(slot = peer.slot.0, worker_id = unique_id(life), "node: disconnect");
                }
                self.stale = true;
                self.lose_connections(life);
                self.collected(life, None);
                self.apply(Event::Unanswered { life, since: None });
                self.apply(Event::Parted { life });
            }
            return;
        }
        let wanted = (peer.channel.wants_to_read(), peer.channel.wants_to_write());
        if wanted != peer.interest {
            let (reads, writes) = wanted;
            match self.poller.watch_for(peer.channel.descriptor(), Token::Channel(life).number(), reads, writes) {
                Ok(()) => peer.interest = wanted,
                Err(error) => warn!(slot = peer.slot.0, %error, "the worker's channel cannot be watched"),
            }
        }
    }

    fn hear_node(&mut self, life: Life, heard: Heard) {
        match heard {
            Heard::Message(incoming) => self.understand(life, incoming),
            Heard::Alive => self.heart_beats(life),
            Heard::TooLong => {
                self.remark(life, "long", "a message of more than 1 MiB on the worker's channel was dropped");
            }
            Heard::Refused => {
                self.remark(life, "refused", "the worker could not take a descriptor: it has no room for more (RLIMIT_NOFILE)");
            }
        }
    }

    fn understand(&mut self, life: Life, incoming: Incoming) {
        let Some(peer) = self.nodes.peers.get_mut(&life) else { return };
        match incoming {
            Incoming::Online => {
                if peer.state == ChannelState::Open {
                    peer.state = ChannelState::Online;
                    peer.was_online = true;
                    info!(slot = peer.slot.0, worker_id = unique_id(life), "node: online");
                    self.stale = true;
                }
            }
            Incoming::Preloaded { script, major } => {
                peer.is_preloaded = true;
                peer.major = major;
                // `npm`, `npm-cli.js`, `pnpm.cjs`
                if let Some(name) = script.split(['-', '.']).next().filter(|name| WRAPPERS.contains(name)) {
                    self.is_wrapped(life, name);
                }
            }
            Incoming::Draining { handles } => {
                let stop = self.stop_signal.name();
                peer.handles_stop = handles.iter().any(|name| name.strip_prefix("SIG") == Some(&stop));
                self.drained(life);
            }
            Incoming::Query { seq, query } => self.answer_query(life, seq, *query),
            Incoming::Listening => self.node_listens(life),
            Incoming::Close { key } => self.node_closed(life, &key),
            Incoming::Leaving { seq } => {
                let answer = message::acknowledge(seq, self.nodes.next_seq());
                self.owe(life, answer);
                self.apply(Event::Notified { life, notice: Notice::Stopping });
            }
            Incoming::Accepted { ack, accepted } => self.connection_answered(life, ack, accepted),
            Incoming::User(message) => self.said(life, &message),
            Incoming::Handle => debug!(?life, "a descriptor that the worker has sent was closed: nobody here has a use for it"),
            Incoming::Internal(cmd) => debug!(?life, cmd, "a message of node's own that means nothing to us"),
            // Only the channel has these.
            Incoming::HandleAck | Incoming::HandleNack => {}
            Incoming::Garbage => self.remark(life, "garbage", "a line on the worker's channel is no message and was dropped"),
        }
    }

    fn is_wrapped(&mut self, life: Life, name: &str) {
        let text = format!(
            "{name} keeps Node's channel to itself, so nothing is heard of what its program is listening on: write node SCRIPT in \
             place of {name}{}",
            if self.nodes.seccomp { "; until then its ports are shared as any program's" } else { "; its ports are not shared" }
        );
        self.remark(life, "wrapper", &text);
    }

    fn owe(&mut self, life: Life, text: String) {
        if let Some(peer) = self.nodes.peers.get_mut(&life) {
            peer.channel.owe(text);
        }
    }

    /// Said once of each worker and kind; then it is a debug line.
    fn remark(&mut self, life: Life, kind: &str, text: &str) {
        let Some(peer) = self.nodes.peers.get_mut(&life) else { return };
        let slot = peer.slot.0;
        if peer.said.len() < MOST_REMARKS && peer.said.insert(kind.to_owned()) {
            warn!(slot, "{text}");
        } else {
            debug!(slot, "{text}");
        }
    }
}
