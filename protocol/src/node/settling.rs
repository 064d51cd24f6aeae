//! Audits for settlement: what an answer that the chain drew would have paid by the adapters that were really trained without
//! each contributor, as two who did not serve it find.
//!
//! Invariant: a payer signs only what an auditor that it asked found about its own answer, with shares of the model's contributors
//! alone, and asks nobody after two agree. Whom it asks is fixed when the answer is drawn, in an order that only it can compute:
//! who comes when the block is known finds no name that is asked. An auditor computes from what the worker committed to alone.

use std::collections::{BTreeMap, BTreeSet};

use super::terms::AuditTerms;
use super::{Event, Fact, Node, Out, shares_of};
use crate::attribution::Share;
use crate::batch::{AUDITORS, has_part, is_drawn, pair_of};
use crate::id::{AccountId, ChainAddress, Hash, NodeId, ReceiptId};
use crate::limits::{OUTBOX_MAX, REPEATS_PER_TICK, RETRY_MS};
use crate::message::{Audit, Message};
use crate::receipt::ReceiptOffer;
use crate::transcript::Transcript;
use crate::verification::rendezvous;

/// Verifiers of one answer that may be asked, and so see it.
const AUDITORS_MAX: usize = 4;
/// Times the usual patience: an auditor may have to fetch all leave-out adapters first.
const PATIENCE_FACTOR: u64 = 8;

/// An auditor that was asked.
#[derive(Clone, Copy)]
struct Asked {
    since_ms: u64,
    sent_ms: u64,
}

#[derive(Default)]
struct Search {
    /// Who may be asked, in this order.
    auditors: Vec<NodeId>,
    asked: BTreeMap<NodeId, Asked>,
    given_up: BTreeSet<NodeId>,
}

/// The answers of this node that are to be audited.
#[derive(Default)]
pub(super) struct Settling {
    drawn: BTreeMap<ReceiptId, Search>,
    /// Where the last turn through them ended.
    last: Option<ReceiptId>,
}

impl Settling {
    pub(super) fn apply_drawn(&mut self, receipt: ReceiptId, auditors: Vec<NodeId>) {
        if self.drawn.len() < OUTBOX_MAX {
            self.drawn.entry(receipt).or_insert(Search { auditors, ..Search::default() });
        }
    }

    /// A verifier that was asked says something else than shares.
    pub(super) fn declined(&mut self, receipt: &ReceiptId, auditor: NodeId) {
        if let Some(search) = self.drawn.get_mut(receipt).filter(|search| search.asked.contains_key(&auditor)) {
            search.given_up.insert(auditor);
        }
    }
}

impl Node {
    /// The beacon of the epoch that counted an answer of this node first is known. Whether it is done with: else there are too
    /// few now who could audit it.
    pub(super) fn draw(&mut self, now_ms: u64, receipt: ReceiptId, beacon: &Hash, out: &mut Out) -> bool {
        // Who has no answer checked shows his questions to nobody but their workers.
        let discloses = self.config.audit_ppm > 0;
        let is_new = !self.settling.drawn.contains_key(&receipt) && !self.is_settled(&receipt);
        let answer = self.receipts.get(&receipt).filter(|_| discloses && is_new && is_drawn(beacon, &receipt));
        let Some(answer) = answer.map(|signed| &signed.receipt) else { return true };
        let account_of = |node: &NodeId| self.peers.account_of(node);
        let mut accounts = BTreeSet::new();
        let verifiers = self.verifiers_for(now_ms, answer.worker_node, &BTreeSet::new());
        let order = rendezvous(&self.derived("auditors", &receipt.0).0, &verifiers, |node| node.0);
        let eligible = order.into_iter().filter(|node| {
            account_of(node).is_some_and(|account| !has_part(account, answer, answer) && accounts.insert(account))
        });
        let auditors: Vec<NodeId> = eligible.take(AUDITORS_MAX).collect();
        if auditors.len() < AUDITORS {
            return false;
        }
        self.record(Fact::AuditDrawn { receipt, auditors }, out);
        out.event(Event::AuditDrawn(receipt));
        true
    }

    /// Whether two auditors agree on an answer already, or it is not known.
    fn is_settled(&self, receipt: &ReceiptId) -> bool {
        let found = self.receipts.audits_of(receipt);
        self.receipts.get(receipt).is_none_or(|signed| pair_of(&signed.receipt, &found).is_some())
    }

    pub(super) fn settling_tick(&mut self, now_ms: u64, out: &mut Out) {
        let all = &self.settling.drawn;
        let last = self.settling.last.filter(|_| all.len() > REPEATS_PER_TICK);
        let later = all.keys().filter(|receipt| last.is_none_or(|last| **receipt > last));
        let earlier = all.keys().filter(|receipt| last.is_some_and(|last| **receipt <= last));
        let turn: Vec<ReceiptId> = later.chain(earlier).take(REPEATS_PER_TICK).copied().collect();
        self.settling.last = turn.last().copied();
        for receipt in turn {
            self.seek_auditors(now_ms, receipt, out);
        }
    }

    fn seek_auditors(&mut self, now_ms: u64, receipt: ReceiptId, out: &mut Out) {
        let found = self.receipts.audits_of(&receipt);
        let is_over = found.len() >= AUDITORS_MAX || self.is_settled(&receipt);
        let done: BTreeSet<NodeId> = found.iter().map(|one| one.worker_node).collect();
        let wanted = AUDITORS.saturating_sub(found.len()).max(1);
        // What it takes to compute the answer again may have made room for newer ones.
        let audit = self.audits.of_receipt(&receipt).filter(|_| !is_over).cloned();
        let (Some(audit), Some(search)) = (audit, self.settling.drawn.get_mut(&receipt)) else {
            self.settling.drawn.remove(&receipt);
            return;
        };
        let late = |asked: &Asked| {
            now_ms.saturating_sub(asked.since_ms) > PATIENCE_FACTOR * super::audits::patience_ms(&audit)
        };
        search.given_up.extend(search.asked.iter().filter(|(_, asked)| late(asked)).map(|(node, _)| *node));
        let is_left = |node: &&NodeId| !search.given_up.contains(*node) && !done.contains(*node);
        let chosen: Vec<NodeId> = search.auditors.iter().filter(is_left).take(wanted).copied().collect();
        if chosen.is_empty() {
            // Nobody is left; after a restart all are asked once more.
            self.settling.drawn.remove(&receipt);
        }
        for auditor in chosen {
            self.ask_auditor(now_ms, receipt, auditor, &audit, out);
        }
    }

    fn ask_auditor(&mut self, now_ms: u64, receipt: ReceiptId, auditor: NodeId, audit: &Audit, out: &mut Out) {
        let Some(search) = self.settling.drawn.get_mut(&receipt) else { return };
        let asked = search.asked.entry(auditor).or_insert(Asked { since_ms: now_ms, sent_ms: 0 });
        if now_ms.saturating_sub(asked.sent_ms) >= RETRY_MS {
            asked.sent_ms = now_ms;
            self.send(now_ms, auditor, &Message::SharesWanted(Box::new(audit.clone())), out);
        }
    }

    /// The receipt of what this node found about an answer; nothing where the answer's transcript can't be read.
    pub(super) fn found_shares(&self, audit: &Audit, credits: &[(u32, i64)], now_ms: u64) -> Option<ReceiptOffer> {
        let release = self.worker.release(&audit.request.body.adapter)?;
        let context = Transcript::from_bytes(&audit.transcript).ok()?.context;
        let terms = AuditTerms {
            network: self.config.network,
            answer: &audit.receipt.receipt,
            auditor: (self.account, self.id, self.config.chain_address),
        };
        let shares = shares_of(&release.body, credits, &context);
        let receipt = terms.receipt(shares, &audit.receipt.receipt.class, now_ms).ok()?;
        Some(ReceiptOffer::new(receipt, &self.config.account_key))
    }

    /// An auditor found what an answer of this node would have paid.
    pub(super) fn shares_found(&mut self, now_ms: u64, from: NodeId, offer: ReceiptOffer, out: &mut Out) {
        let Some(of) = offer.receipt.audited() else { return };
        let is_asked = self.settling.drawn.get(&of).is_some_and(|search| search.asked.contains_key(&from));
        let Some(answer) = self.receipts.get(&of).filter(|_| is_asked) else { return };
        let found = &offer.receipt;
        let terms = AuditTerms {
            network: self.config.network,
            answer: &answer.receipt,
            auditor: (found.worker, from, found.to.worker),
        };
        let account: Option<AccountId> = self.peers.account_of(&from);
        let agreed = terms.receipt(found.shares.clone(), &found.class, found.finished_ms);
        let holds = agreed.as_ref() == Ok(found) && self.are_contributors(&of, &found.shares);
        if account != Some(found.worker) || !holds {
            return self.blame(Some(from), "found shares on other terms than an audit's".into(), out);
        }
        let signed = offer.countersign(&self.config.account_key);
        self.keep_receipt(now_ms, signed, out);
        self.seek_auditors(now_ms, of, out);
    }

    /// Whether all shares are those of contributors of the model that gave this node's answer, paid where they said.
    fn are_contributors(&self, answer: &ReceiptId, shares: &[Share]) -> bool {
        let adapter = self.audits.of_receipt(answer).map(|audit| audit.request.body.adapter);
        let Some(release) = adapter.and_then(|adapter| self.worker.release(&adapter)) else { return false };
        let known: BTreeSet<(AccountId, ChainAddress)> =
            release.body.contributors.iter().map(|one| (one.account, one.payout)).collect();
        shares.iter().all(|share| known.contains(&(share.account, share.payout)))
    }
}

/// What is found once more is one task.
pub(super) fn task_of(answer: &ReceiptId, auditor: &AccountId) -> Hash {
    Hash(blake3::derive_key("tributary audit for settlement v1", &[answer.0, auditor.0].concat()))
}
