//! Blobs on disk in iroh-blobs' store, shared with the data plane that serves and fetches them.
//!
//! Invariant: the store's own garbage collection never runs by itself, since it has swept live blobs (design.md section
//! 6). What [`BlobStore::remove`] named is swept by [`IrohBlobs::sweep`], or else when the store is opened, and each time
//! everything else is protected by name: nothing pinned and nothing in transfer is ever swept.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use iroh_blobs::api::blobs::BlobStatus;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::PathOptions;
use tributary_protocol::id::Hash;

use super::sweep::{self, REMOVED_PREFIX, Sweeper};
use super::{BlobError, BlobFuture, BlobStore, check_get_size};
use crate::disk::{self, DiskFull};

/// Tags under this name pin what was put.
const PIN_PREFIX: &str = "pin/";

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct IrohOptions {
    /// Space on the disk that writes never touch, in bytes.
    pub reserve_bytes: u64,
}

impl Default for IrohOptions {
    fn default() -> Self {
        Self { reserve_bytes: disk::RESERVE_BYTES }
    }
}

/// The blob store of a running node.
#[derive(Debug, Clone)]
pub struct IrohBlobs {
    store: FsStore,
    root: PathBuf,
    reserve_bytes: u64,
    removed: Arc<Mutex<BTreeSet<Hash>>>,
    sweeper: Arc<Sweeper>,
    /// Held while a sweep runs: what is about to be swept is not pinned anew meanwhile.
    sweeping: Arc<tokio::sync::Mutex<()>>,
    _lock: Arc<File>,
}

impl IrohBlobs {
    /// Opens the store in the folder `root`, making it on first use.
    ///
    /// # Errors
    /// [`BlobError::Locked`] when another process holds it, [`BlobError::Corrupt`] when its index cannot be read,
    /// [`BlobError::DiskFull`] or [`BlobError::Io`] when the folder cannot be written.
    pub async fn open(root: &Path) -> Result<Self, BlobError> {
        Self::open_with(root, &IrohOptions::default()).await
    }

    /// Opens the store with options of its own.
    ///
    /// # Errors
    /// As [`IrohBlobs::open`].
    pub async fn open_with(root: &Path, options: &IrohOptions) -> Result<Self, BlobError> {
        let reserve_bytes = options.reserve_bytes;
        prepare_folder(root).map_err(|source| write_error(root, 0, reserve_bytes, source))?;
        let lock = lock_folder(root)?;
        clear_temporary_files(root);
        if !root.join(sweep::INDEX_FILE).exists() {
            disk::check_room(root, 0, reserve_bytes)?;
        }
        let (store, sweeper) = sweep::open(root).await?;
        let (removed, sweeping, sweeper) = (Arc::default(), Arc::default(), Arc::new(sweeper));
        Ok(Self { store, root: root.to_owned(), reserve_bytes, removed, sweeper, sweeping, _lock: Arc::new(lock) })
    }

    /// The store behind, for iroh-blobs' protocol handler and downloads. Whoever fetches through it holds a temporary
    /// tag for the whole download and calls [`IrohBlobs::pin`] at its end.
    #[must_use]
    pub fn inner(&self) -> &iroh_blobs::api::Store {
        &self.store
    }

    /// The folder of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a complete blob that came through [`IrohBlobs::inner`] durable and pins it; says whether it is here.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn pin(&self, hash: Hash) -> Result<bool, BlobError> {
        // What is being swept is gone afterwards.
        let _sweep = if self.removed().contains(&hash) { Some(self.sweeping.lock().await) } else { None };
        if self.status(hash).await?.is_none() {
            return Ok(false);
        }
        let value = iroh_blobs::HashAndFormat::raw(iroh_hash(hash));
        self.store.tags().set(pin_name(hash), value).await.map_err(|error| self.io(0, error))?;
        self.acknowledge(hash).await?;
        Ok(true)
    }

    /// Puts a blob at `target`, which must not exist, as a second name of the store's own file where the file system
    /// allows, else as a copy; durable when this returns. The file must not be written to.
    ///
    /// # Errors
    /// When the blob is not here or the disk refuses.
    pub async fn link_to(&self, hash: Hash, target: &Path) -> Result<(), BlobError> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("blob {hash} is not here"));
        let Some(size_bytes) = self.visible(hash).await? else { return Err(self.io(0, absent())) };
        let data = PathOptions::new(&self.root).data_path(&iroh_hash(hash));
        // Small blobs live inside the index and have no file.
        if tokio::fs::hard_link(&data, target).await.is_err() {
            self.check_room(size_bytes)?;
            let target = std::path::absolute(target).map_err(|source| self.io(0, source))?;
            let exported = self.store.blobs().export(iroh_hash(hash), target).await;
            exported.map_err(|error| self.io(size_bytes, error))?;
        }
        let path = target.to_owned();
        let synced = tokio::task::spawn_blocking(move || File::open(&path)?.sync_all()).await;
        synced.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| self.io(0, source))
    }

    /// Checks that a blob of `size_bytes` fits beside the reserve, before a download starts.
    ///
    /// # Errors
    /// [`DiskFull`] when it doesn't.
    pub fn check_room(&self, size_bytes: u64) -> Result<(), DiskFull> {
        // The outboard takes 64 bytes for each 16 KiB.
        disk::check_room(&self.root, size_bytes.saturating_add(size_bytes / 256), self.reserve_bytes)
    }

    /// Frees the disk of what was removed; whether it did. What was not is swept when the store is opened again.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn sweep(&self) -> Result<bool, BlobError> {
        let _sweep = self.sweeping.lock().await;
        let gone = self.removed().clone();
        if gone.is_empty() {
            return Ok(true);
        }
        let all = self.store.blobs().list().hashes().await.map_err(|error| self.io(0, error))?;
        let is_kept = |hash: &iroh_blobs::Hash| !gone.contains(&Hash(*hash.as_bytes()));
        if !self.sweeper.sweep(all.into_iter().filter(is_kept).collect()).await {
            return Ok(false);
        }
        for hash in gone {
            // One that was put again meanwhile is here, and has no mark any more.
            if self.status(hash).await?.is_none() && self.removed().contains(&hash) {
                self.store.tags().delete(removed_name(hash)).await.map_err(|error| self.io(0, error))?;
                self.removed().remove(&hash);
            }
        }
        Ok(true)
    }

    /// Writes everything out and releases the folder. Stores that are dropped instead may hold it a little longer.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn shutdown(self) -> Result<(), BlobError> {
        self.store.sync_db().await.map_err(|error| self.io(0, error))?;
        self.store.shutdown().await.map_err(|error| self.io(0, error))
    }

    fn io(&self, needed_bytes: u64, error: impl Into<iroh_blobs::api::Error>) -> BlobError {
        write_error(&self.root, needed_bytes, self.reserve_bytes, plain(error))
    }

    fn removed(&self) -> MutexGuard<'_, BTreeSet<Hash>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of a blob that is complete and not removed.
    async fn status(&self, hash: Hash) -> Result<Option<u64>, BlobError> {
        match self.store.blobs().status(iroh_hash(hash)).await.map_err(|error| self.io(0, error))? {
            BlobStatus::Complete { size } => Ok(Some(size)),
            _ => Ok(None),
        }
    }

    async fn visible(&self, hash: Hash) -> Result<Option<u64>, BlobError> {
        if self.removed().contains(&hash) {
            return Ok(None);
        }
        self.status(hash).await
    }

    /// The last steps of a put: the file, then the index reach the disk, and an earlier removal is taken back.
    async fn acknowledge(&self, hash: Hash) -> Result<(), BlobError> {
        let path = PathOptions::new(&self.root).data_path(&iroh_hash(hash));
        let synced = tokio::task::spawn_blocking(move || sync_file(&path)).await;
        synced.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| self.io(0, source))?;
        if self.removed().contains(&hash) {
            self.store.tags().delete(removed_name(hash)).await.map_err(|error| self.io(0, error))?;
            self.removed().remove(&hash);
        }
        self.store.sync_db().await.map_err(|error| self.io(0, error))
    }

    async fn put_bytes(&self, bytes: Bytes) -> Result<Hash, BlobError> {
        let size_bytes = bytes.len() as u64;
        self.check_room(size_bytes)?;
        let hash = Hash::of(&bytes);
        let added = self.store.blobs().add_bytes(bytes).with_named_tag(pin_name(hash)).await;
        added.map_err(|error| self.io(size_bytes, error))?;
        self.acknowledge(hash).await?;
        Ok(hash)
    }

    async fn copy_file(&self, path: &Path) -> Result<Hash, BlobError> {
        let io = |source| BlobError::Io { path: path.to_owned(), source };
        let size_bytes = tokio::fs::metadata(path).await.map_err(io)?.len();
        self.check_room(size_bytes)?;
        let full = tokio::fs::canonicalize(path).await.map_err(io)?;
        let added = self.store.blobs().add_path(full).temp_tag().await.map_err(|error| self.io(size_bytes, error))?;
        let hash = Hash(*added.hash().as_bytes());
        let value = added.hash_and_format();
        self.store.tags().set(pin_name(hash), value).await.map_err(|error| self.io(0, error))?;
        self.acknowledge(hash).await?;
        Ok(hash)
    }

    async fn read(&self, hash: Hash) -> Result<Option<Bytes>, BlobError> {
        let Some(size_bytes) = self.visible(hash).await? else { return Ok(None) };
        check_get_size(hash, size_bytes)?;
        let bytes = self.store.blobs().get_bytes(iroh_hash(hash)).await.map_err(|error| self.io(0, error))?;
        // The index may have outlived a file that a power cut shortened.
        if Hash::of(&bytes) != hash {
            let detail = format!("blob {hash} does not have its hash; remove it and fetch it again");
            return Err(BlobError::Corrupt { path: self.root.clone(), detail });
        }
        Ok(Some(bytes))
    }

    async fn hide(&self, hash: Hash) -> Result<bool, BlobError> {
        if self.visible(hash).await?.is_none() {
            return Ok(false);
        }
        let mark = iroh_blobs::HashAndFormat::raw(iroh_blobs::Hash::EMPTY);
        self.store.tags().set(removed_name(hash), mark).await.map_err(|error| self.io(0, error))?;
        self.store.tags().delete(pin_name(hash)).await.map_err(|error| self.io(0, error))?;
        self.store.sync_db().await.map_err(|error| self.io(0, error))?;
        self.removed().insert(hash);
        Ok(true)
    }

    async fn complete(&self) -> Result<Vec<Hash>, BlobError> {
        let hashes = self.store.blobs().list().hashes().await.map_err(|error| self.io(0, error))?;
        let mut complete = BTreeSet::new();
        for hash in hashes.into_iter().map(|hash| Hash(*hash.as_bytes())) {
            if self.visible(hash).await?.is_some() {
                complete.insert(hash);
            }
        }
        Ok(complete.into_iter().collect())
    }
}

impl BlobStore for IrohBlobs {
    fn put(&self, bytes: Bytes) -> BlobFuture<'_, Hash> {
        Box::pin(self.put_bytes(bytes))
    }

    fn put_file<'a>(&'a self, path: &'a Path) -> BlobFuture<'a, Hash> {
        Box::pin(self.copy_file(path))
    }

    fn get(&self, hash: Hash) -> BlobFuture<'_, Option<Bytes>> {
        Box::pin(self.read(hash))
    }

    fn has(&self, hash: Hash) -> BlobFuture<'_, bool> {
        Box::pin(async move { Ok(self.visible(hash).await?.is_some()) })
    }

    fn size(&self, hash: Hash) -> BlobFuture<'_, Option<u64>> {
        Box::pin(self.visible(hash))
    }

    fn remove(&self, hash: Hash) -> BlobFuture<'_, bool> {
        Box::pin(self.hide(hash))
    }

    fn list(&self) -> BlobFuture<'_, Vec<Hash>> {
        Box::pin(self.complete())
    }
}

pub(super) fn iroh_hash(hash: Hash) -> iroh_blobs::Hash {
    iroh_blobs::Hash::from_bytes(hash.0)
}

fn pin_name(hash: Hash) -> String {
    format!("{PIN_PREFIX}{hash}")
}

fn removed_name(hash: Hash) -> String {
    format!("{REMOVED_PREFIX}{hash}")
}

/// The operating system's error inside one of iroh-blobs' own.
pub(super) fn plain(error: impl Into<iroh_blobs::api::Error>) -> io::Error {
    match error.into() {
        iroh_blobs::api::Error::Io(source) => source,
    }
}

fn write_error(path: &Path, needed_bytes: u64, reserve_bytes: u64, source: io::Error) -> BlobError {
    if disk::is_full(&source) {
        return DiskFull::at(path, needed_bytes, reserve_bytes).into();
    }
    BlobError::Io { path: path.to_owned(), source }
}

fn prepare_folder(root: &Path) -> io::Result<()> {
    std::fs::create_dir_all(root)?;
    File::options().create(true).append(true).open(root.join("store.lock")).map(drop)
}

fn lock_folder(root: &Path) -> Result<File, BlobError> {
    let io = |source| BlobError::Io { path: root.to_owned(), source };
    let file = File::options().append(true).open(root.join("store.lock")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BlobError::Locked { path: root.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Removes what imports cut short by a crash left behind; the folder is locked, so nobody else writes there.
fn clear_temporary_files(root: &Path) {
    let Ok(entries) = std::fs::read_dir(PathOptions::new(root).temp_path) else { return };
    for entry in entries.flatten() {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "left-over import stays");
        }
    }
}

/// Flushes a blob's data file; small blobs live inside the index and have none.
fn sync_file(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
