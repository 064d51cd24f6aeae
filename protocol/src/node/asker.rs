//! Questions and answers: the payer's side, from question to checked answer.
//!
//! Invariant: a question is answered at most once and paid at most once; a worker that fails is left out and
//! the next one is asked; the payer signs only terms it computed itself from what it received. A question that no
//! worker would answer fails at once, since waiting would not help; what one worker calls final only counts when
//! nobody is left who says otherwise.

use std::collections::{BTreeMap, BTreeSet};

use super::io::FinishedAnswer;
use super::terms::AnswerTerms;
use super::{AnswerTranscript, Event, Fact, Node, Out, Output};
use crate::decoding::{Decoding, Prompt};
use crate::envelope::{self, Signed};
use crate::id::{Amount, ChainAddress, Hash, NodeId, ReceiptId};
use crate::limits::{ANSWER_TIMEOUT_MS, OUTBOX_MAX};
use crate::message::{Audit, Certificate, InferenceRequest, Message, computes_in};
use crate::proof::{Case, Claim, Judgement, Proof};
use crate::receipt::{Receipt, ReceiptOffer, SignedReceipt, Work as Done};
use crate::refusal::{Refusal, RefusalKind};
use crate::transcript::Transcript;
use crate::verification::{Outcome, Verdict, rendezvous};

/// The user asks.
#[derive(Debug, Clone)]
pub struct AskCommand {
    /// The user's key: a second command with it changes nothing, unless the first came to nothing.
    pub key: Hash,
    /// The adapter.
    pub adapter: Hash,
    /// The prompt.
    pub prompt: Prompt,
    /// How the answer is drawn.
    pub decoding: Decoding,
    /// How many records are to be retrieved for it at most.
    pub retrieve: u8,
    /// The most to pay, fees included.
    pub price_max: Amount,
    /// When to give up, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Have the answer checked whatever the audit rate says.
    pub check: bool,
}

/// A question as the user sees it.
#[derive(Debug, Clone)]
pub struct AskView {
    /// What was asked; for one of before a restart it is with what its recomputing needs ([`Node::audit_of`]).
    pub prompt: Option<Prompt>,
    /// The worker that is asked or answered.
    pub worker: Option<NodeId>,
    /// The answer.
    pub text: Option<String>,
    /// The receipt.
    pub receipt: Option<ReceiptId>,
    /// The finding of the check.
    pub verdict: Option<Signed<Verdict>>,
    /// Why there is no answer.
    pub failure: Option<Refusal>,
}

struct Ask {
    command: AskCommand,
    request: Option<Signed<InferenceRequest>>,
    worker: Option<NodeId>,
    asked_ms: u64,
    tried: BTreeSet<NodeId>,
    /// Workers that would refuse again.
    refused: BTreeSet<NodeId>,
    last: Refusal,
    receipt: Option<ReceiptId>,
    failure: Option<Refusal>,
}

impl Ask {
    fn is_open(&self) -> bool {
        self.receipt.is_none() && self.failure.is_none()
    }
}

#[derive(Default)]
pub(super) struct Asker {
    asks: BTreeMap<Hash, Ask>,
    verdicts: BTreeMap<Hash, Signed<Verdict>>,
    /// Workers one of whose answers was refuted: they are not asked again.
    refuted: BTreeSet<NodeId>,
    /// When workers last failed to answer: the others are asked before them for a while.
    failed_ms: BTreeMap<NodeId, u64>,
    settled: BTreeMap<Hash, ReceiptId>,
    /// The texts of answers, which were paid for and must outlive a restart.
    texts: BTreeMap<Hash, String>,
}

/// Workers whose final refusals end a question, though others were not asked: they all run the same model.
const FINAL_REFUSALS_MAX: usize = 3;
/// How long a worker that failed to answer comes after the others, in milliseconds.
const FAILED_FOR_MS: u64 = 60_000;

impl Asker {
    pub(super) fn apply_settled(&mut self, key: Hash, receipt: ReceiptId) {
        self.settled.insert(key, receipt);
        if let Some(ask) = self.asks.get_mut(&key) {
            ask.receipt = Some(receipt);
        }
    }

    pub(super) fn apply_answer(&mut self, key: Hash, text: String) {
        if self.texts.len() >= OUTBOX_MAX {
            self.texts.pop_first();
        }
        self.texts.insert(key, text);
    }

    pub(super) fn receipt_of(&self, key: &Hash) -> Option<ReceiptId> {
        self.settled.get(key).copied()
    }

    pub(super) fn apply_verdict(&mut self, key: Hash, verdict: Signed<Verdict>, worker: Option<NodeId>) {
        if matches!(verdict.body.outcome, Outcome::Refuted(_)) {
            self.refuted.extend(worker);
        }
        self.verdicts.insert(key, verdict);
    }

    pub(super) fn verdict_of(&self, key: &Hash) -> Option<&Signed<Verdict>> {
        self.verdicts.get(key)
    }

    fn note_failed(&mut self, now_ms: u64, worker: Option<NodeId>) {
        super::trim(&mut self.failed_ms, OUTBOX_MAX, |failed| now_ms.saturating_sub(*failed) < FAILED_FOR_MS);
        self.failed_ms.extend(worker.map(|worker| (worker, now_ms)));
    }

    pub(super) fn view(&self, key: &Hash) -> Option<AskView> {
        let verdict = self.verdicts.get(key).cloned();
        let receipt = self.settled.get(key).copied();
        let Some(ask) = self.asks.get(key) else {
            receipt?;
            let text = self.texts.get(key).cloned();
            return Some(AskView { prompt: None, worker: None, text, receipt, verdict, failure: None });
        };
        let text = self.texts.get(key).cloned();
        let prompt = Some(ask.command.prompt.clone());
        Some(AskView { prompt, worker: ask.worker, text, receipt, verdict, failure: ask.failure.clone() })
    }

    /// The keys of all questions that are open or were answered.
    pub(super) fn keys(&self) -> impl Iterator<Item = Hash> {
        let all: BTreeSet<Hash> = self.asks.keys().chain(self.settled.keys()).copied().collect();
        all.into_iter()
    }

    pub(super) fn verdicts(&self) -> impl Iterator<Item = &Signed<Verdict>> {
        self.verdicts.values()
    }
}

impl Node {
    pub(super) fn ask(&mut self, now_ms: u64, command: AskCommand, out: &mut Out) {
        let key = command.key;
        let came_to_nothing = |ask: &Ask| ask.failure.is_some();
        if self.asker.settled.contains_key(&key) || !self.asker.asks.get(&key).is_none_or(came_to_nothing) {
            return;
        }
        super::trim(&mut self.asker.asks, OUTBOX_MAX, |ask| ask.receipt.is_none() && ask.failure.is_none());
        let ask = Ask {
            command,
            request: None,
            worker: None,
            asked_ms: 0,
            tried: BTreeSet::new(),
            refused: BTreeSet::new(),
            last: "no peer serves this adapter".into(),
            receipt: None,
            failure: None,
        };
        self.asker.asks.insert(key, ask);
        self.ask_next(now_ms, key, out);
    }

    /// Asks the cheapest fresh worker that was not tried yet.
    fn ask_next(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(ask) = self.asker.asks.get(&key) else { return };
        let command = ask.command.clone();
        let worker = match self.choose_worker(now_ms, ask) {
            Ok(Some(worker)) => worker,
            Ok(None) => return,
            Err(refusal) => return self.fail_ask(key, refusal, out),
        };
        let body = InferenceRequest {
            node: self.id,
            worker,
            payer_address: self.config.chain_address,
            adapter: command.adapter,
            prompt: command.prompt,
            decoding: command.decoding,
            retrieve: command.retrieve,
            price_max: command.price_max,
            verifier: self.verifier_of(now_ms, key, worker).map(|(_, payout)| payout),
            key,
        };
        if !body.is_well_formed() {
            let reason = "the prompt or the number of tokens is out of bounds";
            return self.fail_ask(key, Refusal::new(RefusalKind::Invalid, reason), out);
        }
        let request = Signed::new(self.config.network, &self.config.account_key, body);
        let bytes = self.seal(now_ms, &Message::Question(Box::new(request.clone())));
        if let Some(ask) = self.asker.asks.get_mut(&key) {
            ask.worker = Some(worker);
            ask.asked_ms = now_ms;
            ask.tried.insert(worker);
            ask.request = Some(request);
        }
        out.push(Output::OpenAnswer { key, worker, bytes });
    }

    /// The worker to ask now: the cheapest that was not tried, this node itself when nobody else is left. Nobody
    /// when all were tried and may be tried again; the reason when asking is hopeless.
    fn choose_worker(&self, now_ms: u64, ask: &Ask) -> Result<Option<NodeId>, Refusal> {
        let adapter = ask.command.adapter;
        let mut serving = self.serving(now_ms, &adapter);
        let release = self.worker.release(&adapter).map(|release| &release.body);
        release.map_or(Ok(()), |release| self.check_payouts(release))?;
        let fee = release.map_or(Amount::ZERO, |release| release.answer_fee);
        let price = |node: &NodeId| Amount(self.posted_price(node).0.saturating_add(fee.0));
        let Some(cheapest) = serving.iter().map(price).min() else { return Ok(None) };
        if cheapest > ask.command.price_max {
            let (asks, most) = (cheapest.to_open(), ask.command.price_max.to_open());
            let reason = format!("an answer costs at least {asks} OPEN, fees included; the limit is {most} OPEN");
            return Err(Refusal::new(RefusalKind::Price, reason));
        }
        serving.retain(|node| price(node) <= ask.command.price_max && !ask.refused.contains(node));
        if ask.last.kind.is_final() && (serving.is_empty() || ask.refused.len() >= FINAL_REFUSALS_MAX) {
            return Err(ask.last.clone());
        }
        let untried: Vec<NodeId> = serving.into_iter().filter(|node| !ask.tried.contains(node)).collect();
        let failed = |node: &NodeId| {
            self.asker.failed_ms.get(node).is_some_and(|failed| now_ms.saturating_sub(*failed) < FAILED_FOR_MS)
        };
        let ranked = rendezvous(&ask.command.key.0, &untried, |node| node.0);
        Ok(ranked.into_iter().min_by_key(|node| (*node == self.id, failed(node), price(node))))
    }

    /// What an answer of `adapter` costs at least now, fees included; nothing when nobody is known to serve it.
    #[must_use]
    pub fn answer_price_from(&self, now_ms: u64, adapter: &Hash) -> Option<Amount> {
        let serving = self.serving(now_ms, adapter);
        let fee = self.worker.release(adapter)?.body.answer_fee;
        serving.iter().map(|node| self.posted_price(node)).min()?.checked_add(fee)
    }

    /// The nodes that serve `adapter` and were not found lying; this one last.
    fn serving(&self, now_ms: u64, adapter: &Hash) -> Vec<NodeId> {
        // Verifiers keep models too, to compute others' answers again.
        let mut serving = self.peers.fresh(now_ms, |record| record.roles.worker && record.serving.contains(adapter));
        serving.retain(|node| !self.asker.refuted.contains(node));
        if self.config.roles.worker && self.worker.is_serving(adapter) {
            serving.push(self.id);
        }
        serving
    }

    /// What a worker's record says it asks for an answer; this node asks nothing of itself.
    fn posted_price(&self, node: &NodeId) -> Amount {
        if *node == self.id {
            return Amount::ZERO;
        }
        self.peers.get(node).map_or(Amount(u128::MAX), |peer| peer.record.answer_price)
    }

    fn classes_of(&self, node: &NodeId) -> Option<&[String]> {
        if *node == self.id {
            return Some(&self.config.classes);
        }
        self.peers.get(node).map(|peer| peer.record.classes.as_slice())
    }

    pub(super) fn certificate_of(&self, node: &NodeId) -> Option<&Signed<Certificate>> {
        if *node == self.id {
            return Some(&self.certificate);
        }
        self.peers.get(node).map(|peer| &peer.record.certificate)
    }

    /// The verifier that everybody with the same view would ask about this question.
    fn verifier_of(&self, now_ms: u64, key: Hash, worker: NodeId) -> Option<(NodeId, ChainAddress)> {
        let candidates = self.verifiers_for(now_ms, worker, &BTreeSet::new());
        let node = *rendezvous(&key.0, &candidates, |node| node.0).first()?;
        Some((node, self.peers.get(&node)?.record.certificate.body.chain_address))
    }

    fn fail_ask(&mut self, key: Hash, refusal: Refusal, out: &mut Out) {
        if let Some(ask) = self.asker.asks.get_mut(&key) {
            ask.failure = Some(refusal.clone());
        }
        out.event(Event::AskFailed { key, reason: refusal.reason });
    }

    pub(super) fn answer_failed(&mut self, now_ms: u64, key: Hash, refusal: Refusal, out: &mut Out) {
        let Some(ask) = self.asker.asks.get_mut(&key) else { return };
        if ask.receipt.is_some() || ask.failure.is_some() {
            return;
        }
        let failed = ask.worker.take();
        ask.request = None;
        if refusal.kind.is_final() {
            ask.refused.extend(failed);
        }
        // What is final stays the reason, whatever a busy worker says after it.
        if refusal.kind.is_final() || !ask.last.kind.is_final() {
            ask.last = refusal;
        }
        self.asker.note_failed(now_ms, failed);
        self.ask_next(now_ms, key, out);
    }

    pub(super) fn answer_arrived(
        &mut self,
        now_ms: u64,
        key: Hash,
        offer: &[u8],
        transcript: Box<AnswerTranscript>,
        out: &mut Out,
    ) {
        let offer = match self.offered(now_ms, offer) {
            Ok(offer) => offer,
            Err(reason) => return self.answer_failed(now_ms, key, reason.into(), out),
        };
        match self.accept_answer(key, &offer, &transcript) {
            Ok(signed) => self.answer_accepted(now_ms, key, signed, *transcript, out),
            Err(reason) => {
                if let Some(proof) = self.falsehood(key, &offer, &transcript.transcript) {
                    let worker = self.asker.asks.get(&key).and_then(|ask| ask.worker);
                    self.asker.refuted.extend(worker);
                    self.keep_proof(&proof, out);
                }
                self.answer_failed(now_ms, key, reason.into(), out);
            }
        }
    }

    /// What proves that an offer which is refused is false by its own arithmetic, if it does.
    fn falsehood(&self, key: Hash, offer: &ReceiptOffer, transcript: &[u8]) -> Option<Proof> {
        let request = self.asker.asks.get(&key)?.request.as_ref()?;
        let case = Case::of_offer(offer, request, self.worker.release(&request.body.adapter)?, transcript);
        let proof = |claim| Proof::Answer { case: Box::new(case.clone()), claim };
        [Claim::Sum, Claim::Terms].map(proof).into_iter().find(|proof| matches!(proof.judge(), Judgement::Proven(_)))
    }

    /// The receipt offer that ended an answer's stream.
    fn offered(&mut self, now_ms: u64, bytes: &[u8]) -> Result<ReceiptOffer, String> {
        let opened = envelope::open(bytes, self.config.network, now_ms, &mut self.guard).map_err(|e| e.to_string())?;
        match Message::from_body(opened.kind, &opened.body).map_err(|error| error.to_string())? {
            Message::ReceiptOffered(offer) => Ok(*offer),
            _ => Err("the stream ended without a receipt".into()),
        }
    }

    /// Checks the offered receipt against what was asked and received.
    fn accept_answer(
        &self,
        key: Hash,
        offer: &ReceiptOffer,
        transcript: &AnswerTranscript,
    ) -> Result<SignedReceipt, String> {
        let ask = self.asker.asks.get(&key).ok_or("the question is not open")?;
        let request = ask.request.as_ref().filter(|_| ask.is_open()).ok_or("the question is not open")?;
        offer.verify(self.config.network).map_err(|error| error.to_string())?;
        let certificate = self.certificate_of(&request.body.worker).ok_or("the worker is unknown")?;
        let release = self.worker.release(&request.body.adapter).ok_or("the adapter's release is unknown here")?;
        let terms = AnswerTerms {
            network: self.config.network,
            request,
            release: &release.body,
            worker: certificate.account,
            worker_payout: certificate.body.chain_address,
            worker_price: offer.receipt.worker_part,
            treasury: self.config.treasury,
        };
        if offer.receipt.worker_part > self.posted_price(&request.body.worker) {
            return Err(format!("the worker asks {}, more than it posted", offer.receipt.worker_part));
        }
        if offer.receipt.price > request.body.price_max {
            return Err(format!("the price of {} is above the limit", offer.receipt.price));
        }
        let announced = self.classes_of(&request.body.worker).unwrap_or_default();
        if !computes_in(announced, &offer.receipt.class) {
            // A class that it did not announce would choose who can check the answer.
            return Err("the answer is of another class than its worker announced".into());
        }
        if !fits(&terms, &offer.receipt, transcript) {
            return Err("the receipt does not fit the question and the answer received".into());
        }
        Ok(offer.clone().countersign(&self.config.account_key))
    }

    fn answer_accepted(
        &mut self,
        now_ms: u64,
        key: Hash,
        signed: SignedReceipt,
        transcript: AnswerTranscript,
        out: &mut Out,
    ) {
        let receipt = signed.receipt.id();
        let request =
            self.asker.asks.get(&key).and_then(|ask| ask.request.clone().map(|request| (request, ask.command.check)));
        let draw = self.derived("audit", &receipt.0);
        let draw = u32::from_le_bytes([draw.0[0], draw.0[1], draw.0[2], draw.0[3]]) % 1_000_000;
        let audited = draw < self.config.audit_ppm;
        let Some((request, wanted)) = request else { return };
        let audit = Box::new(Audit { receipt: signed.clone(), request, transcript: transcript.transcript });
        self.record(Fact::AnswerKept { key, text: transcript.text, audit, check: audited || wanted }, out);
        self.record(Fact::Settled { key, receipt }, out);
        self.keep_receipt(now_ms, signed.clone(), out);
        out.event(Event::Answered { key, receipt: Box::new(signed) });
        self.audits_tick(now_ms, out);
    }

    pub(super) fn asker_tick(&mut self, now_ms: u64, out: &mut Out) {
        let open: Vec<Hash> = self
            .asker
            .asks
            .iter()
            .filter(|(_, ask)| ask.failure.is_none() && ask.receipt.is_none())
            .filter(|(_, ask)| {
                let late = now_ms.saturating_sub(ask.asked_ms) > ANSWER_TIMEOUT_MS;
                ask.worker.is_none() || late || now_ms > ask.command.deadline_ms
            })
            .map(|(key, _)| *key)
            .collect();
        for key in open {
            self.tick_unanswered(now_ms, key, out);
        }
    }

    fn tick_unanswered(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(ask) = self.asker.asks.get_mut(&key) else { return };
        if now_ms > ask.command.deadline_ms {
            let (refusal, silent) = (ask.last.clone(), ask.worker.take());
            // Whoever asks again asks the others first.
            self.asker.note_failed(now_ms, silent);
            return self.fail_ask(key, refusal, out);
        }
        if let Some(failed) = ask.worker.take() {
            ask.request = None;
            ask.last = format!("the answer did not end within {} s", ANSWER_TIMEOUT_MS / 1_000).into();
            self.asker.note_failed(now_ms, Some(failed));
        }
        self.ask_next(now_ms, key, out);
        if let Some(ask) = self.asker.asks.get_mut(&key).filter(|ask| ask.worker.is_none()) {
            // Everybody was tried: give each another chance until the deadline.
            ask.tried.clear();
        }
    }
}

/// Whether `receipt` is what these terms give for the answer that was received. The credits are the worker's
/// claim, which an audit recomputes; all else, the shares that they give too, the payer knows itself.
fn fits(terms: &AnswerTerms<'_>, receipt: &Receipt, transcript: &AnswerTranscript) -> bool {
    let Done::Inference { answer, prompt_tokens, answer_tokens, fingerprints, logprobs, .. } = &receipt.work else {
        return false;
    };
    let Ok(sent) = Transcript::from_bytes(&transcript.transcript) else { return false };
    if sent.output_tokens.is_empty()
        || sent.context.fault(terms.request.body.retrieve, terms.release.contributors.len()).is_some()
    {
        return false;
    }
    let counted = |tokens: &[u32], claimed: u32| u32::try_from(tokens.len()) == Ok(claimed);
    if !counted(&sent.prompt_tokens, *prompt_tokens) || !counted(&sent.output_tokens, *answer_tokens) {
        return false;
    }
    let are_wanted = terms.request.body.decoding.logprobs.is_some();
    let received = transcript.logprobs.filter(|_| are_wanted);
    if logprobs.is_some() != are_wanted || received != logprobs.map(|commitment| (*answer_tokens, commitment)) {
        return false;
    }
    if *answer != Hash::of(transcript.text.as_bytes()) || *fingerprints != transcript.fingerprints {
        return false;
    }
    let claimed = FinishedAnswer {
        answer: *answer,
        prompt_tokens: *prompt_tokens,
        answer_tokens: *answer_tokens,
        fingerprints: *fingerprints,
        logprobs: *logprobs,
        transcript: Transcript::commitment(&transcript.transcript),
        credits: sent.credits,
        context: sent.context,
        class: receipt.class.clone(),
    };
    let expected = terms.receipt(&claimed, receipt.sequence, receipt.finished_ms);
    expected.is_ok_and(|expected| expected == *receipt) && receipt.check_terms().is_ok()
}
