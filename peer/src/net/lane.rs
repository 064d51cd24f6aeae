//! The fast lane: blobs between two peers that reach each other directly, over quinn, checked in ranges of 1 MiB.
//!
//! Invariant: both sides prove their node keys in the TLS handshake, and no byte leaves this module towards the store
//! before the range it belongs to was checked against the blob's BLAKE3 root.
//!
//! A request is 37 bytes on a fresh stream: kind, hash, and a big-endian u32 range number. The answer is a status byte
//! and, for an outline, the size (big-endian u64) and the chaining values of the ranges; for a range, its bytes.

pub(crate) mod outline;
mod pull;
mod serve;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::task::AbortHandle;
use tributary_protocol::id::{Hash, NodeId};
use tributary_storage::blobs::IrohBlobs;

use self::serve::Server;
use super::NetError;
use super::data::Bans;
use super::limits::{LANE_CONNECTIONS, LANE_MTU_BYTES, LANE_RANGE_BYTES, LANE_RANGES, QUIC_IDLE, QUIC_KEEP_ALIVE};

/// The protocol's name in the TLS handshake.
pub(crate) const ALPN: &[u8] = b"tributary/lane/1";
/// Bytes of a request.
pub(crate) const REQUEST_BYTES: usize = 37;
/// The server has it: the rest of the answer follows.
pub(crate) const STATUS_OK: u8 = 0;
/// The server doesn't have that blob or range.
pub(crate) const STATUS_MISSING: u8 = 1;
/// Asks for the outline.
const KIND_OUTLINE: u8 = 0;
/// Asks for a range.
const KIND_RANGE: u8 = 1;

/// What is asked of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Outline { hash: Hash },
    Range { hash: Hash, index: u32 },
}

impl Request {
    fn encode(self) -> [u8; REQUEST_BYTES] {
        let (kind, hash, index) = match self {
            Self::Outline { hash } => (KIND_OUTLINE, hash, 0),
            Self::Range { hash, index } => (KIND_RANGE, hash, index),
        };
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0] = kind;
        bytes[1..33].copy_from_slice(hash.as_bytes());
        bytes[33..].copy_from_slice(&index.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (hash, index) = rest.split_first_chunk::<32>()?;
        let (hash, index) = (Hash(*hash), u32::from_be_bytes(index.try_into().ok()?));
        match *kind {
            KIND_OUTLINE if index == 0 => Some(Self::Outline { hash }),
            KIND_RANGE => Some(Self::Range { hash, index }),
            _ => None,
        }
    }
}

/// A running fast lane: it serves the store's blobs and fetches others'.
pub(crate) struct Lane {
    endpoint: Endpoint,
    addr: SocketAddr,
    identity: tls::Identity,
    transport: Arc<TransportConfig>,
    store: IrohBlobs,
    connections: Mutex<BTreeMap<NodeId, (SocketAddr, quinn::Connection)>>,
    server: AbortHandle,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Lane {
    /// Binds the socket and starts to serve.
    pub(crate) fn start(seed: &[u8; 32], addr: SocketAddr, store: IrohBlobs, bans: Bans) -> Result<Self, NetError> {
        let identity = tls::Identity::new(seed)?;
        let transport = Arc::new(transport()?);
        let mut server = identity.server_config()?;
        server.transport_config(Arc::clone(&transport)).max_incoming(LANE_CONNECTIONS);
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(LANE_MTU_BYTES).map_err(NetError::setup)?;
        let socket = std::net::UdpSocket::bind(addr).map_err(|error| NetError::bind(addr, &error))?;
        let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
            .map_err(|error| NetError::bind(addr, &error))?;
        let addr = endpoint.local_addr().map_err(|error| NetError::bind(addr, &error))?;
        let serving = Server::new(store.clone(), bans).run(endpoint.clone());
        let server = tokio::spawn(serving).abort_handle();
        Ok(Self { endpoint, addr, identity, transport, store, connections: Mutex::default(), server })
    }

    /// The address it is bound to.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes all connections and frees the port.
    pub(crate) async fn shutdown(&self) {
        self.server.abort();
        self.endpoint.close(VarInt::from_u32(0), b"shutdown");
        self.connections().clear();
        self.endpoint.wait_idle().await;
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<NodeId, (SocketAddr, quinn::Connection)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// quinn-proto held windows of 4 to 32 MiB where noq breaks (measured); here a stream carries one range.
fn transport() -> Result<TransportConfig, NetError> {
    let window = u32::try_from(LANE_RANGE_BYTES).map_err(NetError::setup)?;
    let streams = u32::try_from(2 * LANE_RANGES).map_err(NetError::setup)?;
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(LANE_MTU_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(window))
        .receive_window(VarInt::from_u32(window.saturating_mul(streams)))
        .send_window(u64::from(window) * u64::from(streams))
        .max_idle_timeout(Some(IdleTimeout::try_from(QUIC_IDLE).map_err(NetError::setup)?))
        .keep_alive_interval(Some(QUIC_KEEP_ALIVE))
        .mtu_discovery_config(Some(mtu));
    Ok(transport)
}

#[cfg(test)]
mod tests {
    use tributary_protocol::id::Hash;

    use super::Request;

    #[test]
    fn requests_survive_the_wire_and_unknown_kinds_do_not() {
        let hash = Hash([9; 32]);
        for request in [Request::Outline { hash }, Request::Range { hash, index: 7 }] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let mut bytes = Request::Outline { hash }.encode();
        bytes[0] = 2;
        assert_eq!(Request::decode(&bytes), None);
    }
}
