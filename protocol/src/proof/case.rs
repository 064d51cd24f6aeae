//! The case against a worker: a receipt that it signed, with everything that the receipt commits to.
//!
//! Invariant: [`Case::compare`] is the one rule by which verifiers refute, payers compare and judges convict; what it
//! compares was bound to the worker's signature by [`Case::inconsistency`] before.

use core::mem::discriminant;

use bincode::{Decode, Encode};

use super::{Claim, Judgement, Need, Recomputed};
use crate::envelope::{NetworkId, Signed, verify_digest};
use crate::id::{Hash, Signature};
use crate::limits::TRANSCRIPT_MAX_BYTES;
use crate::message::{Audit, InferenceRequest, Release};
use crate::node::{method_of, shares_of};
use crate::receipt::{Receipt, ReceiptError, ReceiptOffer, Work};
use crate::transcript::Transcript;

/// What a worker signed and sent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Case {
    /// The receipt.
    pub receipt: Receipt,
    /// The worker's signature over its id, which is what convicts.
    pub worker_signature: Signature,
    /// The payer's, where it signed too.
    pub payer_signature: Option<Signature>,
    /// The question, whose id is the receipt's task.
    pub request: Signed<InferenceRequest>,
    /// The release with the contributors and the index that the receipt commits to.
    pub release: Signed<Release>,
    /// The transcript that the receipt commits to.
    pub transcript: Vec<u8>,
}

/// How a case compares with what was computed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Everything is as the worker signed.
    Equal,
    /// Something is not, and this is what, with the reason in words.
    Unequal(Claim, String),
    /// It can't be said.
    Unknown(String),
}

fn unequal(claim: Claim, reason: &str) -> Comparison {
    Comparison::Unequal(claim, reason.to_owned())
}

impl Case {
    /// The case of an answer that its payer has checked.
    #[must_use]
    pub fn of_audit(audit: &Audit, release: &Signed<Release>) -> Self {
        Self {
            receipt: audit.receipt.receipt.clone(),
            worker_signature: audit.receipt.worker_signature,
            payer_signature: Some(audit.receipt.payer_signature),
            request: audit.request.clone(),
            release: release.clone(),
            transcript: audit.transcript.clone(),
        }
    }

    /// The case of a receipt that the payer was offered and has not signed.
    #[must_use]
    pub fn of_offer(
        offer: &ReceiptOffer,
        request: &Signed<InferenceRequest>,
        release: &Signed<Release>,
        transcript: &[u8],
    ) -> Self {
        Self {
            receipt: offer.receipt.clone(),
            worker_signature: offer.worker_signature,
            payer_signature: None,
            request: request.clone(),
            release: release.clone(),
            transcript: transcript.to_vec(),
        }
    }

    /// The transcript, if it is the one that the receipt commits to.
    ///
    /// # Errors
    /// In words, why it is not.
    pub fn transcript(&self) -> Result<Transcript, &'static str> {
        let Work::Inference { transcript, .. } = &self.receipt.work else { return Err("the receipt is of no answer") };
        if Transcript::commitment(&self.transcript) != *transcript {
            return Err("the transcript is not the one that the receipt commits to");
        }
        Transcript::from_bytes(&self.transcript).map_err(|_| "the transcript cannot be read")
    }

    /// Why the parts do not belong together, if they do not: then they say nothing of the worker.
    #[must_use]
    pub fn inconsistency(&self) -> Option<&'static str> {
        self.unsigned().or_else(|| self.foreign()).or_else(|| self.transcript().err())
    }

    fn unsigned(&self) -> Option<&'static str> {
        let (receipt, network) = (&self.receipt, NetworkId(self.receipt.network));
        let digest = Hash(receipt.id().0);
        if verify_digest(&receipt.worker.0, digest, &self.worker_signature).is_err() {
            return Some("the receipt is not signed by its worker");
        }
        let paid = self.payer_signature.is_none_or(|own| verify_digest(&receipt.payer.0, digest, &own).is_ok());
        if !paid || self.request.verify(network).is_err() || self.release.verify(network).is_err() {
            return Some("a signature of payer or builder does not hold");
        }
        None
    }

    fn foreign(&self) -> Option<&'static str> {
        let (receipt, request, release) = (&self.receipt, &self.request, &self.release.body);
        let is_asked = request.id(NetworkId(receipt.network)).0 == receipt.task.0
            && request.account == receipt.payer
            && request.body.worker == receipt.worker_node;
        if !is_asked || !request.body.is_well_formed() {
            return Some("the receipt is for another question");
        }
        let is_released = release.adapter == request.body.adapter
            && (release.base, release.datanet, release.head) == (receipt.base, receipt.datanet, receipt.head)
            && release.index == receipt.attribution.index
            && release.contributors_commitment() == receipt.attribution.contributors
            && release.quality == receipt.attribution.quality;
        if !is_released || !release.is_well_formed() {
            return Some("the receipt commits to another release");
        }
        (self.transcript.len() > TRANSCRIPT_MAX_BYTES).then_some("the transcript is too long")
    }

    /// Whether this program knows how the receipt's shares are to be found.
    pub(super) fn is_known_method(&self) -> bool {
        let note = &self.receipt.attribution;
        (note.method.as_str(), note.version) == method_of(&self.request.body)
    }

    /// What is false by arithmetic alone, or that nothing is.
    fn arithmetic(&self) -> Option<(Claim, String)> {
        match self.receipt.check_terms() {
            Ok(()) | Err(ReceiptError::Name | ReceiptError::Network) => {}
            Err(error) => return Some((Claim::Sum, error.to_string())),
        }
        let transcript = self.transcript().ok()?;
        if shares_of(&self.release.body, &transcript.credits, &transcript.context) != self.receipt.shares {
            return Some((Claim::Sum, "the shares are not what the worker's own credits give".into()));
        }
        self.other_terms(&transcript).map(|reason| (Claim::Terms, reason.to_owned()))
    }

    fn other_terms(&self, sent: &Transcript) -> Option<&'static str> {
        let request = &self.request.body;
        let Work::Inference { adapter, prompt, prompt_tokens, answer_tokens, seed, .. } = &self.receipt.work else {
            return None;
        };
        let count = |tokens: &[u32]| u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if *adapter != request.adapter || *prompt != request.prompt.commitment() || *seed != request.decoding.seed {
            return Some("the receipt names another adapter, prompt or seed than was asked for");
        }
        if sent.output_tokens.is_empty() {
            return Some("no tokens were sent: any text would go with them");
        }
        if let Some(fault) = sent.context.fault(request.retrieve, self.release.body.contributors.len()) {
            return Some(fault);
        }
        let counted = (count(&sent.prompt_tokens), count(&sent.output_tokens)) == (*prompt_tokens, *answer_tokens);
        (!counted).then_some("the receipt counts other tokens than were sent")
    }

    /// Compares what the worker signed with what was computed again.
    #[must_use]
    pub fn compare(&self, again: &Recomputed) -> Comparison {
        if !self.is_known_method() {
            return Comparison::Unknown("the weights were found by a method that this program does not know".into());
        }
        if let Some(reason) = self.inconsistency() {
            return Comparison::Unknown(reason.to_owned());
        }
        if let Some((claim, reason)) = self.arithmetic() {
            return Comparison::Unequal(claim, reason);
        }
        if again.class != self.receipt.class {
            return Comparison::Unknown(format!("computed in class {}, here in {}", self.receipt.class, again.class));
        }
        let (Work::Inference { answer, fingerprints, logprobs, .. }, Ok(sent)) =
            (&self.receipt.work, self.transcript())
        else {
            return Comparison::Unknown("the receipt is of no answer".into());
        };
        if let Some(fault) = &again.fault {
            return unequal(Claim::Answer, fault);
        }
        if (*answer, *fingerprints) != (again.answer, again.fingerprints) {
            return unequal(Claim::Answer, "the receipt names another answer");
        }
        if *logprobs != again.logprobs {
            return unequal(Claim::Logprobs { commitment: again.logprobs }, "the tokens' probabilities are others");
        }
        if (&sent.credits, &sent.context.losses) != (&again.credits, &again.losses) {
            let claim = Claim::Weight { credits: again.credits.clone(), losses: again.losses.clone() };
            return unequal(claim, "the attribution weights are others");
        }
        Comparison::Equal
    }

    /// What can be judged by the case alone.
    pub(super) fn judge(&self, claim: &Claim) -> Judgement {
        if !self.is_known_method() {
            return Judgement::Unknown("the weights were found by a method that this program does not know".into());
        }
        if let Some(reason) = self.inconsistency() {
            return Judgement::Fails(reason.into());
        }
        match (self.arithmetic(), claim) {
            (Some((Claim::Sum, reason)), Claim::Sum) | (Some((Claim::Terms, reason)), Claim::Terms) => {
                Judgement::Proven(reason)
            }
            (None, Claim::Sum) => Judgement::Fails("the sums are as they must be".into()),
            (None, Claim::Terms) => Judgement::Fails("the receipt is for what was asked".into()),
            (Some((_, reason)), _) => Judgement::Unknown(format!("something else is false: {reason}")),
            (None, Claim::Weight { credits, losses })
                if self.transcript().is_ok_and(|sent| (&sent.credits, &sent.context.losses) == (credits, losses)) =>
            {
                Judgement::Fails("the proof itself says that the weights are right".into())
            }
            (None, Claim::Weight { .. } | Claim::Answer | Claim::Logprobs { .. }) => Judgement::Needs(Need::Answer),
        }
    }

    /// The judgement with what was computed again: a third result convicts nobody.
    pub(super) fn conclude(&self, claim: &Claim, again: &Recomputed) -> Judgement {
        match self.compare(again) {
            Comparison::Equal => Judgement::Fails("computed again, everything is as the worker signed".into()),
            Comparison::Unknown(reason) => Judgement::Unknown(reason),
            Comparison::Unequal(found, reason) if found == *claim => Judgement::Proven(reason),
            Comparison::Unequal(found, _) if discriminant(&found) == discriminant(claim) => {
                Judgement::Unknown("computed again, it comes to a third result".into())
            }
            Comparison::Unequal(_, reason) => Judgement::Unknown(format!("something else is unequal: {reason}")),
        }
    }
}
