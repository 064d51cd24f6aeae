//! Blobs in memory, for tests and short-lived tools.
//!
//! Invariant: the key of every entry is the hash of its bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tributary_protocol::id::Hash;

use super::{BlobError, BlobFuture, BlobStore, check_get_size};

/// A store that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryBlobs {
    blobs: Mutex<BTreeMap<Hash, Bytes>>,
}

impl MemoryBlobs {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Hash, Bytes>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, bytes: Bytes) -> Hash {
        let hash = Hash::of(&bytes);
        self.lock().insert(hash, bytes);
        hash
    }
}

impl BlobStore for MemoryBlobs {
    fn put(&self, bytes: Bytes) -> BlobFuture<'_, Hash> {
        Box::pin(async move { Ok(self.insert(bytes)) })
    }

    fn put_file<'a>(&'a self, path: &'a Path) -> BlobFuture<'a, Hash> {
        Box::pin(async move {
            let io = |source| BlobError::Io { path: path.to_owned(), source };
            let size_bytes = tokio::fs::metadata(path).await.map_err(io)?.len();
            check_get_size(Hash::default(), size_bytes)?;
            let bytes = tokio::fs::read(path).await.map_err(io)?;
            Ok(self.insert(bytes.into()))
        })
    }

    fn get(&self, hash: Hash) -> BlobFuture<'_, Option<Bytes>> {
        Box::pin(async move { Ok(self.lock().get(&hash).cloned()) })
    }

    fn has(&self, hash: Hash) -> BlobFuture<'_, bool> {
        Box::pin(async move { Ok(self.lock().contains_key(&hash)) })
    }

    fn size(&self, hash: Hash) -> BlobFuture<'_, Option<u64>> {
        Box::pin(async move { Ok(self.lock().get(&hash).map(|bytes| bytes.len() as u64)) })
    }

    fn remove(&self, hash: Hash) -> BlobFuture<'_, bool> {
        Box::pin(async move { Ok(self.lock().remove(&hash).is_some()) })
    }

    fn list(&self) -> BlobFuture<'_, Vec<Hash>> {
        Box::pin(async move { Ok(self.lock().keys().copied().collect()) })
    }
}
