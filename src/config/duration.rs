//! Durations with a unit: `500ms`, `8s`, `1.5m`, `1h`. A bare number is refused: nobody can tell which unit it was meant in.

use std::time::Duration;

use super::number;
use crate::cluster::policy::Backoff;

const ALLOWED: &str = "allowed: a number with a unit, such as 500ms, 8s, 2m or 1h, at most 8760h";

/// A year: far from where clocks and timers overflow.
const LONGEST: u128 = 8760 * HOUR;

const MILLISECOND: u128 = 1_000_000;
const SECOND: u128 = 1000 * MILLISECOND;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;

pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        "" if !text.is_empty() => return Err(format!("a number without a unit; {ALLOWED}")),
        _ => return Err(ALLOWED.to_owned()),
    };
    let nanoseconds = number::times(number, unit).filter(|nanoseconds| *nanoseconds <= LONGEST);
    let nanoseconds = nanoseconds.and_then(|nanoseconds| u64::try_from(nanoseconds).ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| ALLOWED.to_owned())
}

/// A duration that is not zero.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err(format!("must be longer than zero; {ALLOWED}")),
        duration => Ok(duration),
    }
}

/// `FIRST..LONGEST`.
pub(super) fn backoff(text: &str) -> Result<Backoff, String> {
    let (first, longest) = text.split_once("..").ok_or("allowed: the first and the longest delay, such as 100ms..30s")?;
    let first = positive(first).map_err(|why| format!("first delay: {why}"))?;
    let longest = positive(longest).map_err(|why| format!("longest delay: {why}"))?;
    if first > longest {
        return Err("the first delay is longer than the longest; allowed: a range such as 100ms..30s".to_owned());
    }
    Ok(Backoff { first, longest })
}

/// As a person would write it, and as it could be set: `2m`, not `120s`.
pub fn show(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let units = [(HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (MILLISECOND, "ms")];
    match units.into_iter().find(|(unit, _)| nanoseconds > 0 && nanoseconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", nanoseconds / unit),
        None if nanoseconds == 0 => "0s".to_owned(),
        None => {
            let exact = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
            format!("{}s", exact.trim_end_matches('0'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_unit_is_required() {
        for (text, milliseconds) in
            [("500ms", 500), ("8s", 8000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0), ("1.5s", 1500), (".5m", 30_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bare in ["8", "0", "1.5"] {
            assert!(parse(bare).unwrap_err().starts_with("a number without a unit"), "{bare}");
        }
        for wrong in ["", "s", "8 s", "-8s", "+8s", "8S", "8sec", "1d", "1us", "1m30s", "nans", "infs", "8761h", "9e9s", "."] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&format!("{}h", "9".repeat(100))).is_err());
        assert!(positive("0s").is_err() && positive("0.0ms").is_err() && positive("1ms").is_ok());
    }

    #[test]
    fn durations_are_shown_in_the_largest_unit_that_is_exact() {
        for text in ["0s", "500ms", "8s", "90s", "2m", "1h", "100ms", "0.0005s"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(show(Duration::from_secs(120)), "2m");
    }

    #[test]
    fn a_backoff_is_two_durations_in_order() {
        let backoff_of =
            |first, longest| Ok(Backoff { first: Duration::from_millis(first), longest: Duration::from_millis(longest) });
        assert_eq!(backoff("100ms..30s"), backoff_of(100, 30_000));
        assert_eq!(backoff("1.5s..2s"), backoff_of(1500, 2000));
        assert_eq!(backoff("1s..1s"), backoff_of(1000, 1000));
        for wrong in ["", "..", "1s", "1s..", "..1s", "0s..1s", "2s..1s", "1..30", "1s..2s..3s", "1s-2s", "1s...2s..3s"] {
            assert!(backoff(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nanoseconds in 0..=u64::try_from(LONGEST).unwrap()) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&show(duration)), Ok(duration));
        }

        #[test]
        fn whole_units_read_back(number in 0..8760_u64) {
            for (unit, milliseconds) in [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)] {
                prop_assert_eq!(parse(&format!("{number}{unit}")), Ok(Duration::from_millis(number * milliseconds)));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|[0-9.]{0,50}(ms|s|m|h)?([.]{2}[0-9]{1,5}s)?") {
            let _ = (parse(&text), positive(&text), backoff(&text));
        }
    }
}
