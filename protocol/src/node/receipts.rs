//! Receipts and promises to pay: keeping them, passing them to worker and witnesses, signing vouchers.
//!
//! Invariant: a receipt is durable before anybody is told it is kept; what a payer owes a worker is the sum
//! over the receipts it countersigned, so a voucher can be made again at any time and never grows by a repeat.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Fact, Node, Out, Output};
use crate::batch::FINDINGS_MAX;
use crate::economy::FeePolicy;
use crate::id::{AccountId, Amount, ChainAddress, NodeId, ReceiptId, TaskId};
use crate::limits::{
    EXPOSURE_ANSWERS_MAX, OUTBOX_MAX, RECEIPTS_MAX, RECEIPTS_PER_PAYER_MAX, RECEIPTS_UNPAID_MAX, REPEATS_PER_TICK,
    RETRY_MS, SEND_TRIES_MAX, WITNESS_QUORUM, WITNESSES_PER_RECEIPT, WORKER_SPREADS_MS,
};
use crate::message::Message;
use crate::receipt::{Receipt, ReceiptOffer, SignedReceipt, Voucher, Work};
use crate::verification::rendezvous;

/// What one payer owes one worker, or is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Owed {
    pub(super) worker_part: Amount,
    pub(super) fees: Amount,
    receipts: u32,
    pub(super) payee: ChainAddress,
}

struct IssuedVoucher {
    voucher: Voucher,
    kept: bool,
    sent_ms: u64,
}

/// A receipt on its way to one peer.
#[derive(Debug, Clone, Copy, Default)]
struct Delivery {
    sent_ms: u64,
    tries: u32,
}

/// A receipt of this node that witnesses have yet to keep.
#[derive(Debug, Clone, Default)]
struct Spreading {
    not_before_ms: u64,
    worker_told: bool,
    /// How many witnesses it was sent to; none were known yet when zero.
    chosen: usize,
    kept_by: BTreeSet<NodeId>,
    given_up: BTreeSet<NodeId>,
}

#[derive(Default)]
pub(super) struct Receipts {
    kept: BTreeMap<ReceiptId, SignedReceipt>,
    kept_of: BTreeMap<AccountId, usize>,
    paid_tasks: BTreeMap<TaskId, ReceiptId>,
    /// What was found about each answer that was audited for settlement.
    audits: BTreeMap<ReceiptId, BTreeSet<ReceiptId>>,
    owed_to: BTreeMap<AccountId, Owed>,
    owed_by: BTreeMap<AccountId, Owed>,
    issued: BTreeMap<AccountId, IssuedVoucher>,
    signing_asked_ms: BTreeMap<AccountId, u64>,
    taken: BTreeMap<AccountId, Voucher>,
    outbox: BTreeMap<(ReceiptId, NodeId), Delivery>,
    spreading: BTreeMap<ReceiptId, Spreading>,
}

impl Owed {
    fn add(&mut self, signed: &SignedReceipt) {
        let receipt = &signed.receipt;
        self.worker_part = Amount(self.worker_part.0.saturating_add(receipt.worker_part.0));
        self.fees = Amount(self.fees.0.saturating_add(receipt.fee().0));
        self.receipts += 1;
        self.payee = receipt.to.worker;
    }
}

/// What a voucher promises in all; a newer one promises more.
fn promise(voucher: &Voucher) -> (Amount, Amount) {
    (voucher.cumulative, voucher.fees_cumulative)
}

/// Whether one receipt more may be taken, of a payer of whom `of_payer` are kept; of one who pays, longer than of others.
fn has_room(kept: usize, of_payer: usize, has_paid: bool) -> bool {
    let most = if has_paid { RECEIPTS_MAX } else { RECEIPTS_UNPAID_MAX };
    kept < most && of_payer < RECEIPTS_PER_PAYER_MAX
}

impl Receipts {
    pub(super) fn apply_kept(&mut self, own: AccountId, signed: SignedReceipt) {
        let id = signed.receipt.id();
        if self.kept.contains_key(&id) {
            return;
        }
        if let Some(of) = signed.receipt.audited() {
            self.audits.entry(of).or_default().insert(id);
        } else {
            self.apply_owed(own, &signed);
        }
        if signed.receipt.payer == own {
            self.paid_tasks.entry(signed.receipt.task).or_insert(id);
        }
        if signed.receipt.payer == own || signed.receipt.worker == own {
            self.spreading.insert(id, Spreading::default());
        }
        *self.kept_of.entry(signed.receipt.payer).or_default() += 1;
        self.kept.insert(id, signed);
    }

    fn apply_owed(&mut self, own: AccountId, signed: &SignedReceipt) {
        if signed.receipt.payer == own {
            self.owed_to.entry(signed.receipt.worker).or_default().add(signed);
        }
        if signed.receipt.worker == own {
            self.owed_by.entry(signed.receipt.payer).or_default().add(signed);
        }
    }

    /// What was found about an answer and its own payer signed, one finding of each auditor, in the order of the receipts' ids.
    pub(super) fn audits_of(&self, answer: &ReceiptId) -> Vec<&Receipt> {
        let payer = self.kept.get(answer).map(|signed| signed.receipt.payer);
        let mut auditors = BTreeSet::new();
        let found = self.audits.get(answer).into_iter().flatten().filter_map(|id| self.kept.get(id));
        let own = found.map(|signed| &signed.receipt).filter(|one| Some(one.payer) == payer);
        own.filter(|one| auditors.insert(one.worker)).take(FINDINGS_MAX).collect()
    }

    /// The answers that were audited.
    pub(super) fn audited(&self) -> impl Iterator<Item = &ReceiptId> {
        self.audits.keys()
    }

    /// Witnesses keep the receipt: it need not be passed on to others than its worker.
    pub(super) fn apply_witnessed(&mut self, id: ReceiptId) {
        self.spreading.remove(&id);
        let worker = self.kept.get(&id).map(|signed| signed.receipt.worker_node);
        let others: Vec<NodeId> = self.deliveries_of(id).filter(|node| Some(*node) != worker).collect();
        for node in others {
            self.outbox.remove(&(id, node));
        }
    }

    fn deliveries_of(&self, id: ReceiptId) -> impl Iterator<Item = NodeId> {
        let (first, last) = (NodeId([0; 32]), NodeId([u8::MAX; 32]));
        self.outbox.range((id, first)..=(id, last)).map(|((_, node), _)| *node)
    }

    pub(super) fn apply_voucher(&mut self, voucher: Voucher) {
        let newer = self.taken.get(&voucher.payer).is_none_or(|known| promise(known) < promise(&voucher));
        if newer {
            self.taken.insert(voucher.payer, voucher);
        }
    }

    /// A peer never answered: when nobody is left to wait for, other witnesses are chosen.
    fn give_up_on(&mut self, id: ReceiptId, node: NodeId) {
        let waiting = self.deliveries_of(id).next().is_some();
        if let Some(spreading) = self.spreading.get_mut(&id) {
            spreading.given_up.insert(node);
            if !waiting {
                spreading.chosen = 0;
            }
        }
    }

    /// Whether it matters by now who pays.
    pub(super) fn is_crowded(&self) -> bool {
        self.kept.len() >= RECEIPTS_UNPAID_MAX / 2
    }

    pub(super) fn is_spreading(&self, id: &ReceiptId) -> bool {
        self.spreading.contains_key(id)
    }

    /// The receipt this node paid for `task`.
    pub(super) fn paid(&self, task: &TaskId) -> Option<&SignedReceipt> {
        self.kept.get(self.paid_tasks.get(task)?)
    }

    pub(super) fn get(&self, id: &ReceiptId) -> Option<&SignedReceipt> {
        self.kept.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ReceiptId, &SignedReceipt)> {
        self.kept.iter()
    }

    /// The newest promises to pay this node holds.
    pub(super) fn vouchers(&self) -> impl Iterator<Item = &Voucher> {
        self.taken.values()
    }

    pub(super) fn owed_to(&self) -> &BTreeMap<AccountId, Owed> {
        &self.owed_to
    }

    /// Refuses work for a payer who let too much go unpaid.
    pub(super) fn check_exposure(&self, payer: &AccountId) -> Result<(), String> {
        let owed = self.owed_by.get(payer).copied().unwrap_or_default();
        let paid = self.taken.get(payer).map_or(Amount::ZERO, |voucher| voucher.cumulative);
        let unpaid = owed.worker_part.checked_sub(paid).unwrap_or_default();
        let average = owed.worker_part.0 / u128::from(owed.receipts.max(1));
        if unpaid.0 > average.saturating_mul(EXPOSURE_ANSWERS_MAX.into()) && average > 0 {
            return Err(format!("{unpaid} of earlier answers is not covered by a voucher"));
        }
        Ok(())
    }
}

impl Receipts {
    /// Workers whom this node owes more than it has promised: the driver is asked to sign again while the chain
    /// is down or funds are short.
    fn unsigned_debts(&mut self, now_ms: u64) -> Vec<AccountId> {
        let mut due = Vec::new();
        for (worker, owed) in &self.owed_to {
            let promised = self.issued.get(worker).map(|issued| promise(&issued.voucher));
            let asked_ms = self.signing_asked_ms.entry(*worker).or_insert(0);
            if promised.is_none_or(|promised| promised < (owed.worker_part, owed.fees))
                && now_ms.saturating_sub(*asked_ms) >= RETRY_MS
            {
                *asked_ms = now_ms;
                due.push(*worker);
            }
        }
        due
    }
}

impl Node {
    /// Keeps a receipt this node countersigned or was given, and passes it on.
    pub(super) fn keep_receipt(&mut self, now_ms: u64, signed: SignedReceipt, out: &mut Out) {
        let id = signed.receipt.id();
        if self.receipts.kept.contains_key(&id) {
            return;
        }
        let payer = signed.receipt.payer;
        let worker = signed.receipt.worker;
        self.take_receipt(now_ms, id, signed, out);
        self.batch_receipt(id, now_ms, out);
        if payer == self.account {
            self.issue_voucher(worker, out);
            self.receipts_tick(now_ms, out);
        }
    }

    /// Whether a receipt of others may still be taken.
    pub(super) fn has_room_for(&self, signed: &SignedReceipt) -> bool {
        let payer = &signed.receipt.payer;
        let of_payer = self.receipts.kept_of.get(payer).copied().unwrap_or(0);
        has_room(self.receipts.kept.len(), of_payer, self.funding.has_paid(payer))
    }

    /// Whether the receipt divides its price by this network's policy and pays this network's treasury.
    pub(super) fn follows_rules(&self, signed: &SignedReceipt) -> bool {
        let policy = match signed.receipt.work {
            Work::Training { .. } => FeePolicy::TRAINING,
            Work::Inference { .. } | Work::Audit { .. } => FeePolicy::INFERENCE,
        };
        signed.receipt.policy == policy && signed.receipt.to.treasury == self.config.treasury
    }

    /// Makes a checked receipt durable; a worker's job it pays is over.
    pub(super) fn take_receipt(&mut self, now_ms: u64, id: ReceiptId, signed: SignedReceipt, out: &mut Out) {
        let task = signed.receipt.task;
        let (mine, paid_by_me) = (signed.receipt.worker == self.account, signed.receipt.payer == self.account);
        self.record(Fact::ReceiptKept(Box::new(signed)), out);
        out.event(Event::ReceiptKept(id));
        if mine && self.worker.jobs.contains_key(&task) {
            self.record(Fact::JobClosed(task), out);
        }
        if let (true, false, Some(spreading)) = (mine, paid_by_me, self.receipts.spreading.get_mut(&id)) {
            spreading.not_before_ms = now_ms.saturating_add(WORKER_SPREADS_MS);
        }
    }

    pub(super) fn receipt_offered(&mut self, now_ms: u64, from: NodeId, offer: ReceiptOffer, out: &mut Out) {
        if offer.receipt.payer != self.account {
            return;
        }
        if let Some(known) = self.receipts.paid(&offer.receipt.task).cloned() {
            return self.send(now_ms, from, &Message::Receipt(Box::new(known)), out);
        }
        if let Err(error) = offer.verify(self.config.network) {
            return self.blame(Some(from), error.to_string(), out);
        }
        match offer.receipt.work {
            Work::Training { .. } => self.training_receipt_offered(now_ms, offer, out),
            Work::Audit { .. } => self.shares_found(now_ms, from, offer, out),
            Work::Inference { .. } => {}
        }
    }

    /// A countersigned receipt, for its worker or for a witness.
    pub(super) fn receipt(&mut self, now_ms: u64, from: NodeId, signed: SignedReceipt, out: &mut Out) {
        let id = signed.receipt.id();
        if self.receipts.kept.contains_key(&id) {
            return self.send(now_ms, from, &Message::ReceiptKept(id), out);
        }
        if let Err(error) = signed.verify(self.config.network) {
            return self.blame(Some(from), error.to_string(), out);
        }
        if !self.follows_rules(&signed) {
            return self.blame(Some(from), "sent a receipt that splits its price by other rules".into(), out);
        }
        let mine = signed.receipt.worker == self.account || signed.receipt.payer == self.account;
        if mine || (self.config.roles.witness && self.has_room_for(&signed)) {
            self.keep_receipt(now_ms, signed, out);
            self.send(now_ms, from, &Message::ReceiptKept(id), out);
        }
    }

    /// A peer has a receipt of ours on disk.
    pub(super) fn receipt_acknowledged(&mut self, from: NodeId, id: ReceiptId, out: &mut Out) {
        if self.receipts.outbox.remove(&(id, from)).is_none() {
            return;
        }
        let is_witness = self.peers.get(&from).is_some_and(|peer| peer.record.roles.witness);
        let Some(spreading) = self.receipts.spreading.get_mut(&id).filter(|_| is_witness) else { return };
        spreading.kept_by.insert(from);
        if spreading.kept_by.len() >= WITNESS_QUORUM.min(spreading.chosen) {
            self.record(Fact::Witnessed(id), out);
        }
    }

    /// Has the driver sign what this node owes `worker` by now.
    fn issue_voucher(&mut self, worker: AccountId, out: &mut Out) {
        let Some(owed) = self.receipts.owed_to.get(&worker).copied() else { return };
        out.push(Output::SignVoucher(Box::new(Voucher {
            payer: self.account,
            worker,
            payer_address: self.config.chain_address,
            payee: owed.payee,
            cumulative: owed.worker_part,
            fees_cumulative: owed.fees,
            signature: Vec::new(),
        })));
    }

    pub(super) fn voucher_signed(&mut self, now_ms: u64, voucher: Voucher, out: &mut Out) {
        let issued = self.receipts.issued.get(&voucher.worker);
        if issued.is_none_or(|issued| promise(&issued.voucher) < promise(&voucher)) {
            // A node that worked for its own account holds the promise already: its fees are others' money.
            let kept = voucher.worker == self.account;
            let newer = self.receipts.taken.get(&voucher.payer).is_none_or(|known| promise(known) < promise(&voucher));
            if kept && newer {
                self.record(Fact::VoucherTaken(Box::new(voucher.clone())), out);
            }
            let issued = IssuedVoucher { voucher, kept, sent_ms: 0 };
            self.receipts.issued.insert(issued.voucher.worker, issued);
            self.send_vouchers(now_ms, out);
        }
    }

    pub(super) fn voucher(&mut self, from: NodeId, voucher: Voucher, out: &mut Out) {
        if voucher.worker != self.account || voucher.payee != self.config.chain_address {
            return self.blame(Some(from), "sent a voucher for somebody else".into(), out);
        }
        // Only the payer itself may promise for its account, and only from its own address: anybody's promise
        // in another's name would hide the true ones. Of a peer that is unknown yet, it comes again.
        let Some(peer) = self.peers.get(&from) else { return };
        let certificate = &peer.record.certificate;
        if certificate.account != voucher.payer || certificate.body.chain_address != voucher.payer_address {
            return self.blame(Some(from), "sent a voucher in another's name".into(), out);
        }
        if self.receipts.owed_by.contains_key(&voucher.payer) {
            out.push(Output::VerifyVoucher(Box::new(voucher)));
        }
    }

    pub(super) fn voucher_verified(&mut self, now_ms: u64, voucher: Box<Voucher>, out: &mut Out) {
        let (payer, cumulative) = (voucher.payer, voucher.cumulative);
        let known = self.receipts.taken.get(&payer);
        if known.is_none_or(|known| promise(known) < promise(&voucher)) {
            self.record(Fact::VoucherTaken(voucher), out);
            out.event(Event::VoucherTaken { payer, cumulative });
        }
        if let Some(node) = self.peers.node_of(&payer) {
            self.send(now_ms, node, &Message::VoucherKept(cumulative), out);
        }
    }

    pub(super) fn voucher_acknowledged(&mut self, from: NodeId, cumulative: Amount) {
        let Some(worker) = self.peers.account_of(&from) else { return };
        if let Some(issued) = self.receipts.issued.get_mut(&worker) {
            issued.kept |= issued.voucher.cumulative == cumulative;
        }
    }

    pub(super) fn receipts_tick(&mut self, now_ms: u64, out: &mut Out) {
        self.fill_outbox(now_ms);
        self.send_receipts(now_ms, out);
        self.send_vouchers(now_ms, out);
    }

    /// Sends what was not acknowledged, the longest waiting first and each time after a longer pause.
    fn send_receipts(&mut self, now_ms: u64, out: &mut Out) {
        let mut due: Vec<(u64, ReceiptId, NodeId)> = self
            .receipts
            .outbox
            .iter()
            .filter(|(_, delivery)| delivery.is_due(now_ms))
            .map(|((id, to), delivery)| (delivery.sent_ms, *id, *to))
            .collect();
        due.sort_unstable();
        for (_, id, to) in due.into_iter().take(REPEATS_PER_TICK) {
            let Some(delivery) = self.receipts.outbox.get_mut(&(id, to)) else { continue };
            if delivery.tries >= SEND_TRIES_MAX {
                self.receipts.outbox.remove(&(id, to));
                self.receipts.give_up_on(id, to);
                continue;
            }
            *delivery = Delivery { sent_ms: now_ms, tries: delivery.tries + 1 };
            if let Some(signed) = self.receipts.get(&id).cloned() {
                self.send(now_ms, to, &Message::Receipt(Box::new(signed)), out);
            }
        }
    }

    /// Chooses whom the receipts of this node go to: the worker at once, witnesses once some are known.
    fn fill_outbox(&mut self, now_ms: u64) {
        if self.receipts.outbox.len() >= OUTBOX_MAX || self.receipts.spreading.is_empty() {
            return;
        }
        let witnesses = self.peers.fresh(now_ms, |record| record.roles.witness);
        let waiting: Vec<ReceiptId> = self
            .receipts
            .spreading
            .iter()
            .filter(|(_, spreading)| spreading.chosen == 0 && spreading.not_before_ms <= now_ms)
            .map(|(id, _)| *id)
            .take(REPEATS_PER_TICK)
            .collect();
        for id in waiting {
            self.choose_receivers(id, &witnesses);
        }
    }

    fn choose_receivers(&mut self, id: ReceiptId, witnesses: &[NodeId]) {
        let own = self.id;
        let Some(worker) = self.receipts.kept.get(&id).map(|signed| signed.receipt.worker_node) else { return };
        let Some(spreading) = self.receipts.spreading.get_mut(&id) else { return };
        let left = witnesses.iter().filter(|node| **node != own && !spreading.given_up.contains(*node));
        let ranked = rendezvous(&id.0, &left.copied().collect::<Vec<_>>(), |node| node.0);
        let mut receivers: Vec<NodeId> = ranked.into_iter().take(WITNESSES_PER_RECEIPT).collect();
        spreading.chosen = receivers.len();
        if receivers.is_empty() {
            // Nobody is known, or everybody was tried: begin again with all that will be.
            spreading.given_up.clear();
        }
        if !spreading.worker_told && worker != own {
            receivers.push(worker);
        }
        spreading.worker_told = true;
        for node in receivers {
            self.receipts.outbox.entry((id, node)).or_default();
        }
    }

    fn send_vouchers(&mut self, now_ms: u64, out: &mut Out) {
        for worker in self.receipts.unsigned_debts(now_ms) {
            self.issue_voucher(worker, out);
        }
        let mut due = Vec::new();
        for issued in self.receipts.issued.values_mut() {
            if !issued.kept && now_ms.saturating_sub(issued.sent_ms) >= RETRY_MS {
                issued.sent_ms = now_ms;
                due.push(issued.voucher.clone());
            }
        }
        for voucher in due {
            let node = self.peers.node_of(&voucher.worker);
            let present = |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.is_fresh(now_ms));
            if let Some(node) = node.filter(present) {
                self.send(now_ms, node, &Message::Voucher(Box::new(voucher)), out);
            }
        }
    }
}

impl Delivery {
    fn is_due(&self, now_ms: u64) -> bool {
        self.tries == 0 || now_ms.saturating_sub(self.sent_ms) >= RETRY_MS << self.tries.saturating_sub(1).min(5)
    }
}

#[cfg(test)]
mod tests {
    use super::{RECEIPTS_MAX, RECEIPTS_PER_PAYER_MAX, RECEIPTS_UNPAID_MAX, has_room};

    #[test]
    fn who_pays_has_room_when_receipts_for_nothing_have_none() {
        assert!(has_room(RECEIPTS_UNPAID_MAX - 1, 0, false));
        assert!(!has_room(RECEIPTS_UNPAID_MAX, 0, false));
        assert!(has_room(RECEIPTS_MAX - 1, RECEIPTS_PER_PAYER_MAX - 1, true));
        assert!(!has_room(RECEIPTS_MAX, 0, true) && !has_room(0, RECEIPTS_PER_PAYER_MAX, true));
    }
}
