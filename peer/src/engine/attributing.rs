//! What the engine is asked about contributors and records.
//!
//! Invariant: blobs lie in the folder's hand-over, and nothing here names a path.

use bincode::{Decode, Encode};
use tributary_protocol::id::Hash;

use super::ExampleFrame;

/// Of which contributors it is to be said who teaches the same. The adapter's blob lies in the folder's hand-over.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct ClusterAsk {
    /// The base.
    pub base: Hash,
    /// The adapter's blob.
    pub adapter: Hash,
    /// Some records of each of them.
    pub records: Vec<ExampleFrame>,
}

/// The records of which it is to be said what they did for an answer. The adapter's blob lies in the folder's hand-over.
/// Told by gradients, or by the whole training gone through backwards, where its recipe is known.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct InfluenceAsk {
    /// The base.
    pub base: Hash,
    /// The adapter's blob.
    pub adapter: Hash,
    /// The recipe of the adapter's training as canonical JSON: the records are then all that it was given, in its order.
    pub recipe: Option<String>,
    /// The records, each with its place as its contributor.
    pub records: Vec<ExampleFrame>,
    /// Tokens of the question, all of what stood before the answer.
    pub prompt: Vec<u32>,
    /// Tokens of the answer.
    pub output: Vec<u32>,
}

/// Leave-out adapters that are to be estimated. All blobs lie in the folder's hand-over.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct EstimateAsk {
    /// The base.
    pub base: Hash,
    /// The adapter's blob.
    pub adapter: Hash,
    /// Blobs of the adapters that were trained without contributors, alone or together; `None` for the untrained one.
    pub trained: Vec<(Vec<u32>, Option<Hash>)>,
    /// How many records each contributor has.
    pub counts: Vec<(u32, u32)>,
    /// Some of them, in the order in which they are added.
    pub records: Vec<ExampleFrame>,
    /// Contributors without whom the adapter is wanted, or is to be held against this blob.
    pub wanted: Vec<(u32, Option<Hash>)>,
}
