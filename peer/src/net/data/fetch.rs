//! Fetching one blob from the first provider that has it.
//!
//! Invariant: each provider ends in success or in one named fault, no provider is waited for longer than the progress
//! deadline, and only faults of this machine (disk, store) end the search early. What a provider sent before it failed
//! stays in the store if it was verified, so the next one sends only the rest.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};

use futures::StreamExt;
use iroh::endpoint::Connection;
use iroh_blobs::HashAndFormat;
use iroh_blobs::api::blobs::BlobStatus;
use iroh_blobs::api::remote::GetProgressItem;
use iroh_blobs::get::GetError;
use iroh_blobs::get::fsm::{AtBlobHeaderNextError, DecodeError};
use iroh_blobs::get::request::get_verified_size;
use tokio::time::timeout;
use tributary_protocol::id::{Hash, NodeId};
use tributary_storage::blobs::BlobError;
use tributary_storage::disk::DiskFull;

use super::{DataPlane, Shared};
use crate::net::limits::{FETCH_PROGRESS, FETCH_PROVIDERS};

/// Why a provider was left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderFault {
    /// No connection to it could be made.
    #[error("unreachable: {reason}")]
    Unreachable {
        /// What was tried.
        reason: String,
    },
    /// It doesn't have the blob.
    #[error("does not have it")]
    Missing,
    /// It sent bytes that do not belong to the hash: it is broken or it cheats.
    #[error("sent other bytes")]
    Corrupt,
    /// It sent nothing for too long.
    #[error("sent nothing for {} s", FETCH_PROGRESS.as_secs())]
    Stalled,
    /// The connection broke.
    #[error("broke off: {reason}")]
    Broken {
        /// What was reported.
        reason: String,
    },
}

/// Why a blob was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The blob is larger than the caller takes; the size is verified.
    #[error("blob {hash} has {size_bytes} bytes, more than the {limit_bytes} expected")]
    TooLarge {
        /// The blob.
        hash: Hash,
        /// Its size.
        size_bytes: u64,
        /// The caller's bound.
        limit_bytes: u64,
    },
    /// No provider gave it: try again with others, or later.
    #[error("blob {hash} from none of {} providers: {}", faults.len(), list(faults))]
    Exhausted {
        /// The blob.
        hash: Hash,
        /// Each provider's fault, in the order of the attempts.
        faults: Vec<(NodeId, ProviderFault)>,
    },
    /// This machine cannot keep it.
    #[error(transparent)]
    Store(#[from] BlobError),
}

fn list(faults: &[(NodeId, ProviderFault)]) -> String {
    let texts: Vec<_> = faults.iter().map(|(node, fault)| format!("{} {fault}", node.short())).collect();
    texts.join("; ")
}

/// How one attempt ended, if not well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Try the next provider.
    Provider(ProviderFault),
    /// No provider can help.
    Final(FetchError),
}

impl Failure {
    pub(crate) fn broken(reason: impl std::fmt::Display) -> Self {
        Self::Provider(ProviderFault::Broken { reason: reason.to_string() })
    }
}

impl From<ProviderFault> for Failure {
    fn from(fault: ProviderFault) -> Self {
        Self::Provider(fault)
    }
}

impl From<DiskFull> for Failure {
    fn from(full: DiskFull) -> Self {
        Self::Final(FetchError::Store(full.into()))
    }
}

impl DataPlane {
    /// Makes sure that the blob is here, complete, durable and pinned, and returns its size in bytes. Providers are
    /// asked in order, at most sixteen; two calls for one blob take turns.
    ///
    /// # Errors
    /// [`FetchError`]; its variants say whether another try can help.
    pub async fn fetch(&self, hash: Hash, providers: &[NodeId], max_bytes: u64) -> Result<u64, FetchError> {
        let turn = self.shared.turn(hash);
        let _mine = turn.lock().await;
        // Held until it is pinned: nothing unpinned may vanish meanwhile.
        let content = HashAndFormat::raw(iroh_hash(hash));
        let _hold =
            self.shared.store.inner().tags().temp_tag(content).await.map_err(|error| self.shared.failed(error))?;
        // What was removed may lie here until it is swept.
        if let Some(size) = self.shared.local_size(hash).await
            && self.shared.keep(hash, size, max_bytes).await?
        {
            return Ok(size);
        }
        let mut faults = Vec::new();
        for &node in providers.iter().filter(|node| **node != self.shared.node).take(FETCH_PROVIDERS) {
            match self.shared.fetch_from(hash, node, &self.lanes_of(node), max_bytes).await {
                Ok(size) => return self.shared.keep(hash, size, max_bytes).await.map(|_| size),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Provider(fault)) => {
                    tracing::debug!(%hash, provider = %node.short(), %fault, "provider left");
                    faults.push((node, fault));
                }
            }
        }
        Err(FetchError::Exhausted { hash, faults })
    }

    fn lanes_of(&self, node: NodeId) -> Vec<SocketAddr> {
        self.book().lanes.get(&node).cloned().unwrap_or_default()
    }
}

impl Shared {
    fn turn(&self, hash: Hash) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&hash).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(hash, Arc::downgrade(&turn));
        turn
    }

    /// The store failed, which is no provider's fault.
    fn failed(&self, error: impl std::fmt::Display) -> BlobError {
        BlobError::Io { path: self.store.root().to_owned(), source: std::io::Error::other(error.to_string()) }
    }

    async fn local_size(&self, hash: Hash) -> Option<u64> {
        match self.store.inner().blobs().status(iroh_hash(hash)).await {
            Ok(BlobStatus::Complete { size }) => Some(size),
            // A store that cannot say will say why when the blob is written.
            _ => None,
        }
    }

    /// Pins what is here; whether it is.
    async fn keep(&self, hash: Hash, size: u64, max_bytes: u64) -> Result<bool, FetchError> {
        if size > max_bytes {
            return Err(FetchError::TooLarge { hash, size_bytes: size, limit_bytes: max_bytes });
        }
        Ok(self.store.pin(hash).await?)
    }

    /// One provider, by its fast lane if it has one. A lane that is missing, slow or broken says nothing about the
    /// provider's iroh endpoint; a lane that sends wrong bytes does.
    async fn fetch_from(
        &self,
        hash: Hash,
        node: NodeId,
        lane_addrs: &[SocketAddr],
        max_bytes: u64,
    ) -> Result<u64, Failure> {
        if let (Some(lane), [_, ..]) = (&self.lane, lane_addrs) {
            match lane.fetch(hash, node, lane_addrs, max_bytes).await {
                Ok(size) => return Ok(size),
                Err(failure @ (Failure::Final(_) | Failure::Provider(ProviderFault::Corrupt))) => return Err(failure),
                Err(Failure::Provider(fault)) => tracing::debug!(provider = %node.short(), %fault, "fast lane"),
            }
        }
        let done = self.fetch_by_iroh(hash, node, max_bytes).await;
        if matches!(done, Err(Failure::Provider(ProviderFault::Stalled | ProviderFault::Corrupt))) {
            self.connections.drop_stale(node, iroh_blobs::ALPN);
        }
        done
    }

    async fn fetch_by_iroh(&self, hash: Hash, node: NodeId, max_bytes: u64) -> Result<u64, Failure> {
        let connection = self
            .connections
            .get(node, iroh_blobs::ALPN)
            .await
            .map_err(|error| ProviderFault::Unreachable { reason: error.to_string() })?;
        let content = HashAndFormat::raw(iroh_hash(hash));
        let (size, _) = timeout(FETCH_PROGRESS, get_verified_size(&connection, &content.hash))
            .await
            .map_err(|_| ProviderFault::Stalled)?
            .map_err(|error| fault_of(&error, &connection, self.store.root()))?;
        if size > max_bytes {
            return Err(Failure::Final(FetchError::TooLarge { hash, size_bytes: size, limit_bytes: max_bytes }));
        }
        self.store.check_room(size)?;
        let local = self.store.inner().remote().local(content).await.map_err(Failure::broken)?;
        let request = local.missing();
        let progress = self.store.inner().remote().execute_get(connection.clone(), request);
        let mut progress = std::pin::pin!(progress.stream());
        loop {
            match timeout(FETCH_PROGRESS, progress.next()).await.map_err(|_| ProviderFault::Stalled)? {
                Some(GetProgressItem::Progress(_)) => {}
                Some(GetProgressItem::Done(_)) => return Ok(size),
                Some(GetProgressItem::Error(error)) => return Err(fault_of(&error, &connection, self.store.root())),
                None => return Err(Failure::broken("ended without a result")),
            }
        }
    }
}

/// Whose fault a failed transfer is.
fn fault_of(error: &GetError, connection: &Connection, root: &Path) -> Failure {
    // iroh-blobs' provider resets the stream with this code when it lacks a blob or a part of it.
    if error.iroh_error_code() == Some(iroh_blobs::protocol::ERR_INTERNAL) {
        return ProviderFault::Missing.into();
    }
    match error {
        GetError::AtBlobHeaderNext { source: AtBlobHeaderNextError::NotFound { .. }, .. } => {
            ProviderFault::Missing.into()
        }
        GetError::Decode { source, .. } => match source {
            DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. } => {
                ProviderFault::Corrupt.into()
            }
            DecodeError::ChunkNotFound { .. }
            | DecodeError::ParentNotFound { .. }
            | DecodeError::LeafNotFound { .. } => ProviderFault::Missing.into(),
            DecodeError::Write { source, .. } => Failure::Final(FetchError::Store(BlobError::Io {
                path: root.to_owned(),
                source: std::io::Error::new(source.kind(), source.to_string()),
            })),
            source => Failure::broken(source),
        },
        error => match connection.close_reason() {
            Some(reason) => Failure::broken(reason),
            None => Failure::broken(error),
        },
    }
}

/// The same 32 bytes in iroh-blobs' type.
pub(crate) fn iroh_hash(hash: Hash) -> iroh_blobs::Hash {
    iroh_blobs::Hash::from_bytes(hash.0)
}
