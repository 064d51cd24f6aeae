//! Entries and index changes that reach the disk together, and how they are written.
//!
//! Invariant: a batch is checked against every bound before the first of its bytes is written.

use redb::{ReadableTable, WriteTransaction};

use super::fault::Cause;
use super::{COUNT, ENTRIES, INDEX, JournalError, MAX_BATCH_BYTES, MAX_ENTRY_BYTES, MAX_KEY_BYTES, check_of};

/// Entries and index changes that reach the disk together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    entries: Vec<Vec<u8>>,
    changes: Vec<IndexChange>,
}

#[derive(Debug, Clone)]
enum IndexChange {
    Put { index: String, key: Vec<u8>, value: Vec<u8> },
    Remove { index: String, key: Vec<u8> },
    Clear { index: String },
}

impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry at the journal's end.
    #[must_use]
    pub fn entry(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.entries.push(bytes.into());
        self
    }

    /// Sets a key of an index.
    #[must_use]
    pub fn put(mut self, index: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.changes.push(IndexChange::Put { index: index.to_owned(), key: key.into(), value: value.into() });
        self
    }

    /// Removes a key of an index.
    #[must_use]
    pub fn remove(mut self, index: &str, key: impl Into<Vec<u8>>) -> Self {
        self.changes.push(IndexChange::Remove { index: index.to_owned(), key: key.into() });
        self
    }

    /// Empties an index, before it is built anew.
    #[must_use]
    pub fn clear(mut self, index: &str) -> Self {
        self.changes.push(IndexChange::Clear { index: index.to_owned() });
        self
    }

    /// Writes the batch and returns its first entry's sequence number.
    pub(super) fn write(&self, transaction: &WriteTransaction) -> Result<u64, Cause> {
        apply_changes(transaction, &self.changes)?;
        append(transaction, &self.entries)
    }

    pub(super) fn bytes(&self) -> usize {
        let entries = self.entries.iter().map(Vec::len);
        let changes = self.changes.iter().map(|change| match change {
            IndexChange::Put { index, key, value } => index.len() + key.len() + value.len(),
            IndexChange::Remove { index, key } => index.len() + key.len(),
            IndexChange::Clear { index } => index.len(),
        });
        entries.chain(changes).fold(0, usize::saturating_add)
    }

    pub(super) fn check(&self) -> Result<(), JournalError> {
        for entry in &self.entries {
            within("an entry", entry.len(), MAX_ENTRY_BYTES)?;
        }
        for change in &self.changes {
            let (index, key, value) = match change {
                IndexChange::Put { index, key, value } => (index, key.len(), value.len()),
                IndexChange::Remove { index, key } => (index, key.len(), 0),
                IndexChange::Clear { index } => (index, 0, 0),
            };
            debug_assert!(!index.is_empty(), "an index needs a name");
            within("an index's name", index.len(), MAX_KEY_BYTES)?;
            within("a key", key, MAX_KEY_BYTES)?;
            within("a value", value, MAX_ENTRY_BYTES)?;
        }
        within("a batch", self.bytes(), MAX_BATCH_BYTES)
    }
}

fn within(what: &'static str, found: usize, limit: usize) -> Result<(), JournalError> {
    if found <= limit { Ok(()) } else { Err(JournalError::TooLarge { what, found, limit }) }
}

fn append(transaction: &WriteTransaction, entries: &[Vec<u8>]) -> Result<u64, Cause> {
    let mut table = transaction.open_table(ENTRIES)?;
    let first = table.last()?.map_or(0, |(sequence, _)| sequence.value() + 1);
    for (sequence, bytes) in (first..).zip(entries) {
        let stored = [check_of(sequence, bytes).as_slice(), bytes].concat();
        table.insert(sequence, stored.as_slice())?;
    }
    let count = first + entries.len() as u64;
    transaction.open_table(INDEX)?.insert(COUNT, count.to_le_bytes().as_slice())?;
    Ok(first)
}

fn apply_changes(transaction: &WriteTransaction, changes: &[IndexChange]) -> Result<(), Cause> {
    let mut table = transaction.open_table(INDEX)?;
    for change in changes {
        match change {
            IndexChange::Put { index, key, value } => {
                table.insert((index.as_str(), key.as_slice()), value.as_slice())?;
            }
            IndexChange::Remove { index, key } => {
                table.remove((index.as_str(), key.as_slice()))?;
            }
            IndexChange::Clear { index } => {
                let end = format!("{index}\0");
                let empty: &[u8] = &[];
                table.retain_in((index.as_str(), empty)..(end.as_str(), empty), |_, _| false)?;
            }
        }
    }
    Ok(())
}
