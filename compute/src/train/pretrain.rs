//! Training a base from nothing, every weight a variable: how the demonstration's base is made.
//!
//! Invariant: recipe, configuration and sequences determine every bit of the weights, as for adapters.

use std::ops::Range;

use candle_core::Var;
use serde::{Deserialize, Serialize};
use tributary_protocol::id::Hash;

use super::adamw::{AdamW, Update};
use super::checkpoint::{Expected, Patience, State};
use super::gradient::{Objective, measure};
use super::recipe::{MAX_BATCH, Order, Schedule};
use super::{StepReport, TrainError, write_variables};
use crate::linear::Hook;
use crate::loss::Target;
use crate::model::{Config, MAX_BATCH_TOKENS, Model, WeightType, Weights};

/// Everything but the data that determines a pretraining run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainRecipe {
    /// Optimiser steps.
    pub steps: u32,
    /// Sequences of a step.
    pub batch: u32,
    /// Highest learning rate.
    pub lr: f64,
    /// Steps in which the learning rate rises linearly.
    pub warmup: u32,
    /// Highest norm of the gradient; 0 switches clipping off.
    pub clip: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// Seed of order and initial weights.
    pub seed: u64,
}

/// Trains all weights of a model on token sequences; every token but a sequence's first is predicted.
pub struct Pretrainer {
    config: Config,
    recipe: PretrainRecipe,
    sequences: Vec<Vec<u32>>,
    order: Order,
    model: Model,
    weights: Weights,
    variables: Vec<Var>,
    decayed: Vec<Range<usize>>,
    state: State,
}

impl Pretrainer {
    /// A run at step 0 with random weights.
    ///
    /// # Errors
    /// When the recipe breaks a bound or a sequence is too short, too long or has an unknown token.
    pub fn new(config: &Config, recipe: &PretrainRecipe, sequences: Vec<Vec<u32>>) -> Result<Self, TrainError> {
        let weights = Weights::random(config, recipe.seed)?;
        let run = identity(config, recipe, &sequences)?;
        let mut trainer = Self::over(config, recipe, sequences, &weights, run)?;
        let mut values = Vec::new();
        for tensor in weights.tensors() {
            values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
        }
        trainer.state.optimiser = AdamW::new(values);
        Ok(trainer)
    }

    /// Continues a run from its checkpoint.
    ///
    /// # Errors
    /// When the bytes are no checkpoint of this run.
    pub fn resume(
        config: &Config,
        recipe: &PretrainRecipe,
        sequences: Vec<Vec<u32>>,
        checkpoint: &[u8],
    ) -> Result<Self, TrainError> {
        let run = identity(config, recipe, &sequences)?;
        let weights = Weights::random(config, recipe.seed)?;
        let count = weights.tensors().map(candle_core::Tensor::elem_count).sum();
        let expected = Expected { run: Some(run), count, steps: recipe.steps, keeps_aside: false };
        let state = State::from_bytes(checkpoint, &expected)?;
        let mut trainer = Self::over(config, recipe, sequences, &weights, run)?;
        write_variables(&trainer.variables, &state.optimiser.values)?;
        trainer.state = state;
        Ok(trainer)
    }

    fn over(
        config: &Config,
        recipe: &PretrainRecipe,
        sequences: Vec<Vec<u32>>,
        weights: &Weights,
        run: Hash,
    ) -> Result<Self, TrainError> {
        Schedule { lr: recipe.lr, warmup: recipe.warmup, steps: recipe.steps }
            .check(recipe.clip, recipe.weight_decay)?;
        if recipe.batch == 0 || recipe.batch > MAX_BATCH {
            return Err(TrainError::Recipe(format!("batch {}, allowed 1 to {MAX_BATCH}", recipe.batch)));
        }
        let longest = config.max_positions.min(MAX_BATCH_TOKENS / recipe.batch as usize);
        if let Some(at) = sequences.iter().position(|tokens| tokens.len() < 2 || tokens.len() > longest) {
            return Err(TrainError::Examples(format!(
                "sequence {at} has {} tokens, allowed 2 to {longest}",
                sequences[at].len()
            )));
        }
        let count = u32::try_from(sequences.len()).ok().filter(|count| *count > 0);
        let count = count.ok_or_else(|| TrainError::Examples("no sequence, or more than 2^32".into()))?;
        let (weights, variables) = weights.trainable(config)?;
        let mut decayed = Vec::new();
        let mut start = 0;
        for variable in &variables {
            let range = start..start + variable.elem_count();
            start = range.end;
            if variable.dims().len() == 2 {
                decayed.push(range);
            }
        }
        Ok(Self {
            model: Model::new(config, weights.clone())?,
            config: config.clone(),
            recipe: recipe.clone(),
            order: Order::new(recipe.seed, count),
            sequences,
            weights,
            variables,
            decayed,
            state: State { run, step: 0, patience: Patience::new(), optimiser: AdamW::new(Vec::new()), aside: None },
        })
    }

    /// One optimiser step.
    ///
    /// # Errors
    /// When the run is done or diverges; the state is unchanged then.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        if self.is_done() {
            return Err(TrainError::Recipe(format!("all {} steps are done", self.recipe.steps)));
        }
        let step = self.state.step;
        let slots = self.order.batch(step, self.recipe.batch);
        let chosen = slots.iter().filter_map(|index| self.sequences.get(*index as usize));
        let targets: Vec<Target> = chosen.map(|tokens| Target::new(&tokens[..1], &tokens[1..])).collect();
        let tokens = targets.iter().map(Target::predicted).sum();
        let weights = vec![1.0; targets.len()];
        let objective = Objective { targets: &targets, weights: &weights, divisor: tokens };
        let measured = || measure(&self.model, Hook::Base, &objective, &self.variables);
        let measured = self.model.within_pool(measured)?;
        let (gradient, loss) = (&measured.gradient, measured.loss());
        if !loss.is_finite() || gradient.iter().any(|value| !value.is_finite()) {
            return Err(TrainError::Diverged { step });
        }
        let lr = Schedule { lr: self.recipe.lr, warmup: self.recipe.warmup, steps: self.recipe.steps }.at(step);
        let update = Update { step, lr, clip: self.recipe.clip, weight_decay: self.recipe.weight_decay };
        let gradient_norm = self.state.optimiser.update(gradient, update, &self.decayed);
        write_variables(&self.variables, &self.state.optimiser.values)?;
        self.state.step += 1;
        Ok(StepReport { step: self.state.step, loss, tokens, lr, gradient_norm, evaluation: None })
    }

    /// Whether every step of the recipe is done.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.state.step >= self.recipe.steps
    }

    /// The run's state in canonical bytes.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        self.state.to_bytes()
    }

    /// The weights as they stand, as `model.safetensors`.
    ///
    /// # Errors
    /// When a value does not fit the type.
    pub fn to_safetensors(&self, kind: WeightType) -> Result<Vec<u8>, TrainError> {
        Ok(self.weights.to_safetensors(&self.config, kind)?)
    }
}

fn identity(config: &Config, recipe: &PretrainRecipe, sequences: &[Vec<u32>]) -> Result<Hash, TrainError> {
    let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 identity of a pretraining run");
    let recipe = serde_json::to_vec(recipe).map_err(|error| TrainError::Recipe(error.to_string()))?;
    for bytes in [config.to_json(), recipe] {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    for sequence in sequences {
        hasher.update(&(sequence.len() as u64).to_le_bytes());
        sequence.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
    }
    Ok(Hash(*hasher.finalize().as_bytes()))
}
