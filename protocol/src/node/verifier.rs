//! Checking others' work: replays segments of trainings and re-executes answers.
//!
//! Invariant: a verdict is about exactly what the requester asked and what the worker committed; what cannot be
//! checked is an abstention. Nothing here is durable: a lost check is asked for again.

use std::collections::BTreeMap;

use super::io::Work;
use super::{Node, Out, Output};
use crate::envelope::Signed;
use crate::id::{Hash, NodeId, TaskId};
use crate::limits::{FETCH_RETRY_MS, SEGMENTS_MAX, TASKS_MAX, VERIFY_TIMEOUT_MS};
use crate::message::{Audit, CheckWanted, Message, computes_in};
use crate::proof::Proof;
use crate::task::task_id;
use crate::verification::{Outcome, Subject, Verdict, beacon_commitment, sample_segments};

struct Check {
    task: TaskId,
    subject: Subject,
    asker: NodeId,
    asked_ms: u64,
    /// What is to be found for settlement, where that is what was asked and as long as it is computed: it is large.
    audit: Option<Box<Audit>>,
    /// What was found, as the asker is told.
    found: Option<Message>,
}

#[derive(Default)]
pub(super) struct Verifier {
    checks: BTreeMap<Hash, Check>,
}

impl Check {
    /// What could not be checked then, perhaps can now.
    fn deserves_another_try(&self, now_ms: u64) -> bool {
        let abstained = |found: &Message| match found {
            Message::Verdict(verdict) => matches!(verdict.body.outcome, Outcome::Abstained(_)),
            _ => false,
        };
        self.found.as_ref().is_some_and(abstained) && now_ms.saturating_sub(self.asked_ms) >= FETCH_RETRY_MS
    }
}

/// Checks a node runs at once; more are refused by silence, and the asker turns to the next verifier.
const CHECKS_AT_ONCE: usize = 16;

/// Of these, those for settlement, which take a forward pass for each contributor.
const AUDITS_AT_ONCE: usize = 4;
/// Of these, those of one payer, which asks for no more at a time.
pub(super) const AUDITS_OF_PAYER: usize = 2;

impl Node {
    /// Starts a check unless it is known; a finished one is answered again.
    fn begin_check(&mut self, now_ms: u64, job: Hash, check: Check, out: &mut Out) -> bool {
        let of_payer = |one: &&Check| one.asker == check.asker;
        let settling = || self.verifier.checks.values().filter(|one| one.audit.is_some() && one.found.is_none());
        let is_crowded = check.audit.is_some()
            && (settling().count() >= AUDITS_AT_ONCE || settling().filter(of_payer).count() >= AUDITS_OF_PAYER);
        let known = self.verifier.checks.get(&job);
        if let Some(known) = known.filter(|known| !known.deserves_another_try(now_ms)) {
            let (asker, found) = (known.asker, known.found.clone());
            if let Some(found) = found {
                self.send(now_ms, asker, &found, out);
            }
            return false;
        }
        let running = self.verifier.checks.values().filter(|check| check.found.is_none()).count();
        if !self.config.roles.verifier || running >= CHECKS_AT_ONCE || is_crowded {
            return false;
        }
        self.forget_checks(now_ms);
        self.verifier.checks.insert(job, check);
        true
    }

    /// Keeps findings for those who ask again, but never more than [`TASKS_MAX`] of them: the oldest half goes.
    fn forget_checks(&mut self, now_ms: u64) {
        super::trim(&mut self.verifier.checks, TASKS_MAX, |check| {
            check.found.is_none() || now_ms.saturating_sub(check.asked_ms) < 10 * VERIFY_TIMEOUT_MS
        });
        if self.verifier.checks.len() < TASKS_MAX {
            return;
        }
        let mut asked: Vec<u64> = self.verifier.checks.values().map(|check| check.asked_ms).collect();
        asked.sort_unstable();
        let middle = asked.get(asked.len() / 2).copied().unwrap_or(now_ms);
        self.verifier.checks.retain(|_, check| check.found.is_none() || check.asked_ms > middle);
    }

    pub(super) fn check_wanted(&mut self, now_ms: u64, from: NodeId, wanted: CheckWanted, out: &mut Out) {
        let network = self.config.network;
        let task = task_id(network, &wanted.offer);
        let committed = wanted.result.id(network);
        let job = self.derived("check", &committed.0);
        let opens = beacon_commitment(&wanted.secret) == wanted.offer.body.beacon_commitment;
        let signed = wanted.offer.verify(network).is_ok() && wanted.result.verify(network).is_ok();
        if !opens || !signed || wanted.result.body.task != task || wanted.offer.body.node != from {
            return self.blame(Some(from), "asked for a check that does not fit its offer".into(), out);
        }
        let subject = Subject::Training(committed);
        let check = Check { task, subject, asker: from, asked_ms: now_ms, audit: None, found: None };
        if !self.begin_check(now_ms, job, check, out) {
            return;
        }
        let result = &wanted.result.body;
        let offer = &wanted.offer.body;
        let mut segments = sample_segments(&wanted.secret, &committed, result.segments(), offer.segments_checked);
        if result.steps < offer.work.steps {
            // A run that ended early is paid for less work: that its recipe really ended it there is always checked.
            include_last(&mut segments, result.segments());
        }
        if !computes_in(&self.config.classes, &wanted.result.body.class) {
            let reason = format!("class {} is not {}", wanted.result.body.class, self.config.classes.join(" or "));
            return self.replayed(now_ms, job, Outcome::Abstained(reason), Vec::new(), out);
        }
        let work = Work::Replay {
            offer: Box::new(wanted.offer),
            result: Box::new(wanted.result),
            worker: wanted.worker,
            segments,
        };
        out.push(Output::Start { job, work });
    }

    pub(super) fn audit_wanted(&mut self, now_ms: u64, from: NodeId, audit: Audit, out: &mut Out) {
        self.begin_audit(now_ms, from, audit, false, out);
    }

    /// A payer asks what its answer would have paid by what each contributor's absence really changes.
    pub(super) fn shares_wanted(&mut self, now_ms: u64, from: NodeId, audit: Audit, out: &mut Out) {
        self.begin_audit(now_ms, from, audit, true, out);
    }

    fn begin_audit(&mut self, now_ms: u64, from: NodeId, audit: Audit, settles: bool, out: &mut Out) {
        let network = self.config.network;
        let (terms, request) = (&audit.receipt.receipt, &audit.request);
        let fits = request.body.node == from
            && request.account == terms.payer
            && request.id(network).0 == terms.task.0
            && request.body.worker == terms.worker_node;
        if !fits || audit.receipt.verify(network).is_err() || audit.request.verify(network).is_err() {
            return self.blame(Some(from), "asked to check an answer that is not signed or not its own".into(), out);
        }
        let receipt = audit.receipt.receipt.id();
        let Some(release) = self.worker.release(&audit.request.body.adapter).cloned() else { return };
        let job = self.derived(if settles { "shares" } else { "audit" }, &receipt.0);
        let (task, subject) = (audit.receipt.receipt.task, Subject::Answer(receipt));
        let class = audit.receipt.receipt.class.clone();
        let (audit, release) = (Box::new(audit), Box::new(release));
        let kept = settles.then(|| audit.clone());
        let check = Check { task, subject, asker: from, asked_ms: now_ms, audit: kept, found: None };
        if self.begin_check(now_ms, job, check, out) {
            if settles && !computes_in(&self.config.classes, &class) {
                // What is signed as found in a class is proven false by who computes in it.
                let reason = format!("class {class} is not {}", self.config.classes.join(" or "));
                return self.replayed(now_ms, job, Outcome::Abstained(reason), Vec::new(), out);
            }
            let work = match settles {
                true => Work::TrueCredits { audit, release },
                false => Work::CheckAnswer { audit, release },
            };
            out.push(Output::Start { job, work });
        }
    }

    /// What each contributor's absence really changes in an answer was computed: its payer is offered the receipt of it.
    pub(super) fn true_credits(&mut self, now_ms: u64, job: Hash, credits: &[(u32, i64)], out: &mut Out) {
        let Some(check) = self.verifier.checks.get_mut(&job).filter(|check| check.found.is_none()) else { return };
        let audit = check.audit.take();
        let offer = audit.and_then(|audit| self.found_shares(&audit, credits, now_ms));
        let Some(offer) = offer else {
            self.abstain(now_ms, job, "the answer's transcript can't be read", out);
            return;
        };
        let Some(check) = self.verifier.checks.get_mut(&job) else { return };
        let message = Message::ReceiptOffered(Box::new(offer));
        check.found = Some(message.clone());
        let asker = check.asker;
        self.send(now_ms, asker, &message, out);
    }

    pub(super) fn replayed(&mut self, now_ms: u64, job: Hash, outcome: Outcome, checked: Vec<u32>, out: &mut Out) {
        self.say_verdict(now_ms, job, outcome, checked, None, out);
    }

    fn say_verdict(
        &mut self,
        now_ms: u64,
        job: Hash,
        outcome: Outcome,
        checked: Vec<u32>,
        proof: Option<Hash>,
        out: &mut Out,
    ) {
        let Some(check) = self.verifier.checks.get_mut(&job) else { return };
        let outcome = outcome.cut();
        let body = Verdict { task: check.task, subject: check.subject, checked, outcome, proof };
        let verdict = Signed::new(self.config.network, &self.config.account_key, body);
        let message = Message::Verdict(Box::new(verdict));
        check.audit = None;
        check.found = Some(message.clone());
        let asker = check.asker;
        self.send(now_ms, asker, &message, out);
    }

    pub(super) fn answer_checked(
        &mut self,
        now_ms: u64,
        job: Hash,
        outcome: Outcome,
        checked: Vec<u32>,
        out: &mut Out,
    ) {
        self.replayed(now_ms, job, outcome, checked, out);
    }

    /// A check found something false that anybody can be shown: the proof is kept before the verdict names it.
    pub(super) fn answer_false(
        &mut self,
        now_ms: u64,
        job: Hash,
        reason: String,
        checked: Vec<u32>,
        proof: &Proof,
        out: &mut Out,
    ) {
        if self.verifier.checks.contains_key(&job) {
            let kept = self.keep_proof(proof, out);
            self.say_verdict(now_ms, job, Outcome::Refuted(reason), checked, kept, out);
        }
    }

    /// Whether `job` is a check of this node, which then abstains because the job failed here.
    pub(super) fn abstain(&mut self, now_ms: u64, job: Hash, reason: &str, out: &mut Out) -> bool {
        if !self.verifier.checks.contains_key(&job) {
            return false;
        }
        self.replayed(now_ms, job, Outcome::Abstained(reason.to_owned()), Vec::new(), out);
        true
    }
}

/// Has the last of `count` segments among those checked, in the place of the last drawn when there is no more room.
fn include_last(segments: &mut Vec<u32>, count: u32) {
    let Some(last) = count.checked_sub(1).filter(|last| !segments.contains(last)) else { return };
    segments.truncate(SEGMENTS_MAX - 1);
    segments.push(last);
}

#[cfg(test)]
mod tests {
    use super::{SEGMENTS_MAX, include_last};

    #[test]
    fn the_segment_in_which_a_run_ended_is_among_the_checked() {
        let after = |mut segments: Vec<u32>, count: u32| {
            include_last(&mut segments, count);
            segments
        };
        assert_eq!(after(vec![0, 2], 6), [0, 2, 5]);
        assert_eq!(after(vec![0, 5], 6), [0, 5]);
        assert_eq!(after(Vec::new(), 0), [0_u32; 0]);
        let full = after((0_u32..).take(SEGMENTS_MAX).collect(), 100);
        assert_eq!((full.len(), full.last()), (SEGMENTS_MAX, Some(&99)));
    }
}
