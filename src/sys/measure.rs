//! Processes, memory, CPU time and connections of each worker's whole tree, for the side port: measured when asked, never before.
//!
//! One pass reads `/proc/PID/stat` of every process and yields to the loop as it goes; a second reads `statm` of the members of trees
//! of several processes. Answers are kept for 250 ms and shared by all who ask meanwhile. A figure that cannot be had is `None`.
//!
//! Memory is the resident pages of a tree of one; of several processes it is the estimate of [`footprint`].

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use tokio::sync::Mutex;
use tokio::task::yield_now;

use super::footprint::{self, Pages};
use super::owners::owners;
use super::procfs::{self, NOTIFY_SOCKET, Stat};
use super::traffic::{Listeners, traffic};
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
    /// Accepted on its listeners. Known, as what waits, only where ports are shared.
    pub connections: Option<u32>,
    /// Connections that wait in its accept queues.
    pub accept_queue: Option<u32>,
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
    pub async fn figures(&self, clock: Clock, workers: &[(Life, Pid)], listeners: &Listeners) -> Rc<ByLife> {
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
        let measured = Rc::new(measure(workers, listeners).await);
        *last = Some((clock.now(), Rc::clone(&measured)));
        measured
    }
}

/// Every worker is in the answer, if only with what cannot be had.
async fn measure(workers: &[(Life, Pid)], listeners: &Listeners) -> ByLife {
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
    let processes = members.iter().map(|tree| tree.iter().map(|stat| stat.pid).collect());
    let trees: Vec<(Life, Vec<Pid>)> = workers.iter().map(|(life, _)| *life).zip(processes).collect();
    for (life, traffic) in traffic(&trees, listeners).await {
        let figures = figures.entry(life).or_default();
        (figures.connections, figures.accept_queue) = (traffic.connections, traffic.accept_queue);
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
    let mut memory = footprint::Tree::default();
    for stat in &alive {
        if alive.len() == 1 {
            memory.add(Pages { resident: stat.resident_pages, shared: 0 });
        } else {
            take_turn(turn).await;
            if let Ok(pages) = Pages::of(stat.pid) {
                memory.add(pages);
            }
        }
    }
    let ticks = tree.iter().map(|stat| stat.cpu_ticks).sum();
    Figures {
        processes: u32::try_from(alive.len()).ok(),
        memory_bytes: memory.pages().zip(units.page_bytes).map(|(pages, bytes)| pages.saturating_mul(bytes)),
        cpu_time: units.time(ticks),
        ..Figures::default()
    }
}

/// What the kernel counts in.
#[derive(Clone, Copy, Debug)]
struct Units {
    page_bytes: Option<u64>,
    ticks_per_second: Option<u64>,
}

impl Units {
    fn of_this_kernel() -> Self {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|value| u64::try_from(value).ok());
        Self { page_bytes: footprint::page_bytes(), ticks_per_second: ticks.filter(|value| *value > 0) }
    }

    fn time(self, ticks: u64) -> Option<Duration> {
        self.ticks_per_second.map(|hertz| Duration::from_millis(ticks.saturating_mul(1000) / hertz))
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;
    use crate::sys::family::Family;

    fn run<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    fn own() -> Pid {
        Pid(i32::try_from(std::process::id()).expect("pids fit"))
    }

    #[test]
    fn a_real_tree_is_measured_and_a_gone_one_is_unknown() {
        let family = Family::start(&["sh", "-c", "sleep 600 & echo; wait"]);
        let workers = [(Life(1), family.leader()), (Life(2), Pid(i32::MAX))];
        let figures = run(measure(&workers, &Listeners::new()));
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
            let first = meter.figures(clock, &[(Life(1), own())], &Listeners::new()).await;
            let second = meter.figures(clock, &[(Life(1), own())], &Listeners::new()).await;
            assert!(Rc::ptr_eq(&first, &second), "kept");
            let third = meter.figures(clock, &[(Life(1), own()), (Life(2), own())], &Listeners::new()).await;
            assert!(third.contains_key(&Life(2)) && !Rc::ptr_eq(&first, &third));
            assert!(clock.now() >= Time(KEPT), "not more often than every 250 ms");
        });
    }
}
