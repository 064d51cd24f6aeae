//! The swarm: which libp2p protocols run, and with which settings.
//!
//! Invariant: every protocol name contains the network's name, and everything that keeps state per peer has a bound.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p::gossipsub::{self, AllowAllSubscriptionFilter, IdentityTransform, MaxCountSubscriptionFilter, MessageId};
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, allow_block_list, autonat, connection_limits, identify, identity, kad, mdns,
    memory_connection_limits, noise, ping, quic, request_response, tcp, yamux,
};

use super::ControlConfig;
use super::codec::DirectCodec;
use crate::net::NetError;
use crate::net::limits::{
    CONNECTIONS_IN, CONNECTIONS_OUT, CONNECTIONS_PENDING, CONNECTIONS_PER_PEER, DIRECT_IN_FLIGHT, DIRECT_TIMEOUT,
    GOSSIP_MAX_BYTES, GOSSIP_OVERHEAD_BYTES, GOSSIP_SEEN_TIME, GOSSIP_TOPICS, IDLE_TIMEOUT, MEMORY_SHARE, QUIC_IDLE,
    QUIC_KEEP_ALIVE,
};

/// Gossipsub with a cap on the topics a peer may claim.
pub(super) type Gossip =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<AllowAllSubscriptionFilter>>;

/// Messages that may wait towards one slow neighbour: 16 MiB of the largest.
const GOSSIP_QUEUE: usize = (16 << 20) / GOSSIP_MAX_BYTES;
/// Longest network name: it is part of every protocol name, which libp2p caps at 140 bytes.
const NETWORK_NAME_BYTES: usize = 64;

/// All protocols of the control plane. The first three only refuse connections.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) banned: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(super) gossip: Gossip,
    pub(super) direct: request_response::Behaviour<DirectCodec>,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) identify: identify::Behaviour,
    ping: ping::Behaviour,
    autonat_client: autonat::v2::client::Behaviour,
    autonat_server: autonat::v2::server::Behaviour,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The version that identify tells: peers with another one are of another network.
pub(super) fn protocol_version(network: &str) -> String {
    format!("/tributary/{network}/1")
}

/// The id of a gossip message: its content on its topic, so that the same bytes travel once whoever sends them.
pub(super) fn message_id(topic: &str, data: &[u8]) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(topic.len() as u64).to_le_bytes());
    hasher.update(topic.as_bytes());
    hasher.update(data);
    MessageId::new(hasher.finalize().as_bytes())
}

/// Whether a network may have this name: 1 to 64 of `a-z 0-9 -`.
#[must_use]
pub fn is_network_name(name: &str) -> bool {
    let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !name.is_empty() && name.len() <= NETWORK_NAME_BYTES && name.bytes().all(valid)
}

/// A swarm with QUIC and TCP transports that doesn't listen yet.
pub(super) fn swarm(config: &ControlConfig, keypair: identity::Keypair) -> Result<Swarm<Behaviour>, NetError> {
    let network = config.network.as_str();
    if !is_network_name(network) {
        return Err(NetError::Setup { reason: format!("network name {network:?} is not 1 to 64 of a-z 0-9 -") });
    }
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(NetError::setup)?
        .with_quic_config(quic_config);
    let swarm = builder
        .with_behaviour(|key| behaviour(network, config.mdns, key).map_err(Box::from))
        .map_err(NetError::setup)?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE_TIMEOUT).with_smart_dial())
        .build();
    Ok(swarm)
}

fn quic_config(mut config: quic::Config) -> quic::Config {
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config.max_idle_timeout = u32::try_from(QUIC_IDLE.as_millis()).unwrap_or(u32::MAX);
    config
}

fn behaviour(network: &str, with_mdns: bool, key: &identity::Keypair) -> Result<Behaviour, NetError> {
    let peer = key.public().to_peer_id();
    let mdns = match with_mdns {
        true => Some(mdns::tokio::Behaviour::new(mdns::Config::default(), peer).map_err(NetError::setup)?),
        false => None,
    };
    Ok(Behaviour {
        banned: allow_block_list::Behaviour::default(),
        limits: connection_limits::Behaviour::new(connection_limits()),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE),
        gossip: gossip(network)?,
        direct: direct(network)?,
        kad: kademlia(network, peer)?,
        identify: identify::Behaviour::new(identify_config(network, key)?),
        ping: ping::Behaviour::default(),
        autonat_client: autonat::v2::client::Behaviour::default(),
        autonat_server: autonat::v2::server::Behaviour::default(),
        mdns: mdns.into(),
    })
}

fn connection_limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(CONNECTIONS_PENDING))
        .with_max_pending_outgoing(Some(CONNECTIONS_PENDING))
        .with_max_established_incoming(Some(CONNECTIONS_IN))
        .with_max_established_outgoing(Some(CONNECTIONS_OUT))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
}

fn identify_config(network: &str, key: &identity::Keypair) -> Result<identify::Config, NetError> {
    Ok(identify::Config::new(protocol_version(network), key.public())
        .with_agent_version(agent_version()?)
        .with_push_listen_addr_updates(true))
}

/// Program, version and a random number of this run: from it others see that a peer has been restarted while
/// connections to its former life still look alive.
fn agent_version() -> Result<String, NetError> {
    let run = getrandom::u64().map_err(NetError::setup)?;
    Ok(format!(concat!("tributary/", env!("CARGO_PKG_VERSION"), "/{:016x}"), run))
}

fn protocol(name: String) -> Result<StreamProtocol, NetError> {
    StreamProtocol::try_from_owned(name).map_err(NetError::setup)
}

fn direct(network: &str) -> Result<request_response::Behaviour<DirectCodec>, NetError> {
    let name = protocol(format!("/tributary/{network}/direct/1"))?;
    // The limit counts both directions of one connection.
    let config = request_response::Config::default()
        .with_request_timeout(DIRECT_TIMEOUT)
        .with_max_concurrent_streams(2 * DIRECT_IN_FLIGHT);
    Ok(request_response::Behaviour::with_codec(DirectCodec, [(name, request_response::ProtocolSupport::Full)], config))
}

fn kademlia(network: &str, peer: libp2p::PeerId) -> Result<kad::Behaviour<MemoryStore>, NetError> {
    let mut config = kad::Config::new(protocol(format!("/tributary/{network}/kad/1"))?);
    // Nothing that others offer is stored unseen.
    config.set_record_filtering(kad::StoreInserts::FilterBoth);
    Ok(kad::Behaviour::with_config(peer, MemoryStore::new(peer), config))
}

fn gossip(network: &str) -> Result<Gossip, NetError> {
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(format!("/tributary/{network}/gossip"))
        .heartbeat_initial_delay(Duration::from_millis(500))
        .heartbeat_interval(Duration::from_millis(700))
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| message_id(message.topic.as_str(), &message.data))
        .flood_publish(false)
        .max_transmit_size(GOSSIP_MAX_BYTES + GOSSIP_OVERHEAD_BYTES)
        .duplicate_cache_time(GOSSIP_SEEN_TIME)
        .connection_handler_queue_len(GOSSIP_QUEUE)
        .build()
        .map_err(NetError::setup)?;
    let filter = MaxCountSubscriptionFilter {
        filter: AllowAllSubscriptionFilter {},
        max_subscribed_topics: GOSSIP_TOPICS,
        max_subscriptions_per_request: GOSSIP_TOPICS,
    };
    let mut gossip = Gossip::new_with_subscription_filter(gossipsub::MessageAuthenticity::Anonymous, config, filter)
        .map_err(NetError::setup)?;
    gossip.with_peer_score(score(), thresholds()).map_err(NetError::setup)?;
    Ok(gossip)
}

/// Reputation of neighbours. Loopback is exempt from the many-peers-on-one-address penalty, since a whole
/// network may run on one machine. A starved machine misses a few follow-ups; only a habit costs reputation.
fn score() -> gossipsub::PeerScoreParams {
    gossipsub::PeerScoreParams {
        topic_score_cap: 100.0,
        ip_colocation_factor_whitelist: HashSet::from([
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]),
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: 0.9,
        retain_score: Duration::from_secs(600),
        ..Default::default()
    }
}

fn thresholds() -> gossipsub::PeerScoreThresholds {
    gossipsub::PeerScoreThresholds::default()
}

/// Reputation within a topic. Delivery quotas are off: topics here are silent for minutes, and then the quota
/// would cost honest neighbours their place. The third invalid message in a minute takes a neighbour below the
/// graylist threshold of −80 (the penalty is the squared number), where nothing it sends is read.
pub(super) fn topic_score() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.5,
        first_message_deliveries_decay: 0.99,
        first_message_deliveries_cap: 40.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -15.0,
        invalid_message_deliveries_decay: 0.99,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{message_id, score, thresholds, topic_score};

    #[test]
    fn the_scoring_parameters_are_consistent() {
        score().validate().unwrap();
        thresholds().validate().unwrap();
        topic_score().validate().unwrap();
    }

    #[test]
    fn a_message_id_binds_topic_and_content() {
        assert_eq!(message_id("a", b"x"), message_id("a", b"x"));
        assert_ne!(message_id("a", b"x"), message_id("b", b"x"));
        assert_ne!(message_id("a", b"bx"), message_id("ab", b"x"));
    }
}
