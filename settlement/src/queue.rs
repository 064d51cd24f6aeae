//! The transactions this machine has begun and not seen through, in redb.
//!
//! Invariant: a raw transaction is on disk before any node sees it, with the nonce it was signed for, so a process
//! killed between the two sends the very same bytes again and nothing is done twice. A transaction the chain
//! refuses gives its nonce back: it never blocks the account (with alloy's own nonce filler it would, for good).
//!
//! One file serves several accounts and chains; an entry names both.

mod bid;
mod entry;
mod handover;
mod policy;
mod sender;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy::primitives::Address;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::{Mutex, MutexGuard};

pub(crate) use entry::{Attempt, Entry, Outcome};
pub use policy::SendPolicy;
pub(crate) use sender::{Call, Sender};

use crate::record::RecordError;

/// Transactions an account may have open: go-ethereum's pool takes 64 of an account in sequence.
pub const MAX_OPEN_TRANSACTIONS: usize = 64;
/// Bytes of the text that names what a transaction is for.
pub const MAX_PURPOSE_BYTES: usize = 256;

/// Id → entry record.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entry");
/// Chain id, account, nonce of the entries that are open → id.
const OPEN: TableDefinition<'_, (u64, &[u8; 20], u64), u64> = TableDefinition::new("open");
/// Chain id, account, purpose → id of the newest entry for it.
const PURPOSES: TableDefinition<'_, (u64, &[u8; 20], &str), u64> = TableDefinition::new("purpose");

/// Memory redb may use for pages of a file that holds a few kilobytes for each open transaction.
const PAGE_CACHE_BYTES: usize = 4 << 20;

/// Why the queue could not take or give a transaction.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue's file could not be opened.
    #[error("cannot open the transaction queue at {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: redb::DatabaseError,
    },
    /// This machine is broken: the file cannot be read or written.
    #[error("the transaction queue failed: {0}")]
    Store(#[from] redb::Error),
    /// This machine is broken: the file holds something the queue never writes.
    #[error("the transaction queue is damaged: {0}")]
    Corrupt(#[from] RecordError),
    /// An entry is missing.
    #[error("the transaction queue is damaged: entry {0} is missing")]
    Missing(u64),
    /// Too many transactions wait to be mined.
    #[error("{MAX_OPEN_TRANSACTIONS} transactions of this account wait to be mined: wait for some of them")]
    Full,
    /// The text that names the transaction is too long.
    #[error("a purpose is at most {MAX_PURPOSE_BYTES} bytes")]
    Purpose,
}

macro_rules! store_errors {
    ($($error:ident),+) => {$(
        impl From<redb::$error> for QueueError {
            fn from(error: redb::$error) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}

store_errors!(TransactionError, TableError, StorageError, CommitError);

/// A handle on the queue; clones share it.
#[derive(Clone)]
pub struct Queue {
    database: Arc<Database>,
    /// Held from choosing a nonce until a node has the transaction, so nonces are sent in their order.
    sending: Arc<Mutex<()>>,
}

impl core::fmt::Debug for Queue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Queue")
    }
}

impl Queue {
    /// Opens the queue's file, or makes it.
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        let database = Database::builder().set_cache_size(PAGE_CACHE_BYTES).create(path);
        let database = database.map_err(|source| QueueError::Open { path: path.to_owned(), source })?;
        Self::over(database)
    }

    /// A queue that forgets with the process, for one-off commands that wait for their transaction.
    pub fn in_memory() -> Result<Self, QueueError> {
        let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new());
        let path = PathBuf::from("memory");
        let database = database.map_err(|source| QueueError::Open { path, source })?;
        Self::over(database)
    }

    fn over(database: Database) -> Result<Self, QueueError> {
        let transaction = database.begin_write()?;
        transaction.open_table(ENTRIES)?;
        transaction.open_table(OPEN)?;
        transaction.open_table(PURPOSES)?;
        transaction.commit()?;
        Ok(Self { database: Arc::new(database), sending: Arc::new(Mutex::new(())) })
    }

    pub(crate) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.sending.lock().await
    }

    /// Puts a signed transaction on disk; its id.
    pub(crate) fn add(&self, entry: &Entry) -> Result<u64, QueueError> {
        let transaction = self.database.begin_write()?;
        let id = {
            let mut entries = transaction.open_table(ENTRIES)?;
            let id = entries.last()?.map_or(0, |(id, _)| id.value() + 1);
            entries.insert(id, entry.encode().as_slice())?;
            id
        };
        transaction.open_table(OPEN)?.insert((entry.chain_id, &entry.account.into_array(), entry.nonce), id)?;
        write_purpose(&transaction, entry, id)?;
        transaction.commit()?;
        Ok(id)
    }

    /// Replaces an entry; one that is no longer open leaves the open ones.
    pub(crate) fn update(&self, id: u64, entry: &Entry) -> Result<(), QueueError> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(ENTRIES)?.insert(id, entry.encode().as_slice())?;
        if entry.outcome != Outcome::Open {
            let mut open = transaction.open_table(OPEN)?;
            let key = (entry.chain_id, &entry.account.into_array(), entry.nonce);
            let is_this = open.get(key)?.is_some_and(|stored| stored.value() == id);
            if is_this {
                open.remove(key)?;
            }
        }
        Ok(transaction.commit()?)
    }

    pub(crate) fn get(&self, id: u64) -> Result<Entry, QueueError> {
        let table = self.database.begin_read()?.open_table(ENTRIES)?;
        let record = table.get(id)?.ok_or(QueueError::Missing(id))?;
        Ok(Entry::decode(record.value())?)
    }

    /// The open entries of an account, in the order of their nonces.
    pub(crate) fn open_entries(&self, chain_id: u64, account: Address) -> Result<Vec<(u64, Entry)>, QueueError> {
        let ids = {
            let table = self.database.begin_read()?.open_table(OPEN)?;
            let account = account.into_array();
            let range = table.range((chain_id, &account, 0)..=(chain_id, &account, u64::MAX))?;
            range.map(|row| row.map(|(_, id)| id.value())).collect::<Result<Vec<_>, _>>()?
        };
        ids.into_iter().map(|id| Ok((id, self.get(id)?))).collect()
    }

    /// The newest entry that was added for `purpose`.
    pub(crate) fn find(&self, chain_id: u64, account: Address, purpose: &str) -> Result<Option<u64>, QueueError> {
        let table = self.database.begin_read()?.open_table(PURPOSES)?;
        Ok(table.get((chain_id, &account.into_array(), purpose))?.map(|id| id.value()))
    }
}

fn write_purpose(transaction: &WriteTransaction, entry: &Entry, id: u64) -> Result<(), QueueError> {
    if entry.purpose.is_empty() {
        return Ok(());
    }
    let key = (entry.chain_id, &entry.account.into_array(), entry.purpose.as_str());
    transaction.open_table(PURPOSES)?.insert(key, id)?;
    Ok(())
}
