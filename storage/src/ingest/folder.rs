//! Which files are read, and how each is taken.
//!
//! Invariant: the files of a folder are read in the order of their names, so that the same folder gives the same
//! records everywhere; links are not followed and hidden files are passed over.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{IngestError, Reason, Sink, json, table, text};

/// The endings whose kind is known.
pub(super) const ENDINGS: [&str; 7] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".text"];

/// Folders within folders.
const MAX_DEPTH: usize = 16;

/// Files in one call; more is a wrong path more often than a dataset.
const MAX_FILES: usize = 10_000;

#[derive(Clone, Copy)]
enum Kind {
    Json,
    Table(u8),
    Text,
}

fn kind_of(path: &Path) -> Option<Kind> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" | "json" => Some(Kind::Json),
        "csv" => Some(Kind::Table(b',')),
        "tsv" => Some(Kind::Table(b'\t')),
        "txt" | "text" => Some(Kind::Text),
        _ => None,
    }
}

/// Reads all files of a folder; returns how many could hold records.
pub(super) fn read(folder: &Path, sink: &mut Sink<'_>) -> Result<usize, IngestError> {
    let mut files = Vec::new();
    list(folder, MAX_DEPTH, &mut files, sink).map_err(|source| IngestError::Io { path: folder.to_owned(), source })?;
    let mut readable = 0;
    for (place, path) in files.iter().enumerate() {
        let file: Arc<Path> = path.as_path().into();
        if place == MAX_FILES {
            let _ = sink.stop(&file, 1, "files", MAX_FILES);
            break;
        }
        if kind_of(path).is_none() {
            sink.refuse(&file, 0, Reason::UnknownKind);
            continue;
        }
        readable += 1;
        match read_one(path, sink) {
            Ok(ControlFlow::Break(())) => break,
            Ok(ControlFlow::Continue(())) => {}
            Err(error) => sink.refuse(&file, 0, Reason::Unreadable(error.to_string())),
        }
    }
    Ok(readable)
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, sink: &mut Sink<'_>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().as_encoded_bytes().starts_with(b".") || files.len() > MAX_FILES {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            sink.refuse(&path.into(), 0, Reason::Link);
        } else if kind.is_file() {
            files.push(path);
        } else if kind.is_dir() && depth > 0 {
            // A folder inside that cannot be opened costs itself only.
            if let Err(error) = list(&path, depth - 1, files, sink) {
                sink.refuse(&path.into(), 0, Reason::Unreadable(error.to_string()));
            }
        }
    }
    Ok(())
}

/// Reads one file by its kind. A fault in the middle is an error only when nothing was read before it.
pub(super) fn read_one(path: &Path, sink: &mut Sink<'_>) -> io::Result<ControlFlow<()>> {
    let file: Arc<Path> = path.into();
    let mut reader = BufReader::with_capacity(64 * 1024, File::open(path)?);
    let start = reader.fill_buf()?;
    if start.contains(&0) {
        sink.refuse(&file, 0, Reason::Binary);
        return Ok(ControlFlow::Continue(()));
    }
    let looks_like_json = start.trim_ascii_start().first() == Some(&b'{');
    let kind = kind_of(path).unwrap_or(if looks_like_json { Kind::Json } else { Kind::Text });
    let flow = match kind {
        Kind::Json => json::read(reader, &file, sink),
        Kind::Table(delimiter) => table::read(reader, delimiter, &file, sink),
        Kind::Text => text::read(reader, &file, sink),
    };
    match flow {
        Err(error) if !sink.done.records.is_empty() => {
            sink.refuse(&file, 0, Reason::Unreadable(error.to_string()));
            Ok(ControlFlow::Continue(()))
        }
        flow => flow,
    }
}
