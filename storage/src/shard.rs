//! Shards: Parquet files (zstd) of records, which pandas, DuckDB and Hugging Face `datasets` open as they are.
//!
//! Invariant: the same records in the same order give the same bytes, and every record that [`read`] returns has the
//! id that its own text gives it. A record's id does not depend on who contributed it, so a copy has its original's id.

use serde::{Deserialize, Serialize};
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::merkle;

mod pages;
mod reader;
mod writer;

pub use reader::read;
pub use writer::write;

/// Records in one shard. Shards are 64 to 256 MiB at scale (design.md section 6) and records a few hundred bytes.
pub const MAX_ROWS: usize = 1_000_000;

/// Bytes of prompt and completion in one record: several times the longest context a model of this release has.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Bytes of a licence: SPDX expressions are shorter.
pub const MAX_LICENCE_BYTES: usize = 256;

/// Bytes of a shard's file: what one transfer carries and one read holds in memory.
pub const MAX_SHARD_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of all columns of a shard once decompressed: a small file must not unfold into more than a node can hold.
pub const MAX_UNCOMPRESSED_BYTES: usize = 1024 * 1024 * 1024;

/// Row groups in one shard; the writer makes one for each 16 MiB of text.
pub const MAX_ROW_GROUPS: usize = 1024;

/// The columns, in order; all are required UTF-8 strings, ids in lower-case hexadecimal. The last is there only in a
/// shard with conversations, and empty for records that are none.
pub const COLUMNS: [&str; 6] = ["id", "prompt", "completion", "contributor", "licence", "messages"];

/// How many of the columns a shard without conversations has.
pub const PLAIN_COLUMNS: usize = 5;

/// What separates a record's id from every other BLAKE3 hash of the network.
const RECORD_DOMAIN: &str = "tributary 2026 record id v1";
/// And a conversation's.
const CONVERSATION_DOMAIN: &str = "tributary 2026 conversation id v1";

/// One training example. A plain text record has an empty prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`record_id`] of the texts below.
    pub id: Hash,
    /// What the model is given.
    pub prompt: String,
    /// What it should say.
    pub completion: String,
    /// The conversation that both are of, as [`Conversation`](crate::conversation::Conversation) writes it.
    pub messages: Option<String>,
    /// Whose record it is.
    pub contributor: AccountId,
    /// Its licence as an SPDX expression.
    pub licence: String,
}

impl Record {
    /// A record with the id of its texts.
    #[must_use]
    pub fn new(prompt: String, completion: String, contributor: AccountId, licence: String) -> Self {
        Self::of(prompt, completion, None, contributor, licence)
    }

    /// The same, of a conversation where there is one.
    #[must_use]
    pub fn of(
        prompt: String,
        completion: String,
        messages: Option<String>,
        contributor: AccountId,
        licence: String,
    ) -> Self {
        let id = Self::id_of(&prompt, &completion, messages.as_deref());
        Self { id, prompt, completion, messages, contributor, licence }
    }

    fn id_of(prompt: &str, completion: &str, messages: Option<&str>) -> Hash {
        messages.map_or_else(|| record_id(prompt, completion), conversation_id)
    }
}

/// What commits to records in their order: the Merkle root over their ids.
#[must_use]
pub fn records_root(records: &[Record]) -> Hash {
    merkle::root(&records.iter().map(|record| record.id).collect::<Vec<Hash>>())
}

/// The id of a conversation: keyed BLAKE3 over its JSON.
#[must_use]
pub fn conversation_id(json: &str) -> Hash {
    Hash(blake3::derive_key(CONVERSATION_DOMAIN, json.as_bytes()))
}

/// The id of a record: keyed BLAKE3 (`derive_key`) over both texts, each after its length as 8 little-endian bytes, so
/// that no other split of the same characters has the same id.
#[must_use]
pub fn record_id(prompt: &str, completion: &str) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(RECORD_DOMAIN);
    for text in [prompt, completion] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    Hash(*hasher.finalize().as_bytes())
}

/// A bound of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bound {
    /// [`MAX_ROWS`].
    #[error("records")]
    Rows,
    /// [`MAX_ROW_GROUPS`].
    #[error("row groups")]
    RowGroups,
    /// [`MAX_SHARD_BYTES`].
    #[error("bytes of file")]
    ShardBytes,
    /// [`MAX_UNCOMPRESSED_BYTES`].
    #[error("decompressed bytes")]
    UncompressedBytes,
    /// [`MAX_RECORD_BYTES`].
    #[error("bytes in a record")]
    RecordBytes,
    /// [`MAX_LICENCE_BYTES`].
    #[error("bytes of licence")]
    LicenceBytes,
}

/// Why a shard cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// There is nothing to write.
    #[error("a shard needs at least one record")]
    Empty,
    /// More than this module takes.
    #[error("the shard has {found} {bound}, more than {limit}")]
    TooMuch {
        /// Which bound.
        bound: Bound,
        /// What there is.
        found: u64,
        /// What may be.
        limit: u64,
    },
    /// Not a Parquet file, or a broken one.
    #[error("not a readable Parquet file: {0}")]
    Malformed(String),
    /// A Parquet file with other columns.
    #[error("the columns are {found}, not the required strings {} and perhaps {}", COLUMNS[..PLAIN_COLUMNS].join(", "), COLUMNS[PLAIN_COLUMNS])]
    Schema {
        /// The columns found, with their types.
        found: String,
    },
    /// A cell that is no id or no text.
    #[error("record {row}: column {column} holds no valid value")]
    Cell {
        /// The record, from 0.
        row: usize,
        /// The column.
        column: &'static str,
    },
    /// A record whose id is not that of its texts.
    #[error("record {row} claims the id {claimed}, but its text has {actual}")]
    WrongId {
        /// The record, from 0.
        row: usize,
        /// The id in the file.
        claimed: Hash,
        /// The id of the text.
        actual: Hash,
    },
}

/// `Ok` while `found` is within `limit`.
fn within(bound: Bound, found: usize, limit: usize) -> Result<(), ShardError> {
    if found <= limit {
        return Ok(());
    }
    Err(ShardError::TooMuch { bound, found: found as u64, limit: limit as u64 })
}

/// The bounds on one record's texts.
fn check_texts(prompt: &str, completion: &str, messages: &str, licence: &str) -> Result<(), ShardError> {
    within(Bound::RecordBytes, prompt.len().saturating_add(completion.len()), MAX_RECORD_BYTES)?;
    within(Bound::RecordBytes, messages.len(), 2 * MAX_RECORD_BYTES)?;
    within(Bound::LicenceBytes, licence.len(), MAX_LICENCE_BYTES)
}

#[cfg(test)]
mod tests;
