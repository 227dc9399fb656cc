//! Sizes as Kubernetes writes quantities: `256Mi`, `1G`, `1.5Gi`, `1e9`, or plain bytes.
//!
//! Of the notation, `m`, `u` and `n` are refused: a thousandth of a byte is always a slip for `Mi`. Fractions of a byte round up.

use super::number;

const ALLOWED: &str = "allowed: a size such as 256Mi, 1.5Gi, 512M, 1G or plain bytes";

/// No process fits into less. `WORKER_MEMORY=512` was meant as `512Mi`.
const LEAST_FOR_A_PROCESS: u64 = 64 << 10;

pub(super) fn parse(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if suffix == "m" {
        return Err(format!("m means thousandths of a byte, did you mean {number}Mi? {ALLOWED}"));
    }
    // The kernel and Kubernetes count in i64.
    let bytes = factor(suffix).and_then(|factor| number::times(number, factor));
    let bytes = bytes.and_then(|bytes| i64::try_from(bytes).ok()).and_then(|bytes| u64::try_from(bytes).ok());
    bytes.ok_or_else(|| ALLOWED.to_owned())
}

/// A size that a process could live in.
pub(super) fn of_a_process(text: &str) -> Result<u64, String> {
    match parse(text)? {
        too_little if too_little < LEAST_FOR_A_PROCESS => Err(format!("must be at least 64Ki; {ALLOWED}")),
        bytes => Ok(bytes),
    }
}

fn factor(suffix: &str) -> Option<u128> {
    Some(match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u128.pow(2),
        "G" => 1000_u128.pow(3),
        "T" => 1000_u128.pow(4),
        "P" => 1000_u128.pow(5),
        "E" => 1000_u128.pow(6),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power = digits.parse().ok().filter(|_| number::is_digits(digits))?;
            10_u128.checked_pow(power)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_kubernetes_quantities() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("256Mi", 256 << 20),
            ("1G", 1_000_000_000),
            ("1.5Gi", 3 << 29),
            ("1e9", 1_000_000_000),
            ("1E3", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("1.5e3", 1500),
            ("100k", 100_000),
            ("0.5", 1),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in
            ["", "Mi", "-1Mi", "+1Mi", "1K", "1KB", "1MB", "1mi", "1 Mi", "8Ei", "1e19", "1e-3", "1e+3", "1e", "nan", "inf", "1u"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("100m").unwrap_err().contains("did you mean 100Mi?"));
        assert!(of_a_process("512").is_err() && of_a_process("0").is_err() && of_a_process("64Ki").is_ok());
    }

    proptest! {
        #[test]
        fn sizes_read_back(bytes in 0..=i64::MAX.unsigned_abs()) {
            prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
            prop_assert_eq!(parse(&format!("{}Ki", bytes >> 10)), Ok(bytes >> 10 << 10));
            prop_assert_eq!(parse(&format!("{}Gi", bytes >> 30)), Ok(bytes >> 30 << 30));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|[0-9.]{0,50}([kMGTPE]i?|[eE][0-9]{0,5})?") {
            let _ = (parse(&text), of_a_process(&text));
        }
    }
}
