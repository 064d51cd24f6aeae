//! Streamed generation: several requests with different adapters on one base in one step.
//!
//! Invariant: a request's tokens, fingerprints and text depend on base, adapter, prompt and parameters only, bitwise
//! within a determinism class, and not on what shares its batch. An adapter that doesn't fit is an error, never
//! the base model's answer.

pub(crate) mod answer;
mod params;
mod text;

use std::ops::ControlFlow;

pub use params::{Finish, GenerateParams, Generation, MAX_OUTPUT_TOKENS, MAX_PROMPT_BYTES, MAX_STOP_BYTES, MAX_STOPS};

use crate::kv::Cache;
use crate::lora::{Adapter, FrozenAdapter};
use crate::model::{Base, Feed, LogitRows, ModelError};
use answer::{Answer, Heard};
use text::TextStream;

/// Most requests of one batch: with `PREFILL_TOKENS` each, a step stays within the model's limit.
pub const MAX_BATCH_REQUESTS: usize = 64;
/// Prompt tokens that one request feeds in one step, so that a long prompt doesn't hold up its neighbours' tokens.
const PREFILL_TOKENS: usize = 512;

/// Why an answer can't be generated or re-checked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A parameter is out of bounds.
    #[error("{0}")]
    Params(&'static str),
    /// The prompt is empty for a model without a begin token.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, the model's context {context}")]
    PromptTooLong {
        /// Tokens of the prompt (bytes, where it was refused before it was tokenised).
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// More requests than one batch takes.
    #[error("{got} requests in one batch, at most {MAX_BATCH_REQUESTS}")]
    Batch {
        /// Requests given.
        got: usize,
    },
    /// The adapter was made for a base of another shape.
    #[error("the adapter doesn't fit the base")]
    Adapter,
    /// A logit or hidden state is NaN or infinite: the adapter or base is broken.
    #[error("a number at step {step} is not finite")]
    NotFinite {
        /// The output token that would have come.
        step: u32,
    },
    /// The model has no vocabulary.
    #[error("no logits to choose from")]
    NoLogits,
    /// The asked form is none that answers can be held to, or no token fits it.
    #[error("constrained output: {0}")]
    Constraint(String),
    /// The model refused or failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor operation failed.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}

/// One question of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The adapter that answers, or the base alone.
    pub adapter: Option<&'a Adapter>,
    /// The prompt's text.
    pub prompt: &'a str,
    /// How to answer.
    pub params: &'a GenerateParams,
}

/// Generates answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Engine;

impl Engine {
    /// An engine; it holds no state between answers.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// Answers one prompt. `on_text` gets each piece of text as soon as it is certain, in whole characters, never
    /// empty; `Break` ends the answer after that piece.
    ///
    /// # Errors
    /// When the request breaks a bound, doesn't fit the base, or the computation fails.
    pub fn generate(
        &self,
        base: &Base,
        adapter: Option<&Adapter>,
        prompt: &str,
        params: &GenerateParams,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, EngineError> {
        let request = Request { adapter, prompt, params };
        let mut answers = self.generate_batch(base, &[request], &mut |_, text| on_text(text))?;
        answers.pop().ok_or(EngineError::Batch { got: 0 })?
    }

    /// Answers several prompts together, each with its own adapter. `on_text` also gets the request's position.
    /// A request that fails doesn't disturb the others.
    ///
    /// # Errors
    /// When the batch as a whole can't run; each answer carries its own error.
    pub fn generate_batch(
        &self,
        base: &Base,
        requests: &[Request<'_>],
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<Vec<Result<Generation, EngineError>>, EngineError> {
        if requests.len() > MAX_BATCH_REQUESTS {
            return Err(EngineError::Batch { got: requests.len() });
        }
        let mut turns: Vec<Result<Turn, EngineError>> =
            requests.iter().map(|request| Turn::open(base, request)).collect();
        while step(base, &mut turns, on_text)? {}
        Ok(turns.into_iter().map(|turn| turn.and_then(|turn| turn.answer.close())).collect())
    }
}

/// An answer with what it runs on.
struct Turn {
    answer: Answer,
    adapter: Option<FrozenAdapter>,
    cache: Cache,
}

impl Turn {
    fn open(base: &Base, request: &Request<'_>) -> Result<Self, EngineError> {
        request.params.check()?;
        if request.adapter.is_some_and(|adapter| !adapter.fits(base.config())) {
            return Err(EngineError::Adapter);
        }
        let prompt = answer::encode(base, request.prompt)?;
        let cache = Cache::new(base.config().layers, base.config().kv_width());
        let adapter = request.adapter.map(FrozenAdapter::new).transpose()?;
        Ok(Self { answer: Answer::open(base, prompt, request.params)?, adapter, cache })
    }

    fn feed(&mut self) -> Option<Feed<'_>> {
        let tokens = self.answer.next_tokens(self.cache.positions(), PREFILL_TOKENS)?;
        Some(Feed { tokens, adapter: self.adapter.as_ref(), cache: &mut self.cache })
    }
}

/// Feeds every open answer its next tokens and lets it pick one. Whether any is left open.
fn step(
    base: &Base,
    turns: &mut [Result<Turn, EngineError>],
    on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
) -> Result<bool, EngineError> {
    let (mut open, mut feeds) = (Vec::new(), Vec::new());
    let mut row = 0;
    for (at, turn) in turns.iter_mut().enumerate() {
        let Ok(turn) = turn else { continue };
        let Some(feed) = turn.feed() else { continue };
        row += feed.tokens.len();
        open.push((at, row - 1));
        feeds.push(feed);
    }
    if feeds.is_empty() {
        return Ok(false);
    }
    let stepped = base.model().step(&mut feeds, LogitRows::Last)?;
    let logits = stepped.logits.ok_or(EngineError::NoLogits)?.to_vec2::<f32>()?;
    for ((at, row), logits) in open.into_iter().zip(logits) {
        let Ok(turn) = &mut turns[at] else { continue };
        if !turn.answer.has_read(turn.cache.positions()) {
            continue;
        }
        let state = stepped.hidden.get(row)?.to_vec1::<f32>()?;
        if let Err(error) = turn.answer.heard(Heard { state, logits: &logits }, &mut |text| on_text(at, text)) {
            turns[at] = Err(error);
        }
    }
    Ok(true)
}

/// What an answer of given tokens was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// How it ended; `None` when it could have gone on: its listener left.
    pub finish: Option<Finish>,
    /// After how many of the tokens.
    pub tokens: usize,
    /// Its text.
    pub text: String,
}

/// Reads an answer again from its tokens, as the engine that picked them did.
///
/// # Errors
/// When the tokens can't be decoded.
pub fn replay_answer(
    base: &Base,
    params: &GenerateParams,
    prompt_tokens: usize,
    output_tokens: &[u32],
) -> Result<Replayed, EngineError> {
    let decode = |tokens: &[u32]| Ok(base.tokenizer().decode(tokens)?);
    let mut text = TextStream::new(&params.stop);
    let mut ended = (None, output_tokens.len());
    for (at, &token) in output_tokens.iter().enumerate() {
        if !base.tokenizer().is_end(token) {
            text.push(&decode, token)?;
        }
        let finish = answer::finish_after(base, params, prompt_tokens, at + 1, token, text.stopped());
        if finish.is_some() {
            text.finish(&decode)?;
            ended = (finish, at + 1);
            break;
        }
    }
    Ok(Replayed { finish: ended.0, tokens: ended.1, text: text.text().to_owned() })
}
