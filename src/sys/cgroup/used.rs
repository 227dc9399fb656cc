//! What the container has in memory, and how often the kernel's OOM killer came, by descriptors that stay open.
//!
//! | | v2 | v1 |
//! |---|---|---|
//! | all that is charged | `memory.current` | `memory.usage_in_bytes` |
//! | page cache | `memory.stat` | `memory.stat`, the lines that begin with `total_` |
//! | OOM kills | `memory.events`, with all groups below | `memory.oom_control` of the group of the victim (Linux 4.13) |

use std::path::Path;

use super::hierarchy::{Controller, Level};
use super::parse::{self, Version};
use crate::sys::kept::Kept;

/// Bytes: some 60 lines of 40. What we look for is in the first half of them.
pub(in crate::sys) const STAT: usize = 8192;

#[derive(Debug)]
pub struct Container {
    version: Version,
    charged: Kept,
    stat: Kept,
    /// v2: that of the limit. v1: of our own group, where the workers are, and of those above up to that of the limit.
    kills: Vec<Kept>,
}

impl Container {
    /// Of the cgroup whose limit is in force (that of [`super::Limits`]); `None` where there is none to be read. v1 knows the limits of
    /// ancestors that a namespace hides: then of the highest that is seen, which is nearest to it and has less than it.
    pub fn open(root: &Path) -> Option<Self> {
        let [levels] = super::levels(root, [Controller::Memory]);
        let (limited, below) = levels.get(..=in_force(root, &levels)?)?.split_last()?;
        let open = |level: &Level, file: &str| {
            let path = level.directory.join(file);
            Kept::open(&root.join(path.strip_prefix("/").ok()?)).ok()
        };
        let (charged, kills) = match limited.version {
            Version::V2 => ("memory.current", open(limited, "memory.events").into_iter().collect()),
            Version::V1 => {
                let all = below.iter().chain([limited]);
                ("memory.usage_in_bytes", all.filter_map(|level| open(level, "memory.oom_control")).collect())
            }
        };
        Some(Self { version: limited.version, charged: open(limited, charged)?, stat: open(limited, "memory.stat")?, kills })
    }

    /// Bytes in use that page cache cannot give back. `enough`: whoever asks wants to know no more than that it is below this, so that
    /// the dear look (`memory.stat`) is spared where the cheap one (`memory.current`) will do. Then it is all that is charged.
    pub fn used(&mut self, enough: u64) -> Option<u64> {
        let charged = number(&self.charged, &mut [0; 32])?;
        if charged < enough {
            return Some(charged);
        }
        let mut stat = [0; STAT];
        without_cache(charged, self.stat.read(&mut stat).ok()?, self.version)
    }

    /// How many processes the kernel's OOM killer has killed in it so far.
    pub fn oom_kills(&mut self) -> Option<u64> {
        let mut text = [0; 512];
        let mut counts = self.kills.iter().filter_map(|file| parse::flat_value(file.read(&mut text).ok()?, "oom_kill"));
        let first = counts.next()?;
        Some(counts.fold(first, u64::saturating_add))
    }
}

/// A file that is one number.
pub(in crate::sys) fn number(file: &Kept, buffer: &mut [u8]) -> Option<u64> {
    file.read(buffer).ok()?.trim_ascii().parse().ok()
}

/// What page cache cannot give back of what is charged.
pub(in crate::sys) fn without_cache(charged: u64, stat: &str, version: Version) -> Option<u64> {
    Some(charged.saturating_sub(page_cache(stat, version)?))
}

/// Which of the levels has the limit.
fn in_force(root: &Path, levels: &[Level]) -> Option<usize> {
    let numbered = || levels.iter().enumerate();
    let own = numbered().filter_map(|(index, level)| Some((index, super::memory_limit(root, level)?.bytes)));
    let hidden = numbered().rev().filter_map(|(index, level)| Some((index, super::inherited_memory_limit(root, level)?.bytes)));
    super::tightest(own.chain(hidden), |a, b| a.1 < b.1).map(|(index, _)| index)
}

/// Bytes of files that may be dropped. Shared memory is not among them, nor what is locked.
fn page_cache(stat: &str, version: Version) -> Option<u64> {
    let [inactive, active] = match version {
        Version::V2 => ["inactive_file", "active_file"],
        // Without `total_` a line leaves out the groups below.
        Version::V1 => ["total_inactive_file", "total_active_file"],
    };
    parse::flat_value(stat, inactive)?.checked_add(parse::flat_value(stat, active)?)
}
