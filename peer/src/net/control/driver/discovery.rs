//! Who else is there: identify, the DHT, mDNS, and the regular look around.
//!
//! Invariant: an address that a peer tells about itself is kept only if it can be meant for us (no loopback or private
//! address from afar), at most sixteen of them; nothing that others want stored in the DHT is stored unless it is the
//! sender's own announcement.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::kad::store::RecordStore;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, identify, kad, mdns};
use tributary_protocol::id::NodeId;

use super::super::behaviour::protocol_version;
use super::commands::answer;
use super::events::ip_of;
use super::{Driver, Query};
use crate::net::identity;
use crate::net::limits::{KNOWN_REFRESH, PEER_ADDRESSES, PEERS_WANTED, PROVIDERS_MAX, QUERIES_MAX};
use crate::runtime::now_ms;

/// A peer of the DHT that could not be reached is left alone this long.
const REST: Duration = Duration::from_secs(10);

impl Driver {
    /// What is done by the clock.
    pub(super) fn on_upkeep(&mut self, now: Instant) {
        for (peer, address) in self.redial.due(now) {
            self.dial_peer(peer, vec![address]);
        }
        if now.saturating_duration_since(self.known_refreshed) >= KNOWN_REFRESH {
            self.known_refreshed = now;
            self.refresh_known();
        }
        for peer in self.direct.ready(now) {
            self.pump(peer, now);
        }
        if self.connected.len() < PEERS_WANTED {
            self.dial_strangers(now);
        }
        let connected = &self.connected;
        self.buckets.retain(|peer, bucket| connected.contains_key(peer) || !bucket.is_full(now));
        self.resting.retain(|_, until| *until > now);
    }

    /// Dials peers of the routing table that are neither connected nor resting, as many as are wanted.
    fn dial_strangers(&mut self, now: Instant) {
        let own = *self.swarm.local_peer_id();
        let known: Vec<PeerId> = self
            .swarm
            .behaviour_mut()
            .kad
            .kbuckets()
            .flat_map(|bucket| bucket.iter().map(|entry| *entry.node.key.preimage()).collect::<Vec<_>>())
            .collect();
        let free = |peer: &&PeerId| {
            **peer != own
                && !self.connected.contains_key(peer)
                && !self.resting.contains_key(peer)
                && !self.banned.contains(peer)
        };
        let missing = PEERS_WANTED.saturating_sub(self.connected.len());
        let strangers: Vec<PeerId> = known.iter().filter(free).copied().take(missing).collect();
        for peer in strangers {
            self.resting.insert(peer, now + REST);
            self.dial_peer(peer, Vec::new());
        }
    }

    /// Asks the DHT where `peer` is, so that the next attempt to send has fresh addresses.
    pub(super) fn locate(&mut self, peer: PeerId) {
        let running = self.queries.values().any(|query| matches!(query, Query::Locate(other) if *other == peer));
        if running || self.queries.len() >= QUERIES_MAX {
            return;
        }
        let id = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
        self.queries.insert(id, Query::Locate(peer));
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => self.on_query(id, result, step.last),
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                self.on_provider(record);
            }
            kad::Event::InboundRequest { .. } => {}
            event => tracing::trace!(?event, "dht"),
        }
    }

    /// libp2p-kad has checked that the sender names itself as the provider.
    fn on_provider(&mut self, mut record: kad::ProviderRecord) {
        record.addresses.truncate(PEER_ADDRESSES);
        let store = self.swarm.behaviour_mut().kad.store_mut();
        if store.providers(&record.key).len() >= PROVIDERS_MAX {
            return;
        }
        if let Err(error) = store.add_provider(record) {
            tracing::debug!(%error, "provider record not kept");
        }
    }

    fn on_query(&mut self, id: kad::QueryId, result: kad::QueryResult, last: bool) {
        match (self.queries.get_mut(&id), result) {
            (Some(Query::Locate(peer)), kad::QueryResult::GetClosestPeers(result)) => {
                let peer = *peer;
                let found = match result {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let addresses = found.into_iter().filter(|info| info.peer_id == peer).flat_map(|info| info.addrs);
                for address in addresses.take(PEER_ADDRESSES) {
                    self.swarm.add_peer_address(peer, address);
                }
            }
            (
                Some(Query::Providers { found, .. }),
                kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
            ) => {
                let room = PROVIDERS_MAX.saturating_sub(found.len());
                found.extend(providers.iter().filter_map(identity::node_of).take(room));
            }
            _ => {}
        }
        if last && let Some(Query::Providers { found, reply }) = self.queries.remove(&id) {
            answer(reply, found.into_iter().collect());
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        if info.protocol_version != protocol_version(&self.network) {
            tracing::debug!(%peer_id, version = info.protocol_version, "a node of another network");
            // An error means that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer_id);
            return;
        }
        let Some(connected) = self.connected.get_mut(&peer_id) else { return };
        if *connected.agent.get_or_insert_with(|| info.agent_version.clone()) != info.agent_version {
            // It was restarted, and some connections lead to its former life. Gossipsub greets a peer on its first
            // connection only and shares one queue among all, so everything is closed for a fresh start.
            tracing::debug!(%peer_id, "restarted");
            // An error means that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer_id);
            return;
        }
        let Some(seen) = connected.ip else { return };
        let (node, dialled) = (connected.node, connected.dialled.clone());
        let usable = info.listen_addrs.into_iter().filter(|address| meant_for_us(address, seen));
        let usable: Vec<Multiaddr> = usable.take(PEER_ADDRESSES).collect();
        for address in &usable {
            self.swarm.behaviour_mut().kad.add_address(&peer_id, address.clone());
            self.swarm.add_peer_address(peer_id, address.clone());
        }
        self.get_to_know(node, dialled.into_iter().chain(usable).collect());
    }

    /// Remembers a peer of this network for the next start.
    fn get_to_know(&mut self, node: NodeId, addresses: Vec<Multiaddr>) {
        let connected: BTreeSet<NodeId> = self.connected.values().map(|connected| connected.node).collect();
        if self.known.note(node, &addresses, |node| connected.contains(&node), now_ms()) {
            self.publish_known();
        }
    }

    /// Notes the connected peers as seen now.
    pub(super) fn refresh_known(&mut self) {
        let now = now_ms();
        for connected in self.connected.values() {
            self.known.seen(connected.node, now);
        }
        self.publish_known();
    }

    /// Shows the list to whoever keeps it, if it differs from what was shown.
    pub(super) fn publish_known(&mut self) {
        let list = self.known.list();
        self.known_changed.send_if_modified(|shown| {
            let differs = *shown != list;
            *shown = list;
            differs
        });
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        for (peer, address) in found {
            self.swarm.add_peer_address(peer, address.clone());
            if self.connected.len() < PEERS_WANTED {
                self.dial_peer(peer, vec![address]);
            }
        }
    }
}

/// Whether an address that a peer seen at `seen` lists can lead to it from here.
fn meant_for_us(address: &Multiaddr, seen: IpAddr) -> bool {
    let transport = address.iter().any(|part| matches!(part, Protocol::QuicV1 | Protocol::Tcp(_)));
    let near = seen.is_loopback() || is_private(seen);
    transport
        && ip_of(address).is_some_and(|ip| match ip {
            ip if ip.is_unspecified() || ip.is_multicast() => false,
            ip if ip.is_loopback() => seen.is_loopback(),
            ip => near || !is_private(ip),
        })
}

/// Addresses of local networks: RFC 1918, RFC 4193, and link-local ones.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::meant_for_us;

    #[test]
    fn only_addresses_that_can_lead_back_are_kept() {
        let keeps = |address: &str, seen: &str| meant_for_us(&address.parse().unwrap(), seen.parse().unwrap());
        assert!(keeps("/ip4/127.0.0.1/udp/4/quic-v1", "127.0.0.1"));
        assert!(!keeps("/ip4/127.0.0.1/udp/4/quic-v1", "192.168.1.2"));
        assert!(keeps("/ip4/192.168.1.7/tcp/4", "192.168.1.2"));
        assert!(!keeps("/ip4/192.168.1.7/tcp/4", "203.0.113.9"));
        assert!(keeps("/ip4/203.0.113.9/tcp/4", "203.0.113.9"));
        assert!(!keeps("/ip4/0.0.0.0/tcp/4", "127.0.0.1"));
        assert!(!keeps("/ip4/203.0.113.9/udp/4", "203.0.113.9"));
        assert!(!keeps("/dns4/example.invalid/tcp/4", "203.0.113.9"));
    }
}
