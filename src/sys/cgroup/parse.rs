//! The files that say where we are in the cgroup trees and what is allowed there (`man 7 cgroups`, `man 5 proc`): text in, values
//! out. Total over any input: a line or a value that is not as the kernel writes it is skipped.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// One line of `/proc/self/cgroup`: the cgroup of this process in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub version: Version,
    /// Empty for v2, whose one hierarchy carries whatever controllers v1 does not hold.
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

/// One line of `/proc/self/mountinfo`, if it mounts a cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub version: Version,
    /// The super options: for v1 they name the controllers. The source field would be no help, each runtime writes another.
    pub options: Vec<String>,
    /// The cgroup that is seen at the mount point.
    pub root: PathBuf,
    pub point: PathBuf,
}

/// `4:cpu,cpuacct:/docker/x` (v1) and `0::/x` (v2).
pub fn memberships(text: &[u8]) -> Vec<Membership> {
    text.split(|byte| *byte == b'\n').filter_map(membership).collect()
}

fn membership(line: &[u8]) -> Option<Membership> {
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    if !path.starts_with(b"/") {
        return None;
    }
    let version = if id == b"0" && controllers.is_empty() { Version::V2 } else { Version::V1 };
    Some(Membership { version, controllers: comma_separated(controllers), path: path_from(path.to_vec()) })
}

/// `32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu`: any number of optional fields before the dash.
pub fn mounts(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    let mut after_dash = fields.skip_while(|field| *field != b"-").skip(1);
    let version = match after_dash.next()? {
        b"cgroup" => Version::V1,
        b"cgroup2" => Version::V2,
        _ => return None,
    };
    let options = comma_separated(after_dash.nth(1)?);
    Some(Mount { version, options, root: path_from(unescaped(root)), point: path_from(unescaped(point)) })
}

fn comma_separated(list: &[u8]) -> Vec<String> {
    let names = list.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn path_from(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// mountinfo writes blanks, newlines and backslashes in paths as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some((byte, after)) = octal_escape(rest) {
            plain.push(byte);
            rest = after;
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    plain
}

fn octal_escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, after) = text.strip_prefix(b"\\")?.split_at_checked(3)?;
    let value = digits.iter().try_fold(0_u16, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        Some(value * 8 + u16::from(digit))
    })?;
    Some((u8::try_from(value).ok()?, after))
}

/// v2 `cpu.max`: `150000 100000` or `max 100000`. In CPUs; `None`: no quota.
pub fn cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_ascii_whitespace();
    let (quota, period) = (fields.next()?, fields.next()?);
    cpus(quota.parse().ok()?, period.parse().ok()?)
}

/// v1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`; a quota of -1 is none.
pub fn cfs_quota(quota: &str, period: &str) -> Option<f64> {
    cpus(quota.trim_ascii().parse().ok()?, period.trim_ascii().parse().ok()?)
}

fn cpus(quota: i64, period: i64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 microseconds, which is 285 years")]
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// v2 `memory.max`: bytes or `max`.
pub fn memory_max(text: &str) -> Option<u64> {
    text.trim_ascii().parse().ok()
}

/// v1 writes "no limit" as a number: 2^63 - 1 rounded down to pages of whatever size, or (before 3.19) up to 2^64 - 1. Nobody has 2^62 bytes.
const V1_UNLIMITED: u64 = 1 << 62;

/// v1 `memory.limit_in_bytes`.
pub fn memory_limit_in_bytes(text: &str) -> Option<u64> {
    text.trim_ascii().parse().ok().filter(|bytes| *bytes < V1_UNLIMITED)
}

/// v1 `memory.stat`: the tightest limit from here to the root of the hierarchy.
pub fn hierarchical_memory_limit(stat: &str) -> Option<u64> {
    memory_limit_in_bytes(stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "))?)
}

/// One figure of a file with a name and a number on each line: v2 `memory.stat`, `memory.events`.
pub fn flat_value(text: &str, name: &str) -> Option<u64> {
    let mut named = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    named.next()?.trim_ascii().parse().ok()
}
