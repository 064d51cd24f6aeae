//! Meeting peers that a user names, and telling how it went.
//!
//! Invariant: every peer named gets an outcome within the time limit, also one that takes a connection and says nothing.

use std::net::IpAddr;

use libp2p::{Multiaddr, PeerId};
use tributary_protocol::id::NodeId;

use super::driver::ip_of;
use super::{Command, Control, redial};
use crate::net::limits::{BOOTSTRAP_MAX, MEET_TIMEOUT};
use crate::net::{NetError, identity};

impl Control {
    /// Connects to the peers of these multiaddresses with `/p2p/…` and waits for the outcome of each, at most
    /// twelve seconds; our own is left out.
    ///
    /// # Errors
    /// [`NetError::BadAddress`] if any text is none; then nobody is dialled.
    pub async fn meet(&self, addresses: &[String]) -> Result<Vec<(NodeId, Result<(), NetError>)>, NetError> {
        let mut peers: Vec<(NodeId, PeerId, Vec<Multiaddr>)> = Vec::new();
        for text in addresses.iter().take(BOOTSTRAP_MAX) {
            let (peer, address) = redial::parse(text)?;
            let node = identity::node_of(&peer).ok_or(NetError::Key)?;
            match peers.iter_mut().find(|(_, known, _)| *known == peer) {
                Some((_, _, ways)) => ways.push(address),
                None if node == self.node => {}
                None => peers.push((node, peer, vec![address])),
            }
        }
        let meeting =
            peers.into_iter().map(|(node, peer, ways)| async move { (node, self.reach(node, peer, ways).await) });
        Ok(futures::future::join_all(meeting).await)
    }

    async fn reach(&self, node: NodeId, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<(), NetError> {
        let outcome = match tokio::time::timeout(MEET_TIMEOUT, self.try_each(peer, addresses)).await {
            Ok(outcome) => outcome?,
            Err(_) => Err(format!("no answer within {} s", MEET_TIMEOUT.as_secs())),
        };
        outcome.map_err(|reason| NetError::Unreachable { node, reason })
    }

    /// One address after the other: a slow one beside a good one would leave a second connection that dies.
    async fn try_each(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<Result<(), String>, NetError> {
        let mut outcome = Err("no address is known".to_owned());
        for address in addresses {
            outcome = self.ask(|reply| Command::Meet { peer, address, reply }).await?;
            if outcome.is_ok() {
                break;
            }
        }
        Ok(outcome)
    }
}

/// Whether all of these are multiaddresses with `/p2p/…`, as [`super::ControlConfig::bootstrap`] wants them.
///
/// # Errors
/// [`NetError::BadAddress`] with the first that is none.
pub fn check_bootstrap(addresses: &[String]) -> Result<(), NetError> {
    addresses.iter().try_for_each(|text| redial::parse(text).map(drop))
}

/// The IP address that a multiaddress begins with, if it does.
#[must_use]
pub fn ip_of_address(address: &str) -> Option<IpAddr> {
    ip_of(&address.parse().ok()?)
}
