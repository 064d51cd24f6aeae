//! Facts: the durable events from which a node's state is rebuilt.
//!
//! Invariant: `apply` is the only way durable state changes, both when something happens and when the journal
//! is replayed after a restart; it checks nothing and sends nothing.

use bincode::{Decode, Encode};

use super::Node;
use crate::batch::{BatchHead, EpochHead};
use crate::card::CardChange;
use crate::datanet::{Contribution, Genesis};
use crate::envelope::Signed;
use crate::id::{Hash, NodeId, TaskId};
use crate::message::Release;
use crate::node::proofs::KeptProof;
use crate::node::requester::FineTuneCommand;
use crate::note::Note;
use crate::receipt::{SignedReceipt, Voucher};
use crate::task::{Award, TaskOffer};
use crate::verification::{TaskResult, Verdict};

/// Bytes of a part of what may be larger than the driver keeps as one fact, which is 1 MiB.
pub const FACT_PART_BYTES: usize = 512 * 1024;

/// One durable event.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Fact {
    /// A datanet's genesis was accepted.
    Genesis(Box<Signed<Genesis>>),
    /// A log entry was accepted.
    Contribution(Box<Signed<Contribution>>),
    /// A shard's blob is in the store.
    ShardHeld(Hash),
    /// The user wanted an adapter trained.
    Requested(FineTuneCommand),
    /// The task was offered under this request.
    Offered {
        /// The request's key.
        key: Hash,
        /// The offer.
        offer: Box<Signed<TaskOffer>>,
    },
    /// The task was given to a worker.
    AwardGiven {
        /// The request's key.
        key: Hash,
        /// The award.
        award: Box<Signed<Award>>,
    },
    /// The worker lapsed or failed.
    Lapsed {
        /// The request's key.
        key: Hash,
        /// Which node.
        node: NodeId,
    },
    /// The worker committed its result.
    ResultTaken {
        /// The request's key.
        key: Hash,
        /// The result.
        result: Box<Signed<TaskResult>>,
    },
    /// The check of the result ended; `None` when nobody could check.
    ResultChecked {
        /// The request's key.
        key: Hash,
        /// The finding.
        verdict: Option<Box<Signed<Verdict>>>,
    },
    /// The request came to nothing.
    RequestFailed {
        /// The request's key.
        key: Hash,
        /// Why.
        reason: String,
    },
    /// This node won a task.
    JobWon {
        /// The offer.
        offer: Box<Signed<TaskOffer>>,
        /// The award.
        award: Award,
    },
    /// This node finished a task.
    JobFinished(Box<Signed<TaskResult>>),
    /// This node's work on a task is over, paid or not.
    JobClosed(TaskId),
    /// A receipt with both signatures was taken.
    ReceiptKept(Box<SignedReceipt>),
    /// A receipt belongs to a request or question of this node.
    Settled {
        /// The key of the request or question.
        key: Hash,
        /// The receipt.
        receipt: crate::id::ReceiptId,
    },
    /// An answer was received.
    AnswerKept {
        /// The question's key.
        key: Hash,
        /// The text.
        text: String,
        /// What recomputing it needs: a verifier is told it, and its payer can do so at any time.
        audit: Box<crate::message::Audit>,
        /// Whether another peer is to check it.
        check: bool,
    },
    /// An answer was checked.
    AnswerVerdict {
        /// The question's key.
        key: Hash,
        /// The finding.
        verdict: Box<Signed<Verdict>>,
    },
    /// A promise to pay was received.
    VoucherTaken(Box<Voucher>),
    /// A release was accepted.
    Released(Box<Signed<Release>>),
    /// This node sealed a batch of these receipts.
    BatchSealed(Box<Signed<BatchHead>>),
    /// A witness's batch was read.
    BatchRead(Box<Signed<BatchHead>>),
    /// A part of the epoch that this node is about to post, in [`FACT_PART_BYTES`]: it names all receipts that ever counted.
    EpochClosing {
        /// The first is 0.
        part: u32,
        /// How many there are.
        parts: u32,
        /// Its bytes of the body.
        bytes: Vec<u8>,
    },
    /// This node's epoch stands on the chain.
    EpochPosted(Box<Signed<EpochHead>>),
    /// Another node's epoch was recomputed here.
    EpochChecked {
        /// The epoch.
        head: Box<Signed<EpochHead>>,
        /// Whether the sums agree.
        agrees: bool,
    },
    /// This node, a witness, owes a receipt its next batch.
    BatchDue(crate::id::ReceiptId),
    /// Witnesses keep this receipt of ours.
    Witnessed(crate::id::ReceiptId),
    /// Where the verifier who confirmed a result is paid, as its record said when the verdict came.
    VerifierPayout {
        /// The request's key.
        key: Hash,
        /// The verifier's address.
        to: crate::id::ChainAddress,
    },
    /// A result of this node was refuted.
    ResultRefuted(NodeId),
    /// A change of a datanet's card was accepted.
    CardChanged(Box<Signed<CardChange>>),
    /// The fees do not cover what this node was about to post, so it never will be.
    EpochAbandoned(u64),
    /// Something false was proven; the proof is in the store.
    ProofKept(KeptProof),
    /// A note was accepted.
    Noted(Box<Signed<Note>>),
    /// The chain drew an answer of this node to be audited for settlement.
    AuditDrawn {
        /// The answer.
        receipt: crate::id::ReceiptId,
        /// Who may be asked, in this order; nobody where too few verifiers were known, so that nobody ever audits it.
        auditors: Vec<NodeId>,
    },
}

impl Node {
    /// Changes the state by one durable event.
    pub(super) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Genesis(genesis) => {
                self.cards.apply_genesis(self.config.network, &genesis);
                self.datanets.apply_genesis(self.config.network, *genesis);
            }
            Fact::Contribution(entry) => self.datanets.apply_entry(*entry),
            Fact::ShardHeld(blob) => self.datanets.apply_held(blob),
            Fact::Requested(command) => self.requester.apply_requested(command),
            Fact::Offered { key, offer } => self.requester.apply_offered(self.config.network, key, *offer),
            Fact::AwardGiven { key, award } => self.requester.apply_award(key, *award),
            Fact::Lapsed { key, node } => self.requester.apply_lapsed(key, node),
            Fact::ResultTaken { key, result } => self.requester.apply_result(key, *result),
            Fact::ResultChecked { key, verdict } => self.requester.apply_checked(key, verdict.map(|verdict| *verdict)),
            Fact::RequestFailed { key, reason } => self.requester.apply_failed(key, reason),
            Fact::JobWon { offer, award } => self.worker.apply_won(*offer, award),
            Fact::JobFinished(result) => self.worker.apply_finished(*result),
            Fact::JobClosed(task) => self.worker.apply_closed(task),
            Fact::ReceiptKept(receipt) => self.receipts.apply_kept(self.account, *receipt),
            Fact::Settled { key, receipt } => {
                self.requester.apply_settled(key, receipt);
                self.asker.apply_settled(key, receipt);
            }
            Fact::AnswerKept { key, text, audit, check } => {
                self.asker.apply_answer(key, text);
                self.audits.apply_kept(key, audit, check);
            }
            Fact::AnswerVerdict { key, verdict } => {
                self.audits.apply_verdict(&key);
                let answer = self.asker.receipt_of(&key).and_then(|receipt| self.receipts.get(&receipt));
                self.asker.apply_verdict(key, *verdict, answer.map(|signed| signed.receipt.worker_node));
            }
            Fact::VoucherTaken(voucher) => self.receipts.apply_voucher(*voucher),
            Fact::Released(release) => self.worker.apply_release(*release),
            Fact::BatchSealed(head) => self.batches.apply_sealed(*head),
            Fact::BatchRead(head) => self.batches.apply_read(*head),
            Fact::EpochClosing { part, parts, bytes } => self.batches.apply_closing(part, parts, &bytes),
            Fact::EpochPosted(head) => self.batches.apply_posted(*head),
            Fact::EpochAbandoned(epoch) => self.batches.apply_abandoned(epoch),
            Fact::EpochChecked { head, agrees } => self.batches.apply_checked(*head, agrees),
            Fact::BatchDue(receipt) => self.batches.apply_due(receipt),
            Fact::Witnessed(receipt) => self.receipts.apply_witnessed(receipt),
            Fact::ResultRefuted(node) => self.requester.apply_refuted(node),
            Fact::VerifierPayout { key, to } => self.requester.apply_payout(key, to),
            Fact::ProofKept(kept) => self.proofs.apply_kept(kept),
            Fact::Noted(note) => self.datanets.apply_note(*note),
            Fact::AuditDrawn { receipt, auditors } => self.settling.apply_drawn(receipt, auditors),
            Fact::CardChanged(entry) => self.cards.apply_change(self.account, *entry),
        }
    }

    /// Records an event: durable first, then in memory.
    pub(super) fn record(&mut self, fact: Fact, out: &mut super::Out) {
        out.fact(fact.clone());
        self.apply(fact);
    }
}
