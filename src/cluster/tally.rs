//! What is counted and never forgotten: replacements by reason, reloads by outcome.
//!
//! A slot counts its own; the cluster counts them all again, because slots go when there are fewer workers and a counter must not.

use super::status::Reason;

/// Replacements by the reason why the worker before had to go. Those that only stop have no successor, so [`Reason::Stop`] is never one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    counts: [u64; Self::REASONS.len()],
}

impl Restarts {
    pub const REASONS: [Reason; 8] = [
        Reason::Exit,
        Reason::Crash,
        Reason::Memory,
        Reason::Hung,
        Reason::StartTimeout,
        Reason::Reload,
        Reason::Lifetime,
        // Wanted again before it had gone.
        Reason::Scale,
    ];

    pub(super) fn count(&mut self, reason: Reason) {
        let counted = Self::REASONS.iter().zip(&mut self.counts).find(|(known, _)| **known == reason);
        if let Some((_, count)) = counted {
            *count = count.saturating_add(1);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Self::REASONS.into_iter().zip(self.counts)
    }

    /// Without those that were asked for: what `restarts` in `/workers` means.
    pub fn unasked(&self) -> u32 {
        let unasked = self.iter().filter(|(reason, _)| match reason {
            Reason::Exit | Reason::Crash | Reason::Memory | Reason::Hung | Reason::StartTimeout => true,
            Reason::Reload | Reason::Lifetime | Reason::Scale | Reason::Stop => false,
        });
        u32::try_from(unasked.map(|(_, count)| count).fold(0, u64::saturating_add)).unwrap_or(u32::MAX)
    }
}

/// Of the whole cluster, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub restarts: Restarts,
    pub reloads_done: u64,
    pub reloads_aborted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_for_itself() {
        let mut restarts = Restarts::default();
        for (times, reason) in (1..).zip(Restarts::REASONS) {
            (0..times).for_each(|_| restarts.count(reason));
        }
        restarts.count(Reason::Stop);
        let counted: Vec<_> = restarts.iter().collect();
        assert_eq!(counted, (1..).zip(Restarts::REASONS).map(|(count, reason)| (reason, count)).collect::<Vec<_>>());
        assert_eq!(restarts.unasked(), 1 + 2 + 3 + 4 + 5);
    }
}
