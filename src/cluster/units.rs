//! How numbers are written for people: as the environment would take them back, and never with more digits than they are worth.

/// Bytes as a Kubernetes quantity, in the largest binary unit that shows them exactly: `512Mi`, `1536Ki`, `1000`.
pub fn size(bytes: u64) -> String {
    let units = [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let exact = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    exact.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
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
    fn decimals_show_the_fraction_and_not_the_noise() {
        for (number, text) in [(2.0, "2"), (1.5, "1.5"), (1.99999, "1.99999"), (0.1 * 3.0, "0.3"), (0.0, "0"), (100.0, "100")] {
            assert_eq!(decimal(number), text);
        }
    }
}
