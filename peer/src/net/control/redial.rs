//! When to dial which bootstrap or remembered peer again.
//!
//! Invariant: a connected peer is never due; a peer that stays away is tried with a pause that doubles up to its limit
//! and starts small again once it was there. Each peer is there once, and its addresses take
//! turns: dialled at once, a slow one would leave a second connection that dies after gossip has greeted on it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::net::NetError;
use crate::net::limits::{BOOTSTRAP_MAX, REDIAL_FIRST, REDIAL_KNOWN_LAST, REDIAL_LAST};

#[derive(Debug)]
struct Entry {
    peer: PeerId,
    /// The next to dial is the first.
    addresses: VecDeque<Multiaddr>,
    pause: Duration,
    /// The longest pause.
    last: Duration,
    /// When to dial next; `None` while connected.
    due: Option<Instant>,
}

/// The peers and their next attempts.
#[derive(Debug)]
pub(super) struct Redial {
    entries: Vec<Entry>,
}

impl Redial {
    /// From multiaddresses with `/p2p/…`; our own is left out, so that all nodes can share one list.
    pub(super) fn new(addresses: &[String], own: PeerId, now: Instant) -> Result<Self, NetError> {
        let mut redial = Self { entries: Vec::new() };
        for text in addresses.iter().take(BOOTSTRAP_MAX) {
            let (peer, address) = parse(text)?;
            if peer != own {
                redial.add(peer, vec![address], REDIAL_LAST, now);
            }
        }
        Ok(redial)
    }

    /// Adds a peer that an earlier run knew.
    pub(super) fn remember(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        self.add(peer, addresses, REDIAL_KNOWN_LAST, now);
    }

    fn add(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, last: Duration, now: Instant) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.peer == peer) else {
            let addresses = addresses.into();
            self.entries.push(Entry { peer, addresses, pause: REDIAL_FIRST, last, due: Some(now) });
            return;
        };
        for address in addresses {
            if !entry.addresses.contains(&address) {
                entry.addresses.push_back(address);
            }
        }
    }

    /// Those to dial now. Each returned one is due again after its pause, unless it connects before.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(PeerId, Multiaddr)> {
        let mut dials = Vec::new();
        for entry in &mut self.entries {
            if entry.due.is_some_and(|due| due <= now) {
                if let Some(address) = entry.addresses.pop_front() {
                    entry.addresses.push_back(address.clone());
                    dials.push((entry.peer, address));
                }
                entry.due = Some(now + entry.pause);
                entry.pause = (entry.pause * 2).min(entry.last);
            }
        }
        dials
    }

    pub(super) fn connected(&mut self, peer: &PeerId) {
        for entry in self.entries.iter_mut().filter(|entry| entry.peer == *peer) {
            entry.due = None;
            entry.pause = REDIAL_FIRST;
        }
    }

    pub(super) fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        for entry in self.entries.iter_mut().filter(|entry| entry.peer == *peer) {
            entry.due = Some(now + entry.pause);
        }
    }
}

/// Splits a multiaddress into its peer and the way to it.
pub(super) fn parse(text: &str) -> Result<(PeerId, Multiaddr), NetError> {
    let bad = || NetError::BadAddress { address: text.to_owned() };
    let mut address: Multiaddr = text.parse().map_err(|_| bad())?;
    match address.pop() {
        Some(Protocol::P2p(peer)) if !address.is_empty() => Ok((peer, address)),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use libp2p::PeerId;

    use super::Redial;
    use crate::net::NetError;
    use crate::net::limits::{REDIAL_FIRST, REDIAL_LAST};

    fn redial(now: Instant) -> (PeerId, Redial) {
        let peer = PeerId::random();
        let list = [format!("/ip4/127.0.0.1/udp/4/quic-v1/p2p/{peer}")];
        (peer, Redial::new(&list, PeerId::random(), now).unwrap())
    }

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut now = Instant::now();
        let (_, mut redial) = redial(now);
        assert_eq!(redial.due(now).len(), 1);
        assert!(redial.due(now).is_empty());
        let mut pause = REDIAL_FIRST;
        for _ in 0..12 {
            assert!(redial.due(now + pause - Duration::from_millis(1)).is_empty());
            now += pause;
            assert_eq!(redial.due(now).len(), 1);
            pause = (pause * 2).min(REDIAL_LAST);
        }
    }

    #[test]
    fn a_remembered_peer_is_tried_ever_more_rarely_and_one_of_a_ticket_as_often_as_before() {
        let mut now = Instant::now();
        let (peer, mut redial) = redial(now);
        let other: libp2p::Multiaddr = "/ip4/127.0.0.1/tcp/5".parse().unwrap();
        redial.remember(peer, vec![other.clone()], now);
        redial.remember(PeerId::random(), vec![other.clone()], now);
        assert_eq!(redial.due(now).len(), 2, "each peer once");
        let again = redial.due(now + REDIAL_FIRST);
        assert_eq!(again[0], (peer, other), "its addresses take turns");
        now += REDIAL_FIRST;
        let mut dials = [0; 2];
        for _ in 0..3600 {
            now += Duration::from_secs(1);
            for (dialled, _) in redial.due(now) {
                dials[usize::from(dialled != peer)] += 1;
            }
        }
        assert!(dials[0] > 200 && (10..30).contains(&dials[1]), "{dials:?}");
    }

    #[test]
    fn a_connected_peer_is_left_alone_and_a_lost_one_tried_soon() {
        let now = Instant::now();
        let (peer, mut redial) = redial(now);
        redial.due(now);
        redial.connected(&peer);
        assert!(redial.due(now + REDIAL_LAST).is_empty());
        redial.disconnected(&peer, now);
        assert_eq!(redial.due(now + REDIAL_FIRST).len(), 1);
    }

    #[test]
    fn our_own_address_is_skipped_and_a_nameless_one_refused() {
        let own = PeerId::random();
        let list = [format!("/ip4/127.0.0.1/udp/4/quic-v1/p2p/{own}")];
        let now = Instant::now();
        assert!(Redial::new(&list, own, now).unwrap().due(now).is_empty());
        for bad in ["/ip4/127.0.0.1/udp/4/quic-v1", "nonsense", ""] {
            let result = Redial::new(&[bad.to_owned()], own, Instant::now());
            assert_eq!(result.unwrap_err(), NetError::BadAddress { address: bad.to_owned() });
        }
    }
}
