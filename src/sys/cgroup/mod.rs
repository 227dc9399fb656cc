//! The CPU and memory limits of the container that we are in, and the file that each comes from.
//!
//! cgroup v2, v1 and hybrids, own and host cgroup namespaces, bind-mounted subtrees and co-mounted controllers. A limit may sit on any
//! ancestor, so all that are visible are read and the tightest one wins. Nothing here is an error: what cannot be read, or does
//! not look as the kernel writes it, is absent, and the caller falls back to the affinity mask.

mod hierarchy;
pub mod parse;
#[cfg(test)]
mod tests;

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
    let under = |path: &str| fs::read(root.join(path)).unwrap_or_default();
    let memberships = parse::memberships(&under("proc/self/cgroup"));
    let mounts = parse::mounts(&under("proc/self/mountinfo"));
    let levels = |controller| hierarchy::levels(controller, &memberships, &mounts);
    Limits {
        cpu: tightest(levels(Controller::Cpu).iter().filter_map(|level| cpu_limit(root, level)), |a, b| a.cpus < b.cpus),
        memory: tightest(levels(Controller::Memory).iter().flat_map(|level| memory_limits(root, level)), |a, b| {
            a.bytes < b.bytes
        }),
    }
}

/// The first of the tightest: levels come from the leaf upwards, and the nearest file is the one that a user would look at.
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

/// v1 knows the limit of ancestors that a cgroup namespace hides: `memory.stat` has the tightest one of the whole hierarchy.
fn memory_limits(root: &Path, level: &Level) -> Vec<MemoryLimit> {
    let limit = |file, parse: fn(&str) -> Option<u64>| {
        let (source, text) = contents(root, level, file)?;
        Some(MemoryLimit { bytes: parse(&text)?, source })
    };
    let limits = match level.version {
        Version::V2 => [limit("memory.max", parse::memory_max), None],
        Version::V1 => {
            [limit("memory.limit_in_bytes", parse::memory_limit_in_bytes), limit("memory.stat", parse::hierarchical_memory_limit)]
        }
    };
    limits.into_iter().flatten().collect()
}

/// A file of one cgroup: its path as the user sees it, and its text.
fn contents(root: &Path, level: &Level, file: &str) -> Option<(PathBuf, String)> {
    let path = level.directory.join(file);
    let text = fs::read_to_string(root.join(path.strip_prefix("/").ok()?)).ok()?;
    Some((path, text))
}
