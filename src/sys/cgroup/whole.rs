//! What the container as a whole uses and waits for, measured when asked: nothing is opened before, and nothing read more often than
//! every 250 ms.

use std::path::Path;
use std::time::Duration;

use super::pressure::{Pressure, Waited};
use super::throttled::{Throttle, Throttled};
use super::used::Container;
use crate::cluster::words::Time;

/// An answer may be this old.
const KEPT: Duration = Duration::from_millis(250);

/// `None`, and what is not in the list: cannot be had here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes that page cache cannot give back.
    pub memory_used: Option<u64>,
    pub throttled: Option<Throttled>,
    pub pressure: Vec<Waited>,
}

/// Looks at the groups whose limits were in force when it was opened.
#[derive(Debug, Default)]
pub struct Whole {
    opened: Option<Opened>,
    last: Option<(Time, Figures)>,
}

#[derive(Debug)]
struct Opened {
    /// Where the limits come from: with another source another group counts.
    sources: [Option<String>; 2],
    container: Option<Container>,
    throttle: Option<Throttle>,
    pressure: Pressure,
}

impl Whole {
    /// `sources`: the files that the limits of CPU and memory were read from.
    pub fn figures(&mut self, now: Time, sources: [Option<&str>; 2]) -> Figures {
        let is_same = |opened: &Opened| opened.sources.iter().map(Option::as_deref).eq(sources);
        if !self.opened.as_ref().is_some_and(is_same) {
            self.opened = Some(Opened::at(Path::new("/"), sources));
            self.last = None;
        }
        if let Some((at, figures)) = &self.last
            && now.since(*at) < KEPT
        {
            return figures.clone();
        }
        let figures = self.opened.as_mut().map(Opened::look).unwrap_or_default();
        self.last = Some((now, figures.clone()));
        figures
    }
}

impl Opened {
    fn at(root: &Path, sources: [Option<&str>; 2]) -> Self {
        Self {
            sources: sources.map(|source| source.map(str::to_owned)),
            container: Container::open(root),
            throttle: Throttle::open(root),
            pressure: Pressure::open(root),
        }
    }

    fn look(&mut self) -> Figures {
        Figures {
            memory_used: self.container.as_mut().and_then(|container| container.used(0)),
            throttled: self.throttle.as_ref().and_then(Throttle::look),
            pressure: self.pressure.look(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_again_when_it_is_old_or_another_group_counts() {
        let mut whole = Whole::default();
        let at = |millis| Time(Duration::from_millis(millis));
        let mark = Figures { memory_used: Some(u64::MAX), ..Figures::default() };
        whole.figures(at(0), [None, None]);
        whole.last = Some((at(0), mark.clone()));
        assert_eq!(whole.figures(at(249), [None, None]), mark);
        assert_ne!(whole.figures(at(250), [None, None]), mark);
        whole.last = Some((at(250), mark.clone()));
        assert_ne!(whole.figures(at(251), [None, Some("/sys/fs/cgroup/memory.max")]), mark);
    }
}
