//! How long tasks of the container have waited for a resource: PSI, by descriptors that stay open.
//!
//! ```text
//! cpu.pressure      some avg10=0.00 avg60=0.00 avg300=0.00 total=309108080       at least one task waits, µs
//!                   full avg10=0.00 avg60=0.00 avg300=0.00 total=0               all do
//! ```
//! cgroup v2 only, Linux 4.20; `full` of the CPU since 5.13. Switched off (`psi=0`, or by a distribution) there are no such files, or they
//! cannot be read. Source: `Documentation/accounting/psi.rst`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hierarchy::Controller;
use super::parse::Version;
use crate::sys::kept::Kept;

/// Bytes: two lines of 70.
const TEXT: usize = 256;

/// As the kernel names the files.
const RESOURCES: [&str; 3] = ["cpu", "io", "memory"];

/// What was waited for one resource so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    pub resource: &'static str,
    /// At least one task waited.
    pub some: Option<Duration>,
    /// All that were not idle did.
    pub full: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct Pressure {
    files: Vec<(&'static str, Kept)>,
}

impl Pressure {
    /// Of the container's own cgroup, with all groups below. Nothing of the root of the whole machine: that would be everybody's.
    pub fn open(root: &Path) -> Self {
        let files = container(root).map(|directory| {
            let open =
                |resource: &'static str| Some((resource, Kept::open(&directory.join(format!("{resource}.pressure"))).ok()?));
            RESOURCES.into_iter().filter_map(open).collect()
        });
        Self { files: files.unwrap_or_default() }
    }

    pub fn look(&self) -> Vec<Waited> {
        let look = |(resource, file): &(&'static str, Kept)| {
            let mut buffer = [0; TEXT];
            let text = file.read(&mut buffer).ok()?;
            Some(Waited { resource, some: total(text, "some"), full: total(text, "full") })
        };
        self.files.iter().filter_map(look).collect()
    }
}

/// Ours, or the one above where we have moved into a group of our own beside those of the workers.
fn container(root: &Path) -> Option<PathBuf> {
    let [levels] = super::levels(root, [Controller::None]);
    let own = &levels.iter().find(|level| level.version == Version::V2)?.directory;
    let directory = if own.ends_with(crate::sys::subgroups::OURS) { own.parent()? } else { own };
    let directory = root.join(directory.strip_prefix("/").ok()?);
    // The root of the hierarchy alone has none.
    directory.join("cgroup.type").exists().then_some(directory)
}

fn total(text: &str, kind: &str) -> Option<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
    let total = line.split(' ').find_map(|field| field.strip_prefix("total="))?;
    total.trim_ascii().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const CPU: &str =
        "some avg10=77.52 avg60=88.88 avg300=59.81 total=309108080\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";

    #[test]
    fn totals_are_read_by_their_kind() {
        assert_eq!((total(CPU, "some"), total(CPU, "full")), (Some(Duration::from_micros(309_108_080)), Some(Duration::ZERO)));
        // Before Linux 5.13.
        assert_eq!(total("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n", "full"), None);
        assert_eq!(total("something total=5\n", "some"), None);
        assert_eq!(total("some avg10=0.00\n", "some"), None);
    }

    /// A tree in which we are at `membership`, with files for the groups `/` (no cgroup.type), `/c` and `/c/clusterinit`.
    fn seen_from(membership: &str) -> Vec<Waited> {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("ours");
            fs::write(path, text).expect("ours");
        };
        write("proc/self/cgroup", &format!("0::{membership}\n"));
        write("proc/self/mountinfo", "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
        for (group, total) in [("", 1), ("c/", 2), ("c/clusterinit/", 3)] {
            write(&format!("sys/fs/cgroup/{group}memory.pressure"), &format!("some avg10=0.00 total={total}\n"));
            if !group.is_empty() {
                write(&format!("sys/fs/cgroup/{group}cgroup.type"), "domain\n");
            }
        }
        Pressure::open(root.path()).look()
    }

    #[test]
    fn it_is_the_containers_and_never_the_machines() {
        let waited = |micros| vec![Waited { resource: "memory", some: Some(Duration::from_micros(micros)), full: None }];
        assert_eq!(seen_from("/c"), waited(2));
        assert_eq!(seen_from("/c/clusterinit"), waited(2));
        assert_eq!(seen_from("/"), []);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(some|full|total=|avg10=|[0-9]{0,25}|[ \n.]){0,12}") {
            let _ = total(&text, "some");
        }
    }
}
