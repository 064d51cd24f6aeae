//! Witness batches: sealing receipts, reading others' batches, and the bodies of batches and epochs.
//!
//! Invariant: a witness names each receipt in at most one of its own batches; an epoch that this node did not
//! post is recomputed from the receipts themselves before anything is believed about it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fact, Node, Out, Output};
use crate::batch::{BatchBody, BatchHead, EpochBody, EpochHead};
use crate::envelope::Signed;
use crate::id::{Hash, NodeId, ReceiptId};
use crate::limits::{
    ANNOUNCE_MS, BATCH_HEADS_MAX, BATCH_HEADS_PER_WITNESS_MAX, BATCH_INTERVAL_MS, BATCH_MAX_BYTES, BATCH_RECEIPTS_MAX,
    BATCHES_AHEAD_MAX, BODY_TRIES_MAX, EPOCHS_UNCHECKED_MAX, EPOCHS_WRONG_MAX, FETCH_RETRY_MS, LOG_BATCH_MAX,
    REPEATS_PER_TICK,
};
use crate::message::Message;
use crate::receipt::SignedReceipt;
use crate::verification::rendezvous;
use crate::wire;

/// Other witnesses that are asked for a body beside its own.
const BODY_PROVIDERS: usize = 3;

/// An epoch's number and the hash of its body: whoever calls himself a poster may announce any number, and the chain alone says
/// which of several stands.
pub(super) type EpochKey = (u64, Hash);

/// An epoch that waits for its receipts and their fees.
pub(super) struct Unchecked {
    pub(super) head: Signed<EpochHead>,
    pub(super) body: EpochBody,
    pub(super) since_ms: u64,
}

pub(super) struct WantedBody {
    head: WantedHead,
    asked_ms: u64,
    tries: u32,
}

#[derive(Clone)]
pub(super) enum WantedHead {
    Batch(Box<Signed<BatchHead>>),
    Epoch(Box<Signed<EpochHead>>),
    /// A body that stands on the chain, which this one may have.
    Standing(NodeId),
}

impl WantedBody {
    pub(super) fn new(head: WantedHead) -> Self {
        Self { head, asked_ms: 0, tries: 0 }
    }
}

/// Which batches of one witness were read: all below `next`, and some ahead of it.
#[derive(Default)]
struct Read {
    next: u64,
    ahead: BTreeSet<u64>,
}

impl Read {
    fn contains(&self, sequence: u64) -> bool {
        sequence < self.next || self.ahead.contains(&sequence)
    }

    fn insert(&mut self, sequence: u64) {
        if sequence >= self.next {
            self.ahead.insert(sequence);
        }
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
    }
}

/// A batch of this node, and what it sealed.
struct Sealed {
    head: Signed<BatchHead>,
    receipts: Vec<ReceiptId>,
}

#[derive(Default)]
pub(super) struct Batches {
    unsealed: BTreeSet<ReceiptId>,
    unsealed_since_ms: u64,
    sealed: Vec<Sealed>,
    reprovided: bool,
    read: BTreeMap<NodeId, Read>,
    asked_heads_ms: BTreeMap<NodeId, u64>,
    pub(super) wanted: BTreeMap<Hash, WantedBody>,
    pub(super) closing: Option<EpochBody>,
    /// Of one whose parts are not all here.
    closing_bytes: Vec<u8>,
    /// The newest epoch that this node posted.
    pub(super) last: Option<EpochBody>,
    /// The receipts that it counts.
    pub(super) counted: BTreeSet<ReceiptId>,
    posted: BTreeMap<u64, Signed<EpochHead>>,
    pub(super) epochs: BTreeMap<EpochKey, (Signed<EpochHead>, bool)>,
    pub(super) unchecked: BTreeMap<EpochKey, Unchecked>,
    pub(super) announced_ms: u64,
    announced: u64,
}

/// Bytes of receipts after which a batch is full: half of what a body may have.
const BATCH_FULL_BYTES: u64 = BATCH_MAX_BYTES / 2;
/// The most bytes one receipt takes: 256 shares and payments, and terms.
const RECEIPT_MAX_BYTES: u64 = 28 * 1024;

impl Batches {
    /// A receipt this node owes its next batch.
    pub(super) fn apply_due(&mut self, receipt: ReceiptId) {
        self.unsealed.insert(receipt);
    }

    /// The head's count says how many of the waiting receipts, in their order, are in it: the same when it
    /// happens and when the journal is replayed.
    pub(super) fn apply_sealed(&mut self, head: Signed<BatchHead>) {
        let count = usize::try_from(head.body.count).unwrap_or(usize::MAX);
        let receipts: Vec<ReceiptId> = self.unsealed.iter().take(count).copied().collect();
        for receipt in &receipts {
            self.unsealed.remove(receipt);
        }
        self.sealed.push(Sealed { head, receipts });
    }

    pub(super) fn apply_read(&mut self, head: Signed<BatchHead>) {
        self.read.entry(head.body.node).or_default().insert(head.body.sequence);
        self.wanted.remove(&head.body.body);
    }

    pub(super) fn apply_closing(&mut self, part: u32, parts: u32, bytes: &[u8]) {
        if part == 0 {
            self.closing_bytes.clear();
        }
        self.closing_bytes.extend_from_slice(bytes);
        if part.saturating_add(1) == parts {
            let whole = std::mem::take(&mut self.closing_bytes);
            self.closing = wire::decode(&whole, whole.len()).ok();
        }
    }

    /// The epoch was never posted and never will be.
    pub(super) fn apply_abandoned(&mut self, epoch: u64) {
        self.closing.take_if(|body| body.epoch == epoch);
    }

    pub(super) fn apply_posted(&mut self, head: Signed<EpochHead>) {
        if let Some(body) = self.closing.take() {
            self.counted = body.ids().copied().collect();
            self.last = Some(body);
        }
        self.posted.insert(head.body.epoch, head);
    }

    pub(super) fn apply_checked(&mut self, head: Signed<EpochHead>, agrees: bool) {
        self.wanted.remove(&head.body.body);
        let key = (head.body.epoch, head.body.body);
        self.unchecked.remove(&key);
        // Wrong ones are remembered for those who look at them, and take no room from others.
        if !agrees {
            let wrong = || self.epochs.iter().filter(|(_, (_, agrees))| !agrees).map(|(key, _)| *key);
            // The last: numbers that are far ahead are nobody's.
            if let Some(last) = wrong().next_back().filter(|_| wrong().count() >= EPOCHS_WRONG_MAX) {
                self.epochs.remove(&last);
            }
        }
        self.epochs.insert(key, (head, agrees));
    }

    pub(super) fn sealed_count(&self) -> u64 {
        u64::try_from(self.sealed.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn epochs(&self) -> &BTreeMap<EpochKey, (Signed<EpochHead>, bool)> {
        &self.epochs
    }

    pub(super) fn posted_epochs(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.posted.keys().copied()
    }

    fn has_read(&self, node: &NodeId, sequence: u64) -> bool {
        self.read.get(node).is_some_and(|read| read.contains(sequence))
    }

    /// The first batch of `node` that was not read yet.
    fn first_unread(&self, node: &NodeId) -> u64 {
        self.read.get(node).map_or(0, |read| read.next)
    }

    /// Whether a head of `node` may wait for its body.
    fn has_room_for(&self, head: &BatchHead) -> bool {
        let of_witness =
            |wanted: &&WantedBody| matches!(&wanted.head, WantedHead::Batch(known) if known.body.node == head.node);
        let ahead = self.read.get(&head.node).map_or(0, |read| read.ahead.len());
        self.wanted.len() < BATCH_HEADS_MAX
            && ahead < BATCHES_AHEAD_MAX
            && self.wanted.values().filter(of_witness).count() < BATCH_HEADS_PER_WITNESS_MAX
    }
}

impl Node {
    /// A witness owes each receipt it acknowledges its next batch, durably, so that a restart forgets none.
    pub(super) fn batch_receipt(&mut self, id: ReceiptId, now_ms: u64, out: &mut Out) {
        if self.config.roles.witness {
            if self.batches.unsealed.is_empty() {
                self.batches.unsealed_since_ms = now_ms;
            }
            self.record(Fact::BatchDue(id), out);
        }
    }

    fn seal_due(&mut self, now_ms: u64, out: &mut Out) {
        let old = now_ms.saturating_sub(self.batches.unsealed_since_ms) >= BATCH_INTERVAL_MS;
        let most = BATCH_RECEIPTS_MAX.min(usize::try_from(BATCH_FULL_BYTES / RECEIPT_MAX_BYTES).unwrap_or(1));
        let full = self.batches.unsealed.len() >= most;
        if self.batches.unsealed.is_empty() || !(old || full) {
            return;
        }
        let ids: Vec<ReceiptId> = self.batches.unsealed.iter().take(most).copied().collect();
        let Some((body, root, price)) = self.batch_of(&ids) else { return };
        let bytes = wire::encode(&body);
        let head = BatchHead {
            node: self.id,
            sequence: self.batches.sealed_count(),
            count: u32::try_from(ids.len()).unwrap_or(u32::MAX),
            root,
            price,
            body: Hash::of(&bytes),
            body_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        };
        let signed = Signed::new(self.config.network, &self.config.account_key, head);
        out.provide(bytes);
        self.record(Fact::BatchSealed(Box::new(signed.clone())), out);
        self.batches.unsealed_since_ms = now_ms;
        self.publish(now_ms, Message::Batches(vec![signed]), out);
    }

    /// The body over `ids`, or nothing when a receipt is not here, which facts in their order rule out.
    fn batch_of(&self, ids: &[ReceiptId]) -> Option<(BatchBody, Hash, crate::id::Amount)> {
        let receipts: Option<Vec<SignedReceipt>> = ids.iter().map(|id| self.receipts.get(id).cloned()).collect();
        Some(BatchBody::seal(receipts?))
    }

    /// After a restart: the newest batch and the epoch that is being posted are put into the store again, in
    /// case the store lost what it was given last.
    fn reprovide(&mut self, out: &mut Out) {
        if std::mem::replace(&mut self.batches.reprovided, true) {
            return;
        }
        let newest = self.batches.sealed.last().and_then(|sealed| self.batch_of(&sealed.receipts));
        for bytes in newest
            .map(|(body, ..)| wire::encode(&body))
            .into_iter()
            .chain(self.batches.closing.as_ref().map(wire::encode))
        {
            out.provide(bytes);
        }
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
            self.batches.sealed.iter().skip(start).take(LOG_BATCH_MAX / 2).map(|sealed| sealed.head.clone()).collect();
        if !heads.is_empty() {
            self.send(now_ms, from, &Message::Batches(heads), out);
        }
    }

    pub(super) fn batch_heads(&mut self, from: NodeId, heads: Vec<Signed<BatchHead>>, out: &mut Out) {
        for head in heads {
            let known = self.batches.has_read(&head.body.node, head.body.sequence);
            let wanted = self.batches.wanted.contains_key(&head.body.body);
            if head.body.node == self.id || known || wanted || !self.batches.has_room_for(&head.body) {
                continue;
            }
            // Of a witness that is unknown yet the head comes again: its record says how many there are.
            let Some(witness) = self.peers.get(&head.body.node) else { continue };
            let by_witness = witness.record.roles.witness && witness.record.certificate.account == head.account;
            if !by_witness
                || head.body.count == 0
                || head.body.body_bytes > BATCH_MAX_BYTES
                || head.verify(self.config.network).is_err()
            {
                return self.blame(Some(from), "sent a batch head that does not hold".into(), out);
            }
            let blob = head.body.body;
            self.batches.wanted.insert(blob, WantedBody::new(WantedHead::Batch(Box::new(head))));
        }
    }

    pub(super) fn batches_tick(&mut self, now_ms: u64, out: &mut Out) {
        self.reprovide(out);
        self.seal_due(now_ms, out);
        self.fetch_bodies(now_ms, out);
        if now_ms.saturating_sub(self.batches.announced_ms) >= ANNOUNCE_MS {
            self.batches.announced_ms = now_ms;
            if let Some(body) = self.batches.closing.clone() {
                out.push(Output::PostEpoch(Box::new(body)));
            }
            self.announce_epochs(now_ms, out);
        }
    }

    /// Announces the newest epoch and, in turn, one of those before, for peers that missed it.
    fn announce_epochs(&mut self, now_ms: u64, out: &mut Out) {
        let posted = &self.batches.posted;
        let Some((newest, head)) = posted.last_key_value() else { return };
        let turn = self.batches.announced % u64::try_from(posted.len()).unwrap_or(1);
        let earlier = posted.values().nth(usize::try_from(turn).unwrap_or(0)).filter(|head| head.body.epoch != *newest);
        let heads: Vec<Signed<EpochHead>> = earlier.into_iter().chain([head]).cloned().collect();
        self.batches.announced += 1;
        for head in heads {
            self.publish(now_ms, Message::Epoch(head), out);
        }
    }

    fn fetch_bodies(&mut self, now_ms: u64, out: &mut Out) {
        // What nobody gives is dropped; the witness's record or the poster's announcement brings it up again.
        self.batches.wanted.retain(|_, wanted| wanted.tries < BODY_TRIES_MAX);
        let others = self.peers.fresh(now_ms, |record| record.roles.witness);
        let due = |wanted: &WantedBody| now_ms.saturating_sub(wanted.asked_ms) >= FETCH_RETRY_MS;
        let wanted = self.batches.wanted.iter_mut().filter(|(_, wanted)| due(wanted));
        for (blob, wanted) in wanted.take(REPEATS_PER_TICK) {
            wanted.asked_ms = now_ms;
            wanted.tries += 1;
            let (node, bytes) = match &wanted.head {
                WantedHead::Batch(head) => (head.body.node, head.body.body_bytes),
                WantedHead::Epoch(head) => (head.body.node, head.body.body_bytes),
                WantedHead::Standing(node) => (*node, BATCH_MAX_BYTES),
            };
            // Other witnesses read it too and have it, when its own witness is gone.
            let others = rendezvous(&blob.0, &others, |node| node.0).into_iter().filter(|other| *other != node);
            let providers = [node].into_iter().chain(others.take(BODY_PROVIDERS)).collect();
            out.push(Output::FetchBody { blob: *blob, bytes, providers });
        }
    }

    pub(super) fn batch_body(&mut self, now_ms: u64, blob: Hash, bytes: &[u8], out: &mut Out) {
        let Some(head) = self.batches.wanted.get(&blob).map(|wanted| wanted.head.clone()) else { return };
        let limit = usize::try_from(BATCH_MAX_BYTES).unwrap_or(usize::MAX);
        match head {
            WantedHead::Batch(head) => {
                let from = head.body.node;
                match wire::decode::<BatchBody>(bytes, limit).map_err(|error| error.to_string()) {
                    Ok(body) => self.read_batch(now_ms, *head, body, out),
                    Err(reason) => self.blame(Some(from), reason, out),
                }
            }
            WantedHead::Epoch(head) => {
                let from = head.body.node;
                match wire::decode::<EpochBody>(bytes, limit).map_err(|error| error.to_string()) {
                    Ok(body) if body.receipts.is_empty() => {
                        self.batches.wanted.remove(&blob);
                        self.blame(Some(from), "anchored an epoch of nothing".into(), out);
                    }
                    Ok(body) => {
                        self.batches.wanted.remove(&blob);
                        if let Err(error) = body.check(&head.body) {
                            return self.blame(Some(from), error.to_string(), out);
                        }
                        if self.batches.unchecked.len() < EPOCHS_UNCHECKED_MAX {
                            let key = (head.body.epoch, head.body.body);
                            self.batches.unchecked.insert(key, Unchecked { head: *head, body, since_ms: now_ms });
                        }
                    }
                    Err(reason) => self.blame(Some(from), reason, out),
                }
            }
            // Whoever gave it gave what the chain names, be it sound or not.
            WantedHead::Standing(_) => {
                self.batches.wanted.remove(&blob);
                if let Ok(body) = wire::decode::<EpochBody>(bytes, limit) {
                    self.anchors.remember(blob, body);
                    self.epochs_read(now_ms, Vec::new(), out);
                }
            }
        }
    }

    fn read_batch(&mut self, now_ms: u64, head: Signed<BatchHead>, body: BatchBody, out: &mut Out) {
        if let Err(error) = body.check(&head.body) {
            self.batches.wanted.remove(&head.body.body);
            return self.blame(Some(head.body.node), error.to_string(), out);
        }
        for signed in body.receipts {
            let id = signed.receipt.id();
            let known = self.receipts.get(&id).is_some();
            let mine = signed.receipt.worker == self.account || signed.receipt.payer == self.account;
            // A bad receipt is left out; the good ones of the batch count all the same.
            let room = mine || self.has_room_for(&signed);
            if !known && room && self.follows_rules(&signed) && signed.verify(self.config.network).is_ok() {
                self.take_receipt(now_ms, id, signed, out);
            }
            if self.receipts.is_spreading(&id) {
                self.record(Fact::Witnessed(id), out);
            }
        }
        self.record(Fact::BatchRead(Box::new(head)), out);
    }
}
