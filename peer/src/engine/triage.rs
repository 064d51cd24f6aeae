//! Which records of a training look wrong: what the node asks the engine, and what it is told.
//!
//! Invariant: no float leaves the engine; losses are whole micro-nats, everything else whole thousandths.

use bincode::{Decode, Encode};
use tributary_protocol::id::Hash;

use super::ExampleFrame;

/// What is looked at. Blobs of adapter and checkpoints lie in the folder's hand-over.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct TriageAsk {
    /// The base.
    pub base: Hash,
    /// The recipe as canonical JSON; its default where nobody here knows it.
    pub recipe: String,
    /// The records, in the order in which they are measured.
    pub examples: Vec<ExampleFrame>,
    /// The adapter's blob.
    pub adapter: Hash,
    /// Checkpoints of its training, in their order.
    pub checkpoints: Vec<Hash>,
    /// The most doubtful records that are wanted, at most, and pairs that say the same.
    pub wanted: u32,
}

/// Why a record is doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Why {
    /// It stays unlikely while others are learned.
    NeverLearned,
    /// It was learned before others were.
    LearnedEarly,
}

/// A record, and what was measured of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DoubtFrame {
    /// Its place among the examples.
    pub place: u32,
    /// Standard deviations above the middle, in thousandths.
    pub score_milli: i64,
    /// Why, if it is doubtful at all.
    pub why: Option<Why>,
    /// Mean losses of its completion, in micro-nats a token: at the base, at the checkpoints, with the adapter.
    pub losses_micro_nats: Vec<u64>,
    /// Norms of that loss's gradient, at the base and with the adapter, in thousandths of the middle one.
    pub gradients_permille: [u64; 2],
}

/// Two records of different contributors that say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct EchoFrame {
    /// Their places among the examples.
    pub places: [u32; 2],
    /// Cosine of what they teach, in thousandths.
    pub taught_permille: u32,
    /// Cosine of how the base reads them, in thousandths.
    pub read_permille: u32,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Triaged {
    /// Records that were measured; the time may have been too short for all.
    pub measured: u32,
    /// Records that the training held out: they are not measured.
    pub held_out: u32,
    /// Records from which nothing can be learned.
    pub unusable: u32,
    /// The steps of the checkpoints.
    pub steps: Vec<u32>,
    /// The middle of all records' losses at each point, in micro-nats a token.
    pub usual_micro_nats: Vec<u64>,
    /// How many are doubtful.
    pub doubtful: u32,
    /// The most doubtful first.
    pub doubts: Vec<DoubtFrame>,
    /// Records that were compared with those of others; the time may have been too short for all.
    pub compared: u32,
    /// Pairs that say the same.
    pub echoing: u32,
    /// Those that teach most alike first.
    pub echoes: Vec<EchoFrame>,
}
