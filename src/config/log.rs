//! `LOG`: a level, or directives such as `info,clusterinit=debug,hyper=warn`.
//!
//! `Targets` takes any lone word for the name of a target (`LOG=verbose` would silence everything
//! else); here a lone word is a level.

use tracing_subscriber::filter::Targets;

use super::mistakes::quoted;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The text as it was, once it is known that `Targets` will take it.
pub(super) fn parse(text: &str) -> Result<String, String> {
    for directive in text.split(',') {
        let level = match directive.split_once('=') {
            Some((target, level)) if is_target(target) => level,
            Some((target, _)) => return Err(format!("{} is no target; {}", quoted(target), allowed())),
            None => directive,
        };
        if !LEVELS.contains(&level) {
            return Err(format!("{} is no level; {}", quoted(level), allowed()));
        }
    }
    let checked = text.parse::<Targets>().map_err(|error| format!("{error}; {}", allowed()));
    checked.map(|_| text.to_owned())
}

fn allowed() -> String {
    format!("allowed: {}, or a filter such as info,clusterinit=debug", LEVELS.join(", "))
}

/// A module path.
fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn levels_and_filters_are_taken() {
        for right in ["error", "warn", "info", "debug", "trace", "off", "clusterinit=debug,hyper=warn", "info,a::b=off"] {
            assert_eq!(parse(right), Ok(right.to_owned()));
        }
        for wrong in ["", "INFO", "verbose", "3", "info,", "=debug", "a=", "a=loud", "a[b]=debug", "info debug", "a=b=info"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_a_filter(text in "\\PC*|([a-z:]{0,9}=?(info|debug|off)?,?){0,4}") {
            if let Ok(checked) = parse(&text) {
                prop_assert!(checked.parse::<Targets>().is_ok());
            }
        }
    }
}
