//! What goes into a node and what comes out of it.

use crate::batch::{Anchored, EpochBody};
use crate::card::CardChange;
use crate::datanet::{Genesis, Head};
use crate::envelope::Signed;
use crate::id::{AccountId, Amount, ChainAddress, DatanetId, Hash, NodeId, ReceiptId, TaskId};
use crate::message::{Audit, Heartbeat, InferenceRequest, Release};
use crate::node::asker::AskCommand;
use crate::node::facts::Fact;
use crate::node::proofs::KeptProof;
use crate::node::requester::FineTuneCommand;
use crate::proof::Proof;
use crate::receipt::{SignedReceipt, Voucher};
use crate::refusal::Refusal;
use crate::retrieval::Context;
use crate::task::{Award, TaskOffer};
use crate::verification::{Outcome, TaskResult, Verdict};

/// Something happened that the node must know.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time passed; every `limits::TICK_MS` or more often.
    Tick,
    /// A peer sent an envelope directly.
    Message {
        /// The peer, as the connection authenticated it.
        from: NodeId,
        /// The envelope.
        bytes: Vec<u8>,
    },
    /// Gossip brought an envelope.
    Gossip {
        /// The driver's number for it, returned in [`Output::Validated`].
        id: u64,
        /// The envelope.
        bytes: Vec<u8>,
    },
    /// A connection to a peer exists.
    Connected(NodeId),
    /// The last connection to a peer is gone.
    Disconnected(NodeId),
    /// The addresses this node listens on.
    Listening {
        /// Control plane, as multiaddresses.
        control: Vec<String>,
        /// Data plane, as socket addresses.
        data: Vec<String>,
    },
    /// The user or a program wants something.
    Command(Box<Command>),
    /// A training job is so far.
    Progress(Heartbeat),
    /// A job ended.
    Finished {
        /// The job's number from [`Output::Start`].
        job: Hash,
        /// How.
        outcome: Box<JobOutcome>,
    },
    /// The driver holds everything that serving this adapter needs.
    Serving(Hash),
    /// The driver made room and holds this adapter no more; it is not loaded again before a restart.
    Dropped(Hash),
    /// A blob the node wanted is in the store.
    Fetched {
        /// Which.
        blob: Hash,
    },
    /// A body the node wanted, checked against its hash.
    Body {
        /// Which.
        blob: Hash,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A question came in on an answer stream.
    Question {
        /// The asking peer.
        from: NodeId,
        /// The driver's number for the stream.
        stream: u64,
        /// The envelope of the first frame.
        bytes: Vec<u8>,
    },
    /// An answer came in whole.
    AnswerArrived {
        /// The question's key.
        key: Hash,
        /// The envelope with the worker's receipt offer.
        offer: Vec<u8>,
        /// What the driver received and hashed.
        transcript: Box<AnswerTranscript>,
    },
    /// No answer came from the worker that was asked.
    AnswerFailed {
        /// The question's key.
        key: Hash,
        /// Why.
        refusal: Refusal,
    },
    /// The driver signed a promise to pay.
    VoucherSigned(Box<Voucher>),
    /// The driver found a received promise's signature right.
    VoucherVerified(Box<Voucher>),
    /// The epoch's root stands on the settlement chain.
    EpochPosted {
        /// Which.
        epoch: u64,
    },
    /// The fees that arrived in all do not cover the epoch: nothing was posted, and nothing will be.
    EpochUnfunded {
        /// Which.
        epoch: u64,
    },
    /// What the chain says about [`Output::ReadFunding`].
    FundingRead {
        /// Of each stream that was asked for.
        funding: Vec<Funding>,
        /// The fees that arrived in all, of whatever payers, read after those of the streams.
        arrived: Amount,
    },
    /// What the chain says about [`Output::ReadEpochs`], of those that stand there for good.
    EpochsRead(Vec<Anchored>),
    /// The driver found something false that can be proven to others, and that no check had asked for.
    FalsehoodFound(Box<Proof>),
    /// The driver checked the changes of [`Output::CheckCard`].
    CardChecked {
        /// Who had sent them.
        from: NodeId,
        /// Whose card.
        datanet: DatanetId,
        /// Each with what was found, in the same order.
        checked: Vec<(Signed<CardChange>, CardFinding)>,
    },
}

/// One payer's work by one worker, as receipts name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeeStream {
    /// The paying account.
    pub payer: AccountId,
    /// The working account.
    pub worker: AccountId,
    /// The address at which the worker is paid.
    pub payee: ChainAddress,
}

/// What the chain says of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funding {
    /// Which.
    pub stream: FeeStream,
    /// The address the payer's account was bound to first in the registry; none unless the worker's was bound first to
    /// the payee. What the registry said first, no later rotation or revocation takes back.
    pub from: Option<ChainAddress>,
    /// What escrow has moved into the distributor, ever, by vouchers of `from` for the stream's payee.
    pub fees: Amount,
}

/// What the user or a program wants.
#[derive(Debug, Clone)]
pub enum Command {
    /// Begin a datanet; its id is the digest of the signed genesis.
    CreateDatanet(Genesis),
    /// Add a shard, whose blob is in the store, to one's own log.
    Contribute(NewShard),
    /// Commit to records before they are shown to anybody; contributing exactly these opens the commitment.
    Commit {
        /// Where they will be contributed.
        datanet: DatanetId,
        /// The Merkle root over their ids.
        records_root: Hash,
    },
    /// Have an adapter trained.
    FineTune(FineTuneCommand),
    /// Release an adapter.
    Release(Box<Release>),
    /// Ask a question.
    Ask(AskCommand),
    /// Stop a request by its key: nobody begins it any more, and who works on it is told. A result that is committed
    /// already is checked and paid as always.
    StopFineTune(Hash),
    /// Count all receipts known and anchor the sums.
    CloseEpoch,
    /// Change a datanet's card.
    EditCard {
        /// Whose card.
        datanet: DatanetId,
        /// The change, which the driver made on top of those known.
        change: Vec<u8>,
    },
}

/// What the driver found of a change of a card, on top of those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardFinding {
    /// It leaves a readable card.
    Good,
    /// It builds on changes that are not here yet.
    Early,
    /// It is no change, not its signer's, or leaves no card within the bounds.
    Broken(String),
}

/// A shard to contribute.
#[derive(Debug, Clone)]
pub struct NewShard {
    /// To which datanet.
    pub datanet: DatanetId,
    /// The shard's blob.
    pub shard: Hash,
    /// Its size in bytes.
    pub bytes: u64,
    /// Records in it.
    pub records: u32,
    /// The Merkle root over the ids of its records.
    pub records_root: Hash,
}

/// What a job is to do.
#[derive(Debug, Clone)]
pub enum Work {
    /// Train an adapter.
    Train {
        /// The offer.
        offer: Box<Signed<TaskOffer>>,
        /// The award.
        award: Award,
    },
    /// Execute segments of another worker's training again.
    Replay {
        /// The offer.
        offer: Box<Signed<TaskOffer>>,
        /// The result under check.
        result: Box<Signed<TaskResult>>,
        /// Who provides the checkpoints.
        worker: NodeId,
        /// Which segments.
        segments: Vec<u32>,
    },
    /// Answer a question.
    Answer {
        /// The question.
        request: Box<Signed<InferenceRequest>>,
        /// The adapter's release.
        release: Box<Signed<Release>>,
        /// The driver's stream.
        stream: u64,
    },
    /// Check another worker's answer.
    CheckAnswer {
        /// What the payer disclosed.
        audit: Box<Audit>,
        /// The adapter's release.
        release: Box<Signed<Release>>,
    },
    /// The same, and find what each contributor's absence really changes in it.
    TrueCredits {
        /// What the payer disclosed.
        audit: Box<Audit>,
        /// The adapter's release.
        release: Box<Signed<Release>>,
    },
}

/// How a job ended.
#[derive(Debug, Clone)]
pub enum JobOutcome {
    /// Training ended.
    Trained(TrainedAdapter),
    /// The replay ended: how, and which segments were executed.
    Replayed(Outcome, Vec<u32>),
    /// The answer was given.
    Answered(FinishedAnswer),
    /// The check of an answer ended: how, and how many fingerprints were compared.
    AnswerChecked(Outcome, Vec<u32>),
    /// The same, and what was found false can be proven to others.
    AnswerFalse {
        /// What is false, in words.
        reason: String,
        /// The fingerprints compared.
        checked: Vec<u32>,
        /// The proof.
        proof: Box<Proof>,
    },
    /// The answer is as it was committed, and this is the loss difference of each contributor, by number in the release, in
    /// micro-nats: the true one of whom an adapter was trained without, else the committed one.
    TrueCredits(Vec<(u32, i64)>),
    /// The job could not be done here.
    Failed(String),
    /// The question cannot be answered by anybody.
    Refused(Refusal),
}

/// A trained adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedAdapter {
    /// The blob of its files.
    pub adapter: Hash,
    /// The blobs of its checkpoints, from before the first step to after the last.
    pub checkpoints: Vec<Hash>,
    /// Optimiser steps.
    pub steps: u32,
    /// The step whose adapter it is.
    pub kept_step: u32,
    /// Last loss in micro-nats per token.
    pub loss_micro_nats: u64,
    /// Time it took, in milliseconds.
    pub elapsed_ms: u64,
    /// The determinism class it was computed in: what the base's numbers are decides which of a machine's it is.
    pub class: String,
}

/// An answer, as the worker gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedAnswer {
    /// The hash of the text.
    pub answer: Hash,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// The root over the fingerprints.
    pub fingerprints: Hash,
    /// What commits to the tokens' probabilities, where they were wanted.
    pub logprobs: Option<Hash>,
    /// The hash of the transcript that the driver sends.
    pub transcript: Hash,
    /// The loss difference of each contributor, by number in the release, in micro-nats, as the transcript has it.
    pub credits: Vec<(u32, i64)>,
    /// The records that stood before the question, as the transcript has them.
    pub context: Context,
    /// The determinism class it was computed in.
    pub class: String,
}

/// What the payer's driver received on the answer stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerTranscript {
    /// The text.
    pub text: String,
    /// The root over the fingerprints received.
    pub fingerprints: Hash,
    /// Tokens whose probabilities were received, and what commits to these.
    pub logprobs: Option<(u32, Hash)>,
    /// The bytes of a [`Transcript`](crate::transcript::Transcript); disclosed to a verifier only.
    pub transcript: Vec<u8>,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone)]
pub enum Output {
    /// Make these facts durable before anything that follows.
    Persist(Vec<Fact>),
    /// Send an envelope to a peer.
    Send {
        /// To whom.
        to: NodeId,
        /// The envelope.
        bytes: Vec<u8>,
    },
    /// Gossip an envelope.
    Publish {
        /// The envelope.
        bytes: Vec<u8>,
    },
    /// What gossip should do with a message: `Some(true)` carry on, `Some(false)` reject, `None` ignore.
    Validated {
        /// The driver's number for it.
        id: u64,
        /// The decision.
        keep: Option<bool>,
    },
    /// Get a blob into the store.
    Fetch {
        /// Which.
        blob: Hash,
        /// Its size in bytes, for the bound.
        bytes: u64,
        /// Who has it.
        providers: Vec<NodeId>,
    },
    /// Get a blob and give its bytes back as [`Input::Body`].
    FetchBody {
        /// Which.
        blob: Hash,
        /// Its size in bytes, for the bound.
        bytes: u64,
        /// Who has it.
        providers: Vec<NodeId>,
    },
    /// Put bytes into the store, to be provided to others; durable before a [`Output::Persist`] that follows.
    Provide {
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Remember where a peer listens.
    Learn {
        /// Who.
        peer: NodeId,
        /// Control plane addresses.
        control: Vec<String>,
        /// Data plane addresses.
        data: Vec<String>,
    },
    /// Start a job.
    Start {
        /// The job's number.
        job: Hash,
        /// What it is.
        work: Work,
    },
    /// Stop a job; nothing more is wanted from it.
    Stop {
        /// The job's number.
        job: Hash,
    },
    /// Open an answer stream and send the question.
    OpenAnswer {
        /// The question's key.
        key: Hash,
        /// Whom to ask.
        worker: NodeId,
        /// The envelope of the question.
        bytes: Vec<u8>,
    },
    /// End an answer stream with the receipt offer.
    FinishAnswer {
        /// The driver's stream.
        stream: u64,
        /// The envelope of the offer.
        bytes: Vec<u8>,
    },
    /// End an answer stream with a refusal.
    RefuseAnswer {
        /// The driver's stream.
        stream: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Load a released adapter for serving or checking, then say [`Input::Serving`].
    Load {
        /// The release.
        release: Box<Signed<Release>>,
    },
    /// Sign a promise to pay; `signature` is empty.
    SignVoucher(Box<Voucher>),
    /// Check a promise's signature.
    VerifyVoucher(Box<Voucher>),
    /// Post an epoch's root on the settlement chain; again after a restart, so it must be idempotent.
    PostEpoch(Box<EpochBody>),
    /// Read on the settlement chain what fees arrived for these payers' work by these workers, and say
    /// [`Input::FundingRead`].
    ReadFunding(Vec<FeeStream>),
    /// Read on the settlement chain which bodies stand of these epochs and of the newest, and their beacons, and say
    /// [`Input::EpochsRead`].
    ReadEpochs(Vec<u64>),
    /// Check changes of a card on top of those known, in their order, then say [`Input::CardChecked`]; may be dropped,
    /// since what is missing is asked for again.
    CheckCard {
        /// Who sent them.
        from: NodeId,
        /// Whose card.
        datanet: DatanetId,
        /// The changes.
        changes: Vec<Signed<CardChange>>,
    },
    /// A peer broke the rules.
    Penalise {
        /// Who.
        peer: NodeId,
        /// How.
        reason: String,
    },
    /// Tell the user.
    Event(Event),
}

/// Something a user may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A datanet is known.
    DatanetKnown(DatanetId),
    /// A datanet has a new version.
    HeadMoved(Head),
    /// A contributor signed two entries for one place.
    ForkFound {
        /// The datanet.
        datanet: DatanetId,
        /// Who did.
        contributor: AccountId,
    },
    /// A task was given to a worker.
    TaskAwarded {
        /// The request's key.
        key: Hash,
        /// The award.
        award: Award,
    },
    /// A worker is so far.
    TaskProgress {
        /// The request's key.
        key: Hash,
        /// How far.
        progress: Heartbeat,
    },
    /// A worker let its lease lapse or failed; the task goes to another.
    TaskLapsed {
        /// The request's key.
        key: Hash,
        /// Who.
        worker: NodeId,
        /// Why.
        reason: String,
    },
    /// A result was checked.
    TaskChecked {
        /// The request's key.
        key: Hash,
        /// The finding.
        verdict: Box<Signed<Verdict>>,
    },
    /// A task is paid and done.
    TaskDone {
        /// The request's key.
        key: Hash,
        /// The receipt.
        receipt: ReceiptId,
    },
    /// A task could not be done.
    TaskFailed {
        /// The request's key.
        key: Hash,
        /// Why.
        reason: String,
    },
    /// This node won a task.
    JobWon(TaskId),
    /// This node's work on a task ended without pay.
    JobLost {
        /// The task.
        task: TaskId,
        /// Why.
        reason: String,
    },
    /// An adapter was released.
    Released(Box<Signed<Release>>),
    /// A question is answered and its receipt countersigned.
    Answered {
        /// The question's key.
        key: Hash,
        /// The receipt.
        receipt: Box<SignedReceipt>,
    },
    /// A question could not be answered.
    AskFailed {
        /// The question's key.
        key: Hash,
        /// Why.
        reason: String,
    },
    /// An answer was checked.
    AnswerChecked {
        /// The question's key.
        key: Hash,
        /// The finding.
        verdict: Box<Signed<Verdict>>,
    },
    /// A receipt is on disk here.
    ReceiptKept(ReceiptId),
    /// The chain drew an answer that this node paid for: it is audited for settlement.
    AuditDrawn(ReceiptId),
    /// A promise to pay is on disk here.
    VoucherTaken {
        /// From whom.
        payer: AccountId,
        /// How much in all.
        cumulative: Amount,
    },
    /// An anchored epoch was recomputed from the receipts known here.
    EpochChecked {
        /// Which.
        epoch: u64,
        /// Whether the sums agree.
        agrees: bool,
    },
    /// A datanet's card changed.
    CardChanged(DatanetId),
    /// Something false was proven, and the proof is kept here.
    ProofKept(KeptProof),
}
