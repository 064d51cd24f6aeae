//! Evaluation on held-out examples: loss and perplexity, and how well answers match.
//!
//! Invariant: an evaluation is a function of base, adapter and examples; loss and perplexity are bitwise the same on every
//! machine of a determinism class, so a verifier finds the same run to be over.

use super::TrainError;
use super::examples::Encoded;
use super::rouge::{rouge_l, words};
use crate::kv::Cache;
use crate::linear::Hook;
use crate::lora::{Adapter, FrozenAdapter};
use crate::loss::{Target, token_losses};
use crate::model::{Base, Feed, LogitRows, Mode};
use crate::ops::narrow;

/// Held-out examples of one evaluation: enough for a loss to within a few hundredths.
pub const MAX_EVALUATED: usize = 256;
/// Examples that are answered at one evaluation.
const MAX_ANSWERED: usize = 32;
/// Tokens of an answer at most, and beyond its reference.
const MAX_ANSWER_TOKENS: usize = 64;
const ANSWER_MARGIN_TOKENS: usize = 4;
/// Tokens of one pass; bounds its memory.
const PASS_TOKENS: usize = 4_096;
/// A reference of at most so many words is matched exactly, a longer one by ROUGE-L.
const EXACT_WORDS: usize = 8;

/// What the held-out examples say of an adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Weighted mean loss of their tokens, in nats.
    pub loss: f32,
    /// e to the loss.
    pub perplexity: f32,
    /// How many were evaluated.
    pub examples: usize,
}

/// How answers to held-out prompts compare with the records.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answers {
    /// Part of the short references that the answer is, but for spaces; `None` without any.
    pub exact_match: Option<f32>,
    /// Mean ROUGE-L F-measure over the longer references; `None` without any.
    pub rouge_l: Option<f32>,
}

/// `None` when no example has a weight.
pub(super) fn evaluate(base: &Base, adapter: &Adapter, examples: &[Encoded]) -> Result<Option<Evaluation>, TrainError> {
    let counted: Vec<&Encoded> = examples.iter().filter(|example| example.weight > 0.0).collect();
    let (mut total, mut mass) = (0.0_f64, 0.0_f64);
    let mut rest = counted.as_slice();
    while !rest.is_empty() {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|example| {
            tokens += example.target.fed();
            tokens <= PASS_TOKENS
        });
        let (pass, later) = rest.split_at(fitting.count().max(1));
        rest = later;
        let targets: Vec<Target> = pass.iter().map(|example| example.target.clone()).collect();
        let losses = token_losses(base.model(), Mode::Infer, Hook::One(adapter, None), &targets)?.to_vec1::<f32>()?;
        let weights = pass.iter().flat_map(|one| std::iter::repeat_n(f64::from(one.weight), one.target.predicted()));
        for (loss, weight) in losses.into_iter().zip(weights) {
            total += f64::from(loss) * weight;
            mass += weight;
        }
    }
    let loss = total / mass;
    let found = Evaluation { loss: narrow(loss), perplexity: narrow(loss.exp()), examples: counted.len() };
    Ok(Some(found).filter(|_| !counted.is_empty()))
}

/// Answers the first questions greedily and compares. `None` when there are none.
pub(super) fn answers(base: &Base, adapter: &Adapter, examples: &[Encoded]) -> Result<Option<Answers>, TrainError> {
    let questions = examples.iter().filter(|example| example.is_question && !example.was_cut && example.weight > 0.0);
    let (mut exact, mut rouge) = (Mean::default(), Mean::default());
    let mut asked = Vec::new();
    let mut tokens = 0;
    for example in questions.take(MAX_ANSWERED) {
        let Some(last) = example.target.scored.last() else { continue };
        // All prompts are read in one pass.
        tokens += last.start;
        if tokens > PASS_TOKENS && !asked.is_empty() {
            break;
        }
        let reference = base.tokenizer().decode(&example.target.tokens[last.clone()])?;
        let most = (last.len() + ANSWER_MARGIN_TOKENS).min(MAX_ANSWER_TOKENS);
        asked.push((Turn::new(base, &example.target.tokens[..last.start], most), reference));
    }
    let mut turns: Vec<&mut Turn> = asked.iter_mut().map(|(turn, _)| turn).collect();
    let adapter = FrozenAdapter::new(adapter)?;
    while advance(base, &adapter, &mut turns)? {}
    for (turn, reference) in &asked {
        let answer = base.tokenizer().decode(&turn.answer)?;
        match words(reference).len() <= EXACT_WORDS {
            true => exact.add(f32::from(u8::from(is_same(&answer, reference)))),
            false => rouge.add(rouge_l(&answer, reference)),
        }
    }
    let found = Answers { exact_match: exact.value(), rouge_l: rouge.value() };
    Ok(Some(found).filter(|_| !asked.is_empty()))
}

fn is_same(answer: &str, reference: &str) -> bool {
    answer.split_whitespace().eq(reference.split_whitespace())
}

#[derive(Default)]
struct Mean {
    sum: f32,
    count: u16,
}

impl Mean {
    fn add(&mut self, value: f32) {
        self.sum += value;
        self.count += 1;
    }

    fn value(&self) -> Option<f32> {
        (self.count > 0).then(|| self.sum / f32::from(self.count))
    }
}

/// One answer in the making.
struct Turn {
    next: Vec<u32>,
    answer: Vec<u32>,
    most: usize,
    cache: Cache,
}

impl Turn {
    fn new(base: &Base, prompt: &[u32], most: usize) -> Self {
        let config = base.config();
        let most = most.min(config.max_positions.saturating_sub(prompt.len()));
        let cache = Cache::new(config.layers, config.kv_width());
        Self { next: prompt.to_vec(), answer: Vec::new(), most, cache }
    }

    fn is_open(&self) -> bool {
        !self.next.is_empty() && self.answer.len() < self.most
    }

    /// Takes the most likely token, the first of equals.
    fn hear(&mut self, base: &Base, logits: &[f32]) {
        let mut best = (f32::NEG_INFINITY, 0);
        for (token, logit) in (0_u32..).zip(logits) {
            if *logit > best.0 {
                best = (*logit, token);
            }
        }
        self.next.clear();
        if !base.tokenizer().is_end(best.1) {
            self.next.push(best.1);
            self.answer.push(best.1);
        }
    }
}

/// Feeds every open turn once; whether there was any.
fn advance(base: &Base, adapter: &FrozenAdapter, turns: &mut [&mut Turn]) -> Result<bool, TrainError> {
    let mut open: Vec<&mut &mut Turn> = turns.iter_mut().filter(|turn| turn.is_open()).collect();
    if open.is_empty() {
        return Ok(false);
    }
    let mut feeds = Vec::new();
    for turn in &mut open {
        let Turn { next, cache, .. } = &mut ***turn;
        feeds.push(Feed { tokens: next.as_slice(), adapter: Some(adapter), cache });
    }
    let stepped = base.model().step(&mut feeds, LogitRows::Last)?;
    let logits = stepped.logits.map(|logits| logits.to_vec2::<f32>()).transpose()?.unwrap_or_default();
    for (turn, logits) in open.into_iter().zip(logits) {
        turn.hear(base, &logits);
    }
    Ok(true)
}
