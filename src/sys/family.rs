//! For tests: a process with its children, all in a group of their own, gone at the end of the test.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::procfs;
use crate::cluster::words::Pid;

pub(super) struct Family(Child);

impl Family {
    /// Waits until the command has written its first byte.
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    pub(super) fn start(command: &[&str]) -> Self {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("the command is installed");
        let mut byte = [0];
        child.stdout.as_mut().expect("piped").read_exact(&mut byte).expect("it says that it is ready");
        Self(child)
    }

    /// The script says `ready()`, and stays.
    pub(super) fn python(script: &str) -> Self {
        Self::start(&["python3", "-c", &format!("{READY}{script}\nready()\nsignal.pause()")])
    }

    pub(super) fn leader(&self) -> Pid {
        Pid(i32::try_from(self.0.id()).expect("pids fit"))
    }

    /// The leader and its children.
    pub(super) fn all(&self) -> Vec<Pid> {
        let mut all = vec![self.leader()];
        all.extend(procfs::children(self.leader()).expect("it is alive"));
        all
    }
}

const READY: &str = "import os, signal\ndef ready(): os.write(1, b'.')\n";

impl Drop for Family {
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.leader().0);
        // A test may have killed it before.
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).ok();
        self.0.wait().expect("its own child");
    }
}
