//! Files to records: JSON lines, CSV, plain text, or a folder of them.
//!
//! Invariant: every line of the input is either in a record, counted as a duplicate, blank, or refused with its file,
//! line and reason; no input makes this panic, and memory follows the records kept, never the size of a file.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tributary_protocol::id::{AccountId, Hash};

use crate::shard::{Record, conversation_id, record_id};

mod columns;
mod folder;
mod json;
mod lines;
mod table;
mod text;

/// How much one call takes in. What lies beyond is left out and [`Ingested::stopped`] says where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestLimits {
    /// Records kept.
    pub max_records: usize,
    /// Bytes of prompts and completions kept: what the records take in memory.
    pub max_text_bytes: usize,
    /// Bytes of prompt and completion in one record.
    pub max_record_bytes: usize,
    /// Bytes of one line of JSON, or of one row of CSV.
    pub max_line_bytes: usize,
    /// Bytes that a record cut from plain text has at most.
    pub text_record_bytes: usize,
    /// Refusals kept with their reasons; further ones are only counted.
    pub max_refused: usize,
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            max_records: 500_000,
            max_text_bytes: 256 * 1024 * 1024,
            max_record_bytes: 64 * 1024,
            max_line_bytes: 1024 * 1024,
            text_record_bytes: 1000,
            max_refused: 10_000,
        }
    }
}

/// A record as a file has it, without contributor and licence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// What the model is given; empty for plain text.
    pub prompt: String,
    /// What it should say.
    pub completion: String,
    /// The conversation that both are of, in its one form.
    pub messages: Option<String>,
    /// The file it came from.
    pub file: Arc<Path>,
    /// The line it began at, from 1.
    pub line: u64,
}

/// A line that gave no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", file.display(), if *line == 0 { String::new() } else { format!(":{line}") })]
pub struct Refusal {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1; 0 is the file as a whole.
    pub line: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a line gave no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Bytes that are no text.
    #[error("not UTF-8")]
    NotUtf8,
    /// A line of a JSON file that does not parse.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but a number, a list or the like.
    #[error("not a JSON object")]
    NotAnObject,
    /// None of the columns that make a record.
    #[error("no known column among {found}; {}", columns::KNOWN)]
    NoKnownColumn {
        /// What there is.
        found: String,
    },
    /// A known column that holds no text.
    #[error("{column} is not a text")]
    NotText {
        /// The column.
        column: &'static str,
    },
    /// A `messages` list that is no conversation ending with the assistant.
    #[error("messages: {0}")]
    Messages(&'static str),
    /// A row with more or fewer fields than the header.
    #[error("{found} fields, the header has {expected}")]
    FieldCount {
        /// Fields of the header.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// A quoted field that does not end.
    #[error("a quoted field does not end")]
    UnclosedQuote,
    /// Nothing to learn from.
    #[error("empty")]
    Empty,
    /// More than one line or record may have.
    #[error("too long: {bytes} bytes, at most {limit_bytes}")]
    TooLong {
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit_bytes: usize,
    },
    /// A file that is no text at all.
    #[error("a binary file; save it as UTF-8 text")]
    Binary,
    /// A file in a folder whose kind its name does not tell.
    #[error("left out: its name ends in none of {}", folder::ENDINGS.join(", "))]
    UnknownKind,
    /// A link in a folder; it may lead out of it or in a circle.
    #[error("left out: links are not followed")]
    Link,
    /// The operating system refused.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// Which limit ended the reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stopped at {}:{line}: the limit of {limit} {what} is reached", file.display())]
pub struct Stopped {
    /// The file being read.
    pub file: Arc<Path>,
    /// The first line left out, from 1.
    pub line: u64,
    /// What was limited: records, bytes of text, or files.
    pub what: &'static str,
    /// The limit.
    pub limit: usize,
}

/// What a path gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingested {
    /// The usable records, in the order of files and lines.
    pub records: Vec<RawRecord>,
    /// The refused lines, at most [`IngestLimits::max_refused`].
    pub refused: Vec<Refusal>,
    /// All refused lines, also those without a place in `refused`.
    pub refused_total: usize,
    /// Records left out because an equal one came before.
    pub duplicates: usize,
    /// Set when a limit ended the reading early.
    pub stopped: Option<Stopped>,
}

impl Ingested {
    /// The records as `contributor`'s, under `licence`.
    #[must_use]
    pub fn into_records(self, contributor: AccountId, licence: &str) -> Vec<Record> {
        let owned = |raw: RawRecord| {
            let (prompt, completion, messages) = (raw.prompt, raw.completion, raw.messages);
            Record::of(prompt, completion, messages, contributor, licence.to_owned())
        };
        self.records.into_iter().map(owned).collect()
    }
}

/// Why a path gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Nothing there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// A file of 0 bytes.
    #[error("{} is empty", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A device, a socket or the like.
    #[error("{} is neither a file nor a folder", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A folder without a file that could hold records.
    #[error("{} holds no file that ends in {}", path.display(), folder::ENDINGS.join(", "))]
    NoReadableFiles {
        /// The folder.
        path: PathBuf,
        /// The files that were left out.
        refused: Vec<Refusal>,
    },
    /// Lines, but not one record.
    #[error("{} holds no usable record{}; {}", path.display(), first_of(refused), columns::KNOWN)]
    NothingUsable {
        /// The path.
        path: PathBuf,
        /// Why each line was refused.
        refused: Vec<Refusal>,
    },
    /// The operating system refused.
    #[error("{} cannot be read: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

fn first_of(refused: &[Refusal]) -> String {
    refused.first().map(|first| format!(" (first: {first})")).unwrap_or_default()
}

/// Reads the records of a file or of all files in a folder.
///
/// A JSON line or a CSV row is a record when it has `text`, `prompt` and `completion`, `question` and `answer`, `text`
/// and `category` (or `label`), or, in JSON, `messages`. Plain text is cut at paragraphs. The kind of a file follows
/// its ending (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.txt`, `.text`), else its first character.
///
/// # Errors
/// When there is nothing to read or nothing in it is a record. Single broken lines are no error: they are in
/// [`Ingested::refused`].
pub fn read_path(path: &Path, limits: &IngestLimits) -> Result<Ingested, IngestError> {
    let found = std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => IngestError::Missing { path: path.to_owned() },
        _ => IngestError::Io { path: path.to_owned(), source },
    })?;
    let mut sink = Sink::new(limits);
    if found.is_dir() {
        if folder::read(path, &mut sink)? == 0 {
            return Err(IngestError::NoReadableFiles { path: path.to_owned(), refused: sink.done.refused });
        }
    } else if !found.is_file() {
        return Err(IngestError::NotAFile { path: path.to_owned() });
    } else if found.len() == 0 {
        return Err(IngestError::EmptyFile { path: path.to_owned() });
    } else {
        // Whether a limit broke it off stands in the sink.
        let _ =
            folder::read_one(path, &mut sink).map_err(|source| IngestError::Io { path: path.to_owned(), source })?;
    }
    if sink.done.records.is_empty() {
        return Err(IngestError::NothingUsable { path: path.to_owned(), refused: sink.done.refused });
    }
    Ok(sink.done)
}

/// Where the readers put what they find; `Break` asks them to stop, since a limit is reached.
struct Sink<'a> {
    limits: &'a IngestLimits,
    done: Ingested,
    seen: HashSet<Hash>,
    text_bytes: usize,
}

impl<'a> Sink<'a> {
    fn new(limits: &'a IngestLimits) -> Self {
        Self { limits, done: Ingested::default(), seen: HashSet::new(), text_bytes: 0 }
    }

    fn refuse(&mut self, file: &Arc<Path>, line: u64, reason: Reason) {
        self.done.refused_total += 1;
        if self.done.refused.len() < self.limits.max_refused {
            self.done.refused.push(Refusal { file: file.clone(), line, reason });
        }
    }

    fn accept(&mut self, file: &Arc<Path>, line: u64, texts: Texts) -> ControlFlow<()> {
        let Texts { prompt, completion, messages } = texts;
        let bytes = prompt.len().saturating_add(completion.len()).max(messages.as_ref().map_or(0, String::len));
        if completion.trim().is_empty() {
            self.refuse(file, line, Reason::Empty);
            return ControlFlow::Continue(());
        }
        if bytes > self.limits.max_record_bytes {
            let limit_bytes = self.limits.max_record_bytes;
            self.refuse(file, line, Reason::TooLong { bytes: bytes as u64, limit_bytes });
            return ControlFlow::Continue(());
        }
        let id = match &messages {
            Some(json) => conversation_id(json),
            None => record_id(&prompt, &completion),
        };
        if self.seen.contains(&id) {
            self.done.duplicates += 1;
            return ControlFlow::Continue(());
        }
        if self.done.records.len() >= self.limits.max_records {
            return self.stop(file, line, "records", self.limits.max_records);
        }
        if self.text_bytes.saturating_add(bytes) > self.limits.max_text_bytes {
            return self.stop(file, line, "bytes of text", self.limits.max_text_bytes);
        }
        self.seen.insert(id);
        self.text_bytes += bytes;
        self.done.records.push(RawRecord { prompt, completion, messages, file: file.clone(), line });
        ControlFlow::Continue(())
    }

    fn stop(&mut self, file: &Arc<Path>, line: u64, what: &'static str, limit: usize) -> ControlFlow<()> {
        self.done.stopped = Some(Stopped { file: file.clone(), line, what, limit });
        ControlFlow::Break(())
    }

    /// Accepts what a line gave, or refuses it for its reason.
    fn take(&mut self, file: &Arc<Path>, line: u64, found: Result<Texts, Reason>) -> ControlFlow<()> {
        match found {
            Ok(texts) => self.accept(file, line, texts),
            Err(reason) => {
                self.refuse(file, line, reason);
                ControlFlow::Continue(())
            }
        }
    }
}

/// What a line says.
struct Texts {
    prompt: String,
    completion: String,
    messages: Option<String>,
}

impl Texts {
    const fn of(prompt: String, completion: String) -> Self {
        Self { prompt, completion, messages: None }
    }
}

#[cfg(test)]
mod tests;
