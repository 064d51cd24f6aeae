//! Witness batches and epochs: sealing receipts, reading others' batches, anchoring sums and recomputing them.
//!
//! Invariant: a witness names each receipt in at most one of its own batches; an epoch that this node did not
//! post is recomputed from the receipts themselves before anything is believed about it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Fact, Node, Out, Output};
use crate::batch::{BatchBody, BatchHead, EpochBody, EpochHead, Ledger};
use crate::envelope::Signed;
use crate::id::{Hash, NodeId, ReceiptId};
use crate::limits::{
    ANNOUNCE_MS, BATCH_HEADS_MAX, BATCH_INTERVAL_MS, BATCH_MAX_BYTES, BATCH_RECEIPTS_MAX, FETCH_RETRY_MS, LOG_BATCH_MAX,
};
use crate::message::Message;
use crate::receipt::SignedReceipt;
use crate::wire;

struct WantedBody {
    head: WantedHead,
    asked_ms: u64,
}

#[derive(Clone)]
enum WantedHead {
    Batch(Box<Signed<BatchHead>>),
    Epoch(Box<Signed<EpochHead>>),
}

#[derive(Default)]
pub(super) struct Batches {
    unsealed: BTreeSet<ReceiptId>,
    unsealed_since_ms: u64,
    sealed: Vec<Signed<BatchHead>>,
    read: BTreeMap<NodeId, BTreeSet<u64>>,
    asked_heads_ms: BTreeMap<NodeId, u64>,
    wanted: BTreeMap<Hash, WantedBody>,
    closing: Option<EpochBody>,
    posted: BTreeMap<u64, Signed<EpochHead>>,
    epochs: BTreeMap<u64, (Signed<EpochHead>, bool)>,
    unchecked: BTreeMap<u64, (Signed<EpochHead>, EpochBody)>,
    announced_ms: u64,
}

impl Batches {
    pub(super) fn apply_sealed(&mut self, head: Signed<BatchHead>) {
        self.sealed.push(head);
        self.unsealed.clear();
    }

    pub(super) fn apply_read(&mut self, head: Signed<BatchHead>) {
        self.read.entry(head.body.node).or_default().insert(head.body.sequence);
        self.wanted.remove(&head.body.body);
    }

    pub(super) fn apply_closing(&mut self, body: EpochBody) {
        self.closing = Some(body);
    }

    pub(super) fn apply_posted(&mut self, head: Signed<EpochHead>) {
        self.closing = None;
        self.posted.insert(head.body.epoch, head);
    }

    pub(super) fn apply_checked(&mut self, head: Signed<EpochHead>, agrees: bool) {
        self.wanted.remove(&head.body.body);
        self.unchecked.remove(&head.body.epoch);
        self.epochs.insert(head.body.epoch, (head, agrees));
    }

    pub(super) fn sealed_count(&self) -> u64 {
        u64::try_from(self.sealed.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn newest_posted(&self) -> Option<&Signed<EpochHead>> {
        self.posted.values().next_back()
    }

    pub(super) fn epochs(&self) -> &BTreeMap<u64, (Signed<EpochHead>, bool)> {
        &self.epochs
    }

    fn has_read(&self, node: &NodeId, sequence: u64) -> bool {
        self.read.get(node).is_some_and(|read| read.contains(&sequence))
    }

    /// The first batch of `node` that was not read yet.
    fn first_unread(&self, node: &NodeId) -> u64 {
        let read = self.read.get(node);
        (0..).find(|sequence| read.is_none_or(|read| !read.contains(sequence))).unwrap_or(0)
    }
}

impl Node {
    pub(super) fn batch_receipt(&mut self, id: ReceiptId, now_ms: u64) {
        if self.config.roles.witness {
            if self.batches.unsealed.is_empty() {
                self.batches.unsealed_since_ms = now_ms;
            }
            self.batches.unsealed.insert(id);
        }
    }

    /// After a restart: receipts that no sealed batch of this witness is known to hold are sealed again;
    /// readers count each receipt once.
    fn seal_due(&mut self, now_ms: u64, out: &mut Out) {
        let old = now_ms.saturating_sub(self.batches.unsealed_since_ms) >= BATCH_INTERVAL_MS;
        let full = self.batches.unsealed.len() >= BATCH_RECEIPTS_MAX;
        if self.batches.unsealed.is_empty() || !(old || full) {
            return;
        }
        let receipts: Vec<SignedReceipt> =
            self.batches.unsealed.iter().filter_map(|id| self.receipts.get(id).cloned()).collect();
        let count = u32::try_from(receipts.len()).unwrap_or(u32::MAX);
        let (body, root, price) = BatchBody::seal(receipts);
        let bytes = wire::encode(&body);
        let head = BatchHead {
            node: self.id,
            sequence: self.batches.sealed_count(),
            count,
            root,
            price,
            body: Hash::of(&bytes),
            body_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        };
        let signed = Signed::new(self.config.network, &self.config.account_key, head);
        out.push(Output::Provide { bytes });
        self.record(Fact::BatchSealed(Box::new(signed.clone())), out);
        self.publish(now_ms, Message::Batches(vec![signed]), out);
    }

    /// A peer's record says how many batches it sealed: ask for those that were missed.
    pub(super) fn batches_seen(&mut self, now_ms: u64, from: NodeId, count: u64, out: &mut Out) {
        let next = self.batches.first_unread(&from);
        let asked = self.batches.asked_heads_ms.get(&from).copied().unwrap_or(0);
        if next < count && now_ms.saturating_sub(asked) >= ANNOUNCE_MS {
            self.batches.asked_heads_ms.insert(from, now_ms);
            self.send(now_ms, from, &Message::BatchesWanted(next), out);
        }
    }

    pub(super) fn batches_wanted(&mut self, now_ms: u64, from: NodeId, start: u64, out: &mut Out) {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let heads: Vec<Signed<BatchHead>> =
            self.batches.sealed.iter().skip(start).take(LOG_BATCH_MAX / 2).cloned().collect();
        if !heads.is_empty() {
            self.send(now_ms, from, &Message::Batches(heads), out);
        }
    }

    pub(super) fn batch_heads(&mut self, from: NodeId, heads: Vec<Signed<BatchHead>>, out: &mut Out) {
        for head in heads {
            let known = self.batches.has_read(&head.body.node, head.body.sequence);
            let wanted = self.batches.wanted.contains_key(&head.body.body);
            if head.body.node == self.id || known || wanted || self.batches.wanted.len() >= BATCH_HEADS_MAX {
                continue;
            }
            let by_witness =
                self.peers.get(&head.body.node).is_none_or(|peer| peer.record.certificate.account == head.account);
            if !by_witness || head.body.body_bytes > BATCH_MAX_BYTES || head.verify(self.config.network).is_err() {
                return self.blame(Some(from), "sent a batch head that does not hold".into(), out);
            }
            let blob = head.body.body;
            let wanted = WantedBody { head: WantedHead::Batch(Box::new(head)), asked_ms: 0 };
            self.batches.wanted.insert(blob, wanted);
        }
    }

    pub(super) fn batches_tick(&mut self, now_ms: u64, out: &mut Out) {
        self.seal_due(now_ms, out);
        self.fetch_bodies(now_ms, out);
        self.recheck_epochs(out);
        if now_ms.saturating_sub(self.batches.announced_ms) >= ANNOUNCE_MS {
            self.batches.announced_ms = now_ms;
            if let Some(body) = self.batches.closing.clone() {
                out.push(Output::PostEpoch(Box::new(body)));
            }
            if let Some(head) = self.batches.newest_posted().cloned() {
                self.publish(now_ms, Message::Epoch(head), out);
            }
        }
    }

    fn fetch_bodies(&mut self, now_ms: u64, out: &mut Out) {
        for (blob, wanted) in &mut self.batches.wanted {
            if now_ms.saturating_sub(wanted.asked_ms) < FETCH_RETRY_MS {
                continue;
            }
            wanted.asked_ms = now_ms;
            let (node, bytes) = match &wanted.head {
                WantedHead::Batch(head) => (head.body.node, head.body.body_bytes),
                WantedHead::Epoch(head) => (head.body.node, head.body.body_bytes),
            };
            out.push(Output::FetchBody { blob: *blob, bytes, providers: vec![node] });
        }
    }

    pub(super) fn batch_body(&mut self, blob: Hash, bytes: &[u8], out: &mut Out) {
        let Some(head) = self.batches.wanted.get(&blob).map(|wanted| wanted.head.clone()) else { return };
        let limit = usize::try_from(BATCH_MAX_BYTES).unwrap_or(usize::MAX);
        match head {
            WantedHead::Batch(head) => {
                let from = head.body.node;
                match wire::decode::<BatchBody>(bytes, limit).map_err(|error| error.to_string()) {
                    Ok(body) => self.read_batch(*head, body, out),
                    Err(reason) => self.blame(Some(from), reason, out),
                }
            }
            WantedHead::Epoch(head) => {
                let from = head.body.node;
                match wire::decode::<EpochBody>(bytes, limit).map_err(|error| error.to_string()) {
                    Ok(body) => {
                        self.batches.wanted.remove(&blob);
                        self.batches.unchecked.insert(head.body.epoch, (*head, body));
                        self.recheck_epochs(out);
                    }
                    Err(reason) => self.blame(Some(from), reason, out),
                }
            }
        }
    }

    fn read_batch(&mut self, head: Signed<BatchHead>, body: BatchBody, out: &mut Out) {
        if let Err(error) = body.check(&head.body) {
            self.batches.wanted.remove(&head.body.body);
            return self.blame(Some(head.body.node), error.to_string(), out);
        }
        for signed in body.receipts {
            let id = signed.receipt.id();
            let known = self.receipts.get(&id).is_some();
            // A bad receipt is left out; the good ones of the batch count all the same.
            if !known && signed.verify(self.config.network).is_ok() {
                self.record(Fact::ReceiptKept(Box::new(signed)), out);
                out.event(Event::ReceiptKept(id));
            }
        }
        self.record(Fact::BatchRead(Box::new(head)), out);
    }

    /// Counts all receipts known and has the driver anchor the sums.
    pub(super) fn close_epoch(&mut self, out: &mut Out) {
        if !self.config.roles.poster || self.batches.closing.is_some() {
            return;
        }
        let mut ledger = Ledger::default();
        for (_, signed) in self.receipts.iter() {
            if ledger.include(&signed.receipt).is_err() {
                return;
            }
        }
        let epoch = self.batches.newest_posted().map_or(1, |head| head.body.epoch + 1);
        let unchanged =
            self.batches.newest_posted().is_some_and(|head| head.body.receipts_root == ledger.receipts_root());
        if ledger.receipts().is_empty() || unchanged {
            return;
        }
        let body = EpochBody::of(epoch, &ledger);
        out.push(Output::Provide { bytes: wire::encode(&body) });
        self.record(Fact::EpochClosing(Box::new(body.clone())), out);
        out.push(Output::PostEpoch(Box::new(body)));
    }

    pub(super) fn epoch_posted(&mut self, epoch: u64, out: &mut Out) {
        let Some(body) = self.batches.closing.clone().filter(|body| body.epoch == epoch) else { return };
        let bytes = wire::encode(&body);
        let mut total = crate::id::Amount::ZERO;
        for (_, amount) in &body.earned {
            total = total.checked_add(*amount).unwrap_or(total);
        }
        let leaves: Vec<Hash> = body.receipts.iter().map(|id| Hash(id.0)).collect();
        let head = EpochHead {
            epoch,
            node: self.id,
            receipts_root: crate::merkle::root(&leaves),
            body: Hash::of(&bytes),
            body_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            total,
        };
        let signed = Signed::new(self.config.network, &self.config.account_key, head);
        self.batches.announced_ms = 0;
        out.push(Output::Provide { bytes });
        self.record(Fact::EpochPosted(Box::new(signed.clone())), out);
        self.record(Fact::EpochChecked { head: Box::new(signed), agrees: true }, out);
        out.event(Event::EpochChecked { epoch, agrees: true });
    }

    pub(super) fn epoch(&mut self, from: NodeId, head: Signed<EpochHead>, out: &mut Out) {
        let epoch = head.body.epoch;
        if self.batches.epochs.contains_key(&epoch) || self.batches.unchecked.contains_key(&epoch) {
            return;
        }
        if head.body.body_bytes > BATCH_MAX_BYTES || head.verify(self.config.network).is_err() {
            return self.blame(Some(from), "sent an epoch that does not hold".into(), out);
        }
        if head.body.node != self.id && self.batches.wanted.len() < BATCH_HEADS_MAX {
            let blob = head.body.body;
            let wanted = WantedBody { head: WantedHead::Epoch(Box::new(head)), asked_ms: 0 };
            self.batches.wanted.entry(blob).or_insert(wanted);
        }
    }

    /// Recomputes epochs once all their receipts are here.
    fn recheck_epochs(&mut self, out: &mut Out) {
        let ready: Vec<u64> = self
            .batches
            .unchecked
            .iter()
            .filter(|(_, (_, body))| body.receipts.iter().all(|id| self.receipts.get(id).is_some()))
            .map(|(epoch, _)| *epoch)
            .collect();
        for epoch in ready {
            let Some((head, body)) = self.batches.unchecked.remove(&epoch) else { continue };
            let mut ledger = Ledger::default();
            let counted = body.receipts.iter().filter_map(|id| self.receipts.get(id));
            let fits = counted.map(|signed| ledger.include(&signed.receipt)).all(|included| included == Ok(true));
            let agrees = fits
                && EpochBody::of(epoch, &ledger) == body
                && ledger.receipts_root() == head.body.receipts_root
                && ledger.total() == Some(head.body.total);
            self.record(Fact::EpochChecked { head: Box::new(head), agrees }, out);
            out.event(Event::EpochChecked { epoch, agrees });
        }
    }
}
