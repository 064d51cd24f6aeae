//! What the handle asks for.
//!
//! Invariant: every command with a reply gets one, at once or, for DHT queries, when the query ends.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use libp2p::gossipsub::{IdentTopic, PublishError, TopicHash};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, kad};
use tokio::sync::oneshot;
use tributary_protocol::id::{Hash, NodeId};

use super::super::behaviour::{message_id, topic_score};
use super::super::{Command, ControlEvent, GossipId, SendFailure, SendId};
use super::events::ip_of;
use super::{Driver, Query};
use crate::net::limits::{BANNED_MAX, GOSSIP_TOPICS, PEER_ADDRESSES, QUERIES_MAX};
use crate::net::reach::is_outward;
use crate::net::{NetError, identity};

impl Driver {
    pub(super) fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Publish { topic, bytes, reply } => answer(reply, self.publish(&topic, bytes, now)),
            Command::Subscribe { topic, reply } => answer(reply, self.subscribe(&topic)),
            Command::Judge { gossip, acceptance } => {
                let GossipId { message, neighbour, .. } = gossip;
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                // False means that the message has left the cache: too late for a verdict.
                let _ = gossip.report_message_validation_result(&message, &neighbour, acceptance);
            }
            Command::Send { to, node, bytes, reply } => answer(reply, self.send(to, node, bytes, now)),
            Command::Dial { address, reply } => answer(reply, self.dial(address)),
            Command::Meet { peer, address, reply } => self.meet(peer, address, reply),
            Command::AddPeer { peer, addresses } => {
                for address in addresses.into_iter().take(PEER_ADDRESSES) {
                    self.swarm.add_peer_address(peer, address);
                }
            }
            Command::Peers { reply } => {
                let mut nodes: Vec<_> = self.connected.values().map(|connected| connected.node).collect();
                nodes.sort_unstable();
                answer(reply, nodes);
            }
            Command::ListenAddrs { reply } => answer(reply, self.listen_addrs()),
            Command::Ban { peer, banned: true } => self.ban(peer),
            Command::Ban { peer, banned: false } => self.unban(&peer),
            Command::Provide { key } => self.provide(key),
            Command::Providers { key, reply } => self.find_providers(key, reply),
            // The loop takes it before it comes here.
            Command::Shutdown { reply } => answer(reply, ()),
        }
    }

    /// Publishes, or keeps the message for the first subscriber.
    pub(super) fn publish(&mut self, topic: &str, bytes: Bytes, now: Instant) -> Result<GossipId, NetError> {
        let id = GossipId {
            message: message_id(topic, &bytes),
            neighbour: *self.swarm.local_peer_id(),
            topic: topic.to_owned(),
        };
        let refused = |reason: String| NetError::Topic { topic: topic.to_owned(), reason };
        match self.swarm.behaviour_mut().gossip.publish(TopicHash::from_raw(topic), bytes.to_vec()) {
            // A duplicate has gone out before: the wanted state.
            Ok(_) | Err(PublishError::Duplicate) => Ok(id),
            Err(PublishError::NoPeersSubscribedToTopic) => match self.waiting.keep(topic.to_owned(), bytes, now) {
                true => Ok(id),
                false => Err(refused("too many messages wait for a first subscriber".to_owned())),
            },
            Err(error) => Err(refused(error.to_string())),
        }
    }

    fn subscribe(&mut self, topic: &str) -> Result<(), NetError> {
        let refused = |reason: String| NetError::Topic { topic: topic.to_owned(), reason };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        let name = IdentTopic::new(topic);
        if gossip.topics().count() >= GOSSIP_TOPICS && !gossip.topics().any(|known| *known == name.hash()) {
            return Err(refused(format!("at most {GOSSIP_TOPICS} topics")));
        }
        gossip.set_topic_params(name.clone(), topic_score()).map_err(|reason| refused(reason.to_owned()))?;
        gossip.subscribe(&name).map_err(|error| refused(error.to_string()))?;
        Ok(())
    }

    fn send(&mut self, peer: PeerId, node: NodeId, bytes: Bytes, now: Instant) -> Result<SendId, NetError> {
        let id = self.direct.push(peer, node, bytes)?;
        if self.banned.contains(&peer) {
            self.give_up_all(&peer, SendFailure::Banned);
        } else {
            self.pump(peer, now);
        }
        Ok(id)
    }

    fn dial(&mut self, mut address: Multiaddr) -> Result<(), NetError> {
        let bad = NetError::BadAddress { address: address.to_string() };
        let options = match address.pop() {
            Some(Protocol::P2p(peer)) if !address.is_empty() => DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(vec![address])
                .build(),
            Some(last) => DialOpts::unknown_peer_id().address(address.with(last)).build(),
            None => return Err(bad),
        };
        match self.swarm.dial(options) {
            // Connected or on the way: the wanted state.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => Ok(()),
            Err(_) => Err(bad),
        }
    }

    /// Dials a peer for somebody who waits for the outcome.
    fn meet(&mut self, peer: PeerId, address: Multiaddr, reply: oneshot::Sender<Result<(), String>>) {
        if self.connected.contains_key(&peer) {
            return answer(reply, Ok(()));
        }
        if self.banned.contains(&peer) {
            return answer(reply, Err("it is banned here".to_owned()));
        }
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(vec![address]).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.meeting.insert(connection, reply);
            }
            Err(error) => answer(reply, Err(error.to_string())),
        }
    }

    /// QUIC addresses first: they are the better ones to hand out. What does not lead here from another machine is
    /// left out, unless nothing else is there.
    fn listen_addrs(&self) -> Vec<String> {
        let own = *self.swarm.local_peer_id();
        let leads_here = |address: &&Multiaddr| ip_of(address).is_some_and(is_outward);
        let is_open = self.listening.iter().any(|address| leads_here(&address));
        let shown = self.listening.iter().filter(|address| !is_open || leads_here(address));
        let (quic, other): (Vec<_>, Vec<_>) =
            shown.partition(|address| address.iter().any(|part| part == Protocol::QuicV1));
        let shown = quic.into_iter().chain(other).take(PEER_ADDRESSES);
        shown.map(|address| address.clone().with(Protocol::P2p(own)).to_string()).collect()
    }

    fn ban(&mut self, peer: PeerId) {
        if self.banned.contains(&peer) {
            return;
        }
        if self.banned.len() >= BANNED_MAX
            && let Some(oldest) = self.banned.pop_front()
        {
            self.unban(&oldest);
        }
        self.banned.push_back(peer);
        if let Some(node) = identity::node_of(&peer) {
            self.known.forget(node);
            self.publish_known();
        }
        self.give_up_all(&peer, SendFailure::Banned);
        let behaviour = self.swarm.behaviour_mut();
        behaviour.banned.block_peer(peer);
        behaviour.gossip.blacklist_peer(&peer);
        behaviour.kad.remove_peer(&peer);
        // An error means that it is not connected.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn unban(&mut self, peer: &PeerId) {
        self.banned.retain(|banned| banned != peer);
        let behaviour = self.swarm.behaviour_mut();
        behaviour.banned.unblock_peer(*peer);
        behaviour.gossip.remove_blacklisted_peer(peer);
    }

    fn give_up_all(&mut self, peer: &PeerId, reason: SendFailure) {
        for (to, id) in self.direct.drop_peer(peer) {
            self.outbox.push(ControlEvent::SendFailed { to, id, reason });
        }
    }

    fn provide(&mut self, key: Hash) {
        let key = kad::RecordKey::new(key.as_bytes());
        if let Err(error) = self.swarm.behaviour_mut().kad.start_providing(key) {
            tracing::warn!(%error, "not announced in the DHT");
        }
    }

    fn find_providers(&mut self, key: Hash, reply: oneshot::Sender<Vec<NodeId>>) {
        if self.queries.len() >= QUERIES_MAX {
            return answer(reply, Vec::new());
        }
        let key = kad::RecordKey::new(key.as_bytes());
        let id = self.swarm.behaviour_mut().kad.get_providers(key);
        self.queries.insert(id, Query::Providers { found: BTreeSet::new(), reply });
    }
}

/// Replies; whoever asked may have given up meanwhile, and then nobody misses the answer.
pub(super) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
