//! The journal: an append-only sequence of opaque entries with named key-value indexes beside it, in one redb file.
//!
//! Invariant: when [`Journal::commit`] or [`Journal::append_durable`] has returned, the entries are on the disk, in
//! order and without gaps, together with the index changes of the same batch or not at all. Entries are never changed;
//! indexes can be rebuilt from them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use crate::disk::{self, DiskFull};

mod batch;
mod fault;

pub use batch::Batch;
use fault::{Cause, Guarded};

/// Bytes of one entry: signed envelopes have at most 64 KiB, bundles of them more.
pub const MAX_ENTRY_BYTES: usize = 1024 * 1024;

/// Bytes of one batch: it is written in one transaction, which redb holds in memory.
pub const MAX_BATCH_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of an index's name and of one key in it.
pub const MAX_KEY_BYTES: usize = 1024;

/// Bytes before each entry: the first half of the BLAKE3 hash of its number and bytes, since a disk may return what was
/// never written.
const CHECK_BYTES: usize = 16;

/// Bytes of redb's page cache; its default of 1 GiB is more than a small node has.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const INDEX: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("index");

/// Where the number of entries is kept a second time, under an index's name that nobody else uses: damage to a table's
/// name or root would otherwise look like a table without entries.
const COUNT: (&str, &[u8]) = ("", b"entries");

/// Why the journal could not be opened, written or read. Nothing that was acknowledged is lost by any of them, except
/// where the file itself is damaged.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// No room on the disk; nothing of the batch was written.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// Another process has the file open.
    #[error("the journal {} is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is no journal or was damaged.
    #[error("the journal {} is damaged: {detail}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// An entry whose bytes are not those that were written.
    #[error("entry {sequence} of the journal {} is damaged", path.display())]
    CorruptEntry {
        /// The file.
        path: PathBuf,
        /// The entry.
        sequence: u64,
    },
    /// An entry, key or batch larger than it may be.
    #[error("{what} of {found} bytes, at most {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its bytes.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// An earlier write failed; the file has to be opened again before the next one.
    #[error("an earlier write to the journal {} failed; nothing acknowledged is lost, restart to go on", path.display())]
    Halted {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("journal {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// A key of an index and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// An open journal; clones share it. Calls block on the disk: from async code use `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: Guarded,
    path: PathBuf,
    reserve_bytes: u64,
}

impl Journal {
    /// Opens the journal in the file `path`, making it on first use. After a crash the last complete batch stands.
    ///
    /// # Errors
    /// [`JournalError::Locked`], [`JournalError::Corrupt`], [`JournalError::DiskFull`] or [`JournalError::Io`], each
    /// with the path.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_with_reserve(path, disk::RESERVE_BYTES)
    }

    /// As [`Journal::open`], with another amount of disk space that stays free.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_with_reserve(path: &Path, reserve_bytes: u64) -> Result<Self, JournalError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| fault::error(path, 0, reserve_bytes, Cause::Io(source)))?;
        }
        // A new file gets its first region at once.
        if !path.exists() {
            disk::check_room(path, 0, reserve_bytes)?;
        }
        Self::build(path, reserve_bytes, |builder| builder.create(path))
    }

    fn build(
        path: &Path,
        reserve_bytes: u64,
        open: impl FnOnce(&mut redb::Builder) -> Result<Database, redb::DatabaseError>,
    ) -> Result<Self, JournalError> {
        let fail = |cause| fault::error(path, 0, reserve_bytes, cause);
        let database = fault::guard(|| open(Database::builder().set_cache_size(CACHE_BYTES))).map_err(fail)?;
        let journal = Self {
            shared: Arc::new(Shared { database: Guarded::new(database), path: path.to_owned(), reserve_bytes }),
        };
        journal.write(0, make_or_check)?;
        Ok(journal)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Appends entries and returns the first one's sequence number once all are on the disk. Without entries it
    /// returns the number that the next one will have.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    pub fn append_durable(&self, entries: &[Vec<u8>]) -> Result<u64, JournalError> {
        self.commit(&entries.iter().fold(Batch::new(), |batch, entry| batch.entry(entry.clone())))
    }

    /// Writes a batch and returns its first entry's sequence number once all of it is on the disk.
    ///
    /// # Errors
    /// [`JournalError::DiskFull`] or [`JournalError::TooLarge`] before anything is written; [`JournalError::Io`] when
    /// the disk fails, after which the batch is either whole or absent and the journal halts.
    pub fn commit(&self, batch: &Batch) -> Result<u64, JournalError> {
        batch.check()?;
        let needed_bytes = batch.bytes() as u64;
        // Pages, tree nodes and the copy-on-write of redb take a few times the payload.
        disk::check_room(&self.shared.path, needed_bytes.saturating_mul(3), self.shared.reserve_bytes)?;
        self.write(needed_bytes, |transaction| batch.write(transaction))
    }

    fn write<T>(
        &self,
        needed_bytes: u64,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Cause>,
    ) -> Result<T, JournalError> {
        let written = fault::guard(|| {
            let transaction = self.shared.database.begin_write()?;
            let value = work(&transaction)?;
            // redb's default durability: returns after the file is flushed.
            transaction.commit()?;
            Ok::<T, Cause>(value)
        });
        written.map_err(|cause| fault::error(&self.shared.path, needed_bytes, self.shared.reserve_bytes, cause))
    }

    fn read<T>(&self, work: impl FnOnce(&redb::ReadTransaction) -> Result<T, Cause>) -> Result<T, JournalError> {
        let read = fault::guard(|| work(&self.shared.database.begin_read()?));
        read.map_err(|cause| self.fail(cause))
    }

    fn fail(&self, cause: Cause) -> JournalError {
        fault::error(&self.shared.path, 0, self.shared.reserve_bytes, cause)
    }

    fn open_entry(&self, sequence: u64, stored: &[u8]) -> Result<Vec<u8>, JournalError> {
        match stored.split_first_chunk::<CHECK_BYTES>() {
            Some((check, bytes)) if *check == check_of(sequence, bytes) => Ok(bytes.to_vec()),
            _ => Err(self.damaged(sequence)),
        }
    }

    fn damaged(&self, sequence: u64) -> JournalError {
        JournalError::CorruptEntry { path: self.shared.path.clone(), sequence }
    }

    /// The number of entries, which is the next one's sequence number.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn len(&self) -> Result<u64, JournalError> {
        self.read(|transaction| Ok(transaction.open_table(ENTRIES)?.len()?))
    }

    /// Whether there is no entry.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_empty(&self) -> Result<bool, JournalError> {
        Ok(self.len()? == 0)
    }

    /// The entry with a sequence number.
    ///
    /// # Errors
    /// When the file cannot be read or the entry is damaged.
    pub fn get(&self, sequence: u64) -> Result<Option<Vec<u8>>, JournalError> {
        let (stored, len) = self.read(|transaction| {
            let table = transaction.open_table(ENTRIES)?;
            Ok((table.get(sequence)?.map(|stored| stored.value().to_vec()), table.len()?))
        })?;
        match stored {
            Some(stored) => self.open_entry(sequence, &stored).map(Some),
            None if sequence < len => Err(self.damaged(sequence)),
            None => Ok(None),
        }
    }

    /// The entries from `first` on, as they are now; later appends do not show.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn replay(&self, first: u64) -> Result<Replay, JournalError> {
        let (range, len) = self.read(|transaction| {
            let table = transaction.open_table(ENTRIES)?;
            Ok((table.range(first..)?, table.len()?))
        })?;
        Ok(Replay { journal: self.clone(), range, next: first, end: len.max(first) })
    }

    /// The value of a key in an index.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn index_get(&self, index: &str, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.read(|transaction| {
            Ok(transaction.open_table(INDEX)?.get((index, key))?.map(|value| value.value().to_vec()))
        })
    }

    /// The keys of an index that begin with `prefix`, in order, with their values; at most `limit`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn index_scan(&self, index: &str, prefix: &[u8], limit: usize) -> Result<Vec<KeyValue>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(INDEX)?;
            let mut found = Vec::new();
            for item in table.range((index, prefix)..)? {
                let (key, value) = item?;
                let (name, key) = key.value();
                if found.len() == limit || name != index || !key.starts_with(prefix) {
                    break;
                }
                found.push((key.to_vec(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    /// Sets one key of an index durably.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    pub fn index_put(&self, index: &str, key: &[u8], value: &[u8]) -> Result<(), JournalError> {
        self.commit(&Batch::new().put(index, key, value)).map(|_| ())
    }
}

/// The entries of a journal in order and without gaps, each with its sequence number; ends after the first error.
pub struct Replay {
    journal: Journal,
    range: redb::Range<'static, u64, &'static [u8]>,
    /// The number that comes next.
    next: u64,
    /// The number after the last one; `next` is set to it by an error.
    end: u64,
}

impl Iterator for Replay {
    type Item = Result<(u64, Vec<u8>), JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let expected = self.next;
        // The bytes are taken inside the guard: over a damaged page already that may fail an assertion.
        let taken = fault::guard(|| {
            let item = self.range.next().transpose()?;
            Ok::<_, redb::StorageError>(item.map(|(sequence, stored)| (sequence.value(), stored.value().to_vec())))
        });
        let entry = match taken {
            Ok(Some((sequence, stored))) if sequence == expected => self.journal.open_entry(sequence, &stored),
            Ok(_) => Err(self.journal.damaged(expected)),
            Err(cause) => Err(self.journal.fail(cause)),
        };
        self.next = if entry.is_ok() { expected + 1 } else { self.end };
        Some(entry.map(|bytes| (expected, bytes)))
    }
}

/// Makes both tables in a new file, so that reading never meets a journal without them; in another one holds what is
/// there against the number of entries.
fn make_or_check(transaction: &WriteTransaction) -> Result<(), Cause> {
    let is_new = transaction.list_tables()?.next().is_none();
    let entries = transaction.open_table(ENTRIES)?;
    let mut index = transaction.open_table(INDEX)?;
    if is_new {
        index.insert(COUNT, 0_u64.to_le_bytes().as_slice())?;
        return Ok(());
    }
    let len = entries.len()?;
    let is_gapless = entries.last()?.map_or(0, |(sequence, _)| sequence.value().saturating_add(1)) == len;
    let is_counted = index.get(COUNT)?.is_some_and(|count| count.value() == len.to_le_bytes().as_slice());
    if is_gapless && is_counted { Ok(()) } else { Err(Cause::Corrupt("entries are missing".to_owned())) }
}

fn check_of(sequence: u64, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = *blake3::Hasher::new().update(&sequence.to_le_bytes()).update(bytes).finalize().as_bytes();
    *hash.first_chunk().expect("invariant: a hash has more than 16 bytes")
}

#[cfg(test)]
mod tests;
