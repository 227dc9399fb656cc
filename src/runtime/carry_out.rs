//! Effects become system calls, one after the other, and what must be answered is answered at once.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use tracing::{debug, warn};

use crate::cluster::effect::{Effect, Note};
use crate::cluster::event::{Event, Left};
use crate::cluster::sizing::Share;
use crate::cluster::words::{Life, Pid, Signal, Slot};
use crate::notify::NotifySocket;
use crate::sys::process::{Handed, Started};
use crate::sys::subgroups::Group;
use crate::sys::tree::{self, Member, Strays};
use crate::sys::{process, reap, terminal};

use super::lives::Body;
use super::token::Token;
use super::{Runtime, lines};

/// A tree that forks while it is killed is looked at again, this often at once; after that the core asks again.
const KILL_PASSES: usize = 4;

/// So many names of killed processes make a line; the others are counted.
const NAMES_IN_A_LINE: usize = 12;

/// What a start depends on besides its slot.
struct Turn {
    generation: u32,
    workers: u32,
    share: Share,
}

impl Runtime {
    pub(super) fn carry_out_all(&mut self, effects: Vec<Effect>) {
        let answers: Vec<Event> = effects.into_iter().filter_map(|effect| self.carry_out(effect)).collect();
        for answer in answers {
            self.apply(answer);
        }
    }

    /// The event that answers the effect, where it has one.
    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Spawn { life, slot, generation, workers, share } => {
                return Some(self.spawn(life, slot, Turn { generation, workers, share }));
            }
            Effect::Join { life } => self.join(life),
            Effect::Disconnect { life, hung } => self.disconnect(life, hung),
            Effect::SeekQuiet { life, from, until } => return self.seek_quiet(life, from, until),
            Effect::Refuse => self.refuse_soon(),
            Effect::Part { life } => self.part(life),
            Effect::StopLeader { life } => self.stop_leader(life),
            Effect::StopRest { life } => self.stop_rest(life),
            Effect::KillTree { life } => self.kill_tree(life),
            Effect::Confirm { life } => self.confirm(life),
            Effect::Bound { bytes } => self.memory.bound(bytes),
            Effect::LookAround => {
                self.sweeping = true;
                return Some(Event::NamespaceSeen { left: self.look_around() });
            }
            Effect::AskNamespace => self.ask_namespace(),
            Effect::KillEntered => kill_all(self.others().into_iter().filter(|(_, entered)| *entered)),
            Effect::KillNamespace => self.kill_namespace(),
            Effect::Note(note) => self.note(&note),
            Effect::End { code } => self.end(code),
        }
        None
    }

    fn spawn(&mut self, life: Life, slot: Slot, turn: Turn) -> Event {
        match self.start(life, slot, turn) {
            Ok(pid) => Event::Forked { life, pid },
            Err(error) => Event::ForkRefused { life, why: error.to_string() },
        }
    }

    fn start(&mut self, life: Life, slot: Slot, Turn { generation, workers, share }: Turn) -> io::Result<Pid> {
        let notify = NotifySocket::bind()?;
        self.poller.watch(notify.descriptor(), Token::Messages(life).number())?;
        let slot_text = slot.to_string();
        let mut more = self.hints.variables(share, workers);
        more.extend([
            ("CLUSTERINIT_WORKER_ID", OsString::from(&slot_text)),
            ("CLUSTERINIT_WORKER_COUNT", workers.to_string().into()),
            ("CLUSTERINIT_GENERATION", generation.to_string().into()),
            ("NODE_APP_INSTANCE", slot_text.into()),
            ("NOTIFY_SOCKET", notify.address().into()),
        ]);
        let channel = self.nodes.open()?;
        let (ours, theirs) = channel.unzip();
        if let Some(number) = self.launch.channel_number().filter(|_| theirs.is_some()) {
            let before = self.launch.value("NODE_OPTIONS");
            self.nodes.variables(life, number, &mut more, &before);
        }
        let group = self.memory.group(life, share.memory)?;
        let started = match self.start_with_listeners(life, slot, &more, group.as_ref(), theirs.as_ref()) {
            Ok(started) => started,
            Err(error) => {
                self.memory.forget(life, group);
                self.output.forget(&self.poller, life);
                return Err(error);
            }
        };
        // Where it cannot be watched it is read when the leader ends, and the worker counts as executed until then.
        let watched = self.poller.watch(&started.outcome, Token::Outcome(life).number()).is_ok();
        let entry = format!("NOTIFY_SOCKET={}", notify.address()).into_bytes();
        let outcome = Some(started.outcome);
        let pid = started.pid;
        let body = Body {
            slot,
            pid,
            notify,
            entry,
            group,
            outcome,
            executed: !watched,
            calls: None,
            leader_gone: false,
            strangers_notify: false,
        };
        self.lives.insert(life, body);
        if let Some(ours) = ours {
            self.channel_opened(life, slot, ours);
        }
        Ok(pid)
    }

    /// What `LISTEN` asks for is this life's before its process exists.
    fn start_with_listeners(
        &mut self,
        life: Life,
        slot: Slot,
        more: &[(&str, OsString)],
        group: Option<&Group>,
        channel: Option<&OwnedFd>,
    ) -> io::Result<Started> {
        let output = self.output.open(&self.poller, life, slot)?;
        let handed = self.sharing.hand_out(life, slot)?;
        let descriptors: Vec<BorrowedFd<'_>> = handed.iter().filter_map(|handed| self.sharing.descriptor(*handed)).collect();
        let (channel, output) = (channel.map(AsFd::as_fd), output.each_ref().map(|end| end.as_ref().map(AsFd::as_fd)));
        let group = group.map(Group::entrance);
        let started = self.launch.start(more, Handed { listeners: &descriptors, channel, output, group });
        match &started {
            Ok(_) => self.handed_out(life, &handed),
            Err(_) => self.release_ports(life),
        }
        started
    }

    fn stop_leader(&mut self, life: Life) {
        self.release_channel(life);
        let Some(body) = self.lives.get(life).filter(|body| !body.leader_gone) else { return };
        // A stopped process keeps any other signal pending until it goes on.
        for signal in [self.stop_signal, Signal::CONT] {
            if let Err(error) = process::signal(body.pid, signal) {
                warn!(slot = body.slot.0, pid = body.pid.0, %signal, %error, "the worker cannot be signalled: clusterinit lacks the permission (CAP_KILL)");
            }
        }
    }

    fn stop_rest(&mut self, life: Life) {
        for member in self.members(life) {
            debug!(pid = member.pid.0, name = member.name, signal = %self.stop_signal, "asking what a worker left behind to end");
            member.signal(self.stop_signal);
            member.signal(Signal::CONT);
        }
    }

    fn kill_tree(&mut self, life: Life) {
        let Some(Body { slot, pid, leader_gone, .. }) = self.lives.get(life) else { return };
        let (slot, pid, leader_gone) = (slot.0, *pid, *leader_gone);
        let (mut tried, mut killed): (Vec<Member>, Vec<Member>) = Default::default();
        for _ in 0..KILL_PASSES {
            let new: Vec<Member> = self.members(life).into_iter().filter(|member| !tried.contains(member)).collect();
            if new.is_empty() {
                break;
            }
            killed.extend(new.iter().filter(|member| member.signal(Signal::KILL)).cloned());
            tried.extend(new);
        }
        if let Some(Err(error)) = self.lives.get(life).and_then(|body| body.group.as_ref()).map(Group::kill) {
            debug!(slot, %error, "the worker's cgroup cannot be killed as one");
        }
        if !leader_gone {
            // In one step of the kernel, which nothing that forks can outrun; the leader holds the group's number.
            process::signal_group(pid, Signal::KILL);
            if let Err(error) = process::signal(pid, Signal::KILL) {
                warn!(slot, pid = pid.0, %error, "the worker cannot be killed: clusterinit lacks the permission (CAP_KILL)");
            }
        }
        if !killed.is_empty() {
            warn!(slot, processes = names(&killed), "killed what belonged to the worker");
        }
    }

    /// The living members of a life's tree, without its leader.
    pub(super) fn members(&mut self, life: Life) -> Vec<Member> {
        let strays = self.strays_now();
        self.lives.get(life).map_or_else(Vec::new, |body| body.members(&strays, &self.known_strays))
    }

    pub(super) fn strays_now(&mut self) -> Strays {
        Strays::look_now(&mut self.known_strays, |pid| self.lives.is_leader(pid))
    }

    // === what is no worker's ===

    /// All others that are ours to end, and whether they entered from outside.
    fn others(&self) -> Vec<(Member, bool)> {
        if self.owns_namespace {
            tree::namespace()
        } else {
            tree::descendants().into_iter().map(|member| (member, false)).collect()
        }
    }

    pub(super) fn look_around(&self) -> Left {
        let others = self.others();
        let entered = others.iter().filter(|(_, entered)| *entered).count();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        // What `/proc` does not show (none is mounted, hidepid, no descriptor to read it with) must not be left behind unasked.
        let unseen = others.is_empty() && reap::only_living_children();
        Left { own: count(others.len() - entered) + u32::from(unseen), entered: count(entered) }
    }

    fn ask_namespace(&self) {
        let others = self.others();
        if others.is_empty() {
            process::signal_namespace(Signal::TERM);
            process::signal_namespace(Signal::CONT);
        }
        for (member, entered) in others {
            // A shell that somebody entered with ends on HUP, not on TERM.
            let second = if entered { Signal::HUP } else { Signal::CONT };
            member.signal(Signal::TERM);
            member.signal(second);
        }
    }

    fn kill_namespace(&self) {
        kill_all(self.others().into_iter());
        // In one step of the kernel, which nothing that forks can outrun.
        if self.owns_namespace {
            process::signal_namespace(Signal::KILL);
        }
    }

    // === telling ===

    fn note(&mut self, note: &Note) {
        match note {
            Note::Refused { reason } => self.refusal = Some(reason.clone()),
            Note::Finishing { why } => self.last_words = Some(lines::finish(why)),
            Note::Ended { slot, status, .. } if self.last_words.is_none() && status.as_code() != 0 => {
                self.last_words = Some(format!("the worker of slot {slot} ended: {status}"));
            }
            _ => {}
        }
        lines::log(note);
    }

    fn end(&mut self, code: u8) {
        lines::end(code);
        self.exit = Some(code);
        if self.launch.takes_terminal() {
            terminal::take_back();
        }
        if code != 0
            && let Some(reason) = &self.last_words
        {
            write_termination_log(&self.termination_log, &format!("clusterinit: exit status {code}: {reason}\n"));
        }
    }
}

/// Only a file that exists: the platform makes it, we make none. Never waits, whatever kind of file it is.
pub(crate) fn write_termination_log(path: &std::path::Path, text: &str) {
    let opened = OpenOptions::new().write(true).truncate(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    if let Ok(mut file) = opened
        && let Err(error) = file.write_all(text.as_bytes())
    {
        warn!(path = %path.display(), %error, "the termination log cannot be written");
    }
}

fn kill_all(others: impl Iterator<Item = (Member, bool)>) {
    let killed: Vec<Member> = others.map(|(member, _)| member).filter(|member| member.signal(Signal::KILL)).collect();
    if !killed.is_empty() {
        warn!(processes = names(&killed), "killed what was left");
    }
}

/// `sh (12), sleep (13) and 4 more`
fn names(members: &[Member]) -> String {
    let shown: Vec<String> =
        members.iter().take(NAMES_IN_A_LINE).map(|member| format!("{} ({})", member.name, member.pid)).collect();
    let more = members.len().saturating_sub(NAMES_IN_A_LINE);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
