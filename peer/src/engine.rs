//! The engine process: all computing on models happens in a child of the node, so that running out of memory or
//! a crash in a kernel takes down a job and not the node (design section 9).
//!
//! Invariant: node and engine share length-framed messages of the wire codec and one folder, nothing else; a job that was
//! begun ends with exactly one of [`Reply::Done`] or [`Reply::Failed`], also when the engine dies. An answer that was
//! waiting or computed then is computed again by the next process, and its reader notices nothing.

pub mod asking;
mod attributing;
mod bases;
pub mod child;
mod context;
pub mod deadlines;
mod export;
mod folder;
mod frames;
mod jobs;
mod memory;
mod open;
pub mod parent;
mod pending;
mod retrieved;
mod serving;
mod shelf;
pub mod template;
pub mod triage;

use bincode::{Decode, Encode};
use tributary_protocol::attribution::Quality;
use tributary_protocol::decoding::{Decoding, Prompt};
use tributary_protocol::id::Hash;
use tributary_protocol::logprobs::TokenReport;
use tributary_protocol::message::Measurement;
use tributary_protocol::retrieval::Passage;

use crate::bases::Facts;
pub use attributing::{ClusterAsk, EstimateAsk, InfluenceAsk};
pub use folder::EngineFolder;
use triage::{TriageAsk, Triaged};

/// The largest frame between node and engine.
pub const FRAME_MAX_BYTES: usize = 64 << 20;

/// A model the engine is to hold, by the hash of its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ModelId(pub Hash);

/// One training example, as it travels to the engine.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct ExampleFrame {
    /// What the model is given.
    pub prompt: String,
    /// What it should say.
    pub completion: String,
    /// The conversation in place of both, a JSON list of messages.
    pub messages: Option<String>,
    /// The contributor's number.
    pub contributor: u32,
    /// Whether its records count nothing in this run.
    pub left_out: bool,
}

/// What a training run needs.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Run {
    /// The base.
    pub base: Hash,
    /// The recipe as canonical JSON.
    pub recipe: String,
    /// The steps the offer says: where the run ends at the latest. A recipe with fewer is refused.
    pub steps: u32,
    /// The examples, in the order of the datanet's version.
    pub examples: Vec<ExampleFrame>,
}

/// What is to be exported.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ExportAsk {
    /// The base.
    pub base: Hash,
    /// The folder or file it is loaded from.
    pub source: String,
    /// The adapter's blob; empty for the base alone.
    pub adapter: Vec<u8>,
    /// The format's name.
    pub format: String,
    /// The folder to make.
    pub into: String,
}

/// What the node asks of the engine.
#[derive(Debug, Clone, Encode, Decode)]
pub enum Ask {
    /// Know where a base lies; it is loaded when a job needs it.
    Base {
        /// The hash of its manifest.
        id: Hash,
        /// Its folder, or its GGUF file.
        path: String,
    },
    /// Forget a base: its files are gone.
    Forget {
        /// The hash of its manifest.
        id: Hash,
    },
    /// Load a base and say what it is.
    Inspect {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
    },
    /// Write a model for other programs.
    Export {
        /// The job.
        job: Hash,
        /// What, how and where.
        export: ExportAsk,
    },
    /// Train an adapter.
    Train {
        /// The job.
        job: Hash,
        /// What to train.
        run: Run,
        /// Where to go on from.
        resume: Option<Vec<u8>>,
    },
    /// Make a checkpoint of the run that leaves nobody out one of a run that does.
    Adopt {
        /// The job.
        job: Hash,
        /// What is to be trained.
        run: Run,
        /// The other run's recipe.
        whole: String,
        /// Its checkpoint.
        checkpoint: Vec<u8>,
    },
    /// Execute one segment of a run again.
    Replay {
        /// The job.
        job: Hash,
        /// What was trained.
        run: Run,
        /// The checkpoint before the segment; `None` for the beginning of the run.
        start: Option<Vec<u8>>,
        /// The step after the segment.
        to_step: u32,
    },
    /// Say which records of a training look wrong.
    Triage {
        /// The job.
        job: Hash,
        /// Of which training.
        triage: TriageAsk,
    },
    /// Estimate leave-out adapters.
    Estimate {
        /// The job.
        job: Hash,
        /// Whose.
        estimate: EstimateAsk,
    },
    /// Say which contributors teach the same.
    Cluster {
        /// The job.
        job: Hash,
        /// Of whom.
        cluster: ClusterAsk,
    },
    /// Say what single records did for an answer.
    Influence {
        /// The job.
        job: Hash,
        /// Which records, which answer.
        influence: InfluenceAsk,
    },
    /// Build an attribution index and keep it with its adapter. All blobs lie in the folder's hand-over.
    Index {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
        /// The adapter's blob.
        id: Hash,
        /// Blobs of the adapters without each contributor, by number; `None` for the untrained one.
        leave_out: Vec<(u32, Option<Hash>)>,
        /// Who of them were left out together.
        clusters: Vec<Vec<u32>>,
        /// Whether it is kept for answers; otherwise only its commitment is wanted.
        keep: bool,
    },
    /// Measure how right the index is that an adapter is kept with. The adapters trained without each contributor lie in the
    /// folder's hand-over.
    Quality {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
        /// The adapter's blob.
        id: Hash,
        /// As for [`Ask::Index`].
        leave_out: Vec<(u32, Option<Hash>)>,
        /// Records whose answers are attributed.
        records: Vec<ExampleFrame>,
    },
    /// Say what the absence of contributors without whom adapters were trained really changes in an answer. Those adapters lie
    /// in the folder's hand-over.
    TrueCredits {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
        /// The adapter's blob.
        id: Hash,
        /// As for [`Ask::Index`].
        leave_out: Vec<(u32, Option<Hash>)>,
        /// The answer's tokens, and the credits that are kept for the others.
        transcript: Vec<u8>,
    },
    /// Say whether an adapter is kept with an index of this commitment.
    Open {
        /// The job.
        job: Hash,
        /// The adapter's blob.
        id: Hash,
        /// The commitment.
        index: Hash,
    },
    /// Answer a prompt.
    Answer {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
        /// The adapter; `None` for the base alone, without attribution.
        adapter: Option<Hash>,
        /// The prompt.
        prompt: Prompt,
        /// Records to stand before it, the best last; those at the beginning that do not fit are left away.
        passages: Vec<Passage>,
        /// How the answer is drawn.
        decoding: Decoding,
    },
    /// Embed texts.
    Embed {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
        /// The adapter; `None` for the base alone.
        adapter: Option<Hash>,
        /// The texts.
        inputs: Vec<String>,
    },
    /// Attribute an answer whose index could not be used when it ended.
    Credit {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
        /// The adapter.
        adapter: Hash,
        /// Tokens and fingerprints.
        transcript: Vec<u8>,
    },
    /// Check an answer by one prefill, and compute its attribution again.
    Check {
        /// The job.
        job: Hash,
        /// The base.
        base: Hash,
        /// The adapter.
        adapter: Hash,
        /// The commitment of the index that the answer was attributed by.
        index: Hash,
        /// The claimed class.
        class: String,
        /// The prompt.
        prompt: Prompt,
        /// Tokens, fingerprints, credits, context.
        transcript: Vec<u8>,
        /// How the answer was to be drawn.
        decoding: Decoding,
    },
    /// Stop a job; nothing more is wanted from it.
    Stop {
        /// The job.
        job: Hash,
    },
}

impl Ask {
    /// The job it is about; a base's place is about that base.
    #[must_use]
    pub const fn job(&self) -> Hash {
        match self {
            Self::Base { id: job, .. }
            | Self::Forget { id: job }
            | Self::Train { job, .. }
            | Self::Adopt { job, .. }
            | Self::Replay { job, .. }
            | Self::Triage { job, .. }
            | Self::Estimate { job, .. }
            | Self::Cluster { job, .. }
            | Self::Influence { job, .. }
            | Self::Index { job, .. }
            | Self::Quality { job, .. }
            | Self::TrueCredits { job, .. }
            | Self::Credit { job, .. }
            | Self::Open { job, .. }
            | Self::Embed { job, .. }
            | Self::Answer { job, .. }
            | Self::Check { job, .. }
            | Self::Inspect { job, .. }
            | Self::Export { job, .. }
            | Self::Stop { job } => *job,
        }
    }

    /// Whether it is an answer or an embedding, which is computed again when the engine dies.
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        matches!(self, Self::Answer { .. } | Self::Embed { .. })
    }
}

/// What the engine tells the node.
#[derive(Debug, Clone, Encode, Decode)]
pub enum Reply {
    /// The engine runs, in this determinism class.
    Ready {
        /// The class.
        class: String,
    },
    /// A training is so far.
    Progress {
        /// The job.
        job: Hash,
        /// Steps done.
        step: u32,
        /// Steps in all.
        steps: u32,
        /// Loss in micro-nats per token.
        loss_micro_nats: u64,
        /// Tokens each second.
        tokens_per_s: u32,
        /// Points of the curve since the last progress.
        curve: Vec<Measurement>,
    },
    /// A long job goes on.
    Working {
        /// The job.
        job: Hash,
    },
    /// A leave-out adapter was estimated.
    Estimated {
        /// The job.
        job: Hash,
        /// Without whom.
        contributor: u32,
        /// The adapter's blob.
        bytes: Vec<u8>,
    },
    /// A training that is stopped leaves its state, to go on from.
    Saved {
        /// The job.
        job: Hash,
        /// After which step.
        step: u32,
        /// The checkpoint.
        bytes: Vec<u8>,
    },
    /// A checkpoint to commit to.
    Checkpoint {
        /// The job.
        job: Hash,
        /// After which step.
        step: u32,
        /// The checkpoint.
        bytes: Vec<u8>,
    },
    /// An answer is computed from now on.
    Begun {
        /// The job.
        job: Hash,
    },
    /// A piece of an answer.
    Text {
        /// The job.
        job: Hash,
        /// The piece.
        text: String,
        /// The tokens picked since the last piece, if they are to be reported.
        tokens: Vec<TokenReport>,
    },
    /// A job ended well.
    Done {
        /// The job.
        job: Hash,
        /// With what.
        outcome: Done,
    },
    /// A job could not be done.
    Failed {
        /// The job.
        job: Hash,
        /// Why.
        reason: String,
    },
    /// A job took longer than it may, and its process was ended: the node's own word.
    Late {
        /// The job.
        job: Hash,
        /// The time that it had, in seconds.
        after_s: u64,
    },
}

/// How a job ended well.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Done {
    /// A training ended.
    Trained {
        /// The adapter's blob.
        adapter: Vec<u8>,
        /// Steps.
        steps: u32,
        /// The step whose adapter it is.
        kept_step: u32,
        /// Last loss in micro-nats per token.
        loss_micro_nats: u64,
    },
    /// A run's own checkpoint, or why the other run's is none of it.
    Adopted(Result<Vec<u8>, String>),
    /// A segment ended with this checkpoint.
    Replayed {
        /// The checkpoint.
        end: Vec<u8>,
        /// The blob of the adapter that the run is told by at that point, and the step after which it was.
        adapter: Vec<u8>,
        /// See `adapter`.
        kept_step: u32,
        /// Whether the run ends there, by its offer or by its recipe's rule.
        is_over: bool,
    },
    /// Records were ranked.
    Triaged(Triaged),
    /// What was wanted is estimated.
    Estimated {
        /// The farthest that one is from what it was held against, in millionths of what it moves the adapter.
        worst_millionths: u64,
    },
    /// Who teaches the same: numbers of contributors, ascending.
    Clustered(Vec<Vec<u32>>),
    /// What records did for an answer.
    Influenced {
        /// By their places, in billionths of the largest; below zero where they harmed.
        scores: Vec<(u32, i64)>,
        /// By how much the training magnifies small changes, where it was gone through; in thousandths.
        magnified_permille: Option<u64>,
    },
    /// A base was loaded.
    Inspected(Facts),
    /// A model was written, read again and compared.
    Exported {
        /// Its files with their sizes.
        files: Vec<(String, u64)>,
        /// The largest difference between two logits, in millionths.
        worst_millionths: u64,
        /// The largest logit, in millionths.
        largest_millionths: u64,
        /// Positions compared.
        positions: u32,
    },
    /// An index stands and is kept.
    Indexed {
        /// Its commitment.
        commitment: Hash,
    },
    /// Each contributor's credit, true where it can be.
    TrueCredits(Vec<(u32, i64)>),
    /// How right an index is; nothing where no record could be used.
    Measured(Option<Quality>),
    /// An answer ended.
    Answered {
        /// The whole text.
        text: String,
        /// Tokens, fingerprints, contributors' credits, and the records that stood before the prompt.
        transcript: Vec<u8>,
        /// The root over the fingerprints.
        fingerprints: Hash,
        /// What commits to the tokens' probabilities, if they are to be reported.
        logprobs: Option<Hash>,
        /// Why the transcript is still without credits: the adapter's index can't be used.
        pending: Option<String>,
    },
    /// An answer's transcript with its credits.
    Credited {
        /// Tokens, fingerprints, contributors' credits.
        transcript: Vec<u8>,
    },
    /// The texts' embeddings, each of length 1.
    Embedded {
        /// One for each text.
        vectors: Vec<Vec<f32>>,
        /// Tokens of all texts.
        tokens: u64,
    },
    /// What was asked can't be done, here or ever.
    Refused {
        /// The number of its kind ([`tributary_protocol::refusal::RefusalKind`]).
        kind: u8,
        /// For people.
        reason: String,
    },
    /// An answer was checked.
    Checked {
        /// `None` when it holds, else what is wrong.
        fault: Option<String>,
        /// Why it could not be checked.
        abstained: Option<String>,
        /// Fingerprints compared.
        fingerprints: u32,
        /// Its credits, computed again.
        credits: Vec<(u32, i64)>,
        /// The answer's text, decoded again.
        text: String,
        /// The answer's losses under coalitions of adapter and records, computed again.
        losses: Vec<i64>,
        /// The root over the fingerprints.
        root: Hash,
        /// What commits to the tokens' probabilities, computed again.
        logprobs: Option<Hash>,
    },
}

/// Nats to whole millionths; a loss that is no number shows as the largest.
fn micro(nats: f64) -> u64 {
    let micro = nats * 1e6;
    if micro.is_finite() && micro >= 0.0 { format!("{micro:.0}").parse().unwrap_or(u64::MAX) } else { u64::MAX }
}

impl Reply {
    /// The job it is about.
    #[must_use]
    pub const fn job(&self) -> Option<Hash> {
        match self {
            Self::Ready { .. } => None,
            Self::Progress { job, .. }
            | Self::Checkpoint { job, .. }
            | Self::Begun { job }
            | Self::Working { job }
            | Self::Saved { job, .. }
            | Self::Estimated { job, .. }
            | Self::Text { job, .. }
            | Self::Done { job, .. }
            | Self::Late { job, .. }
            | Self::Failed { job, .. } => Some(*job),
        }
    }
}
