//! Examples: what is learned from a record, as tokens, and which records are held out.
//!
//! Invariant: an example's tokens, and whether it is held out, depend on base, recipe and its own text only. Its weight
//! decides neither, so leaving a contributor out moves no example to another step or side. One from which nothing can be
//! learned on this base is no example, for everybody alike, and keeps no other from being trained.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::turns::{self, Piece};
use super::{Recipe, TrainError};
use crate::loss::Target;
use crate::model::Base;

/// Largest weight of an example; more would be a mistake that drowns the others.
pub const MAX_WEIGHT: f32 = 1_000.0;

/// One training example.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// What is given; empty for plain text.
    pub prompt: String,
    /// What is learned.
    pub completion: String,
    /// A conversation in place of both: a JSON list of objects with `role` and `content`, of which the assistant's turns
    /// are learned.
    pub messages: Option<String>,
    /// Whose it is.
    pub contributor: u32,
    /// Factor of its loss; 0 leaves it out without moving any other.
    pub weight: f32,
}

impl Example {
    /// The same examples with those of `contributor` at weight 0: the data of its leave-out run.
    #[must_use]
    pub fn leave_out(examples: &[Self], contributor: u32) -> Vec<Self> {
        let left_out = |example: &Self| Self {
            weight: if example.contributor == contributor { 0.0 } else { example.weight },
            ..example.clone()
        };
        examples.iter().map(left_out).collect()
    }

    /// What a run of `recipe` learns of it, as tokens; `None` where the run holds it out.
    ///
    /// # Errors
    /// When there is nothing to learn from it.
    pub fn learned(&self, base: &Base, recipe: &Recipe) -> Result<Option<Target>, TrainError> {
        let encoded = encode(base, self, 0, recipe.max_len as usize)?;
        Ok(Some(encoded.target).filter(|_| !self.is_held_out(recipe)))
    }

    fn is_held_out(&self, recipe: &Recipe) -> bool {
        (self.draw(recipe.seed) as f64) < recipe.held_out * 2.0_f64.powi(64)
    }

    /// A number that the seed and the example's own text draw, even over all u64.
    fn draw(&self, seed: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 split of held-out records");
        hasher.update(&seed.to_le_bytes());
        for text in [&self.prompt, &self.completion, self.messages.as_ref().unwrap_or(&String::new())] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        u64::from_le_bytes(first)
    }
}

/// An example as tokens.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    /// Its place among the examples that were given.
    pub(super) index: usize,
    pub(super) target: Target,
    pub(super) weight: f32,
    pub(super) was_cut: bool,
    /// Whether something is given before what is learned, so that an answer to it can be compared.
    pub(super) is_question: bool,
}

/// All examples of a run.
#[derive(Debug, Clone)]
pub(super) struct Split {
    /// How many examples were given.
    given: usize,
    /// Those that are trained on, in the order they came.
    pub(super) trained: Vec<Encoded>,
    /// Those that are only evaluated, by ascending draw, so that the first few are a sample of all.
    pub(super) held_out: Vec<Encoded>,
}

impl Split {
    pub(super) fn of(base: &Base, recipe: &Recipe, examples: &[Example]) -> Result<Self, TrainError> {
        let (mut trained, mut held_out, mut unusable) = (Vec::new(), Vec::new(), None);
        for (index, example) in examples.iter().enumerate() {
            check_weight(example.weight)?;
            let encoded = match encode(base, example, index, recipe.max_len as usize) {
                Ok(encoded) => encoded,
                Err(error @ TrainError::Ended(_)) => return Err(error),
                Err(error) => {
                    unusable.get_or_insert(format!("example {index}: {error}"));
                    continue;
                }
            };
            match example.is_held_out(recipe) {
                true => held_out.push((example.draw(recipe.seed), encoded)),
                false => trained.push(encoded),
            }
        }
        held_out.sort_by_key(|(draw, _)| *draw);
        if trained.is_empty() {
            let (all, held_out) = (examples.len(), held_out.len());
            let why = unusable.map_or_else(String::new, |why| format!("; {why}"));
            return Err(TrainError::Examples(format!("none of {all} can be trained, {held_out} are held out{why}")));
        }
        let held_out = held_out.into_iter().map(|(_, encoded)| encoded).collect();
        Ok(Self { given: examples.len(), trained, held_out })
    }

    /// The same with the weight of each example by its place in `weights`.
    pub(super) fn with_weights(&self, weights: &[f32]) -> Result<Self, TrainError> {
        if weights.len() != self.given {
            return Err(TrainError::Examples(format!("{} weights for {}", weights.len(), self.given)));
        }
        weights.iter().try_for_each(|weight| check_weight(*weight))?;
        let weighed = |encoded: &Vec<Encoded>| {
            encoded.iter().map(|one| Encoded { weight: weights[one.index], ..one.clone() }).collect()
        };
        Ok(Self { given: self.given, trained: weighed(&self.trained), held_out: weighed(&self.held_out) })
    }
}

fn check_weight(weight: f32) -> Result<(), TrainError> {
    match (0.0..=MAX_WEIGHT).contains(&weight) {
        true => Ok(()),
        false => Err(TrainError::Examples(format!("weight {weight}, allowed 0 to {MAX_WEIGHT}"))),
    }
}

/// What is learned of each example, as tokens: what a trainer of a recipe with this `max_len` sees.
///
/// # Errors
/// When one can't be learned from; the number is its place.
pub fn targets(base: &Base, examples: &[Example], max_len: usize) -> Result<Vec<Target>, TrainError> {
    let target = |(index, example): (usize, &Example)| {
        let encoded = encode(base, example, index, max_len);
        encoded.map(|one| one.target).map_err(|error| TrainError::Examples(format!("example {index}: {error}")))
    };
    examples.iter().enumerate().map(target).collect()
}

/// Tokens of an example, cut to `most`.
fn encode(base: &Base, example: &Example, index: usize, most: usize) -> Result<Encoded, TrainError> {
    let most = most.min(base.config().max_positions);
    let (target, was_cut, is_question) = match &example.messages {
        Some(messages) => conversation(&turns::pieces(base, messages)?, most)?,
        None => pair(base, example, most)?,
    };
    Ok(Encoded { index, target, weight: example.weight, was_cut, is_question })
}

/// The completion keeps at least half the room; of a long prompt the end is kept, behind the begin token.
fn pair(base: &Base, example: &Example, most: usize) -> Result<(Target, bool, bool), TrainError> {
    let tokenizer = base.tokenizer();
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
    Ok((Target::new(&prompt, &completion), cut, !example.prompt.is_empty()))
}

/// Of a long conversation the end is kept.
fn conversation(pieces: &[Piece], most: usize) -> Result<(Target, bool, bool), TrainError> {
    let mut tokens: Vec<u32> = Vec::new();
    let mut learned: Vec<Range<usize>> = Vec::new();
    for piece in pieces {
        let start = tokens.len();
        tokens.extend_from_slice(&piece.tokens);
        match learned.last_mut().filter(|last| piece.is_learned && last.end == start) {
            Some(last) => last.end = tokens.len(),
            None if piece.is_learned => learned.push(start..tokens.len()),
            None => {}
        }
    }
    let dropped = tokens.len().saturating_sub(most);
    tokens.drain(..dropped);
    let scored: Vec<Range<usize>> = learned
        .into_iter()
        .map(|range| range.start.saturating_sub(dropped).max(1)..range.end.saturating_sub(dropped))
        .filter(|range| !range.is_empty())
        .collect();
    match scored.is_empty() {
        true => Err(TrainError::Examples("the assistant says nothing to learn from".into())),
        false => Ok((Target { tokens, scored }, dropped > 0, true)),
    }
}
