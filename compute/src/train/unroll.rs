//! A run unrolled: what the weight of every example does to anything that is measured at the run's end, by one pass backwards
//! through all steps (exact unrolling; MAGIC, Ilyas and Engstrom, arXiv 2503.13751).
//!
//! Invariant: the steps are the product's own, bit for bit. Derivatives are of first order in the examples' weights; products
//! with second derivatives are central differences of the trainer's gradients.

use super::adamw::{BETA_1, BETA_2, EPSILON};
use super::gradient::Objective;
use super::{TrainError, Trainer};
use crate::linear::Hook;
use crate::lora::Adapter;
use crate::loss::{Scored, Target};
use crate::model::Mode;
use crate::ops::narrow;

/// How far from the weights differences are taken, in the weights' own length: nearer, rounding is heard, and farther, the
/// loss is no parabola any more.
const DISTANCE: f64 = 0.01;

/// A finished run with every step of it.
pub(crate) struct Trail {
    trainer: Trainer,
    steps: Vec<Step>,
    kept: Adapter,
}

/// A step before it was taken.
struct Step {
    values: Vec<f32>,
    /// Moments after it.
    first: Vec<f32>,
    second: Vec<f32>,
    /// Of the step's loss, before clipping.
    gradient: Vec<f32>,
    slots: Vec<u32>,
}

/// What flows backwards: derivatives by values and moments.
struct Flow {
    values: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Trainer {
    /// Takes all steps and remembers them: as many times the memory of the adapter's state as there are steps.
    ///
    /// # Errors
    /// When the run diverges, or its recipe has dropout or patience.
    pub(crate) fn unroll(mut self) -> Result<Trail, TrainError> {
        if self.recipe.dropout > 0.0 || self.recipe.patience > 0 {
            return Err(TrainError::Recipe("a run with dropout or patience is not unrolled".into()));
        }
        let mut steps = Vec::new();
        while !self.is_done() {
            let slots = self.order.batch(self.state.step, self.recipe.batch);
            let values = self.state.optimiser.values.clone();
            let gradient = self.measure(self.state.step)?.gradient;
            self.step()?;
            let (first, second) = (self.state.optimiser.first.clone(), self.state.optimiser.second.clone());
            steps.push(Step { values, first, second, gradient, slots });
        }
        let kept = self.kept()?.0;
        Ok(Trail { trainer: self, steps, kept })
    }
}

impl Trail {
    /// The adapter that the run is told by.
    pub(crate) const fn kept(&self) -> &Adapter {
        &self.kept
    }

    /// By how much something rises for each unit of weight of each example that is trained on, given its gradient in the
    /// numbers of the kept adapter.
    ///
    /// # Errors
    /// When the model can't run.
    pub(crate) fn influence(&self, gradient: &[f32]) -> Result<Vec<f64>, TrainError> {
        let count = gradient.len();
        let mut flow = Flow { values: vec![0.0; count], first: vec![0.0; count], second: vec![0.0; count] };
        let mut influence = vec![0.0; self.trainer.examples.trained.len()];
        let recipe = &self.trainer.recipe;
        for (number, step) in (0..recipe.steps).rev().zip(self.steps.iter().rev()) {
            let averaged = recipe.averaged(number + 1) > 0 || number + 1 == recipe.steps;
            if averaged {
                let part = 1.0 / f64::from(recipe.average_last);
                flow.values.iter_mut().zip(gradient).for_each(|(flow, value)| *flow += part * f64::from(*value));
            }
            let back = self.through_update(number, step, &mut flow);
            self.through_loss(step, &back, &mut flow, &mut influence)?;
        }
        Ok(influence)
    }

    /// From values and moments after an update to those before, and to its gradient before clipping.
    fn through_update(&self, number: u32, step: &Step, flow: &mut Flow) -> Vec<f64> {
        let recipe = &self.trainer.recipe;
        let done = i32::try_from(number).unwrap_or(i32::MAX).saturating_add(1);
        let (first_part, second_part) = (1.0 - BETA_1.powi(done), 1.0 - BETA_2.powi(done));
        let rate = recipe.schedule().at(number);
        let norm = step.gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let factor = if recipe.clip > 0.0 && norm > recipe.clip { recipe.clip / norm } else { 1.0 };
        let mut back = vec![0.0; step.gradient.len()];
        for (at, back) in back.iter_mut().enumerate() {
            let root = (f64::from(step.second[at]) / second_part).sqrt();
            let under = root + f64::from(EPSILON);
            let mean = f64::from(step.first[at]) / first_part;
            let first = flow.first[at] - flow.values[at] * rate / (first_part * under);
            let by_root = if root > 0.0 { mean / (under * under * 2.0 * root * second_part) } else { 0.0 };
            let second = flow.second[at] + flow.values[at] * rate * by_root;
            let clipped = f64::from(step.gradient[at]) * factor;
            *back = (1.0 - BETA_1) * first + 2.0 * (1.0 - BETA_2) * clipped * second;
            (flow.first[at], flow.second[at]) = (BETA_1 * first, BETA_2 * second);
            flow.values[at] *= 1.0 - rate * recipe.weight_decay;
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

    /// From the gradient of a step's loss to the values, by its second derivatives, and to the examples' weights.
    fn through_loss(
        &self,
        step: &Step,
        back: &[f64],
        flow: &mut Flow,
        influence: &mut [f64],
    ) -> Result<(), TrainError> {
        let length = back.iter().map(|value| value * value).sum::<f64>().sqrt();
        if length == 0.0 {
            return Ok(());
        }
        let moved = |sign: f64| -> Vec<f32> {
            let at = |(value, back): (&f32, &f64)| narrow(f64::from(*value) + sign * DISTANCE * back / length);
            step.values.iter().zip(back).map(at).collect()
        };
        let (above, below) = (self.measured(&moved(1.0), step)?, self.measured(&moved(-1.0), step)?);
        let unit = length / (2.0 * DISTANCE);
        for (flow, (above, below)) in flow.values.iter_mut().zip(above.gradient.iter().zip(&below.gradient)) {
            *flow += (f64::from(*above) - f64::from(*below)) * unit;
        }
        for (slot, (above, below)) in step.slots.iter().zip(above.losses.iter().zip(&below.losses)) {
            influence[*slot as usize] += (above - below) * unit;
        }
        Ok(())
    }

    /// Gradient of a step's loss at other values, and each slot's part of the loss at weight 1.
    fn measured(&self, values: &[f32], step: &Step) -> Result<Measured, TrainError> {
        let (base, recipe) = (&self.trainer.base, &self.trainer.recipe);
        let examples: Vec<_> = step.slots.iter().map(|slot| &self.trainer.examples.trained[*slot as usize]).collect();
        let targets: Vec<Target> = examples.iter().map(|example| example.target.clone()).collect();
        let weights: Vec<f32> = examples.iter().map(|example| example.weight).collect();
        let divisor = targets.iter().map(Target::predicted).sum();
        let objective = Objective { targets: &targets, weights: &weights, divisor };
        let adapter = Adapter::from_values(base.config(), &recipe.lora(), values)?.to_device(base.model().device())?;
        let (adapter, variables) = adapter.trainable()?;
        let scored = Scored::of(&targets)?;
        let hidden = base.model().hidden(Mode::Train, &scored.batch, Hook::One(&adapter, None))?;
        let tokens = scored.losses(base.model(), &hidden)?;
        let gradient = objective.gradient(&tokens, &variables)?;
        let tokens = tokens.detach().to_vec1::<f32>()?;
        let mut rest = tokens.as_slice();
        let mut losses = Vec::with_capacity(targets.len());
        for target in &targets {
            let (own, others) = rest.split_at(target.predicted());
            rest = others;
            losses.push(own.iter().map(|loss| f64::from(*loss)).sum::<f64>() / divisor as f64);
        }
        Ok(Measured { gradient, losses })
    }
}

struct Measured {
    gradient: Vec<f32>,
    losses: Vec<f64>,
}
