//! The bytes of a run's state: what a worker commits to and a verifier starts from.
//!
//! Invariant: equal states give equal bytes, and only a complete, finite state of the same run is read back.
//!
//! Layout, little-endian: magic (8), run hash (32), step (u32), best held-out loss so far (f32) and evaluations since
//! (u32), count (u64), then values, first and second moments (count × f32 each).

use tributary_protocol::id::Hash;

use super::TrainError;
use super::adamw::AdamW;

/// Marks a checkpoint of this layout.
const MAGIC: &[u8; 8] = b"TRIBCKP2";
const HEADER_BYTES: usize = 8 + 32 + 4 + 4 + 4 + 8;

/// What early stopping remembers: part of the state, so that a forged end is found like a forged weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Patience {
    /// The lowest loss of all evaluations so far; infinite before the first.
    pub(super) best: f32,
    /// Evaluations since then.
    pub(super) since: u32,
}

impl Patience {
    pub(super) const fn new() -> Self {
        Self { best: f32::INFINITY, since: 0 }
    }

    /// Takes an evaluation's loss.
    pub(super) const fn hear(&mut self, loss: f32) {
        if loss < self.best {
            *self = Self { best: loss, since: 0 };
        } else {
            self.since = self.since.saturating_add(1);
        }
    }

    pub(super) const fn is_over(self, patience: u32) -> bool {
        patience > 0 && self.since >= patience
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub(super) run: Hash,
    pub(super) step: u32,
    pub(super) patience: Patience,
    pub(super) optimiser: AdamW,
}

impl State {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let count = self.optimiser.values.len();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + count * 3 * size_of::<f32>());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.run.as_bytes());
        bytes.extend_from_slice(&self.step.to_le_bytes());
        bytes.extend_from_slice(&self.patience.best.to_le_bytes());
        bytes.extend_from_slice(&self.patience.since.to_le_bytes());
        bytes.extend_from_slice(&(count as u64).to_le_bytes());
        for values in [&self.optimiser.values, &self.optimiser.first, &self.optimiser.second] {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// Reads a checkpoint of the run `run` with `count` values and at most `steps` steps, from anybody.
    pub(super) fn from_bytes(bytes: &[u8], run: Hash, count: usize, steps: u32) -> Result<Self, TrainError> {
        let refused = |what: &str| Err(TrainError::Checkpoint(what.to_owned()));
        if bytes.len() != HEADER_BYTES + count * 3 * size_of::<f32>() {
            return refused("wrong length");
        }
        let (header, body) = bytes.split_at(HEADER_BYTES);
        if &header[..8] != MAGIC || header[52..] != (count as u64).to_le_bytes() {
            return refused("wrong header");
        }
        if header[8..40] != run.as_bytes()[..] {
            return refused("belongs to another base, recipe or data");
        }
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let step = u32::from_le_bytes(word(40));
        let patience = Patience { best: f32::from_le_bytes(word(44)), since: u32::from_le_bytes(word(48)) };
        if step > steps {
            return refused("lies beyond the recipe's last step");
        }
        if patience.best.is_nan() || patience.best < 0.0 {
            return refused("holds a loss that no evaluation gives");
        }
        let (words, _) = body.as_chunks::<4>();
        let mut numbers = words.iter().map(|word| f32::from_le_bytes(*word));
        let values: Vec<f32> = numbers.by_ref().take(count).collect();
        let first: Vec<f32> = numbers.by_ref().take(count).collect();
        let second: Vec<f32> = numbers.collect();
        let finite = values.iter().chain(&first).chain(&second).all(|value| value.is_finite());
        if !finite || second.iter().any(|value| *value < 0.0) {
            return refused("holds a number that no run reaches");
        }
        Ok(Self { run, step, patience, optimiser: AdamW { values, first, second } })
    }
}
