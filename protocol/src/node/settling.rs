//! Audits for settlement: what an answer that the chain drew would have paid by the adapters that were really trained without
//! each contributor, as two who did not serve it find.
//!
//! Invariant: a payer signs what an auditor found about its own answer and nothing else, and asks nobody after two agree; an
//! auditor computes from what the worker committed to alone.

use std::collections::{BTreeMap, BTreeSet};

use super::terms::AuditTerms;
use super::{Event, Fact, Node, Out, shares_of};
use crate::batch::{AUDITORS, is_drawn, pair_of};
use crate::id::{AccountId, Hash, NodeId, ReceiptId};
use crate::limits::{OUTBOX_MAX, REPEATS_PER_TICK, RETRY_MS};
use crate::message::{Audit, Message};
use crate::receipt::{Receipt, ReceiptOffer};
use crate::transcript::Transcript;
use crate::verification::rendezvous;

/// Findings after which an answer whose auditors all disagree is left as it was paid.
const FINDINGS_MAX: usize = 4;

/// An auditor that was asked.
#[derive(Clone, Copy)]
struct Asked {
    since_ms: u64,
    sent_ms: u64,
}

#[derive(Default)]
struct Search {
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
    pub(super) fn apply_drawn(&mut self, receipt: ReceiptId) {
        if self.drawn.len() < OUTBOX_MAX {
            self.drawn.entry(receipt).or_default();
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
    /// The beacon of the epoch that counted an answer of this node first is known.
    pub(super) fn draw(&mut self, receipt: ReceiptId, beacon: &Hash, out: &mut Out) {
        if is_drawn(beacon, &receipt) && !self.settling.drawn.contains_key(&receipt) && !self.is_settled(&receipt) {
            self.record(Fact::AuditDrawn(receipt), out);
            out.event(Event::AuditDrawn(receipt));
        }
    }

    /// Whether two auditors agree on an answer already, or it is not known.
    fn is_settled(&self, receipt: &ReceiptId) -> bool {
        let found: Vec<&Receipt> = self.receipts.audits_of(receipt).collect();
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
        let found: Vec<&Receipt> = self.receipts.audits_of(&receipt).collect();
        let is_over = found.len() >= FINDINGS_MAX || self.is_settled(&receipt);
        let done: BTreeSet<AccountId> = found.iter().map(|one| one.worker).chain([self.account]).collect();
        let wanted = AUDITORS.saturating_sub(found.len()).max(1);
        // What it takes to compute the answer again may have made room for newer ones.
        let audit = self.audits.of_receipt(&receipt).filter(|_| !is_over).cloned();
        let (Some(audit), Some(search)) = (audit, self.settling.drawn.get_mut(&receipt)) else {
            self.settling.drawn.remove(&receipt);
            return;
        };
        let late = |asked: &Asked| now_ms.saturating_sub(asked.since_ms) > super::audits::patience_ms(&audit);
        search.given_up.extend(search.asked.iter().filter(|(_, asked)| late(asked)).map(|(node, _)| *node));
        let given_up = search.given_up.clone();
        let mut candidates = self.verifiers_for(now_ms, audit.receipt.receipt.worker_node, &given_up);
        candidates.retain(|node| self.peers.account_of(node).is_some_and(|account| !done.contains(&account)));
        let chosen = rendezvous(&receipt.0, &candidates, |node| node.0);
        for auditor in chosen.into_iter().take(wanted) {
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
        let Some(of) = offer.receipt.audited().filter(|of| self.settling.drawn.contains_key(of)) else { return };
        let Some(answer) = self.receipts.get(&of) else { return };
        let found = &offer.receipt;
        let terms = AuditTerms {
            network: self.config.network,
            answer: &answer.receipt,
            auditor: (found.worker, from, found.to.worker),
        };
        let account: Option<AccountId> = self.peers.account_of(&from);
        let agreed = terms.receipt(found.shares.clone(), &found.class, found.finished_ms);
        if account != Some(found.worker) || agreed.as_ref() != Ok(found) {
            return self.blame(Some(from), "found shares on other terms than an audit's".into(), out);
        }
        let signed = offer.countersign(&self.config.account_key);
        self.keep_receipt(now_ms, signed, out);
        self.seek_auditors(now_ms, of, out);
    }
}

/// What is found once more is one task.
pub(super) fn task_of(answer: &ReceiptId, auditor: &AccountId) -> Hash {
    Hash(blake3::derive_key("tributary audit for settlement v1", &[answer.0, auditor.0].concat()))
}
