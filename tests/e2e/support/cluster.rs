//! The handle of a running clusterinit.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::launch::search_path;
use super::wait::holds_within;
use super::{DEADLINE, Launch, Mode, Reply, Sink, Stopwatch, enter_flags, http, output_of, procs};

/// How long a condition may still come true after clusterinit has ended.
const AFTERMATH: Duration = Duration::from_secs(10);

type Text = Arc<Mutex<Vec<u8>>>;

pub(crate) struct Cluster {
    child: RefCell<Child>,
    /// clusterinit itself, as our PID namespace numbers it.
    init: i32,
    launch: Launch,
    stdout: Text,
    stderr: Text,
    /// Kept open, never read, where a test wants a pipe that nobody reads.
    _unread: Vec<Box<dyn Send>>,
    status: Cell<Option<ExitStatus>>,
}

impl Cluster {
    /// Starts `clusterinit -- COMMAND` with settings whose names have no `CLUSTERINIT_` in front.
    pub(crate) fn start(mode: Mode, settings: &[(&str, &str)], command: &[&str]) -> Self {
        settings.iter().fold(Launch::of(mode, command), |launch, (name, value)| launch.set(name, value)).start()
    }

    pub(super) fn of(mut launch: Launch) -> Self {
        let mut child = launch.spawn();
        let (stdout, stderr) = (Text::default(), Text::default());
        let mut unread: Vec<Box<dyn Send>> = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            keep(pipe, &launch.stdout, &stdout, &mut unread);
        }
        if let Some(pipe) = child.stderr.take() {
            keep(pipe, &launch.stderr, &stderr, &mut unread);
        }
        let init = i32::try_from(child.id()).expect("pids fit");
        let (child, status) = (RefCell::new(child), Cell::new(None));
        let mut cluster = Self { child, init, launch, stdout, stderr, _unread: unread, status };
        cluster.find_init();
        cluster
    }

    /// Waits until the wrappers have executed clusterinit, and notes its pid. Some runs are over before we look.
    fn find_init(&mut self) {
        let outer = self.init;
        let mut found = None;
        self.until("clusterinit runs", |cluster| {
            let candidates = if cluster.launch.mode == Mode::Pid1 { children(outer) } else { vec![outer] };
            found = candidates.into_iter().find(|pid| runs(*pid, &cluster.launch.program));
            found.is_some() || cluster.has_ended()
        });
        self.init = found.unwrap_or(outer);
    }

    /// clusterinit's pid, as our PID namespace numbers it.
    pub(crate) fn pid(&self) -> i32 {
        self.init
    }

    pub(crate) fn side_port(&self) -> SocketAddr {
        self.launch.side_port
    }

    /// Sends a signal to clusterinit itself, from outside its namespace.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.init), signal).expect("clusterinit is there");
    }

    /// As [`Cluster::signal`], by number: for real-time signals.
    pub(crate) fn signal_number(&self, number: i32) {
        let arguments = ["-c", &format!("kill -{number} {}", self.init)];
        assert!(output_of(Command::new("sh").args(arguments)).status.success());
    }

    /// Sends a signal to a process that is named as `/workers` names it.
    pub(crate) fn signal_inner(&self, inner: i32, signal: Signal) {
        kill(Pid::from_raw(self.outer(inner)), signal).expect("the process is there");
    }

    /// The pid in our namespace of a process that is named as `/workers` names it.
    pub(crate) fn outer(&self, inner: i32) -> i32 {
        if self.launch.mode == Mode::Plain {
            return inner;
        }
        let found = self.marked().into_iter().find(|pid| procs::inner(*pid) == Some(inner));
        found.unwrap_or_else(|| panic!("no process {inner} in the namespace\n{}", self.story()))
    }

    /// Everything alive that this launch started, clusterinit and `unshare` included.
    fn marked(&self) -> Vec<i32> {
        procs::all().into_iter().filter(|pid| self.is_marked(*pid) && procs::is_alive(*pid)).collect()
    }

    fn is_marked(&self, pid: i32) -> bool {
        let (name, value) = &self.launch.mark;
        procs::has_entry(pid, &format!("{name}={value}"))
    }

    /// What is alive of the processes that clusterinit started.
    pub(crate) fn left(&self) -> Vec<i32> {
        let own = i32::try_from(self.child.borrow().id()).unwrap_or(0);
        self.marked().into_iter().filter(|pid| *pid != self.init && *pid != own).collect()
    }

    /// Zombies that clusterinit has not reaped.
    pub(crate) fn zombies(&self) -> usize {
        procs::zombies_of(self.init)
    }

    /// The `CLUSTERINIT_`... of a living process, named as `/workers` names it.
    pub(crate) fn variable(&self, inner: i32, name: &str) -> Option<String> {
        procs::variable(self.outer(inner), name)
    }

    /// `None` while the side port does not answer.
    #[expect(clippy::print_stderr, reason = "the test harness keeps it for tests that fail")]
    pub(crate) fn try_get(&self, path: &str) -> Option<Reply> {
        let reply = http::request(self.side_port(), "GET", path);
        if let Err(error) = &reply
            && error.kind() != ErrorKind::ConnectionRefused
        {
            // Swallowed where the test passes; where it fails it tells "not yet" and "no more" from "no".
            eprintln!("GET {path} of pid {}: {error}", self.init);
        }
        reply.ok()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let reply = http::request(self.side_port(), "GET", path);
        let reply = reply.unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.story()));
        (reply.status, reply.body)
    }

    /// The status of an answer; 0 while there is none.
    pub(crate) fn answers(&self, path: &str) -> u16 {
        self.try_get(path).map_or(0, |reply| reply.status)
    }

    /// `/workers`, as soon as the side port answers; `Null` when clusterinit has ended.
    pub(crate) fn workers(&self) -> Value {
        self.try_get("/workers").map_or(Value::Null, |reply| reply.json())
    }

    /// The rows of `/workers`.
    pub(crate) fn rows(&self) -> Vec<Value> {
        self.workers()["workers"].as_array().cloned().unwrap_or_default()
    }

    /// The pids of the workers in this state.
    pub(crate) fn pids_in(&self, state: &str) -> Vec<i32> {
        let rows = self.rows();
        let pids = rows.iter().filter(|row| row["state"] == state).filter_map(|row| row["pid"].as_i64());
        pids.filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    /// Waits until exactly `count` workers are ready and no row is in another state; returns their pids.
    pub(crate) fn ready(&self, count: usize) -> Vec<i32> {
        let mut pids = Vec::new();
        self.until(&format!("{count} workers are ready, and no other row"), |cluster| {
            let rows = cluster.rows();
            pids = rows.iter().filter(|row| row["state"] == "ready").filter_map(|row| row["pid"].as_i64()).collect();
            pids.len() == count && rows.len() == count
        });
        pids.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    /// Waits for a condition; on failure tells what the program said.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let mut holds = false;
        let mut since_its_end = None;
        holds_within(DEADLINE, &mut || {
            holds = condition(self);
            if self.has_ended() && since_its_end.is_none() {
                since_its_end = Some(Stopwatch::start());
            }
            // Little can change any more: what fails shall not take all the time there is.
            holds || since_its_end.as_ref().is_some_and(|clock| clock.elapsed() > AFTERMATH)
        });
        assert!(holds, "not within {DEADLINE:?}: {what}\n{}", self.story());
    }

    /// Waits until stdout holds this text.
    pub(crate) fn until_out(&self, text: &str) {
        self.until(&format!("stdout holds {text:?}"), |cluster| cluster.out().contains(text));
    }

    /// Waits until one line of stderr holds all of these texts, in any case; returns it.
    pub(crate) fn until_log(&self, texts: &[&str]) -> String {
        let mut line = None;
        self.until(&format!("one line of stderr holds {texts:?}"), |cluster| {
            line = cluster.log_line(texts);
            line.is_some()
        });
        line.unwrap_or_default()
    }

    /// The first line of stderr that holds all of these texts, in any case.
    pub(crate) fn log_line(&self, texts: &[&str]) -> Option<String> {
        let holds = |line: &&str| texts.iter().all(|text| line.to_lowercase().contains(&text.to_lowercase()));
        self.err().lines().find(holds).map(str::to_owned)
    }

    /// What was written to stdout so far.
    pub(crate) fn out(&self) -> String {
        text_of(&self.stdout)
    }

    /// What was written to stderr so far.
    pub(crate) fn err(&self) -> String {
        text_of(&self.stderr)
    }

    pub(crate) fn has_ended(&self) -> bool {
        if self.status.get().is_none() {
            self.status.set(self.child.borrow_mut().try_wait().expect("our child"));
        }
        self.status.get().is_some()
    }

    /// Waits for the end, and returns the status as a shell would give it.
    pub(crate) fn wait_exit(&self) -> i32 {
        self.wait_exit_within(DEADLINE)
    }

    pub(crate) fn wait_exit_within(&self, deadline: Duration) -> i32 {
        let ended = holds_within(deadline, &mut || self.has_ended());
        assert!(ended, "clusterinit has not ended within {deadline:?}\n{}", self.story());
        let status = self.status.get().expect("it has ended");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Waits for the end of clusterinit and of everything that wrote to the collected pipes; returns (status, stdout, stderr).
    pub(crate) fn finish(self) -> (i32, String, String) {
        let code = self.wait_exit();
        self.until("nobody holds our pipes any more", |cluster| {
            Arc::strong_count(&cluster.stdout) == 1 && Arc::strong_count(&cluster.stderr) == 1
        });
        (code, self.out(), self.err())
    }

    /// TERM, then as [`Cluster::finish`].
    pub(crate) fn stop(self) -> (i32, String, String) {
        self.signal(Signal::SIGTERM);
        self.finish()
    }

    /// Runs `clusterinit WORDS...` as a person would inside the container, with the environment that the cluster got.
    pub(crate) fn cli(&self, words: &[&str]) -> Output {
        self.cli_through(&[], words)
    }

    /// As [`Cluster::cli`], with a wrapper such as `setpriv` in front.
    pub(crate) fn cli_through(&self, wrapper: &[&str], words: &[&str]) -> Output {
        let mut line: Vec<&str> = Vec::new();
        let target = self.init.to_string();
        if self.launch.own_mounts {
            line.extend(["nsenter", "--target", &target]);
            line.extend(enter_flags().into_iter().filter(|flag| *flag != "--pid" || self.launch.mode == Mode::Pid1));
        }
        line.extend(wrapper);
        line.push(env!("CARGO_BIN_EXE_clusterinit"));
        line.extend(words);
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env_clear().env("PATH", search_path());
        command.env("CLUSTERINIT_HEALTH_ADDR", self.side_port().to_string());
        output_of(&mut command)
    }

    /// All that there is to know about a failure.
    pub(crate) fn story(&self) -> String {
        let workers = self.try_get("/workers").map(|reply| reply.body).unwrap_or_default();
        let status = self.status.get();
        format!(
            "--- {:?}, status {status:?}\n--- stdout\n{}\n--- stderr\n{}\n--- workers\n{workers}",
            self.launch.mode,
            self.out(),
            self.err()
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // `unshare` ends when its child does; a second round finds what was forked during the first.
        for _ in 0..50 {
            let living = self.marked();
            if living.is_empty() {
                break;
            }
            // Looked at again right before the kill: numbers are reused, and a look at all processes takes its time.
            for pid in living.into_iter().filter(|pid| self.is_marked(*pid)) {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        holds_within(DEADLINE, &mut || self.has_ended());
    }
}

/// Reads a pipe to its end in a thread of its own, or keeps it open unread.
fn keep(mut pipe: impl Read + Send + 'static, sink: &Sink, text: &Text, unread: &mut Vec<Box<dyn Send>>) {
    if matches!(sink, Sink::Unread) {
        unread.push(Box::new(pipe));
        return;
    }
    let text = Arc::clone(text);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            text.lock().expect("no panic while locked").extend_from_slice(&buffer[..length]);
        }
    });
}

fn text_of(text: &Text) -> String {
    String::from_utf8_lossy(&text.lock().expect("no panic while locked")).into_owned()
}

fn children(parent: i32) -> Vec<i32> {
    procs::all().into_iter().filter(|pid| procs::parent(*pid) == Some(parent)).collect()
}

fn runs(pid: i32, program: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default() == program
}
