//! The data plane: blobs and answers between two peers, over iroh, with the fast lane in front where a peer has one.
//!
//! Invariant: bytes enter the store only after they were checked against their BLAKE3 root, a download never starts
//! before its verified size is known to fit the caller's bound and the disk, and what [`DataPlane::fetch`] reports as
//! fetched is durable and pinned.
//!
//! Relays are off and no address is published anywhere: peers are reached at the addresses given by
//! [`DataPlane::add_peer_addr`].

pub mod answer;
mod connections;
mod fetch;
mod gate;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{IdleTimeout, QuicTransportConfig, VarInt, presets};
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use iroh_blobs::BlobsProtocol;
use tokio::sync::{mpsc, watch};
use tributary_protocol::id::{Hash, NodeId};
use tributary_storage::blobs::IrohBlobs;

pub use answer::{AnswerError, AnswerReceiver, AnswerSender, AnswerStream};
pub(crate) use fetch::{Failure, iroh_hash};
pub use fetch::{FetchError, ProviderFault};

use self::answer::AnswerProtocol;
use self::connections::Connections;
use self::gate::Gate;
use super::lane::Lane;
use super::limits::{
    ANSWER_QUEUE, DATA_ADDRESSES, DATA_PEERS, DATA_STREAM_WINDOW_BYTES, DATA_STREAMS, LANE_ADDRESSES, PEER_ADDRESSES,
    QUIC_IDLE, QUIC_KEEP_ALIVE,
};
use super::{NetError, identity, probe_udp, reach};

/// Peers that are not served, watched by everything that serves.
pub(crate) type Bans = watch::Receiver<BTreeSet<NodeId>>;

/// How a node takes part in the data plane.
#[derive(Clone)]
pub struct DataConfig {
    /// The secret of the node's ed25519 key: the same as the control plane's.
    pub node_seed: [u8; 32],
    /// The UDP address of the iroh endpoint; port 0 chooses a free one.
    pub bind: SocketAddr,
    /// Where blobs are kept. It stays open when the data plane shuts down.
    pub store: IrohBlobs,
    /// The UDP address of the fast lane, if this node offers and uses one.
    pub lane: Option<SocketAddr>,
}

impl fmt::Debug for DataConfig {
    /// Without the seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataConfig")
            .field("node", &identity::node_id(&self.node_seed))
            .field("bind", &self.bind)
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

/// Where peers are.
#[derive(Debug, Default)]
struct Book {
    /// Fast-lane addresses.
    lanes: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Everybody in the book, oldest first.
    known: VecDeque<NodeId>,
}

struct Shared {
    node: NodeId,
    router: Router,
    lookup: MemoryLookup,
    connections: Connections,
    store: IrohBlobs,
    lane: Option<Lane>,
    bans: watch::Sender<BTreeSet<NodeId>>,
    book: Mutex<Book>,
    /// One turn per blob, so that two callers do not fetch the same bytes twice.
    turns: Mutex<BTreeMap<Hash, Weak<tokio::sync::Mutex<()>>>>,
}

/// The handle of a running data plane.
#[derive(Clone)]
pub struct DataPlane {
    shared: Arc<Shared>,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl DataPlane {
    /// Binds the sockets and serves the store's blobs; answer streams that others open come out of the receiver.
    ///
    /// # Errors
    /// [`NetError::PortInUse`] and [`NetError::Listen`] for the sockets.
    pub async fn start(config: DataConfig) -> Result<(Self, mpsc::Receiver<AnswerStream>), NetError> {
        let node = identity::node_id(&config.node_seed);
        let lookup = MemoryLookup::new();
        let endpoint = bind(&config, lookup.clone()).await?;
        let (bans, banned) = watch::channel(BTreeSet::new());
        let lane = match config.lane {
            Some(addr) => Some(Lane::start(&config.node_seed, addr, config.store.clone(), banned.clone())?),
            None => None,
        };
        let (accepted, answers) = mpsc::channel(ANSWER_QUEUE);
        let blobs = BlobsProtocol::new(config.store.inner(), None);
        let router = Router::builder(endpoint.clone())
            .accept(iroh_blobs::ALPN, Gate::new(blobs, banned.clone()))
            .accept(answer::ALPN, Gate::new(AnswerProtocol::new(accepted), banned))
            .spawn();
        let shared = Shared {
            node,
            router,
            lookup,
            connections: Connections::new(endpoint),
            store: config.store,
            lane,
            bans,
            book: Mutex::default(),
            turns: Mutex::default(),
        };
        Ok((Self { shared: Arc::new(shared) }, answers))
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.shared.node
    }

    /// Where other peers' iroh endpoints reach this one.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let bound = self.shared.router.endpoint().bound_sockets();
        bound.into_iter().flat_map(reach::published).take(DATA_ADDRESSES).collect()
    }

    /// Where other peers' fast lanes reach this one; nowhere if it has none.
    #[must_use]
    pub fn lane_addrs(&self) -> Vec<SocketAddr> {
        let bound = self.shared.lane.iter().map(Lane::addr);
        bound.flat_map(reach::published).take(LANE_ADDRESSES).collect()
    }

    /// Replaces what is known about where `node` is. Connections to its former addresses are dropped.
    ///
    /// # Errors
    /// [`NetError::Key`] if the id is no key.
    pub fn add_peer_addr(&self, node: NodeId, addrs: &[SocketAddr]) -> Result<(), NetError> {
        let id = identity::endpoint_id(node)?;
        let addrs = addrs.iter().copied().take(PEER_ADDRESSES);
        let entry = addrs.fold(EndpointAddr::new(id), EndpointAddr::with_ip_addr);
        self.remember(node);
        let changed = match self.shared.lookup.get_endpoint_info(id) {
            Some(known) => EndpointAddr::from(known) != entry,
            None => false,
        };
        self.shared.lookup.set_endpoint_info(entry);
        if changed {
            self.shared.connections.forget(node);
        }
        Ok(())
    }

    /// Replaces what is known about the fast lane of `node`; nowhere if it has none any more. An unspecified address is
    /// left out: dialled, it would lead to this machine.
    pub fn add_lane_addrs(&self, node: NodeId, addrs: &[SocketAddr]) {
        self.remember(node);
        let usable = addrs.iter().filter(|addr| !addr.ip().is_unspecified());
        let usable: Vec<_> = usable.copied().take(LANE_ADDRESSES).collect();
        let mut book = self.book();
        if usable.is_empty() {
            book.lanes.remove(&node)
        } else {
            book.lanes.insert(node, usable)
        };
    }

    /// Opens a stream for a request and its answer. Returns once the other side has greeted, so a stale connection is
    /// noticed here.
    ///
    /// # Errors
    /// [`NetError::Unreachable`], or [`NetError::Busy`] when the other side's queue is full.
    pub async fn open_answer(&self, node: NodeId) -> Result<AnswerStream, NetError> {
        answer::open(&self.shared.connections, node).await
    }

    /// Serves `node` no more, and closes its connections.
    pub fn ban(&self, node: NodeId) {
        self.shared.bans.send_modify(|bans| {
            bans.insert(node);
        });
        self.shared.connections.forget(node);
    }

    /// Serves `node` again.
    pub fn unban(&self, node: NodeId) {
        self.shared.bans.send_modify(|bans| {
            bans.remove(&node);
        });
    }

    /// Closes all connections and frees the ports. The store stays open.
    pub async fn shutdown(&self) {
        if let Some(lane) = &self.shared.lane {
            lane.shutdown().await;
        }
        if let Err(error) = self.shared.router.shutdown().await {
            tracing::warn!(%error, "the data plane did not stop cleanly");
        }
    }

    /// Notes that `node` is in the book, and strikes out the oldest when it is full.
    fn remember(&self, node: NodeId) {
        let mut book = self.book();
        if book.known.contains(&node) {
            return;
        }
        book.known.push_back(node);
        if book.known.len() <= DATA_PEERS {
            return;
        }
        let Some(oldest) = book.known.pop_front() else { return };
        book.lanes.remove(&oldest);
        if let Ok(id) = identity::endpoint_id(oldest) {
            self.shared.lookup.remove_endpoint_info(id);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bind(config: &DataConfig, lookup: MemoryLookup) -> Result<Endpoint, NetError> {
    let addr = config.bind;
    probe_udp(addr)?;
    let failed = |error: &dyn fmt::Display| NetError::Listen { addr, reason: error.to_string() };
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&config.node_seed))
        .relay_mode(RelayMode::Disabled)
        .transport_config(transport()?)
        .clear_ip_transports()
        .bind_addr(addr)
        .map_err(|error| failed(&error))?
        .address_lookup(lookup)
        .bind()
        .await
        .map_err(|error| failed(&error))
}

fn transport() -> Result<QuicTransportConfig, NetError> {
    let idle = IdleTimeout::try_from(QUIC_IDLE).map_err(NetError::setup)?;
    Ok(QuicTransportConfig::builder()
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(QUIC_KEEP_ALIVE)
        .stream_receive_window(VarInt::from_u32(DATA_STREAM_WINDOW_BYTES))
        .max_concurrent_bidi_streams(VarInt::from_u32(DATA_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .build())
}
