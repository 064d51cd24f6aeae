//! What a training run is: hyper-parameters, learning-rate schedule, order of examples.
//!
//! Invariant: recipe and examples determine every number of the run; the order comes from the seed alone, so an example
//! at weight 0 leaves every other example at its step.

use serde::{Deserialize, Serialize};
use tributary_protocol::id::Hash;

use super::evaluate::MAX_EVALUATED;
use super::{Example, TrainError};
use crate::lora::LoraConfig;
use crate::model::{Base, MAX_BATCH_TOKENS, Module};
use crate::random::permutation;

/// Most steps of a run; counters of the dropout masks hold twice as many.
pub const MAX_STEPS: u32 = 1_000_000;
/// Most examples of a step.
pub const MAX_BATCH: u32 = 4_096;
/// Most examples of a run: what a peer can hold tokenised.
pub const MAX_EXAMPLES: usize = 10_000_000;
/// Largest part of the records that may be held out; more would leave too little to learn.
pub const MAX_HELD_OUT: f64 = 0.5;
/// Evaluations without a better one after which a run may be told to end.
pub const MAX_PATIENCE: u32 = 1_000;

/// Everything but the data that determines a LoRA training run.
/// A field that JSON leaves out has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Rank of each pair.
    pub rank: usize,
    /// Numerator of LoRA's scale.
    pub alpha: f64,
    /// Scale by alpha / √rank.
    pub rslora: bool,
    /// Dropout before the down product.
    pub dropout: f64,
    /// Products that carry a pair.
    pub targets: Vec<Module>,
    /// Optimiser steps.
    pub steps: u32,
    /// Examples of a step.
    pub batch: u32,
    /// Parts of about equally many tokens in which a step is computed, one after the other; their gradients are summed.
    /// More parts take less memory.
    pub accumulate: u32,
    /// Whether activations are computed again for the gradient instead of being kept: a third slower, in a fraction of
    /// the memory, with the same bits.
    pub recompute: bool,
    /// Tokens of an example at most; longer ones are cut.
    pub max_len: u32,
    /// Highest learning rate.
    pub lr: f64,
    /// Steps in which the learning rate rises linearly.
    pub warmup: u32,
    /// Highest norm of the gradient; larger ones are scaled down. 0 switches clipping off.
    pub clip: f64,
    /// Decoupled weight decay (arXiv 1711.05101).
    pub weight_decay: f64,
    /// Seed of order, initial weights and dropout.
    pub seed: u64,
    /// Steps between checkpoints that a worker commits to.
    pub checkpoint_every: u32,
    /// Part of the records that is never trained on, but evaluated: each record's own text and the seed decide.
    pub held_out: f64,
    /// Steps between evaluations of what is held out; 0 is after the last step only.
    pub evaluate_every: u32,
    /// Evaluations without a lower loss than the best, one after the other, after which the run ends early; 0 is never.
    /// A run with patience gives the adapter of its best evaluation, any other that of its last steps.
    pub patience: u32,
    /// Last steps whose weights are averaged (Izmailov et al., arXiv 1803.05407); 1 takes the last alone.
    #[serde(skip_serializing_if = "is_alone")]
    pub average_last: u32,
}

/// Recipes that average nothing keep the bytes, and so the runs the names, that they had before there was averaging.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_alone(average_last: &u32) -> bool {
    *average_last == 1
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            rslora: false,
            dropout: 0.0,
            targets: Module::ALL.to_vec(),
            steps: 300,
            batch: 16,
            accumulate: 1,
            recompute: false,
            max_len: 256,
            lr: 3e-3,
            warmup: WARMUP,
            clip: 1.0,
            weight_decay: 0.0,
            seed: 0,
            checkpoint_every: 100,
            held_out: 0.0,
            evaluate_every: 0,
            patience: 0,
            average_last: 1,
        }
    }
}

/// Steps of warm-up by default: a tenth of the run, and no more than these.
const WARMUP: u32 = 20;
const WARMUP_OF_STEPS: u32 = 10;
/// Checkpoints of a long run by default: fewer than a worker can commit to.
const CHECKPOINTS: u32 = 400;
/// Evaluations of a run by default, where something is held out.
const EVALUATIONS: u32 = 10;
/// What [`Recipe::stable`] makes of a batch, of the rate, and the part of the steps that it averages.
const STABLE_BATCH: u32 = 4;
const STABLE_RATE: f64 = 0.5;
const STABLE_PART: u32 = 4;

impl Recipe {
    /// The recipe of some fields as JSON; the defaults of those left out suit the others.
    ///
    /// # Errors
    /// Names the field that is unknown, of the wrong type or out of bounds.
    pub fn of_fields(fields: &serde_json::Map<String, serde_json::Value>) -> Result<Self, TrainError> {
        let mut recipe: Self =
            serde_json::from_value(fields.clone().into()).map_err(|error| Self::refused(fields, &error))?;
        let is_open = |name: &str| !fields.contains_key(name);
        if is_open("warmup") {
            recipe.warmup = WARMUP.min(recipe.steps / WARMUP_OF_STEPS);
        }
        if is_open("checkpoint_every") {
            recipe.checkpoint_every = recipe.checkpoint_every.max(recipe.steps.div_ceil(CHECKPOINTS));
        }
        if is_open("evaluate_every") && recipe.held_out > 0.0 {
            recipe.evaluate_every = (recipe.steps / EVALUATIONS).max(1);
        }
        recipe.check()?;
        Ok(recipe)
    }

    /// The same run made less a matter of chance, so that who is paid depends less on the seed: batches four times as large, half
    /// the learning rate, and the weights of the last quarter of the steps averaged. Four times the time; figures are in
    /// `compute/ATTRIBUTION.md`.
    #[must_use]
    pub fn stable(&self) -> Self {
        let most = MAX_BATCH.min(u32::try_from(MAX_BATCH_TOKENS).unwrap_or(u32::MAX) / self.max_len.max(1));
        let batch = self.batch.saturating_mul(STABLE_BATCH).min(most).max(self.batch);
        let average_last = (self.steps / STABLE_PART).max(1);
        Self { batch, lr: self.lr * STABLE_RATE, average_last, ..self.clone() }
    }

    /// The first field that alone is refused, and why; serde's words for a wrong type name none.
    fn refused(fields: &serde_json::Map<String, serde_json::Value>, all: &serde_json::Error) -> TrainError {
        let alone = |(name, value): (&String, &serde_json::Value)| {
            let one: serde_json::Map<_, _> = [(name.clone(), value.clone())].into_iter().collect();
            let error = serde_json::from_value::<Self>(one.into()).err()?.to_string();
            Some(if error.contains(name.as_str()) { error } else { format!("{name}: {error}") })
        };
        TrainError::Recipe(fields.iter().find_map(alone).unwrap_or_else(|| all.to_string()))
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// Names the field that breaks one.
    pub fn check(&self) -> Result<(), TrainError> {
        self.lora().checked()?;
        let steps = Schedule { lr: self.lr, warmup: self.warmup, steps: self.steps };
        steps.check(self.clip, self.weight_decay)?;
        if self.batch == 0 || self.batch > MAX_BATCH {
            return Err(TrainError::Recipe(format!("batch {}, allowed 1 to {MAX_BATCH}", self.batch)));
        }
        if self.max_len < 2 || u64::from(self.max_len) * u64::from(self.batch) > MAX_BATCH_TOKENS as u64 {
            return Err(TrainError::Recipe(format!(
                "max_len {} times batch {}, allowed 2 to {MAX_BATCH_TOKENS} tokens",
                self.max_len, self.batch
            )));
        }
        if self.accumulate == 0 || self.accumulate > self.batch {
            return Err(TrainError::Recipe(format!("accumulate {}, allowed 1 to batch", self.accumulate)));
        }
        match self.checkpoint_every {
            0 => Err(TrainError::Recipe("checkpoint_every is zero".into())),
            _ => self.check_evaluation(),
        }
    }

    fn check_evaluation(&self) -> Result<(), TrainError> {
        if !(0.0..=MAX_HELD_OUT).contains(&self.held_out) {
            return Err(TrainError::Recipe(format!("held_out {}, allowed 0 to {MAX_HELD_OUT}", self.held_out)));
        }
        if self.patience > MAX_PATIENCE {
            return Err(TrainError::Recipe(format!("patience {}, allowed 0 to {MAX_PATIENCE}", self.patience)));
        }
        if self.patience > 0 && (self.held_out == 0.0 || self.evaluate_every == 0) {
            return Err(TrainError::Recipe("patience needs held_out and evaluate_every: hold a part out".into()));
        }
        if self.average_last == 0 || self.average_last > self.steps {
            return Err(TrainError::Recipe(format!("average_last {}, allowed 1 to steps", self.average_last)));
        }
        if self.patience > 0 && self.average_last > 1 {
            return Err(TrainError::Recipe("average_last: a run with patience gives its best evaluation alone".into()));
        }
        Ok(())
    }

    /// The recipe of a run that ends at a given step whatever an evaluation says: of a leave-out run, which is compared
    /// with a run that ended there.
    #[must_use]
    pub fn without_evaluation(&self) -> Self {
        Self { evaluate_every: 0, patience: 0, ..self.clone() }
    }

    /// Whether the run is told by other weights than those of its last step: its best evaluation's, or an average.
    pub(super) const fn keeps_aside(&self) -> bool {
        self.patience > 0 || self.average_last > 1
    }

    /// How many steps' weights are averaged when `done` are; 0 before the first of them, and where nothing is averaged.
    pub(super) const fn averaged(&self, done: u32) -> u32 {
        if self.average_last > 1 { (done + self.average_last).saturating_sub(self.steps) } else { 0 }
    }

    /// Whether what is held out is evaluated after `done` steps.
    pub(super) const fn evaluates_after(&self, done: u32) -> bool {
        self.held_out > 0.0
            && (done == self.steps || (self.evaluate_every > 0 && done.is_multiple_of(self.evaluate_every)))
    }

    /// Examples of an evaluation: no more than were trained on since the one before, so that evaluating takes a third of
    /// the training's time at most.
    pub(super) fn evaluated(&self) -> usize {
        let trained = u64::from(self.batch) * u64::from(self.evaluate_every);
        match usize::try_from(trained) {
            Ok(trained) if trained > 0 => trained.min(MAX_EVALUATED),
            _ => MAX_EVALUATED,
        }
    }

    /// The shape of the adapter that the run trains.
    #[must_use]
    pub fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            rslora: self.rslora,
            dropout: self.dropout,
            target_modules: self.targets.clone(),
        }
    }

    pub(super) const fn schedule(&self) -> Schedule {
        Schedule { lr: self.lr, warmup: self.warmup, steps: self.steps }
    }
}

/// Linear warm-up, then half a cosine down to zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) lr: f64,
    pub(super) warmup: u32,
    pub(super) steps: u32,
}

impl Schedule {
    pub(super) fn check(&self, clip: f64, weight_decay: f64) -> Result<(), TrainError> {
        if self.steps == 0 || self.steps > MAX_STEPS {
            return Err(TrainError::Recipe(format!("steps {}, allowed 1 to {MAX_STEPS}", self.steps)));
        }
        if self.warmup > self.steps {
            return Err(TrainError::Recipe(format!(
                "warmup {} is longer than the run's {} steps: lower warmup, or leave it out, or raise steps",
                self.warmup, self.steps
            )));
        }
        let within = |name: &str, value: f64, most: f64| match (0.0..=most).contains(&value) {
            true => Ok(()),
            false => Err(TrainError::Recipe(format!("{name} {value}, allowed 0 to {most}"))),
        };
        within("lr", self.lr, 1.0)?;
        within("clip", clip, 1e6)?;
        within("weight_decay", weight_decay, 1.0)
    }

    /// The learning rate of a step, counted from 0.
    pub(super) fn at(&self, step: u32) -> f64 {
        if step < self.warmup {
            return self.lr * f64::from(step + 1) / f64::from(self.warmup);
        }
        let done = f64::from(step - self.warmup) / f64::from((self.steps - self.warmup).max(1));
        self.lr * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// Which example stands in which slot of a step: a fresh random order each pass.
#[derive(Debug)]
pub(super) struct Order {
    seed: u64,
    count: u32,
    pass: Option<(u32, Vec<u32>)>,
}

impl Order {
    pub(super) const fn new(seed: u64, count: u32) -> Self {
        Self { seed, count, pass: None }
    }

    /// The examples of a step, by slot.
    pub(super) fn batch(&mut self, step: u32, batch: u32) -> Vec<u32> {
        let first = u64::from(step) * u64::from(batch);
        (first..first + u64::from(batch)).map(|place| self.example(place)).collect()
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 2^32 places, and a remainder below a u32")]
    fn example(&mut self, place: u64) -> u32 {
        let count = u64::from(self.count);
        let (pass, place) = ((place / count) as u32, (place % count) as usize);
        match &self.pass {
            Some((current, order)) if *current == pass => order[place],
            _ => {
                let order = permutation(self.seed, pass, self.count);
                let example = order[place];
                self.pass = Some((pass, order));
                example
            }
        }
    }
}

/// What names a run: base, recipe and examples. Checkpoints carry it, so none is continued under another recipe.
pub(super) fn run_hash(base: &Base, recipe: &Recipe, examples: &[Example]) -> Result<Hash, TrainError> {
    let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 identity of a training run");
    hasher.update(base.hash().as_bytes());
    let recipe = serde_json::to_vec(recipe).map_err(|error| TrainError::Recipe(error.to_string()))?;
    hasher.update(&(recipe.len() as u64).to_le_bytes()).update(&recipe);
    for example in examples {
        for text in [&example.prompt, &example.completion, example.messages.as_ref().unwrap_or(&String::new())] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.update(&example.contributor.to_le_bytes()).update(&example.weight.to_bits().to_le_bytes());
    }
    Ok(Hash(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Order, Recipe, Schedule};

    #[test]
    fn learning_rate_rises_then_falls_to_zero() {
        let schedule = Schedule { lr: 0.1, warmup: 10, steps: 110 };
        assert!((schedule.at(0) - 0.01).abs() < 1e-12);
        assert!((schedule.at(9) - 0.1).abs() < 1e-12);
        assert!((schedule.at(60) - 0.05).abs() < 1e-12);
        assert!(schedule.at(109) < 1e-4);
    }

    #[test]
    fn every_pass_has_each_example_once() {
        let mut order = Order::new(5, 7);
        let mut seen: Vec<u32> = (0..7).flat_map(|step| order.batch(step, 3)).collect();
        let mut again = Order::new(5, 7);
        assert_eq!(again.batch(6, 3), seen[18..]);
        for pass in seen.chunks_mut(7) {
            pass.sort_unstable();
            assert_eq!(pass, (0..7).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_left_out_suits_what_is_given() {
        let of = |fields: serde_json::Value| Recipe::of_fields(fields.as_object().unwrap());
        assert_eq!(of(json!({})).unwrap(), Recipe::default());
        assert_eq!(of(json!({"steps": 5})).unwrap().warmup, 0);
        assert_eq!(of(json!({"steps": 50})).unwrap().warmup, 5);
        assert_eq!(of(json!({"steps": 50, "warmup": 50})).unwrap().warmup, 50);
        let refused = of(json!({"steps": 10, "warmup": 20})).unwrap_err().to_string();
        assert!(refused.contains("warmup 20") && refused.contains("lower warmup"), "{refused}");
        assert_eq!(of(json!({"steps": 400_000})).unwrap().checkpoint_every, 1_000);
        assert_eq!(of(json!({"steps": 60, "held_out": 0.1, "patience": 2})).unwrap().evaluate_every, 6);
        assert!(of(json!({"patience": 2})).unwrap_err().to_string().contains("held_out"));
        assert!(of(json!({"step": 2})).unwrap_err().to_string().contains("step"));
        let typed = of(json!({"steps": 20, "lr": "fast"})).unwrap_err().to_string();
        assert!(typed.contains("lr: invalid type"), "{typed}");
    }

    #[test]
    fn absurd_recipes_are_refused() {
        let good = Recipe::default();
        assert!(good.check().is_ok());
        let bad = [
            Recipe { rank: 0, ..good.clone() },
            Recipe { rank: 100_000, ..good.clone() },
            Recipe { alpha: f64::NAN, ..good.clone() },
            Recipe { steps: 0, ..good.clone() },
            Recipe { batch: 4096, max_len: 4096, ..good.clone() },
            Recipe { lr: f64::INFINITY, ..good.clone() },
            Recipe { dropout: 1.0, ..good.clone() },
            Recipe { targets: Vec::new(), ..good.clone() },
            Recipe { checkpoint_every: 0, ..good.clone() },
            Recipe { accumulate: 0, ..good.clone() },
            Recipe { accumulate: good.batch + 1, ..good.clone() },
            Recipe { held_out: 0.6, ..good.clone() },
            Recipe { held_out: f64::NAN, ..good.clone() },
            Recipe { patience: 2, ..good.clone() },
            Recipe { patience: 2, held_out: 0.1, ..good },
        ];
        for recipe in bad {
            assert!(recipe.check().is_err(), "{recipe:?}");
        }
    }
}
