//! The serving side of the fast lane.
//!
//! Invariant: only complete blobs are served, a banned peer gets nothing, and connections, streams per connection and
//! kept outlines are bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iroh_blobs::api::blobs::BlobStatus;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tributary_protocol::id::Hash;
use tributary_storage::blobs::IrohBlobs;

use super::outline::{Outline, range_value};
use super::{REQUEST_BYTES, Request, STATUS_MISSING, STATUS_OK, tls};
use crate::net::data::{Bans, iroh_hash};
use crate::net::limits::{FETCH_PROGRESS, LANE_CONNECTIONS, LANE_MAX_BYTES, LANE_OUTLINES, LANE_RANGE_BYTES};

/// Tells a peer that it is banned.
const BANNED: VarInt = VarInt::from_u32(1);
/// Tells a peer that its request makes no sense, or came too late.
const BAD_REQUEST: VarInt = VarInt::from_u32(2);
/// Time for a handshake and for a request to arrive on its stream.
const PATIENCE: Duration = FETCH_PROGRESS;

/// What all connections share.
pub(super) struct Server {
    store: IrohBlobs,
    bans: Bans,
    /// Most recently used last.
    outlines: Mutex<VecDeque<(Hash, Arc<Outline>)>>,
}

impl Server {
    pub(super) fn new(store: IrohBlobs, bans: Bans) -> Self {
        Self { store, bans, outlines: Mutex::default() }
    }

    /// Accepts connections until the endpoint closes.
    pub(super) async fn run(self, endpoint: Endpoint) {
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(LANE_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                incoming = endpoint.accept() => {
                    let Some(incoming) = incoming else { return };
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        incoming.refuse();
                        continue;
                    };
                    let server = Arc::clone(&server);
                    connections.spawn(async move {
                        server.connection(incoming).await;
                        drop(place);
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, incoming: Incoming) {
        let Ok(Ok(connection)) = tokio::time::timeout(PATIENCE, incoming).await else { return };
        let Some(node) = tls::node_of(&connection) else { return };
        let mut bans = self.bans.clone();
        tokio::select! {
            biased;
            // An error means that the data plane is gone, and with it this connection.
            _ = bans.wait_for(|bans| bans.contains(&node)) => connection.close(BANNED, b"banned"),
            () = self.streams(&connection) => {}
        }
    }

    async fn streams(self: &Arc<Self>, connection: &Connection) {
        // As many as the transport allows streams.
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                stream = connection.accept_bi() => {
                    let Ok((answer, request)) = stream else { return };
                    requests.spawn(Arc::clone(self).stream(answer, request));
                }
                Some(_) = requests.join_next() => {}
            }
        }
    }

    async fn stream(self: Arc<Self>, mut answer: SendStream, mut request: RecvStream) {
        let mut bytes = [0; REQUEST_BYTES];
        let read = tokio::time::timeout(PATIENCE, request.read_exact(&mut bytes)).await;
        let request = match read {
            Ok(Ok(())) => Request::decode(&bytes),
            _ => None,
        };
        let Some(request) = request else {
            // An error means that the other side has reset the stream already.
            let _ = answer.reset(BAD_REQUEST);
            return;
        };
        let body = match request {
            Request::Outline { hash } => self.outline(hash).await.map(|outline| outline.encode().into()),
            Request::Range { hash, index } => self.range(hash, index).await,
        };
        let (status, body) = match body {
            Some(body) => (STATUS_OK, body),
            None => (STATUS_MISSING, bytes::Bytes::new()),
        };
        let mut chunks = [bytes::Bytes::copy_from_slice(&[status]), body];
        if answer.write_all_chunks(&mut chunks).await.is_ok() {
            // An error means that the other side wants no more.
            let _ = answer.finish();
        }
    }

    async fn range(&self, hash: Hash, index: u32) -> Option<bytes::Bytes> {
        let (offset, length) = self.outline(hash).await?.range(index)?;
        self.read(hash, offset, length).await
    }

    async fn read(&self, hash: Hash, offset: u64, length: u64) -> Option<bytes::Bytes> {
        let reading = self.store.inner().blobs().export_ranges(iroh_hash(hash), offset..offset + length);
        reading.concatenate().await.ok().map(Into::into)
    }

    /// The kept outline, or a new one, made by reading the blob once.
    async fn outline(&self, hash: Hash) -> Option<Arc<Outline>> {
        if let Some(outline) = self.kept(hash) {
            return Some(outline);
        }
        let status = self.store.inner().blobs().status(iroh_hash(hash)).await.ok()?;
        let BlobStatus::Complete { size } = status else { return None };
        if size > LANE_MAX_BYTES {
            return None;
        }
        let mut values = Vec::new();
        let mut offset = 0;
        while size > LANE_RANGE_BYTES && offset < size {
            let length = LANE_RANGE_BYTES.min(size - offset);
            values.push(range_value(offset, &self.read(hash, offset, length).await?));
            offset += length;
        }
        let outline = Arc::new(Outline::new(size, values));
        let mut outlines = self.outlines.lock().unwrap_or_else(PoisonError::into_inner);
        if outlines.len() >= LANE_OUTLINES {
            outlines.pop_front();
        }
        outlines.push_back((hash, Arc::clone(&outline)));
        Some(outline)
    }

    fn kept(&self, hash: Hash) -> Option<Arc<Outline>> {
        let mut outlines = self.outlines.lock().unwrap_or_else(PoisonError::into_inner);
        let position = outlines.iter().position(|(kept, _)| *kept == hash)?;
        let entry = outlines.remove(position)?;
        let outline = Arc::clone(&entry.1);
        outlines.push_back(entry);
        Some(outline)
    }
}
