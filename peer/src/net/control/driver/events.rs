//! What the swarm reports about connections, gossip and direct messages.
//!
//! Invariant: a message is paid for from its sender's bucket before it is queued for the node; one that is not paid
//! for or does not fit the queue is neither acknowledged nor forwarded.

use std::net::IpAddr;
use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, OutboundFailure, OutboundRequestId};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId};

use super::super::behaviour::BehaviourEvent;
use super::super::bucket::Bucket;
use super::super::codec::Acknowledged;
use super::super::direct::Outcome;
use super::super::{ControlEvent, GossipId, SendFailure};
use super::commands::answer;
use super::{Connected, Driver};
use crate::net::identity;
use crate::net::limits::GOSSIP_MAX_BYTES;
use crate::runtime::now_ms;

type DirectEvent = request_response::Event<bytes::Bytes, Acknowledged>;

impl Driver {
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.met(connection_id, Ok(()));
                self.on_connected(peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => self.on_disconnected(&peer_id),
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(address),
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.remove(&address);
                self.swarm.remove_external_address(&address);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                tracing::debug!(?peer_id, %error, "dial failed");
                self.met(connection_id, Err(reason_of(&error)));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listener"),
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::warn!(?addresses, %error, "listener closed");
            }
            _ => {}
        }
    }

    /// Tells whoever waits for this connection how it ended.
    fn met(&mut self, connection: ConnectionId, outcome: Result<(), String>) {
        if let Some(reply) = self.meeting.remove(&connection) {
            answer(reply, outcome);
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Direct(event) => self.on_direct(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Ping(_) | BehaviourEvent::AutonatClient(_) | BehaviourEvent::AutonatServer(_) => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        let Some(node) = identity::node_of(&peer) else {
            // Its key is not ed25519: no node of ours. An error means that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        let now = Instant::now();
        if self.connected.contains_key(&peer) {
            return;
        }
        let ip = ip_of(endpoint.get_remote_address());
        let dialled = match endpoint {
            ConnectedPoint::Dialer { address, .. } => Some(without_name(address)),
            ConnectedPoint::Listener { .. } => None,
        };
        self.connected.insert(peer, Connected { node, ip, dialled, agent: None });
        self.buckets.entry(peer).or_insert_with(|| Bucket::new(now));
        self.redial.connected(&peer);
        self.resting.remove(&peer);
        self.outbox.push(ControlEvent::PeerConnected(node));
        self.direct.release(&peer);
        self.pump(peer, now);
    }

    fn on_disconnected(&mut self, peer: &PeerId) {
        self.redial.disconnected(peer, Instant::now());
        if let Some(connected) = self.connected.remove(peer) {
            self.known.seen(connected.node, now_ms());
            self.publish_known();
            self.outbox.push(ControlEvent::PeerDisconnected(connected.node));
        }
    }

    /// On loopback there is nobody to tell whether an address is reachable: it is, for all who share the machine. An
    /// address that the user named is meant to be reached; for those of an unspecified one, others are asked.
    fn on_listening(&mut self, address: Multiaddr) {
        if ip_of(&address).is_some_and(|ip| ip.is_loopback() || self.named.contains(&ip)) {
            self.swarm.add_external_address(address.clone());
        }
        let named = address.clone().with(Protocol::P2p(*self.swarm.local_peer_id()));
        self.listening.insert(address);
        self.outbox.push(ControlEvent::Listening(named.to_string()));
    }

    fn pays(&mut self, peer: PeerId, size: usize) -> bool {
        let now = Instant::now();
        self.buckets.entry(peer).or_insert_with(|| Bucket::new(now)).take(now, size)
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.on_gossip_message(propagation_source, message_id, message);
            }
            gossipsub::Event::Subscribed { topic, .. } => {
                let now = Instant::now();
                for bytes in self.waiting.take(topic.as_str(), now) {
                    if let Err(error) = self.publish(topic.as_str(), bytes, now) {
                        tracing::warn!(%error, "late publication");
                    }
                }
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => tracing::debug!(%peer_id, "slow gossip neighbour"),
            _ => {}
        }
    }

    fn on_gossip_message(&mut self, neighbour: PeerId, message: MessageId, content: gossipsub::Message) {
        let verdict = match self.node_of(&neighbour) {
            _ if content.data.len() > GOSSIP_MAX_BYTES => MessageAcceptance::Reject,
            Some(from) if self.outbox.takes_messages() && self.pays(neighbour, content.data.len()) => {
                let gossip = GossipId { message, neighbour, topic: content.topic.into_string() };
                let bytes = content.data.into();
                self.outbox.push(ControlEvent::Message { from, bytes, gossip: Some(gossip) });
                return;
            }
            _ => MessageAcceptance::Ignore,
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        // False means that the message has left the cache, and nothing is to be done about it.
        let _ = gossip.report_message_validation_result(&message, &neighbour, verdict);
    }

    fn on_direct(&mut self, event: DirectEvent) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    self.on_request(peer, request, channel);
                }
                request_response::Message::Response { request_id, .. } => {
                    self.direct.acknowledged(request_id);
                    self.pump(peer, Instant::now());
                }
            },
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                self.on_send_failure(peer, request_id, &error);
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "direct message not taken");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    /// Dropping the channel closes the stream without an answer: the sender learns that it was refused.
    fn on_request(
        &mut self,
        peer: PeerId,
        bytes: bytes::Bytes,
        channel: request_response::ResponseChannel<Acknowledged>,
    ) {
        let Some(from) = self.node_of(&peer) else { return };
        if !self.outbox.takes_messages() || !self.pays(peer, bytes.len()) {
            return;
        }
        self.outbox.push(ControlEvent::Message { from, bytes, gossip: None });
        // An error means that the sender is gone; it will send again, and the node knows duplicates.
        let _ = self.swarm.behaviour_mut().direct.send_response(channel, Acknowledged);
    }

    fn on_send_failure(&mut self, peer: PeerId, request: OutboundRequestId, error: &OutboundFailure) {
        let now = Instant::now();
        let banned = self.banned.contains(&peer);
        let reason = match error {
            _ if banned => SendFailure::Banned,
            OutboundFailure::DialFailure => SendFailure::Unreachable,
            OutboundFailure::Timeout | OutboundFailure::ConnectionClosed => SendFailure::Unacknowledged,
            OutboundFailure::UnsupportedProtocols => SendFailure::Unsupported,
            OutboundFailure::Io(_) => SendFailure::Refused,
        };
        let again = !matches!(reason, SendFailure::Banned | SendFailure::Unsupported);
        match self.direct.failed(request, again, now) {
            Some(Outcome::Retry) if reason == SendFailure::Unreachable => self.locate(peer),
            Some(Outcome::GaveUp { node: to, id }) => {
                self.outbox.push(ControlEvent::SendFailed { to, id, reason });
                self.pump(peer, now);
            }
            Some(Outcome::Retry) | None => {}
        }
    }
}

/// What a failed dial means to a person.
fn reason_of(error: &DialError) -> String {
    match error {
        DialError::WrongPeerId { .. } => "another node answers there".to_owned(),
        DialError::Denied { .. } => "this node takes no more connections".to_owned(),
        DialError::Transport(_) => "nothing answers at its addresses".to_owned(),
        error => error.to_string(),
    }
}

/// A multiaddress without `/p2p/…`.
fn without_name(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// The address family and host of a multiaddress.
pub(in crate::net::control) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}
