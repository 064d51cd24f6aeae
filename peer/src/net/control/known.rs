//! The peers this node has been connected to and where they listen, for its next start.
//!
//! Invariant: at most [`KNOWN_PEERS`] peers with at most [`KNOWN_ADDRESSES`] addresses each. A full list gives up the
//! peer that was seen the longest ago and is not connected; while all are connected, newcomers are not noted. So a
//! crowd of strangers cannot push out the peers that a node works with.

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use tributary_protocol::id::NodeId;

use crate::net::identity;
use crate::net::limits::{KNOWN_ADDRESSES, KNOWN_PEERS};

/// A peer that this node has been connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Its id.
    pub node: NodeId,
    /// Multiaddresses without `/p2p/…`.
    pub addresses: Vec<String>,
    /// When it was last connected, in milliseconds since 1970.
    pub seen_ms: u64,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Known {
    peers: BTreeMap<NodeId, KnownPeer>,
}

impl Known {
    /// What an earlier run noted; the most recently seen, when that is too much.
    pub(super) fn new(mut remembered: Vec<KnownPeer>, own: NodeId) -> Self {
        remembered.retain(|peer| peer.node != own);
        remembered.sort_by_key(|peer| std::cmp::Reverse(peer.seen_ms));
        remembered.truncate(KNOWN_PEERS);
        for peer in &mut remembered {
            peer.addresses.truncate(KNOWN_ADDRESSES);
        }
        Self { peers: remembered.into_iter().map(|peer| (peer.node, peer)).collect() }
    }

    /// Peers and usable addresses, for dialling.
    pub(super) fn dialable(&self) -> impl Iterator<Item = (PeerId, Vec<Multiaddr>)> {
        self.peers.values().filter_map(|peer| {
            let addresses: Vec<_> = peer.addresses.iter().filter_map(|text| text.parse().ok()).collect();
            let peer = identity::peer_id(peer.node).ok()?;
            (!addresses.is_empty()).then_some((peer, addresses))
        })
    }

    /// A connected peer listens at `addresses`, the best first. True when the list changed but for the time.
    pub(super) fn note(
        &mut self,
        node: NodeId,
        addresses: &[Multiaddr],
        is_connected: impl Fn(NodeId) -> bool,
        now_ms: u64,
    ) -> bool {
        let mut texts: Vec<String> = Vec::new();
        for text in addresses.iter().map(ToString::to_string) {
            if texts.len() < KNOWN_ADDRESSES && !texts.contains(&text) {
                texts.push(text);
            }
        }
        if texts.is_empty() || !self.has_room(node, is_connected) {
            return false;
        }
        let noted = KnownPeer { node, addresses: texts, seen_ms: now_ms };
        let before = self.peers.insert(node, noted.clone());
        before.is_none_or(|before| before.addresses != noted.addresses)
    }

    /// The peer is, or was until now, connected.
    pub(super) fn seen(&mut self, node: NodeId, now_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.seen_ms = now_ms;
        }
    }

    /// Strikes a peer off the list.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    /// The list in order of the ids.
    pub(super) fn list(&self) -> Vec<KnownPeer> {
        self.peers.values().cloned().collect()
    }

    fn has_room(&mut self, node: NodeId, is_connected: impl Fn(NodeId) -> bool) -> bool {
        if self.peers.contains_key(&node) || self.peers.len() < KNOWN_PEERS {
            return true;
        }
        let away = self.peers.values().filter(|peer| !is_connected(peer.node));
        let Some(oldest) = away.min_by_key(|peer| peer.seen_ms).map(|peer| peer.node) else { return false };
        self.peers.remove(&oldest);
        true
    }
}

#[cfg(test)]
mod tests {
    use libp2p::Multiaddr;
    use tributary_protocol::id::NodeId;

    use super::{Known, KnownPeer};
    use crate::net::identity::node_id;
    use crate::net::limits::{KNOWN_ADDRESSES, KNOWN_PEERS};

    const OWN: NodeId = NodeId([0; 32]);

    fn nth(number: usize) -> NodeId {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        node_id(&seed)
    }

    fn at(port: usize) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_change_of_addresses_is_one_and_a_change_of_time_is_none() {
        let mut known = Known::new(Vec::new(), OWN);
        assert!(known.note(nth(1), &[at(1), at(1), at(2)], |_| true, 5));
        assert!(!known.note(nth(1), &[at(1), at(2)], |_| true, 6));
        assert!(known.note(nth(1), &[at(3)], |_| true, 7));
        assert!(!known.note(nth(2), &[], |_| true, 8), "nowhere is no address");
        let list = known.list();
        assert_eq!(list, [KnownPeer { node: nth(1), addresses: vec![at(3).to_string()], seen_ms: 7 }]);
        assert_eq!(known.dialable().count(), 1);
        known.forget(nth(1));
        assert!(known.list().is_empty());
    }

    #[test]
    fn a_full_list_gives_up_the_longest_unseen_but_none_that_is_connected() {
        let mut known = Known::new(Vec::new(), OWN);
        for number in 0..KNOWN_PEERS {
            known.note(nth(number), &[at(1)], |_| true, number as u64);
        }
        let stranger = nth(KNOWN_PEERS);
        assert!(!known.note(stranger, &[at(1)], |_| true, 1000), "all are connected");
        known.seen(nth(0), 900);
        assert!(known.note(stranger, &[at(1)], |node| node == nth(1), 1000));
        let nodes: Vec<_> = known.list().iter().map(|peer| peer.node).collect();
        assert_eq!(nodes.len(), KNOWN_PEERS);
        assert!(nodes.contains(&stranger) && nodes.contains(&nth(0)) && nodes.contains(&nth(1)));
        assert!(!nodes.contains(&nth(2)), "the longest unseen of those away");
    }

    #[test]
    fn what_was_remembered_is_bounded_and_without_ourselves() {
        let peer = |number: usize| KnownPeer {
            node: nth(number),
            addresses: (0..20).map(|port| at(port).to_string()).collect(),
            seen_ms: number as u64,
        };
        let known = Known::new((0..200).map(peer).collect(), nth(199));
        let list = known.list();
        assert_eq!(list.len(), KNOWN_PEERS);
        assert!(list.iter().all(|peer| peer.seen_ms >= 199 - KNOWN_PEERS as u64 && peer.node != nth(199)));
        assert!(list.iter().all(|peer| peer.addresses.len() == KNOWN_ADDRESSES));
        let broken = KnownPeer { node: nth(1), addresses: vec!["nonsense".into()], seen_ms: 0 };
        assert_eq!(Known::new(vec![broken], OWN).dialable().count(), 0);
    }
}
