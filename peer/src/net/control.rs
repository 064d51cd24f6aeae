//! The control plane: one libp2p swarm behind a cloneable handle.
//!
//! Invariant: the handle talks to one driver task over one bounded channel, and the driver never waits for the
//! node: events that nobody reads are queued up to a limit, and further messages are refused towards their sender,
//! who hears of it. Nothing that arrives is interpreted here.
//!
//! Direct messages are delivered at least once and in no particular order: the acknowledgement can be lost, and
//! a few are on the wire at a time. Gossip is anonymous at this level (the envelope's signature names the author) and
//! is forwarded only after [`Control::accept`]. Several networks on one machine or one DHT don't mix: each has its
//! own protocol names.

mod behaviour;
mod bucket;
mod codec;
mod direct;
mod driver;
mod known;
mod meeting;
mod outbox;
mod redial;
mod waiting;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use libp2p::gossipsub::{MessageAcceptance, MessageId};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tributary_protocol::id::{Hash, NodeId};

pub use self::behaviour::is_network_name;
pub use self::known::KnownPeer;
pub use self::meeting::{check_bootstrap, ip_of_address};
use super::limits::{COMMAND_QUEUE, DIRECT_MAX_BYTES, GOSSIP_MAX_BYTES};
use super::{NetError, identity};

/// How a node takes part in the control plane.
#[derive(Clone)]
pub struct ControlConfig {
    /// The secret of the node's ed25519 key.
    pub node_seed: [u8; 32],
    /// Where to listen, each with QUIC (UDP) and TCP on the same port number; port 0 chooses free ones.
    pub listen: Vec<SocketAddr>,
    /// Multiaddresses with `/p2p/…` of peers to find the network by; they are dialled again whenever they drop.
    pub bootstrap: Vec<String>,
    /// Peers that an earlier run knew ([`Control::known`]); they are dialled as well, ever more rarely.
    pub known: Vec<KnownPeer>,
    /// The network's name, 1 to 64 of `a-z 0-9 -`: only nodes with the same name talk to each other.
    pub network: String,
    /// Whether to announce and find peers on the local network.
    pub mdns: bool,
}

impl ControlConfig {
    /// A node that only this machine reaches, on free ports, without bootstrap peers and without mDNS.
    #[must_use]
    pub fn loopback(node_seed: [u8; 32], network: &str) -> Self {
        Self {
            node_seed,
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            bootstrap: Vec::new(),
            known: Vec::new(),
            network: network.to_owned(),
            mdns: false,
        }
    }
}

impl fmt::Debug for ControlConfig {
    /// Without the seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConfig")
            .field("node", &identity::node_id(&self.node_seed))
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .field("known", &self.known.len())
            .field("network", &self.network)
            .field("mdns", &self.mdns)
            .finish()
    }
}

/// One gossip message as one neighbour forwarded it: what a verdict is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipId {
    message: MessageId,
    neighbour: PeerId,
    topic: String,
}

impl GossipId {
    /// The topic it was published on.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// Names one direct message of this node until it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(u64);

/// Why a direct message did not arrive, as far as this side can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// No known address answered, and the DHT knew no other.
    #[error("no known address answers")]
    Unreachable,
    /// The connection broke or no acknowledgement came in time; it may have arrived.
    #[error("no acknowledgement")]
    Unacknowledged,
    /// The other side refused it: it is busy, or we send too much.
    #[error("refused by the receiver")]
    Refused,
    /// The other side is no node of this network.
    #[error("the receiver speaks another protocol")]
    Unsupported,
    /// We banned the receiver.
    #[error("the receiver is banned")]
    Banned,
}

/// What the driver reports.
#[derive(Debug, Clone)]
pub enum ControlEvent {
    /// Bytes arrived.
    Message {
        /// The peer at the other end of the connection; for gossip the neighbour that forwarded it.
        from: NodeId,
        /// The message.
        bytes: Bytes,
        /// Present for gossip: give exactly one verdict for it.
        gossip: Option<GossipId>,
    },
    /// The first connection to this peer stands.
    PeerConnected(NodeId),
    /// The last connection to this peer is gone.
    PeerDisconnected(NodeId),
    /// A further address to be reached at, with `/p2p/…`.
    Listening(String),
    /// A direct message was given up.
    SendFailed {
        /// The receiver.
        to: NodeId,
        /// Which message.
        id: SendId,
        /// Why.
        reason: SendFailure,
    },
}

/// What the handle asks of the driver.
enum Command {
    Publish { topic: String, bytes: Bytes, reply: oneshot::Sender<Result<GossipId, NetError>> },
    Subscribe { topic: String, reply: oneshot::Sender<Result<(), NetError>> },
    Judge { gossip: GossipId, acceptance: MessageAcceptance },
    Send { to: PeerId, node: NodeId, bytes: Bytes, reply: oneshot::Sender<Result<SendId, NetError>> },
    Dial { address: Multiaddr, reply: oneshot::Sender<Result<(), NetError>> },
    Meet { peer: PeerId, address: Multiaddr, reply: oneshot::Sender<Result<(), String>> },
    AddPeer { peer: PeerId, addresses: Vec<Multiaddr> },
    Peers { reply: oneshot::Sender<Vec<NodeId>> },
    ListenAddrs { reply: oneshot::Sender<Vec<String>> },
    Ban { peer: PeerId, banned: bool },
    Provide { key: Hash },
    Providers { key: Hash, reply: oneshot::Sender<Vec<NodeId>> },
    Shutdown { reply: oneshot::Sender<()> },
}

/// The handle of a running control plane. The driver stops when it is told to, or when the last handle is gone.
#[derive(Clone)]
pub struct Control {
    node: NodeId,
    commands: mpsc::Sender<Command>,
    known: watch::Receiver<Vec<KnownPeer>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Control {
    /// Binds the sockets and starts the driver; returns once every listener knows its address.
    ///
    /// # Errors
    /// [`NetError::PortInUse`] and [`NetError::Listen`] for the sockets, [`NetError::BadAddress`] for a
    /// bootstrap address, [`NetError::Setup`] for an unusable network name.
    pub async fn start(config: ControlConfig) -> Result<(Self, mpsc::Receiver<ControlEvent>), NetError> {
        let node = identity::node_id(&config.node_seed);
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let (events, known) = driver::start(config, inbox).await?;
        Ok((Self { node, commands, known }, events))
    }

    /// This node.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.node
    }

    /// Gossips `bytes` on `topic`. With nobody subscribed yet they are kept for a minute and go out when somebody
    /// is. Publishing the same bytes again within five minutes changes nothing.
    ///
    /// # Errors
    /// [`NetError::TooLarge`] above 48 KiB; [`NetError::Topic`] when every neighbour's queue is full or too much
    /// already waits for a first subscriber.
    pub async fn publish(&self, topic: &str, bytes: impl Into<Bytes>) -> Result<GossipId, NetError> {
        let bytes = bytes.into();
        fits(&bytes, GOSSIP_MAX_BYTES)?;
        let topic = topic.to_owned();
        self.ask(|reply| Command::Publish { topic, bytes, reply }).await?
    }

    /// Takes part in `topic`.
    ///
    /// # Errors
    /// [`NetError::Topic`] beyond 100 topics.
    pub async fn subscribe(&self, topic: &str) -> Result<(), NetError> {
        let topic = topic.to_owned();
        self.ask(|reply| Command::Subscribe { topic, reply }).await?
    }

    /// The message is valid: it is forwarded.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn accept(&self, gossip: &GossipId) -> Result<(), NetError> {
        self.judge(gossip, MessageAcceptance::Accept).await
    }

    /// The message is invalid: it goes no further, and the neighbour that forwarded it loses reputation.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn reject(&self, gossip: &GossipId) -> Result<(), NetError> {
        self.judge(gossip, MessageAcceptance::Reject).await
    }

    /// The message is of no use, but nobody's fault: it goes no further.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn ignore(&self, gossip: &GossipId) -> Result<(), NetError> {
        self.judge(gossip, MessageAcceptance::Ignore).await
    }

    async fn judge(&self, gossip: &GossipId, acceptance: MessageAcceptance) -> Result<(), NetError> {
        self.tell(Command::Judge { gossip: gossip.clone(), acceptance }).await
    }

    /// Queues `bytes` for one peer, which is dialled if need be. A failure is reported later as
    /// [`ControlEvent::SendFailed`] with the returned id.
    ///
    /// # Errors
    /// [`NetError::TooLarge`] above 1 MiB, [`NetError::Busy`] when too much waits for this peer.
    pub async fn send(&self, to: NodeId, bytes: impl Into<Bytes>) -> Result<SendId, NetError> {
        let bytes = bytes.into();
        fits(&bytes, DIRECT_MAX_BYTES)?;
        let peer = identity::peer_id(to)?;
        self.ask(|reply| Command::Send { to: peer, node: to, bytes, reply }).await?
    }

    /// Starts connecting to a multiaddress, with or without `/p2p/…`.
    ///
    /// # Errors
    /// [`NetError::BadAddress`]; whether it succeeds shows in [`ControlEvent::PeerConnected`].
    pub async fn dial(&self, address: &str) -> Result<(), NetError> {
        let address = parse(address)?;
        self.ask(|reply| Command::Dial { address, reply }).await?
    }

    /// The peers this node has been connected to, as they change: to be kept for [`ControlConfig::known`] of the
    /// next start.
    #[must_use]
    pub fn known(&self) -> watch::Receiver<Vec<KnownPeer>> {
        self.known.clone()
    }

    /// Remembers where a peer listens, for later sends.
    ///
    /// # Errors
    /// [`NetError::BadAddress`] if any text is none; then nothing is remembered.
    pub async fn add_peer_addr(&self, node: NodeId, addresses: &[String]) -> Result<(), NetError> {
        let peer = identity::peer_id(node)?;
        let addresses = addresses.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
        self.tell(Command::AddPeer { peer, addresses }).await
    }

    /// The connected peers in order of their ids.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn peers(&self) -> Result<Vec<NodeId>, NetError> {
        self.ask(|reply| Command::Peers { reply }).await
    }

    /// Where others reach this node: multiaddresses with `/p2p/…`, QUIC first, usable as bootstrap addresses. Loopback
    /// is among them only when the node listens nowhere else.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn listen_addrs(&self) -> Result<Vec<String>, NetError> {
        self.ask(|reply| Command::ListenAddrs { reply }).await
    }

    /// Disconnects a peer and refuses it until [`Control::unban`] or a restart.
    ///
    /// # Errors
    /// [`NetError::Key`] if the id is no key.
    pub async fn ban(&self, node: NodeId) -> Result<(), NetError> {
        self.tell(Command::Ban { peer: identity::peer_id(node)?, banned: true }).await
    }

    /// Lets a banned peer in again.
    ///
    /// # Errors
    /// [`NetError::Key`] if the id is no key.
    pub async fn unban(&self, node: NodeId) -> Result<(), NetError> {
        self.tell(Command::Ban { peer: identity::peer_id(node)?, banned: false }).await
    }

    /// Announces in the DHT that this node provides `key`, a datanet's root; the announcement is renewed by itself.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn provide(&self, key: Hash) -> Result<(), NetError> {
        self.tell(Command::Provide { key }).await
    }

    /// Who announced `key` in the DHT, in order of their ids.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn providers(&self, key: Hash) -> Result<Vec<NodeId>, NetError> {
        self.ask(|reply| Command::Providers { key, reply }).await
    }

    /// Closes all connections and stops the driver. Stopping twice is harmless.
    pub async fn shutdown(&self) {
        // A closed channel means that the driver has stopped already: the wanted state.
        let _ = self.ask(|reply| Command::Shutdown { reply }).await;
    }

    async fn tell(&self, command: Command) -> Result<(), NetError> {
        self.commands.send(command).await.map_err(|_| NetError::Closed)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| NetError::Closed)
    }
}

fn fits(bytes: &Bytes, limit: usize) -> Result<(), NetError> {
    if bytes.len() > limit {
        return Err(NetError::TooLarge { size: bytes.len(), limit });
    }
    Ok(())
}

fn parse(address: &str) -> Result<Multiaddr, NetError> {
    address.parse().map_err(|_| NetError::BadAddress { address: address.to_owned() })
}
