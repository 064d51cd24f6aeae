//! Receipts and promises to pay: keeping them, passing them to worker and witnesses, signing vouchers.
//!
//! Invariant: a receipt is durable before anybody is told it is kept; what a payer owes a worker is the sum
//! over the receipts it countersigned, so a voucher can be made again at any time and never grows by a repeat.

use std::collections::BTreeMap;

use super::{Event, Fact, Node, Out, Output};
use crate::id::{AccountId, Amount, NodeId, ReceiptId};
use crate::limits::{EXPOSURE_ANSWERS_MAX, OUTBOX_MAX, RETRY_MS, WITNESSES_PER_RECEIPT};
use crate::message::Message;
use crate::receipt::{ReceiptOffer, SignedReceipt, Voucher, Work};
use crate::verification::rendezvous;

/// What one payer owes one worker, or is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Owed {
    pub(super) worker_part: Amount,
    pub(super) fees: Amount,
    receipts: u32,
}

struct IssuedVoucher {
    voucher: Voucher,
    kept: bool,
    sent_ms: u64,
}

#[derive(Default)]
pub(super) struct Receipts {
    kept: BTreeMap<ReceiptId, SignedReceipt>,
    owed_to: BTreeMap<AccountId, Owed>,
    owed_by: BTreeMap<AccountId, Owed>,
    issued: BTreeMap<AccountId, IssuedVoucher>,
    taken: BTreeMap<AccountId, Voucher>,
    outbox: BTreeMap<(ReceiptId, NodeId), u64>,
    witnesses_asked: BTreeMap<ReceiptId, u64>,
}

impl Owed {
    fn add(&mut self, signed: &SignedReceipt) {
        let receipt = &signed.receipt;
        self.worker_part = Amount(self.worker_part.0.saturating_add(receipt.worker_part.0));
        self.fees = Amount(self.fees.0.saturating_add(receipt.fee().0));
        self.receipts += 1;
    }
}

impl Receipts {
    pub(super) fn apply_kept(&mut self, own: AccountId, signed: SignedReceipt) {
        let id = signed.receipt.id();
        if self.kept.contains_key(&id) {
            return;
        }
        if signed.receipt.payer == own {
            self.owed_to.entry(signed.receipt.worker).or_default().add(&signed);
            self.witnesses_asked.insert(id, 0);
        }
        if signed.receipt.worker == own {
            self.owed_by.entry(signed.receipt.payer).or_default().add(&signed);
        }
        self.kept.insert(id, signed);
    }

    pub(super) fn apply_voucher(&mut self, voucher: Voucher) {
        let newer = self.taken.get(&voucher.payer).is_none_or(|known| known.cumulative < voucher.cumulative);
        if newer {
            self.taken.insert(voucher.payer, voucher);
        }
    }

    pub(super) fn acknowledged(&mut self, from: NodeId, id: ReceiptId) {
        self.outbox.remove(&(id, from));
    }

    pub(super) fn voucher_acknowledged(&mut self, _from: NodeId, cumulative: Amount) {
        for issued in self.issued.values_mut().filter(|issued| issued.voucher.cumulative == cumulative) {
            issued.kept = true;
        }
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

impl Node {
    /// Keeps a receipt this node countersigned or was given, and passes it on.
    pub(super) fn keep_receipt(&mut self, now_ms: u64, signed: SignedReceipt, out: &mut Out) {
        let id = signed.receipt.id();
        if self.receipts.kept.contains_key(&id) {
            return;
        }
        let payer = signed.receipt.payer;
        let worker = signed.receipt.worker;
        self.record(Fact::ReceiptKept(Box::new(signed)), out);
        self.batch_receipt(id, now_ms);
        out.event(Event::ReceiptKept(id));
        if payer == self.account {
            self.issue_voucher(worker, out);
            self.receipts_tick(now_ms, out);
        }
    }

    pub(super) fn receipt_offered(&mut self, now_ms: u64, from: NodeId, offer: ReceiptOffer, out: &mut Out) {
        let task = offer.receipt.task;
        let mine = |known: &&SignedReceipt| known.receipt.task == task && known.receipt.payer == self.account;
        if let Some(known) = self.receipts.kept.values().find(mine).cloned() {
            return self.send(now_ms, from, &Message::Receipt(Box::new(known)), out);
        }
        if let Err(error) = offer.verify(self.config.network) {
            return self.blame(Some(from), error.to_string(), out);
        }
        if offer.receipt.payer == self.account && matches!(offer.receipt.work, Work::Training { .. }) {
            self.training_receipt_offered(now_ms, offer, out);
        }
    }

    /// A countersigned receipt, for its worker or for a witness.
    pub(super) fn receipt(&mut self, now_ms: u64, from: NodeId, signed: SignedReceipt, out: &mut Out) {
        let id = signed.receipt.id();
        if !self.receipts.kept.contains_key(&id) {
            if let Err(error) = signed.verify(self.config.network) {
                return self.blame(Some(from), error.to_string(), out);
            }
            let mine = signed.receipt.worker == self.account;
            let task = signed.receipt.task;
            if !mine && !self.config.roles.witness {
                return;
            }
            self.keep_receipt(now_ms, signed, out);
            if mine && self.worker.jobs.contains_key(&task) {
                self.record(Fact::JobClosed(task), out);
            }
        }
        self.send(now_ms, from, &Message::ReceiptKept(id), out);
    }

    /// Has the driver sign what this node owes `worker` by now.
    fn issue_voucher(&mut self, worker: AccountId, out: &mut Out) {
        let Some(owed) = self.receipts.owed_to.get(&worker).copied() else { return };
        let payee = self
            .receipts
            .kept
            .values()
            .rfind(|signed| signed.receipt.worker == worker && signed.receipt.payer == self.account);
        let Some(payee) = payee.map(|signed| signed.receipt.to.worker) else { return };
        out.push(Output::SignVoucher(Box::new(Voucher {
            payer: self.account,
            worker,
            payer_address: self.config.chain_address,
            payee,
            cumulative: owed.worker_part,
            fees_cumulative: owed.fees,
            signature: Vec::new(),
        })));
    }

    pub(super) fn voucher_signed(&mut self, now_ms: u64, voucher: Voucher, out: &mut Out) {
        let newer = self
            .receipts
            .issued
            .get(&voucher.worker)
            .is_none_or(|issued| issued.voucher.cumulative < voucher.cumulative);
        if newer {
            let issued = IssuedVoucher { voucher, kept: false, sent_ms: 0 };
            self.receipts.issued.insert(issued.voucher.worker, issued);
            self.receipts_tick(now_ms, out);
        }
    }

    pub(super) fn voucher(&mut self, from: NodeId, voucher: Voucher, out: &mut Out) {
        if voucher.worker != self.account || voucher.payee != self.config.chain_address {
            return self.blame(Some(from), "sent a voucher for somebody else".into(), out);
        }
        out.push(Output::VerifyVoucher(Box::new(voucher)));
    }

    pub(super) fn voucher_verified(&mut self, voucher: Box<Voucher>, out: &mut Out) {
        let (payer, cumulative) = (voucher.payer, voucher.cumulative);
        let known = self.receipts.taken.get(&payer).map(|known| known.cumulative);
        if known.is_none_or(|known| known < cumulative) {
            self.record(Fact::VoucherTaken(voucher), out);
            out.event(Event::VoucherTaken { payer, cumulative });
        }
        if let Some(node) = self.peers.node_of(&payer) {
            let message = Message::VoucherKept(cumulative);
            let bytes = self.seal(self.announced_ms, &message);
            out.push(Output::Send { to: node, bytes });
        }
    }

    pub(super) fn receipts_tick(&mut self, now_ms: u64, out: &mut Out) {
        self.fill_outbox(now_ms);
        let due: Vec<(ReceiptId, NodeId)> = self
            .receipts
            .outbox
            .iter()
            .filter(|(_, sent)| now_ms.saturating_sub(**sent) >= RETRY_MS)
            .map(|(place, _)| *place)
            .take(64)
            .collect();
        for (id, to) in due {
            self.receipts.outbox.insert((id, to), now_ms);
            if let Some(signed) = self.receipts.get(&id).cloned() {
                self.send(now_ms, to, &Message::Receipt(Box::new(signed)), out);
            }
        }
        self.send_vouchers(now_ms, out);
    }

    /// Chooses worker and witnesses for receipts this node pays, once peers are known.
    fn fill_outbox(&mut self, now_ms: u64) {
        if self.receipts.outbox.len() >= OUTBOX_MAX {
            return;
        }
        let witnesses = self.peers.fresh(now_ms, |record| record.roles.witness);
        let waiting: Vec<ReceiptId> = self
            .receipts
            .witnesses_asked
            .iter()
            .filter(|(_, asked)| **asked == 0)
            .map(|(id, _)| *id)
            .take(64)
            .collect();
        for id in waiting {
            let Some(signed) = self.receipts.get(&id) else { continue };
            let worker = signed.receipt.worker_node;
            let ranked = rendezvous(&id.0, &witnesses, |node| node.0);
            if ranked.is_empty() {
                continue;
            }
            for node in ranked.into_iter().take(WITNESSES_PER_RECEIPT).chain([worker]) {
                if node != self.id {
                    self.receipts.outbox.insert((id, node), 0);
                }
            }
            self.receipts.witnesses_asked.remove(&id);
        }
    }

    fn send_vouchers(&mut self, now_ms: u64, out: &mut Out) {
        let unissued: Vec<AccountId> = self
            .receipts
            .owed_to
            .keys()
            .filter(|worker| !self.receipts.issued.contains_key(*worker))
            .copied()
            .collect();
        for worker in unissued {
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
            if let Some(node) = self.peers.node_of(&voucher.worker) {
                self.send(now_ms, node, &Message::Voucher(Box::new(voucher)), out);
            }
        }
    }
}
