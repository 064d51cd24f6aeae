//! The loss: negative log-likelihood in nats of given completions after given prompts, by teacher forcing.
//!
//! Invariant: only positions that predict a completion token reach the output product, so prompts cost no logits.

use candle_core::{Device, Tensor};

use crate::linear::Hook;
use crate::lora::Adapter;
use crate::model::{Mode, Model, ModelError, Packed};
use crate::ops::negative_log_likelihood;

/// Tokens of which the last `completion` are to be predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Prompt and completion.
    pub tokens: Vec<u32>,
    /// How many tokens at the end are the completion; fewer than all.
    pub completion: usize,
}

impl Target {
    /// A prompt and the completion to predict after it.
    #[must_use]
    pub fn new(prompt: &[u32], completion: &[u32]) -> Self {
        Self { tokens: [prompt, completion].concat(), completion: completion.len() }
    }
}

/// Loss of each completion token in nats, of all targets in order, (completion tokens). Differentiable in
/// [`Mode::Train`] with respect to every variable behind model and hook.
///
/// # Errors
/// When a target has no prompt or no completion token, or the model can't run it.
pub fn token_losses(model: &Model, mode: Mode, hook: Hook<'_>, targets: &[Target]) -> Result<Tensor, ModelError> {
    if let Some(target) =
        targets.iter().find(|target| target.completion == 0 || target.completion >= target.tokens.len())
    {
        let (completion, all) = (target.completion, target.tokens.len());
        return Err(ModelError::Input(format!("{completion} completion tokens among {all}")));
    }
    // The last token of each sequence predicts nothing that is scored, so it is not fed.
    let fed: Vec<&[u32]> = targets.iter().map(|target| &target.tokens[..target.tokens.len() - 1]).collect();
    let batch = Packed::new(&fed)?;
    let (mut rows, mut wanted) = (Vec::new(), Vec::new());
    for (target, range) in targets.iter().zip(batch.sequences()) {
        let scored = range.end - target.completion..range.end;
        rows.extend(scored.filter_map(|row| u32::try_from(row).ok()));
        wanted.extend_from_slice(&target.tokens[target.tokens.len() - target.completion..]);
    }
    let hidden = model.hidden(mode, &batch, hook)?;
    let hidden = match rows.len() == batch.rows() {
        true => hidden,
        false => hidden.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?,
    };
    Ok(negative_log_likelihood(&model.logits(&hidden)?, &wanted)?)
}

/// Sum of the negative log-likelihoods in nats of `completion` after `prompt`; a differentiable scalar in
/// [`Mode::Train`].
///
/// # Errors
/// When either is empty or the model can't run them.
pub fn completion_loss(
    model: &Model,
    mode: Mode,
    adapter: Option<&Adapter>,
    prompt: &[u32],
    completion: &[u32],
) -> Result<Tensor, ModelError> {
    let hook = adapter.map_or(Hook::Base, |adapter| Hook::One(adapter, None));
    Ok(token_losses(model, mode, hook, &[Target::new(prompt, completion)])?.sum_all()?)
}

/// Gradient of [`completion_loss`] with respect to the adapter's numbers, in the order of [`Adapter::values`], and the
/// loss itself.
///
/// # Errors
/// When the model can't run the tokens.
pub fn completion_gradient(
    model: &Model,
    adapter: &Adapter,
    prompt: &[u32],
    completion: &[u32],
) -> Result<(Vec<f32>, f32), ModelError> {
    let (adapter, variables) = adapter.trainable().map_err(|error| ModelError::Input(error.to_string()))?;
    let loss = completion_loss(model, Mode::Train, Some(&adapter), prompt, completion)?;
    let gradients = loss.backward()?;
    let mut values = Vec::new();
    for variable in &variables {
        let gradient =
            gradients.get(variable).ok_or_else(|| ModelError::Input("a variable lacks a gradient".into()))?;
        values.extend(gradient.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok((values, loss.to_scalar::<f32>()?))
}
