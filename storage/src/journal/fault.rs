//! What redb's many errors mean to whoever runs the node.
//!
//! Invariant: every error names the file, and a full disk, a locked file and a damaged file are told apart.

use std::io;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{CommitError, Database, DatabaseError, StorageError, TableError, TransactionError};

use super::JournalError;
use crate::disk::{self, DiskFull};

/// An error without its file.
#[derive(Debug)]
pub(super) enum Cause {
    Io(io::Error),
    Locked,
    Halted,
    Corrupt(String),
}

impl From<StorageError> for Cause {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io(error) => Self::from_io(error),
            StorageError::PreviousIo => Self::Halted,
            other => Self::Corrupt(other.to_string()),
        }
    }
}

impl Cause {
    fn from_io(error: io::Error) -> Self {
        match error.kind() {
            // redb's words for a file that is not its own or was cut.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

impl From<DatabaseError> for Cause {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            DatabaseError::Storage(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

impl From<TransactionError> for Cause {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

impl From<TableError> for Cause {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

impl From<CommitError> for Cause {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

/// Runs a step of redb. Over a damaged file the library may fail an assertion, which is one more way of saying so.
pub(super) fn guard<T, E: Into<Cause>>(step: impl FnOnce() -> Result<T, E>) -> Result<T, Cause> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Cause::Corrupt("the database's own checks failed".to_owned())),
    }
}

/// A database that is closed within [`guard`]: everything acknowledged is on the disk before, so what closing finds
/// wrong with a damaged file is only worth a line in the log.
#[derive(Debug)]
pub(super) struct Guarded(Option<Database>);

impl Guarded {
    pub(super) fn new(database: Database) -> Self {
        Self(Some(database))
    }
}

impl Deref for Guarded {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("invariant: it is taken only when dropped")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let database = self.0.take();
        let close = || {
            drop(database);
            Ok::<(), Cause>(())
        };
        if let Err(cause) = guard(close) {
            tracing::error!(?cause, "the journal did not close cleanly");
        }
    }
}

/// The error of a step on the journal `path` that was to write `needed_bytes`.
pub(super) fn error(path: &Path, needed_bytes: u64, reserve_bytes: u64, cause: Cause) -> JournalError {
    let path = path.to_owned();
    match cause {
        Cause::Io(source) if disk::is_full(&source) => DiskFull::at(&path, needed_bytes, reserve_bytes).into(),
        Cause::Io(source) => JournalError::Io { path, source },
        Cause::Locked => JournalError::Locked { path },
        Cause::Halted => JournalError::Halted { path },
        Cause::Corrupt(detail) => JournalError::Corrupt { path, detail },
    }
}
