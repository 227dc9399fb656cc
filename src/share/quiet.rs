//! Has a connection a request in flight? PURE.
//!
//! Seen from outside, from the counters of the kernel: two looks at a connection, each while the worker is stopped, and whether a
//! thread waits in `read` on it. No protocol is known here. About 1 % of the answers are wrong, nearly all of them *busy*.
//!
//! Between two chunks of a stream a connection looks idle. So a [`Window`] is strict first and lenient soon.

use std::time::Duration;

use crate::cluster::words::Time;
use crate::sys::sock_diag::Counters;

/// For a tenth of the window every connection must have been idle for so long, ...
const STRICT: Duration = Duration::from_millis(200);
/// ... for the next tenth for so long, and then an instant will do.
const LESS_STRICT: Duration = Duration::from_millis(50);
/// A doubt that nothing has settled for so long: by far most are idle connections (of fast servers near by, where request, answer and
/// acknowledgement share a tick of the clock), few are slow requests that followed an answer within that tick.
const LONG_DOUBT: Duration = Duration::from_secs(1);
/// Milliseconds. An acknowledgement that comes so long after the data is a delayed one (after 40 ms on Linux, `TCP_DELACK_MIN`, less
/// a tick of the clock). One that comes sooner may be of the answer before, and was overtaken by the request: seen 8 ms late on a busy
/// machine, where each CPU delivers what was sent on it.
const DELAYED_ACK: u32 = 30;

/// One look at a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes that the worker has not read yet.
    pub unread: u32,
    pub counters: Counters,
    /// A thread waits in `read` or `recv` on it. False also where that cannot be seen.
    pub awaited: bool,
}

/// Whether a request is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Busy,
    /// The last bytes went both ways so long ago, within one tick of the clock: busy for all that is known. Whoever sees a thread wait
    /// in `read` on it knows better.
    Doubtful {
        since: Duration,
    },
    /// The last byte went either way so long ago.
    Idle {
        since: Duration,
    },
}

/// What the next look is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    read: u64,
    written: u64,
    verdict: Verdict,
}

impl Past {
    pub fn new(seen: &Seen, verdict: Verdict) -> Self {
        Self { read: seen.read(), written: seen.written(), verdict }
    }
}

impl Seen {
    /// What the worker has read so far.
    fn read(&self) -> u64 {
        self.counters.received.saturating_sub(self.unread.into())
    }

    /// What the worker has written so far.
    fn written(&self) -> u64 {
        let Counters { sent, retransmitted, not_sent, .. } = self.counters;
        sent.saturating_sub(retransmitted).saturating_add(not_sent.into())
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(self.counters.since_data_sent.min(self.counters.since_data_received).into())
    }

    fn idle(&self) -> Verdict {
        Verdict::Idle { since: self.silence() }
    }
}

/// The first of these that applies decides.
pub fn judge(past: Option<&Past>, now: &Seen) -> Verdict {
    let Counters { unacked, received, since_data_sent, since_data_received, since_ack_received, .. } = now.counters;
    if now.unread > 0 {
        return Verdict::Busy;
    }
    // Nobody has asked for anything yet. (Its ages would tie.)
    if received == 0 {
        return now.idle();
    }
    // The first request of a connection: its ages tie too, because the kernel counts both from the connection's beginning.
    if now.written() == 0 {
        return Verdict::Busy;
    }
    // The last thing that happened is an answer under way.
    if unacked > 0 {
        return now.idle();
    }
    if let Some(past) = past {
        let (reads, writes) = (now.read() != past.read, now.written() != past.written);
        match (reads, writes, past.verdict) {
            (false, true, _) | (false, false, Verdict::Idle { .. }) => return now.idle(),
            // Also where a thread waits in `read`: it may have come back from it, or the request is not whole.
            (true, false, _) | (false, false, Verdict::Busy) => return Verdict::Busy,
            (false, false, Verdict::Doubtful { .. }) | (true, true, _) => {}
        }
    }
    match since_data_received.cmp(&since_data_sent) {
        std::cmp::Ordering::Less => Verdict::Busy,
        // A connection's ages begin to run when it is made, so a first request that came with it ties as well: not answered yet.
        std::cmp::Ordering::Equal if now.written() == 0 => Verdict::Busy,
        std::cmp::Ordering::Greater => now.idle(),
        // Within one tick of the kernel's timer. A delayed acknowledgement came after the last request: of its answer.
        std::cmp::Ordering::Equal if now.awaited || since_data_received.saturating_sub(since_ack_received) >= DELAYED_ACK => {
            now.idle()
        }
        std::cmp::Ordering::Equal => Verdict::Doubtful { since: now.silence() },
    }
}

/// How long a quiet instant is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: Time,
    /// Then it is stopped anyway.
    pub until: Time,
}

impl Window {
    /// How long every connection must have been idle at this point of the window.
    pub fn demands(self, now: Time) -> Duration {
        let tenth = self.until.since(self.from) / 10;
        let gone = now.since(self.from);
        if gone < tenth {
            STRICT
        } else if gone < tenth * 2 {
            LESS_STRICT
        } else {
            Duration::ZERO
        }
    }

    pub fn is_over(self, now: Time) -> bool {
        now >= self.until
    }

    /// Whether a worker with connections like these may be stopped now.
    pub fn accepts(self, now: Time, verdicts: impl IntoIterator<Item = Verdict>) -> bool {
        let demanded = self.demands(now);
        verdicts.into_iter().all(|verdict| match verdict {
            Verdict::Busy => false,
            Verdict::Doubtful { since } => since >= demanded.max(LONG_DOUBT),
            Verdict::Idle { since } => since >= demanded,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Bytes received and sent, and how many milliseconds ago the last of each were.
    fn seen(received: u64, sent: u64, since_data_received: u32, since_data_sent: u32) -> Seen {
        let since_ack_received = since_data_received.min(since_data_sent);
        let counters =
            Counters { received, sent, since_data_sent, since_data_received, since_ack_received, ..Counters::default() };
        Seen { unread: 0, counters, awaited: false }
    }

    fn idle(millis: u32) -> Verdict {
        Verdict::Idle { since: millis * MILLISECOND }
    }

    fn doubtful(millis: u32) -> Verdict {
        Verdict::Doubtful { since: millis * MILLISECOND }
    }

    #[test]
    fn each_rule_decides_where_none_before_it_does() {
        let unread = |seen: Seen| Seen { unread: 10, ..seen };
        let unacked = |seen: Seen| Seen { counters: Counters { unacked: 1, ..seen.counters }, ..seen };
        let acked = |seen: Seen, ago| Seen { counters: Counters { since_ack_received: ago, ..seen.counters }, ..seen };
        let awaited = |seen: Seen| Seen { awaited: true, ..seen };
        let first = seen(100, 500, 40, 20);
        let by = |verdict| Past::new(&first, verdict);
        for (rule, past, now, verdict) in [
            ("unread bytes", Some(by(idle(0))), unread(unacked(seen(110, 500, 0, 20))), Verdict::Busy),
            ("unread bytes, whoever waits", None, awaited(unread(seen(110, 500, 0, 20))), Verdict::Busy),
            ("nobody has asked yet", None, seen(0, 0, 8, 8), idle(8)),
            ("the first request", None, awaited(seen(100, 0, 8, 8)), Verdict::Busy),
            ("an answer is under way", Some(by(Verdict::Busy)), unacked(seen(200, 500, 0, 0)), idle(0)),
            ("read no more and written", Some(by(Verdict::Busy)), seen(100, 900, 8, 0), idle(0)),
            ("read and not written", Some(by(idle(0))), seen(200, 500, 0, 24), Verdict::Busy),
            ("read and not written, and waits for the rest", Some(by(idle(0))), awaited(seen(200, 500, 0, 24)), Verdict::Busy),
            ("nothing since it was busy", Some(by(Verdict::Busy)), seen(100, 500, 44, 24), Verdict::Busy),
            ("nothing since it was idle", Some(by(idle(20))), seen(100, 500, 44, 24), idle(24)),
            ("both: received later", Some(by(idle(0))), seen(200, 900, 4, 8), Verdict::Busy),
            ("both: sent later", Some(by(Verdict::Busy)), seen(200, 900, 8, 4), idle(4)),
            ("received later", None, seen(100, 500, 4, 8), Verdict::Busy),
            ("received later, and waits for the rest", None, awaited(seen(100, 500, 4, 8)), Verdict::Busy),
            ("sent later", None, seen(100, 500, 8, 4), idle(4)),
            ("a tie", None, seen(100, 500, 8, 8), doubtful(8)),
            ("a tie, and nothing was ever written", None, seen(100, 0, 1200, 1200), Verdict::Busy),
            ("a tie that was one", Some(by(doubtful(4))), seen(100, 500, 8, 8), doubtful(8)),
            ("a tie, and an acknowledgement that the request overtook", None, acked(seen(100, 500, 8, 8), 0), doubtful(8)),
            ("a tie, and the answer was acknowledged later", None, acked(seen(100, 500, 48, 48), 8), idle(48)),
            ("a tie, and a thread waits for the next request", None, awaited(seen(100, 500, 8, 8)), idle(8)),
        ] {
            assert_eq!(judge(past.as_ref(), &now), verdict, "{rule}");
        }
    }

    #[test]
    fn what_is_written_and_not_sent_counts_and_what_is_sent_again_does_not() {
        let first = Past::new(&seen(100, 500, 40, 20), Verdict::Busy);
        let mut now = seen(100, 500, 44, 24);
        now.counters.not_sent = 10;
        assert_eq!(judge(Some(&first), &now), idle(24));
        let mut again = seen(100, 600, 44, 24);
        again.counters.retransmitted = 100;
        assert_eq!(judge(Some(&first), &again), Verdict::Busy, "as before");
    }

    #[test]
    fn a_window_is_strict_first_and_lenient_soon() {
        let window = Window { from: Time(Duration::from_secs(5)), until: Time(Duration::from_secs(6)) };
        let at = |millis| window.from + millis * MILLISECOND;
        for (millis, demanded) in [(0, 200), (99, 200), (100, 50), (199, 50), (200, 0), (2000, 0)] {
            assert_eq!(window.demands(at(millis)), demanded * MILLISECOND, "{millis}");
        }
        assert!(!window.is_over(at(999)) && window.is_over(at(1000)));
        assert!(window.accepts(at(0), []), "nobody is there");
        assert!(window.accepts(at(0), [idle(200), idle(900)]) && !window.accepts(at(0), [idle(900), idle(199)]));
        assert!(window.accepts(at(150), [idle(50)]) && !window.accepts(at(150), [idle(49)]));
        assert!(window.accepts(at(200), [idle(0)]));
        assert!(window.accepts(at(200), [doubtful(1000)]), "a long doubt");
        for verdict in [Verdict::Busy, doubtful(999)] {
            assert!(!window.accepts(at(200), [idle(900), verdict]), "{verdict:?}");
        }
        let none = Window { from: at(0), until: at(0) };
        assert!(none.is_over(at(0)) && none.demands(at(0)) == Duration::ZERO);
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        // Small numbers meet more often.
        let small = || prop_oneof![0u64..3, any::<u64>()];
        let age = || prop_oneof![0u32..3, any::<u32>()];
        let counters = (age(), small(), small(), small(), age(), (age(), age(), age()));
        (age(), counters, any::<bool>()).prop_map(|(unread, counters, awaited)| {
            let (unacked, received, sent, retransmitted, not_sent, (since_data_sent, since_data_received, since_ack_received)) =
                counters;
            let counters = Counters {
                unacked,
                received,
                sent,
                retransmitted,
                not_sent,
                since_data_sent,
                since_data_received,
                since_ack_received,
            };
            Seen { unread, counters, awaited }
        })
    }

    proptest! {
        #[test]
        fn every_look_has_a_verdict_and_the_same_look_again_has_no_other(before in any_seen(), now in any_seen()) {
            let past = Past::new(&before, judge(None, &before));
            let verdict = judge(Some(&past), &now);
            let again = judge(Some(&Past::new(&now, verdict)), &now);
            // An answer that was under way and is acknowledged leaves the connection as it was: idle.
            prop_assert_eq!(again, verdict);
        }

        #[test]
        fn a_thread_that_waits_only_ever_settles_a_doubt(before in proptest::option::of(any_seen()), now in any_seen()) {
            let past = before.map(|before| Past::new(&before, judge(None, &before)));
            let (blind, told) = [false, true].map(|awaited| judge(past.as_ref(), &Seen { awaited, ..now })).into();
            prop_assert_eq!(blind == told, !matches!(blind, Verdict::Doubtful { .. }));
        }

        #[test]
        fn unread_bytes_are_busy_whatever_else_is_true(before in any_seen(), now in any_seen(), unread in 1u32..) {
            let past = Past::new(&before, judge(None, &before));
            prop_assert_eq!(judge(Some(&past), &Seen { unread, ..now }), Verdict::Busy);
        }

        #[test]
        fn what_was_accepted_is_accepted_later_and_when_idle_for_longer(
            from in 0u64..1000, length in 0u64..100_000, at in 0u64..200_000, later in 0u64..1000, since in 0u64..500, longer in 0u64..500,
        ) {
            let time = |millis| Time(Duration::from_millis(millis));
            let window = Window { from: time(from), until: time(from + length) };
            let idle = |millis| [Verdict::Idle { since: Duration::from_millis(millis) }];
            if window.accepts(time(at), idle(since)) {
                prop_assert!(window.accepts(time(at + later), idle(since + longer)));
            }
            prop_assert!(window.demands(time(at)) >= window.demands(time(at + later)));
        }
    }
}
