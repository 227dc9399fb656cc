//! Real trees that share memory in every way, and the thread that reads them.

use std::collections::BTreeSet;

use tokio::runtime::Builder;
use tokio::time::timeout;

use super::*;
use crate::skip::has_python;
use crate::sys::family::Family;
use crate::sys::footprint::Footprint;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

fn run<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Asks for one and waits for it.
fn confirmed(processes: &[Pid]) -> Option<u64> {
    run(async {
        let mut confirmations = Confirmations::new();
        confirmations.ask(Time::default(), Life(7), processes.to_vec());
        let (life, bytes) = timeout(LONG, confirmations.next()).await.expect("an answer");
        assert_eq!(life, Life(7));
        bytes
    })
}

fn estimated(processes: &[Pid]) -> u64 {
    let mut footprint = Footprint::default();
    footprint.set(processes);
    footprint.read().expect("alive").bytes
}

#[test]
fn copy_on_write_pages_count_once() {
    if !has_python() {
        return;
    }
    let family = Family::python("kept = b'x' * (64 << 20)\nfor _ in range(3): os.fork() or signal.pause()");
    let processes = family.all();
    let (estimate, exact) = (estimated(&processes), confirmed(&processes).expect("ours"));
    assert!(estimate > 4 * 64 * MIB, "{estimate}");
    assert!((64 * MIB..90 * MIB).contains(&exact), "{exact} of {estimate}");
}

#[test]
fn a_child_that_has_not_reached_exec_is_no_second_parent() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    // The child of posix_spawn waits for somebody to open the other end.
    let script = format!(
        "kept = b'x' * (64 << 20)\nready()\nos.posix_spawn('/bin/true', ['true'], {{}}, \
         file_actions=[(os.POSIX_SPAWN_OPEN, 5, '{}', os.O_RDONLY, 0)])",
        fifo.display()
    );
    let family = Family::python(&script);
    let began = std::time::SystemTime::now();
    while family.all().len() < 2 {
        assert!(began.elapsed().is_ok_and(|waited| waited < LONG), "it starts no child");
    }
    let processes = family.all();
    let (estimate, exact) = (estimated(&processes), confirmed(&processes).expect("ours"));
    assert!(estimate > 2 * 64 * MIB, "{estimate}");
    assert!((64 * MIB..80 * MIB).contains(&exact), "{exact} of {estimate}");
}

#[test]
fn strangers_to_each_other_add_up() {
    if !has_python() {
        return;
    }
    let families = [Family::python("kept = b'x' * (32 << 20)"), Family::python("kept = b'x' * (16 << 20)")];
    let exact = confirmed(&[families[0].leader(), families[1].leader()]).expect("ours");
    assert!((48 * MIB..80 * MIB).contains(&exact), "{exact}");
}

/// `man 7 capabilities`.
const SYS_PTRACE: u32 = 19;
/// Whoever has one of these may look at everybody's memory (`perfmon` and `sys_admin` on new kernels).
const LOOKING: &str = "-sys_ptrace,-perfmon,-sys_admin";

#[test]
fn another_users_process_is_read_without_the_right_to_trace_it() {
    if procfs::has_capability(SYS_PTRACE) {
        return again_without(LOOKING, "another_users_process_is_read_without_the_right_to_trace_it");
    }
    let user = ["setpriv", "--reuid", "4711", "--regid", "4712", "--clear-groups"];
    let family = Family::start(&[&user[..], &["sh", "-c", "sleep 600 & echo; wait"]].concat());
    let forbidden = File::open(format!("/proc/{}/smaps_rollup", family.leader()));
    assert!(forbidden.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied), "the test proves nothing");
    let exact = confirmed(&family.all());
    assert!(exact.is_some_and(|bytes| (50_000..16 * MIB).contains(&bytes)), "{exact:?}");
}

#[test]
fn who_may_not_become_that_user_has_no_answer() {
    if procfs::has_capability(SYS_PTRACE) {
        return again_without(&format!("{LOOKING},-setuid"), "who_may_not_become_that_user_has_no_answer");
    }
    assert_eq!(confirmed(&[Pid(1)]), None, "it has more capabilities");
    let own = Pid(i32::try_from(std::process::id()).expect("pids fit"));
    assert_eq!(confirmed(&[own, Pid(1)]), None, "a part is no answer");
    assert!(confirmed(&[own]).is_some());
}

/// Runs one test of this file in a process that lacks capabilities.
#[expect(clippy::disallowed_methods, reason = "a test's own child")]
fn again_without(capabilities: &str, test: &str) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let status = std::process::Command::new("setpriv")
        .args(["--bounding-set", capabilities, "--inh-caps", capabilities])
        .arg(std::env::current_exe().expect("ours"))
        .args(["--exact", &format!("sys::smaps::tests::{test}")])
        .status();
    assert!(status.expect("util-linux is installed").success());
}

#[test]
fn the_dead_have_nothing() {
    if !has_python() {
        return;
    }
    let gone = Family::python("").leader();
    assert_eq!(confirmed(&[gone, Pid(i32::MAX)]), Some(0));
    assert_eq!(confirmed(&[]), Some(0));
}

#[test]
fn each_life_is_read_once_at_a_time_and_every_answer_comes() {
    if !has_python() {
        return;
    }
    let family = Family::python("kept = b'x' * (16 << 20)");
    run(async {
        let mut confirmations = Confirmations::new();
        for life in [1, 2, 1, 3, 2] {
            confirmations.ask(Time::default(), Life(life), family.all());
        }
        // What is given up takes no answer with it.
        assert!(timeout(Duration::ZERO, confirmations.next()).await.is_err() || confirmations.asked.len() == 2);
        let mut lives = BTreeSet::new();
        while !confirmations.asked.is_empty() {
            let (life, bytes) = timeout(LONG, confirmations.next()).await.expect("an answer");
            assert!(lives.insert(life) && bytes.is_some_and(|bytes| bytes > 16 * MIB), "{life:?} {bytes:?}");
        }
        assert!(lives.contains(&Life(3)) && lives.len() >= 2);
        assert!(timeout(Duration::from_millis(20), confirmations.next()).await.is_err(), "nothing was asked");
        confirmations.ask(Time::default(), Life(1), Vec::new());
        assert_eq!(timeout(LONG, confirmations.next()).await, Ok((Life(1), Some(0))), "again");
    });
}

#[test]
fn the_rollup_of_this_kernel_and_of_others() {
    let own = Rollup::parse(&fs::read_to_string("/proc/self/smaps_rollup").expect("ours")).expect("as the kernel writes it");
    assert!(own.pss > 0 && own.anonymous.is_some());
    let old = "00400000-7ffe00000000 ---p 00000000 00:00 0    [rollup]\nRss:    884 kB\nPss:    385 kB\nSwapPss:   1 kB\n";
    assert_eq!(Rollup::parse(old), Some(Rollup { range: "00400000-7ffe00000000".to_owned(), pss: 385 * 1024, anonymous: None }));
    for wrong in ["", "Rss: 1 kB", "x\nPss: 1\n", "x\nPss: -1 kB\n", "x\nPss: 18446744073709551615 kB\n"] {
        assert_eq!(Rollup::parse(wrong), None, "{wrong}");
    }
}

/// A reader that never answers, as one whose process holds its memory for ever.
#[tokio::test(flavor = "current_thread")]
async fn a_reader_that_is_stuck_is_given_up() {
    let mut confirmations = Confirmations::new();
    let at = |seconds| Time(Duration::from_secs(seconds));
    confirmations.asked.push_back((Life(1), Vec::new()));
    confirmations.begun = 1;
    confirmations.ask(at(10), Life(1), Vec::new());
    confirmations.ask(at(12), Life(2), Vec::new());
    assert!(confirmations.answers.try_recv().is_err(), "two seconds are not too long");
    confirmations.ask(at(13), Life(1), Vec::new());
    assert_eq!(confirmations.next().await, (Life(1), None));
    assert_eq!(confirmations.next().await, (Life(2), Some(0)), "the next one is read");
    confirmations.sender.send((1, (Life(1), Some(7)))).expect("a receiver");
    confirmations.ask(at(14), Life(3), Vec::new());
    assert_eq!(confirmations.next().await, (Life(3), Some(0)), "what came too late is dropped");
}
