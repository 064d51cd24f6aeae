//! Content-addressed blobs behind one trait: on disk in iroh-blobs' store, in memory, or failing on command.
//!
//! Invariant: a blob is acknowledged only when it is complete, durable and pinned by a tag; its hash is the plain
//! BLAKE3 hash of its bytes, so any iroh-blobs client can fetch and check it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use tributary_protocol::id::Hash;

use crate::disk::DiskFull;

mod faulty;
mod iroh;
mod memory;
mod sweep;

pub use faulty::FaultyBlobs;
pub use iroh::{IrohBlobs, IrohOptions};
pub use memory::MemoryBlobs;

/// The largest blob that [`BlobStore::get`] reads into memory, in bytes: the largest shard of design.md section 6.
pub const MAX_GET_BYTES: u64 = 256 * 1024 * 1024;

/// Why a blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No room on the disk; nothing was written.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// Another process holds the store.
    #[error("the blob store at {} is in use by another process", path.display())]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// The store's own index cannot be read.
    #[error("the blob store at {} is damaged: {detail}", path.display())]
    Corrupt {
        /// The store's folder.
        path: PathBuf,
        /// What the store said.
        detail: String,
    },
    /// A blob is too large to be read into memory.
    #[error("blob {hash} has {size_bytes} bytes, more than the {limit_bytes} that are read into memory")]
    TooLarge {
        /// The blob.
        hash: Hash,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The operating system or the store refused.
    #[error("blob store at {}: {source}", path.display())]
    Io {
        /// The folder or file in question.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// The future a [`BlobStore`] returns; boxed, so that a store can be held as `Arc<dyn BlobStore>`.
pub type BlobFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BlobError>> + Send + 'a>>;

/// A store of content-addressed blobs. Blobs put through it are pinned until [`BlobStore::remove`].
pub trait BlobStore: Send + Sync + std::fmt::Debug {
    /// Keeps `bytes` durably and returns their hash.
    fn put(&self, bytes: Bytes) -> BlobFuture<'_, Hash>;

    /// Copies a file into the store without holding it in memory, and returns its hash.
    fn put_file<'a>(&'a self, path: &'a Path) -> BlobFuture<'a, Hash>;

    /// The whole blob, or `None` when it is absent or incomplete; at most [`MAX_GET_BYTES`].
    fn get(&self, hash: Hash) -> BlobFuture<'_, Option<Bytes>>;

    /// Whether the blob is here and complete.
    fn has(&self, hash: Hash) -> BlobFuture<'_, bool>;

    /// The size of a complete blob in bytes.
    fn size(&self, hash: Hash) -> BlobFuture<'_, Option<u64>>;

    /// Unpins the blob and hides it; says whether it was here.
    fn remove(&self, hash: Hash) -> BlobFuture<'_, bool>;

    /// The complete blobs, in order of their hashes.
    fn list(&self) -> BlobFuture<'_, Vec<Hash>>;
}

/// Refuses what is too large for memory.
fn check_get_size(hash: Hash, size_bytes: u64) -> Result<(), BlobError> {
    if size_bytes > MAX_GET_BYTES {
        return Err(BlobError::TooLarge { hash, size_bytes, limit_bytes: MAX_GET_BYTES });
    }
    Ok(())
}
