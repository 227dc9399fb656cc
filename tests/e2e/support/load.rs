//! Load on a server: `examples/load.rs`, which counts what goes wrong, in a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::MutexGuard;

use serde_json::Value;

use super::{example, machine};

pub(crate) struct Load {
    child: Child,
    output: BufReader<ChildStdout>,
    _alone: MutexGuard<'static, ()>,
}

impl Load {
    /// Runs until [`Load::finish`], and no other at the same time; the words are those of `examples/load.rs`.
    #[expect(clippy::disallowed_methods, reason = "a test is an ordinary parent, not PID 1")]
    pub(crate) fn start(server: impl Into<SocketAddr>, words: &[&str]) -> Self {
        let alone = machine();
        let mut command = Command::new(example("load"));
        command.arg(server.into().to_string()).args(words).env_clear();
        // It ends with its stdin at the latest: when this test does.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the load client runs");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the load client speaks");
        assert_eq!(line, "loading\n");
        Self { child, output, _alone: alone }
    }

    /// Waits for the open answers, and returns what was counted.
    #[expect(clippy::disallowed_methods, reason = "a test is an ordinary parent, not PID 1")]
    pub(crate) fn finish(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("the load client speaks");
        self.child.wait().expect("our child");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }
}

impl Drop for Load {
    #[expect(clippy::disallowed_methods, reason = "a test is an ordinary parent, not PID 1")]
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
