//! JSON lines: one object a line.
//!
//! Invariant: a broken line costs itself only.

use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::lines::{Line, Lines};
use super::{Reason, Sink, Texts, columns};

pub(super) fn read(reader: impl BufRead, file: &Arc<Path>, sink: &mut Sink<'_>) -> io::Result<ControlFlow<()>> {
    let limit_bytes = sink.limits.max_line_bytes;
    let mut lines = Lines::new(reader, limit_bytes);
    while let Some((number, line)) = lines.next()? {
        let found = match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => continue,
            Line::Whole(line) => texts(&line),
            Line::TooLong(bytes) => Err(Reason::TooLong { bytes, limit_bytes }),
        };
        if sink.take(file, number, found).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn texts(line: &[u8]) -> Result<Texts, Reason> {
    let line = std::str::from_utf8(line).map_err(|_| Reason::NotUtf8)?;
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => columns::of_object(&object),
        Ok(_) => Err(Reason::NotAnObject),
        Err(error) => Err(Reason::NotJson(what_is_wrong(&error))),
    }
}

/// The parser's words without its line, which is always 1 here.
fn what_is_wrong(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.split(" at line ").next().unwrap_or_default();
    format!("{words} at character {}", error.column())
}
