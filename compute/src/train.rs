//! Training: LoRA adapters on a frozen base, and bases from nothing.
//!
//! Invariant: a run is a pure function of base, recipe and examples. Its state at any step, and so any segment of it,
//! can be recomputed bitwise by another machine of the same determinism class from an earlier checkpoint.

mod adamw;
mod checkpoint;
mod dropout;
mod evaluate;
mod examples;
mod fork;
mod gradient;
mod prefix;
mod pretrain;
mod recipe;
mod rouge;
mod turns;
mod unroll;

use std::ops::Range;

use candle_core::{Tensor, Var};

pub use checkpoint::adapter_at;
pub use dropout::Dropout;
pub use evaluate::{Answers, Evaluation, MAX_EVALUATED};
pub use examples::{Example, MAX_WEIGHT, targets};
pub(crate) use fork::Snapshot;
pub use prefix::Prefix;
pub use pretrain::{PretrainRecipe, Pretrainer};
pub use recipe::{MAX_BATCH, MAX_EXAMPLES, MAX_HELD_OUT, MAX_PATIENCE, MAX_STEPS, Recipe};
pub use unroll::{ByExample, Trail};

use adamw::{AdamW, Update};
use checkpoint::{Expected, Patience, State};
use examples::{Encoded, Split};
use gradient::{Measured, Objective, measure, measure_by_blocks, parts};
use recipe::{Order, run_hash};

use crate::linear::Hook;
use crate::lora::{Adapter, LoraError, parameter_count};
use crate::loss::Target;
use crate::model::{Base, ModelError};

/// Why training can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A field of the recipe breaks a bound.
    #[error("recipe: {0}")]
    Recipe(String),
    /// The examples can't be trained on.
    #[error("examples: {0}")]
    Examples(String),
    /// The bytes are no checkpoint of this run.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The loss or the gradient stopped being a number.
    #[error("step {step} diverged: loss or gradient is not finite")]
    Diverged {
        /// The step, counted from 0.
        step: u32,
    },
    /// A conversation could not be rendered on this machine; another one may.
    #[error("messages: {0}")]
    Ended(String),
    /// Nobody wants it any more.
    #[error("stopped")]
    Stopped,
    /// The adapter's shape or numbers were refused.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The model refused the input.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Compute(#[from] candle_core::Error),
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u32,
    /// Weighted mean loss of the step's completion tokens in nats, before the update; 0 when all weights are 0.
    pub loss: f32,
    /// Tokens fed.
    pub tokens: usize,
    /// Learning rate used.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// What the held-out examples say after the update, where the recipe evaluates.
    pub evaluation: Option<Evaluation>,
}

/// Trains one adapter.
pub struct Trainer {
    base: Base,
    recipe: Recipe,
    examples: Split,
    order: Order,
    adapter: Adapter,
    variables: Vec<Var>,
    state: State,
}

impl Trainer {
    /// A run at step 0.
    ///
    /// # Errors
    /// When recipe or examples break a bound, or no example can be trained on.
    pub fn new(base: &Base, recipe: &Recipe, examples: &[Example]) -> Result<Self, TrainError> {
        recipe.check()?;
        let adapter = Adapter::fresh(base.config(), &recipe.lora(), recipe.seed)?;
        let run = run_hash(base, recipe, examples)?;
        let values = adapter.values()?;
        let aside = recipe.keeps_aside().then(|| values.clone());
        let state = State { run, step: 0, patience: Patience::new(), optimiser: AdamW::new(values), aside };
        Self::at(base, recipe, examples, state)
    }

    /// Continues a run from a checkpoint, which may come from anybody.
    ///
    /// # Errors
    /// When the bytes are no checkpoint of exactly this base, recipe and data.
    pub fn resume(base: &Base, recipe: &Recipe, examples: &[Example], checkpoint: &[u8]) -> Result<Self, TrainError> {
        recipe.check()?;
        let count = parameter_count(base.config(), &recipe.lora().checked()?);
        let run = run_hash(base, recipe, examples)?;
        let expected = Expected { run: Some(run), count, steps: recipe.steps, keeps_aside: recipe.keeps_aside() };
        let state = State::from_bytes(checkpoint, &expected)?;
        Self::at(base, recipe, examples, state)
    }

    fn at(base: &Base, recipe: &Recipe, examples: &[Example], state: State) -> Result<Self, TrainError> {
        if examples.is_empty() || examples.len() > MAX_EXAMPLES {
            return Err(TrainError::Examples(format!("{}, allowed 1 to {MAX_EXAMPLES}", examples.len())));
        }
        let mut examples = Split::of(base, recipe, examples)?;
        examples.held_out.truncate(recipe.evaluated());
        let count = u32::try_from(examples.trained.len()).unwrap_or(u32::MAX);
        let fresh = Adapter::from_values(base.config(), &recipe.lora(), &state.optimiser.values)?;
        let (adapter, variables) = fresh.to_device(base.model().device())?.trainable()?;
        let order = Order::new(recipe.seed, count);
        Ok(Self { base: base.clone(), recipe: recipe.clone(), examples, order, adapter, variables, state })
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
        let measured = self.measure(step)?;
        let loss = measured.loss();
        if !loss.is_finite() || measured.gradient.iter().any(|value| !value.is_finite()) {
            return Err(TrainError::Diverged { step });
        }
        let lr = self.recipe.schedule().at(step);
        let update = Update { step, lr, clip: self.recipe.clip, weight_decay: self.recipe.weight_decay };
        let everything = 0..self.state.optimiser.values.len();
        let gradient_norm = self.state.optimiser.update(&measured.gradient, update, &[everything]);
        write_variables(&self.variables, &self.state.optimiser.values)?;
        self.state.step += 1;
        self.state.average(self.recipe.averaged(self.state.step));
        let evaluation = match self.recipe.evaluates_after(self.state.step) {
            true => evaluate::evaluate(&self.base, &self.told()?, &self.examples.held_out)?,
            false => None,
        };
        if let Some(evaluation) = evaluation
            && self.state.patience.hear(evaluation.loss, self.state.step)
            && self.recipe.patience > 0
            && let Some(best) = &mut self.state.aside
        {
            best.clone_from(&self.state.optimiser.values);
        }
        let (step, tokens) = (self.state.step, measured.tokens);
        Ok(StepReport { step, loss, tokens, lr, gradient_norm, evaluation })
    }

    /// Whether every step of the recipe is done, or as many evaluations without a better loss as the recipe has patience
    /// for.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.state.step >= self.recipe.steps || self.state.patience.is_over(self.recipe.patience)
    }

    /// Answers to a few held-out prompts compared with the records; `None` when nothing held out has a prompt.
    ///
    /// # Errors
    /// When the model can't run.
    pub fn answers(&self) -> Result<Option<Answers>, TrainError> {
        evaluate::answers(&self.base, &self.told()?, &self.examples.held_out)
    }

    /// What evaluations are of: the average where it has begun, else the adapter as it stands.
    fn told(&self) -> Result<Adapter, TrainError> {
        match self.recipe.averaged(self.state.step) {
            0 => Ok(self.adapter.clone()),
            _ => Ok(self.kept()?.0.to_device(self.base.model().device())?),
        }
    }

    /// Examples that are evaluated and never trained on.
    #[must_use]
    pub const fn held_out(&self) -> usize {
        self.examples.held_out.len()
    }

    /// Steps done.
    #[must_use]
    pub const fn steps_done(&self) -> u32 {
        self.state.step
    }

    /// Examples that were longer than the recipe's `max_len` and lost tokens.
    #[must_use]
    pub fn examples_cut(&self) -> usize {
        self.examples.trained.iter().filter(|example| example.was_cut).count()
    }

    /// The adapter as it stands.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn adapter(&self) -> Result<Adapter, TrainError> {
        Ok(Adapter::from_values(self.base.config(), &self.recipe.lora(), &self.state.optimiser.values)?)
    }

    /// The adapter that the run is told by, and the step after which it was: the best evaluation's where the recipe has
    /// patience, the average of the last steps where it averages, else the last.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn kept(&self) -> Result<(Adapter, u32), TrainError> {
        let (values, step) = self.state.kept(&self.recipe);
        Ok((Adapter::from_values(self.base.config(), &self.recipe.lora(), values)?, step))
    }

    /// The run's state in canonical bytes: adapter, moments and step.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        self.state.to_bytes()
    }

    /// The examples of a step, by slot.
    fn chosen(&mut self, step: u32) -> Vec<&Encoded> {
        let slots = self.order.batch(step, self.recipe.batch);
        slots.into_iter().filter_map(|index| self.examples.trained.get(index as usize)).collect()
    }

    /// Loss and gradient of one step's batch. Examples at weight 0 are not computed; the divisor and the parts count
    /// them all the same, so that leaving one out removes its term and changes nothing else.
    fn measure(&mut self, step: u32) -> Result<Measured, TrainError> {
        let values = self.state.optimiser.values.len();
        let wanted = self.recipe.accumulate as usize;
        let chosen: Vec<(Target, f32)> =
            self.chosen(step).into_iter().map(|example| (example.target.clone(), example.weight)).collect();
        let divisor = chosen.iter().map(|(target, _)| target.predicted()).sum();
        let fed: Vec<usize> = chosen.iter().map(|(target, _)| target.fed()).collect();
        let mut sum: Option<Measured> = None;
        for range in parts(&fed, wanted) {
            let Some(part) = self.measure_part(step, divisor, range.clone(), &chosen[range])? else { continue };
            match &mut sum {
                Some(sum) => sum.add(&part),
                None => sum = Some(part),
            }
        }
        Ok(sum.unwrap_or_else(|| Measured::nothing(values)))
    }

    /// One part of a step; `None` when everything in it is left out.
    fn measure_part(
        &self,
        step: u32,
        divisor: usize,
        slots: Range<usize>,
        examples: &[(Target, f32)],
    ) -> Result<Option<Measured>, TrainError> {
        let (mut targets, mut places, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut row = 0;
        for (slot, (target, weight)) in slots.zip(examples).filter(|(_, (_, weight))| *weight > 0.0) {
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            places.push((row..row + target.fed(), slot));
            row += target.fed();
            weights.push(*weight);
            targets.push(target.clone());
        }
        if targets.is_empty() {
            return Ok(None);
        }
        let dropout = Dropout { rate: self.recipe.dropout, seed: self.recipe.seed, step, slots: &places };
        let dropout = Some(&dropout).filter(|dropout| dropout.rate > 0.0);
        let objective = Objective { targets: &targets, weights: &weights, divisor };
        let (model, variables) = (self.base.model(), &self.variables);
        let measured = model.within_pool(|| match self.recipe.recompute {
            true => measure_by_blocks(model, &self.adapter, dropout, &objective, variables),
            false => measure(model, Hook::One(&self.adapter, dropout), &objective, variables),
        });
        measured.map(Some)
    }
}

/// Replays a run from a checkpoint up to `to_step` and gives the checkpoint there, for the check of a segment.
///
/// # Errors
/// When the checkpoint is refused, lies beyond `to_step`, or the run diverges.
pub fn replay(
    base: &Base,
    recipe: &Recipe,
    examples: &[Example],
    start: &[u8],
    to_step: u32,
) -> Result<Vec<u8>, TrainError> {
    let mut trainer = Trainer::resume(base, recipe, examples, start)?;
    if to_step < trainer.steps_done() || to_step > recipe.steps {
        return Err(TrainError::Checkpoint(format!("step {} can't lead to {to_step}", trainer.steps_done())));
    }
    while trainer.steps_done() < to_step {
        trainer.step()?;
    }
    Ok(trainer.checkpoint())
}

/// Sets the variables to consecutive parts of `values`.
fn write_variables(variables: &[Var], values: &[f32]) -> Result<(), TrainError> {
    let mut rest = values;
    for variable in variables {
        let (now, later) = rest.split_at(variable.elem_count());
        variable.set(&Tensor::from_slice(now, variable.shape().clone(), variable.device())?)?;
        rest = later;
    }
    Ok(())
}
