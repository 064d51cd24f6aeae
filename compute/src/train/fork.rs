//! Runs that part from another one: the same recipe, order and tokens, with other weights of the examples from here on.
//!
//! Invariant: a fork at step 0 computes bitwise what a run with these weights computes from nothing; one at a later step
//! is named by both runs and the step, so its checkpoints never pass for those of either.

use tributary_protocol::id::Hash;

use super::checkpoint::State;
use super::recipe::Order;
use super::{TrainError, Trainer};
use crate::lora::Adapter;
use crate::loss::Target;

/// What attribution by gradients asks of a point of a run.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) adapter: Adapter,
    /// Learning rate of the step before.
    pub(crate) lr: f64,
    /// The optimiser's moments, in the order of the adapter's values.
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

impl Trainer {
    /// The same run from where it stands, with the weights of all examples, in the order in which they were given,
    /// replaced.
    ///
    /// # Errors
    /// When there are more or fewer weights than examples, or one is out of bounds.
    pub fn fork(&self, weights: &[f32]) -> Result<Self, TrainError> {
        let examples = self.examples.with_weights(weights)?;
        let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 identity of a forked training run");
        hasher.update(self.state.run.as_bytes()).update(&self.state.step.to_le_bytes());
        weights.iter().for_each(|weight| {
            hasher.update(&weight.to_bits().to_le_bytes());
        });
        let state = State { run: Hash(*hasher.finalize().as_bytes()), ..self.state.clone() };
        let count = u32::try_from(examples.trained.len()).unwrap_or(u32::MAX);
        let fresh = Adapter::from_values(self.base.config(), &self.recipe.lora(), &state.optimiser.values)?;
        let (adapter, variables) = fresh.to_device(self.base.model().device())?.trainable()?;
        let order = Order::new(self.recipe.seed, count);
        Ok(Self { base: self.base.clone(), recipe: self.recipe.clone(), examples, order, adapter, variables, state })
    }

    /// The tokens of the examples that are trained on, in the order in which they were given.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.examples.trained.iter().map(|example| example.target.clone()).collect()
    }

    /// Adapter and moments as they stand.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, TrainError> {
        let last = self.state.step.saturating_sub(1);
        let optimiser = &self.state.optimiser;
        Ok(Snapshot {
            adapter: self.adapter()?,
            lr: self.recipe.schedule().at(last),
            first: optimiser.first.clone(),
            second: optimiser.second.clone(),
        })
    }
}
