//! Epochs: which receipts a poster counts, anchoring their sums, and recomputing what others anchored.
//!
//! Invariant: an epoch counts only receipts whose fees have arrived, so that nobody's unpaid receipts can hold up
//! the others. Of each stream, one payer's work by one payee, the fees of the receipts counted never exceed what
//! escrow has moved for it on the chain; the oldest are counted first, and what was counted once stays counted. An
//! epoch that this node did not post is recomputed from the receipts and the chain before anything is believed.

use std::collections::{BTreeMap, BTreeSet};

use super::batches::{WantedBody, WantedHead};
use super::io::Funding;
use super::{Event, Fact, Node, Out, Output};
use crate::batch::{EpochBody, EpochHead, Ledger, LedgerError};
use crate::envelope::Signed;
use crate::id::{AccountId, Amount, ChainAddress, Hash, NodeId, ReceiptId};
use crate::limits::{
    ANNOUNCE_MS, BATCH_HEADS_MAX, BATCH_MAX_BYTES, EPOCHS_MAX, EPOCHS_UNCHECKED_MAX, FUNDING_STREAMS_MAX,
};
use crate::receipt::SignedReceipt;
use crate::wire;

/// One payer's work by one payee: what a voucher is about, and what the chain keeps an account of.
type Stream = (AccountId, ChainAddress);

/// Readings of the chain after which an epoch that counts more than arrived is disputed: this node's view of the
/// chain may be a little behind the poster's.
const READINGS_MAX: u32 = 3;

/// What the chain is known to say of fees; not durable, since the chain says it again.
#[derive(Default)]
pub(super) struct FundingRead {
    fees: BTreeMap<Stream, Amount>,
    close_wanted: bool,
    asked_ms: u64,
    closed_ms: u64,
    /// Where the next reading begins, when there are more streams than one reading takes.
    next: Option<Stream>,
    /// Readings since each unchecked epoch's receipts were all here.
    readings: BTreeMap<u64, u32>,
}

fn stream_of(signed: &SignedReceipt) -> Stream {
    (signed.receipt.payer, signed.receipt.to.worker)
}

impl FundingRead {
    fn fees_of(&self, stream: &Stream) -> Amount {
        self.fees.get(stream).copied().unwrap_or_default()
    }
}

impl Node {
    /// Has the chain's fees read, then counts what is funded and has the driver anchor the sums.
    pub(super) fn close_epoch(&mut self, out: &mut Out) {
        if self.config.roles.poster {
            self.funding.close_wanted = true;
            self.read_funding(out);
        }
    }

    /// Asks for the fees of all streams, in turns when there are many.
    fn read_funding(&mut self, out: &mut Out) {
        let all: BTreeSet<Stream> = self.receipts.iter().map(|(_, signed)| stream_of(signed)).collect();
        let from = self.funding.next.filter(|_| all.len() > FUNDING_STREAMS_MAX);
        let later = all.iter().filter(|stream| from.is_none_or(|from| **stream >= from));
        let earlier = all.iter().filter(|stream| from.is_some_and(|from| **stream < from));
        let mut turn: Vec<Stream> = later.chain(earlier).take(FUNDING_STREAMS_MAX + 1).copied().collect();
        self.funding.next = (turn.len() > FUNDING_STREAMS_MAX).then(|| turn.pop()).flatten();
        if !turn.is_empty() {
            out.push(Output::ReadFunding(turn));
        }
    }

    pub(super) fn funding_read(&mut self, funding: Vec<Funding>, out: &mut Out) {
        for Funding { payer, payee, fees } in funding {
            // Fees only grow; a reading that overtook another says nothing new.
            let known = self.funding.fees.entry((payer, payee)).or_default();
            *known = fees.max(*known);
        }
        for epoch in self.complete_epochs() {
            *self.funding.readings.entry(epoch).or_default() += 1;
        }
        self.recheck_epochs(out);
        if self.funding.close_wanted && self.batches.closing.is_none() {
            self.funding.close_wanted = false;
            self.anchor_funded(out);
        }
    }

    fn anchor_funded(&mut self, out: &mut Out) {
        let Ok(ledger) = self.funded_ledger() else { return };
        let newest = self.batches.newest_posted().map(|head| (head.body.epoch, head.body.receipts_root));
        let unchanged = newest.is_some_and(|(_, root)| root == ledger.receipts_root());
        if ledger.receipts().is_empty() || unchanged {
            return;
        }
        let body = EpochBody::of(newest.map_or(1, |(epoch, _)| epoch + 1), &ledger);
        out.provide(wire::encode(&body));
        self.record(Fact::EpochClosing(Box::new(body.clone())), out);
        out.push(Output::PostEpoch(Box::new(body)));
    }

    /// The receipts whose fees have arrived: of each stream those counted before, then the oldest as far as it goes.
    fn funded_ledger(&self) -> Result<Ledger, LedgerError> {
        let mut streams: BTreeMap<Stream, Vec<&SignedReceipt>> = BTreeMap::new();
        for (_, signed) in self.receipts.iter() {
            streams.entry(stream_of(signed)).or_default().push(signed);
        }
        let mut ledger = Ledger::default();
        for (stream, mut receipts) in streams {
            let is_counted = |signed: &SignedReceipt| self.batches.counted.contains(&signed.receipt.id());
            receipts.sort_by_cached_key(|signed| {
                (!is_counted(signed), signed.receipt.sequence, signed.receipt.finished_ms, signed.receipt.id())
            });
            let mut left = self.funding.fees_of(&stream);
            for signed in receipts {
                let rest = left.checked_sub(signed.receipt.fee());
                if rest.is_none() && !is_counted(signed) {
                    break;
                }
                left = rest.unwrap_or_default();
                ledger.include(&signed.receipt)?;
            }
        }
        Ok(ledger)
    }

    pub(super) fn epoch_posted(&mut self, epoch: u64, out: &mut Out) {
        let Some(body) = self.batches.closing.clone().filter(|body| body.epoch == epoch) else { return };
        let bytes = wire::encode(&body);
        let mut total = Amount::ZERO;
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
        out.provide(bytes);
        self.record(Fact::EpochPosted(Box::new(signed.clone())), out);
        self.record(Fact::EpochChecked { head: Box::new(signed), agrees: true }, out);
        out.event(Event::EpochChecked { epoch, agrees: true });
    }

    pub(super) fn epoch(&mut self, from: NodeId, head: Signed<EpochHead>, out: &mut Out) {
        let epoch = head.body.epoch;
        if self.batches.epochs.contains_key(&epoch) || self.batches.unchecked.contains_key(&epoch) {
            return;
        }
        // Of a poster that is unknown yet the announcement comes again.
        let Some(poster) = self.peers.get(&head.body.node) else { return };
        let by_poster = poster.record.roles.poster && poster.record.certificate.account == head.account;
        if !by_poster || head.body.body_bytes > BATCH_MAX_BYTES || head.verify(self.config.network).is_err() {
            return self.blame(Some(from), "sent an epoch that does not hold".into(), out);
        }
        let room = self.batches.wanted.len() < BATCH_HEADS_MAX && self.batches.epochs.len() < EPOCHS_MAX;
        if head.body.node != self.id && room && self.batches.unchecked.len() < EPOCHS_UNCHECKED_MAX {
            let blob = head.body.body;
            self.batches.wanted.entry(blob).or_insert_with(|| WantedBody::new(WantedHead::Epoch(Box::new(head))));
        }
    }

    pub(super) fn epochs_tick(&mut self, now_ms: u64, out: &mut Out) {
        self.recheck_epochs(out);
        self.close_by_itself(now_ms, out);
        let waits = self.funding.close_wanted || !self.complete_epochs().is_empty();
        if waits && now_ms.saturating_sub(self.funding.asked_ms) >= ANNOUNCE_MS {
            self.funding.asked_ms = now_ms;
            self.read_funding(out);
        }
    }

    /// Anchors now and then, unless somebody else is there to do it.
    fn close_by_itself(&mut self, now_ms: u64, out: &mut Out) {
        if self.next_epoch_ms(now_ms).is_some_and(|next| next <= now_ms) {
            self.funding.closed_ms = now_ms;
            self.funding.asked_ms = now_ms;
            self.close_epoch(out);
        } else if self.funding.closed_ms == 0 {
            self.funding.closed_ms = now_ms;
        }
    }

    /// When this node anchors the next epoch by itself, if it does.
    #[must_use]
    pub fn next_epoch_ms(&self, now_ms: u64) -> Option<u64> {
        let every_ms = self.config.epoch_interval_ms;
        if !self.config.roles.poster || every_ms == 0 {
            return None;
        }
        let alone = self.peers.fresh(now_ms, |record| record.roles.poster).is_empty();
        let since_ms = if self.funding.closed_ms == 0 { now_ms } else { self.funding.closed_ms };
        alone.then(|| since_ms.saturating_add(every_ms))
    }

    /// Epochs of others that wait for nothing but the chain's word.
    fn complete_epochs(&self) -> Vec<u64> {
        let is_here = |id: &ReceiptId| self.receipts.get(id).is_some();
        let unchecked = self.batches.unchecked.iter();
        unchecked.filter(|(_, (_, body))| body.receipts.iter().all(is_here)).map(|(epoch, _)| *epoch).collect()
    }

    /// Recomputes epochs once all their receipts are here and the chain says what was funded.
    fn recheck_epochs(&mut self, out: &mut Out) {
        for epoch in self.complete_epochs() {
            let readings = self.funding.readings.get(&epoch).copied().unwrap_or(0);
            let funded = self.batches.unchecked.get(&epoch).is_some_and(|(_, body)| self.is_funded(body));
            let turns = u32::try_from(self.funding.fees.len() / FUNDING_STREAMS_MAX).unwrap_or(u32::MAX);
            if readings == 0 || (!funded && readings < READINGS_MAX.saturating_mul(turns.saturating_add(1))) {
                continue;
            }
            self.funding.readings.remove(&epoch);
            let Some((head, body)) = self.batches.unchecked.remove(&epoch) else { continue };
            let agrees = funded && self.sums_agree(&head, &body);
            self.record(Fact::EpochChecked { head: Box::new(head), agrees }, out);
            out.event(Event::EpochChecked { epoch, agrees });
        }
    }

    /// Whether the fees of the receipts counted arrived, stream by stream.
    fn is_funded(&self, body: &EpochBody) -> bool {
        let mut counted: BTreeMap<Stream, u128> = BTreeMap::new();
        for signed in body.receipts.iter().filter_map(|id| self.receipts.get(id)) {
            let sum = counted.entry(stream_of(signed)).or_default();
            *sum = sum.saturating_add(signed.receipt.fee().0);
        }
        counted.iter().all(|(stream, sum)| *sum <= self.funding.fees_of(stream).0)
    }

    fn sums_agree(&self, head: &Signed<EpochHead>, body: &EpochBody) -> bool {
        let mut ledger = Ledger::default();
        let mut counted = body.receipts.iter().filter_map(|id| self.receipts.get(id));
        counted.all(|signed| ledger.include(&signed.receipt) == Ok(true))
            && EpochBody::of(body.epoch, &ledger) == *body
            && ledger.receipts_root() == head.body.receipts_root
            && ledger.total() == Some(head.body.total)
    }
}
