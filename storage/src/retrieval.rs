//! Retrieval: records near a question, by their words and by their embeddings.
//!
//! Words are looked up by BM25 in an index of tantivy's, kept in a folder; embeddings, which somebody else computes, in a
//! graph (HNSW, Malkov and Yashunin 2016) that `hnsw_rs` makes in memory of a file of vectors. Both name records by their
//! place in the list that they were made of, and [`fuse`] makes one ranking of several.
//!
//! Invariant: a question is taken apart into words and never read as a query's syntax; memory, records, words and vectors
//! have bounds; folder and file appear whole by one rename, and what is not whole is refused and can be made again.

mod vectors;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use vectors::{VectorIndex, read_vectors, write_vectors};
pub use words::WordIndex;

/// Records of one index: what a question may cost is decided by its words and by this.
pub const MAX_PASSAGES: usize = 1_000_000;
/// Bytes of their texts: they are held in memory while the index is made.
pub const MAX_TEXT_BYTES: usize = 256 * 1024 * 1024;
/// Different words of a question that are looked up; longer questions are cut.
pub const MAX_QUERY_WORDS: usize = 128;
/// Numbers of one vector: the widest known hidden states are 16,384.
pub const MAX_DIMENSIONS: usize = 16_384;
/// Vectors of one index: with [`MAX_DIMENSIONS`] in practice fewer, by [`MAX_VECTOR_BYTES`].
pub const MAX_VECTORS: usize = 100_000;
/// Bytes of all vectors of one index, which is in memory.
pub const MAX_VECTOR_BYTES: usize = 512 * 1024 * 1024;

/// What is added to a rank before it is inverted: the first few places of one ranking must not decide alone (Cormack,
/// Clarke and Buettcher 2009, who found 60 to be good on every collection).
const RANK_OFFSET: u64 = 60;

/// Why nothing can be retrieved.
#[derive(Debug, thiserror::Error)]
pub enum RetrievalError {
    /// More than an index holds.
    #[error("more than {most} {what} in one index")]
    TooMany {
        /// Most allowed.
        most: usize,
        /// Of what.
        what: &'static str,
    },
    /// The folder or file is no index, or not all of one.
    #[error("{path} is no retrieval index: {why}")]
    Malformed {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A vector has another length than the others, or is no direction.
    #[error("vector {place} is not of {dimensions} finite numbers that say a direction")]
    Vector {
        /// Which.
        place: usize,
        /// How many numbers the first one has.
        dimensions: usize,
    },
    /// tantivy fails.
    #[error("the index of words: {0}")]
    Words(#[from] tantivy::TantivyError),
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// How.
        source: std::io::Error,
    },
}

impl RetrievalError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn malformed(path: &Path, why: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), why: why.into() }
    }
}

/// One ranking of several, best first: by the sum of reciprocal ranks; of equal sums the lower place.
#[must_use]
pub fn fuse(rankings: &[Vec<u32>]) -> Vec<u32> {
    /// Parts of a whole, so that sums are exact and the same everywhere.
    const WHOLE: u64 = 1 << 40;
    let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
    for ranking in rankings {
        for (rank, place) in (1..).zip(ranking) {
            *sums.entry(*place).or_default() += WHOLE / (RANK_OFFSET + rank);
        }
    }
    let mut places: Vec<(u32, u64)> = sums.into_iter().collect();
    places.sort_by_key(|(place, sum)| (std::cmp::Reverse(*sum), *place));
    places.into_iter().map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests;
