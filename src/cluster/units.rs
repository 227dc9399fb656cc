//! How numbers are written for people: as the environment would take them back, and never with more digits than they are worth.

/// Bytes as a Kubernetes quantity, in the largest binary unit that shows them exactly: `512Mi`, `1536Ki`, `1000`.
pub fn size(bytes: u64) -> String {
    let units = [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let exact = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    exact.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// Bytes for people only: what is no whole number of MiB is rounded down to one, and says so.
pub fn about(bytes: u64) -> String {
    if bytes >> 20 == 0 || bytes.trailing_zeros() >= 20 { size(bytes) } else { format!("about {}Mi", bytes >> 20) }
}

/// With at most six decimals: the finest that a CPU quota can say.
pub fn decimal(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        let cases =
            [(0, "0"), (1, "1"), (1000, "1000"), (1024, "1Ki"), (1536, "1536"), (3 << 19, "1536Ki"), (512 << 20, "512Mi")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "18446744073709551615");
        assert_eq!(size(1 << 63), "8Ei");
    }

    #[test]
    fn what_is_not_exact_says_so() {
        let cases =
            [(0, "0"), (1536, "1536"), (512 << 20, "512Mi"), ((1 << 30) / 3, "about 341Mi"), ((1 << 20) + 1, "about 1Mi")];
        for (bytes, text) in cases {
            assert_eq!(about(bytes), text);
        }
    }

    #[test]
    fn decimals_show_the_fraction_and_not_the_noise() {
        for (number, text) in [(2.0, "2"), (1.5, "1.5"), (1.99999, "1.99999"), (0.1 * 3.0, "0.3"), (0.0, "0"), (100.0, "100")] {
            assert_eq!(decimal(number), text);
        }
    }
}
