//! Which names of an environment are ours: known, set by ourselves for workers, Kubernetes' service links, or unknown.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::mistakes::{Mistakes, quoted};
use super::variables::{PREFIX, SET_FOR_WORKERS, VARIABLES};

/// An environment, sorted. Names are without [`PREFIX`].
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// Our variables with readable values.
    pub(super) given: BTreeMap<String, String>,
    /// Names that begin with our prefix and mean nothing.
    pub(super) unknown: Vec<String>,
    pub(super) web_concurrency: Option<String>,
    pub(super) kubernetes: bool,
}

impl Environment {
    /// A name that is there twice counts once: the first one, as for `getenv`.
    pub(super) fn sort(vars: impl IntoIterator<Item = (OsString, OsString)>, mistakes: &mut Mistakes) -> Self {
        let mut first: BTreeMap<String, OsString> = BTreeMap::new();
        for (name, value) in vars {
            first.entry(name.to_string_lossy().into_owned()).or_insert(value);
        }
        let mut sorted = Self::default();
        for (name, value) in first {
            match name.strip_prefix(PREFIX) {
                Some(ours) => sorted.take(ours, value, mistakes),
                None if name == "WEB_CONCURRENCY" => sorted.web_concurrency = Some(value.to_string_lossy().into_owned()),
                None if name == "KUBERNETES_SERVICE_HOST" => sorted.kubernetes = !value.is_empty(),
                None => {}
            }
        }
        sorted
    }

    fn take(&mut self, name: &str, value: OsString, mistakes: &mut Mistakes) {
        if VARIABLES.iter().any(|known| known.name == name) {
            match value.into_string() {
                Ok(text) => drop(self.given.insert(name.to_owned(), text)),
                Err(bytes) => mistakes.add(name, &bytes.to_string_lossy(), "these bytes are no text; allowed: UTF-8"),
            }
        } else if !SET_FOR_WORKERS.contains(&name) && !is_service_link(name) {
            self.unknown.push(name.to_owned());
        }
    }

    /// The number in `WEB_CONCURRENCY`, or why it is not used.
    pub(super) fn web_concurrency(&self) -> Result<Option<u32>, String> {
        let Some(text) = self.web_concurrency.as_deref().map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let count = super::number::count(text);
        count.map(Some).map_err(|allowed| format!("WEB_CONCURRENCY={} is ignored; {allowed}", quoted(text)))
    }
}

/// What to do about an unknown name.
pub(super) fn hint(name: &str) -> String {
    let shown: String = name.chars().take(64).flat_map(char::to_uppercase).collect();
    let nearest = VARIABLES.iter().min_by_key(|known| distance(&shown, known.name)).map_or("", |known| known.name);
    format!("unknown variable; did you mean {PREFIX}{nearest}?")
}

/// Kubernetes sets these for every service of a namespace, so also for one whose name begins with `clusterinit`.
fn is_service_link(name: &str) -> bool {
    // The prefix counts: a service named just `clusterinit` has CLUSTERINIT_PORT.
    let name = format!("_{name}");
    let numbered = |rest: &str| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && rest.as_bytes().get(digits) == Some(&b'_')
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.match_indices("_PORT_").any(|(at, port)| name.get(at + port.len()..).is_some_and(numbered))
}

/// How many letters have to be put in, left out or changed to get from one word to the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut costs: Vec<usize> = (0..=other.chars().count()).collect();
    for (row, letter) in one.chars().enumerate() {
        let (mut diagonal, mut left) = (row, row + 1);
        for (target, above) in other.chars().zip(costs.iter_mut().skip(1)) {
            left = (diagonal + usize::from(letter != target)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, left);
        }
        if let Some(first) = costs.first_mut() {
            *first = row + 1;
        }
    }
    costs.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_get_the_nearest_known_one() {
        for (typed, meant) in [
            ("WROKERS", "WORKERS"),
            ("WORKER", "WORKERS"),
            ("workers", "WORKERS"),
            ("GRACE_PERIOD", "GRACE"),
            ("STOPSIGNAL", "STOP_SIGNAL"),
            ("HEALTH_ADDRESS", "HEALTH_ADDR"),
            ("LOGFORMAT", "LOG_FORMAT"),
            ("BALANC", "BALANCE"),
        ] {
            assert!(hint(typed).contains(&format!("did you mean CLUSTERINIT_{meant}?")), "{typed}: {}", hint(typed));
        }
        assert!(hint(&"é\n".repeat(50_000)).len() < 200);
        assert!(hint("").contains("CLUSTERINIT_"));
    }

    #[test]
    fn distances_count_single_letters() {
        for (one, other, cost) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 2),
            ("abc", "xbc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), cost, "{one} {other}");
        }
    }

    #[test]
    fn service_links_are_told_from_mistakes() {
        for link in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_HTTP",
            "PORT",
            "PORT_8080_TCP",
            "PORT_8080_TCP_ADDR",
            "WEB_SERVICE_HOST",
            "WEB_SERVICE_PORT",
            "WEB_PORT",
            "WEB_PORT_53_UDP_PROTO",
        ] {
            assert!(is_service_link(link), "{link}");
        }
        for none in ["PORTS", "SUPPORT", "WEB_PORT_TCP", "PORT_", "PORT_80", "SERVICE", "WEB_HOST", ""] {
            assert!(!is_service_link(none), "{none}");
        }
    }
}
