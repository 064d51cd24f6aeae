//! Training: LoRA adapters on a frozen base, and bases from nothing.
//!
//! Invariant: a run is a pure function of base, recipe and examples. Its state at any step, and so any segment of it,
//! can be recomputed bitwise by another machine of the same determinism class from an earlier checkpoint.

mod adamw;
mod checkpoint;
mod dropout;
mod pretrain;
mod recipe;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

pub use dropout::Dropout;
pub use pretrain::{PretrainRecipe, Pretrainer};
pub use recipe::{Example, MAX_BATCH, MAX_EXAMPLES, MAX_STEPS, MAX_WEIGHT, Recipe};

use adamw::{AdamW, Update};
use checkpoint::State;
use recipe::{Order, run_hash};

use crate::linear::Hook;
use crate::lora::{Adapter, LoraError, parameter_count};
use crate::loss::{Target, token_losses};
use crate::model::{Base, Mode, ModelError};
use crate::ops::narrow;

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
}

/// An example as tokens.
struct Encoded {
    target: Target,
    weight: f32,
}

/// Trains one adapter.
pub struct Trainer {
    base: Base,
    recipe: Recipe,
    examples: Vec<Encoded>,
    cut: usize,
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
        let state = State { run, step: 0, optimiser: AdamW::new(adapter.values()?) };
        Self::at(base, recipe, examples, state)
    }

    /// Continues a run from a checkpoint, which may come from anybody.
    ///
    /// # Errors
    /// When the bytes are no checkpoint of exactly this base, recipe and data.
    pub fn resume(base: &Base, recipe: &Recipe, examples: &[Example], checkpoint: &[u8]) -> Result<Self, TrainError> {
        recipe.check()?;
        let count = parameter_count(base.config(), &recipe.lora().checked()?);
        let state = State::from_bytes(checkpoint, run_hash(base, recipe, examples)?, count, recipe.steps)?;
        Self::at(base, recipe, examples, state)
    }

    fn at(base: &Base, recipe: &Recipe, examples: &[Example], state: State) -> Result<Self, TrainError> {
        let count = u32::try_from(examples.len()).ok().filter(|_| examples.len() <= MAX_EXAMPLES);
        let count = match count {
            None | Some(0) => {
                return Err(TrainError::Examples(format!("{}, allowed 1 to {MAX_EXAMPLES}", examples.len())));
            }
            Some(count) => count,
        };
        let mut encoded = Vec::with_capacity(examples.len());
        let mut cut = 0;
        for (index, example) in examples.iter().enumerate() {
            let (example, was_cut) = encode(base, example, recipe.max_len as usize)
                .map_err(|error| TrainError::Examples(format!("example {index}: {error}")))?;
            cut += usize::from(was_cut);
            encoded.push(example);
        }
        let fresh = Adapter::from_values(base.config(), &recipe.lora(), &state.optimiser.values)?;
        let (adapter, variables) = fresh.trainable()?;
        let order = Order::new(recipe.seed, count);
        Ok(Self {
            base: base.clone(),
            recipe: recipe.clone(),
            examples: encoded,
            cut,
            order,
            adapter,
            variables,
            state,
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
        let measured = self.measure(step, &slots)?;
        if !measured.loss.is_finite() || measured.gradient.iter().any(|value| !value.is_finite()) {
            return Err(TrainError::Diverged { step });
        }
        let lr = self.recipe.schedule().at(step);
        let update = Update { step, lr, clip: self.recipe.clip, weight_decay: self.recipe.weight_decay };
        let everything = 0..self.state.optimiser.values.len();
        let gradient_norm = self.state.optimiser.update(&measured.gradient, update, &[everything]);
        write_variables(&self.variables, &self.state.optimiser.values)?;
        self.state.step += 1;
        Ok(StepReport { step: self.state.step, loss: measured.loss, tokens: measured.tokens, lr, gradient_norm })
    }

    /// Whether every step of the recipe is done.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.state.step >= self.recipe.steps
    }

    /// Steps done.
    #[must_use]
    pub const fn steps_done(&self) -> u32 {
        self.state.step
    }

    /// Examples that were longer than the recipe's `max_len` and lost tokens.
    #[must_use]
    pub const fn examples_cut(&self) -> usize {
        self.cut
    }

    /// The adapter as it stands.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn adapter(&self) -> Result<Adapter, TrainError> {
        Ok(Adapter::from_values(self.base.config(), &self.recipe.lora(), &self.state.optimiser.values)?)
    }

    /// The run's state in canonical bytes: adapter, moments and step.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        self.state.to_bytes()
    }

    /// Loss and gradient of one step's batch. Examples at weight 0 are not computed; the divisor counts them all the
    /// same, so that leaving one out removes its term and changes nothing else.
    fn measure(&self, step: u32, slots: &[u32]) -> Result<Measured, TrainError> {
        let chosen: Vec<(u32, &Encoded)> =
            (0_u32..).zip(slots.iter().filter_map(|index| self.examples.get(*index as usize))).collect();
        let divisor: usize = chosen.iter().map(|(_, example)| example.target.completion).sum();
        let (mut targets, mut places, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut row = 0;
        for (slot, example) in chosen.iter().filter(|(_, example)| example.weight > 0.0) {
            let fed = example.target.tokens.len() - 1;
            places.push((row..row + fed, *slot));
            row += fed;
            weights.extend(std::iter::repeat_n(example.weight, example.target.completion));
            targets.push(example.target.clone());
        }
        if targets.is_empty() {
            return Ok(Measured { loss: 0.0, tokens: 0, gradient: vec![0.0; self.state.optimiser.values.len()] });
        }
        let dropout = Dropout { rate: self.recipe.dropout, seed: self.recipe.seed, step, slots: &places };
        let dropout = Some(&dropout).filter(|dropout| dropout.rate > 0.0);
        let losses = token_losses(self.base.model(), Mode::Train, Hook::One(&self.adapter, dropout), &targets)?;
        let (gradient, loss) = weighted_gradient(&losses, &weights, divisor, &self.variables)?;
        Ok(Measured { loss, tokens: row, gradient })
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

struct Measured {
    loss: f32,
    tokens: usize,
    gradient: Vec<f32>,
}

/// Gradient of Σ weight · loss / divisor with respect to the variables, and the weighted mean loss.
fn weighted_gradient(
    losses: &Tensor,
    weights: &[f32],
    divisor: usize,
    variables: &[Var],
) -> Result<(Vec<f32>, f32), TrainError> {
    let share = 1.0 / divisor as f64;
    let factors: Vec<f32> = weights.iter().map(|weight| narrow(f64::from(*weight) * share)).collect();
    let objective = (losses * Tensor::from_vec(factors, weights.len(), &Device::Cpu)?)?.sum_all()?;
    let gradient = flatten(&objective.backward()?, variables)?;
    let each = losses.detach().to_vec1::<f32>()?;
    let total: f64 = each.iter().zip(weights).map(|(loss, weight)| f64::from(*loss) * f64::from(*weight)).sum();
    let mass: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    Ok((gradient, narrow(total / mass)))
}

/// The gradients of all variables end to end. A variable without one is an error: the loss would fall all the same.
fn flatten(gradients: &GradStore, variables: &[Var]) -> Result<Vec<f32>, TrainError> {
    let mut flat = Vec::new();
    for (index, variable) in variables.iter().enumerate() {
        let gradient = gradients
            .get(variable)
            .ok_or_else(|| ModelError::Input(format!("variable {index} {:?} lacks a gradient", variable.dims())))?;
        flat.extend(gradient.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(flat)
}

/// Sets the variables to consecutive parts of `values`.
fn write_variables(variables: &[Var], values: &[f32]) -> Result<(), TrainError> {
    let mut rest = values;
    for variable in variables {
        let (now, later) = rest.split_at(variable.elem_count());
        variable.set(&Tensor::from_slice(now, variable.shape().clone(), &Device::Cpu)?)?;
        rest = later;
    }
    Ok(())
}

/// Tokens of an example, cut to `most`; says whether it was cut. The completion keeps at least half the room; of a long
/// prompt the end is kept, behind the begin token.
fn encode(base: &Base, example: &Example, most: usize) -> Result<(Encoded, bool), TrainError> {
    if !(0.0..=MAX_WEIGHT).contains(&example.weight) {
        return Err(TrainError::Examples(format!("weight {}, allowed 0 to {MAX_WEIGHT}", example.weight)));
    }
    let tokenizer = base.tokenizer();
    let most = most.min(base.config().max_positions);
    let mut prompt = tokenizer.encode_prompt(&example.prompt)?;
    let mut completion = tokenizer.encode_completion(&example.completion)?;
    if prompt.is_empty() && completion.len() > 1 {
        // A model without a begin token can't predict the first token of a text from nothing.
        prompt.push(completion.remove(0));
    }
    if prompt.is_empty() || completion.is_empty() {
        return Err(TrainError::Examples("too short to learn from".into()));
    }
    let cut = prompt.len() + completion.len() > most;
    if cut {
        completion.truncate(most.saturating_sub(prompt.len()).max(most / 2).max(1));
        let kept = (most - completion.len()).max(1).min(prompt.len());
        let first = prompt[0];
        prompt.drain(..prompt.len() - kept);
        if tokenizer.begin() == Some(first) {
            prompt[0] = first;
        }
    }
    Ok((Encoded { target: Target::new(&prompt, &completion), weight: example.weight }, cut))
}
