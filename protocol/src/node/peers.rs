//! Who is there: the peers' own records and whether they are heard.
//!
//! Invariant: a record counts only with a certificate that its account signed for the node that sent it.

use std::collections::BTreeMap;

use super::{Node, Out, Output};
use crate::id::{AccountId, NodeId};
use crate::limits::{ANNOUNCE_MS, ANNOUNCE_PEERS, GREETINGS_MAX, PEER_STALE_INTERVALS, PEERS_MAX};
use crate::message::{Message, PeerRecord};

/// A peer as this node knows it.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Its record.
    pub record: PeerRecord,
    /// When it was last heard, in milliseconds since 1970.
    pub heard_ms: u64,
    /// Whether a connection exists.
    pub connected: bool,
    /// How long it counts as present without being heard again, in milliseconds.
    pub fresh_for_ms: u64,
}

impl PeerView {
    /// Whether the peer was heard lately.
    #[must_use]
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_ms) <= self.fresh_for_ms
    }
}

#[derive(Default)]
pub(super) struct Peers {
    known: BTreeMap<NodeId, PeerView>,
    /// Since when each known verifier has said that it is one, for the same account.
    verifies_since_ms: BTreeMap<NodeId, u64>,
    own_control: Vec<String>,
    own_data: Vec<String>,
}

impl Peers {
    /// How often each peer announces itself in a network of this size.
    pub(super) fn announce_interval_ms(&self) -> u64 {
        let peers = u64::try_from(self.known.len().max(ANNOUNCE_PEERS)).unwrap_or(u64::MAX);
        ANNOUNCE_MS.saturating_mul(peers) / u64::try_from(ANNOUNCE_PEERS).unwrap_or(1)
    }

    /// The account a node works for, by its certificate.
    pub(super) fn account_of(&self, peer: &NodeId) -> Option<AccountId> {
        self.known.get(peer).map(|view| view.record.certificate.account)
    }

    pub(super) fn connected(&mut self, peer: NodeId, connected: bool) {
        if let Some(view) = self.known.get_mut(&peer) {
            view.connected = connected;
        }
    }

    pub(super) fn listening(&mut self, control: Vec<String>, data: Vec<String>) {
        self.own_control = control;
        self.own_data = data;
    }

    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    pub(super) fn get(&self, peer: &NodeId) -> Option<&PeerView> {
        self.known.get(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &PeerView)> {
        self.known.iter()
    }

    /// Fresh peers whose record satisfies `wanted`.
    pub(super) fn fresh(&self, now_ms: u64, wanted: impl Fn(&PeerRecord) -> bool) -> Vec<NodeId> {
        self.known
            .iter()
            .filter(|(_, view)| view.is_fresh(now_ms) && wanted(&view.record))
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// Whether the peer was known as a verifier, of the same account, by then.
    pub(super) fn verified_by(&self, peer: &NodeId, then_ms: u64) -> bool {
        self.verifies_since_ms.get(peer).is_some_and(|since_ms| *since_ms <= then_ms)
    }

    fn remember(&mut self, now_ms: u64, peer: NodeId, view: PeerView) {
        let account = view.record.certificate.account;
        if !view.record.roles.verifier || self.account_of(&peer).is_some_and(|known| known != account) {
            self.verifies_since_ms.remove(&peer);
        }
        if view.record.roles.verifier {
            self.verifies_since_ms.entry(peer).or_insert(now_ms);
        }
        self.known.insert(peer, view);
    }

    /// The node that works for `account`, the one heard last if there are several.
    pub(super) fn node_of(&self, account: &AccountId) -> Option<NodeId> {
        self.known
            .iter()
            .filter(|(_, view)| view.record.certificate.account == *account)
            .max_by_key(|(_, view)| view.heard_ms)
            .map(|(peer, _)| *peer)
    }

    fn forget_quietest(&mut self) {
        let quietest = self.known.iter().min_by_key(|(_, view)| view.heard_ms).map(|(peer, _)| *peer);
        if let Some(peer) = quietest {
            self.known.remove(&peer);
            self.verifies_since_ms.remove(&peer);
        }
    }
}

impl Node {
    pub(super) fn own_record(&self) -> PeerRecord {
        PeerRecord {
            certificate: self.certificate.clone(),
            roles: self.config.roles,
            control: self.peers.own_control.clone(),
            data: self.peers.own_data.clone(),
            classes: self.config.classes.clone(),
            serving: self.worker.serving(),
            answer_price: self.config.answer_price,
            batches: self.batches.sealed_count(),
        }
    }

    pub(super) fn peer_record(&mut self, now_ms: u64, from: NodeId, record: PeerRecord, out: &mut Out) {
        let certificate = &record.certificate;
        if from == self.id {
            return;
        }
        let changed = self.peers.get(&from).is_none_or(|known| known.record != record);
        if changed && !self.certificate_holds(now_ms, from, &record) {
            return self.blame(Some(from), "its certificate does not hold".into(), out);
        }
        if certificate.body.expires_ms < now_ms {
            return;
        }
        if changed {
            out.push(Output::Learn { peer: from, control: record.control.clone(), data: record.data.clone() });
        }
        if self.peers.get(&from).is_none() && self.peers.known.len() >= PEERS_MAX {
            self.peers.forget_quietest();
        }
        let batches = record.batches;
        let started = self.peers.get(&from).is_none_or(|known| known.record.certificate != record.certificate);
        let fresh_for_ms = self.peers.announce_interval_ms() * PEER_STALE_INTERVALS;
        let view = PeerView { record, heard_ms: now_ms, connected: true, fresh_for_ms };
        self.peers.remember(now_ms, from, view);
        if started {
            self.greet(now_ms, from, out);
        }
        self.batches_seen(now_ms, from, batches, out);
    }

    /// A peer that has just started knows nobody: some of those who hear it tell it at once that they are there.
    fn greet(&mut self, now_ms: u64, newcomer: NodeId, out: &mut Out) {
        let draw = self.derived("greeting", &newcomer.0).0;
        let draw = usize::from(u16::from_le_bytes([draw[0], draw[1]]));
        if draw % self.peers.known.len().max(1) < GREETINGS_MAX {
            let record = self.own_record();
            self.send(now_ms, newcomer, &Message::Peer(Box::new(record)), out);
        }
    }

    fn certificate_holds(&self, now_ms: u64, from: NodeId, record: &PeerRecord) -> bool {
        let certificate = &record.certificate;
        certificate.body.node == from
            && certificate.body.expires_ms >= now_ms
            && certificate.verify(self.config.network).is_ok()
    }
}
