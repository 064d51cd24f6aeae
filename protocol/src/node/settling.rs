//! Audits for settlement: what an answer that the chain drew would have paid by the adapters that were really trained without
//! each contributor, as two who did not serve it find.
//!
//! Invariant: a payer signs only what an auditor whose turn it was found about its own answer, with shares of the model's
//! contributors alone, and asks nobody after two agree; until then findings are never too late. Whom it asks is fixed once, when
//! the answer is drawn, in an order that only it can compute, among those who were known as verifiers when it heard of the block:
//! who comes then finds no name that is asked, and where there were fewer than two nobody audits the answer, ever. An auditor is
//! asked about few answers at a time, as many as it takes. It computes from what the worker committed to alone.

use std::collections::{BTreeMap, BTreeSet};

use super::terms::AuditTerms;
use super::{Event, Fact, Node, Out, shares_of};
use crate::attribution::Share;
use crate::batch::{AUDITORS, has_part, is_drawn, pair_of};
use crate::id::{AccountId, ChainAddress, Hash, NodeId, ReceiptId};
use crate::limits::{OUTBOX_MAX, REPEATS_PER_TICK, RETRY_MS};
use crate::message::{Audit, Message, computes_in};
use crate::node::verifier::AUDITS_OF_PAYER;
use crate::receipt::ReceiptOffer;
use crate::transcript::Transcript;
use crate::verification::rendezvous;

/// Verifiers of one answer that may be asked, and so see it.
const AUDITORS_MAX: usize = 4;
/// How long an auditor is waited for before another is asked beside it, in milliseconds: an hour. It fetches all leave-out
/// adapters first, and a busy one computes four audits one after the other, each for up to a quarter of an hour.
const PATIENCE_MS: u64 = 3_600_000;
/// Doublings of the pause between repeats: a question is up to a quarter of a megabyte, and most repeats find somebody computing.
const DOUBLINGS_MAX: u32 = 5;

/// An auditor that was asked and has not said anything yet.
#[derive(Clone, Copy)]
struct Asked {
    since_ms: u64,
    sent_ms: u64,
    tries: u32,
}

impl Asked {
    fn is_due(&self, now_ms: u64) -> bool {
        let pause_ms = RETRY_MS << self.tries.saturating_sub(1).min(DOUBLINGS_MAX);
        self.tries == 0 || now_ms.saturating_sub(self.sent_ms) >= pause_ms
    }
}

#[derive(Default)]
struct Search {
    /// How many were drawn before it.
    number: u64,
    /// Who may be asked, in this order.
    auditors: Vec<NodeId>,
    asked: BTreeMap<NodeId, Asked>,
    /// Who found something, declined or was late.
    over: BTreeSet<NodeId>,
    /// Who was late with another answer, before it was asked about this one.
    skipped: BTreeSet<NodeId>,
}

impl Search {
    /// Whether the auditor was asked, or is among those who are asked first: who was asked before a restart may still find
    /// something. The others are not heard before the first ones fail, or two liars could be quicker than these.
    fn hears(&self, auditor: &NodeId) -> bool {
        let first = self.auditors.iter().take(AUDITORS).any(|node| node == auditor);
        first || self.was_asked(auditor)
    }

    fn was_asked(&self, auditor: &NodeId) -> bool {
        self.asked.contains_key(auditor) || self.over.contains(auditor)
    }

    fn end(&mut self, auditor: NodeId) {
        self.asked.remove(&auditor);
        self.over.insert(auditor);
    }
}

/// The answers of this node that are to be audited.
#[derive(Default)]
pub(super) struct Settling {
    drawn: BTreeMap<ReceiptId, Search>,
    /// All that were ever drawn, one in sixteen of the answers of this node, whose receipts it keeps always.
    fixed: BTreeSet<ReceiptId>,
    /// Where the last turn through them ended.
    last: Option<ReceiptId>,
}

impl Settling {
    pub(super) fn apply_drawn(&mut self, receipt: ReceiptId, auditors: Vec<NodeId>) {
        if !self.fixed.insert(receipt) || auditors.is_empty() {
            return;
        }
        if self.drawn.len() >= OUTBOX_MAX {
            let oldest = self.drawn.iter().min_by_key(|(_, search)| search.number).map(|(receipt, _)| *receipt);
            oldest.and_then(|oldest| self.drawn.remove(&oldest));
        }
        let number = u64::try_from(self.fixed.len()).unwrap_or(u64::MAX);
        self.drawn.insert(receipt, Search { number, auditors, ..Search::default() });
    }

    /// A verifier that was asked says that it finds no shares. Whether it was asked.
    pub(super) fn declined(&mut self, receipt: &ReceiptId, auditor: NodeId) -> bool {
        let asked = self.drawn.get_mut(receipt).filter(|search| search.was_asked(&auditor));
        asked.map(|search| search.end(auditor)).is_some()
    }

    /// Who is asked about as many answers as it takes at a time.
    fn is_busy(&self, auditor: &NodeId) -> bool {
        self.drawn.values().filter(|search| search.asked.contains_key(auditor)).take(AUDITS_OF_PAYER).count()
            >= AUDITS_OF_PAYER
    }

    /// Who kept silent about one answer for so long is not waited for with the others either; what it finds still counts.
    fn end_late(&mut self, now_ms: u64, receipt: &ReceiptId) {
        let is_late = |asked: &Asked| now_ms.saturating_sub(asked.since_ms) > PATIENCE_MS;
        let asked = self.drawn.get(receipt).into_iter().flat_map(|search| &search.asked);
        let late: Vec<NodeId> = asked.filter(|(_, asked)| is_late(asked)).map(|(node, _)| *node).collect();
        for search in self.drawn.values_mut() {
            for node in &late {
                if search.asked.contains_key(node) {
                    search.end(*node);
                } else if search.auditors.contains(node) {
                    search.skipped.insert(*node);
                }
            }
        }
    }
}

impl Node {
    /// The beacon of the epoch that counted an answer of this node first is known: whom it asks, if it is drawn, is fixed now
    /// and for ever, among those who were known as verifiers by then.
    pub(super) fn draw(&mut self, now_ms: u64, receipt: ReceiptId, (beacon, known_by_ms): (&Hash, u64), out: &mut Out) {
        // Who has no answer checked shows his questions to nobody but their workers.
        let discloses = self.config.audit_ppm > 0;
        let is_new = !self.settling.fixed.contains(&receipt) && !self.is_settled(&receipt);
        let answer = self.receipts.get(&receipt).filter(|_| discloses && is_new && is_drawn(beacon, &receipt));
        let Some(answer) = answer.map(|signed| &signed.receipt) else { return };
        let account_of = |node: &NodeId| self.peers.account_of(node);
        let mut accounts = BTreeSet::new();
        let mut verifiers = self.verifiers_for(now_ms, answer.worker_node, &BTreeSet::new());
        // Who computes in another class can only decline, and would take the place of one who can find something.
        let can =
            |node: &NodeId| self.peers.get(node).is_some_and(|peer| computes_in(&peer.record.classes, &answer.class));
        verifiers.retain(|node| self.peers.verified_by(node, known_by_ms) && can(node));
        let order = rendezvous(&self.derived("auditors", &receipt.0).0, &verifiers, |node| node.0);
        let eligible = order.into_iter().filter(|node| {
            account_of(node).is_some_and(|account| !has_part(account, answer, answer) && accounts.insert(account))
        });
        let mut auditors: Vec<NodeId> = eligible.take(AUDITORS_MAX).collect();
        if auditors.len() < AUDITORS {
            // Waiting for more would have whoever knows the block make them.
            auditors.clear();
        } else {
            out.event(Event::AuditDrawn(receipt));
        }
        self.record(Fact::AuditDrawn { receipt, auditors }, out);
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
        self.settling.end_late(now_ms, &receipt);
        let found = self.receipts.audits_of(&receipt);
        let is_over = found.len() >= AUDITORS_MAX || self.is_settled(&receipt);
        let done: BTreeSet<NodeId> = found.iter().map(|one| one.worker_node).collect();
        let wanted = AUDITORS.saturating_sub(found.len()).max(1);
        // What it takes to compute the answer again may have made room for newer ones.
        let audit = self.audits.of_receipt(&receipt).filter(|_| !is_over).cloned();
        let (Some(audit), Some(search)) = (audit, self.settling.drawn.get(&receipt)) else {
            self.settling.drawn.remove(&receipt);
            return;
        };
        let is_left = |node: &&NodeId| ![&search.over, &search.skipped, &done].iter().any(|set| set.contains(*node));
        let chosen: Vec<NodeId> = search.auditors.iter().filter(is_left).take(wanted).copied().collect();
        for auditor in chosen {
            self.ask_auditor(now_ms, receipt, auditor, &audit, out);
        }
    }

    fn ask_auditor(&mut self, now_ms: u64, receipt: ReceiptId, auditor: NodeId, audit: &Audit, out: &mut Out) {
        let is_busy = self.settling.is_busy(&auditor);
        let Some(search) = self.settling.drawn.get_mut(&receipt) else { return };
        if is_busy && !search.asked.contains_key(&auditor) {
            return;
        }
        let asked = search.asked.entry(auditor).or_insert(Asked { since_ms: now_ms, sent_ms: 0, tries: 0 });
        if asked.is_due(now_ms) {
            (asked.sent_ms, asked.tries) = (now_ms, asked.tries.saturating_add(1));
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
        let is_heard = self.settling.drawn.get(&of).is_some_and(|search| search.hears(&from));
        let Some(answer) = self.receipts.get(&of).filter(|_| is_heard) else { return };
        let found = &offer.receipt;
        let terms = AuditTerms {
            network: self.config.network,
            answer: &answer.receipt,
            auditor: (found.worker, from, found.to.worker),
        };
        let account: Option<AccountId> = self.peers.account_of(&from);
        // In another class nobody could be convicted of what he found.
        let agreed = terms.receipt(found.shares.clone(), &answer.receipt.class, found.finished_ms);
        let holds = agreed.as_ref() == Ok(found) && self.are_contributors(&of, &found.shares);
        if account != Some(found.worker) || !holds {
            return self.blame(Some(from), "found shares on other terms than an audit's".into(), out);
        }
        let signed = offer.countersign(&self.config.account_key);
        self.keep_receipt(now_ms, signed, out);
        self.settling.drawn.entry(of).and_modify(|search| search.end(from));
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
