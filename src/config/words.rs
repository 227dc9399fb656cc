//! Values that are words, lists and alternatives. Words are accepted exactly as documented: lower case, no spaces.

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let known = words.iter().find(|(word, _)| *word == text);
        known.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("allowed: {}", words.join(", "))
        })
    }
}

/// `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    one_of(&[("on", true), ("off", false)])(text)
}

/// What `parse` takes, or this word, which stands for `None`.
pub(super) fn or<T>(word: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |text| match text {
        _ if text == word => Ok(None),
        _ => parse(text).map(Some).map_err(|why| format!("{why}, or {word}")),
    }
}

/// The parts of a comma-separated list; spaces around them do no harm.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_exactly() {
        assert_eq!((switch("on"), switch("off")), (Ok(true), Ok(false)));
        for wrong in ["", "ON", "true", "1", " on", "on\n"] {
            assert_eq!(switch(wrong), Err("allowed: on, off".to_owned()));
        }
        assert_eq!(or("auto", switch)("auto"), Ok(None));
        assert_eq!(or("auto", switch)("on"), Ok(Some(true)));
        assert_eq!(or("auto", switch)("x"), Err("allowed: on, off, or auto".to_owned()));
    }
}
