//! `OUTPUT=prefix`: each line of workers tells whose it is; nothing tears, nothing waits, nothing is lost that could be written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Cluster, Launch, Mode, Sink, Stage, Stopwatch, example, has_root, machine, modes, status_lines, wait_until,
};

/// What a stop and an answer may take on a machine that is busy with other tests; they take some milliseconds.
const PROMPT: Duration = Duration::from_secs(4);

/// `examples/writes.rs` with these words.
fn writes(mode: Mode, words: &[&str]) -> Launch {
    let program = example("writes");
    Launch::of(mode, &[&[&program[..]], words].concat()).set("OUTPUT", "prefix").set("WORKERS", 1).set("READY", "running")
}

/// The text behind the prefix of each worker's lines, by slot; what has no prefix is under `None`.
fn by_worker(text: &str) -> BTreeMap<Option<u32>, Vec<&str>> {
    let mut found: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let labelled = line.strip_prefix("[worker ").and_then(|rest| rest.split_once("] "));
        let labelled = labelled.and_then(|(slot, rest)| Some((slot.parse().ok()?, rest)));
        let (slot, rest) = labelled.map_or((None, line), |(slot, rest)| (Some(slot), rest));
        found.entry(slot).or_default().push(rest);
    }
    found
}

/// `7 xxxx 7` as `lines:N:LENGTH` writes it: its number.
fn whole(line: &str, length: usize) -> usize {
    let words: Vec<&str> = line.split(' ').collect();
    let is_whole =
        words.len() == 3 && words[0] == words[2] && words[1].len() == length && words[1].bytes().all(|byte| byte == b'x');
    assert!(is_whole, "torn: {line:.200}");
    words[0].parse().expect("a number")
}

/// A pipe whose reader is the test's, who does not read before it wants to.
fn slow() -> (PipeReader, Sink) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (reader, Sink::To(writer.into()))
}

fn read_to_end(mut reader: PipeReader) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).expect("a pipe");
        String::from_utf8(text).expect("UTF-8")
    })
}

#[test]
fn lines_of_four_workers_are_whole_and_in_order() {
    // Less than waits for a reader: none may be dropped however slow this machine is.
    const LINES: usize = 30;
    for mode in modes() {
        let cluster = writes(mode, &[&format!("lines:{LINES}:6000"), "out:done", "wait"]).set("WORKERS", 4).start();
        cluster.until("all are done", |cluster| cluster.out().matches("done\n").count() == 4);
        let (code, out, err) = cluster.stop();
        assert_eq!(code, 0, "{err}");
        let lines = by_worker(&out);
        assert_eq!(lines.keys().copied().collect::<Vec<_>>(), [Some(0), Some(1), Some(2), Some(3)]);
        for lines in lines.values() {
            let (done, lines) = lines.split_last().expect("lines");
            assert_eq!(*done, "done");
            let numbers: Vec<usize> = lines.iter().map(|line| whole(line, 6000)).collect();
            assert_eq!(numbers, (0..LINES).collect::<Vec<_>>());
        }
    }
}

#[test]
fn stdout_and_stderr_stay_apart_and_bytes_are_left_as_they_are() {
    for mode in modes() {
        let cluster = writes(mode, &["out:one", "err:two", "out:three\\r\\n\\nfour", "exit:0"]).set("RESTART", "never").start();
        let (code, out, err) = cluster.finish();
        assert_eq!((code, out.as_str()), (0, "[worker 0] one\n[worker 0] three\r\n[worker 0] \n[worker 0] four\n"));
        assert!(err.lines().any(|line| line == "[worker 0] two"), "{err}");
    }
}

#[test]
fn last_words_come_before_the_end_and_get_their_newline() {
    for mode in modes() {
        let script = "printf 'out of '; printf dying >&2; kill -9 $$";
        let cluster = Launch::of(mode, &["sh", "-c", script]).set("OUTPUT", "prefix").set("WORKERS", 1).set("RESTART", "never");
        let (code, out, err) = cluster.start().finish();
        assert_eq!((code, out.as_str()), (137, "[worker 0] out of \n"), "{err}");
        let at = |text: &str| err.find(text).unwrap_or_else(|| panic!("{text:?} in {err}"));
        assert!(at("\n[worker 0] dying\n") < at("worker ended"), "{err}");
    }
}

#[test]
fn exit_statuses_are_what_they_were() {
    for output in ["inherit", "prefix"] {
        let run = |command: &[&str]| {
            let (code, out, _) = Cluster::start(Mode::Plain, &[("OUTPUT", output)], command).finish();
            (code, out.replace("[worker 0] ", ""))
        };
        assert_eq!(run(&["echo", "hi"]), (0, "hi\n".to_owned()));
        assert_eq!(run(&["sh", "-c", "echo hi; exit 3"]), (3, "hi\n".to_owned()));
        assert_eq!(run(&["sh", "-c", "kill -TERM $$"]), (143, String::new()));
        assert_eq!(run(&["/nowhere/to/be/found"]).0, 127);
        assert_eq!(run(&[&example("writes"), "part:x", "abort"]), (134, if output == "prefix" { "x\n" } else { "x" }.to_owned()));
    }
}

#[test]
fn a_reader_that_does_not_read_stops_nobody_and_is_told_what_it_missed() {
    const LINES: usize = 40_000;
    for mode in modes() {
        let stage = Stage::new();
        let done = stage.path("done");
        let (reader, sink) = slow();
        let mut launch = writes(mode, &[&format!("lines:{LINES}:100"), &format!("touch:{done}"), "wait"]);
        launch.stdout = sink;
        let cluster = launch.start();
        wait_until(PROMPT * 5, "the worker has written all", || fs::exists(&done).expect("ours"));
        let clock = Stopwatch::start();
        assert_eq!(cluster.get("/healthz").0, 200);
        assert!(clock.elapsed() < PROMPT, "{:?}", clock.elapsed());
        let text = read_to_end(reader);
        cluster.until_log(&["lines of worker 0 were dropped: stdout is not read fast enough"]);
        let (code, _, err) = cluster.stop();
        assert_eq!(code, 0, "{err}");
        // Once, or more often where this machine is so slow that ten seconds have passed.
        let told = err.lines().filter_map(|line| line.split_once(" lines of worker 0 were dropped: ")?.0.rsplit(' ').next());
        let dropped: usize = told.map(|number| number.parse::<usize>().expect("a number")).sum();
        let text = text.join().expect("read");
        let numbers: Vec<usize> = by_worker(&text)[&Some(0)].iter().map(|line| whole(line, 100)).collect();
        assert!(numbers.is_sorted() && numbers.len() > 1000, "{}", numbers.len());
        assert_eq!(numbers.len() + dropped, LINES, "{err}");
    }
}

/// stdout and stderr are one pipe, lines are longer than a pipe takes at once, and our own log lines come between.
#[test]
fn our_own_log_does_not_tear_a_line_that_is_half_written() {
    for mode in modes() {
        let stage = Stage::new();
        let done = stage.path("done");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut launch = writes(mode, &["lines:400:9000", &format!("touch:{done}"), "wait"]).set("LOG", "debug");
        (launch.stdout, launch.stderr) = (Sink::To(writer.try_clone().expect("ours").into()), Sink::To(writer.into()));
        let cluster = launch.start();
        wait_until(PROMPT * 5, "the worker has written all", || fs::exists(&done).expect("ours"));
        let pid = cluster.ready(1)[0];
        fs::remove_file(&done).expect("ours");
        cluster.signal_inner(pid, Signal::SIGKILL);
        wait_until(PROMPT * 5, "its successor too", || fs::exists(&done).expect("ours"));
        let text = read_to_end(reader);
        cluster.ready(1);
        assert_eq!(cluster.stop().0, 0);
        let text = text.join().expect("read");
        let lines = by_worker(&text);
        let numbers: Vec<usize> = lines[&Some(0)].iter().map(|line| whole(line, 9000)).collect();
        assert!(numbers.len() > 50, "{numbers:?}");
        let log = &lines[&None];
        assert!(log.iter().all(|line| line.len() < 1000 && line.contains('Z')), "{log:?}");
        for text in ["worker ended", "were dropped: stdout is not read fast enough", "clusterinit ends"] {
            assert!(log.iter().any(|line| line.contains(text)), "{text}: {log:?}");
        }
    }
}

#[test]
fn floods_keep_nobody_from_anything_and_cost_no_memory() {
    let _alone = machine();
    for (mode, word) in modes().into_iter().zip(["flood", "endless"].into_iter().cycle()) {
        for is_read in [true, false] {
            let mut launch = writes(mode, &[word]).set("WORKERS", 2);
            let (_reader, sink) = slow();
            launch.stdout = if is_read { Sink::To(File::create("/dev/null").expect("there").into()) } else { sink };
            let cluster = launch.start();
            let pids = cluster.ready(2);
            for _ in 0..20 {
                let clock = Stopwatch::start();
                assert_eq!(cluster.get("/healthz").0, 200);
                assert!(clock.elapsed() < PROMPT, "{:?}", clock.elapsed());
            }
            cluster.signal_inner(pids[0], Signal::SIGKILL);
            cluster.until("it was replaced", |cluster| {
                !cluster.pids_in("ready").is_empty() && !cluster.pids_in("ready").contains(&pids[0])
            });
            cluster.ready(2);
            let memory = status_lines(cluster.pid(), &["VmHWM"]).pop().unwrap_or_default();
            let kib: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a figure");
            assert!(kib < 40_000, "{memory}");
            let clock = Stopwatch::start();
            assert_eq!(cluster.stop().0, 0);
            assert!(clock.elapsed() < PROMPT, "{:?}", clock.elapsed());
        }
    }
}

#[test]
fn json_stays_json() {
    let cluster = writes(Mode::Plain, &["json:20:9000", "out:{}", "out:{oops}", "out:{\"worker\":\"mine\"}", "exit:0"]);
    let (code, out, err) = cluster.set("WORKERS", 2).set("RESTART", "never").start().finish();
    assert_eq!(code, 0, "{err}");
    for slot in 0..2 {
        let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> = lines.filter(|line| line["worker"] == slot).collect();
        let numbers: Vec<u64> = lines.iter().filter_map(|line| line["n"].as_u64()).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        assert!(lines.contains(&serde_json::json!({"worker": slot})) && lines.len() == 21);
        assert!(out.contains(&format!("[worker {slot}] {{oops}}\n")));
    }
    assert_eq!(out.matches("\n{\"worker\":\"mine\"}\n").count(), 2, "left as it is");
}

/// Somebody has the worker's stdout open who is not to be found by anything: it is the test.
#[test]
fn who_outlives_the_tree_is_read_on_and_holds_up_nothing() {
    for mode in modes() {
        let cluster = writes(mode, &["out:begun", "part:and not ended", "wait"]).start();
        let pid = cluster.ready(1)[0];
        let mut holder = File::options().append(true).open(format!("/proc/{}/fd/1", cluster.outer(pid))).expect("a pipe");
        cluster.signal_inner(pid, Signal::SIGKILL);
        cluster.until("it was replaced", |cluster| cluster.pids_in("ready").iter().any(|other| *other != pid));
        cluster.until_out("[worker 0] and not ended\n");
        holder.write_all(b"from the grave\n").expect("nobody has closed it");
        cluster.until_out("\n[worker 0] from the grave\n");
        let clock = Stopwatch::start();
        holder.write_all(b"to the end").expect("nobody has closed it");
        cluster.signal(Signal::SIGTERM);
        assert_eq!(cluster.wait_exit(), 0);
        assert!(clock.elapsed() < PROMPT, "{:?}", clock.elapsed());
        cluster.until_out("\n[worker 0] to the end\n");
        drop(holder);
    }
}

#[test]
fn a_reload_goes_on_under_the_same_name() {
    for mode in modes() {
        let script = "echo hello $CLUSTERINIT_GENERATION; trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done";
        let launch = Launch::of(mode, &["sh", "-c", script]).set("OUTPUT", "prefix").set("WORKERS", 2).set("READY", "running");
        let cluster = launch.start();
        cluster.ready(2);
        cluster.signal(Signal::SIGUSR2);
        cluster.until_log(&["reload done"]);
        let (code, out, err) = cluster.stop();
        assert_eq!(code, 0, "{err}");
        for lines in by_worker(&out).values() {
            assert_eq!(lines[..], ["hello 1", "hello 2", "bye", "bye"], "{out}");
        }
    }
}

#[test]
fn inherit_is_the_very_same_file() {
    for mode in modes() {
        for (output, prefixed) in [("inherit", false), ("prefix", true)] {
            let stage = Stage::new();
            let path = stage.path("out");
            let file = File::create(&path).expect("ours");
            let seen = file.metadata().expect("ours");
            let mut launch = writes(mode, &["inode", "exit:0"]).set("OUTPUT", output).set("RESTART", "never");
            launch.stdout = Sink::To(file.into());
            assert_eq!(launch.start().finish().0, 0);
            let text = fs::read_to_string(&path).expect("ours");
            let first = text.split(' ').next().unwrap_or_default();
            let expected = format!("{}:{}:{:o}", seen.dev(), seen.ino(), seen.mode());
            assert_eq!((first == expected, text.starts_with("[worker 0] ")), (!prefixed, prefixed), "{text}");
        }
    }
}

#[test]
fn a_worker_of_another_user_can_open_its_stdout_anew() {
    if !has_root() {
        return;
    }
    for mode in modes() {
        let launch = Launch::of(mode, &["sh", "-c", "echo again > /dev/stdout; id -u"]);
        let launch = launch.set("OUTPUT", "prefix").set("WORKERS", 1).set("USER", "4321:4321").set("RESTART", "never");
        let (code, out, err) = launch.start().finish();
        assert_eq!((code, out.as_str()), (0, "[worker 0] again\n[worker 0] 4321\n"), "{err}");
    }
}

#[test]
fn what_the_caller_has_closed_stays_closed() {
    for mode in modes() {
        // No program whose runtime opens what it finds closed.
        let launch = Launch::of(mode, &["sh", "-c", "echo here >&2; exec sleep 1000"]).set("OUTPUT", "prefix").set("WORKERS", 1);
        let cluster = launch.set("READY", "running").wrap_sh("exec 1>&-").start();
        let worker = cluster.outer(cluster.ready(1)[0]);
        assert!(fs::read_link(format!("/proc/{worker}/fd/1")).is_err());
        cluster.until_log(&["[worker 0] here"]);
        assert_eq!(cluster.stop().0, 0);
    }
}
