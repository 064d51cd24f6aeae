//! Proofs of falsification: a file that convicts whoever signed something false, before anybody who reads it.
//!
//! A proof brings all that a judge needs: the receipt with its worker's signature, the signed question that the receipt's
//! task is the hash of, the transcript and the list of contributors that it commits to. Sums, shares and terms are judged
//! by these alone, in integers. Whether an answer, its probabilities or its weights are what base, adapter and index give
//! takes one computation, whose result comes in as [`Found`]; a row of an index is recomputed from its two adapters,
//! without a model; a span index is judged by the pages shown; an audit for settlement by the answer and all leave-out
//! adapters.
//!
//! Invariant: nobody is convicted by anything but bytes that they signed or committed to in what they signed. What cannot
//! be computed here, was computed in another determinism class, or comes to a third result convicts nobody
//! ([`Judgement::Unknown`]); a proof whose parts do not belong together convicts nobody either ([`Judgement::Fails`]).

mod case;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::attribution::Share;
use crate::envelope::{NetworkId, Signed, verify_digest};
use crate::id::{AccountId, Hash, Signature};
use crate::limits::PROOF_MAX_BYTES;
use crate::message::Release;
use crate::receipt::Receipt;
use crate::span::{self, SpanRoots};
use crate::wire::{self, WireError};

pub use case::{Case, Comparison};

/// What a proof's file begins with.
pub const MAGIC: [u8; 8] = *b"TRIBPRF1";

/// What of an answer's receipt is false.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Claim {
    /// The payments are not the split of the price, weights and commons are not the whole, or the shares are not what
    /// the committed credits give.
    Sum,
    /// The receipt is not for what was asked: another prompt, adapter, seed or number of tokens.
    Terms,
    /// The committed credits or losses, and so the weights, are not what base, adapter, index and tokens give.
    Weight {
        /// What they give.
        credits: Vec<(u32, i64)>,
        /// And the losses of the answer under coalitions of adapter and retrieved records.
        losses: Vec<i64>,
    },
    /// The answer is not what base, adapter and prompt give, or a record before the question is none that the model was
    /// trained on.
    Answer,
    /// The probabilities of its tokens are others.
    Logprobs {
        /// What commits to the right ones.
        commitment: Option<Hash>,
    },
}

/// In one word, what a proof says is false.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// See [`Claim::Sum`].
    Sum,
    /// See [`Claim::Terms`].
    Terms,
    /// See [`Claim::Weight`].
    Weight,
    /// See [`Claim::Answer`].
    Answer,
    /// See [`Claim::Logprobs`].
    Logprobs,
    /// See [`Proof::Row`].
    Row,
    /// See [`Proof::Span`].
    Span,
    /// See [`Proof::Audit`].
    Audit,
}

/// Evidence against one account.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Proof {
    /// A worker signed a receipt that is false.
    Answer {
        /// What was signed and sent.
        case: Box<Case>,
        /// What of it is false.
        claim: Claim,
    },
    /// A builder released an adapter with an index whose rows are not the differences of its adapters. The form of an
    /// index is part of the protocol's version, under which the release is signed.
    Row {
        /// The network it was signed for.
        network: NetworkId,
        /// The release.
        release: Box<Signed<Release>>,
        /// The commitment of the index that the release's own adapters make.
        built: Hash,
    },
    /// A keeper signed the roots of a span index that is false.
    Span {
        /// The network they were signed for.
        network: NetworkId,
        /// The roots.
        roots: Box<Signed<SpanRoots>>,
        /// The fault, with the pages that show it.
        fault: Box<span::Fault>,
    },
    /// An auditor signed that an answer would have paid other shares than it would by the adapters that were really trained
    /// without each contributor.
    Audit {
        /// The answer, as its worker signed and sent it.
        case: Box<Case>,
        /// What the auditor found.
        audit: Box<Receipt>,
        /// The auditor's signature over its id.
        signature: Signature,
        /// The shares that the release's adapters give.
        shares: Vec<Share>,
    },
}

/// What has to be computed before a proof can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The answer, its probabilities and its credits again.
    Answer,
    /// The commitment of the index that the release's adapters make.
    Index,
    /// Whether a record of that id has that text.
    Record,
    /// The answer again, and its shares by the release's leave-out adapters.
    Shares,
}

/// What was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// For [`Need::Answer`].
    Answer(Recomputed),
    /// For [`Need::Index`].
    Index(Hash),
    /// For [`Need::Record`].
    Record(bool),
    /// For [`Need::Shares`], with the determinism class they were computed in.
    Shares(String, Vec<Share>),
    /// Nothing, and why.
    Nothing(String),
}

/// An answer computed again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recomputed {
    /// The determinism class it was computed in.
    pub class: String,
    /// What is wrong with the tokens or their fingerprints; nothing of what follows stands for anything then.
    pub fault: Option<String>,
    /// The hash of the text.
    pub answer: Hash,
    /// The root over the fingerprints.
    pub fingerprints: Hash,
    /// What commits to the tokens' probabilities, where they were wanted.
    pub logprobs: Option<Hash>,
    /// The credits.
    pub credits: Vec<(u32, i64)>,
    /// The losses of [`Context`](crate::retrieval::Context), with the passages that were sent.
    pub losses: Vec<i64>,
}

/// What a judge says, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is proven.
    Proven(String),
    /// The proof does not hold.
    Fails(String),
    /// It depends on a computation.
    Needs(Need),
    /// It cannot be judged here.
    Unknown(String),
}

/// Why bytes are no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// They begin otherwise.
    #[error("this is no proof of falsification")]
    Magic,
    /// They do not decode.
    #[error("this is no proof of falsification: {0}")]
    Wire(#[from] WireError),
}

impl Proof {
    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [MAGIC.as_slice(), &wire::encode(self)].concat()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is no proof's, or too large for one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProofError> {
        let body = bytes.strip_prefix(MAGIC.as_slice()).ok_or(ProofError::Magic)?;
        Ok(wire::decode(body, PROOF_MAX_BYTES - MAGIC.len())?)
    }

    /// Whom it accuses.
    #[must_use]
    pub const fn accused(&self) -> AccountId {
        match self {
            Self::Answer { case, .. } => case.receipt.worker,
            Self::Row { release, .. } => release.account,
            Self::Span { roots, .. } => roots.account,
            Self::Audit { audit, .. } => audit.worker,
        }
    }

    /// Of what.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Answer { claim: Claim::Sum, .. } => Kind::Sum,
            Self::Answer { claim: Claim::Terms, .. } => Kind::Terms,
            Self::Answer { claim: Claim::Weight { .. }, .. } => Kind::Weight,
            Self::Answer { claim: Claim::Answer, .. } => Kind::Answer,
            Self::Answer { claim: Claim::Logprobs { .. }, .. } => Kind::Logprobs,
            Self::Row { .. } => Kind::Row,
            Self::Span { .. } => Kind::Span,
            Self::Audit { .. } => Kind::Audit,
        }
    }

    /// What it is about: the receipt's id, or the digest of the release or of the roots.
    #[must_use]
    pub fn subject(&self) -> Hash {
        match self {
            Self::Answer { case, .. } => Hash(case.receipt.id().0),
            Self::Row { network, release, .. } => release.id(*network),
            Self::Span { network, roots, .. } => roots.id(*network),
            Self::Audit { audit, .. } => Hash(audit.id().0),
        }
    }

    /// Judges what can be judged by the proof alone.
    #[must_use]
    pub fn judge(&self) -> Judgement {
        match self {
            Self::Answer { case, claim } => case.judge(claim),
            Self::Row { network, release, built } => {
                if release.verify(*network).is_err() {
                    return Judgement::Fails("the release is not signed by its account".into());
                }
                if !release.body.is_well_formed() {
                    return Judgement::Fails("the release breaks its bounds".into());
                }
                if *built == release.body.index {
                    return Judgement::Fails("the proof itself says that the index is right".into());
                }
                Judgement::Needs(Need::Index)
            }
            Self::Span { network, roots, fault } => judge_span(*network, roots, fault),
            Self::Audit { case, audit, signature, shares } => judge_audit(case, audit, signature, shares),
        }
    }

    /// Judges with what was computed, after [`judge`](Self::judge) said what is needed.
    #[must_use]
    pub fn conclude(&self, found: &Found) -> Judgement {
        let need = match self.judge() {
            Judgement::Needs(need) => need,
            judged => return judged,
        };
        match (need, found, self) {
            (_, Found::Nothing(reason), _) => Judgement::Unknown(reason.clone()),
            (Need::Answer, Found::Answer(again), Self::Answer { case, claim }) => case.conclude(claim, again),
            (Need::Index, Found::Index(again), Self::Row { release, built, .. }) => {
                conclude_row(&release.body, built, again)
            }
            (Need::Record, Found::Record(true), _) => {
                Judgement::Proven("the words at a record's place in the span index are not the record's".into())
            }
            (Need::Record, Found::Record(false), _) => {
                Judgement::Fails("the record that the proof shows has another id".into())
            }
            (Need::Shares, Found::Shares(class, again), Self::Audit { audit, shares, .. }) => {
                conclude_audit(audit, shares, class, again)
            }
            _ => Judgement::Unknown("something else was computed than the proof needs".into()),
        }
    }
}

fn conclude_row(release: &Release, claimed: &Hash, again: &Hash) -> Judgement {
    if *again == release.index {
        return Judgement::Fails("the release's adapters make the index that it commits to".into());
    }
    if again != claimed {
        return Judgement::Unknown("the release's adapters make a third index here".into());
    }
    Judgement::Proven("a row of the released index is not the difference of its adapters".into())
}

fn judge_audit(case: &Case, audit: &Receipt, signature: &Signature, shares: &[Share]) -> Judgement {
    if verify_digest(&audit.worker.0, Hash(audit.id().0), signature).is_err() {
        return Judgement::Fails("the audit is not signed by its auditor".into());
    }
    if audit.audited() != Some(case.receipt.id()) {
        return Judgement::Fails("the audit is of another answer".into());
    }
    if !case.is_known_method() {
        return Judgement::Unknown("the weights were found by a method that this program does not know".into());
    }
    if let Some(reason) = case.inconsistency() {
        return Judgement::Fails(reason.into());
    }
    if audit.shares == shares {
        return Judgement::Fails("the proof itself says that the audit is right".into());
    }
    Judgement::Needs(Need::Shares)
}

fn conclude_audit(audit: &Receipt, claimed: &[Share], class: &str, again: &[Share]) -> Judgement {
    if class != audit.class {
        return Judgement::Unknown(format!("computed in class {}, here in {class}", audit.class));
    }
    if again == audit.shares {
        return Judgement::Fails("computed again, the shares are as the auditor signed".into());
    }
    if again != claimed {
        return Judgement::Unknown("computed again, it comes to a third result".into());
    }
    Judgement::Proven("the shares that an auditor signed are not what the release's adapters give".into())
}

fn judge_span(network: NetworkId, roots: &Signed<SpanRoots>, fault: &span::Fault) -> Judgement {
    if roots.verify(network).is_err() {
        return Judgement::Fails("the roots are not signed by their account".into());
    }
    match (span::judge(&roots.body, fault), fault) {
        (Err(error), _) => Judgement::Fails(error.to_string()),
        (Ok(()), span::Fault::Words { .. }) => Judgement::Needs(Need::Record),
        (Ok(()), span::Fault::Order { .. }) => {
            Judgement::Proven("two neighbours of the span index are not in order".into())
        }
        (Ok(()), span::Fault::Inverse { .. }) => {
            Judgement::Proven("the span index lacks a position of its text".into())
        }
    }
}

#[cfg(test)]
mod tests;
