//! The estimate as a sum, and real processes.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::skip::has_python;
use crate::sys::family::Family;

const MIB: u64 = 1 << 20;
/// What takes longer than this does not happen.
const LONG: Duration = Duration::from_secs(60);

fn own() -> Pid {
    Pid(i32::try_from(std::process::id()).expect("pids fit"))
}

fn sum(all: impl IntoIterator<Item = Pages>) -> Tree {
    all.into_iter().fold(Tree::default(), |mut tree, pages| {
        tree.add(pages);
        tree
    })
}

fn footprint(processes: &[Pid]) -> Footprint {
    let mut footprint = Footprint::default();
    footprint.set(processes);
    footprint
}

#[test]
fn a_page_that_all_share_counts_once() {
    let all = [Pages { resident: 100, shared: 60 }, Pages { resident: 90, shared: 60 }, Pages { resident: 70, shared: 50 }];
    assert_eq!(sum(all).pages(), Some(40 + 30 + 20 + 60));
    assert_eq!(sum([]).pages(), None);
    assert_eq!(sum([Pages { resident: 0, shared: 0 }]).pages(), None, "it exits");
}

#[test]
fn statm_is_read_and_nonsense_is_not() {
    assert_eq!(Pages::parse("5123 321 200 1 0 99 0\n").expect("a line"), Pages { resident: 321, shared: 200 });
    assert!(has_gone(&Pages::parse("").expect_err("no line")));
    for wrong in ["5123", "5123 321", "5123 x 200", "5123 321 x"] {
        assert!(!has_gone(&Pages::parse(wrong).expect_err(wrong)), "{wrong}");
    }
}

#[test]
fn one_process_is_exact_as_soon_as_its_counters_are() {
    let reading = |pages: &[u64], cpus| {
        let all = pages.iter().map(|resident| Pages { resident: *resident, shared: resident / 4 });
        sum(all).reading(4096, cpus).expect("pages")
    };
    // Two CPUs: 64 pages of error, so 4096 pages are not enough yet; 64 CPUs: 8192 pages.
    assert_eq!(reading(&[4096], 2), Reading { bytes: 16 * MIB, returns: 12 * MIB, least: 16 * MIB, exact: false });
    assert_eq!(reading(&[1024, 4096], 2).least, 16 * MIB, "what the smaller one has may be the larger one's too");
    assert!(reading(&[4160], 2).exact && !reading(&[4160], 4).exact);
    assert!(!reading(&[64 * 8192], 64).exact && reading(&[64 * 8193], 64).exact);
    assert!(reading(&[0, 100_000, 0], 2).exact, "zombies have no counters");
    assert!(!reading(&[100_000, 1], 2).exact);
}

#[test]
fn cpu_lists_are_counted() {
    for (list, cpus) in [("0\n", 1), ("0-1\n", 2), ("0-3,8,10-11\n", 7)] {
        assert_eq!(listed_cpus(list), Some(cpus), "{list}");
    }
    for wrong in ["", "\n", "3-1\n", "0-\n", "x\n", "0-18446744073709551615,0"] {
        assert_eq!(listed_cpus(wrong), None, "{wrong}");
    }
    assert!(machine_cpus() >= u64::from(affinity::cpus()));
}

proptest! {
    #[test]
    fn a_tree_is_no_smaller_than_its_largest_and_no_larger_than_the_sum(
        all in proptest::collection::vec((0u64..1_000_000, 0u64..1_000_000), 1..20)
    ) {
        let pages: Vec<Pages> = all.iter().map(|(private, shared)| Pages { resident: private + shared, shared: *shared }).collect();
        let total = sum(pages.clone()).pages().unwrap_or(0);
        prop_assert!(total >= pages.iter().map(|one| one.resident).max().unwrap_or(0));
        prop_assert!(total <= pages.iter().map(|one| one.resident).sum());
    }

    #[test]
    fn parsers_take_any_text(text in "\\PC{0,40}|([0-9.]{0,25}[ /,-]){0,8}") {
        let _ = Pages::parse(&text);
        let _ = (listed_cpus(&text), last_pid(&text));
    }
}

#[test]
fn what_a_process_allocates_is_seen_and_comes_back() {
    if !has_python() {
        return;
    }
    let bare = Family::python("");
    let bare = footprint(&bare.all()).read().expect("it is alive");
    let family = Family::python("kept = b'x' * (96 << 20)");
    let reading = footprint(&family.all()).read().expect("it is alive");
    let grown = reading.bytes - bare.bytes;
    assert!((94 * MIB..99 * MIB).contains(&grown), "{bare:?} {reading:?}");
    assert!(reading.returns > 94 * MIB && reading.returns < reading.bytes && reading.exact, "{reading:?}");
}

#[test]
fn forked_children_are_counted_with_what_they_share() {
    if !has_python() {
        return;
    }
    let family = Family::python("kept = b'x' * (64 << 20)\nfor _ in range(3): os.fork() or signal.pause()");
    let processes = family.all();
    assert_eq!(processes.len(), 4);
    let reading = footprint(&processes).read().expect("alive");
    assert!(reading.bytes > 4 * 60 * MIB && !reading.exact, "{reading:?}");
}

#[test]
fn the_dead_are_not_read_again_and_zombies_have_nothing() {
    assert_eq!(footprint(&[Pid(i32::MAX)]).read(), None);
    assert_eq!(Footprint::default().read(), None);
    let family = Family::start(&["sh", "-c", "sleep 600 & sleep 600 & echo; wait"]);
    let processes = family.all();
    let mut footprint = footprint(&processes);
    assert!(footprint.read().is_some_and(|reading| !reading.exact));
    let killed = nix::unistd::Pid::from_raw(processes[0].0);
    nix::sys::signal::kill(killed, nix::sys::signal::Signal::SIGKILL).expect("its own child");
    let began = SystemTime::now();
    let is_zombie = || procfs::stat(processes[0]).is_some_and(|stat| stat.is_zombie());
    while !is_zombie() {
        assert!(began.elapsed().is_ok_and(|waited| waited < LONG), "it outlives SIGKILL");
    }
    assert!(footprint.read().is_some(), "its children live");
    assert_eq!(footprint.members.len(), 3, "a zombie has its number still");
    drop(family);
    // The orphans are reaped by whoever is init here.
    while footprint.read().is_some() || !footprint.members.is_empty() {
        assert!(began.elapsed().is_ok_and(|waited| waited < LONG), "{footprint:?}");
        std::thread::yield_now();
    }
}

#[test]
fn who_stays_is_not_opened_again_and_a_dead_descriptor_does_not_stand_for_the_next_of_its_number() {
    if !has_python() {
        return;
    }
    let (staying, leaving) = (Family::python(""), Family::python(""));
    let mut footprint = footprint(&[staying.leader(), leaving.leader()]);
    let inodes = |footprint: &Footprint| -> Vec<_> {
        let files = footprint.members.iter().map(|member| member.statm.as_ref().expect("few are kept").file.file());
        files.map(std::os::fd::AsRawFd::as_raw_fd).collect()
    };
    let before = inodes(&footprint);
    footprint.set(&[leaving.leader(), own(), staying.leader()]);
    let after = inodes(&footprint);
    assert_eq!((before[1], before[0]), (after[0], after[2]));

    // As if the number of one that has gone had been given to `staying` since.
    let number = leaving.leader();
    let stale = footprint.members.remove(0).statm.expect("few are kept");
    assert_eq!(footprint.members.len(), 2);
    drop(leaving);
    assert!(has_gone(&stale.pages().expect_err("gone")), "bound to its process, {number}");
    footprint.members = vec![Member { pid: staying.leader(), statm: Some(stale) }];
    footprint.set(&[staying.leader()]);
    assert!(footprint.read().is_some(), "opened again");
}

#[test]
fn a_large_tree_keeps_no_more_than_its_part_and_is_read_whole() {
    let many: Vec<Pid> = std::iter::repeat_n(own(), KEPT_BY_ONE + 44).collect();
    let mut footprint = footprint(&many);
    assert!(footprint.members.iter().filter(|member| member.statm.is_some()).count() <= KEPT_BY_ONE);
    let reading = footprint.read().expect("we are alive");
    assert_eq!(footprint.members.len(), many.len());
    let one = self::footprint(&[own()]).read().expect("we are alive");
    assert!(reading.returns > one.returns * 280, "{reading:?} {one:?}");
}

#[test]
fn a_birth_is_noticed() {
    let mut births = Births::default();
    assert!(births.any(), "nothing is known yet");
    let began = SystemTime::now();
    // Other tests start processes as well: there must be a moment without.
    while births.any() {
        assert!(began.elapsed().is_ok_and(|waited| waited < LONG), "it always says so");
    }
    let family = Family::start(&["sh", "-c", "echo; exec sleep 600"]);
    assert!(births.any(), "{} was born", family.leader());
    std::thread::spawn(|| ()).join().expect("a thread");
    assert!(births.any(), "a thread, too");
}

#[test]
fn the_last_pid_is_the_fifth_field_and_never_zero() {
    assert_eq!(last_pid("0.73 1.04 2.49 2/97 22894\n"), Some(22894));
    for wrong in ["", "0.00 0.00 0.00 0/0 0\n", "0.73 1.04 2.49 2/97\n", "0.73 1.04 2.49 2/97 x\n"] {
        assert_eq!(last_pid(wrong), None, "{wrong}");
    }
}
