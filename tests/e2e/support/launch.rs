//! How a clusterinit is started: environment, wrappers, descriptors.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::{Cluster, Mode, namespace_flags};

/// What the stdin of clusterinit is.
pub(crate) enum Stdin {
    Null,
    /// Any descriptor, as it is.
    From(OwnedFd),
}

/// What becomes of stdout or stderr.
pub(crate) enum Sink {
    /// A pipe that is read to its end; the text can be asked for.
    Collected,
    /// A pipe that nobody reads, but that stays open.
    Unread,
    /// Any descriptor, as it is.
    To(OwnedFd),
}

pub(crate) struct Launch {
    pub(crate) mode: Mode,
    settings: Vec<(String, String)>,
    wrap: Vec<String>,
    /// The binary under test, or a copy of it.
    pub(crate) program: PathBuf,
    arguments: Vec<String>,
    pub(crate) stdin: Stdin,
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    /// The entry that marks the environment of everything that this launch starts.
    pub(crate) mark: (String, String),
    pub(crate) side_port: SocketAddr,
    /// Whether it has a mount namespace that no other test's clusterinit lives in.
    pub(crate) own_mounts: bool,
}

impl Launch {
    /// `clusterinit -- COMMAND...` with an environment that holds `PATH`, a side port and a mark, and nothing else.
    pub(crate) fn of(mode: Mode, command: &[&str]) -> Self {
        Self::arguments(mode, &[&["--"], command].concat())
    }

    /// As [`Launch::of`], with clusterinit's whole argument list.
    pub(crate) fn arguments(mode: Mode, arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let side_port = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self {
            mode,
            settings: vec![("CLUSTERINIT_HEALTH_ADDR".to_owned(), side_port.to_string())],
            wrap: Vec::new(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_clusterinit")),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            stdin: Stdin::Null,
            stdout: Sink::Collected,
            stderr: Sink::Collected,
            mark: ("E2E_MARK".to_owned(), format!("{}-{number}", std::process::id())),
            side_port,
            own_mounts: mode == Mode::Pid1,
        }
    }

    /// Runs a copy of the binary, for users that may not read the folder of the build.
    pub(crate) fn program(mut self, copy: &str) -> Self {
        self.program = PathBuf::from(copy);
        self
    }

    /// Sets `CLUSTERINIT_{name}`.
    pub(crate) fn set(self, name: &str, value: impl ToString) -> Self {
        self.env(&format!("CLUSTERINIT_{name}"), value)
    }

    #[expect(clippy::needless_pass_by_value, reason = "calls read better without a `&` before every number")]
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Puts a program in front that sets something up and then executes the rest of its arguments, inside the namespace.
    pub(crate) fn wrap(mut self, wrapper: &[&str]) -> Self {
        self.wrap.extend(wrapper.iter().map(|&word| word.to_owned()));
        self
    }

    /// As [`Launch::wrap`] with a shell script.
    pub(crate) fn wrap_sh(self, setup: &str) -> Self {
        self.wrap(&["sh", "-c", &format!("{setup}\nexec \"$@\""), "sh"])
    }

    /// Sets it apart from what other tests run: our subcommands find a clusterinit by its mount and PID namespaces.
    pub(crate) fn apart(mut self) -> Self {
        if self.own_mounts {
            return self;
        }
        self.own_mounts = true;
        let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        self.wrap(&[&["unshare", "--mount"], user].concat())
    }

    pub(crate) fn start(self) -> Cluster {
        Cluster::of(self)
    }

    /// The command line without clusterinit and its `--`: what a worker would be if nobody were in between.
    pub(crate) fn without_clusterinit(&self) -> Command {
        self.command_line(&self.arguments[1..])
    }

    #[expect(clippy::disallowed_methods, reason = "a test is an ordinary parent, not PID 1")]
    pub(super) fn spawn(&mut self) -> Child {
        let program = self.program.to_str().expect("UTF-8").to_owned();
        let mut command = self.command_line(&[&[program], &self.arguments[..]].concat());
        command.stdin(match std::mem::replace(&mut self.stdin, Stdin::Null) {
            Stdin::Null => Stdio::null(),
            Stdin::From(descriptor) => descriptor.into(),
        });
        command.stdout(stdio(&mut self.stdout)).stderr(stdio(&mut self.stderr));
        command.spawn().expect("clusterinit starts")
    }

    fn command_line(&self, tail: &[String]) -> Command {
        let mut words: Vec<String> = Vec::new();
        if self.mode == Mode::Pid1 {
            words.push("unshare".to_owned());
            words.extend(namespace_flags().into_iter().map(str::to_owned));
        }
        words.extend_from_slice(&self.wrap);
        words.extend_from_slice(tail);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear();
        command.env("PATH", search_path()).env(&self.mark.0, &self.mark.1);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn stdio(sink: &mut Sink) -> Stdio {
    if matches!(sink, Sink::Collected | Sink::Unread) {
        return Stdio::piped();
    }
    match std::mem::replace(sink, Sink::Unread) {
        Sink::To(descriptor) => descriptor.into(),
        Sink::Collected | Sink::Unread => Stdio::null(),
    }
}

/// Our own `PATH` without what we may not search: there, "not found" would become "permission denied".
pub(super) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let searchable = |directory: &PathBuf| nix::unistd::access(directory, nix::unistd::AccessFlags::X_OK).is_ok();
    std::env::join_paths(std::env::split_paths(&path).filter(searchable)).expect("parts of a PATH")
}

/// A TCP port that is free now and that nobody gets by chance: below the range from which the kernel picks, so that no outgoing
/// connection of a parallel test takes it before its server does.
pub(crate) fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many free ports in a row.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 100).unwrap_or(0) * 100;
    loop {
        let first = 20_000 + (start + NEXT.fetch_add(count, Ordering::Relaxed)) % 12_000;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}
