//! Bytes as they come become lines. However they are cut, the lines are the same.

use std::io::BufRead;

/// Bytes of one line, its end not included.
pub const LONGEST: usize = 64 * 1024;

/// What is kept between two lines; more goes back.
const KEPT: usize = 4096;

/// The beginning of a line whose end has not come: [`LONGEST`] at most.
#[derive(Debug, Default)]
pub struct Lines {
    open: Vec<u8>,
}

impl Lines {
    /// Hands on each line that these bytes end, without its newline, and each piece of [`LONGEST`] of what does not end.
    pub fn take(&mut self, bytes: &[u8], mut whole: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some((line, ends)) = next_line(&mut rest) {
            if self.open.is_empty() && ends {
                // Most are so: handed on from where they were read.
                let last = cut_off(line, &mut whole);
                whole(last);
                continue;
            }
            self.open.extend_from_slice(line);
            let left = cut_off(&self.open, &mut whole).len();
            if ends {
                self.end_of(left, &mut whole);
            } else if left < self.open.len() {
                self.open.drain(..self.open.len() - left);
            }
        }
    }

    /// No more will come: what has begun is a line.
    pub fn end(&mut self, mut whole: impl FnMut(&[u8])) {
        if !self.open.is_empty() {
            self.end_of(self.open.len(), &mut whole);
        }
    }

    fn end_of(&mut self, left: usize, whole: &mut impl FnMut(&[u8])) {
        whole(self.open.get(self.open.len() - left..).unwrap_or_default());
        self.open.clear();
        self.open.shrink_to(KEPT);
    }
}

/// Up to the next newline, and whether there is one. The library's search is far faster than a loop (`memchr`).
fn next_line<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], bool)> {
    let all = *rest;
    let length = rest.skip_until(b'\n').ok().filter(|length| *length > 0)?;
    let line = all.get(..length)?;
    Some(line.strip_suffix(b"\n").map_or((line, false), |line| (line, true)))
}

/// Hands on pieces until the rest is short enough; answers the rest.
fn cut_off<'a>(mut line: &'a [u8], whole: &mut impl FnMut(&[u8])) -> &'a [u8] {
    while line.len() > LONGEST {
        let (piece, rest) = line.split_at(place_to_cut(line));
        whole(piece);
        line = rest;
    }
    line
}

/// At [`LONGEST`], or up to three bytes before, where a UTF-8 character begins.
fn place_to_cut(line: &[u8]) -> usize {
    let begins = |at: &usize| line.get(*at).is_some_and(|byte| byte & 0xc0 != 0x80);
    (LONGEST - 3..=LONGEST).rev().find(begins).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines, and what the end adds to them.
    fn lines_of(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for part in parts {
            lines.take(part, |line| found.push(line.to_vec()));
            assert!(lines.open.len() <= LONGEST, "bounded");
        }
        lines.end(|line| found.push(line.to_vec()));
        lines.end(|_| panic!("nothing is said twice"));
        found
    }

    #[test]
    fn bytes_are_left_as_they_are() {
        let text = b"a\r\n\n\0b\xff\xfe\nlast";
        assert_eq!(lines_of(&[&text[..]]), [&b"a\r"[..], b"", b"\0b\xff\xfe", b"last"]);
        assert_eq!(lines_of(&[&b"one\n"[..]]), [b"one"], "nothing is added where nothing has begun");
        assert_eq!(lines_of(&[]), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_long_line_goes_out_in_pieces_between_characters() {
        let just = vec![b'x'; LONGEST];
        assert_eq!(lines_of(&[&[&just[..], b"\n"].concat()[..]]), [&just[..]], "as long as it may be");
        let more = [&just[..], b"y\nz\n"].concat();
        assert_eq!(lines_of(&[&more[..]]), [just.clone(), b"y".to_vec(), b"z".to_vec()]);
        let text = format!("{}äöü\n", "x".repeat(LONGEST - 1));
        let pieces = lines_of(&[text.as_bytes()]);
        assert!(pieces.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
        assert_eq!((pieces.len(), pieces[0].len()), (2, LONGEST - 1));
        let odd = vec![0x80; 2 * LONGEST];
        assert_eq!(lines_of(&[&odd[..]]), [vec![0x80; LONGEST], vec![0x80; LONGEST]], "no character begins anywhere");
    }

    #[test]
    fn a_line_that_never_ends_costs_no_memory() {
        let mut lines = Lines::default();
        let mut pieces = 0;
        for _ in 0..1000 {
            lines.take(&[b'x'; 10_000], |_| pieces += 1);
        }
        assert_eq!(pieces, 10_000_000 / LONGEST);
        assert!(lines.open.capacity() <= 3 * LONGEST);
        lines.take(b"\n", |_| ());
        assert!(lines.open.capacity() <= KEPT);
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..40),
            4 => Just(b"\n".to_vec()),
            1 => (1_usize..3 * LONGEST, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
            1 => (LONGEST - 2..LONGEST + 2).prop_map(|length| "ä".repeat(length / 2).into_bytes()),
        ];
        proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(bytes in bytes(), cuts in proptest::collection::vec(1_usize..100_000, 0..20)) {
            let (mut rest, mut parts) = (&bytes[..], Vec::new());
            for cut in cuts {
                let (part, left) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = left;
            }
            parts.push(rest);
            let (whole, cut) = (lines_of(&[&bytes[..]]), lines_of(&parts));
            prop_assert_eq!(&whole, &cut);
            // Nothing is lost or added but newlines.
            prop_assert!(whole.iter().all(|line| line.len() <= LONGEST && !line.contains(&b'\n')));
            let without: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\n').collect();
            prop_assert_eq!(whole.concat(), without);
            if whole.iter().all(|line| line.len() < LONGEST - 3) {
                let mut plain: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                if plain.last().is_some_and(|last| last.is_empty()) {
                    plain.pop();
                }
                prop_assert_eq!(whole, plain);
            }
        }
    }
}
