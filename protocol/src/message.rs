//! Every message nodes exchange, and the statements about peers, models and questions that travel in them.
//!
//! Invariant: a message's kind stands in the envelope's header and in the body; both must agree. Each message
//! is idempotent, since any of them may arrive twice, late or never.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::attribution::Quality;
use crate::batch::{BatchHead, EpochHead};
use crate::card::{CardChange, CardHead};
use crate::datanet::{Contribution, Datanet, Genesis, Head};
use crate::decoding::{self, Decoding, Prompt};
use crate::envelope::{Signed, Statement};
use crate::id::{AccountId, Amount, ChainAddress, DatanetId, Hash, NodeId, ReceiptId, TaskId};
use crate::limits::{
    ADDRESS_MAX_BYTES, ADDRESSES_MAX, CARD_BATCH_MAX, CARD_CHANGE_MAX_BYTES, CLASSES_MAX, CONTRIBUTORS_MAX,
    CURVE_POINTS_MAX, LEFT_OUT_MAX, NAME_MAX_BYTES, NOTE_LOGS_MAX, PASSAGES_MAX, SERVING_MAX,
};
use crate::note::Note;
use crate::receipt::{ReceiptOffer, SignedReceipt, Voucher};
use crate::refusal::Declined;
use crate::task::{Award, Bid, TaskOffer};
use crate::verification::{TaskResult, Verdict};
use crate::wire::{self, WireError};

/// An account says which node works for it and where it is paid.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Certificate {
    /// The node.
    pub node: NodeId,
    /// The account's address on the settlement chain.
    pub chain_address: ChainAddress,
    /// When this ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl Statement for Certificate {
    const KIND: u16 = 10;
}

/// What a node does for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
pub struct Roles {
    /// Trains and answers.
    pub worker: bool,
    /// Checks others' work.
    pub verifier: bool,
    /// Keeps receipts and seals batches.
    pub witness: bool,
    /// Anchors epochs on the settlement chain.
    pub poster: bool,
}

/// What a node says of itself, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct PeerRecord {
    /// The account's certificate for this node.
    pub certificate: Signed<Certificate>,
    /// What it does.
    pub roles: Roles,
    /// Where its control plane listens, as multiaddresses.
    pub control: Vec<String>,
    /// Where its data plane listens, as socket addresses.
    pub data: Vec<String>,
    /// The determinism classes it computes in: those of dense and of quantised bases differ.
    pub classes: Vec<String>,
    /// The adapters it answers with.
    pub serving: Vec<Hash>,
    /// What it asks for one answer.
    pub answer_price: Amount,
    /// How many batches it has sealed as a witness.
    pub batches: u64,
}

/// Whether `class` is one of `classes`, as a [`PeerRecord`] lists them.
#[must_use]
pub fn computes_in(classes: &[String], class: &str) -> bool {
    classes.iter().any(|known| known == class)
}

impl PeerRecord {
    fn is_well_formed(&self) -> bool {
        let addresses = || self.control.iter().chain(&self.data);
        self.control.len() <= ADDRESSES_MAX
            && self.data.len() <= ADDRESSES_MAX
            && addresses().all(|address| address.len() <= ADDRESS_MAX_BYTES)
            && self.classes.len() <= CLASSES_MAX
            && self.classes.iter().all(|class| class.len() <= NAME_MAX_BYTES)
            && self.serving.len() <= SERVING_MAX
    }
}

/// One contributor of a released adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Contributor {
    /// Who.
    pub account: AccountId,
    /// Where their earnings go.
    pub payout: ChainAddress,
    /// The adapter trained without them; [`BASE_ALONE`] for the only contributor, without whom nothing is trained.
    pub leave_out: Hash,
    /// Where they were left out together with others who teach the same, a knowledge cluster.
    pub together: Option<Together>,
    /// Entries of their log in the version that was trained on: with all of these, anybody finds the version again.
    pub entries: u64,
    /// Whether nobody trained it: what the training would have given is estimated from the gradients of their records.
    pub estimated: bool,
}

/// How a contributor was left out together with others. Their own leave-out adapter is made of the one without all of them: it is
/// their part of what that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Together {
    /// The lowest number of a contributor of the cluster.
    pub first: u32,
    /// The adapter trained without all of them, [`BASE_ALONE`] without everybody.
    pub without: Hash,
}

/// The knowledge clusters: the numbers of contributors who were left out together, ascending.
#[must_use]
pub fn clusters_of(contributors: &[Contributor]) -> Vec<Vec<u32>> {
    let mut together: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (number, one) in (0..).zip(contributors) {
        if let Some(Together { first, .. }) = one.together {
            together.entry(first).or_default().push(number);
        }
    }
    together.into_values().collect()
}

/// Stands for the untrained adapter, which changes nothing of the base: what is left without the only contributor.
pub const BASE_ALONE: Hash = Hash([0; 32]);

/// An adapter is released for use, with all that its attribution needs, before any answer is given.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Release {
    /// What people call it.
    pub name: String,
    /// The adapter's files.
    pub adapter: Hash,
    /// The base model.
    pub base: Hash,
    /// The datanet.
    pub datanet: DatanetId,
    /// The version that was trained on.
    pub head: Hash,
    /// Who contributed, ordered by account; the place is the contributor's number in the index.
    pub contributors: Vec<Contributor>,
    /// How long each log of notes of that version is, ordered by account: what dates the records.
    pub notes: Vec<(AccountId, u64)>,
    /// The commitment to the attribution index.
    pub index: Hash,
    /// The fee of one answer, beside the worker's price.
    pub answer_fee: Amount,
    /// Where the builder is paid.
    pub builder: ChainAddress,
    /// The node that provides the files.
    pub node: NodeId,
    /// How many of its trainings no other peer executed again.
    pub unchecked: u32,
    /// How right its shares are, if its builder could measure it.
    pub quality: Option<Quality>,
}

impl Statement for Release {
    const KIND: u16 = 11;
}

impl Release {
    /// What a receipt names the contributors by, whom the index knows by number: with it, nobody can later present
    /// another list under the same index.
    #[must_use]
    pub fn contributors_commitment(&self) -> Hash {
        Hash(blake3::derive_key("tributary contributors v1", &wire::encode(&self.contributors)))
    }

    /// The version that was trained on, as far as `datanet` has it.
    #[must_use]
    pub fn version(&self, datanet: &Datanet) -> Option<Head> {
        let logs = self.contributors.iter().map(|one| (one.account, one.entries));
        datanet.head_of(&self.head, logs, self.notes.iter().copied())
    }

    /// The first contributor who would not be paid where he said with the last of his entries that was trained on, if the version
    /// is known here.
    #[must_use]
    pub fn redirected(&self, datanet: &Datanet) -> Option<AccountId> {
        self.version(datanet)?;
        let said = |one: &Contributor| {
            Some(datanet.entries(&one.account, one.entries.checked_sub(1)?, 1).first()?.body.payout)
        };
        let is_other = |one: &&Contributor| said(one).is_some_and(|payout| payout != one.payout);
        self.contributors.iter().find(is_other).map(|one| one.account)
    }

    /// See [`clusters_of`].
    #[must_use]
    pub fn clusters(&self) -> Vec<Vec<u32>> {
        clusters_of(&self.contributors)
    }

    /// Every cluster has several members and few, who were left out by one training, and the base alone is without everybody.
    fn has_sound_clusters(&self) -> bool {
        let (all, clusters) = (&self.contributors, self.clusters());
        let is_sound = |(number, one): (u32, &Contributor)| {
            let Some(Together { first, without }) = one.together else {
                return one.leave_out != BASE_ALONE || all.len() == 1;
            };
            let own = clusters.iter().find(|members| members.contains(&number)).map_or(&[][..], Vec::as_slice);
            let is_shared = |member: &u32| {
                let other = all.get(usize::try_from(*member).unwrap_or(usize::MAX));
                other.is_some_and(|other| other.together == one.together)
            };
            (2..=LEFT_OUT_MAX).contains(&own.len())
                && own.first() == Some(&first)
                && own.iter().all(is_shared)
                && (without != BASE_ALONE || own.len() == all.len())
                && one.leave_out != BASE_ALONE
                && !one.estimated
        };
        (0..).zip(all).all(is_sound)
    }

    pub(crate) fn is_well_formed(&self) -> bool {
        self.name.len() <= NAME_MAX_BYTES
            && self.contributors.len() <= CONTRIBUTORS_MAX
            && self.contributors.windows(2).all(|pair| pair[0].account < pair[1].account)
            && self.notes.len() <= NOTE_LOGS_MAX
            && self.notes.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && self.quality.is_none_or(|quality| quality.is_well_formed())
            && self.has_sound_clusters()
            && (self.contributors.is_empty() || self.contributors.iter().any(|one| !one.estimated))
    }
}

/// A question to a served adapter; goes only over the encrypted stream to the worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct InferenceRequest {
    /// The asking node.
    pub node: NodeId,
    /// The worker's node it is for.
    pub worker: NodeId,
    /// The payer's address on the settlement chain.
    pub payer_address: ChainAddress,
    /// The adapter.
    pub adapter: Hash,
    /// The prompt.
    pub prompt: Prompt,
    /// How the answer is drawn.
    pub decoding: Decoding,
    /// So many records of the model's datanet, at most, are to be retrieved and stand before the prompt.
    pub retrieve: u8,
    /// The most the payer pays, fees included.
    pub price_max: Amount,
    /// Where the verifier that may be asked is paid.
    pub verifier: Option<ChainAddress>,
    /// Makes two equal questions two tasks.
    pub key: Hash,
}

impl Statement for InferenceRequest {
    const KIND: u16 = 12;
}

impl InferenceRequest {
    /// Whether sizes are within bounds.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        decoding::is_well_formed(&self.prompt, &self.decoding) && usize::from(self.retrieve) <= PASSAGES_MAX
    }
}

/// What a verifier needs to check an answer; only the payer discloses it, and only to the verifier.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Audit {
    /// The receipt under check.
    pub receipt: SignedReceipt,
    /// The question.
    pub request: Signed<InferenceRequest>,
    /// The bytes of a [`Transcript`](crate::transcript::Transcript).
    pub transcript: Vec<u8>,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $variant:ident($body:ty) = $kind:literal,)*) => {
        /// A message between nodes.
        #[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
        pub enum Message {
            $($(#[$doc])* $variant($body),)*
        }

        impl Message {
            /// The number in the envelope's header.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            /// All kinds, for tests that cover each.
            pub const KINDS: &'static [(u16, &'static str)] = &[$(($kind, stringify!($variant)),)*];
        }
    };
}

messages! {
    /// A node says what it does and where it is.
    Peer(Box<PeerRecord>) = 1,
    /// A datanet exists.
    Genesis(Box<Signed<Genesis>>) = 2,
    /// A datanet's version as the sender knows it.
    Head(Head) = 3,
    /// Asks for a datanet's genesis.
    GenesisWanted(DatanetId) = 4,
    /// Asks for entries of a log.
    LogWanted(LogWanted) = 5,
    /// Entries of a log.
    LogEntries(Vec<Signed<Contribution>>) = 6,
    /// A task is offered.
    Offer(Box<Signed<TaskOffer>>) = 7,
    /// A sealed bid.
    BidSealed(BidSealed) = 8,
    /// The bid, opened.
    BidOpened(Bid) = 9,
    /// The task is given to the receiver.
    Awarded(Signed<Award>) = 10,
    /// The worker lives and is so far.
    Heartbeat(Heartbeat) = 11,
    /// The worker does not have, or the requester does not want, this round's work.
    Cancelled(TaskRound) = 12,
    /// The worker's committed result.
    Result(Box<Signed<TaskResult>>) = 13,
    /// Asks for a check of a result.
    CheckWanted(Box<CheckWanted>) = 14,
    /// A verifier's finding.
    Verdict(Box<Signed<Verdict>>) = 15,
    /// The result is accepted; the worker may offer its receipt.
    Accepted(Accepted) = 16,
    /// A receipt for the payer to sign.
    ReceiptOffered(Box<ReceiptOffer>) = 17,
    /// A countersigned receipt.
    Receipt(Box<SignedReceipt>) = 18,
    /// The receiver of a receipt has it on disk.
    ReceiptKept(ReceiptId) = 19,
    /// A promise to pay.
    Voucher(Box<Voucher>) = 20,
    /// The receiver of a voucher has it on disk.
    VoucherKept(Amount) = 21,
    /// An adapter is released.
    Release(Box<Signed<Release>>) = 22,
    /// Asks for a check of an answer.
    AuditWanted(Box<Audit>) = 23,
    /// A witness sealed batches.
    Batches(Vec<Signed<BatchHead>>) = 24,
    /// Asks a witness for its batches from this number.
    BatchesWanted(u64) = 25,
    /// An epoch was anchored.
    Epoch(Signed<EpochHead>) = 26,
    /// A question, first frame of an answer stream.
    Question(Box<Signed<InferenceRequest>>) = 27,
    /// A worker heard an offer and says why it does not take the task.
    Declined(Declined) = 28,
    /// How far the sender knows a datanet's card.
    CardHead(CardHead) = 29,
    /// Asks for the changes of a card that are missing in what the sender knows.
    CardWanted(CardHead) = 30,
    /// Changes of a card, each after those it builds on.
    CardChanges(Vec<Signed<CardChange>>) = 31,
    /// Asks for entries of an account's log of notes.
    NotesWanted(LogWanted) = 32,
    /// Entries of a log of notes.
    Notes(Vec<Signed<Note>>) = 33,
    /// Asks what an answer would have paid by the adapters that were really trained without each contributor.
    SharesWanted(Box<Audit>) = 34,
}

/// Asks for entries of a log, of records or of notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LogWanted {
    /// The datanet.
    pub datanet: DatanetId,
    /// Whose log.
    pub contributor: AccountId,
    /// The first place wanted.
    pub from: u64,
}

/// A sealed bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BidSealed {
    /// The task.
    pub task: TaskId,
    /// [`Bid::commitment`].
    pub commitment: Hash,
}

/// What held-out records say of an adapter in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct HeldOut {
    /// Their loss in micro-nats per token.
    pub loss_micro_nats: u64,
    /// Part of the short answers that are exactly the record's, in millionths.
    pub exact_match_millionths: Option<u32>,
    /// Mean ROUGE-L of the longer ones, in millionths.
    pub rouge_l_millionths: Option<u32>,
}

/// One point of a training's curve: a worker's own word, shown to its requester and relied on by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Measurement {
    /// Steps done.
    pub step: u32,
    /// Time that the worker has trained, in milliseconds.
    pub elapsed_ms: u64,
    /// Mean loss since the point before, in micro-nats per token.
    pub loss_micro_nats: u64,
    /// Tokens trained each second since then.
    pub tokens_per_s: u32,
    /// The newest evaluation since then.
    pub held_out: Option<HeldOut>,
}

/// How far a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The task.
    pub task: TaskId,
    /// The award's round.
    pub round: u32,
    /// Steps done.
    pub step: u32,
    /// Steps in all; zero while data is still being fetched.
    pub steps: u32,
    /// Loss in micro-nats per token.
    pub loss_micro_nats: u64,
    /// Tokens trained each second.
    pub tokens_per_s: u32,
    /// Points of the curve that the requester may not have yet, by rising step.
    pub curve: Vec<Measurement>,
}

/// One round of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct TaskRound {
    /// The task.
    pub task: TaskId,
    /// The award's round.
    pub round: u32,
}

/// Asks for a check of a result: the secret shows which segments.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CheckWanted {
    /// The offer, whose commitment the secret opens.
    pub offer: Signed<TaskOffer>,
    /// The node that worked and provides the checkpoints.
    pub worker: NodeId,
    /// The committed result.
    pub result: Signed<TaskResult>,
    /// The secret.
    pub secret: Hash,
}

/// The result is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Accepted {
    /// The task.
    pub task: TaskId,
    /// Where the verifier is paid; the treasury when nobody could check.
    pub verifier: ChainAddress,
    /// Segments found equal.
    pub segments_checked: u16,
    /// The payer's price of the whole.
    pub price: Amount,
}

/// Kinds whose bodies may use a whole request: log entries, audits, batch heads, changes of cards, notes.
#[must_use]
pub const fn is_bulk(kind: u16) -> bool {
    matches!(kind, 6 | 23 | 24 | 31 | 33 | 34)
}

/// Kinds that everybody may hear; any other is an answer or a request between two nodes, and gossip of it would
/// have the whole network answer at once.
#[must_use]
pub const fn is_gossip(kind: u16) -> bool {
    matches!(kind, 1 | 3 | 7 | 22 | 24 | 26 | 29)
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The bytes do not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The header names another kind.
    #[error("header says kind {header}, body is kind {body}")]
    Kind {
        /// In the header.
        header: u16,
        /// Of the body.
        body: u16,
    },
    /// A list or text in it is too long, or its order is wrong.
    #[error("a bound is broken in a message of kind {0}")]
    Bounds(u16),
}

impl Message {
    /// The body's bytes.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads a body whose envelope says `kind`.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn from_body(kind: u16, body: &[u8]) -> Result<Self, MessageError> {
        let message: Self = wire::decode(body, crate::limits::REQUEST_MAX_BYTES)?;
        if message.kind() != kind {
            return Err(MessageError::Kind { header: kind, body: message.kind() });
        }
        if !message.is_within_bounds() {
            return Err(MessageError::Bounds(kind));
        }
        Ok(message)
    }

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Peer(record) => record.is_well_formed(),
            Self::Head(head) => head.is_well_formed(),
            Self::LogEntries(entries) => entries.len() <= crate::limits::LOG_BATCH_MAX,
            Self::Notes(notes) => notes.len() <= crate::limits::LOG_BATCH_MAX,
            Self::Offer(offer) => offer.body.is_well_formed(),
            Self::Result(result) => result.body.is_well_formed(),
            Self::CheckWanted(check) => check.offer.body.is_well_formed() && check.result.body.is_well_formed(),
            Self::Verdict(verdict) => verdict.body.is_well_formed(),
            Self::Release(release) => release.body.is_well_formed(),
            Self::AuditWanted(audit) | Self::SharesWanted(audit) => {
                audit.transcript.len() <= crate::limits::TRANSCRIPT_MAX_BYTES && audit.request.body.is_well_formed()
            }
            Self::Voucher(voucher) => voucher.signature.len() == 65,
            Self::Batches(heads) => heads.len() <= crate::limits::LOG_BATCH_MAX,
            Self::Question(request) => request.body.is_well_formed(),
            Self::Heartbeat(beat) => beat.curve.len() <= CURVE_POINTS_MAX,
            Self::Declined(declined) => declined.reason.is_well_formed(),
            Self::CardHead(head) | Self::CardWanted(head) => head.is_well_formed(),
            Self::CardChanges(changes) => {
                changes.len() <= CARD_BATCH_MAX
                    && changes.iter().all(|entry| entry.body.change.len() <= CARD_CHANGE_MAX_BYTES)
            }
            Self::Genesis(_)
            | Self::GenesisWanted(_)
            | Self::LogWanted(_)
            | Self::NotesWanted(_)
            | Self::BidSealed(_)
            | Self::BidOpened(_)
            | Self::Awarded(_)
            | Self::Cancelled(_)
            | Self::Accepted(_)
            | Self::ReceiptOffered(_)
            | Self::Receipt(_)
            | Self::ReceiptKept(_)
            | Self::VoucherKept(_)
            | Self::BatchesWanted(_)
            | Self::Epoch(_) => true,
        }
    }
}
