//! Verbatim spans: where an answer repeats records word for word, by a committed suffix array, and the kilobytes that
//! prove a longest match, that none is longer, or that an index is false.
//!
//! A text is a list of words; a word is known by 32 bits of its hash. The words of a shard's records follow each other,
//! each record ended by a separator. Suffixes are ordered word by word as numbers; a separator is below every word, and
//! of two separators the earlier one is below, so the order is strict and no comparison leaves its record. The suffix
//! array (`order`) lists all positions in that order, `inverse` says each position's place in it (Manber and Myers,
//! SIAM Journal on Computing 22(5), 1993). Two adjacent entries between which a text falls prove the longest match of its
//! beginning.
//!
//! Invariant: pure integer work, equal on every machine; a proof is checked against roots alone, and what it doesn't
//! bring is an error, never an assumption.

mod fault;
mod longest;
mod page;
mod weigh;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::envelope::Statement;
use crate::id::Hash;

pub use fault::{Fault, Longer, judge, refutes};
pub use longest::{Longest, MatchProof, longest};
pub use page::{PAGE_ENTRIES, Page, page_count, page_hash};
pub use weigh::{Span, improbability, least_improbability, maximal};

/// The entry after a record's last word.
pub const SEPARATOR: u32 = 0;

/// Words of a text that is looked up: more than any answer has.
pub const MAX_WORDS: usize = 65_536;

/// From here on a character is a word of its own: scripts that put no spaces between words (CJK radicals and above).
const FIRST_UNSPACED: char = '\u{2e80}';

/// What the keeper of a shard's index signs: it can be computed from the shard by anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SpanRoots {
    /// The shard's content hash.
    pub shard: Hash,
    /// Entries of text, order and inverse: words and separators.
    pub entries: u64,
    /// Records.
    pub records: u64,
    /// Merkle root over the pages of the text.
    pub text: Hash,
    /// Merkle root over the pages of the suffix array.
    pub order: Hash,
    /// Merkle root over the pages of its inverse.
    pub inverse: Hash,
    /// Merkle root over [`start_hash`] of each record.
    pub starts: Hash,
}

impl Statement for SpanRoots {
    const KIND: u16 = 14;
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// A text without words, or with more than are looked up.
    #[error("{got} words, allowed 1 to {most}")]
    Words {
        /// Words given.
        got: usize,
        /// Most allowed.
        most: usize,
    },
    /// A page is not under the committed root.
    #[error("page {page} is not the committed one")]
    Page {
        /// Which.
        page: u64,
    },
    /// An entry is needed that the proof doesn't bring.
    #[error("the proof lacks entry {entry}")]
    Missing {
        /// Which.
        entry: u64,
    },
    /// The text does not fall where the proof says.
    #[error("the text does not fall between the entries shown")]
    Place,
    /// The index is right in what the proof shows.
    #[error("the entries shown are in order: the proof refutes nothing")]
    NoFault,
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || (!c.is_ascii() && c < FIRST_UNSPACED)
}

/// The words of `text` with the bytes at which each stands: runs of letters and digits; every other character that is
/// no space is one by itself. The rule is of code points alone, so that no version of Unicode changes it.
pub fn words(text: &str) -> impl Iterator<Item = (core::ops::Range<usize>, u32)> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let rest = &text[at..];
        let begin = at + rest.find(|c: char| !c.is_ascii_whitespace())?;
        let word = &text[begin..];
        let length = match word.find(|c| !is_letter(c)) {
            Some(0) => word.chars().next().map_or(0, char::len_utf8),
            Some(length) => length,
            None => word.len(),
        };
        at = begin + length;
        Some((begin..at, word_hash(&text[begin..at])))
    })
}

/// The number of a word: never [`SEPARATOR`]. Words that collide are told apart by the record's own text, which is
/// fetched before a span is shown.
#[must_use]
pub fn word_hash(word: &str) -> u32 {
    let hash = blake3::derive_key("tributary span word v1", word.as_bytes());
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]).max(SEPARATOR + 1)
}

/// The leaf of a record: where its words begin in the text, and its id.
#[must_use]
pub fn start_hash(start: u64, record: &Hash) -> Hash {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&start.to_le_bytes());
    bytes[8..].copy_from_slice(&record.0);
    Hash(blake3::derive_key("tributary span record v1", &bytes))
}

#[cfg(test)]
mod tests;
