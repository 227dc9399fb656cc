//! All that is wrong with an environment, told at once: one line per mistake, with the variable, its value and what is allowed.
//!
//! Lines are bounded and free of control characters, whatever the environment holds: they end up in logs and in
//! `kubectl describe pod`.

use std::fmt;

use super::variables::{PREFIX, VARIABLES};

/// More of a value than this helps nobody.
const LONGEST_QUOTE: usize = 100;

/// Why there is no [`Config`](super::Config): at least one mistake, in the order of the table of variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    /// Without [`PREFIX`].
    name: String,
    line: String,
}

impl Mistakes {
    /// One line for each, without line ends.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|mistake| mistake.line.as_str())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if this variable has a mistake already: what depends on its value need not be looked at.
    pub(super) fn concern(&self, name: &str) -> bool {
        self.0.iter().any(|mistake| mistake.name == name)
    }

    /// As the table of variables has them, unknown names last.
    pub(super) fn in_order(mut self) -> Self {
        let row = |name: &str| VARIABLES.iter().position(|known| known.name == name).unwrap_or(VARIABLES.len());
        self.0.sort_by_key(|mistake| row(&mistake.name));
        self
    }

    /// The value of `name` is not allowed, and why.
    pub(super) fn add(&mut self, name: &str, value: &str, why: &str) {
        let line = format!("{PREFIX}{name}={}: {why}", quoted(value));
        self.0.push(Mistake { name: name.to_owned(), line });
    }

    /// The name itself is wrong. Its value is left out: it may be meant for somebody else, and secret.
    pub(super) fn add_name(&mut self, name: &str, why: &str) {
        self.0.push(Mistake { name: name.to_owned(), line: format!("{}: {why}", printable_name(name)) });
    }

    /// Reads one variable into its field; a variable that is unset, or wrong, leaves the field as it is.
    pub(super) fn read<T>(
        &mut self,
        field: &mut T,
        name: &str,
        raw: Option<&String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        let Some(text) = raw else { return };
        match parse(text) {
            Ok(value) => *field = value,
            Err(why) => self.add(name, text, &why),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.lines().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// A value in quotes, on one line, shortened where it is very long.
pub(super) fn quoted(value: &str) -> String {
    match value.char_indices().nth(LONGEST_QUOTE) {
        None => format!("{value:?}"),
        Some((end, _)) => format!("{:?}...", value.get(..end).unwrap_or_default()),
    }
}

/// The full name on one line, shortened likewise.
pub(super) fn printable_name(name: &str) -> String {
    let full = format!("{PREFIX}{name}");
    full.chars().take(LONGEST_QUOTE).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_one_bounded_line() {
        let mut mistakes = Mistakes::default();
        mistakes.add("GRACE", "8\n9", "allowed: a duration");
        mistakes.add("LOG", &"é".repeat(70_000), "allowed: a level");
        mistakes.add_name("A\nB", "unknown");
        let text = mistakes.to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("CLUSTERINIT_GRACE=\"8\\n9\": allowed: a duration\n"), "{text}");
        assert!(text.lines().all(|line| line.len() < 300 && line.starts_with(PREFIX)), "{text}");
        assert!(mistakes.concern("LOG") && !mistakes.concern("READY"));
    }

    #[test]
    fn a_wrong_value_leaves_the_field_alone() {
        let mut mistakes = Mistakes::default();
        let mut field = 1;
        mistakes.read(&mut field, "X", None, |_| Ok(2));
        mistakes.read(&mut field, "X", Some(&"x".to_owned()), |_| Err("allowed: 2".to_owned()));
        assert_eq!((field, mistakes.lines().count()), (1, 1));
        mistakes.read(&mut field, "X", Some(&"2".to_owned()), |_| Ok(2));
        assert_eq!(field, 2);
    }
}
