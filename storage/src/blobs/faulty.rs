//! A store whose disk fills up on command, around any other store: how the rest of the node is tested against it.
//!
//! Invariant: a refused write reaches the inner store not at all; reads and removals always pass, as on a full disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tributary_protocol::id::Hash;

use super::{BlobError, BlobFuture, BlobStore};
use crate::disk::DiskFull;

/// Any store, with room for as many more bytes as the test grants.
#[derive(Debug)]
pub struct FaultyBlobs<S> {
    inner: S,
    room_bytes: AtomicU64,
}

impl<S: BlobStore> FaultyBlobs<S> {
    /// A store that works until told otherwise.
    pub fn new(inner: S) -> Self {
        Self { inner, room_bytes: AtomicU64::new(u64::MAX) }
    }

    /// Lets `room_bytes` more be written; 0 is a full disk, `u64::MAX` one without a limit.
    pub fn set_room_bytes(&self, room_bytes: u64) {
        self.room_bytes.store(room_bytes, Ordering::SeqCst);
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn take_room(&self, needed_bytes: u64) -> Result<(), BlobError> {
        let take = |room: u64| if room == u64::MAX { Some(room) } else { room.checked_sub(needed_bytes) };
        match self.room_bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Ok(()),
            Err(free_bytes) => {
                let path = PathBuf::from("faulty-disk");
                Err(DiskFull { path, needed_bytes, free_bytes, reserve_bytes: 0 }.into())
            }
        }
    }
}

impl<S: BlobStore> BlobStore for FaultyBlobs<S> {
    fn put(&self, bytes: Bytes) -> BlobFuture<'_, Hash> {
        Box::pin(async move {
            self.take_room(bytes.len() as u64)?;
            self.inner.put(bytes).await
        })
    }

    fn put_file<'a>(&'a self, path: &'a Path) -> BlobFuture<'a, Hash> {
        Box::pin(async move {
            let found = tokio::fs::metadata(path).await;
            let size_bytes = found.map_err(|source| BlobError::Io { path: path.to_owned(), source })?.len();
            self.take_room(size_bytes)?;
            self.inner.put_file(path).await
        })
    }

    fn get(&self, hash: Hash) -> BlobFuture<'_, Option<Bytes>> {
        self.inner.get(hash)
    }

    fn has(&self, hash: Hash) -> BlobFuture<'_, bool> {
        self.inner.has(hash)
    }

    fn size(&self, hash: Hash) -> BlobFuture<'_, Option<u64>> {
        self.inner.size(hash)
    }

    fn remove(&self, hash: Hash) -> BlobFuture<'_, bool> {
        self.inner.remove(hash)
    }

    fn list(&self) -> BlobFuture<'_, Vec<Hash>> {
        self.inner.list()
    }
}
