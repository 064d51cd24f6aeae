//! What the chain says of epochs: which body of a number stands, and the beacon that came with it.
//!
//! Invariant: an epoch is checked against the body that stands on the chain before it and no other; a beacon is the
//! chain's and nobody else's, and what a node is to have audited it reads in a body that stands. Who was not known as a
//! verifier when the node heard of a beacon audits nothing that it draws. Nothing here is durable: the chain says it again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::batches::{WantedBody, WantedHead};
use super::{Node, Out, Output};
use crate::batch::{Anchored, EpochBody};
use crate::id::{Hash, NodeId, ReceiptId};
use crate::limits::{ANNOUNCE_MS, BATCH_HEADS_MAX, EPOCHS_MAX, EPOCHS_READ_MAX, EPOCHS_UNCHECKED_MAX, PEER_STALE_MS};

/// Bodies that are remembered: those that stand before the epochs that are to be checked, and the newest.
const BODIES_KEPT: usize = EPOCHS_UNCHECKED_MAX + 1;

#[derive(Default)]
pub(super) struct Anchors {
    beacons: BTreeMap<u64, Hash>,
    /// Until when a verifier must have been known to audit what each epoch's beacon draws.
    known_by_ms: BTreeMap<u64, u64>,
    /// When the node began to listen.
    begun_ms: u64,
    standing: BTreeMap<u64, Hash>,
    bodies: VecDeque<(Hash, EpochBody)>,
    /// The furthest epoch that somebody announced since the chain was asked, and who.
    rumour: Option<(u64, NodeId)>,
    /// Who may have the newest body.
    provider: Option<NodeId>,
    /// The newest epoch that was looked through for this node's answers.
    looked: u64,
    /// This node's answers that wait for the beacon of the epoch that counted them first.
    undrawn: BTreeMap<u64, Vec<ReceiptId>>,
    asked_ms: u64,
}

/// An answer of this node whose beacon is known.
struct Drawable {
    answer: ReceiptId,
    beacon: Hash,
    /// Who was not known as a verifier by then is not asked about it.
    known_by_ms: u64,
}

impl Anchors {
    pub(super) fn new(begun_ms: u64) -> Self {
        Self { begun_ms, ..Self::default() }
    }

    /// The beacons of the epochs that are known to stand.
    pub(super) const fn beacons(&self) -> &BTreeMap<u64, Hash> {
        &self.beacons
    }

    /// The body that stands for an epoch, if it is here.
    pub(super) fn standing(&self, epoch: u64) -> Option<&EpochBody> {
        let hash = self.standing.get(&epoch)?;
        self.bodies.iter().find(|(known, _)| known == hash).map(|(_, body)| body)
    }

    fn newest(&self) -> u64 {
        self.standing.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    pub(super) fn remember(&mut self, hash: Hash, body: EpochBody) {
        if self.bodies.iter().any(|(known, _)| *known == hash) {
            return;
        }
        if self.bodies.len() >= BODIES_KEPT {
            self.bodies.pop_front();
        }
        self.bodies.push_back((hash, body));
    }

    /// Somebody says that an epoch stands.
    pub(super) fn announced(&mut self, epoch: u64, by: NodeId) {
        if epoch > self.newest() && self.rumour.is_none_or(|(furthest, _)| epoch > furthest) {
            self.rumour = Some((epoch, by));
        }
    }

    fn hear(&mut self, now_ms: u64, told: Anchored) {
        if self.standing.len() < EPOCHS_MAX {
            // Who has just begun has yet to hear who was there before the block.
            let known_by_ms = now_ms.max(self.begun_ms.saturating_add(PEER_STALE_MS));
            self.known_by_ms.entry(told.epoch).or_insert(known_by_ms);
            self.beacons.entry(told.epoch).or_insert(told.beacon);
            self.standing.entry(told.epoch).or_insert(told.body);
        }
    }

    /// The answers whose beacon is known by now, and who may audit what it draws.
    fn take_drawable(&mut self, now_ms: u64) -> Vec<Drawable> {
        let (beacons, known_by) = (&self.beacons, &self.known_by_ms);
        let mut drawable = Vec::new();
        self.undrawn.retain(|epoch, answers| {
            let known_by_ms = known_by.get(epoch).copied().filter(|known_by_ms| *known_by_ms <= now_ms);
            let (Some(beacon), Some(known_by_ms)) = (beacons.get(epoch).copied(), known_by_ms) else { return true };
            drawable.extend(answers.drain(..).map(|answer| Drawable { answer, beacon, known_by_ms }));
            false
        });
        drawable
    }
}

impl Node {
    /// Asks what the chain says where something waits for it.
    pub(super) fn anchors_tick(&mut self, now_ms: u64, out: &mut Out) {
        if now_ms.saturating_sub(self.anchors.asked_ms) < ANNOUNCE_MS {
            return;
        }
        self.anchors.asked_ms = now_ms;
        let wanted = self.epochs_wanted();
        let rumour = self.anchors.rumour.take();
        if let Some((_, provider)) = rumour {
            self.anchors.provider = Some(provider);
        }
        if !wanted.is_empty() || rumour.is_some() {
            out.push(Output::ReadEpochs(wanted));
        }
        // A node that has just begun waits with what is drawn until it has heard who is there.
        self.epochs_read(now_ms, Vec::new(), out);
    }

    /// Epochs that one must know of, those first without which nothing goes on: those before others that are to be checked, and
    /// those whose beacons drew what is counted; then those that this node posted, the newest first.
    fn epochs_wanted(&self) -> Vec<u64> {
        let before = self.batches.unchecked.keys().map(|(epoch, _)| epoch.saturating_sub(1));
        let drawn = self.batches.unchecked.values().flat_map(|one| self.epochs_drawn_from(&one.body));
        let own = self.anchors.undrawn.keys().copied();
        let last = self.batches.last.as_ref();
        let counted = last.into_iter().flat_map(|last| self.audited_since(last, last));
        let first: BTreeSet<u64> = before.chain(drawn).chain(own).chain(counted).collect();
        let posted = self.batches.posted_epochs().rev().filter(|epoch| !first.contains(epoch));
        let is_unknown = |epoch: &u64| *epoch > 0 && !self.anchors.beacons.contains_key(epoch);
        first.iter().copied().chain(posted).filter(is_unknown).take(EPOCHS_READ_MAX).collect()
    }

    /// The epochs whose beacons say whether what is audited in this one was drawn.
    pub(super) fn epochs_drawn_from(&self, body: &EpochBody) -> BTreeSet<u64> {
        let before = self.anchors.standing(body.epoch.saturating_sub(1));
        before.map(|before| self.audited_since(body, before)).unwrap_or_default()
    }

    /// Since when `before` counts what is audited in `body`.
    fn audited_since(&self, body: &EpochBody, before: &EpochBody) -> BTreeSet<u64> {
        let audited = body.ids().filter_map(|id| self.receipts.get(id)?.receipt.audited());
        audited.filter_map(|answer| before.since_of(&answer)).collect()
    }

    /// Has the bodies fetched that stand before those to be checked, and the newest for who has answers in it.
    fn want_standing(&mut self) {
        let before = |(epoch, node): (u64, NodeId)| (epoch.saturating_sub(1), node);
        let heads = self.batches.unchecked.values().map(|one| &one.head.body);
        let mut wanted: Vec<(u64, NodeId)> = heads.map(|head| before((head.epoch, head.node))).collect();
        let newest = self.anchors.newest();
        if newest > self.anchors.looked && self.audits.keeps_any() {
            wanted.extend(self.anchors.provider.map(|provider| (newest, provider)));
        }
        for (epoch, provider) in wanted {
            let Some(hash) = self.anchors.standing.get(&epoch).copied() else { continue };
            if self.anchors.standing(epoch).is_none() && self.batches.wanted.len() < BATCH_HEADS_MAX {
                let wanted = || WantedBody::new(WantedHead::Standing(provider));
                self.batches.wanted.entry(hash).or_insert_with(wanted);
            }
        }
    }

    /// The chain's word on epochs that were asked for, or a body that it names: what it draws of this node's answers is to
    /// be audited.
    pub(super) fn epochs_read(&mut self, now_ms: u64, told: Vec<Anchored>, out: &mut Out) {
        told.into_iter().for_each(|one| self.anchors.hear(now_ms, one));
        self.want_standing();
        self.look_for_own();
        for Drawable { answer, beacon, known_by_ms } in self.anchors.take_drawable(now_ms) {
            self.draw(now_ms, answer, (&beacon, known_by_ms), out);
        }
        self.recheck_epochs(out);
        self.settling_tick(now_ms, out);
    }

    /// Looks through the newest body for answers of this node that it counts, since when.
    fn look_for_own(&mut self) {
        let (newest, looked) = (self.anchors.newest(), self.anchors.looked);
        let Some(body) = self.anchors.standing(newest).filter(|_| newest > looked) else { return };
        let is_own = |id: &ReceiptId| self.audits.of_receipt(id).is_some();
        let new = body.receipts.iter().filter(|counted| counted.since > looked && is_own(&counted.receipt));
        let own: Vec<(u64, ReceiptId)> = new.map(|counted| (counted.since, counted.receipt)).collect();
        for (since, answer) in own {
            self.anchors.undrawn.entry(since).or_default().push(answer);
        }
        self.anchors.looked = newest;
    }
}
