//! The words that all rooms share: slot, life, pid, exit status, time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::Serialize;

/// A numbered place, `0..N-1`, for one worker; stable across respawns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

/// One worker's life, from its fork to the end of its tree. Never reused, unlike a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u64);

/// A process id as this PID namespace numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pid(pub i32);

/// A signal by its kernel number (`man 7 signal`; real-time signals as the kernel counts, so RTMIN+3 is 37 under every libc).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(pub i32);

/// How a process ended (`man 2 waitpid`): all of it, because 137 alone cannot tell a kill from an `exit(137)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called `exit` with this status.
    Code(u8),
    /// A signal ended it; `core` tells whether it dumped core.
    Signal { signal: Signal, core: bool },
}

/// A point on the monotonic clock, counted from the start of clusterinit. Wall-clock steps do not reach the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

impl ExitStatus {
    /// The status as a shell or a container runtime would report it: the code, or 128 + the signal's number.
    pub fn as_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal { signal, .. } => signal.as_code(),
        }
    }
}

impl Signal {
    pub const HUP: Self = Self(1);
    pub const INT: Self = Self(2);
    pub const QUIT: Self = Self(3);
    pub const KILL: Self = Self(9);
    pub const TERM: Self = Self(15);
    pub const CONT: Self = Self(18);
    pub const STOP: Self = Self(19);

    /// 128 + the number: the exit status of a process that this signal ended.
    pub fn as_code(self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(u8::MAX)
    }
}

impl Time {
    /// How long it is from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, back: Duration) -> Self {
        Self(self.0.saturating_sub(back))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The names of the classic signals, by number; index 0 is unused.
const NAMES: [&str; 32] = [
    "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR",
    "SYS",
];

impl Signal {
    /// The name without `SIG`, as `kill -l` prints it; `RTMIN+n` for the real-time ones.
    pub fn name(self) -> String {
        match usize::try_from(self.0).ok().and_then(|number| NAMES.get(number)) {
            Some(name) if self.0 > 0 => (*name).to_owned(),
            _ if (34..=64).contains(&self.0) => format!("RTMIN+{}", self.0 - 34),
            _ => self.0.to_string(),
        }
    }

    /// From a name (`TERM`, `SIGTERM`, `RTMIN+3`, any case) or a number from 1 to 64.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse::<i32>() {
            return (1..=64).contains(&number).then_some(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(rest) = name.strip_prefix("RTMIN") {
            let offset = match rest {
                "" => 0,
                plus => plus.strip_prefix('+')?.parse::<i32>().ok()?,
            };
            return (0..=30).contains(&offset).then(|| Self(34 + offset));
        }
        if let Some(rest) = name.strip_prefix("RTMAX") {
            let offset = match rest {
                "" => 0,
                minus => minus.strip_prefix('-')?.parse::<i32>().ok()?,
            };
            return (0..=30).contains(&offset).then(|| Self(64 - offset));
        }
        let number = NAMES.iter().skip(1).position(|known| *known == name)?;
        i32::try_from(number + 1).ok().map(Self)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIG{}", self.name())
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core: false } => write!(f, "{signal}"),
            Self::Signal { signal, core: true } => write!(f, "{signal} (core dumped)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_reads_back_from_its_name_and_number() {
        for number in 1..=64 {
            let signal = Signal(number);
            assert_eq!(Signal::parse(&number.to_string()), Some(signal));
            if number != 32 && number != 33 {
                assert_eq!(Signal::parse(&signal.name()), Some(signal), "{signal}");
                assert_eq!(Signal::parse(&signal.to_string().to_lowercase()), Some(signal));
            }
        }
        assert_eq!(Signal::parse("RTMIN+3"), Some(Signal(37)));
        assert_eq!(Signal::parse("RTMAX-1"), Some(Signal(63)));
        for wrong in ["0", "65", "-1", "", "SIG", "TERMINATE", "RTMIN+31", "RTMIN-1", "0x9"] {
            assert_eq!(Signal::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_status_is_the_code_or_128_plus_the_signal() {
        assert_eq!(ExitStatus::Code(7).as_code(), 7);
        assert_eq!(ExitStatus::Signal { signal: Signal::KILL, core: false }.as_code(), 137);
        assert_eq!(ExitStatus::Signal { signal: Signal(64), core: true }.as_code(), 192);
    }
}
