//! The loss: negative log-likelihood in nats of the scored tokens of given sequences, by teacher forcing.
//!
//! Invariant: only positions that predict a scored token reach the output product, so prompts cost no logits, and all
//! logits of a batch are never in memory together unless the head is trained too.

use std::ops::Range;

use candle_core::{Tensor, Var};

use crate::linear::Hook;
use crate::lora::Adapter;
use crate::model::{Mode, Model, ModelError, Packed};
use crate::ops::narrow;

/// Tokens of one pass over targets; bounds its memory.
const PASS_TOKENS: usize = 4_096;

/// Tokens of which some are to be predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The whole sequence.
    pub tokens: Vec<u32>,
    /// Which tokens are to be predicted, in order and apart; never the first, which nothing predicts.
    pub scored: Vec<Range<usize>>,
}

impl Target {
    /// A prompt and the completion to predict after it.
    #[must_use]
    pub fn new(prompt: &[u32], completion: &[u32]) -> Self {
        let tokens = [prompt, completion].concat();
        let scored = std::iter::once(prompt.len()..tokens.len()).collect();
        Self { tokens, scored }
    }

    /// How many tokens are to be predicted.
    #[must_use]
    pub fn predicted(&self) -> usize {
        self.scored.iter().map(ExactSizeIterator::len).sum()
    }

    /// How many tokens a pass is fed: what comes after the last but one predicts nothing that is scored.
    #[must_use]
    pub fn fed(&self) -> usize {
        self.scored.last().map_or(0, |last| last.end.saturating_sub(1))
    }

    fn is_sound(&self) -> bool {
        let mut free = 1;
        for range in &self.scored {
            if range.start < free || range.is_empty() || range.end > self.tokens.len() {
                return false;
            }
            free = range.end;
        }
        !self.scored.is_empty()
    }
}

/// Targets laid end to end, with the rows that predict what is scored.
pub(crate) struct Scored {
    pub(crate) batch: Packed,
    rows: Vec<u32>,
    wanted: Vec<u32>,
}

impl Scored {
    pub(crate) fn of(targets: &[Target]) -> Result<Self, ModelError> {
        if let Some(target) = targets.iter().find(|target| !target.is_sound()) {
            let (scored, all) = (&target.scored, target.tokens.len());
            return Err(ModelError::Input(format!("tokens {scored:?} of {all} are to be predicted")));
        }
        let fed: Vec<&[u32]> = targets.iter().map(|target| &target.tokens[..target.fed()]).collect();
        let batch = Packed::new(&fed)?;
        let (mut rows, mut wanted) = (Vec::new(), Vec::new());
        for (target, range) in targets.iter().zip(batch.sequences()) {
            for scored in &target.scored {
                let predicting = range.start + scored.start - 1..range.start + scored.end - 1;
                rows.extend(predicting.filter_map(|row| u32::try_from(row).ok()));
                wanted.extend_from_slice(&target.tokens[scored.clone()]);
            }
        }
        Ok(Self { batch, rows, wanted })
    }

    /// Loss of each scored token, given the batch's final hidden states.
    pub(crate) fn losses(&self, model: &Model, hidden: &Tensor) -> Result<Tensor, ModelError> {
        match self.rows.len() == self.batch.rows() {
            true => model.losses(hidden, &self.wanted),
            false => {
                let rows = Tensor::new(self.rows.as_slice(), hidden.device())?;
                model.losses(&hidden.index_select(&rows, 0)?, &self.wanted)
            }
        }
    }
}

/// Loss of each scored token in nats, of all targets in order, (scored tokens). Differentiable in [`Mode::Train`] with
/// respect to every variable behind model and hook.
///
/// # Errors
/// When a target scores nothing or its first token, or the model can't run it.
pub fn token_losses(model: &Model, mode: Mode, hook: Hook<'_>, targets: &[Target]) -> Result<Tensor, ModelError> {
    let scored = Scored::of(targets)?;
    scored.losses(model, &model.hidden(mode, &scored.batch, hook)?)
}

/// How many of the targets, from the first on, fit one pass: one at least.
pub(crate) fn fitting(targets: &[Target]) -> usize {
    let mut tokens = 0;
    let fits = |target: &&Target| {
        tokens += target.fed();
        tokens <= PASS_TOKENS
    };
    targets.iter().take_while(fits).count().max(1).min(targets.len())
}

/// Mean loss of each target in nats a token, in as many passes as bound the memory.
///
/// # Errors
/// As [`token_losses`].
pub(crate) fn mean_losses(model: &Model, adapter: &Adapter, targets: &[Target]) -> Result<Vec<f32>, ModelError> {
    let mut means = Vec::with_capacity(targets.len());
    let mut rest = targets;
    while !rest.is_empty() {
        let (pass, later) = rest.split_at(fitting(rest));
        rest = later;
        let losses = token_losses(model, Mode::Infer, Hook::One(adapter, None), pass)?.to_vec1::<f32>()?;
        let mut left = losses.as_slice();
        for target in pass {
            let (own, others) = left.split_at(target.predicted());
            left = others;
            let sum: f64 = own.iter().map(|loss| f64::from(*loss)).sum();
            means.push(narrow(sum / own.len() as f64));
        }
    }
    Ok(means)
}

/// Gradient of a target's mean token loss in the variables of a trainable adapter, end to end.
///
/// # Errors
/// As [`token_losses`], and when a variable has no part in the loss.
pub(crate) fn mean_gradient(
    model: &Model,
    adapter: &Adapter,
    variables: &[Var],
    target: &Target,
) -> Result<Vec<f32>, ModelError> {
    let losses = token_losses(model, Mode::Train, Hook::One(adapter, None), std::slice::from_ref(target))?;
    gradient(&losses.mean_all()?, variables)
}

/// Gradient of a loss in these variables, end to end.
fn gradient(loss: &Tensor, variables: &[Var]) -> Result<Vec<f32>, ModelError> {
    let gradients = loss.backward()?;
    let mut values = Vec::new();
    for variable in variables {
        let lacks = || ModelError::Input("a variable lacks a gradient".into());
        values.extend(gradients.get(variable).ok_or_else(lacks)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(values)
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
    let (gradient, losses) = gradient_of(model, adapter, &Target::new(prompt, completion))?;
    Ok((gradient, losses.sum_all()?.to_scalar()?))
}

/// The same of the summed loss of whatever is scored, with the loss of each scored token: the same bits as any other pass gives.
///
/// # Errors
/// When the model can't run the tokens.
pub fn target_gradient(model: &Model, adapter: &Adapter, target: &Target) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
    let (gradient, losses) = gradient_of(model, adapter, target)?;
    Ok((gradient, losses.to_vec1()?))
}

fn gradient_of(model: &Model, adapter: &Adapter, target: &Target) -> Result<(Vec<f32>, Tensor), ModelError> {
    let (adapter, variables) = adapter.trainable().map_err(|error| ModelError::Input(error.to_string()))?;
    let losses = token_losses(model, Mode::Train, Hook::One(&adapter, None), std::slice::from_ref(target))?;
    Ok((gradient(&losses.sum_all()?, &variables)?, losses.detach()))
}
