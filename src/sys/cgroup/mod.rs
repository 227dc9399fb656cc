//! The CPU and memory limits of the container that we are in, and the file that each comes from.
//!
//! cgroup v2, v1 and hybrids, own and host cgroup namespaces, bind-mounted subtrees and co-mounted controllers. A limit may sit on any
//! ancestor, so all that are visible are read and the tightest one wins. Nothing here is an error: what cannot be read, or does
//! not look as the kernel writes it, is absent, and the caller falls back to the affinity mask.

mod hierarchy;
pub mod parse;
pub mod pressure;
#[cfg(test)]
mod tests;
pub mod throttled;
pub mod used;
pub mod whole;

use std::fs;
use std::path::{Path, PathBuf};

use hierarchy::{Controller, Level};
use parse::Version;

/// The limits in force. `None`: no limit, or none that can be seen from here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub cpu: Option<CpuLimit>,
    pub memory: Option<MemoryLimit>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CpuLimit {
    /// Quota divided by period: 1.5 is one CPU and a half. Always positive, and may exceed the number of CPUs.
    pub cpus: f64,
    /// The file with the quota.
    pub source: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    pub bytes: u64,
    pub source: PathBuf,
}

/// Reads the limits of this process from the file tree at `root`: `/`, or a copy of one in tests. `source` is the path as seen from
/// inside that tree.
pub fn read(root: &Path) -> Limits {
    let [cpu, memory] = levels(root, [Controller::Cpu, Controller::Memory]);
    let own = memory.iter().filter_map(|level| memory_limit(root, level));
    let inherited = memory.iter().filter_map(|level| inherited_memory_limit(root, level));
    Limits {
        cpu: tightest(cpu.iter().filter_map(|level| cpu_limit(root, level)), |a, b| a.cpus < b.cpus),
        memory: tightest(own.chain(inherited), |a, b| a.bytes < b.bytes),
    }
}

/// The files of all levels that limits are written to, where they are: what a watch has to look at. CPU sets too, which `read` leaves to
/// the affinity mask: a runtime writes them as it writes a quota.
pub fn limit_files(root: &Path) -> Vec<PathBuf> {
    let controllers = [Controller::Cpu, Controller::Cpuset, Controller::Memory];
    let mut all = Vec::new();
    for (controller, levels) in controllers.into_iter().zip(levels(root, controllers)) {
        for level in levels {
            all.extend(limit_names(controller, level.version).iter().map(|name| level.directory.join(name)));
        }
    }
    let outside = all.iter().filter_map(|path| Some(root.join(path.strip_prefix("/").ok()?)));
    outside.filter(|path| path.exists()).collect()
}

fn limit_names(controller: Controller, version: Version) -> &'static [&'static str] {
    match (controller, version) {
        (Controller::Cpu, Version::V2) => &["cpu.max"],
        (Controller::Cpu, Version::V1) => &["cpu.cfs_quota_us", "cpu.cfs_period_us"],
        (Controller::Cpuset, _) => &["cpuset.cpus"],
        (Controller::Memory, Version::V2) => &["memory.max"],
        (Controller::Memory, Version::V1) => &["memory.limit_in_bytes"],
        (Controller::None, _) => &[],
    }
}

/// Of each of these controllers, the levels at which it may be limited.
fn levels<const N: usize>(root: &Path, controllers: [Controller; N]) -> [Vec<Level>; N] {
    let under = |path: &str| fs::read(root.join(path)).unwrap_or_default();
    let memberships = parse::memberships(&under("proc/self/cgroup"));
    let mounts = parse::mounts(&under("proc/self/mountinfo"));
    controllers.map(|controller| hierarchy::levels(controller, &memberships, &mounts))
}

/// The first of the tightest: levels come from the leaf upwards, and the file where the limit was set before those that inherit it.
fn tightest<T>(limits: impl Iterator<Item = T>, is_tighter: impl Fn(&T, &T) -> bool) -> Option<T> {
    limits.reduce(|best, next| if is_tighter(&next, &best) { next } else { best })
}

fn cpu_limit(root: &Path, level: &Level) -> Option<CpuLimit> {
    match level.version {
        Version::V2 => {
            let (source, text) = contents(root, level, "cpu.max")?;
            Some(CpuLimit { cpus: parse::cpu_max(&text)?, source })
        }
        Version::V1 => {
            let (source, quota) = contents(root, level, "cpu.cfs_quota_us")?;
            let (_, period) = contents(root, level, "cpu.cfs_period_us")?;
            Some(CpuLimit { cpus: parse::cfs_quota(&quota, &period)?, source })
        }
    }
}

fn memory_limit(root: &Path, level: &Level) -> Option<MemoryLimit> {
    let (file, parse): (_, fn(&str) -> Option<u64>) = match level.version {
        Version::V2 => ("memory.max", parse::memory_max),
        Version::V1 => ("memory.limit_in_bytes", parse::memory_limit_in_bytes),
    };
    let (source, text) = contents(root, level, file)?;
    Some(MemoryLimit { bytes: parse(&text)?, source })
}

/// v1 also tells the limit of ancestors that a cgroup namespace hides: `memory.stat` has the tightest one of the whole hierarchy.
fn inherited_memory_limit(root: &Path, level: &Level) -> Option<MemoryLimit> {
    if level.version == Version::V2 {
        return None;
    }
    let (source, text) = contents(root, level, "memory.stat")?;
    Some(MemoryLimit { bytes: parse::hierarchical_memory_limit(&text)?, source })
}

/// A file of one cgroup: its path as the user sees it, and its text.
fn contents(root: &Path, level: &Level, file: &str) -> Option<(PathBuf, String)> {
    let path = level.directory.join(file);
    let text = fs::read_to_string(root.join(path.strip_prefix("/").ok()?)).ok()?;
    Some((path, text))
}
