//! CSV and TSV (RFC 4180): a header that names the columns, then one row a record; quoted fields may hold line ends.
//!
//! Invariant: a row is read whole within the limit or refused by the line it began at, and the reading goes on at the
//! line after it.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::lines::{Line, Lines};
use super::{Reason, Sink, Texts, columns};

/// Lines in one row: a quote that never closes must not swallow the file.
const MAX_ROW_LINES: usize = 1000;

pub(super) fn read(
    reader: impl BufRead,
    delimiter: u8,
    file: &Arc<Path>,
    sink: &mut Sink<'_>,
) -> io::Result<ControlFlow<()>> {
    let limit_bytes = sink.limits.max_line_bytes;
    let mut rows = Rows { lines: Lines::new(reader, limit_bytes), again: VecDeque::new(), delimiter, limit_bytes };
    let Some((number, header)) = rows.next()? else { return Ok(ControlFlow::Continue(())) };
    let layout = match header.and_then(|header| Layout::of(&header)) {
        Ok(layout) => layout,
        Err(reason) => {
            sink.refuse(file, number, reason);
            return Ok(ControlFlow::Continue(()));
        }
    };
    while let Some((number, row)) = rows.next()? {
        let found = row.and_then(|row| layout.texts(&row));
        if sink.take(file, number, found).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Where a header says that prompt and completion are.
struct Layout {
    fields: usize,
    prompt: Option<usize>,
    completion: usize,
}

impl Layout {
    fn of(header: &csv::StringRecord) -> Result<Self, Reason> {
        let place = |name: &str| header.iter().position(|field| field.trim().eq_ignore_ascii_case(name));
        for (prompt, completion) in columns::PAIRS {
            if let (Some(prompt), Some(completion)) = (place(prompt), place(completion)) {
                return Ok(Self { fields: header.len(), prompt: Some(prompt), completion });
            }
        }
        match place(columns::TEXT) {
            Some(completion) => Ok(Self { fields: header.len(), prompt: None, completion }),
            None => Err(Reason::NoKnownColumn { found: columns::shown(header.iter()) }),
        }
    }

    fn texts(&self, row: &csv::StringRecord) -> Result<Texts, Reason> {
        if row.len() != self.fields {
            return Err(Reason::FieldCount { expected: self.fields, found: row.len() });
        }
        let field = |place: usize| row.get(place).unwrap_or_default().to_owned();
        Ok(Texts::of(self.prompt.map(field).unwrap_or_default(), field(self.completion)))
    }
}

/// The rows of a table with the number of their first line.
struct Rows<R> {
    lines: Lines<R>,
    /// Lines after an unclosed quote, to be read once more.
    again: VecDeque<(u64, Line)>,
    delimiter: u8,
    limit_bytes: usize,
}

impl<R: BufRead> Rows<R> {
    fn next_line(&mut self) -> io::Result<Option<(u64, Line)>> {
        match self.again.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.lines.next(),
        }
    }

    /// The next row that is not blank.
    fn next(&mut self) -> io::Result<Option<(u64, Result<csv::StringRecord, Reason>)>> {
        loop {
            let Some((number, line)) = self.next_line()? else { return Ok(None) };
            match line {
                Line::Whole(line) if line.trim_ascii().is_empty() => {}
                Line::Whole(line) => return Ok(Some((number, self.row(line)?))),
                Line::TooLong(bytes) => {
                    let reason = Reason::TooLong { bytes, limit_bytes: self.limit_bytes };
                    return Ok(Some((number, Err(reason))));
                }
            }
        }
    }

    /// The row that begins with `row`, with as many further lines as its quotes ask for.
    fn row(&mut self, mut row: Vec<u8>) -> io::Result<Result<csv::StringRecord, Reason>> {
        let mut quotes = Quotes::new(self.delimiter);
        let mut open = quotes.open_after(&row);
        let mut taken = Vec::new();
        while open {
            let next = if taken.len() < MAX_ROW_LINES { self.next_line()? } else { None };
            let Some((number, Line::Whole(line))) = next else {
                return Ok(self.unclosed(taken, next));
            };
            row.push(b'\n');
            row.extend_from_slice(&line);
            quotes.open_after(b"\n");
            open = quotes.open_after(&line);
            taken.push((number, Line::Whole(line)));
            if row.len() > self.limit_bytes {
                return Ok(self.unclosed(taken, None));
            }
        }
        Ok(parse(&row, self.delimiter))
    }

    /// Gives back the lines after a quote that does not close.
    fn unclosed(&mut self, taken: Vec<(u64, Line)>, last: Option<(u64, Line)>) -> Result<csv::StringRecord, Reason> {
        for line in last.into_iter().chain(taken.into_iter().rev()) {
            self.again.push_front(line);
        }
        Err(Reason::UnclosedQuote)
    }
}

fn parse(row: &[u8], delimiter: u8) -> Result<csv::StringRecord, Reason> {
    let row = std::str::from_utf8(row).map_err(|_| Reason::NotUtf8)?;
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true).delimiter(delimiter).buffer_capacity(row.len().clamp(64, 8192));
    let mut record = csv::StringRecord::new();
    match builder.from_reader(row.as_bytes()).read_record(&mut record) {
        Ok(true) => Ok(record),
        Ok(false) => Err(Reason::Empty),
        Err(_) => Err(Reason::NotUtf8),
    }
}

/// Follows quotes as RFC 4180 has them: one opens only at the start of a field, two inside stand for one.
struct Quotes {
    delimiter: u8,
    state: QuoteState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum QuoteState {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first of two.
    QuoteInQuoted,
}

impl Quotes {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, state: QuoteState::FieldStart }
    }

    /// Whether a quoted field is open after `bytes`.
    fn open_after(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            self.state = match (self.state, *byte) {
                (QuoteState::FieldStart | QuoteState::QuoteInQuoted, b'"') => QuoteState::Quoted,
                (QuoteState::Quoted, b'"') => QuoteState::QuoteInQuoted,
                (QuoteState::Quoted, _) => QuoteState::Quoted,
                (_, byte) if byte == self.delimiter => QuoteState::FieldStart,
                _ => QuoteState::Plain,
            };
        }
        self.state == QuoteState::Quoted
    }
}
