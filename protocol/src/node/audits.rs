//! The payer's checks of its answers by another peer, and what recomputing them needs.
//!
//! Invariant: what a check needs is durable with the answer itself, so a restarted payer goes on asking; a
//! verifier that abstains or is late is left out, and an answer has at most one verdict that counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Event, Fact, Node, Out, Output};
use crate::envelope::Signed;
use crate::id::{Hash, NodeId, ReceiptId};
use crate::limits::{OUTBOX_MAX, PROOF_MAX_BYTES, RETRY_MS, TRANSCRIPTS_KEPT_BYTES, VERIFY_TIMEOUT_MS};
use crate::message::{Audit, Message};
use crate::verification::{Outcome, Subject, Verdict, rendezvous};

struct Check {
    audit: Audit,
    verifier: Option<NodeId>,
    given_up: BTreeSet<NodeId>,
    since_ms: u64,
    sent_ms: u64,
}

/// What recomputing this node's answers needs, the oldest first out.
#[derive(Default)]
struct Shelf {
    audits: BTreeMap<Hash, Box<Audit>>,
    /// The key of each receipt.
    keys: BTreeMap<ReceiptId, Hash>,
    order: VecDeque<Hash>,
    bytes: usize,
}

/// What an audit counts beside its transcript: signatures, question and receipt.
const AUDIT_COST_BYTES: usize = 2 * 1024;

impl Shelf {
    fn cost(audit: &Audit) -> usize {
        AUDIT_COST_BYTES + audit.transcript.len() + audit.request.body.prompt.len()
    }

    fn insert(&mut self, key: Hash, audit: Box<Audit>) {
        self.bytes += Self::cost(&audit);
        self.keys.insert(audit.receipt.receipt.id(), key);
        if let Some(earlier) = self.audits.insert(key, audit) {
            self.bytes -= Self::cost(&earlier);
        } else {
            self.order.push_back(key);
        }
        while self.bytes > TRANSCRIPTS_KEPT_BYTES {
            let Some(oldest) = self.order.pop_front().and_then(|key| self.audits.remove(&key)) else { return };
            self.bytes -= Self::cost(&oldest);
            self.keys.remove(&oldest.receipt.receipt.id());
        }
    }
}

#[derive(Default)]
pub(super) struct Audits {
    open: BTreeMap<Hash, Check>,
    kept: Shelf,
}

impl Audits {
    pub(super) fn apply_kept(&mut self, key: Hash, audit: Box<Audit>, check: bool) {
        if check && self.open.len() < OUTBOX_MAX {
            let audit = (*audit).clone();
            let check = Check { audit, verifier: None, given_up: BTreeSet::new(), since_ms: 0, sent_ms: 0 };
            self.open.insert(key, check);
        }
        self.kept.insert(key, audit);
    }

    pub(super) fn apply_verdict(&mut self, key: &Hash) {
        self.open.remove(key);
    }

    /// Whether there is any answer that could be computed again.
    pub(super) fn keeps_any(&self) -> bool {
        !self.kept.keys.is_empty()
    }

    /// The same, by the answer's receipt.
    pub(super) fn of_receipt(&self, receipt: &ReceiptId) -> Option<&Audit> {
        self.of(self.kept.keys.get(receipt)?)
    }

    /// What recomputing an answer of this node needs.
    pub(super) fn of(&self, key: &Hash) -> Option<&Audit> {
        self.kept.audits.get(key).map(AsRef::as_ref)
    }
}

/// How long a verifier has: where records stood before the question, it computes the answer's losses under many coalitions.
pub(super) fn patience_ms(audit: &Audit) -> u64 {
    match audit.request.body.retrieve {
        0 => VERIFY_TIMEOUT_MS,
        _ => RETRIEVAL_VERIFY_FACTOR * VERIFY_TIMEOUT_MS,
    }
}

/// Times the usual patience, for an answer with records.
const RETRIEVAL_VERIFY_FACTOR: u64 = 8;

impl Node {
    pub(super) fn audits_tick(&mut self, now_ms: u64, out: &mut Out) {
        let open: Vec<Hash> = self.audits.open.keys().copied().collect();
        for key in open {
            self.tick_check(now_ms, key, out);
        }
    }

    fn tick_check(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(check) = self.audits.open.get(&key) else { return };
        let worker = check.audit.receipt.receipt.worker_node;
        let candidates = self.verifiers_for(now_ms, worker, &check.given_up);
        let next = rendezvous(&key.0, &candidates, |node| node.0).first().copied();
        let Some(check) = self.audits.open.get_mut(&key) else { return };
        let late = now_ms.saturating_sub(check.since_ms) > patience_ms(&check.audit);
        if check.verifier.is_none_or(|verifier| late || !candidates.contains(&verifier)) {
            if let Some(late) = check.verifier.filter(|_| late) {
                check.given_up.insert(late);
            }
            (check.verifier, check.since_ms, check.sent_ms) = (next, now_ms, 0);
        }
        let due = now_ms.saturating_sub(check.sent_ms) >= RETRY_MS;
        if let (Some(verifier), true) = (check.verifier, due) {
            check.sent_ms = now_ms;
            let message = Message::AuditWanted(Box::new(check.audit.clone()));
            self.send(now_ms, verifier, &message, out);
        }
    }

    pub(super) fn answer_verdict(&mut self, from: NodeId, verdict: Signed<Verdict>, out: &mut Out) {
        let Subject::Answer(receipt) = verdict.body.subject else { return };
        let outcome = &verdict.body.outcome;
        // A verdict of the ordinary check of the same answer is not about its shares.
        let finds_none = matches!(outcome, Outcome::Abstained(_) | Outcome::Refuted(_));
        let audits = finds_none && self.settling.declined(&receipt, from);
        let is_proven = matches!(outcome, Outcome::Refuted(_)) && verdict.body.proof.is_some();
        if audits && is_proven {
            return self.refuted_by_auditor(from, &receipt, verdict, out);
        }
        let about = |check: &Check| check.audit.receipt.receipt.id() == receipt && check.verifier == Some(from);
        let Some((key, check)) = self.audits.open.iter_mut().find(|(_, check)| about(check)) else { return };
        // What nobody can be shown is a word against a word: it counts as little as none.
        let is_unproven = matches!(verdict.body.outcome, Outcome::Refuted(_)) && verdict.body.proof.is_none();
        if is_unproven || matches!(verdict.body.outcome, Outcome::Abstained(_)) {
            check.given_up.insert(from);
            check.verifier = None;
            return;
        }
        let key = *key;
        self.take_verdict(from, key, verdict, out);
    }

    /// What an auditor for settlement can prove counts as if it had been asked for an ordinary check, also after one that ended well.
    fn refuted_by_auditor(&mut self, from: NodeId, receipt: &ReceiptId, verdict: Signed<Verdict>, out: &mut Out) {
        let Some(key) = self.audits.kept.keys.get(receipt).copied() else { return };
        let known = self.asker.verdict_of(&key).map(|known| &known.body.outcome);
        if !matches!(known, Some(Outcome::Refuted(_))) {
            self.take_verdict(from, key, verdict, out);
        }
    }

    fn take_verdict(&mut self, from: NodeId, key: Hash, verdict: Signed<Verdict>, out: &mut Out) {
        if let Some(blob) = verdict.body.proof {
            // Not waited for: whoever wants it later asks the verifier again.
            let bytes = u64::try_from(PROOF_MAX_BYTES).unwrap_or(u64::MAX);
            out.push(Output::Fetch { blob, bytes, providers: vec![from] });
        }
        self.record(Fact::AnswerVerdict { key, verdict: Box::new(verdict.clone()) }, out);
        out.event(Event::AnswerChecked { key, verdict: Box::new(verdict) });
    }
}
