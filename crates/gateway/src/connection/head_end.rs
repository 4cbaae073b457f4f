//! The end of a request's head: an empty line. Chunked bodies end with one, too.

use std::io::BufRead;

/// Position in the byte sequence that ends a head: a line feed, an optional carriage return, and a line
/// feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum HeadEnd {
    /// Within a line.
    #[default]
    Line,
    /// After a line feed.
    LineFeed,
    /// After a line feed and a carriage return.
    CarriageReturn,
}

impl HeadEnd {
    /// Advances over `bytes` up to the byte that completes an empty line, and returns its index. Without such a byte,
    /// advances over all of them.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match (*self, byte) {
                (Self::LineFeed | Self::CarriageReturn, b'\n') => return Some(at),
                (Self::LineFeed, b'\r') => {
                    *self = Self::CarriageReturn;
                    at += 1;
                }
                _ => {
                    // The fast search of the standard library. Reading from memory cannot fail.
                    at += (&bytes[at..]).skip_until(b'\n').unwrap_or_default();
                    *self = if bytes[at - 1] == b'\n' { Self::LineFeed } else { Self::Line };
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Indices of all bytes that complete an empty line, if the bytes come in pieces of `size` bytes.
    fn ends(text: &str, size: usize) -> Vec<usize> {
        let (mut end, mut found, mut start) = (HeadEnd::default(), Vec::new(), 0);
        for piece in text.as_bytes().chunks(size) {
            let mut from = 0;
            while let Some(at) = end.find(&piece[from..]) {
                found.push(start + from + at);
                end = HeadEnd::default();
                from += at + 1;
            }
            start += piece.len();
        }
        found
    }

    #[test]
    fn empty_lines_are_found_wherever_the_pieces_are_cut() {
        for (text, expected) in [
            ("", &[][..]),
            ("GET / HTTP/1.1\r\n", &[]),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", &[26]),
            ("GET / HTTP/1.1\nhost: x\n\n", &[23]),
            ("a\r\n\r\nb\r\n\r\n", &[4, 9]),
            ("a\n\r\r\n\n", &[5]),
            ("\r\na\r\n\r\n", &[6]),
            ("5\r\na\n\nbc\r\n0\r\n\r\n", &[5, 14]),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(ends(text, size), expected, "{text:?} in pieces of {size}");
            }
        }
    }
}
