//! One 32-byte seed, three libraries: the same ed25519 key is a libp2p key, an iroh key and our node id.
//!
//! Invariant: a node id and a libp2p peer id of an ed25519 key contain the same 32 bytes, so each can be had
//! from the other without asking anybody (the identity multihash of the peer-id specification).

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use tributary_protocol::id::NodeId;

use super::NetError;

/// Code of the identity "hash" in a multihash: the key itself, not its digest.
const MULTIHASH_IDENTITY: u64 = 0;

/// The node id of a seed.
#[must_use]
pub fn node_id(seed: &[u8; 32]) -> NodeId {
    NodeId(ed25519_dalek::SigningKey::from_bytes(seed).verifying_key().to_bytes())
}

/// The libp2p key of a seed.
pub(crate) fn keypair(seed: &[u8; 32]) -> Result<Keypair, NetError> {
    Keypair::ed25519_from_bytes(*seed).map_err(NetError::setup)
}

/// The libp2p name of a node.
pub(crate) fn peer_id(node: NodeId) -> Result<PeerId, NetError> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).map_err(|_| NetError::Key)?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// The node behind a libp2p name, if it has an ed25519 key.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    let multihash = peer.as_ref();
    if multihash.code() != MULTIHASH_IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

/// The iroh name of a node.
pub(crate) fn endpoint_id(node: NodeId) -> Result<iroh::EndpointId, NetError> {
    iroh::EndpointId::from_bytes(node.as_bytes()).map_err(|_| NetError::Key)
}

/// The node behind an iroh name.
pub(crate) fn node_of_endpoint(endpoint: iroh::EndpointId) -> NodeId {
    NodeId(*endpoint.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{endpoint_id, keypair, node_id, node_of, node_of_endpoint, peer_id};

    #[test]
    fn one_seed_is_the_same_key_everywhere() {
        let seed = [42; 32];
        let node = node_id(&seed);
        let peer = keypair(&seed).unwrap().public().to_peer_id();
        assert_eq!(peer_id(node).unwrap(), peer);
        assert_eq!(node_of(&peer), Some(node));
        let endpoint = iroh::SecretKey::from_bytes(&seed).public();
        assert_eq!(endpoint_id(node).unwrap(), endpoint);
        assert_eq!(node_of_endpoint(endpoint), node);
    }

    #[test]
    fn a_peer_id_without_a_key_is_no_node() {
        assert_eq!(node_of(&libp2p::PeerId::random()), None);
    }
}
