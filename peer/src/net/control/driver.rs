//! The task that owns the swarm: it selects between commands, network events and time, and performs what they ask.
//!
//! Invariant: no step of the loop waits for anything but the loop's own select, so a slow node, a slow peer or a full
//! queue never stops it.

mod commands;
mod discovery;
mod events;

pub(super) use self::events::ip_of;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, kad};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tributary_protocol::id::NodeId;

use super::behaviour::{self, Behaviour};
use super::bucket::Bucket;
use super::direct::Direct;
use super::known::{Known, KnownPeer};
use super::outbox::Outbox;
use super::redial::Redial;
use super::waiting::WaitingGossip;
use super::{Command, ControlConfig, ControlEvent};
use crate::net::limits::{EVENT_QUEUE, LISTEN_TIMEOUT, SHUTDOWN_TIMEOUT, UPKEEP_INTERVAL};
use crate::net::{NetError, identity, probe_tcp, probe_udp};

/// A peer with at least one connection.
struct Connected {
    node: NodeId,
    /// The address its first connection comes from or goes to.
    ip: Option<IpAddr>,
    /// That address, if we dialled it: it leads there for certain.
    dialled: Option<Multiaddr>,
    /// What identify told first: program, version and number of its run.
    agent: Option<String>,
}

/// What a running DHT query is for.
enum Query {
    /// Addresses of a peer that has messages waiting.
    Locate(PeerId),
    /// Who provides a key.
    Providers { found: BTreeSet<NodeId>, reply: oneshot::Sender<Vec<NodeId>> },
}

/// The state beside the swarm.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    outbox: Outbox,
    direct: Direct,
    waiting: WaitingGossip,
    redial: Redial,
    known: Known,
    known_changed: watch::Sender<Vec<KnownPeer>>,
    known_refreshed: Instant,
    network: String,
    /// The addresses that the user named to listen on.
    named: BTreeSet<IpAddr>,
    /// Connections being made that somebody waits for.
    meeting: BTreeMap<ConnectionId, oneshot::Sender<Result<(), String>>>,
    connected: BTreeMap<PeerId, Connected>,
    /// Kept across reconnects, or reconnecting would refill them.
    buckets: BTreeMap<PeerId, Bucket>,
    /// Peers of the DHT not to be dialled again before a time.
    resting: BTreeMap<PeerId, Instant>,
    /// Oldest first.
    banned: VecDeque<PeerId>,
    queries: HashMap<kad::QueryId, Query>,
    listening: BTreeSet<Multiaddr>,
}

/// Binds all listeners, waits for their addresses and spawns the loop.
pub(super) async fn start(
    config: ControlConfig,
    commands: mpsc::Receiver<Command>,
) -> Result<(mpsc::Receiver<ControlEvent>, watch::Receiver<Vec<KnownPeer>>), NetError> {
    let keypair = identity::keypair(&config.node_seed)?;
    let own = keypair.public().to_peer_id();
    let now = Instant::now();
    let mut redial = Redial::new(&config.bootstrap, own, now)?;
    let swarm = behaviour::swarm(&config, keypair)?;
    let known = Known::new(config.known, identity::node_id(&config.node_seed));
    for (peer, addresses) in known.dialable() {
        redial.remember(peer, addresses, now);
    }
    let (known_changed, watching) = watch::channel(known.list());
    let (sender, events) = mpsc::channel(EVENT_QUEUE);
    let mut driver = Driver {
        swarm,
        outbox: Outbox::new(sender),
        direct: Direct::default(),
        waiting: WaitingGossip::default(),
        redial,
        known,
        known_changed,
        known_refreshed: now,
        network: config.network,
        named: config.listen.iter().map(SocketAddr::ip).collect(),
        meeting: BTreeMap::new(),
        connected: BTreeMap::new(),
        buckets: BTreeMap::new(),
        resting: BTreeMap::new(),
        banned: VecDeque::new(),
        queries: HashMap::new(),
        listening: BTreeSet::new(),
    };
    driver.listen(&config.listen).await?;
    tokio::spawn(driver.run(commands));
    Ok((events, watching))
}

impl Driver {
    /// Listens everywhere and returns when every listener has reported an address.
    async fn listen(&mut self, addresses: &[SocketAddr]) -> Result<(), NetError> {
        let mut open = HashMap::new();
        for &addr in addresses {
            probe_udp(addr)?;
            probe_tcp(addr)?;
            let udp = Multiaddr::from(addr.ip()).with(Protocol::Udp(addr.port())).with(Protocol::QuicV1);
            let tcp = Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()));
            for address in [udp, tcp] {
                let failed = |error: &dyn std::fmt::Display| NetError::Listen { addr, reason: error.to_string() };
                let id = self.swarm.listen_on(address).map_err(|error| failed(&error))?;
                open.insert(id, addr);
            }
        }
        let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
        while let Some(&addr) = open.values().next() {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some())
                .await
                .map_err(|_| NetError::Listen { addr, reason: "no address in time".to_owned() })?;
            settle(&event, &mut open)?;
            self.on_swarm(event);
        }
        Ok(())
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stopped = loop {
            self.outbox.flush();
            let events = self.outbox.channel();
            tokio::select! {
                command = commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                },
                // The permit is dropped: the next flush takes the room that it found.
                _ = events.reserve(), if !self.outbox.is_empty() => {}
                event = self.swarm.select_next_some(), if self.outbox.takes_anything() => self.on_swarm(event),
                _ = upkeep.tick() => self.on_upkeep(Instant::now()),
            }
        };
        self.close().await;
        if let Some(reply) = stopped {
            // Whoever asked may have gone away meanwhile.
            let _ = reply.send(());
        }
    }

    /// Says goodbye on all connections, so that the others need no timeout to notice.
    async fn close(mut self) {
        self.refresh_known();
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error means that it is disconnected already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let goodbye = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, goodbye).await.is_err() {
            tracing::debug!("connections still open at shutdown");
        }
    }

    /// Sends what is ready for `peer`.
    fn pump(&mut self, peer: PeerId, now: Instant) {
        while let Some(parcel) = self.direct.next(&peer, now) {
            let request = self.swarm.behaviour_mut().direct.send_request(&peer, parcel.bytes.clone());
            self.direct.sent(request, peer, parcel);
        }
    }

    /// Dials a peer at `addresses` and at all others that the protocols know, unless it is connected.
    fn dial_peer(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::trace!(%peer, %error, "not dialled");
        }
    }

    fn node_of(&self, peer: &PeerId) -> Option<NodeId> {
        self.connected.get(peer).map(|connected| connected.node)
    }
}

/// Strikes a listener off the list of those to wait for, or says why it will never report.
fn settle<E>(event: &SwarmEvent<E>, open: &mut HashMap<ListenerId, SocketAddr>) -> Result<(), NetError> {
    match event {
        SwarmEvent::NewListenAddr { listener_id, .. } => {
            open.remove(listener_id);
        }
        SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
            if let Some(&addr) = open.get(listener_id) {
                return Err(NetError::bind(addr, error));
            }
        }
        _ => {}
    }
    Ok(())
}
