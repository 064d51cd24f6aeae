//! A run unrolled: by how much something that is measured at the run's end would rise if some examples had been left out, by
//! one pass backwards through all steps for each thing that is measured (exact unrolling; MAGIC, Ilyas and Engstrom, arXiv
//! 2503.13751).
//!
//! What leaving examples out does to the steps that they are in is computed outright, since Adam divides by the gradients'
//! own size and is far from linear in one record; what it does to all later steps is told to first order.
//!
//! Invariant: the steps are the product's own, bit for bit, and nothing is trained again. Products with second derivatives
//! are central differences of the trainer's gradients.

use rayon::iter::{IntoParallelRefIterator, IntoParallelRefMutIterator, ParallelIterator};

use super::adamw::{AdamW, BETA_1, BETA_2, EPSILON, Update};
use super::examples::Encoded;
use super::gradient::{Objective, measure};
use super::{TrainError, Trainer};
use crate::linear::Hook;
use crate::lora::Adapter;
use crate::loss::{Target, mean_gradient};
use crate::ops::narrow;

/// How far from the weights differences are taken, in the weights' own length: nearer, rounding is heard, and farther, the
/// loss is no parabola any more.
const DISTANCE: f64 = 0.01;

/// The first part of a run, as its inverse, by which one can't tell how much a run magnifies: there the flow grows in every run, since
/// half of an adapter's numbers are zero and move by Adam's signs.
const FIRST_PART: u32 = 6;

/// What single examples did for an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ByExample {
    /// By how much the answer's mean loss would rise without each, by its place in what the run was given; in nats a token.
    pub rises: Vec<(u32, f64)>,
    /// How many times as much a small change within the run moves the answer as one at its end, at the most. Where that is
    /// much, what leaving one record out really does is chance: no first order tells it.
    pub magnified: f64,
}

/// Numbers of an adapter's size that are kept of a step: values, two moments, the gradient.
const KEPT_OF_STEP: u64 = 4;
/// Such numbers that a thread works with, generously.
const HELD_BY_THREAD: u64 = 8;

/// A finished run with every step of it.
pub struct Trail {
    trainer: Trainer,
    steps: Vec<Step>,
    kept: Adapter,
}

struct Step {
    before: AdamW,
    /// Of the step's loss, before clipping.
    gradient: Vec<f32>,
    slots: Vec<u32>,
}

/// What flows backwards for one thing that is measured: its derivatives by values and moments.
struct Flow {
    values: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Flow {
    fn nothing(count: usize) -> Self {
        Self { values: vec![0.0; count], first: vec![0.0; count], second: vec![0.0; count] }
    }

    /// What flows from `before` to `after`.
    fn between(&self, before: &AdamW, after: &AdamW) -> f64 {
        let one = |flow: &[f64], before: &[f32], after: &[f32], moved: fn(f64, f64) -> f64| -> f64 {
            let moved = before.iter().zip(after).map(|(before, after)| moved(f64::from(*before), f64::from(*after)));
            flow.iter().zip(moved).map(|(flow, moved)| flow * moved).sum()
        };
        one(&self.values, &before.values, &after.values, |before, after| after - before)
            + one(&self.first, &before.first, &after.first, |before, after| after - before)
            + one(&self.second, &before.second, &after.second, moved_second)
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// How far a second moment moves, for what is linear in it. Later steps divide by its root, which at most vanishes as it
/// grows: where the examples of a step nearly cancel each other and one of them is left out, it may grow a thousandfold.
fn moved_second(before: f64, after: f64) -> f64 {
    if after <= before { after - before } else { 2.0 * before * (1.0 - (before / after).sqrt()) }
}

impl Trainer {
    /// Bytes of memory that unrolling the run takes beside the model: four numbers of the adapter's size for each step, one
    /// for each example of a batch, and what threads work with.
    #[must_use]
    pub fn unrolling_bytes(&self) -> u64 {
        let [steps, batch] = [self.recipe.steps, self.recipe.batch].map(u64::from);
        let threads = u64::try_from(rayon::current_num_threads()).unwrap_or(u64::MAX);
        let numbers = u64::try_from(self.state.optimiser.values.len()).unwrap_or(u64::MAX);
        let each = KEPT_OF_STEP.saturating_mul(steps).saturating_add(batch);
        numbers.saturating_mul(each.saturating_add(HELD_BY_THREAD.saturating_mul(threads))).saturating_mul(4)
    }

    /// Takes all steps and remembers them, each at the price of two; see [`Self::unrolling_bytes`].
    ///
    /// # Errors
    /// When the run diverges or is stopped, or its recipe has dropout or patience.
    pub fn unroll(mut self, is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<Trail, TrainError> {
        if self.recipe.dropout > 0.0 || self.recipe.patience > 0 {
            return Err(TrainError::Recipe("a run with dropout or patience is not unrolled".into()));
        }
        let mut steps = Vec::new();
        while !self.is_done() {
            if is_stopped() {
                return Err(TrainError::Stopped);
            }
            let slots = self.order.batch(self.state.step, self.recipe.batch);
            let before = self.state.optimiser.clone();
            let gradient = self.measure(self.state.step)?.gradient;
            self.step()?;
            steps.push(Step { before, gradient, slots });
        }
        let kept = self.kept()?.0;
        Ok(Trail { trainer: self, steps, kept })
    }
}

impl Trail {
    /// The adapter that the run is told by.
    #[must_use]
    pub const fn kept(&self) -> &Adapter {
        &self.kept
    }

    /// What each example that was trained on did for `answer`.
    ///
    /// # Errors
    /// When the model can't run, or the work is stopped.
    pub fn by_example(&self, answer: &Target, is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<ByExample, TrainError> {
        let model = self.trainer.base.model();
        let (adapter, variables) = self.kept.to_device(model.device())?.trainable()?;
        let gradient = mean_gradient(model, &adapter, &variables, answer)?;
        let place = |example: &Encoded| u32::try_from(example.index).unwrap_or(u32::MAX);
        let places: Vec<u32> = self.trainer.examples.trained.iter().map(place).collect();
        let alone: Vec<Vec<u32>> = places.iter().map(|place| vec![*place]).collect();
        let (rises, magnified) = self.backwards(&[&gradient], &alone, is_stopped)?;
        Ok(ByExample { rises: places.into_iter().zip(rises.into_iter().flatten()).collect(), magnified })
    }

    /// By how much each of some things rises without each set of examples, (things, sets), given the things' gradients in
    /// the numbers of the kept adapter; examples are named by their places in what the run was given.
    ///
    /// # Errors
    /// When the model can't run, or the work is stopped.
    pub(crate) fn rises(
        &self,
        gradients: &[&[f32]],
        left_out: &[Vec<u32>],
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Vec<f64>>, TrainError> {
        Ok(self.backwards(gradients, left_out, is_stopped)?.0)
    }

    /// The rises, and by how much the run magnifies (see [`ByExample::magnified`]), of the things where it does most.
    fn backwards(
        &self,
        gradients: &[&[f32]],
        left_out: &[Vec<u32>],
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Vec<Vec<f64>>, f64), TrainError> {
        let lengths: Vec<f64> =
            gradients.iter().map(|gradient| length(gradient.iter().copied().map(f64::from))).collect();
        let mut magnified = 0.0_f64;
        let mut flows: Vec<Flow> = gradients.iter().map(|gradient| Flow::nothing(gradient.len())).collect();
        let mut rises = vec![vec![0.0; left_out.len()]; gradients.len()];
        for (number, step) in (0..self.trainer.recipe.steps).zip(&self.steps).rev() {
            if is_stopped() {
                return Err(TrainError::Stopped);
            }
            self.averaged(number, gradients, &mut flows);
            if number >= self.trainer.recipe.steps / FIRST_PART {
                for (flow, own) in flows.iter().zip(&lengths).filter(|(_, own)| **own > 0.0) {
                    magnified = magnified.max(length(flow.values.iter().copied()) / own);
                }
            }
            let own = self.each(step, is_stopped)?;
            let through = |left_out: &Vec<u32>| self.without(number, step, &own, left_out, &flows);
            let through: Vec<Vec<f64>> = left_out.par_iter().map(through).collect();
            for (set, through) in through.iter().enumerate() {
                rises.iter_mut().zip(through).for_each(|(rises, through)| rises[set] += through);
            }
            flows.par_iter_mut().try_for_each(|flow| {
                let back = self.through_update(number, step, flow);
                self.through_loss(step, &back, flow)
            })?;
        }
        Ok((rises, magnified))
    }

    /// Where the values after a step are part of the kept average, what is measured flows from there.
    fn averaged(&self, number: u32, gradients: &[&[f32]], flows: &mut [Flow]) {
        let recipe = &self.trainer.recipe;
        if recipe.averaged(number + 1) > 0 || number + 1 == recipe.steps {
            let part = 1.0 / f64::from(recipe.average_last.max(1));
            for (flow, gradient) in flows.iter_mut().zip(gradients) {
                flow.values.iter_mut().zip(*gradient).for_each(|(flow, value)| *flow += part * f64::from(*value));
            }
        }
    }

    /// Each slot's part of a step's gradient.
    fn each(&self, step: &Step, is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Vec<f32>>, TrainError> {
        let examples: Vec<&Encoded> = self.examples(step).collect();
        let divisor = examples.iter().map(|example| example.target.predicted()).sum();
        let one = |example: &&Encoded| match is_stopped() {
            true => Err(TrainError::Stopped),
            false => self.gradient(&step.before.values, &[*example], divisor),
        };
        examples.par_iter().map(one).collect()
    }

    /// What reaches each thing that is measured when `left_out` are left out of this step alone.
    fn without(&self, number: u32, step: &Step, own: &[Vec<f32>], left_out: &[u32], flows: &[Flow]) -> Vec<f64> {
        let is_left_out = |example: &Encoded| left_out.iter().any(|place| *place as usize == example.index);
        let slots: Vec<usize> =
            self.examples(step).enumerate().filter(|(_, example)| is_left_out(example)).map(|(slot, _)| slot).collect();
        if slots.is_empty() {
            return vec![0.0; flows.len()];
        }
        let mut gradient = step.gradient.clone();
        for slot in slots {
            gradient.iter_mut().zip(&own[slot]).for_each(|(value, own)| *value -= own);
        }
        let mut without = step.before.clone();
        let everything = 0..gradient.len();
        without.update(&gradient, self.update(number), &[everything]);
        let next = usize::try_from(number).unwrap_or(usize::MAX).saturating_add(1);
        let with = self.steps.get(next).map_or(&self.trainer.state.optimiser, |next| &next.before);
        flows.iter().map(|flow| flow.between(with, &without)).collect()
    }

    fn update(&self, step: u32) -> Update {
        let recipe = &self.trainer.recipe;
        Update { step, lr: recipe.schedule().at(step), clip: recipe.clip, weight_decay: recipe.weight_decay }
    }

    /// From values and moments after an update to those before, and to its gradient before clipping.
    fn through_update(&self, number: u32, step: &Step, flow: &mut Flow) -> Vec<f64> {
        let Update { lr: rate, clip, weight_decay, .. } = self.update(number);
        let done = i32::try_from(number).unwrap_or(i32::MAX).saturating_add(1);
        let (first_part, second_part) = (1.0 - BETA_1.powi(done), 1.0 - BETA_2.powi(done));
        let norm = length(step.gradient.iter().copied().map(f64::from));
        let factor = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        let mut back = vec![0.0; step.gradient.len()];
        for (at, back) in back.iter_mut().enumerate() {
            let clipped = f64::from(step.gradient[at]) * factor;
            let first = BETA_1 * f64::from(step.before.first[at]) + (1.0 - BETA_1) * clipped;
            let second = BETA_2 * f64::from(step.before.second[at]) + (1.0 - BETA_2) * clipped * clipped;
            let root = (second / second_part).sqrt();
            if root == 0.0 {
                // Nothing has ever pulled at it, as at A before B has moved: no weight changes that. Adam would make a pull
                // of any size the same step, a slope without bound that nothing ever runs along.
                (flow.first[at], flow.second[at]) = (0.0, 0.0);
                continue;
            }
            let under = root + f64::from(EPSILON);
            let by_root = first / first_part / (under * under * 2.0 * root * second_part);
            let to_first = flow.first[at] - flow.values[at] * rate / (first_part * under);
            let to_second = flow.second[at] + flow.values[at] * rate * by_root;
            *back = (1.0 - BETA_1) * to_first + 2.0 * (1.0 - BETA_2) * clipped * to_second;
            (flow.first[at], flow.second[at]) = (BETA_1 * to_first, BETA_2 * to_second);
            flow.values[at] *= 1.0 - rate * weight_decay;
        }
        if factor < 1.0 {
            // Clipping takes away what would change the length alone.
            let along: f64 = back.iter().zip(&step.gradient).map(|(back, value)| back * f64::from(*value)).sum();
            for (back, value) in back.iter_mut().zip(&step.gradient) {
                *back = factor * (*back - f64::from(*value) * along / (norm * norm));
            }
        }
        back
    }

    /// From the gradient of a step's loss to the values, by its second derivatives.
    fn through_loss(&self, step: &Step, back: &[f64], flow: &mut Flow) -> Result<(), TrainError> {
        let length = length(back.iter().copied());
        if length == 0.0 {
            return Ok(());
        }
        let examples: Vec<&Encoded> = self.examples(step).collect();
        let divisor = examples.iter().map(|example| example.target.predicted()).sum();
        let gradient = |sign: f64| {
            let at = |(value, back): (&f32, &f64)| narrow(f64::from(*value) + sign * DISTANCE * back / length);
            let moved: Vec<f32> = step.before.values.iter().zip(back).map(at).collect();
            self.gradient(&moved, &examples, divisor)
        };
        let (above, below) = (gradient(1.0)?, gradient(-1.0)?);
        let unit = length / (2.0 * DISTANCE);
        for (flow, (above, below)) in flow.values.iter_mut().zip(above.iter().zip(&below)) {
            *flow += (f64::from(*above) - f64::from(*below)) * unit;
        }
        Ok(())
    }

    fn examples<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = &'a Encoded> {
        step.slots.iter().map(|slot| &self.trainer.examples.trained[*slot as usize])
    }

    /// The gradient of Σ weight · loss / `divisor` of some examples at `values`.
    fn gradient(&self, values: &[f32], examples: &[&Encoded], divisor: usize) -> Result<Vec<f32>, TrainError> {
        let (base, recipe) = (&self.trainer.base, &self.trainer.recipe);
        let targets: Vec<Target> = examples.iter().map(|example| example.target.clone()).collect();
        let weights: Vec<f32> = examples.iter().map(|example| example.weight).collect();
        let objective = Objective { targets: &targets, weights: &weights, divisor };
        let adapter = Adapter::from_values(base.config(), &recipe.lora(), values)?.to_device(base.model().device())?;
        let (adapter, variables) = adapter.trainable()?;
        Ok(measure(base.model(), Hook::One(&adapter, None), &objective, &variables)?.gradient)
    }
}
