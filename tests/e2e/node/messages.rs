//! Messages between workers, from people to workers, and what becomes of messages that nobody knows.

use serde_json::{Value, json};

use super::{WORKERS, launch, log_lines, node, pid_of, program, serves, source, stops};
use crate::share::{body, local};
use crate::support::{Cluster, Mode, Stage, free_port, modes};

/// `messages.js` with three workers.
fn started(mode: Mode, port: u16) -> Option<Cluster> {
    let cluster = launch(mode, &node()?, &source("messages.js"), port).set("WORKERS", 3).apart().start();
    cluster.ready(3);
    Some(cluster)
}

fn get(port: u16, path: &str) -> Value {
    let body = body(local(port), path).unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_default()
}

/// What each of three workers has heard, by slot.
fn heard(cluster: &Cluster, port: u16) -> [Value; 3] {
    let mut heard = [Value::Null, Value::Null, Value::Null];
    cluster.until("each worker has told", |_| {
        let answer = get(port, "/");
        if let Some(slot) = answer["worker"].as_u64() {
            heard[usize::try_from(slot).expect("it fits")] = answer["heard"].clone();
        }
        !heard.contains(&Value::Null)
    });
    heard
}

fn hear(cluster: &Cluster, port: u16, wanted: &[Value; 3]) {
    let mut last = [Value::Null, Value::Null, Value::Null];
    cluster.until(&format!("{wanted:?} is heard"), |cluster| {
        last = heard(cluster, port);
        let too_much = |slot: usize| last[slot].as_array().map_or(0, Vec::len) > wanted[slot].as_array().map_or(0, Vec::len);
        assert!(!(0..3).any(too_much), "{last:?}, not {wanted:?}\n{}", cluster.story());
        last == *wanted
    });
}

#[test]
fn workers_reach_all_the_others_and_one() {
    for mode in modes() {
        let port = free_port();
        let Some(cluster) = started(mode, port) else { return };
        let mut wanted: [Vec<Value>; 3] = Default::default();
        for (to, text) in [("all", "a"), ("others", "b"), ("0", "c"), ("1", "d"), ("2", "e")] {
            let mut sender = None;
            cluster.until("somebody sends", |_| {
                sender = get(port, &format!("/tell?to={to}&text={text}"))["worker"].as_u64();
                sender.is_some()
            });
            let from = usize::try_from(sender.expect("it was sent")).expect("it fits");
            for (slot, list) in wanted.iter_mut().enumerate() {
                if to == "all" || (to == "others" && slot != from) || to == slot.to_string() {
                    list.push(json!({ "clusterinit": { "from": from }, "data": text }));
                }
            }
            hear(&cluster, port, &wanted.clone().map(Value::from));
        }
        stops(cluster);
    }
}

#[test]
fn whatever_json_can_say_arrives_as_it_was() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = r#"
        const data = [null, true, -1.5e300, "ä\u2028\n\"", "x".repeat(300000), { a: [{}, [], "NODE_"], cmd: "NODE_CLUSTER", clusterinit: 1 }];
        let next = 0;
        process.on("message", (message) => {
          if (message.clusterinit.from !== SLOT) return;
          const same = JSON.stringify(message.data) === JSON.stringify(data[next]);
          say(SLOT, same ? "same" : "not the same", next++);
          if (next < data.length) process.send({ clusterinit: { to: "all" }, data: data[next] });
        });
        server().listen(PORT, () => process.send({ clusterinit: { to: "all" }, data: data[0] }));"#;
    let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).start();
    serves(&cluster, port);
    for slot in 0..WORKERS {
        cluster.until_out(&format!("{slot} same 5"));
    }
    assert!(!cluster.out().contains("not the same"), "{}", cluster.story());
    stops(cluster);
}

#[test]
fn an_address_that_nobody_has_is_named() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "process.on('message', (m) => say(JSON.stringify(m)));
        server().listen(PORT, () => { for (const to of ['everybody', 17, null, -1, 1.5, {}]) process.send({ clusterinit: { to }, data: 1 });
        process.send({ clusterinit: {}, data: 1 }); process.send({ clusterinit: { to: SLOT }, data: 'last' }); });";
    let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).start();
    serves(&cluster, port);
    cluster.until("both have the last one", |cluster| cluster.out().matches("last").count() == WORKERS);
    assert_eq!(cluster.out().lines().count(), WORKERS, "{}", cluster.story());
    let told = log_lines(&cluster, &["WARN"]);
    assert!((1..=7 * WORKERS).contains(&told), "{told} lines\n{}", cluster.story());
    cluster.until_log(&["warn", "everybody"]);
    stops(cluster);
}

#[test]
fn a_person_reaches_all_and_one() {
    for mode in modes() {
        let port = free_port();
        let Some(cluster) = started(mode, port) else { return };
        for words in [&["send", "all", r#"{"reload":["flags",1]}"#], &["send", "1", r#""only you""#], &["send", "0", "17"]] {
            let output = cluster.cli(words);
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let all = json!({ "reload": ["flags", 1] });
        hear(&cluster, port, &[json!([all, 17]), json!([all, "only you"]), json!([all])]);
        stops(cluster);
    }
}

#[test]
fn a_person_is_told_what_is_wrong() {
    let port = free_port();
    let Some(cluster) = started(Mode::Plain, port) else { return };
    for (words, named) in [
        (&["send"][..], "send"),
        (&["send", "all"], "JSON"),
        (&["send", "all", "{no json"], "JSON"),
        (&["send", "9", "1"], "9"),
        (&["send", "everybody", "1"], "everybody"),
        // It would be taken for a word of the protocol.
        (&["send", "all", r#"{"cmd":"NODE_CLUSTER","act":"disconnect"}"#], "NODE_"),
    ] {
        let output = cluster.cli(words);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{words:?}: {err}");
        assert!(err.contains(named), "{words:?}: {err}");
    }
    assert_eq!(heard(&cluster, port), [json!([]), json!([]), json!([])]);
    cluster.ready(3);
    stops(cluster);
}

/// Where nobody has a channel.
#[test]
fn without_node_there_is_nobody_to_send_to() {
    let cluster =
        crate::support::Launch::of(Mode::Plain, &["sleep", "1000"]).set("WORKERS", 1).set("READY", "running").apart().start();
    cluster.ready(1);
    let output = cluster.cli(&["send", "all", "1"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !err.is_empty(), "{err}");
    stops(cluster);
}

/// What log4js sends to a primary that writes for all: fourteen years of `console.log` are not like that, but it is.
#[test]
fn lines_of_log4js_are_written_to_stdout() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    // As log4js 6 serializes an event: flat, texts and objects by their place in the list.
    let text = r#"
        const event = [{ startTime: "1", categoryName: "2", data: "3", level: "4", context: "5", pid: 1, error: "6" }, "2026-11-30T12:00:00.000Z",
          "web", ["7", SLOT], { level: 20000, levelStr: "8", colour: "9" }, {}, "__LOG4JS_undefined__", "hello from %s", "INFO", "green"];
        server().listen(PORT, () => process.send({ topic: "log4js:message", data: JSON.stringify(event) }));"#;
    for output in ["inherit", "prefix"] {
        let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).set("OUTPUT", output).start();
        serves(&cluster, port);
        for slot in 0..WORKERS {
            let label = if output == "prefix" { format!("[worker {slot}] ") } else { String::new() };
            let start = format!("{label}[2026-11-30T12:00:00.000Z] ");
            cluster.until("its line is there", |cluster| {
                let is_it = |line: &str| line.contains("[INFO] web - hello from") && line.ends_with(&slot.to_string());
                cluster.out().lines().any(|line| line.starts_with(&start) && is_it(line))
            });
        }
        assert_eq!(log_lines(&cluster, &["WARN"]), 0, "{}", cluster.story());
        stops(cluster);
    }
}

#[test]
fn what_nobody_knows_is_named_once() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "server().listen(PORT, () => { for (let n = 0; n < 50; n++) {
        process.send({ topic: 'some:topic', n }); process.send({ type: 'some-type', n }); process.send({ cmd: 'notifyRequest', n }); }
        process.send({ topic: 'log4js:message', data: 'no json' }); say('sent'); });";
    let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).start();
    serves(&cluster, port);
    cluster.until("both have sent", |cluster| cluster.out().matches("sent").count() == WORKERS);
    for kind in ["some:topic", "some-type", "notifyRequest"] {
        cluster.until("each worker's is named", |cluster| log_lines(cluster, &["WARN", kind]) >= WORKERS);
    }
    // Another look after an answer to each: nothing more comes.
    serves(&cluster, port);
    for kind in ["some:topic", "some-type", "notifyRequest"] {
        assert_eq!(log_lines(&cluster, &["WARN", kind]), WORKERS, "{kind}\n{}", cluster.story());
    }
    stops(cluster);
}

/// A message to a worker that does not read is not kept without bound, and does not hold up the others.
#[test]
fn a_worker_that_does_not_read_loses_messages_and_nothing_else() {
    let (Some(node), stage, port) = (node(), Stage::new(), free_port()) else { return };
    let text = "let heard = 0; process.on('message', () => heard++);
        http.createServer((request, answer) => {
            if (request.url === '/flood') { const data = 'x'.repeat(1000); let left = 20000;
                const more = () => { for (let n = 0; n < 200 && left; n++, left--) process.send({ clusterinit: { to: 'others' }, data });
                    if (left) setImmediate(more); else process.send({ clusterinit: { to: 'all' }, data }, () => say('flooded')); };
                more(); }
            answer.end(me());
        }).listen(PORT);";
    let cluster = launch(Mode::Plain, &node, &program(&stage, text), port).start();
    serves(&cluster, port);
    let deaf = pid_of(&cluster, 0);
    crate::share::hold(&cluster, deaf);
    let before = super::resident(&cluster);
    cluster.until("the other one has begun", |_| crate::share::slot_at(local(port)) == Some(1));
    cluster.until("the flood has begun", |_| get_at_once(port, "/flood"));
    cluster.until_out("flooded");
    cluster.until_log(&["warn", "drop"]);
    let grown = super::resident(&cluster).saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB\n{}", cluster.story());
    cluster.signal_inner(deaf, nix::sys::signal::Signal::SIGCONT);
    serves(&cluster, port);
    assert!(log_lines(&cluster, &["WARN", "drop"]) <= 2, "{}", cluster.story());
    stops(cluster);
}

fn get_at_once(port: u16, path: &str) -> bool {
    use std::io::{Read, Write};
    let at_once = std::time::Duration::from_millis(500);
    let Ok(mut stream) = std::net::TcpStream::connect_timeout(&local(port), at_once) else { return false };
    stream.set_read_timeout(Some(at_once)).expect("set");
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let mut answer = [0];
    stream.write_all(request.as_bytes()).is_ok() && stream.read(&mut answer).is_ok_and(|length| length == 1)
}
