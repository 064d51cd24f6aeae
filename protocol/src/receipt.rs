//! The receipt: the countersigned account of one finished task.
//!
//! Invariant: a receipt counts only with both signatures over one 32-byte digest, its payments are exactly the
//! split of its price by its own policy and shares, and its shares never exceed the whole. Anybody can check
//! all of this offline from the receipt alone.

use bincode::{Decode, Encode};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::attribution::{Quality, Share, commons_weight};
use crate::economy::{self, Beneficiaries, FeePolicy, Payment, SplitError};
use crate::envelope::{EnvelopeError, NetworkId, Statement, sign_digest, statement_digest, verify_digest};
use crate::id::{AccountId, Amount, DatanetId, Hash, NodeId, ReceiptId, Signature, TaskId};
use crate::limits::{LEFT_OUT_MAX, NAME_MAX_BYTES, RECEIPT_SHARES_MAX};
use crate::task::can_be_left_out;

/// What was computed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Work {
    /// An adapter was trained.
    Training {
        /// The hash of the adapter's files.
        adapter: Hash,
        /// The root over the checkpoints that were committed.
        checkpoints: Hash,
        /// Optimiser steps.
        steps: u32,
        /// The contributors that were left out, ascending, when this was a leave-out run of attribution.
        leave_out: Vec<AccountId>,
        /// Segments another peer executed again and found equal.
        segments_checked: u16,
    },
    /// A question was answered.
    Inference {
        /// The hash of the adapter's files.
        adapter: Hash,
        /// The hash of the prompt.
        prompt: Hash,
        /// The hash of the answer's text.
        answer: Hash,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer.
        answer_tokens: u32,
        /// The seed of sampling.
        seed: u64,
        /// The root over the hidden-state fingerprints.
        fingerprints: Hash,
        /// What commits to the tokens' probabilities, where the payer wanted them
        /// ([`commitment`](crate::logprobs::commitment)).
        #[serde(default)]
        logprobs: Option<Hash>,
        /// The hash of everything that the worker sent beside the text: tokens, fingerprints and credits
        /// ([`Transcript`](crate::transcript::Transcript)), so that nobody can later say it sent something else.
        transcript: Hash,
    },
    /// For settlement it was computed what an answer would have paid by the adapters that were really trained without each
    /// contributor: the receipt's shares are these, and it pays nobody.
    Audit {
        /// The answer's receipt.
        of: ReceiptId,
    },
}

/// How the shares were found and how good the method was measured to be.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct AttributionNote {
    /// The method, `loco-delta` for the leave-one-contributor-out index.
    pub method: String,
    /// Its version.
    pub version: u16,
    /// The commitment to the index that was published before any answer.
    pub index: Hash,
    /// What commits to the list of contributors that the index numbers
    /// ([`Release::contributors_commitment`](crate::message::Release::contributors_commitment)).
    pub contributors: Hash,
    /// How right the method was measured to be on this adapter, as its release says.
    pub quality: Option<Quality>,
}

/// The terms both parties sign.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Receipt {
    /// The network this belongs to.
    pub network: Hash,
    /// The task.
    pub task: TaskId,
    /// Who pays.
    pub payer: AccountId,
    /// Who worked.
    pub worker: AccountId,
    /// The node that worked.
    pub worker_node: NodeId,
    /// The base model.
    pub base: Hash,
    /// The datanet whose records made the adapter.
    pub datanet: DatanetId,
    /// The exact head that was used.
    pub head: Hash,
    /// What was computed.
    pub work: Work,
    /// The determinism class: build, instruction set and number format.
    pub class: String,
    /// How the shares were found.
    pub attribution: AttributionNote,
    /// The contributors' weights, ordered by account, in parts per million.
    pub shares: Vec<Share>,
    /// What is missing to the whole: the commons' weight.
    pub commons: u32,
    /// The price.
    pub price: Amount,
    /// The worker's part of it.
    pub worker_part: Amount,
    /// How the rest is divided.
    pub policy: FeePolicy,
    /// Who is paid.
    pub to: Beneficiaries,
    /// The split, as [`economy::split`] makes it.
    pub payments: Vec<Payment>,
    /// The worker's number of this receipt, rising.
    pub sequence: u64,
    /// When the work was finished, in milliseconds since 1970, by the worker's clock.
    pub finished_ms: u64,
}

impl Statement for Receipt {
    const KIND: u16 = 1;
}

/// Why a receipt does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// It belongs to another network.
    #[error("belongs to another network")]
    Network,
    /// The payer's signature is wrong.
    #[error("the payer's signature does not hold")]
    PayerSignature,
    /// The worker's signature is wrong.
    #[error("the worker's signature does not hold")]
    WorkerSignature,
    /// The shares exceed the whole or the commons' weight is not the rest.
    #[error("shares and commons are not exactly the whole")]
    Shares,
    /// Shares are not in the order of accounts, are repeated or are too many.
    #[error("shares must be ordered by account, without repetition, at most {RECEIPT_SHARES_MAX}")]
    ShareOrder,
    /// The price cannot be split as stated.
    #[error("the price cannot be split: {0}")]
    Split(#[from] SplitError),
    /// An audit that is to be paid.
    #[error("an audit has no price")]
    PricedAudit,
    /// The payments differ from the split.
    #[error("the payments are not the split of the price")]
    Payments,
    /// More contributors are left out of one training than may be, or not in order.
    #[error("at most {LEFT_OUT_MAX} contributors can be left out of one training, ordered by account")]
    LeftOut,
    /// A text is too long.
    #[error("a name exceeds {NAME_MAX_BYTES} bytes")]
    Name,
}

impl Receipt {
    /// The receipt's identity: the digest that both sign.
    #[must_use]
    pub fn id(&self) -> ReceiptId {
        ReceiptId(statement_digest(NetworkId(self.network), self).0)
    }

    /// Checks everything but the signatures.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn check_terms(&self) -> Result<(), ReceiptError> {
        if self.class.len() > NAME_MAX_BYTES || self.attribution.method.len() > NAME_MAX_BYTES {
            return Err(ReceiptError::Name);
        }
        if matches!(&self.work, Work::Training { leave_out, .. } if !can_be_left_out(leave_out)) {
            return Err(ReceiptError::LeftOut);
        }
        if matches!(self.work, Work::Audit { .. }) && self.price > Amount::ZERO {
            return Err(ReceiptError::PricedAudit);
        }
        let ordered = self.shares.windows(2).all(|pair| pair[0].account < pair[1].account);
        if !ordered || self.shares.len() > RECEIPT_SHARES_MAX {
            return Err(ReceiptError::ShareOrder);
        }
        if commons_weight(&self.shares) != Some(self.commons) {
            return Err(ReceiptError::Shares);
        }
        let payments = economy::split(self.price, self.worker_part, self.policy, &self.to, &self.shares)?;
        if payments != self.payments {
            return Err(ReceiptError::Payments);
        }
        Ok(())
    }

    /// The answer that was audited, where this is an audit's.
    #[must_use]
    pub const fn audited(&self) -> Option<ReceiptId> {
        match self.work {
            Work::Audit { of } => Some(of),
            Work::Training { .. } | Work::Inference { .. } => None,
        }
    }

    /// The fee: what is not the worker's part.
    #[must_use]
    pub fn fee(&self) -> Amount {
        self.price.checked_sub(self.worker_part).unwrap_or(Amount::ZERO)
    }
}

/// A receipt the worker has signed and the payer is asked to sign.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptOffer {
    /// The terms.
    pub receipt: Receipt,
    /// The worker's signature over the receipt's id.
    pub worker_signature: Signature,
}

impl ReceiptOffer {
    /// Signs `receipt` as its worker.
    #[must_use]
    pub fn new(receipt: Receipt, worker: &SigningKey) -> Self {
        let worker_signature = sign_digest(worker, Hash(receipt.id().0));
        Self { receipt, worker_signature }
    }

    /// Checks the terms and the worker's signature.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn verify(&self, network: NetworkId) -> Result<(), ReceiptError> {
        if self.receipt.network != network.0 {
            return Err(ReceiptError::Network);
        }
        verify_digest(&self.receipt.worker.0, Hash(self.receipt.id().0), &self.worker_signature)
            .map_err(|_: EnvelopeError| ReceiptError::WorkerSignature)?;
        self.receipt.check_terms()
    }

    /// Signs as the payer, which makes the receipt count.
    #[must_use]
    pub fn countersign(self, payer: &SigningKey) -> SignedReceipt {
        let payer_signature = sign_digest(payer, Hash(self.receipt.id().0));
        SignedReceipt { receipt: self.receipt, worker_signature: self.worker_signature, payer_signature }
    }
}

/// A receipt with both signatures.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// The terms.
    pub receipt: Receipt,
    /// The worker's signature over the receipt's id.
    pub worker_signature: Signature,
    /// The payer's signature over the receipt's id.
    pub payer_signature: Signature,
}

impl SignedReceipt {
    /// Checks terms and signatures against the network the receipt itself names.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn verify_offline(&self) -> Result<(), ReceiptError> {
        let digest = Hash(self.receipt.id().0);
        verify_digest(&self.receipt.payer.0, digest, &self.payer_signature)
            .map_err(|_: EnvelopeError| ReceiptError::PayerSignature)?;
        verify_digest(&self.receipt.worker.0, digest, &self.worker_signature)
            .map_err(|_: EnvelopeError| ReceiptError::WorkerSignature)?;
        self.receipt.check_terms()
    }

    /// Checks terms, signatures and that the receipt belongs to `network`.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn verify(&self, network: NetworkId) -> Result<(), ReceiptError> {
        if self.receipt.network != network.0 {
            return Err(ReceiptError::Network);
        }
        self.verify_offline()
    }
}

/// A cumulative promise to pay one worker, signed on the settlement chain's curve by the driver.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Voucher {
    /// The paying account.
    pub payer: AccountId,
    /// The worker's account.
    pub worker: AccountId,
    /// The payer's address on the chain.
    pub payer_address: crate::id::ChainAddress,
    /// The worker's address on the chain.
    pub payee: crate::id::ChainAddress,
    /// Everything owed to the worker so far.
    pub cumulative: Amount,
    /// Everything owed in fees beside it so far.
    pub fees_cumulative: Amount,
    /// EIP-712 signature, 65 bytes, by the payer's chain key.
    pub signature: Vec<u8>,
}
