//! Which directories hold the limits of this process: from its own cgroup up to the highest ancestor that its mounts show.
//!
//! ```text
//! /proc/self/cgroup   path      /kubepods/pod7/c1          where we are in the tree
//! mountinfo           root      /kubepods                  what part of the tree is seen
//!                     point     /sys/fs/cgroup             and where
//! directories         /sys/fs/cgroup/pod7/c1, /sys/fs/cgroup/pod7, /sys/fs/cgroup
//! ```
//!
//! A path that the mount does not show (`/../x`: the process was moved, or entered another namespace) leaves the mount point, which is what
//! the container calls its root.

use std::path::{Component, Path, PathBuf};

use super::parse::{Membership, Mount, Version};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Cpuset,
    Memory,
    /// What v2 has in every group, whichever controllers it has; v1 has nothing of it.
    None,
}

/// One cgroup of this process, or of one of its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) version: Version,
    pub(super) directory: PathBuf,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::None => "",
        }
    }

    /// A v1 line that names the controller decides: on a hybrid host it is not in v2 then.
    fn membership(self, memberships: &[Membership]) -> Option<&Membership> {
        let v1 = memberships.iter().find(|line| line.controllers.iter().any(|name| name == self.name()));
        v1.or_else(|| memberships.iter().find(|line| line.version == Version::V2))
    }

    fn is_mounted_at(self, mount: &Mount, version: Version) -> bool {
        mount.version == version && (version == Version::V2 || mount.options.iter().any(|option| option == self.name()))
    }
}

/// From the leaf upwards. Empty where nothing is mounted or `/proc` is hidden.
pub(super) fn levels(controller: Controller, memberships: &[Membership], mounts: &[Mount]) -> Vec<Level> {
    let Some(membership) = controller.membership(memberships) else { return Vec::new() };
    let version = membership.version;
    let candidates: Vec<&Mount> = mounts.iter().filter(|mount| controller.is_mounted_at(mount, version)).collect();
    let inside: Vec<Vec<PathBuf>> = candidates.iter().filter_map(|mount| ancestry(mount, &membership.path)).collect();
    // One hierarchy may be mounted more than once, or over another: all that show us are read, what is not there yields nothing.
    let directories =
        if inside.is_empty() { candidates.iter().map(|mount| mount.point.clone()).collect() } else { inside.concat() };
    directories.into_iter().map(|directory| Level { version, directory }).collect()
}

/// Our directory under this mount and all above it, or `None` where the mount shows another part of the tree.
fn ancestry(mount: &Mount, path: &Path) -> Option<Vec<PathBuf>> {
    let relative = path.strip_prefix(&mount.root).ok()?;
    if relative.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    Some(
        relative
            .ancestors()
            .map(|part| if part == Path::new("") { mount.point.clone() } else { mount.point.join(part) })
            .collect(),
    )
}
