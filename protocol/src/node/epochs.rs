//! Epochs: which receipts a poster counts, anchoring their sums, and recomputing what others anchored.
//!
//! Invariant: an epoch counts only receipts whose fees have arrived, so that nobody's unpaid receipts can hold up
//! the others. Fees that one address paid for one payee's work are counted once, whichever accounts were bound to
//! these addresses, and only for receipts of accounts that were: who signs for no such account can neither take nor
//! strand them. The oldest are counted first, and what was counted once stays counted. An epoch that this node did
//! not post is recomputed from the receipts and the chain before anything is believed; only wrong sums are a dispute,
//! and fees that are not there are waited for.

use std::collections::{BTreeMap, BTreeSet};

use super::batches::{EpochKey, Unchecked, WantedBody, WantedHead};
use super::facts::FACT_PART_BYTES;
use super::io::{FeeStream, Funding};
use super::{Event, Fact, Node, Out, Output};
use crate::batch::{EpochBody, EpochError, EpochHead, pair_of};
use crate::economy::PaymentRole;
use crate::envelope::Signed;
use crate::id::{AccountId, Amount, ChainAddress, Hash, NodeId, ReceiptId};
use crate::limits::{
    ANNOUNCE_MS, BATCH_HEADS_MAX, BATCH_MAX_BYTES, EPOCH_INCOMPLETE_MS, EPOCHS_MAX, EPOCHS_UNCHECKED_MAX,
    FUNDING_STREAMS_MAX, LEDGER_ACCOUNTS_MAX, LEDGER_ACCOUNTS_PER_PAYER_MAX,
};
use crate::receipt::{Receipt, SignedReceipt};
use crate::wire;

/// What the chain keeps an account of: the paying address and the payee.
type Escrow = (ChainAddress, ChainAddress);

/// Readings of the chain after which an epoch whose fees are not there gives way, when there is no room, to others:
/// this node's view of the chain may be a little behind the poster's.
const READINGS_MAX: u32 = 3;

/// What the chain is known to say of fees; not durable, since the chain says it again.
#[derive(Default)]
pub(super) struct FundingRead {
    /// From which address each stream that was read is paid.
    from: BTreeMap<FeeStream, Option<ChainAddress>>,
    fees: BTreeMap<Escrow, Amount>,
    arrived: Amount,
    /// Payers of whom fees arrived.
    payers: BTreeSet<AccountId>,
    close_wanted: bool,
    asked_ms: u64,
    closed_ms: u64,
    /// Where the next reading begins, of streams that are known to be paid and of the others.
    next: [Option<FeeStream>; 2],
    /// Readings since each unchecked epoch's receipts were all here.
    readings: BTreeMap<EpochKey, u32>,
    /// Those whose sums were found right and whose fees are waited for.
    looked: BTreeSet<EpochKey>,
}

fn stream_of(signed: &SignedReceipt) -> FeeStream {
    let receipt = &signed.receipt;
    FeeStream { payer: receipt.payer, worker: receipt.worker, payee: receipt.to.worker }
}

/// Up to `places` of `all`, going on where the last turn ended.
fn turn_of(all: &BTreeSet<FeeStream>, next: &mut Option<FeeStream>, places: usize) -> Vec<FeeStream> {
    let from = next.filter(|_| all.len() > places);
    let later = all.iter().filter(|stream| from.is_none_or(|from| **stream >= from));
    let earlier = all.iter().filter(|stream| from.is_some_and(|from| **stream < from));
    let mut turn: Vec<FeeStream> = later.chain(earlier).take(places + 1).copied().collect();
    *next = (turn.len() > places).then(|| turn.pop()).flatten();
    turn
}

impl FundingRead {
    /// Whose fees pay for `stream`, if the chain is known to bind both its accounts.
    fn escrow_of(&self, stream: &FeeStream) -> Option<Escrow> {
        self.from.get(stream).copied().flatten().map(|from| (from, stream.payee))
    }

    fn fees_of(&self, escrow: &Escrow) -> Amount {
        self.fees.get(escrow).copied().unwrap_or_default()
    }

    fn forget(&mut self, epoch: &EpochKey) {
        self.readings.remove(epoch);
        self.looked.remove(epoch);
    }

    /// Whether fees of `payer` are known to have arrived.
    pub(super) fn has_paid(&self, payer: &AccountId) -> bool {
        self.payers.contains(payer)
    }
}

/// Who has a place in a ledger, and by whose fees.
#[derive(Default)]
struct LedgerRoom {
    payees: BTreeSet<ChainAddress>,
    by_payer: BTreeMap<Option<ChainAddress>, BTreeSet<ChainAddress>>,
}

impl LedgerRoom {
    fn payees(receipt: &Receipt) -> impl Iterator<Item = ChainAddress> {
        let payments = receipt.payments.iter().filter(|payment| payment.role != PaymentRole::Worker);
        payments.map(|payment| payment.to)
    }

    /// Whether whom a receipt pays has a place or finds one, in the ledger and in what its payer may bring.
    fn fits(&self, payer: Option<ChainAddress>, receipt: &Receipt) -> bool {
        let new = Self::payees(receipt).filter(|payee| !self.payees.contains(payee)).collect::<BTreeSet<_>>().len();
        let brought = self.by_payer.get(&payer).map_or(0, BTreeSet::len);
        // Whom an audit finds to be due something has to find a place beside them.
        new == 0
            || (brought + new <= LEDGER_ACCOUNTS_PER_PAYER_MAX && self.payees.len() + new <= LEDGER_ACCOUNTS_MAX / 2)
    }

    fn take(&mut self, payer: Option<ChainAddress>, receipt: &Receipt) {
        let new: Vec<_> = Self::payees(receipt).filter(|payee| !self.payees.contains(payee)).collect();
        self.payees.extend(&new);
        self.by_payer.entry(payer).or_default().extend(new);
    }
}

/// The facts that this node is about to post an epoch of this body.
#[must_use]
pub fn closing_facts(body: &[u8]) -> Vec<Fact> {
    let parts = body.chunks(FACT_PART_BYTES);
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let part = |(part, bytes): (u32, &[u8])| Fact::EpochClosing { part, parts: count, bytes: bytes.to_vec() };
    (0..).zip(parts).map(part).collect()
}

impl Node {
    /// Has the chain's fees read, then counts what is funded and has the driver anchor the sums.
    pub(super) fn close_epoch(&mut self, out: &mut Out) {
        if self.config.roles.poster {
            self.funding.close_wanted = true;
            self.read_funding(out);
        }
    }

    /// Asks for the fees of all streams, in turns when there are many. However many nobody pays for, half the places
    /// are for those that are known to be paid or were counted.
    fn read_funding(&mut self, out: &mut Out) {
        let (mut paid, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (id, signed) in self.receipts.iter().filter(|(_, signed)| signed.receipt.fee() > Amount::ZERO) {
            let stream = stream_of(signed);
            if self.batches.counted.contains(id) || self.funding.escrow_of(&stream).is_some() {
                others.remove(&stream);
                paid.insert(stream);
            } else if !paid.contains(&stream) {
                others.insert(stream);
            }
        }
        let [next_paid, next_other] = &mut self.funding.next;
        let mut turn = turn_of(&paid, next_paid, FUNDING_STREAMS_MAX - others.len().min(FUNDING_STREAMS_MAX / 2));
        turn.extend(turn_of(&others, next_other, FUNDING_STREAMS_MAX - turn.len()));
        if !turn.is_empty() {
            out.push(Output::ReadFunding(turn));
        }
    }

    pub(super) fn funding_read(&mut self, funding: &[Funding], arrived: Amount, out: &mut Out) {
        // Fees only grow, and a binding is kept; a reading that overtook another says nothing new.
        self.funding.arrived = arrived.max(self.funding.arrived);
        for Funding { stream, from, fees } in funding {
            let known = self.funding.from.entry(*stream).or_default();
            *known = known.or(*from);
            let Some(from) = *from else { continue };
            let known = self.funding.fees.entry((from, stream.payee)).or_default();
            *known = (*fees).max(*known);
            if *known > Amount::ZERO {
                self.funding.payers.insert(stream.payer);
            }
        }
        for key in self.complete_epochs() {
            *self.funding.readings.entry(key).or_default() += 1;
        }
        self.recheck_epochs(out);
        if self.funding.close_wanted && self.batches.closing.is_none() && self.knows_counted() {
            self.funding.close_wanted = self.anchor_funded(out);
        }
    }

    /// Whether it was read whose fees the receipts counted before have used up.
    fn knows_counted(&self) -> bool {
        let mut counted = self.batches.counted.iter().filter_map(|id| self.receipts.get(id));
        counted.all(|signed| signed.receipt.fee() == Amount::ZERO || self.funding.from.contains_key(&stream_of(signed)))
    }

    /// Whether it has to wait for the chain's word on an epoch.
    fn anchor_funded(&mut self, out: &mut Out) -> bool {
        let last = self.batches.last.as_ref();
        let receipts = self.receipts_to_count();
        let unchanged = last.is_some_and(|last| last.receipts.len() == receipts.len());
        let body = EpochBody::after(last, &receipts, self.anchors.beacons(), self.config.treasury);
        let body = match body {
            Ok(body) => body,
            Err(error) => return matches!(error, EpochError::Beacon(_)),
        };
        // The chain would not take more than arrived, and an epoch that it does not take holds up all later ones.
        let is_funded = body.total().is_some_and(|total| total <= self.funding.arrived);
        if receipts.is_empty() || unchanged || !is_funded {
            return false;
        }
        let bytes = wire::encode(&body);
        for fact in closing_facts(&bytes) {
            self.record(fact, out);
        }
        out.provide(bytes);
        out.push(Output::PostEpoch(Box::new(body)));
        false
    }

    /// Those counted before, those whose fees have arrived as far as there is room for whom they pay, and the audits of what was drawn.
    fn receipts_to_count(&self) -> BTreeMap<ReceiptId, &Receipt> {
        let mut receipts = self.within_bounds(self.funded_receipts());
        let Some(last) = &self.batches.last else { return receipts };
        let drawn = last.all_drawn(self.anchors.beacons());
        let settled: BTreeSet<ReceiptId> = receipts.values().filter_map(|one| one.audited()).collect();
        for of in self.receipts.audited().filter(|of| drawn.contains(of)) {
            if settled.contains(of) {
                continue;
            }
            let found = self.receipts.audits_of(of);
            let answer = self.receipts.get(of).map(|signed| &signed.receipt);
            if let Some(pair) = answer.and_then(|answer| pair_of(answer, &found)) {
                receipts.extend(pair.map(|one| (one.id(), one)));
            }
        }
        receipts
    }

    /// Without those that would fill the ledger, or one payer's part of it: whose sums can't be posted would hold up everybody's.
    fn within_bounds<'a>(&self, funded: BTreeMap<ReceiptId, &'a Receipt>) -> BTreeMap<ReceiptId, &'a Receipt> {
        let (mut counted, mut others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            funded.into_iter().partition(|(id, _)| self.batches.counted.contains(id));
        let mut room = LedgerRoom::default();
        counted.iter().for_each(|(id, receipt)| room.take(self.payer_of(id), receipt));
        others.retain(|id, receipt| {
            let fits = room.fits(self.payer_of(id), receipt);
            if fits {
                room.take(self.payer_of(id), receipt);
            }
            fits
        });
        counted.append(&mut others);
        counted
    }

    /// The address that pays a receipt's fee, if the chain is known to bind it.
    fn payer_of(&self, id: &ReceiptId) -> Option<ChainAddress> {
        self.funding.escrow_of(&stream_of(self.receipts.get(id)?)).map(|(from, _)| from)
    }

    /// The receipts whose fees have arrived: of each escrow those counted before, then the oldest that fit.
    fn funded_receipts(&self) -> BTreeMap<ReceiptId, &Receipt> {
        let mut funded = BTreeMap::new();
        let mut escrows: BTreeMap<Escrow, Vec<(&ReceiptId, &SignedReceipt)>> = BTreeMap::new();
        for (id, signed) in self.receipts.iter() {
            let is_counted = self.batches.counted.contains(id);
            match self.funding.escrow_of(&stream_of(signed)) {
                Some(escrow) if signed.receipt.fee() > Amount::ZERO => {
                    escrows.entry(escrow).or_default().push((id, signed));
                }
                _ if is_counted => {
                    funded.insert(*id, &signed.receipt);
                }
                _ => {}
            }
        }
        for (escrow, mut receipts) in escrows {
            let is_counted = |id: &ReceiptId| self.batches.counted.contains(id);
            receipts.sort_by_cached_key(|(id, signed)| {
                (!is_counted(id), signed.receipt.sequence, signed.receipt.finished_ms, **id)
            });
            let mut left = self.funding.fees_of(&escrow);
            for (id, signed) in receipts {
                let rest = left.checked_sub(signed.receipt.fee());
                // One too large to be funded must not strand those after it.
                if rest.is_none() && !is_counted(id) {
                    continue;
                }
                left = rest.unwrap_or_default();
                funded.insert(*id, &signed.receipt);
            }
        }
        funded
    }

    pub(super) fn epoch_posted(&mut self, epoch: u64, out: &mut Out) {
        let Some(body) = self.batches.closing.clone().filter(|body| body.epoch == epoch) else { return };
        let bytes = wire::encode(&body);
        let head = EpochHead {
            epoch,
            node: self.id,
            receipts_root: body.receipts_root(),
            body: Hash::of(&bytes),
            body_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            total: body.total().unwrap_or_default(),
        };
        self.anchors.announced(epoch, self.id);
        self.anchors.remember(head.body, body);
        let signed = Signed::new(self.config.network, &self.config.account_key, head);
        self.batches.announced_ms = 0;
        out.provide(bytes);
        self.record(Fact::EpochPosted(Box::new(signed.clone())), out);
        self.record(Fact::EpochChecked { head: Box::new(signed), agrees: true }, out);
        out.event(Event::EpochChecked { epoch, agrees: true });
    }

    /// The sums that this node wanted to post are more than what arrived: they are given up, and made anew.
    pub(super) fn epoch_unfunded(&mut self, epoch: u64, out: &mut Out) {
        if self.batches.closing.as_ref().is_some_and(|body| body.epoch == epoch) {
            self.record(Fact::EpochAbandoned(epoch), out);
            self.funding.close_wanted = true;
        }
    }

    pub(super) fn epoch(&mut self, now_ms: u64, from: NodeId, head: Signed<EpochHead>, out: &mut Out) {
        let key = (head.body.epoch, head.body.body);
        if self.batches.epochs.contains_key(&key) || self.batches.unchecked.contains_key(&key) {
            return;
        }
        // Of a poster that is unknown yet the announcement comes again.
        let Some(poster) = self.peers.get(&head.body.node) else { return };
        let by_poster = poster.record.roles.poster && poster.record.certificate.account == head.account;
        if !by_poster || head.body.body_bytes > BATCH_MAX_BYTES || head.verify(self.config.network).is_err() {
            return self.blame(Some(from), "sent an epoch that does not hold".into(), out);
        }
        self.anchors.announced(head.body.epoch, head.body.node);
        self.make_room_for_epoch(now_ms);
        let room = self.batches.wanted.len() < BATCH_HEADS_MAX && self.batches.epochs.len() < EPOCHS_MAX;
        if head.body.node != self.id && room && self.batches.unchecked.len() < EPOCHS_UNCHECKED_MAX {
            let blob = head.body.body;
            self.batches.wanted.entry(blob).or_insert_with(|| WantedBody::new(WantedHead::Epoch(Box::new(head))));
        }
    }

    /// With no room left, an epoch that was long waited for is let go: its poster's announcement brings it up again.
    fn make_room_for_epoch(&mut self, now_ms: u64) {
        if self.batches.unchecked.len() < EPOCHS_UNCHECKED_MAX {
            return;
        }
        let complete = self.complete_epochs();
        let too_long = |one: &Unchecked| now_ms.saturating_sub(one.since_ms) >= EPOCH_INCOMPLETE_MS;
        self.batches.unchecked.retain(|key, one| complete.contains(key) || !too_long(one));
        let readings = self.funding.readings.iter();
        let longest = readings.max_by_key(|(_, readings)| **readings).map(|(key, readings)| (*key, *readings));
        let turns = u32::try_from(self.funding.from.len() / (FUNDING_STREAMS_MAX / 2)).unwrap_or(u32::MAX);
        let enough = READINGS_MAX.saturating_mul(turns.saturating_add(1));
        if let Some((key, _)) = longest.filter(|(_, readings)| *readings >= enough) {
            self.funding.forget(&key);
            self.batches.unchecked.remove(&key);
        }
    }

    pub(super) fn epochs_tick(&mut self, now_ms: u64, out: &mut Out) {
        self.close_by_itself(now_ms, out);
        let waits = self.funding.close_wanted || self.receipts.is_crowded() || !self.complete_epochs().is_empty();
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
    fn complete_epochs(&self) -> Vec<EpochKey> {
        let is_here = |id: &ReceiptId| self.receipts.get(id).is_some();
        let unchecked = self.batches.unchecked.iter();
        unchecked.filter(|(_, one)| one.body.ids().all(is_here)).map(|(key, _)| *key).collect()
    }

    /// Recomputes epochs once all their receipts and what stands before them are here: wrong sums are disputed, right ones
    /// agreed to once the chain says that the fees are there. Until then nothing is decided.
    pub(super) fn recheck_epochs(&mut self, out: &mut Out) {
        for key in self.complete_epochs() {
            let Some(Unchecked { body, .. }) = self.batches.unchecked.get(&key) else { continue };
            // Sums do not change while fees are waited for: they are looked at once, and when it is decided.
            let is_new = self.funding.readings.contains_key(&key) && !self.funding.looked.contains(&key);
            let is_funded = self.is_funded(body);
            if !self.is_told(body) || !is_funded && !is_new {
                continue;
            }
            let agrees = self.follows(body);
            if agrees && !is_funded {
                self.funding.looked.insert(key);
                continue;
            }
            self.funding.forget(&key);
            let Some(Unchecked { head, body, .. }) = self.batches.unchecked.remove(&key) else { continue };
            if agrees {
                self.anchors.remember(key.1, body);
            }
            self.record(Fact::EpochChecked { head: Box::new(head), agrees }, out);
            out.event(Event::EpochChecked { epoch: key.0, agrees });
        }
    }

    /// Whether the chain has said all from which the epoch follows.
    fn is_told(&self, body: &EpochBody) -> bool {
        let before = body.epoch.saturating_sub(1);
        let beacons = self.anchors.beacons();
        before == 0
            || self.anchors.standing(before).is_some()
                && self.epochs_drawn_from(body).iter().all(|epoch| beacons.contains_key(epoch))
    }

    /// Whether the fees of the receipts counted arrived, escrow by escrow.
    fn is_funded(&self, body: &EpochBody) -> bool {
        let mut counted: BTreeMap<Escrow, u128> = BTreeMap::new();
        for signed in body.ids().filter_map(|id| self.receipts.get(id)) {
            if signed.receipt.fee() == Amount::ZERO {
                continue;
            }
            let Some(escrow) = self.funding.escrow_of(&stream_of(signed)) else { return false };
            let sum = counted.entry(escrow).or_default();
            *sum = sum.saturating_add(signed.receipt.fee().0);
        }
        counted.iter().all(|(escrow, sum)| *sum <= self.funding.fees_of(escrow).0)
    }

    /// Whether the epoch is what its receipts and the one before it make.
    fn follows(&self, body: &EpochBody) -> bool {
        let receipts = body.ids().filter_map(|id| Some((*id, &self.receipts.get(id)?.receipt))).collect();
        let before = self.anchors.standing(body.epoch.saturating_sub(1));
        EpochBody::after(before, &receipts, self.anchors.beacons(), self.config.treasury).as_ref() == Ok(body)
    }
}
