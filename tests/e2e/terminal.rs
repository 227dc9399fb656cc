//! A terminal (`docker run -it`): one worker, in the foreground, with job control and Ctrl-C as if nobody were in between.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

use crate::support::{Cluster, Launch, Mode, Sink, Stdin, example, modes};

/// The person's side of a terminal.
struct Terminal {
    keys: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no panic while locked")).into_owned()
    }

    fn until_shown(&self, cluster: &Cluster, text: &str) {
        cluster.until(&format!("the screen shows {text:?}, now: {:?}", self.screen()), |_| self.screen().contains(text));
    }
}

/// Both ends of a new terminal, the person's and the program's. Close-on-exec from the first moment: parallel tests start programs.
fn pair() -> (File, File) {
    let person = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
    grantpt(&person).expect("it is ours");
    unlockpt(&person).expect("it is ours");
    let name = ptsname_r(&person).expect("it has a name");
    let program = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).expect("the other end");
    (File::from(OwnedFd::from(person)), program)
}

/// Starts clusterinit as the leader of a session whose terminal this is, as container runtimes do with `-t`.
fn on_terminal(mode: Mode, command: &[&str], build: impl Fn(Launch) -> Launch) -> (Cluster, Terminal) {
    let (person, program) = pair();
    let other = |end: &File| OwnedFd::from(end.try_clone().expect("a descriptor"));
    let mut launch = build(Launch::of(mode, command).wrap(&["setsid", "--ctty"]));
    launch.stdin = Stdin::From(other(&program));
    launch.stdout = Sink::To(other(&program));
    launch.stderr = Sink::To(other(&program));
    let cluster = launch.start();
    let screen = Arc::new(Mutex::new(Vec::new()));
    let mut output = File::from(other(&person));
    let shown = Arc::clone(&screen);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            shown.lock().expect("no panic while locked").extend_from_slice(&buffer[..length]);
        }
    });
    (cluster, Terminal { keys: person, screen })
}

/// Whether one of the cluster's processes with this name runs in the foreground of its terminal.
fn in_foreground(cluster: &Cluster, name: &str) -> bool {
    cluster.left().into_iter().any(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((head, rest)) = stat.rsplit_once(") ") else { return false };
        let fields: Vec<&str> = rest.split(' ').collect();
        head.ends_with(&format!("({name}")) && fields[2] == fields[5] && matches!(fields[0], "S" | "R")
    })
}

#[test]
fn a_shell_has_job_control() {
    for mode in modes() {
        let (cluster, mut terminal) = on_terminal(mode, &["sh", "-i"], |launch| launch.env("PS1", "ready> ").set("LOG", "error"));
        terminal.until_shown(&cluster, "ready> ");
        terminal.types("echo $((6 * 7))\n");
        terminal.until_shown(&cluster, "42\r\n");
        terminal.types("sleep 1000\n");
        cluster.until("sleep is in the foreground", |cluster| in_foreground(cluster, "sleep"));
        terminal.types("\x03");
        terminal.types("echo $((7 * 7))\n");
        terminal.until_shown(&cluster, "49\r\n");
        cluster.until("Ctrl-C ended it, and only it", |cluster| cluster.left().len() == 1);
        terminal.types("sleep 1001\n");
        cluster.until("sleep is in the foreground", |cluster| in_foreground(cluster, "sleep"));
        terminal.types("\x1a");
        terminal.until_shown(&cluster, "Stopped");
        terminal.types("fg\n");
        cluster.until("sleep is in the foreground again", |cluster| in_foreground(cluster, "sleep"));
        terminal.types("\x03");
        terminal.types("echo $((8 * 8))\n");
        terminal.until_shown(&cluster, "64\r\n");
        let screen = terminal.screen();
        assert!(!screen.contains("job control turned off") && !screen.contains("can't access tty"), "{screen}");
        terminal.types("exit 5\n");
        assert_eq!(cluster.wait_exit(), 5, "{mode:?}: {}", terminal.screen());
    }
}

/// Line by line it would never show its prompt.
#[test]
fn a_shell_has_the_terminal_though_its_lines_were_to_be_prefixed() {
    for mode in modes() {
        let build = |launch: Launch| launch.env("PS1", "ready> ").set("OUTPUT", "prefix");
        let (cluster, mut terminal) = on_terminal(mode, &["sh", "-i"], build);
        terminal.until_shown(&cluster, "ready> ");
        terminal.types("test -t 1 && echo $((6 * 7))\n");
        terminal.until_shown(&cluster, "\n42\r\n");
        terminal.until_shown(&cluster, "OUTPUT=prefix: stdin is a terminal");
        terminal.types("exit 5\n");
        assert_eq!(cluster.wait_exit(), 5, "{mode:?}: {}", terminal.screen());
    }
}

#[test]
fn ctrl_c_ends_the_one_worker_by_int() {
    for mode in modes() {
        let (cluster, mut terminal) = on_terminal(mode, &["sleep", "1000"], |launch| launch);
        cluster.until("it is in the foreground", |cluster| in_foreground(cluster, "sleep"));
        terminal.types("\x03");
        assert_eq!(cluster.wait_exit(), 130, "{mode:?}: {}", terminal.screen());
    }
}

#[test]
fn one_worker_in_the_foreground_of_its_own_group() {
    for mode in modes() {
        let (cluster, terminal) = on_terminal(mode, &[&example("shows")], |launch| launch.set("LOG", "error"));
        assert_eq!(cluster.wait_exit(), 0, "{}", terminal.screen());
        terminal.until_shown(&cluster, "}\r\n");
        let screen = terminal.screen();
        let line = screen.lines().find(|line| line.starts_with('{')).expect("one line of JSON");
        let shown: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(shown["tty"], true);
        assert_eq!(shown["foreground"], shown["pgid"], "{mode:?}");
        assert_eq!(shown["environment"]["CLUSTERINIT_WORKER_COUNT"], "1");
        assert_eq!(screen.matches("\"pid\"").count(), 1, "it ran once");
    }
}

#[test]
fn a_stop_works_as_without_a_terminal() {
    for mode in modes() {
        let (cluster, terminal) = on_terminal(mode, &["sleep", "1000"], |launch| launch);
        cluster.ready(1);
        cluster.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(cluster.wait_exit(), 0, "{mode:?}: {}", terminal.screen());
    }
}

#[test]
fn with_more_workers_ctrl_c_is_a_stop_of_all() {
    for mode in modes() {
        let (cluster, mut terminal) =
            on_terminal(mode, &["sleep", "1000"], |launch| launch.set("WORKERS", 2).set("READY", "running"));
        cluster.ready(2);
        terminal.types("\x03");
        assert_eq!(cluster.wait_exit(), 0, "{mode:?}: {}", terminal.screen());
    }
}
