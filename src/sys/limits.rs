//! When the limits of the container may have changed: inotify on their files, and a re-read every 5 s where no instance can be had.
//!
//! A runtime that resizes a container writes these files, and inotify tells of each write: in our own cgroup namespace, on a read-only
//! mount and for v1 too. (`poll` on them never wakes.) Instances are few on a node (128 for each user by default), and other containers
//! may have used them up. What the kernel changes by itself is not told: `cpuset.cpus` is watched, `cpuset.cpus.effective` would be
//! silent, and so is an affinity mask that somebody sets.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::time::{Instant, sleep_until};

use super::descriptor::lift;
use super::poll::Poller;

/// How often the limits are read again where nobody tells of changes.
const PERIOD: Duration = Duration::from_secs(5);

pub struct Watch {
    means: Means,
}

enum Means {
    Told {
        poller: Poller,
        inotify: OwnedFd,
    },
    Polls {
        why: String,
        /// When it is time. Kept here: whoever waits for it may give up and ask again.
        due: Cell<Instant>,
    },
    /// There are no files, so nothing will ever change.
    Nothing,
}

impl Watch {
    /// Needs the tokio runtime. `files`: those of [`super::cgroup::limit_files`]; one that cannot be read is left out.
    pub fn new(files: &[PathBuf]) -> Self {
        let means =
            if files.is_empty() { Means::Nothing } else { Means::told(files).unwrap_or_else(|error| Means::polls(&error)) };
        Self { means }
    }

    /// Why the limits are read every 5 s instead; `None`: they need not be.
    pub fn polls(&self) -> Option<&str> {
        match &self.means {
            Means::Polls { why, .. } => Some(why),
            Means::Told { .. } | Means::Nothing => None,
        }
    }

    /// Until one of them may have changed. May be dropped and asked again at any time.
    pub async fn changed(&self) {
        match &self.means {
            Means::Told { poller, inotify } => loop {
                poller.readable().await;
                // Nothing waits from here on: what was taken out is also told.
                if drain(poller, inotify) {
                    return;
                }
            },
            Means::Polls { due, .. } => {
                sleep_until(due.get()).await;
                due.set(Instant::now() + PERIOD);
            }
            Means::Nothing => std::future::pending().await,
        }
    }
}

impl Means {
    fn told(files: &[PathBuf]) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        for file in files {
            match inotify.add_watch(file, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE) {
                // What we may not read is no limit that we know of.
                Ok(_) | Err(Errno::ENOENT | Errno::EACCES) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let (poller, inotify) = (Poller::new()?, lift(inotify.into()));
        poller.watch(&inotify, 0)?;
        Ok(Self::Told { poller, inotify })
    }

    fn polls(error: &io::Error) -> Self {
        // One text for all libcs.
        let why = error.raw_os_error().map_or_else(|| error.to_string(), |errno| Errno::from_raw(errno).desc().to_owned());
        Self::Polls { why: format!("inotify: {why}"), due: Cell::new(Instant::now() + PERIOD) }
    }
}

/// Takes all events out; what they say does not matter. False: there was none.
fn drain(poller: &Poller, inotify: &OwnedFd) -> bool {
    let mut any = false;
    while !poller.ready().is_empty() && nix::unistd::read(inotify, &mut [0; 4096]).is_ok_and(|length| length > 0) {
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::pin::pin;
    use std::task::Poll;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn two_files() -> (TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let files = vec![directory.path().join("cpu.max"), directory.path().join("memory.max"), directory.path().join("gone")];
        for file in files.iter().take(2) {
            fs::write(file, "max\n").expect("written");
        }
        (directory, files)
    }

    async fn wakes(watch: &Watch) -> bool {
        timeout(DEADLINE, watch.changed()).await.is_ok()
    }

    /// Asked once, as `select!` does before it looks at others.
    async fn is_pending(watch: &Watch) -> bool {
        let mut changed = pin!(watch.changed());
        std::future::poll_fn(|context| Poll::Ready(changed.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn writes_wake_once_and_readers_do_not() {
        let (_directory, files) = two_files();
        let watch = Watch::new(&files);
        assert_eq!(watch.polls(), None);
        assert!(is_pending(&watch).await);
        for _ in 0..2 {
            for file in files.iter().take(2) {
                fs::write(file, "150000 100000\n").expect("written");
            }
            assert!(wakes(&watch).await);
            fs::read(&files[0]).expect("read");
            assert!(is_pending(&watch).await);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_change_is_not_lost_where_whoever_waits_gives_up() {
        let (_directory, files) = two_files();
        let watch = Watch::new(&files);
        assert!(is_pending(&watch).await);
        fs::write(&files[1], "1\n").expect("written");
        let begin = Instant::now();
        while is_pending(&watch).await {
            assert!(begin.elapsed() < DEADLINE, "it is lost");
            tokio::task::yield_now().await;
        }
        assert!(is_pending(&watch).await, "it was told");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_inotify_it_is_time_every_five_seconds() {
        let (_directory, files) = two_files();
        let impossible = files.iter().map(|file| file.join("below a file")).collect::<Vec<_>>();
        let watch = Watch::new(&impossible);
        assert_eq!(watch.polls(), Some("inotify: Not a directory"));
        let begin = Instant::now();
        while timeout(PERIOD / 100, watch.changed()).await.is_err() {
            assert!(begin.elapsed() < DEADLINE, "it starves");
        }
        assert!(begin.elapsed() >= PERIOD, "{:?}", begin.elapsed());
        assert!(is_pending(&watch).await, "another period begins");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn where_there_are_no_files_nothing_ever_changes() {
        let watch = Watch::new(&[]);
        assert!(watch.polls().is_none() && is_pending(&watch).await);
    }
}
