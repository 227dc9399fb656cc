//! Bytes as they come become lines. PURE, and bounded: what is longer than a line may be is dropped up to its end.

/// Bytes of one line, its end not included.
pub const LONGEST: usize = 1 << 20;

/// What a channel has read and not handed on yet.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come.
    open: Vec<u8>,
    /// The line is longer than [`LONGEST`]: what comes until its end is dropped.
    dropping: bool,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Whole(Vec<u8>),
    TooLong,
}

impl Lines {
    /// Takes what was read and answers the lines that it ends.
    pub fn take(&mut self, mut bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.add(line);
            lines.push(if std::mem::take(&mut self.dropping) {
                Line::TooLong
            } else {
                Line::Whole(std::mem::take(&mut self.open))
            });
            self.open = Vec::new();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.add(bytes);
        lines
    }

    fn add(&mut self, part: &[u8]) {
        if self.dropping || self.open.len() + part.len() > LONGEST {
            self.dropping = true;
            self.open = Vec::new();
        } else {
            self.open.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_one_is_not() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(&vec![b'x'; LONGEST]), []);
        assert_eq!(lines.take(b"\nb"), [Line::Whole(vec![b'x'; LONGEST])], "as long as it may be");
        for _ in 0..100 {
            assert_eq!(lines.take(&vec![b'x'; LONGEST]), []);
        }
        assert!(lines.open.capacity() == 0, "nothing is kept of it");
        assert_eq!(lines.take(b"y\nnext\n"), [Line::TooLong, Line::Whole(b"next".to_vec())]);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(1usize..9, 0..60)) {
            let mut lines = Lines::default();
            let (mut rest, mut found) = (text.as_bytes(), Vec::new());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (part, left) = rest.split_at(cut.min(rest.len()));
                found.extend(lines.take(part));
                rest = left;
            }
            let mut whole: Vec<_> = text.split('\n').map(|line| Line::Whole(line.into())).collect();
            whole.pop();
            prop_assert_eq!(found, whole);
        }
    }
}
