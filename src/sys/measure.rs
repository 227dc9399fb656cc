//! Processes, memory and CPU time of each worker's whole tree, for the side port: measured when asked, never before.
//!
//! One pass reads `/proc/PID/stat` of every process and yields to the loop as it goes; a second reads `statm` of the members of trees
//! of several processes. Answers are kept for 250 ms and shared by all who ask meanwhile. A figure that cannot be had is `None`.
//!
//! Memory is the resident pages of a tree of one; of several processes it is the sum of what each has for itself (resident
//! without shared) and the largest shared part. That counts a page that all of them share once, and misses what only some share:
//! an estimate from below, and far nearer than the plain sum. Shared pages here are file and shmem pages; copy-on-write pages
//! between a parent and its forked children are counted in each.

use std::collections::HashMap;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use tokio::sync::Mutex;
use tokio::task::yield_now;

use super::owners::owners;
use super::procfs::{self, NOTIFY_SOCKET, Stat};
use crate::cluster::words::{Life, Pid, Time};
use crate::runtime::clock::Clock;

/// An answer may be this old.
const KEPT: Duration = Duration::from_millis(250);
/// Processes that are read before others get a turn: about a millisecond.
const TURN: usize = 64;

/// What one worker uses, with all that it has started. `None`: cannot be had here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Zombies do not count.
    pub processes: Option<u32>,
    pub memory_bytes: Option<u64>,
    /// User and system time, of children that were waited for too.
    pub cpu_time: Option<Duration>,
}

pub type ByLife = HashMap<Life, Figures>;

/// Measures at most every 250 ms, however many ask.
#[derive(Debug, Default)]
pub struct Meter {
    last: Mutex<Option<(Time, Rc<ByLife>)>>,
}

impl Meter {
    /// Figures for these workers. Who asks during a measurement gets that one; who asks for a worker that the last one did not
    /// know waits until the next may begin, rather than be told nothing.
    pub async fn figures(&self, clock: Clock, workers: &[(Life, Pid)]) -> Rc<ByLife> {
        let mut last = self.last.lock().await;
        if let Some((at, known)) = &*last {
            let age = clock.now().since(*at);
            if age < KEPT {
                if workers.iter().all(|(life, _)| known.contains_key(life)) {
                    return Rc::clone(known);
                }
                tokio::time::sleep(KEPT.saturating_sub(age)).await;
            }
        }
        let measured = Rc::new(measure(workers).await);
        *last = Some((clock.now(), Rc::clone(&measured)));
        measured
    }
}

/// Every worker is in the answer, if only with what cannot be had.
async fn measure(workers: &[(Life, Pid)]) -> ByLife {
    let leaders: Vec<Pid> = workers.iter().map(|(_, leader)| *leader).collect();
    let stats = all_stats().await.unwrap_or_default();
    let own = std::process::id().try_into().map_or(Pid(0), Pid);
    let unmarked = owners(&stats, &leaders, &[], own);
    let strays: Vec<Pid> = stats
        .iter()
        .zip(&unmarked)
        .filter(|(stat, owner)| owner.is_none() && stat.parent == own)
        .map(|(stat, _)| stat.pid)
        .collect();
    let marked = marks(&strays, &leaders).await;
    let owner_of = if marked.is_empty() { unmarked } else { owners(&stats, &leaders, &marked, own) };
    let mut members: Vec<Vec<&Stat>> = vec![Vec::new(); leaders.len()];
    for (stat, owner) in stats.iter().zip(owner_of) {
        if let Some(tree) = owner.and_then(|owner| members.get_mut(owner)) {
            tree.push(stat);
        }
    }
    let units = Units::of_this_kernel();
    let mut figures = ByLife::with_capacity(workers.len());
    let mut turn = 0;
    for ((life, _), tree) in workers.iter().zip(&members) {
        figures.insert(*life, figures_of(tree, units, &mut turn).await);
    }
    figures
}

/// Which strays carry the `NOTIFY_SOCKET` of which leader.
async fn marks(strays: &[Pid], leaders: &[Pid]) -> Vec<(Pid, usize)> {
    let mut marked = Vec::new();
    if strays.is_empty() {
        return marked;
    }
    let mut turn = 0;
    let mut leader_of = HashMap::new();
    for (index, leader) in leaders.iter().enumerate() {
        take_turn(&mut turn).await;
        leader_of.extend(procfs::environment_entry(*leader, NOTIFY_SOCKET).map(|entry| (entry, index)));
    }
    for stray in strays {
        take_turn(&mut turn).await;
        let owner = procfs::environment_entry(*stray, NOTIFY_SOCKET).and_then(|entry| leader_of.get(&entry));
        marked.extend(owner.map(|owner| (*stray, *owner)));
    }
    marked
}

async fn all_stats() -> Option<Vec<Stat>> {
    let mut stats = Vec::new();
    let mut turn = 0;
    for pid in procfs::all()? {
        take_turn(&mut turn).await;
        stats.extend(procfs::stat(pid));
    }
    Some(stats)
}

async fn take_turn(turn: &mut usize) {
    *turn += 1;
    if turn.is_multiple_of(TURN) {
        yield_now().await;
    }
}

async fn figures_of(tree: &[&Stat], units: Units, turn: &mut usize) -> Figures {
    if tree.is_empty() {
        return Figures::default();
    }
    let alive: Vec<&&Stat> = tree.iter().filter(|stat| !stat.is_zombie()).collect();
    let mut pages = Vec::with_capacity(alive.len());
    for stat in &alive {
        if alive.len() == 1 {
            pages.push(Pages { resident: stat.resident_pages, shared: 0 });
        } else {
            take_turn(turn).await;
            pages.extend(statm(stat.pid));
        }
    }
    let ticks = tree.iter().map(|stat| stat.cpu_ticks).sum();
    Figures {
        processes: u32::try_from(alive.len()).ok(),
        // No page at all: it is exiting and has given its memory back, or the kernel does not say.
        memory_bytes: shared_once(&pages)
            .filter(|pages| *pages > 0)
            .zip(units.page_bytes)
            .map(|(pages, bytes)| pages.saturating_mul(bytes)),
        cpu_time: units.time(ticks),
    }
}

/// `/proc/PID/statm`, fields 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pages {
    resident: u64,
    /// The part of `resident` that is file or shmem pages.
    shared: u64,
}

fn statm(pid: Pid) -> Option<Pages> {
    parse_statm(&fs::read_to_string(procfs::root()?.join(format!("{pid}/statm"))).ok()?)
}

fn parse_statm(text: &str) -> Option<Pages> {
    let mut fields = text.split_ascii_whitespace().skip(1).map(str::parse);
    Some(Pages { resident: fields.next()?.ok()?, shared: fields.next()?.ok()? })
}

fn shared_once(members: &[Pages]) -> Option<u64> {
    let private: u64 = members.iter().map(|pages| pages.resident.saturating_sub(pages.shared)).sum();
    let shared = members.iter().map(|pages| pages.shared.min(pages.resident)).max()?;
    Some(private + shared)
}

/// What the kernel counts in.
#[derive(Clone, Copy, Debug)]
struct Units {
    page_bytes: Option<u64>,
    ticks_per_second: Option<u64>,
}

impl Units {
    fn of_this_kernel() -> Self {
        let unit = |name| sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
        Self { page_bytes: unit(SysconfVar::PAGE_SIZE), ticks_per_second: unit(SysconfVar::CLK_TCK) }
    }

    fn time(self, ticks: u64) -> Option<Duration> {
        self.ticks_per_second.map(|hertz| Duration::from_millis(ticks.saturating_mul(1000) / hertz))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use tokio::runtime::Builder;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    fn own() -> Pid {
        Pid(i32::try_from(std::process::id()).expect("pids fit"))
    }

    #[test]
    fn a_page_that_all_share_counts_once() {
        let all = [Pages { resident: 100, shared: 60 }, Pages { resident: 90, shared: 60 }, Pages { resident: 70, shared: 50 }];
        assert_eq!(shared_once(&all), Some(40 + 30 + 20 + 60));
        assert_eq!(shared_once(&[]), None);
    }

    #[test]
    fn statm_is_read_and_nonsense_is_not() {
        assert_eq!(parse_statm("5123 321 200 1 0 99 0\n"), Some(Pages { resident: 321, shared: 200 }));
        for wrong in ["", "5123", "5123 321", "5123 x 200"] {
            assert_eq!(parse_statm(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_tree_is_no_smaller_than_its_largest_and_no_larger_than_the_sum(
            all in proptest::collection::vec((0u64..1_000_000, 0u64..1_000_000), 1..20)
        ) {
            let pages: Vec<Pages> = all.iter().map(|(private, shared)| Pages { resident: private + shared, shared: *shared }).collect();
            let total = shared_once(&pages).expect("not empty");
            prop_assert!(total >= pages.iter().map(|one| one.resident).max().unwrap_or(0));
            prop_assert!(total <= pages.iter().map(|one| one.resident).sum());
        }
    }

    /// A shell with one child, both in a group of their own, gone at the end of the test.
    struct Family(std::process::Child);

    impl Family {
        #[expect(clippy::disallowed_methods, reason = "a test's own child")]
        fn start() -> Self {
            use std::os::unix::process::CommandExt;
            let shell = Command::new("sh")
                .args(["-c", "sleep 600 & echo; wait"])
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .expect("a shell");
            let mut family = Self(shell);
            let mut byte = [0];
            std::io::Read::read_exact(family.0.stdout.as_mut().expect("piped"), &mut byte).expect("the shell says so");
            family
        }

        fn leader(&self) -> Pid {
            Pid(i32::try_from(self.0.id()).expect("pids fit"))
        }
    }

    impl Drop for Family {
        #[expect(clippy::disallowed_methods, reason = "a test's own child")]
        fn drop(&mut self) {
            let group = nix::unistd::Pid::from_raw(self.leader().0);
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).expect("its own group");
            self.0.wait().expect("its own child");
        }
    }

    #[test]
    fn a_real_tree_is_measured_and_a_gone_one_is_unknown() {
        let family = Family::start();
        let workers = [(Life(1), family.leader()), (Life(2), Pid(i32::MAX))];
        let figures = run(measure(&workers));
        let tree = figures[&Life(1)];
        assert_eq!(tree.processes, Some(2));
        assert!(tree.memory_bytes.is_some_and(|bytes| bytes > 100_000), "{tree:?}");
        assert!(tree.cpu_time.is_some());
        assert_eq!(figures[&Life(2)], Figures::default());
    }

    #[test]
    fn who_asks_meanwhile_gets_the_same_and_a_new_worker_gets_a_new_look() {
        run(async {
            let (meter, clock) = (Meter::default(), Clock::start());
            let first = meter.figures(clock, &[(Life(1), own())]).await;
            let second = meter.figures(clock, &[(Life(1), own())]).await;
            assert!(Rc::ptr_eq(&first, &second), "kept");
            let third = meter.figures(clock, &[(Life(1), own()), (Life(2), own())]).await;
            assert!(third.contains_key(&Life(2)) && !Rc::ptr_eq(&first, &third));
            assert!(clock.now() >= Time(KEPT), "not more often than every 250 ms");
        });
    }
}
