//! Workers that do with their channel what no Node does. None of it may disturb the others, or PID 1 and its memory.

use std::time::Duration;

use super::{WORKERS, launch, log_lines, node, pid_of, program, resident, stops};
use crate::share::{all_serve, local};
use crate::support::{Cluster, Launch, Load, Mode, Stage, Stopwatch, free_port, has_python};

/// What PID 1 may grow by, in KiB: one line of 1 MiB read, one waiting, and what the allocator keeps of them.
const MOST: u64 = 8 * 1024;
/// On a busy machine: without load it is milliseconds.
const HEALTHY_WITHIN: Duration = Duration::from_secs(5);

/// Slot 0 is rude as soon as it serves; `channel` writes to the descriptor of its channel, past Node.
const RUDE: &str = r#"
const started = fs.readFileSync("/proc/self/environ", "latin1").split("\0");
const descriptor = Number(started.find((entry) => entry.startsWith("NODE_CHANNEL_FD=")).split("=")[1]);
const channel = (bytes) => {
  let left = Buffer.from(bytes);
  while (left.length) {
    try { left = left.subarray(fs.writeSync(descriptor, left)); } catch (error) { if (error.code !== "EAGAIN") throw error; }
  }
};
const done = () => say("done");
"#;

/// Starts two workers of which slot 0 does this once both serve, with load on them; `then` when it has said `done`.
fn rude(text: &str, then: impl FnOnce(&Cluster, u16)) {
    // What a worker that ends has begun to answer, its clients lose: they are four.
    rude_and_lost(text, 0, then);
}

fn rude_and_lost(text: &str, lost: usize, then: impl FnOnce(&Cluster, u16)) {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(
        &stage,
        &format!(
            "{RUDE} const rude = () => {{ {text} }};
        const when = () => fs.existsSync(__dirname + '/go') ? (fs.unlinkSync(__dirname + '/go'), rude()) : setTimeout(when, 20);
        server().listen(PORT, () => SLOT === 0 && when());"
        ),
    );
    let cluster = launch(Mode::Plain, &node, &file, port).start();
    super::serves(&cluster, port);
    let (before, healthy) = (resident(&cluster), pid_of(&cluster, 1));
    let load = Load::start(local(port), &["clients=4", "think=2ms"]);
    stage.write("go", "");
    let mut most = 0;
    let mut slowest = Duration::ZERO;
    cluster.until("it has done what it does", |cluster| {
        let clock = Stopwatch::start();
        assert_eq!(cluster.answers("/healthz"), 200);
        slowest = slowest.max(clock.elapsed());
        most = most.max(resident(cluster).saturating_sub(before));
        cluster.out().contains("done")
    });
    then(&cluster, port);
    let seen = load.finish();
    most = most.max(resident(&cluster).saturating_sub(before));
    assert!(most < MOST, "{most} KiB more\n{}", cluster.story());
    assert!(slowest < HEALTHY_WITHIN, "{slowest:?} for an answer\n{}", cluster.story());
    assert!(super::count(&seen, "failed") <= lost, "{seen}\n{}", cluster.story());
    assert_eq!(pid_of(&cluster, 1), healthy, "the other one was replaced\n{}", cluster.story());
    stops(cluster);
}

/// The rude one is as it was.
fn unharmed(cluster: &Cluster, port: u16) {
    cluster.ready(WORKERS);
    all_serve(cluster, local(port), "/", WORKERS);
    assert!(cluster.rows().iter().all(|row| row["restarts"] == 0), "{}", cluster.story());
}

#[test]
fn garbage() {
    let text = r#"channel("\n\n\0\n{\nnull\n[]\n17\n{\"cmd\":\"NODE_\n{\"cmd\":17}\n\xff\xfe\n" + "[".repeat(100000) + "\n");
        for (let n = 0; n < 1000; n++) channel(require("crypto").randomBytes(1000));
        channel("\n"); process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done);"#;
    rude(text, |cluster, port| {
        unharmed(cluster, port);
        let told = log_lines(cluster, &["WARN"]);
        assert!((1..20).contains(&told), "{told} lines\n{}", cluster.story());
    });
}

#[test]
fn a_line_of_100_mb() {
    let text = r#"const part = Buffer.alloc(1 << 20, "x");
        channel("\""); for (let n = 0; n < 100; n++) channel(part); channel("\"\n");
        process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done);"#;
    rude(text, |cluster, port| {
        unharmed(cluster, port);
        assert_eq!(log_lines(cluster, &["WARN"]), 1, "{}", cluster.story());
    });
}

/// Through Node itself, as a program would that sends too much.
#[test]
fn a_message_of_100_mb() {
    let text = r#"process.send({ topic: "big", data: "x".repeat(100 << 20) }, () => {
        process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done); });"#;
    rude(text, |cluster, port| {
        unharmed(cluster, port);
        assert_eq!(log_lines(cluster, &["WARN"]), 1, "{}", cluster.story());
    });
}

#[test]
fn half_a_line_and_no_more() {
    rude(r#"channel("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listen"); done();"#, unharmed);
}

#[test]
fn a_hundred_thousand_messages() {
    let text = r#"let left = 100000; const kinds = ["a", "b", "c"];
        const more = () => { for (let n = 0; n < 500; n++, left--) process.send({ topic: kinds[left % 3], left });
          if (left) return setImmediate(more); process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done); };
        more();"#;
    rude(text, |cluster, port| {
        unharmed(cluster, port);
        assert_eq!(log_lines(cluster, &["WARN"]), 3, "one for each topic\n{}", cluster.story());
    });
}

/// A kind of its own for each: lines are not without bound either.
#[test]
fn ten_thousand_kinds_of_messages() {
    let text = r#"for (let n = 0; n < 10000; n++) process.send({ topic: "topic-" + n });
        process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done);"#;
    rude(text, |cluster, port| {
        unharmed(cluster, port);
        let told = log_lines(cluster, &["WARN"]);
        assert!((1..200).contains(&told), "{told} lines\n{}", cluster.story());
    });
}

#[test]
fn commands_that_nobody_knows() {
    let text = r#"for (const message of [
          { cmd: "NODE_DEBUG_ENABLED" }, { cmd: "NODE_CLUSTER" }, { cmd: "NODE_CLUSTER", act: "dance" }, { cmd: "NODE_CLUSTER", act: 5 },
          { cmd: "NODE_CLUSTER", act: "queryServer" }, { cmd: "NODE_CLUSTER", act: "queryServer", seq: "x", port: [] },
          { cmd: "NODE_CLUSTER", act: "queryServer", seq: 9000, port: 70000, addressType: 4, address: "not an address" },
          { cmd: "NODE_CLUSTER", act: "queryServer", seq: 9001, port: -5, addressType: 9, address: null, fd: -1 },
          { cmd: "NODE_CLUSTER", act: "close" }, { cmd: "NODE_CLUSTER", act: "close", key: "none" },
          { cmd: "NODE_CLUSTER", act: "listening" }, { cmd: "NODE_CLUSTER", act: "online" },
          { cmd: "NODE_CLUSTERINIT" }, { cmd: "NODE_CLUSTERINIT", act: "draining", handles: 5 },
        ]) channel(JSON.stringify(message) + "\n");
        process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done);"#;
    rude(text, unharmed);
}

/// Acknowledgements of what was never sent.
#[test]
fn wrong_acks() {
    let text = r#"for (let n = -3; n < 300; n++) {
          channel(`{"cmd":"NODE_CLUSTER","ack":${n},"accepted":true,"seq":${n}}\n{"cmd":"NODE_CLUSTER","ack":${n},"accepted":false}\n`);
          channel('{"cmd":"NODE_HANDLE_ACK"}\n{"cmd":"NODE_HANDLE_NACK"}\n');
        }
        process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done);"#;
    rude(text, unharmed);
}

/// They are acknowledged, or all that comes later would wait behind them; and closed, or the peer would never see an end.
#[test]
fn handles_that_nobody_asked_for() {
    let text = r#"const peer = net.createServer(); let ended = 0, left = 50;
        peer.listen(0, "127.0.0.1", () => { /* exclusive or not: its port is enough */ });
        const own = net.createServer().listen({ port: 0, host: "127.0.0.1", exclusive: true }, () => {
          own.on("connection", (socket) => process.send({ topic: "a socket" }, socket));
          for (let n = 0; n < left; n++) net.connect(own.address().port, "127.0.0.1").on("end", () => ++ended === left && after()).resume();
        });
        const after = () => { process.send({ clusterinit: { to: 0 }, data: 1 }); process.once("message", done); };"#;
    rude(text, unharmed);
}

#[test]
fn it_says_that_a_handle_comes_and_none_does() {
    let text = r#"for (let n = 0; n < 20; n++) channel('{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"x":1}}\n');
        done();"#;
    rude_and_lost(text, 4, |cluster, port| {
        // What Node makes of our answers is its own affair, but the others serve.
        all_serve(cluster, local(port), "/", WORKERS);
    });
}

/// Past Node's own rule, which would end it.
#[test]
fn it_closes_its_channel_and_lives_on() {
    let text = "process.removeAllListeners('disconnect'); process.on('disconnect', done); process.disconnect(); setInterval(() => {}, 1000);";
    rude(text, |cluster, port| {
        cluster.until("it is seen", |cluster| {
            super::row(cluster, 0)["channel"] == "disconnected" || super::row(cluster, 0)["restarts"] != 0
        });
        cluster.ready(WORKERS);
        all_serve(cluster, local(port), "/", WORKERS);
    });
}

/// Two hundred listeners in a row, each closed at once.
#[test]
fn it_listens_and_closes_without_end() {
    let text = "let left = 200; const next = () => { if (!left--) return done();
        const s = server().listen(0, '127.0.0.1', () => s.close(next)); }; next();";
    rude(text, unharmed);
}

/// A program in another language, to which the channel is a descriptor that it does not know.
fn no_node(launch: Launch, port: u16) {
    let cluster = launch.set("NODE_IPC", "on").set("WORKERS", WORKERS).set("GRACE", "2m").env("PORT", port).start();
    cluster.ready(WORKERS);
    let before = resident(&cluster);
    all_serve(&cluster, local(port), "/", WORKERS);
    cluster.until_out("done");
    let grown = resident(&cluster).saturating_sub(before);
    assert!(grown < MOST, "{grown} KiB more\n{}", cluster.story());
    assert_eq!(cluster.get("/healthz").0, 200);
    stops(cluster);
}

#[test]
fn it_is_python_and_writes_to_the_channel() {
    if !has_python() {
        return;
    }
    let (stage, port) = (Stage::new(), free_port());
    let file = stage.write(
        "server.py",
        r#"
import http.server, os, threading
fd = int(os.environ["NODE_CHANNEL_FD"])
def rude():
    os.set_blocking(fd, True)
    for _ in range(2000):
        os.write(fd, os.urandom(2000) + b"\n")
    os.write(1, b"done\n")
threading.Thread(target=rude, daemon=True).start()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"%d\n" % os.getpid()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"#,
    );
    no_node(Launch::of(Mode::Plain, &["python3", &file]), port);
}

#[test]
fn it_is_a_shell_that_writes_to_the_channel_and_then_node() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let file = program(&stage, "server().listen(PORT, () => say('done'));");
    let script = format!("printf 'garbage\\n{{\"cmd\":' >&$NODE_CHANNEL_FD; echo '}}' >&$NODE_CHANNEL_FD; exec {node} {file}");
    no_node(Launch::of(Mode::Plain, &["sh", "-c", &script]), port);
}

/// It never reads and never writes.
#[test]
fn it_does_not_care() {
    let cluster = Cluster::start(Mode::Plain, &[("NODE_IPC", "on"), ("WORKERS", "2"), ("READY", "running")], &["sleep", "1000"]);
    cluster.ready(2);
    assert!(cluster.rows().iter().all(|row| row["channel"] == "open"), "{}", cluster.story());
    stops(cluster);
}
