//! One answer's sampling: penalties and grammar follow its tokens.
//!
//! Invariant: what `pick` gives depends on the parameters, the prompt, the accepted tokens, the logits and the step, so
//! a checker that accepts the same tokens picks the same ones; with default parameters it is [`super::pick`].

use std::collections::{BTreeMap, BTreeSet};

use super::constraint::{Constraint, Grammars};
use super::filter::{Candidate, cut};
use super::{Format, Sampling, largest, noise_of, pick};
use crate::engine::{EngineError, GenerateParams};
use crate::ops::narrow;
use crate::tokenizer::Tokenizer;

/// A token and the natural logarithm of its probability under the model, before penalties, temperature and cuts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// ln p.
    pub logprob: f32,
}

/// Picks the tokens of one answer.
pub struct Sampler {
    temperature: f32,
    seed: u64,
    sampling: Sampling,
    /// Tokens of the prompt; empty unless the repetition penalty needs them.
    prompt: BTreeSet<u32>,
    /// How often each token stands in the answer.
    counts: BTreeMap<u32, u32>,
    constraint: Option<Box<dyn Constraint>>,
}

impl Sampler {
    /// A sampler for one answer to `prompt`.
    ///
    /// # Errors
    /// When a parameter is out of bounds or the format can't be had with this tokenizer.
    pub fn new(tokenizer: &Tokenizer, params: &GenerateParams, prompt: &[u32]) -> Result<Self, EngineError> {
        params.check()?;
        let sampling = params.sampling;
        let constraint = match &params.format {
            Format::Text => None,
            format => Some(Grammars::constraint(tokenizer, format)?),
        };
        let repeats = sampling.repetition_penalty != 1.0;
        Ok(Self {
            temperature: params.temperature,
            seed: params.seed,
            sampling,
            prompt: if repeats { prompt.iter().copied().collect() } else { BTreeSet::new() },
            counts: BTreeMap::new(),
            constraint,
        })
    }

    /// The token at `step`; ties go to the lowest token id.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`] for a logit that is NaN or infinite, [`EngineError::Constraint`] where the grammar
    /// allows no token.
    pub fn pick(&mut self, logits: &[f32], step: u32) -> Result<u32, EngineError> {
        let plain = !self.sampling.penalises() && self.constraint.is_none();
        let greedy = self.temperature == 0.0;
        if plain && (greedy || !self.sampling.filters()) {
            return pick(logits, self.temperature, self.seed, step);
        }
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(EngineError::NotFinite { step });
        }
        let mut bent = logits.to_vec();
        self.penalise(&mut bent);
        let allowed = self.constraint.as_mut().map(|constraint| constraint.allowed()).transpose()?;
        let scale = if greedy { 1.0 } else { f64::from(self.temperature) };
        let scored = (0_u32..).zip(bent).map(|(token, logit)| (token, f64::from(logit) / scale));
        let candidates: Vec<Candidate> = match &allowed {
            None => scored.collect(),
            // A model may have more logits than its tokenizer has tokens.
            Some(allowed) => scored.take(allowed.len()).filter(|(token, _)| allowed.is_allowed(*token)).collect(),
        };
        if candidates.is_empty() {
            return Err(EngineError::Constraint("the grammar allows no token".into()));
        }
        if greedy {
            return first_largest(&candidates, |(_, score)| *score);
        }
        let kept = if self.sampling.filters() { cut(candidates, &self.sampling) } else { candidates };
        first_largest(&kept, |(token, score)| score + noise_of(self.seed, step, *token))
    }

    /// Takes note of the token that stands in the answer.
    ///
    /// # Errors
    /// [`EngineError::Constraint`] when the grammar doesn't allow it.
    pub fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        if self.sampling.penalises() {
            *self.counts.entry(token).or_default() += 1;
        }
        self.constraint.as_mut().map_or(Ok(()), |constraint| constraint.accept(token))
    }

    fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, .. } = self.sampling;
        if repetition_penalty != 1.0 {
            for token in self.prompt.iter().chain(self.counts.keys().filter(|token| !self.prompt.contains(token))) {
                let Some(logit) = logits.get_mut(*token as usize) else { continue };
                *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            }
        }
        for (token, count) in &self.counts {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            *logit -= narrow(f64::from(frequency_penalty) * f64::from(*count)) + presence_penalty;
        }
    }
}

/// The candidate of the largest score, the lowest token among equals.
fn first_largest(candidates: &[Candidate], score: impl Fn(&Candidate) -> f64) -> Result<u32, EngineError> {
    let mut best: Option<(u32, f64)> = None;
    for candidate in candidates {
        let score = score(candidate);
        if best.is_none_or(|(token, high)| score > high || (score == high && candidate.0 < token)) {
            best = Some((candidate.0, score));
        }
    }
    best.map(|(token, _)| token).ok_or(EngineError::NoLogits)
}

/// The logarithm of a token's probability and of the `most` most probable ones, largest first.
///
/// # Errors
/// When there is no such token or a logit is not finite.
pub fn top_logprobs(logits: &[f32], token: u32, most: u8) -> Result<(TokenLogprob, Vec<TokenLogprob>), EngineError> {
    let peak = largest(logits.iter().map(|logit| f64::from(*logit)))?;
    let peak = f64::from(logits[peak as usize]);
    let total: f64 = logits.iter().map(|logit| (f64::from(*logit) - peak).exp()).sum();
    let log_total = total.ln() + peak;
    if !log_total.is_finite() {
        return Err(EngineError::NotFinite { step: 0 });
    }
    let of = |token: u32, logit: f32| TokenLogprob { token, logprob: narrow(f64::from(logit) - log_total) };
    let chosen = logits.get(token as usize).map(|logit| of(token, *logit)).ok_or(EngineError::NoLogits)?;
    let sampling = Sampling { top_k: u32::from(most), ..Sampling::default() };
    let mut top = match most {
        0 => Vec::new(),
        _ => cut((0_u32..).zip(logits.iter().map(|logit| f64::from(*logit))).collect(), &sampling),
    };
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    Ok((chosen, top.into_iter().map(|(token, _)| of(token, logits[token as usize])).collect()))
}

#[cfg(test)]
mod tests;
