//! The bytes of a run's state: what a worker commits to and a verifier starts from.
//!
//! Invariant: equal states give equal bytes, and only a complete, finite state of the same run is read back.
//!
//! Layout, little-endian: magic (8), run hash (32), step (u32), best held-out loss so far (f32), evaluations since (u32) and
//! the step of the best (u32), count (u64), then values, first and second moments (count × f32 each), and where the recipe
//! has patience the values after the best evaluation, or where it averages the average so far.

use tributary_protocol::id::Hash;

use super::adamw::AdamW;
use super::{Recipe, TrainError};
use crate::lora::{Adapter, parameter_count};
use crate::model::Base;
use crate::ops::narrow;

/// Marks a checkpoint of this layout.
const MAGIC: &[u8; 8] = b"TRIBCKP3";
const HEADER_BYTES: usize = 8 + 32 + 4 + 4 + 4 + 4 + 8;

/// The step of a checkpoint and the adapter as it stood there. Whose run it is of is not looked at: that is for who executes
/// it again.
///
/// # Errors
/// When the bytes are no checkpoint of a run by this recipe on such a base.
pub fn adapter_at(base: &Base, recipe: &Recipe, checkpoint: &[u8]) -> Result<(u32, Adapter), TrainError> {
    recipe.check()?;
    let count = parameter_count(base.config(), &recipe.lora().checked()?);
    let expected = Expected { run: None, count, steps: recipe.steps, keeps_aside: recipe.keeps_aside() };
    let state = State::from_bytes(checkpoint, &expected)?;
    Ok((state.step, Adapter::from_values(base.config(), &recipe.lora(), &state.optimiser.values)?))
}

/// What early stopping remembers: part of the state, so that a forged end is found like a forged weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Patience {
    /// The lowest loss of all evaluations so far; infinite before the first.
    pub(super) best: f32,
    /// Evaluations since then.
    pub(super) since: u32,
    /// The step after which it was.
    pub(super) step: u32,
}

impl Patience {
    pub(super) const fn new() -> Self {
        Self { best: f32::INFINITY, since: 0, step: 0 }
    }

    /// Takes the loss of the evaluation after a step. Whether it is the best so far.
    pub(super) const fn hear(&mut self, loss: f32, step: u32) -> bool {
        let is_best = loss < self.best;
        if is_best {
            *self = Self { best: loss, since: 0, step };
        } else {
            self.since = self.since.saturating_add(1);
        }
        is_best
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
    /// The values after the best evaluation, or the average of the last steps; those of the beginning before the first of
    /// either. Nothing where the recipe's run is told by its last step.
    pub(super) aside: Option<Vec<f32>>,
}

/// What a checkpoint must be to be one of a run.
pub(super) struct Expected {
    /// Of any run where it is `None`.
    pub(super) run: Option<Hash>,
    /// Values of the adapter.
    pub(super) count: usize,
    /// The recipe's last step.
    pub(super) steps: u32,
    /// Whether values are kept aside.
    pub(super) keeps_aside: bool,
}

impl State {
    /// The values that the run of the recipe is told by, and the step after which they were: the best evaluation's where it
    /// has patience and there was one, the average where it has begun, else the last.
    pub(super) fn kept(&self, recipe: &Recipe) -> (&[f32], u32) {
        match &self.aside {
            Some(best) if recipe.patience > 0 && self.patience.step > 0 => (best, self.patience.step),
            Some(average) if recipe.averaged(self.step) > 0 => (average, self.step),
            _ => (&self.optimiser.values, self.step),
        }
    }

    /// Takes the values as they stand into the average of `averaged` steps, these included.
    pub(super) fn average(&mut self, averaged: u32) {
        let Some(average) = self.aside.as_mut().filter(|_| averaged > 0) else { return };
        let part = 1.0 / narrow(f64::from(averaged));
        for (mean, value) in average.iter_mut().zip(&self.optimiser.values) {
            *mean = if averaged == 1 { *value } else { *mean + (*value - *mean) * part };
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let count = self.optimiser.values.len();
        let lists = if self.aside.is_some() { 4 } else { 3 };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + count * lists * size_of::<f32>());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.run.as_bytes());
        bytes.extend_from_slice(&self.step.to_le_bytes());
        bytes.extend_from_slice(&self.patience.best.to_le_bytes());
        bytes.extend_from_slice(&self.patience.since.to_le_bytes());
        bytes.extend_from_slice(&self.patience.step.to_le_bytes());
        bytes.extend_from_slice(&(count as u64).to_le_bytes());
        let AdamW { values, first, second } = &self.optimiser;
        for values in [values, first, second].into_iter().chain(&self.aside) {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// Reads a checkpoint of the expected run, from anybody.
    pub(super) fn from_bytes(bytes: &[u8], expected: &Expected) -> Result<Self, TrainError> {
        let Expected { run: wanted, count, steps, keeps_aside } = *expected;
        let refused = |what: &str| Err(TrainError::Checkpoint(what.to_owned()));
        let lists = if keeps_aside { 4 } else { 3 };
        if bytes.len() != HEADER_BYTES + count * lists * size_of::<f32>() {
            return refused("wrong length");
        }
        let (header, body) = bytes.split_at(HEADER_BYTES);
        if &header[..8] != MAGIC || header[56..] != (count as u64).to_le_bytes() {
            return refused("wrong header");
        }
        let mut run = Hash::default();
        run.0.copy_from_slice(&header[8..40]);
        if wanted.is_some_and(|wanted| wanted != run) {
            return refused("belongs to another base, recipe or data");
        }
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let step = u32::from_le_bytes(word(40));
        let patience = Patience {
            best: f32::from_le_bytes(word(44)),
            since: u32::from_le_bytes(word(48)),
            step: u32::from_le_bytes(word(52)),
        };
        if step > steps || patience.step > step {
            return refused("lies beyond the recipe's last step");
        }
        if patience.best.is_nan() || patience.best < 0.0 {
            return refused("holds a loss that no evaluation gives");
        }
        let (words, _) = body.as_chunks::<4>();
        let mut numbers = words.iter().map(|word| f32::from_le_bytes(*word));
        let values: Vec<f32> = numbers.by_ref().take(count).collect();
        let first: Vec<f32> = numbers.by_ref().take(count).collect();
        let second: Vec<f32> = numbers.by_ref().take(count).collect();
        let aside: Option<Vec<f32>> = keeps_aside.then(|| numbers.collect());
        let all = values.iter().chain(&first).chain(&second).chain(aside.iter().flatten());
        let finite = all.copied().all(f32::is_finite);
        if !finite || second.iter().any(|value| *value < 0.0) {
            return refused("holds a number that no run reaches");
        }
        Ok(Self { run, step, patience, optimiser: AdamW { values, first, second }, aside })
    }
}
