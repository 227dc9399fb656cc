//! A cgroup of its own for each worker, where cgroup v2 is writable: memory.max, memory.oom.group, cgroup.kill.
//!
//! ```text
//! /sys/fs/cgroup            the container's: its limits are not ours to change
//!   clusterinit/            us, and whatever else was in the container's group
//!   workers/                memory.max: the limit without the reserve, so that an OOM is the workers' alone
//!     0/ 1/ 2/ ...          one for each life: memory.max (a hard cap only), memory.oom.group = 1
//! ```
//! A group that hands a controller to groups below may hold no process itself, so everybody moves. Runtimes look for limits in their
//! own group only (Java 17, Go, .NET), so each worker's shows those of the container: `cpu.max` too, and without a hard cap in
//! `memory.max` what all workers may have.
//!
//! Done by PID 1 of a PID namespace only (the caller sees to that): else the container's group is not ours alone.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::cluster::words::{Life, Pid, Signal};

use super::cgroup::parse::{self, Membership, Version};
use super::cgroup::used;
use super::descriptor::lift;
use super::kept::Kept;
use super::process;

/// Where we live ourselves.
pub(super) const OURS: &str = "clusterinit";
const WORKERS: &str = "workers";

/// So often everybody is moved and the controller asked for; others may be forked, or enter, at the same time.
const ATTEMPTS: usize = 20;

/// Between two of these attempts; in all less than what a runtime's `exec` is given to start.
const PAUSE: Duration = Duration::from_millis(5);

/// Without `cgroup.kill`: those that are forked while the others are killed are in the next list.
const KILL_PASSES: usize = 8;

/// Both groups of ours, and the directory of workers' groups.
#[derive(Debug)]
pub struct Subgroups {
    container: PathBuf,
    workers: PathBuf,
}

/// One worker's.
#[derive(Debug)]
pub struct Group {
    directory: PathBuf,
    entrance: OwnedFd,
    current: Option<Kept>,
    stat: Option<Kept>,
    events: Option<Kept>,
}

impl Subgroups {
    /// Why it cannot be done here, found out without changing anything that stays (`plan`). `root` is `/`, or in tests a copy of it.
    pub fn probe(root: &Path) -> Result<(), String> {
        let directory = container(root)?;
        // A predecessor's group is proof enough: whoever made it could.
        if make(&directory.join(OURS))? {
            remove_tree(&directory.join(OURS)).map_err(|error| cannot("remove a group in", &directory, &error))?;
        }
        Ok(())
    }

    /// Moves us (and what else is there) out of the container's group and hands its memory controller to groups below.
    ///
    /// To be called before the first worker: it may wait some 100 ms for others that are on their way through the group.
    pub fn set_up(root: &Path) -> Result<Self, String> {
        let directory = container(root)?;
        Self::set_up_in(&directory).inspect_err(|_| undo(&directory))
    }

    fn set_up_in(directory: &Path) -> Result<Self, String> {
        let workers = directory.join(WORKERS);
        make(&directory.join(OURS))?;
        make(&workers)?;
        // What a predecessor left: names are numbers of lives, and ours begin anew.
        for group in children(&workers) {
            let _ = remove_tree(&group);
        }
        hand_down_memory(directory)?;
        let of_workers = [("cgroup.subtree_control", "+memory"), ("memory.oom.group", "0"), ("memory.max", "max")];
        for (file, value) in of_workers {
            set(&workers, file, value).map_err(|error| cannot("write", &workers.join(file), &error))?;
        }
        // Only shown, so it matters to nobody whether it works.
        for group in [directory, &workers] {
            let _ = set(group, "cgroup.subtree_control", "+cpu");
        }
        Ok(Self { container: directory.to_owned(), workers })
    }

    /// `memory.max` of all workers together; `None`: `max`.
    ///
    /// Where they have more than that already the kernel ends some of them; before Linux 6.16, which lets us off, it does so while we
    /// wait: until one has been killed, or a signal arrives.
    pub fn bound(&self, bytes: Option<u64>) -> io::Result<()> {
        set(&self.workers, "memory.max", &limit(bytes))
    }

    /// The container's limits have changed: workers see it too, but for the memory of those with caps of their own.
    pub fn show_limits(&self, have_caps: bool) {
        for group in children(&self.workers) {
            self.show_limits_in(&group, have_caps);
        }
    }

    /// They bound nothing that is not bounded above.
    fn show_limits_in(&self, group: &Path, has_cap: bool) {
        let copy = |from: &Path, file: &str| {
            let value = fs::read_to_string(from.join(file));
            value.map(|value| set(group, file, value.trim_ascii()))
        };
        let _ = copy(&self.container, "cpu.max");
        if !has_cap {
            let _ = copy(&self.workers, "memory.max");
        }
    }

    /// `cap`: `memory.max` of this one. Its tree dies as a whole of an OOM.
    pub fn create(&self, life: Life, cap: Option<u64>) -> io::Result<Group> {
        let directory = self.workers.join(life.0.to_string());
        if let Err(error) = fs::create_dir(&directory) {
            // What a predecessor of ours left there and could not be removed then.
            let is_left = error.kind() == io::ErrorKind::AlreadyExists && remove_tree(&directory).is_ok();
            if !is_left {
                return Err(error);
            }
            fs::create_dir(&directory)?;
        }
        self.show_limits_in(&directory, cap.is_some());
        Group::open(&directory, cap).inspect_err(|_| {
            let _ = fs::remove_dir(&directory);
        })
    }
}

impl Group {
    fn open(directory: &Path, cap: Option<u64>) -> io::Result<Self> {
        set(directory, "memory.oom.group", "1")?;
        if cap.is_some() {
            set(directory, "memory.max", &limit(cap))?;
            // Swapped out it would not count. There is no such file where there is no swap.
            let _ = set(directory, "memory.swap.max", "0");
        }
        let entrance = OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?;
        let kept = |name| Kept::open(&directory.join(name)).ok();
        Ok(Self {
            directory: directory.to_owned(),
            entrance: lift(entrance.into()),
            current: kept("memory.current"),
            stat: kept("memory.stat"),
            events: kept("memory.events"),
        })
    }

    /// `cgroup.procs`: a process that writes `0` there has entered. Permissions are those of the opener.
    pub fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }

    /// All processes in it, those that left the tree in every other way too; of groups that a worker made below it, too.
    pub fn processes(&self) -> Vec<Pid> {
        processes_below(&self.directory)
    }

    /// SIGKILL to all of them in one step of the kernel (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) -> io::Result<()> {
        match set(&self.directory, "cgroup.kill", "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.kill_each(),
            outcome => outcome,
        }
    }

    /// Before Linux 5.14.
    fn kill_each(&self) -> io::Result<()> {
        for _ in 0..KILL_PASSES {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                process::signal(pid, Signal::KILL)?;
            }
        }
        Ok(())
    }

    /// Bytes in use that page cache cannot give back, and the anonymous part. `None`: the kernel does not say.
    pub fn used(&mut self) -> Option<(u64, u64)> {
        let (mut current, mut stat) = ([0; 32], [0; used::STAT]);
        let charged = used::number(self.current.as_ref()?, &mut current)?;
        let stat = self.stat.as_ref()?.read(&mut stat).ok()?;
        Some((used::without_cache(charged, stat, Version::V2)?, parse::flat_value(stat, "anon")?))
    }

    /// How many of its processes the kernel's OOM killer has killed. (It counts the one that it chose a second time where the others of
    /// its group go with it.)
    pub fn oom_kills(&mut self) -> u64 {
        let mut text = [0; 512];
        let events = self.events.as_ref().and_then(|events| events.read(&mut text).ok());
        events.and_then(|events| parse::flat_value(events, "oom_kill")).unwrap_or(0)
    }

    /// False: something is still in it. Tried again when the next worker goes.
    pub fn remove(&self) -> bool {
        remove_tree(&self.directory).is_ok()
    }
}

/// The container's group, if it is ours to divide; or why it is not.
fn container(root: &Path) -> Result<PathBuf, String> {
    let under = |path: &str| fs::read(root.join(path)).unwrap_or_default();
    check_membership(&parse::memberships(&under("proc/self/cgroup")))?;
    let mounts = parse::mounts(&under("proc/self/mountinfo"));
    // The one on top, where there are several.
    let shows_us = mounts.iter().rfind(|mount| mount.version == Version::V2 && mount.root == Path::new("/"));
    let mount = shows_us.ok_or("the container has no cgroup v2 mounted that shows its own group")?;
    let directory = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
    // Under cgroup v1 a tmpfs is there, which lets everybody make directories.
    let file_system = statfs(&directory).map_err(|errno| cannot("look at", &directory, &errno.into()))?;
    if file_system.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(format!("{} is no cgroup v2 file system", directory.display()));
    }
    let flags = statvfs(&directory).map_err(|errno| cannot("look at", &directory, &errno.into()))?.flags();
    if flags.contains(FsFlags::ST_RDONLY) {
        return Err(format!("{} is mounted read-only", directory.display()));
    }
    if !directory.join("cgroup.type").exists() {
        return Err("we are in the machine's own group, not in a container's".to_owned());
    }
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    if !controllers.split_ascii_whitespace().any(|name| name == "memory") {
        return Err(format!("the container's group {} was not given the memory controller", directory.display()));
    }
    Ok(directory)
}

/// Whether we are at the root of a cgroup namespace of our own, with memory in v2.
fn check_membership(memberships: &[Membership]) -> Result<(), String> {
    if memberships.iter().any(|line| line.controllers.iter().any(|name| name == "memory")) {
        return Err("memory is in cgroup v1 here, which cannot be delegated".to_owned());
    }
    let Some(line) = memberships.iter().find(|line| line.version == Version::V2) else {
        return Err("there is no cgroup v2 here".to_owned());
    };
    if line.path != Path::new("/") {
        let path = line.path.display();
        return Err(format!("our group is {path}, not the root of a cgroup namespace of our own"));
    }
    Ok(())
}

/// False: it was there.
fn make(group: &Path) -> Result<bool, String> {
    match fs::create_dir(group) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot("make the group", group, &error)),
    }
}

/// Moves everybody out of the group, until it may hand the controller down.
fn hand_down_memory(directory: &Path) -> Result<(), String> {
    let mut attempt = 0;
    loop {
        move_all(directory, &directory.join(OURS))?;
        let Err(error) = set(directory, "cgroup.subtree_control", "+memory") else { return Ok(()) };
        attempt += 1;
        let is_busy = error.raw_os_error() == Some(libc::EBUSY);
        if !is_busy || attempt == ATTEMPTS {
            let why = cannot("hand the memory controller down in", directory, &error);
            return Err(if is_busy { format!("{why} (a process that we cannot see or move is in it)") } else { why });
        }
        #[expect(clippy::disallowed_methods, reason = "there is no loop yet that it could block")]
        thread::sleep(PAUSE);
    }
}

/// One pass. What cannot be moved is found out when the controller is asked for.
fn move_all(from: &Path, to: &Path) -> Result<(), String> {
    let entrance = to.join("cgroup.procs");
    for pid in processes_in(from) {
        match set(to, "cgroup.procs", &pid.to_string()) {
            Ok(()) => {}
            // Ended meanwhile; a kernel thread.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {}
            Err(error) => return Err(cannot("write", &entrance, &error)),
        }
    }
    Ok(())
}

/// As it was, as far as that can be done.
fn undo(directory: &Path) {
    for group in [&directory.join(WORKERS), directory] {
        let _ = set(group, "cgroup.subtree_control", "-memory");
    }
    let _ = move_all(&directory.join(OURS), directory);
    for group in [WORKERS, OURS] {
        let _ = fs::remove_dir(directory.join(group));
    }
}

/// A group and the empty ones below it. What is not there counts as removed.
fn remove_tree(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A process is in it, or a group that a worker made. (ENOTEMPTY is for other file systems.)
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            for child in children(group) {
                remove_tree(&child)?;
            }
            fs::remove_dir(group)
        }
        outcome => outcome,
    }
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn processes_below(group: &Path) -> Vec<Pid> {
    let mut processes = processes_in(group);
    for child in children(group) {
        processes.extend(processes_below(&child));
    }
    processes
}

/// Those of our PID namespace: the kernel writes 0 for others, which to it would mean whoever asks.
fn processes_in(group: &Path) -> Vec<Pid> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid).collect()
}

/// Writes a file of a group. Without waiting for memory to be given back, where the kernel can do that by itself.
fn set(group: &Path, file: &str, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(group.join(file))?;
    file.write_all(value.as_bytes())
}

fn limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> String {
    let why = error.raw_os_error().map_or_else(|| error.to_string(), |errno| Errno::from_raw(errno).desc().to_owned());
    format!("cannot {what} {}: {why}", path.display())
}

#[cfg(test)]
mod tests;
