//! How much the CPU quota holds the container back, by a descriptor that stays open.
//!
//! | | v2 `cpu.stat` | v1 `cpu.stat` |
//! |---|---|---|
//! | periods of the quota in which something ran | `nr_periods` | `nr_periods` |
//! | those that ended with somebody waiting for the next | `nr_throttled` | `nr_throttled` |
//! | how long they waited, summed over CPUs | `throttled_usec` | `throttled_time`, in ns |
//!
//! Source: `Documentation/admin-guide/cgroup-v2.rst` and `Documentation/scheduler/sched-bwc.rst` of Linux.

use std::path::Path;
use std::time::Duration;

use super::hierarchy::Controller;
use super::parse::{self, Version};
use crate::sys::kept::Kept;

/// Bytes: some 20 lines of 30.
const STAT: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: Duration,
}

#[derive(Debug)]
pub struct Throttle {
    version: Version,
    stat: Kept,
}

impl Throttle {
    /// Of the cgroup whose quota is in force (that of [`super::Limits`]); `None` where there is no quota, or none to be seen.
    pub fn open(root: &Path) -> Option<Self> {
        let [levels] = super::levels(root, [Controller::Cpu]);
        let limited = levels.iter().filter_map(|level| Some((level, super::cpu_limit(root, level)?.cpus)));
        let (level, _) = super::tightest(limited, |a, b| a.1 < b.1)?;
        let path = level.directory.join("cpu.stat");
        let stat = Kept::open(&root.join(path.strip_prefix("/").ok()?)).ok()?;
        Some(Self { version: level.version, stat })
    }

    pub fn look(&self) -> Option<Throttled> {
        throttled(self.stat.read(&mut [0; STAT]).ok()?, self.version)
    }
}

fn throttled(stat: &str, version: Version) -> Option<Throttled> {
    let value = |name| parse::flat_value(stat, name);
    let throttled = match version {
        Version::V2 => Duration::from_micros(value("throttled_usec")?),
        Version::V1 => Duration::from_nanos(value("throttled_time")?),
    };
    Some(Throttled { periods: value("nr_periods")?, throttled_periods: value("nr_throttled")?, throttled })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V2: &str =
        "usage_usec 900\nuser_usec 500\nsystem_usec 400\nnr_periods 70\nnr_throttled 7\nthrottled_usec 1500000\nnr_bursts 0\n";
    const V1: &str = "nr_periods 70\nnr_throttled 7\nthrottled_time 1500000000\n";

    #[test]
    fn both_versions_say_the_same_in_their_units() {
        let expected = Throttled { periods: 70, throttled_periods: 7, throttled: Duration::from_millis(1500) };
        assert_eq!(throttled(V2, Version::V2), Some(expected));
        assert_eq!(throttled(V1, Version::V1), Some(expected));
    }

    /// Without the controller `cpu.stat` of v2 has the first three lines only.
    #[test]
    fn what_is_not_there_is_no_zero() {
        assert_eq!(throttled("usage_usec 900\nuser_usec 500\nsystem_usec 400\n", Version::V2), None);
        assert_eq!(throttled(V1, Version::V2), None);
        assert_eq!(throttled("", Version::V1), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(nr_periods|nr_throttled|throttled_usec|throttled_time|[0-9]{0,25}|[ \n-]){0,12}") {
            let _ = (throttled(&text, Version::V1), throttled(&text, Version::V2));
        }
    }
}
