//! Plain text, cut into records at paragraphs.
//!
//! Invariant: the records in order, joined by their paragraph gaps, are the text; none is longer than the limit.

use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::lines::{Line, Lines};
use super::{Reason, Sink, Texts};

pub(super) fn read(reader: impl BufRead, file: &Arc<Path>, sink: &mut Sink<'_>) -> io::Result<ControlFlow<()>> {
    let limit_bytes = sink.limits.max_line_bytes;
    let mut lines = Lines::new(reader, limit_bytes);
    let mut cutter = Cutter { file, limit_bytes: sink.limits.text_record_bytes.max(4), record: None, paragraph: None };
    while let Some((number, line)) = lines.next()? {
        let flow = match line {
            Line::Whole(line) => match std::str::from_utf8(&line) {
                Ok(line) => cutter.line(number, line, sink),
                Err(_) => cutter.gap(number, Reason::NotUtf8, sink),
            },
            Line::TooLong(bytes) => cutter.gap(number, Reason::TooLong { bytes, limit_bytes }, sink),
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(cutter.end(sink))
}

/// A piece of text with the line it began at, and what parts it from the piece before.
struct Piece {
    line: u64,
    text: String,
    gap: &'static str,
}

/// Between paragraphs.
const PARAGRAPH: &str = "\n\n";

/// Between two parts of a paragraph that is too long for one record.
const LINE: &str = "\n";

/// Gathers lines to paragraphs and paragraphs to records.
struct Cutter<'a> {
    file: &'a Arc<Path>,
    limit_bytes: usize,
    /// Finished paragraphs that still have room for another.
    record: Option<Piece>,
    /// The lines since the last blank one.
    paragraph: Option<Piece>,
}

impl Cutter<'_> {
    fn line(&mut self, number: u64, line: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let line = line.trim_end();
        if line.is_empty() {
            return self.end_paragraph(sink);
        }
        let mut gap = PARAGRAPH;
        if self.paragraph.as_ref().is_some_and(|open| open.text.len() + LINE.len() + line.len() > self.limit_bytes) {
            self.end_paragraph(sink)?;
            gap = LINE;
        }
        match &mut self.paragraph {
            Some(open) => {
                open.text.push_str(LINE);
                open.text.push_str(line);
            }
            None => self.paragraph = Some(Piece { line: number, text: line.to_owned(), gap }),
        }
        ControlFlow::Continue(())
    }

    /// A refused line ends what came before it.
    fn gap(&mut self, number: u64, reason: Reason, sink: &mut Sink<'_>) -> ControlFlow<()> {
        self.end(sink)?;
        sink.refuse(self.file, number, reason);
        ControlFlow::Continue(())
    }

    fn end(&mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        self.end_paragraph(sink)?;
        self.end_record(sink)
    }

    fn end_record(&mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        match self.record.take() {
            Some(Piece { line, text, .. }) => sink.accept(self.file, line, Texts::of(String::new(), text)),
            None => ControlFlow::Continue(()),
        }
    }

    /// Adds the open paragraph to the record, or begins the next record with it.
    fn end_paragraph(&mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let Some(paragraph) = self.paragraph.take() else { return ControlFlow::Continue(()) };
        let joined =
            self.record.as_ref().map_or(0, |open| open.text.len() + paragraph.gap.len()) + paragraph.text.len();
        if joined > self.limit_bytes {
            self.end_record(sink)?;
        }
        if let Some(open) = &mut self.record {
            open.text.push_str(paragraph.gap);
            open.text.push_str(&paragraph.text);
            return ControlFlow::Continue(());
        }
        let line = paragraph.line;
        let mut rest = paragraph.text.as_str();
        if rest.len() > self.limit_bytes {
            // An indent would be a piece of its own, and an empty one.
            rest = rest.trim_start();
        }
        while rest.len() > self.limit_bytes {
            let (first, after) = rest.split_at(cut_at(rest, self.limit_bytes));
            sink.accept(self.file, line, Texts::of(String::new(), first.trim_end().to_owned()))?;
            rest = after.trim_start();
        }
        if !rest.is_empty() {
            self.record = Some(Piece { line, text: rest.to_owned(), gap: PARAGRAPH });
        }
        ControlFlow::Continue(())
    }
}

/// Where to cut a text that is longer than the limit: after the last sentence that fits, else the last word, else the
/// last character.
fn cut_at(text: &str, limit_bytes: usize) -> usize {
    let end = text.floor_char_boundary(limit_bytes);
    let head = &text[..end];
    let sentence = [". ", "! ", "? ", "\n"].iter().filter_map(|mark| head.rfind(mark)).max().map(|at| at + 1);
    // A sentence in the first half would make splinters.
    let sentence = sentence.filter(|at| *at > limit_bytes / 2);
    let word = head.rfind(char::is_whitespace).filter(|at| *at > 0);
    sentence.or(word).unwrap_or(end).max(text.chars().next().map_or(0, char::len_utf8))
}
