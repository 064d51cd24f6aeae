//! Span indexes: for each shard a file with its words, their suffix array and its inverse, so that an answer's verbatim
//! spans are found in milliseconds and proven in kilobytes (over a billion words in some thirty, compute/ATTRIBUTION.md).
//!
//! The order and what is committed are `protocol::span`'s; the suffix array is made by libsais (Grebnov), the file is read
//! through a memory map. Sixteen bytes of memory for each word while it is made, fourteen on the disk.
//!
//! Invariant: the file is a pure function of the shard's records, appears whole by one rename, and is read only where its
//! length agrees with its header; what it holds is only ever a claim, checked by `protocol::span` where it matters.

use std::path::{Path, PathBuf};

use tributary_protocol::id::Hash;

mod answer;
mod build;
mod file;
mod search;

pub use answer::spans_in;
pub use build::{SpanText, build};
pub use file::SpanIndex;

/// Words and separators of one index at most: positions are 32 bits, and libsais counts with signed ones.
pub const MAX_ENTRIES: u64 = (1 << 31) - 1;

/// Why there is no span index.
#[derive(Debug, thiserror::Error)]
pub enum SpansError {
    /// A shard without records.
    #[error("a shard without records has no span index")]
    Empty,
    /// More words than the index may have.
    #[error("the shard has more than {most} words")]
    TooLong {
        /// Most allowed.
        most: u64,
    },
    /// The suffix sorter failed.
    #[error("the words can't be sorted: {0}")]
    Sort(String),
    /// The file is no span index, or not all of one.
    #[error("{path} is no span index: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file is the index of another shard.
    #[error("the index is of shard {found}, not of {wanted}")]
    OtherShard {
        /// Of which it is.
        found: Hash,
        /// Of which it should be.
        wanted: Hash,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// How.
        source: std::io::Error,
    },
}

impl SpansError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests;
