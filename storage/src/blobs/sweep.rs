//! Opening the store behind [`super::IrohBlobs`], and sweeping what was removed: at its opening, and on demand.
//!
//! Invariant: a sweep deletes only what a mark names and no tag pins; everything else is protected by name, also what
//! is incomplete, and what arrives meanwhile by the tags that its writers hold and by the store itself.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::Options;
use iroh_blobs::store::{GcConfig, ProtectCb, ProtectOutcome};
use tokio::sync::mpsc;
use tributary_protocol::id::Hash;

use super::BlobError;
use super::iroh::{iroh_hash, plain};

/// Tags under this name mark what was removed, until the next open sweeps it.
pub(super) const REMOVED_PREFIX: &str = "removed/";

/// The file of the store's index.
pub(super) const INDEX_FILE: &str = "blobs.db";

/// The store's sweeper wakes this soon after the store opens for sweeping.
const SWEEP_DELAY: Duration = Duration::from_millis(1);

/// Opens the store in `root` without what was removed; its own garbage collection runs when the sweeper says so.
pub(super) async fn open(root: &Path) -> Result<(FsStore, Sweeper), BlobError> {
    let store = load(root, None).await?;
    let store = sweep_removed(root, store).await?;
    store.shutdown().await.map_err(|error| BlobError::Io { path: root.to_owned(), source: plain(error) })?;
    let place = Arc::new(OnceLock::new());
    let (protect, sweeper) = on_demand(Arc::clone(&place));
    let store = load(root, Some(GcConfig { interval: SWEEP_DELAY, add_protected: Some(protect) })).await?;
    // Nobody else has set it.
    let _ = place.set(store.clone());
    Ok((store, sweeper))
}

/// Has the store's own garbage collection run once at a time, and only when it is told to.
#[derive(Debug)]
pub(super) struct Sweeper {
    keep: mpsc::Sender<Vec<iroh_blobs::Hash>>,
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Sweeper {
    /// Sweeps everything that is neither in `keep` nor tagged; whether it did.
    pub(super) async fn sweep(&self, keep: Vec<iroh_blobs::Hash>) -> bool {
        let mut ended = self.ended.lock().await;
        self.keep.send(keep).await.is_ok() && ended.recv().await.is_some()
    }
}

/// What the store's sweeper hears and says.
struct Inbox {
    keep: mpsc::Receiver<Vec<iroh_blobs::Hash>>,
    ended: mpsc::Sender<()>,
    is_running: bool,
}

/// A guard for the store's sweeper, which waits in it for the next demand. When nobody can demand any more, the store that
/// the sweeper alone still holds is closed.
fn on_demand(store: Arc<OnceLock<FsStore>>) -> (ProtectCb, Sweeper) {
    let (keep, asked) = mpsc::channel(1);
    let (ended, heard) = mpsc::channel(1);
    let inbox = Arc::new(tokio::sync::Mutex::new(Inbox { keep: asked, ended, is_running: false }));
    let protect: ProtectCb = Arc::new(move |live: &mut HashSet<iroh_blobs::Hash>| {
        let (inbox, store) = (Arc::clone(&inbox), Arc::clone(&store));
        Box::pin(async move {
            let mut inbox = inbox.lock().await;
            if std::mem::take(&mut inbox.is_running) {
                // A full channel already holds the news.
                let _ = inbox.ended.try_send(());
            }
            let Some(keep) = inbox.keep.recv().await else {
                if let Some(store) = store.get().cloned() {
                    tokio::spawn(async move { store.shutdown().await });
                }
                return std::future::pending().await;
            };
            live.extend(keep);
            inbox.is_running = true;
            ProtectOutcome::Continue
        })
    });
    (protect, Sweeper { keep, ended: tokio::sync::Mutex::new(heard) })
}

async fn load(root: &Path, gc: Option<GcConfig>) -> Result<FsStore, BlobError> {
    let mut options = Options::new(root);
    options.gc = gc;
    let loaded = FsStore::load_with_opts(root.join(INDEX_FILE), options).await;
    loaded.map_err(|error| BlobError::Corrupt { path: root.to_owned(), detail: format!("{error:#}") })
}

async fn sweep_removed(root: &Path, store: FsStore) -> Result<FsStore, BlobError> {
    let io = |error: iroh_blobs::api::Error| BlobError::Io { path: root.to_owned(), source: plain(error) };
    let removed = removed_hashes(&store).await.map_err(io)?;
    if removed.is_empty() {
        return Ok(store);
    }
    let all = store.blobs().list().hashes().await.map_err(|error| io(error.into()))?;
    store.shutdown().await.map_err(|error| io(error.into()))?;
    let keep = all.into_iter().filter(|hash| !removed.contains(hash)).collect();
    let (protect, mut swept) = sweep_once(keep);
    let sweeper = load(root, Some(GcConfig { interval: SWEEP_DELAY, add_protected: Some(protect) })).await?;
    // A closed channel means that the sweep failed; the marks stay and the next open tries again.
    if swept.recv().await.is_some() {
        sweeper.tags().delete_prefix(REMOVED_PREFIX).await.map_err(|error| io(error.into()))?;
    }
    sweeper.shutdown().await.map_err(|error| io(error.into()))?;
    load(root, None).await
}

async fn removed_hashes(store: &FsStore) -> Result<BTreeSet<iroh_blobs::Hash>, iroh_blobs::api::Error> {
    let mut marks = std::pin::pin!(store.tags().list_prefix(REMOVED_PREFIX).await?);
    let mut removed = BTreeSet::new();
    while let Some(mark) = marks.next().await {
        let name = mark?.name;
        let text = String::from_utf8_lossy(name.0.as_ref()).into_owned();
        if let Some(Ok(hash)) = text.strip_prefix(REMOVED_PREFIX).map(str::parse::<Hash>) {
            removed.insert(iroh_hash(hash));
        }
    }
    Ok(removed)
}

/// A guard for the store's sweeper: its first run keeps everything in `keep`, its second call reports the end of the
/// first run and stops it.
fn sweep_once(keep: Vec<iroh_blobs::Hash>) -> (ProtectCb, mpsc::Receiver<()>) {
    let (done, swept) = mpsc::channel(1);
    let keep = Mutex::new(Some(keep));
    let protect: ProtectCb = Arc::new(move |live: &mut HashSet<iroh_blobs::Hash>| {
        let outcome = match keep.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(keep) => {
                live.extend(keep);
                ProtectOutcome::Continue
            }
            None => {
                // A full channel already holds the news.
                let _ = done.try_send(());
                ProtectOutcome::Abort
            }
        };
        Box::pin(std::future::ready(outcome))
    });
    (protect, swept)
}
