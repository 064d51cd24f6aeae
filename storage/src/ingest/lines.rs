//! Lines of a file with a bound on each.
//!
//! Invariant: at most one line of at most the limit is in memory; a longer one is counted, passed over and reported.

use std::io::{self, BufRead};

/// The mark some editors put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// One line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// The line's bytes.
    Whole(Vec<u8>),
    /// A line longer than the limit, with its length in bytes.
    TooLong(u64),
}

/// The lines of a reader, numbered from 1.
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
    limit_bytes: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, limit_bytes: usize) -> Self {
        Self { reader, number: 0, limit_bytes }
    }

    /// The next line with its number, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line)>> {
        let mut line = Vec::new();
        let mut bytes = 0_u64;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok((bytes > 0).then(|| self.finish(line, bytes)));
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            bytes += part.len() as u64;
            if bytes <= self.limit_bytes as u64 {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some(self.finish(line, bytes)));
            }
        }
    }

    fn finish(&mut self, mut line: Vec<u8>, bytes: u64) -> (u64, Line) {
        self.number += 1;
        if bytes > self.limit_bytes as u64 {
            return (self.number, Line::TooLong(bytes));
        }
        if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        (self.number, Line::Whole(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::{Line, Lines};

    fn all(text: &[u8], limit_bytes: usize, buffer: usize) -> Vec<(u64, Line)> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, text), limit_bytes);
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn ends_marks_and_a_missing_last_end_are_handled() {
        let whole = |number, text: &str| (number, Line::Whole(text.into()));
        let expected = vec![whole(1, "a"), whole(2, ""), whole(3, "bc")];
        for buffer in [1, 2, 64] {
            assert_eq!(all("\u{feff}a\r\n\nbc".as_bytes(), 100, buffer), expected);
        }
    }

    #[test]
    fn a_long_line_is_counted_and_the_next_one_is_found() {
        let lines = all(b"1234567\nab\n", 4, 3);
        assert_eq!(lines, vec![(1, Line::TooLong(7)), (2, Line::Whole(b"ab".to_vec()))]);
    }

    #[test]
    fn nothing_has_no_lines() {
        assert!(all(b"", 4, 3).is_empty());
    }
}
