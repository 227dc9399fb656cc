//! Numbers as people write them: digits, with a point where a fraction makes sense. No signs, no `inf`, no `nan`, no spaces.

/// The most workers of one container; beyond it a count is a typing error.
pub const MOST_WORKERS: u32 = 4096;

/// `text` × `factor`, rounded up. `None` where `text` is no plain decimal number, or the product is beyond all sense.
pub(super) fn times(text: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let decimals = u32::try_from(digits.len() - whole.len()).ok()?;
    let mantissa = if digits.is_empty() { 0 } else { digits.parse::<u128>().ok()? };
    Some(mantissa.checked_mul(factor)?.div_ceil(10_u128.checked_pow(decimals)?))
}

/// A number of workers, 1 to [`MOST_WORKERS`].
pub(super) fn count(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| is_digits(text) && (1..=MOST_WORKERS).contains(number));
    number.ok_or_else(|| format!("allowed: a whole number from 1 to {MOST_WORKERS}"))
}

/// Workers per CPU.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    // Through `times`, because f64's own parser takes `inf`, `nan`, signs and exponents.
    let plain = times(text, 1).and_then(|_| text.parse::<f64>().ok());
    plain
        .filter(|number| *number > 0.0 && *number <= 1000.0)
        .ok_or_else(|| "allowed: a decimal number above 0 and at most 1000, such as 1, 2 or 0.5".to_owned())
}

/// `1%` to `100%`, as a fraction.
pub(super) fn percentage(text: &str) -> Result<f64, String> {
    let plain = text.strip_suffix('%').filter(|number| times(number, 1).is_some());
    let number = plain.and_then(|number| number.parse::<f64>().ok()).filter(|number| (1.0..=100.0).contains(number));
    number.map(|percent| percent / 100.0).ok_or_else(|| "allowed: a percentage from 1% to 100%".to_owned())
}

pub(super) fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_are_exact_and_round_up() {
        assert_eq!(times("1.5", 1 << 30), Some(3 << 29));
        assert_eq!(times("0.1", 1000), Some(100));
        assert_eq!(times(".5", 3), Some(2));
        assert_eq!(times("5.", 3), Some(15));
        assert_eq!(times("0.0", 7), Some(0));
        for wrong in ["", ".", "1.2.3", "-1", "+1", "1e3", " 1", "nan", "inf", "１"] {
            assert_eq!(times(wrong, 1), None, "{wrong}");
        }
        assert_eq!(times(&"9".repeat(60), 1), None);
        assert_eq!(times(&format!("0.{}1", "0".repeat(60)), 1), None);
    }

    #[test]
    fn counts_factors_and_percentages_have_bounds() {
        assert_eq!((count("1"), count("4096")), (Ok(1), Ok(4096)));
        for wrong in ["", "0", "-1", "+1", "1.0", "4097", "99999999999999999999", "two"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert_eq!((factor("0.5"), factor("2")), (Ok(0.5), Ok(2.0)));
        for wrong in ["", "0", "0.0", "-1", "nan", "inf", "1e1", "1000.1"] {
            assert!(factor(wrong).is_err(), "{wrong}");
        }
        assert_eq!((percentage("1%"), percentage("100%"), percentage("87.5%")), (Ok(0.01), Ok(1.0), Ok(0.875)));
        for wrong in ["", "%", "90", "0.9", "0%", "0.99%", "100.1%", "-5%", "nan%", "90 %", "90%%"] {
            assert!(percentage(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_number_panic(text in "\\PC*") {
            let _ = (times(&text, u128::MAX), count(&text), factor(&text), percentage(&text));
        }

        #[test]
        fn a_whole_number_times_one_is_itself(number: u64) {
            prop_assert_eq!(times(&number.to_string(), 1), Some(u128::from(number)));
        }
    }
}
