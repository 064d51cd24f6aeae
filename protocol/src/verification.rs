//! Verification: committed results, the sampling of what is executed again, and verdicts.
//!
//! Invariant: what is checked is drawn only after it was committed, from a secret that was committed before;
//! "cannot check" is an abstention and never counts against anybody (design section 9).

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::envelope::Statement;
use crate::id::{Hash, ReceiptId, TaskId};
use crate::limits::{CHECKPOINTS_MAX, NAME_MAX_BYTES, SEGMENTS_MAX};

/// A worker's committed result of a fine-tune task.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task.
    pub task: TaskId,
    /// The award's round.
    pub round: u32,
    /// The blob of the adapter's files.
    pub adapter: Hash,
    /// The blobs of the checkpoints, from before the first step to after the last.
    pub checkpoints: Vec<Hash>,
    /// Optimiser steps.
    pub steps: u32,
    /// The step whose adapter it is: that of the best evaluation where the recipe says so, else the last.
    pub kept_step: u32,
    /// Loss of the last step, in micro-nats per token.
    pub loss_micro_nats: u64,
    /// Time the training took, in milliseconds.
    pub elapsed_ms: u64,
    /// The determinism class it ran in.
    pub class: String,
}

impl Statement for TaskResult {
    const KIND: u16 = 6;
}

impl TaskResult {
    /// Whether it has segments at all and not too many.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        (2..=CHECKPOINTS_MAX).contains(&self.checkpoints.len())
            && self.class.len() <= NAME_MAX_BYTES
            && (1..=self.steps).contains(&self.kept_step)
    }

    /// How many segments lie between the checkpoints.
    #[must_use]
    pub fn segments(&self) -> u32 {
        u32::try_from(self.checkpoints.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A committed result: its signed digest.
    Training(Hash),
    /// An answer's receipt.
    Answer(ReceiptId),
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything checked was as committed.
    Confirmed,
    /// Something was not, and this is what.
    Refuted(String),
    /// The verifier could not check, and this is why.
    Abstained(String),
}

impl Outcome {
    /// The same with no longer a reason than a verdict may have.
    #[must_use]
    pub fn cut(self) -> Self {
        let cut = |reason: String| reason.chars().take(NAME_MAX_BYTES).collect();
        match self {
            Self::Confirmed => Self::Confirmed,
            Self::Refuted(reason) => Self::Refuted(cut(reason)),
            Self::Abstained(reason) => Self::Abstained(cut(reason)),
        }
    }
}

/// A verifier's signed finding.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Verdict {
    /// The task.
    pub task: TaskId,
    /// What was checked.
    pub subject: Subject,
    /// The segments executed again, or the fingerprints compared.
    pub checked: Vec<u32>,
    /// How it ended.
    pub outcome: Outcome,
    /// The blob of what proves a refutation to anybody ([`Proof`](crate::proof::Proof)), where there is one.
    pub proof: Option<Hash>,
}

impl Statement for Verdict {
    const KIND: u16 = 7;
}

impl Verdict {
    /// Whether lengths are within bounds.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let reason = match &self.outcome {
            Outcome::Confirmed => "",
            Outcome::Refuted(reason) | Outcome::Abstained(reason) => reason,
        };
        self.checked.len() <= SEGMENTS_MAX && reason.len() <= 4 * NAME_MAX_BYTES
    }
}

/// The hash that commits to `secret` in an offer.
#[must_use]
pub fn beacon_commitment(secret: &Hash) -> Hash {
    Hash(blake3::derive_key("tributary beacon commitment v1", &secret.0))
}

/// Draws `wanted` of `segments` segments without repetition, ordered, from the revealed secret and what was
/// committed: neither the requester, bound by the commitment, nor the worker, bound by the result, can choose.
#[must_use]
pub fn sample_segments(secret: &Hash, committed: &Hash, segments: u32, wanted: u16) -> Vec<u32> {
    let mut seed = [0; 64];
    seed[..32].copy_from_slice(&secret.0);
    seed[32..].copy_from_slice(&committed.0);
    let mut stream = blake3::Hasher::new_derive_key("tributary segment sample v1").update(&seed).finalize_xof();
    let mut left: Vec<u32> = (0..segments).collect();
    let mut picked = Vec::new();
    while picked.len() < usize::from(wanted).min(SEGMENTS_MAX) && !left.is_empty() {
        let mut word = [0; 8];
        stream.fill(&mut word);
        let place = u64::from_le_bytes(word) % u64::try_from(left.len()).unwrap_or(1);
        picked.push(left.swap_remove(usize::try_from(place).unwrap_or(0)));
    }
    picked.sort_unstable();
    picked
}

/// Orders `candidates` by rendezvous hash with `subject`: the first is asked first, and everybody computes the
/// same order.
#[must_use]
pub fn rendezvous<T: Copy + Ord>(subject: &[u8; 32], candidates: &[T], bytes: impl Fn(&T) -> [u8; 32]) -> Vec<T> {
    let mut ranked: Vec<([u8; 32], T)> = candidates
        .iter()
        .map(|candidate| {
            let mut both = [0; 64];
            both[..32].copy_from_slice(subject);
            both[32..].copy_from_slice(&bytes(candidate));
            (blake3::derive_key("tributary rendezvous v1", &both), *candidate)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn samples_are_distinct_ordered_and_within_range(seed in any::<[u8; 32]>(), segments in 0..200_u32, wanted in 0..80_u16) {
            let sample = sample_segments(&Hash(seed), &Hash::of(b"result"), segments, wanted);
            prop_assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(sample.iter().all(|segment| *segment < segments));
            let expected = usize::from(wanted).min(SEGMENTS_MAX).min(segments as usize);
            prop_assert_eq!(sample.len(), expected);
        }
    }
}
