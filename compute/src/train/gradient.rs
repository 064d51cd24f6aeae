//! Loss and gradient of one step: in one pass or in parts, keeping every activation or computing them again.
//!
//! Invariant: how a step is divided into parts changes the gradient by rounding only, and keeping activations or computing
//! them again (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174) changes no bit.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::TrainError;
use crate::linear::Hook;
use crate::lora::Adapter;
use crate::loss::{Scored, Target};
use crate::model::{Mode, Model, ModelError};
use crate::ops::narrow;
use crate::train::Dropout;

/// What is summed: weight · loss / divisor over the scored tokens of some targets.
pub(super) struct Objective<'a> {
    pub(super) targets: &'a [Target],
    /// One weight for each target.
    pub(super) weights: &'a [f32],
    /// The whole step's scored tokens, those left out too.
    pub(super) divisor: usize,
}

impl Objective<'_> {
    fn token_weights(&self) -> Vec<f32> {
        let each = self.targets.iter().zip(self.weights);
        each.flat_map(|(target, weight)| std::iter::repeat_n(*weight, target.predicted())).collect()
    }

    /// The scalar to differentiate.
    fn of(&self, losses: &Tensor) -> Result<Tensor, TrainError> {
        let share = 1.0 / self.divisor as f64;
        let factors: Vec<f32> =
            self.token_weights().into_iter().map(|weight| narrow(f64::from(weight) * share)).collect();
        let count = factors.len();
        Ok((losses * Tensor::from_vec(factors, count, losses.device())?)?.sum_all()?)
    }

    /// Gradients of all variables end to end, given the scored tokens' losses.
    pub(super) fn gradient(&self, losses: &Tensor, variables: &[Var]) -> Result<Vec<f32>, TrainError> {
        flatten(&self.of(losses)?.backward()?, variables)
    }

    /// Σ weight · loss and Σ weight.
    fn sums(&self, losses: &Tensor) -> Result<(f64, f64), TrainError> {
        let (losses, weights) = (losses.detach().to_vec1::<f32>()?, self.token_weights());
        let total = losses.iter().zip(&weights).map(|(loss, weight)| f64::from(*loss) * f64::from(*weight)).sum();
        Ok((total, weights.iter().map(|weight| f64::from(*weight)).sum()))
    }
}

/// Gradients of all variables end to end, and the sums that make the mean loss.
pub(super) struct Measured {
    pub(super) gradient: Vec<f32>,
    pub(super) loss_sum: f64,
    pub(super) weight_sum: f64,
    /// Tokens fed.
    pub(super) tokens: usize,
}

impl Measured {
    pub(super) fn nothing(values: usize) -> Self {
        Self { gradient: vec![0.0; values], loss_sum: 0.0, weight_sum: 0.0, tokens: 0 }
    }

    /// Adds another part of the same step.
    pub(super) fn add(&mut self, part: &Self) {
        self.gradient.iter_mut().zip(&part.gradient).for_each(|(sum, value)| *sum += value);
        self.loss_sum += part.loss_sum;
        self.weight_sum += part.weight_sum;
        self.tokens += part.tokens;
    }

    /// Weighted mean loss; 0 when nothing has a weight.
    pub(super) fn loss(&self) -> f32 {
        if self.weight_sum > 0.0 { narrow(self.loss_sum / self.weight_sum) } else { 0.0 }
    }
}

/// One pass that keeps every activation.
pub(super) fn measure(
    model: &Model,
    hook: Hook<'_>,
    objective: &Objective<'_>,
    variables: &[Var],
) -> Result<Measured, TrainError> {
    let scored = Scored::of(objective.targets)?;
    let losses = scored.losses(model, &model.hidden(Mode::Train, &scored.batch, hook)?)?;
    let gradient = objective.gradient(&losses, variables)?;
    let (loss_sum, weight_sum) = objective.sums(&losses)?;
    Ok(Measured { gradient, loss_sum, weight_sum, tokens: scored.batch.rows() })
}

/// The same, but only each block's input is kept; the block is computed again when its gradient is due. Memory for
/// activations falls to one block's, time rises by a forward pass.
pub(super) fn measure_by_blocks(
    model: &Model,
    adapter: &Adapter,
    dropout: Option<&Dropout<'_>>,
    objective: &Objective<'_>,
    variables: &[Var],
) -> Result<Measured, TrainError> {
    let scored = Scored::of(objective.targets)?;
    let stages = model.stages(&scored.batch)?;
    let frozen = adapter.detached();
    let mut inputs = vec![stages.embedded()?.detach()];
    for layer in 0..stages.layers() {
        let last = inputs.last().ok_or_else(|| ModelError::Input("no block".into()))?;
        inputs.push(stages.block(layer, last, Hook::One(&frozen, dropout))?.detach());
    }
    let top = variable(inputs.pop())?;
    let losses = scored.losses(model, &stages.normed(&top)?)?;
    let mut flowing = take(&objective.of(&losses)?.backward()?, &top)?;
    let mut found = BTreeMap::new();
    for layer in (0..stages.layers()).rev() {
        // Nothing flows to the embedding, which is frozen.
        let input = if layer == 0 { inputs.pop() } else { Some(variable(inputs.pop())?.as_tensor().clone()) };
        let input = input.ok_or_else(|| ModelError::Input("no block".into()))?;
        let output = stages.block(layer, &input, Hook::One(adapter, dropout))?;
        let gradients = (output * &flowing)?.sum_all()?.backward()?;
        for (index, own) in variables.iter().enumerate() {
            if let Some(gradient) = gradients.get(own) {
                found.insert(index, gradient.clone());
            }
        }
        if layer > 0 {
            flowing = take(&gradients, &input)?;
        }
    }
    let gradient = collect(variables, |index, _| found.get(&index))?;
    let (loss_sum, weight_sum) = objective.sums(&losses)?;
    Ok(Measured { gradient, loss_sum, weight_sum, tokens: scored.batch.rows() })
}

fn variable(tensor: Option<Tensor>) -> Result<Var, TrainError> {
    let tensor = tensor.ok_or_else(|| ModelError::Input("no block".into()))?;
    Ok(Var::from_tensor(&tensor)?)
}

fn take(gradients: &GradStore, of: &Tensor) -> Result<Tensor, TrainError> {
    let found = gradients.get(of).ok_or_else(|| ModelError::Input("a block's input lacks a gradient".into()))?;
    Ok(found.clone())
}

/// Parts of a step's slots, in order, of about equally many tokens each; a slot that is left out keeps its place.
pub(super) fn parts(tokens: &[usize], wanted: usize) -> Vec<Range<usize>> {
    let total: usize = tokens.iter().sum();
    let mut parts: Vec<(usize, Range<usize>)> = Vec::new();
    let mut before = 0;
    for (slot, own) in tokens.iter().enumerate() {
        let part = before * wanted / total.max(1);
        before += own;
        match parts.last_mut().filter(|(last, _)| *last == part) {
            Some((_, range)) => range.end = slot + 1,
            None => parts.push((part, slot..slot + 1)),
        }
    }
    parts.into_iter().map(|(_, range)| range).collect()
}

/// The gradients of all variables end to end.
fn flatten(gradients: &GradStore, variables: &[Var]) -> Result<Vec<f32>, TrainError> {
    collect(variables, |_, variable| gradients.get(variable))
}

/// A variable without a gradient is an error: the loss would fall all the same.
fn collect<'a>(variables: &[Var], find: impl Fn(usize, &Var) -> Option<&'a Tensor>) -> Result<Vec<f32>, TrainError> {
    let mut flat = Vec::new();
    for (index, variable) in variables.iter().enumerate() {
        let gradient = find(index, variable)
            .ok_or_else(|| ModelError::Input(format!("variable {index} {:?} lacks a gradient", variable.dims())))?;
        flat.extend(gradient.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_cover_all_slots_in_order_and_are_even() {
        let ends = |tokens: &[usize], wanted| -> Vec<(usize, usize)> {
            parts(tokens, wanted).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(ends(&[5, 5, 5, 5], 2), [(0, 2), (2, 4)]);
        assert_eq!(ends(&[5, 5, 5, 5], 1), [(0, 4)]);
        assert_eq!(ends(&[100, 1, 1, 1], 2), [(0, 1), (1, 4)]);
        assert_eq!(ends(&[1, 1, 1, 100], 4), [(0, 4)]);
        assert_eq!(ends(&[3], 8), [(0, 1)]);
    }
}
