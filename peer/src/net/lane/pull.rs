//! The fetching side of the fast lane.
//!
//! Invariant: at most eight ranges are in memory; each is checked before it goes to the store, in order, and the store
//! keeps nothing if any fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use quinn::{Connection, VarInt};
use tokio::time::timeout;
use tributary_protocol::id::{Hash, NodeId};
use tributary_storage::blobs::BlobError;

use super::outline::Outline;
use super::{Lane, Request, STATUS_MISSING, STATUS_OK};
use crate::net::NetError;
use crate::net::data::{Failure, FetchError, ProviderFault, iroh_hash};
use crate::net::limits::{DATA_CONNECTIONS, FETCH_PROGRESS, LANE_RANGE_BYTES, LANE_RANGES};

/// Rustls wants a server name; raw public keys carry none.
const SERVER_NAME: &str = "tributary.invalid";
/// Time to connect: the lane is for peers that are near, and iroh is the way for the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Tells a server that its connection is of no use any more.
const FORGOTTEN: VarInt = VarInt::from_u32(3);

impl Lane {
    /// Fetches a whole blob from the lane at one of `addrs`, which must prove to be `node`, into the store; its size in
    /// bytes.
    pub(crate) async fn fetch(
        &self,
        hash: Hash,
        node: NodeId,
        addrs: &[SocketAddr],
        max_bytes: u64,
    ) -> Result<u64, Failure> {
        let connection = self.connection(node, addrs).await?;
        let done = self.fetch_on(&connection, hash, max_bytes).await;
        if matches!(done, Err(Failure::Provider(ProviderFault::Stalled | ProviderFault::Corrupt))) {
            self.connections().remove(&node);
            connection.close(FORGOTTEN, b"no answer");
        }
        done
    }

    async fn fetch_on(&self, connection: &Connection, hash: Hash, max_bytes: u64) -> Result<u64, Failure> {
        let body = ask(connection, Request::Outline { hash }, Outline::max_bytes()).await?;
        let outline = Outline::decode(&body).filter(|outline| outline.proves(hash)).ok_or(ProviderFault::Corrupt)?;
        let size = outline.size();
        if size > max_bytes {
            // Only a claim until the last range is here: iroh's proof of the size decides.
            return Err(Failure::broken(format!("claims {size} bytes, at most {max_bytes} are taken")));
        }
        self.store.check_room(size)?;
        let (mut checked, bytes) = mpsc::channel(1);
        let importing = async { self.store.inner().blobs().add_stream(bytes).await.temp_tag().await };
        let outline = &outline;
        let reading = async move {
            let mut ranges = stream::iter(0..outline.ranges())
                .map(|index| range(connection, hash, outline, index))
                .buffered(LANE_RANGES);
            loop {
                match ranges.try_next().await {
                    Ok(Some(bytes)) => {
                        if checked.send(Ok(bytes)).await.is_err() {
                            // The store gave up; the import says why.
                            return Ok(());
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(failure) => {
                        let stop = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                        // An error means that the store has given up as well.
                        let _ = checked.send(Err(stop)).await;
                        return Err(failure);
                    }
                }
            }
        };
        let (imported, read) = futures::join!(importing, reading);
        read?;
        let imported = imported.map_err(|error| self.store_failure(&error))?;
        if imported.hash() != iroh_hash(hash) {
            return Err(ProviderFault::Corrupt.into());
        }
        // Pinned before the temporary tag falls.
        self.store.pin(hash).await.map_err(|error| Failure::Final(FetchError::Store(error)))?;
        Ok(size)
    }

    fn store_failure(&self, error: &iroh_blobs::api::RequestError) -> Failure {
        let source = std::io::Error::other(error.to_string());
        let path = self.store.root().to_owned();
        Failure::Final(FetchError::Store(BlobError::Io { path, source }))
    }

    /// The kept connection, or the first that stands of those to all addresses.
    async fn connection(&self, node: NodeId, addrs: &[SocketAddr]) -> Result<Connection, Failure> {
        let usable = |kept: &&(SocketAddr, Connection)| addrs.contains(&kept.0) && kept.1.close_reason().is_none();
        if let Some((_, connection)) = self.connections().get(&node).filter(usable) {
            return Ok(connection.clone());
        }
        let unreachable = |reason: String| Failure::Provider(ProviderFault::Unreachable { reason });
        let attempts: Vec<_> = addrs.iter().map(|addr| Box::pin(self.connect(node, *addr))).collect();
        if attempts.is_empty() {
            return Err(unreachable("no address is known".to_owned()));
        }
        let first = timeout(CONNECT_TIMEOUT, futures::future::select_ok(attempts)).await;
        let first = first.map_err(|_| unreachable("no answer in time".to_owned()))?.map_err(unreachable)?;
        let ((addr, connection), _) = first;
        let mut connections = self.connections();
        connections.retain(|_, (_, connection)| connection.close_reason().is_none());
        if connections.len() >= DATA_CONNECTIONS {
            connections.pop_first();
        }
        connections.insert(node, (addr, connection.clone()));
        Ok(connection)
    }

    async fn connect(&self, node: NodeId, addr: SocketAddr) -> Result<(SocketAddr, Connection), String> {
        let config = self.client_config(node).map_err(|error| error.to_string())?;
        let connecting = self.endpoint.connect_with(config, addr, SERVER_NAME).map_err(|error| error.to_string())?;
        Ok((addr, connecting.await.map_err(|error| error.to_string())?))
    }

    fn client_config(&self, node: NodeId) -> Result<quinn::ClientConfig, NetError> {
        let mut config = self.identity.client_config(node)?;
        config.transport_config(Arc::clone(&self.transport));
        Ok(config)
    }
}

async fn range(connection: &Connection, hash: Hash, outline: &Outline, index: u32) -> Result<Bytes, Failure> {
    let limit = usize::try_from(LANE_RANGE_BYTES).unwrap_or(usize::MAX);
    let bytes = ask(connection, Request::Range { hash, index }, limit).await?;
    match outline.holds(hash, index, &bytes) {
        true => Ok(bytes),
        false => Err(ProviderFault::Corrupt.into()),
    }
}

/// One request and the body of its answer, of at most `limit` bytes.
async fn ask(connection: &Connection, request: Request, limit: usize) -> Result<Bytes, Failure> {
    let (mut asking, mut answer) = connection.open_bi().await.map_err(Failure::broken)?;
    asking.write_all(&request.encode()).await.map_err(Failure::broken)?;
    asking.finish().map_err(Failure::broken)?;
    let mut body = BytesMut::new();
    loop {
        let reading = timeout(FETCH_PROGRESS, answer.read_chunk(limit, true));
        let chunk = reading.await.map_err(|_| ProviderFault::Stalled)?.map_err(Failure::broken)?;
        let Some(chunk) = chunk else { break };
        // One byte more for the status.
        if body.len() + chunk.bytes.len() > limit + 1 {
            return Err(ProviderFault::Corrupt.into());
        }
        body.extend_from_slice(&chunk.bytes);
    }
    let body = body.freeze();
    match body.first().copied() {
        Some(STATUS_OK) => Ok(body.slice(1..)),
        Some(STATUS_MISSING) => Err(ProviderFault::Missing.into()),
        _ => Err(ProviderFault::Corrupt.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, SocketAddr};

    use bytes::Bytes;
    use quinn::{Endpoint, RecvStream, SendStream};
    use tempfile::TempDir;
    use tokio::sync::watch;
    use tributary_protocol::id::Hash;
    use tributary_storage::blobs::{BlobStore, IrohBlobs};

    use super::{Failure, LANE_RANGE_BYTES, Lane, Outline, ProviderFault, Request, STATUS_OK};
    use crate::net::identity::node_id;
    use crate::net::lane::outline::range_value;
    use crate::net::lane::{REQUEST_BYTES, tls};

    const SERVER_SEED: [u8; 32] = [2; 32];
    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const RANGE: usize = 1 << 20;

    #[derive(Clone, Copy)]
    enum Malice {
        /// One changed byte in the second range.
        WrongRange,
        /// A range with a byte too many.
        LongRange,
        /// Chaining values that belong to another blob.
        WrongOutline,
        /// An unknown status.
        Nonsense,
        /// No answer at all.
        Silence,
    }

    fn body(request: Request, malice: Malice, blob: &Bytes) -> Option<Vec<u8>> {
        match (request, malice) {
            (_, Malice::Silence) => None,
            (_, Malice::Nonsense) => Some(vec![99]),
            (Request::Outline { .. }, malice) => {
                let ranges = blob.chunks(RANGE).enumerate();
                let mut values: Vec<_> =
                    ranges.map(|(index, range)| range_value(index as u64 * LANE_RANGE_BYTES, range)).collect();
                if matches!(malice, Malice::WrongOutline) {
                    values[0][0] ^= 1;
                }
                Some([vec![STATUS_OK], Outline::new(blob.len() as u64, values).encode()].concat())
            }
            (Request::Range { index, .. }, malice) => {
                let start = usize::try_from(index).unwrap() * RANGE;
                let mut range = blob[start..blob.len().min(start + RANGE)].to_vec();
                match malice {
                    Malice::WrongRange if index == 1 => range[77] ^= 1,
                    Malice::LongRange => range.push(0),
                    _ => {}
                }
                Some([vec![STATUS_OK], range].concat())
            }
        }
    }

    async fn reply(mut answer: SendStream, mut request: RecvStream, malice: Malice, blob: &Bytes) {
        let mut bytes = [0; REQUEST_BYTES];
        request.read_exact(&mut bytes).await.unwrap();
        match body(Request::decode(&bytes).unwrap(), malice, blob) {
            // The victim hangs up as soon as it notices.
            Some(body) => {
                let _ = answer.write_all(&body).await;
                let _ = answer.finish();
            }
            None => std::future::pending().await,
        }
    }

    fn hostile(malice: Malice, blob: Bytes) -> SocketAddr {
        let config = tls::Identity::new(&SERVER_SEED).unwrap().server_config().unwrap();
        let endpoint = Endpoint::server(config, ANY_PORT).unwrap();
        let addr = endpoint.local_addr().unwrap();
        tokio::spawn(async move {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            while let Ok((answer, request)) = connection.accept_bi().await {
                let blob = blob.clone();
                tokio::spawn(async move { reply(answer, request, malice, &blob).await });
            }
        });
        addr
    }

    async fn seeker() -> (Lane, IrohBlobs, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = IrohBlobs::open(folder.path()).await.unwrap();
        let (_, bans) = watch::channel(BTreeSet::new());
        (Lane::start(&[1; 32], ANY_PORT, store.clone(), bans).unwrap(), store, folder)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lane_that_lies_is_found_out_and_nothing_is_kept() {
        let (lane, store, _folder) = seeker().await;
        let blob: Bytes = (0..3 * RANGE + 5).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let hash = Hash::of(&blob);
        for (malice, fault) in [
            (Malice::WrongRange, ProviderFault::Corrupt),
            (Malice::LongRange, ProviderFault::Corrupt),
            (Malice::WrongOutline, ProviderFault::Corrupt),
            (Malice::Nonsense, ProviderFault::Corrupt),
            (Malice::Silence, ProviderFault::Stalled),
        ] {
            let addr = hostile(malice, blob.clone());
            let failure = lane.fetch(hash, node_id(&SERVER_SEED), &[addr], 1 << 30).await.unwrap_err();
            assert!(matches!(failure, Failure::Provider(found) if found == fault));
            assert!(!store.has(hash).await.unwrap());
        }
    }
}
