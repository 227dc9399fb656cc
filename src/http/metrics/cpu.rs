//! CPU time by slot as a counter that only grows, while workers come and go.
//!
//! What was measured of a worker last is kept when it has gone, and its successor's is added to it: while both are there, the sum of both.
//! So `rate()` sees no reset at a replacement, of which it would miss what the old one had used. Within a life the sum of a tree may
//! fall (a process whose parent had gone is reaped by us, and takes its time with it): the most that was seen counts, until it is
//! exceeded. What a worker used between the last look and its end is in no figure.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::cluster::status::Row;
use crate::cluster::words::{Life, Slot};
use crate::sys::measure::ByLife;

/// No larger than the table of workers: what is no slot any more is forgotten.
#[derive(Debug, Default)]
pub(super) struct CpuTimes(BTreeMap<Slot, OfSlot>);

#[derive(Clone, Debug, Default)]
struct OfSlot {
    gone: Duration,
    living: BTreeMap<Life, Duration>,
}

impl CpuTimes {
    pub(super) fn update(&mut self, rows: &[Row], figures: &ByLife) {
        let mut before = std::mem::take(&mut self.0);
        for row in rows {
            // Rows are in the order of slots, and may be several of one.
            let slot = self.0.entry(row.slot).or_insert_with(|| before.remove(&row.slot).unwrap_or_default());
            if let Some((life, measured)) = row.life.and_then(|life| Some((life, figures.get(&life)?.cpu_time?))) {
                let most = slot.living.entry(life).or_default();
                *most = measured.max(*most);
            }
        }
        let there: HashSet<Life> = rows.iter().filter_map(|row| row.life).collect();
        for OfSlot { gone, living } in self.0.values_mut() {
            living.retain(|life, time| {
                let stays = there.contains(life);
                *gone = gone.saturating_add(if stays { Duration::ZERO } else { *time });
                stays
            });
        }
    }

    /// `None` while nothing was ever measured.
    pub(super) fn of(&self, slot: Slot) -> Option<Duration> {
        let known = self.0.get(&slot)?;
        let is_measured = !known.living.is_empty() || !known.gone.is_zero();
        is_measured.then(|| known.living.values().fold(known.gone, |sum, time| sum.saturating_add(*time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::status::Snapshot;
    use crate::http::report::tests::example;
    use crate::sys::measure::Figures;

    const SLOT: Slot = Slot(0);

    fn rows(lives: &[u64]) -> Vec<Row> {
        let Snapshot { rows, .. } = example();
        let empty = Row { life: None, pid: None, ..rows[0].clone() };
        let full: Vec<Row> = lives.iter().map(|life| Row { life: Some(Life(*life)), ..rows[0].clone() }).collect();
        if full.is_empty() { vec![empty] } else { full }
    }

    fn measured(lives: &[(u64, u64)]) -> ByLife {
        let figures = |secs| Figures { cpu_time: Some(Duration::from_secs(secs)), ..Figures::default() };
        lives.iter().map(|(life, secs)| (Life(*life), figures(*secs))).collect()
    }

    #[test]
    fn a_replacement_and_an_orphan_reaped_by_us_do_not_turn_it_back() {
        let mut times = CpuTimes::default();
        let mut after = |lives: &[(u64, u64)]| {
            let present: Vec<u64> = lives.iter().map(|(life, _)| *life).collect();
            times.update(&rows(&present), &measured(lives));
            times.of(SLOT).map(|time| time.as_secs())
        };
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[(1, 10)]), Some(10));
        assert_eq!(after(&[(1, 4)]), Some(10), "a process of its tree has gone with its time");
        assert_eq!(after(&[(1, 12), (2, 1)]), Some(13), "both");
        assert_eq!(after(&[(2, 3)]), Some(15));
        assert_eq!(after(&[]), Some(15), "nobody");
        assert_eq!(after(&[(3, 0)]), Some(15));
    }

    #[test]
    fn a_slot_that_has_gone_is_forgotten() {
        let mut times = CpuTimes::default();
        times.update(&rows(&[1]), &measured(&[(1, 10)]));
        times.update(&[], &ByLife::new());
        assert!(times.0.is_empty());
    }
}
