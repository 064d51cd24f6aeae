//! What a worker sends beside an answer's text, and commits to in the receipt: all that recomputing it needs.
//!
//! Invariant: one content has one encoding, so its hash names it; whoever reads one bounds its bytes before anything is
//! built from them.

use bincode::{Decode, Encode};

use crate::id::Hash;
use crate::limits::TRANSCRIPT_MAX_BYTES;
use crate::retrieval::Context;
use crate::wire::{self, WireError};

/// Tokens, fingerprints, credits and context of one answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Transcript {
    /// The prompt's tokens.
    pub prompt_tokens: Vec<u32>,
    /// The answer's tokens.
    pub output_tokens: Vec<u32>,
    /// The fingerprints' canonical bytes, as compute encodes them.
    pub fingerprints: Vec<Vec<u8>>,
    /// The loss difference of each contributor, by number in the release, in micro-nats: from these follow the shares,
    /// by integers alone.
    pub credits: Vec<(u32, i64)>,
    /// The records that stood before the question, and what they explain beside the adapter.
    pub context: Context,
}

impl Transcript {
    /// The bytes that are sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads bytes that were sent.
    ///
    /// # Errors
    /// When they are too many or no transcript.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, TRANSCRIPT_MAX_BYTES)
    }

    /// What a receipt names a transcript of these bytes by.
    #[must_use]
    pub fn commitment(bytes: &[u8]) -> Hash {
        Hash(blake3::derive_key("tributary transcript v1", bytes))
    }
}
