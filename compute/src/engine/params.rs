//! What a request asks for and what an answer is.
//!
//! Invariant: parameters that passed [`GenerateParams::check`] can't make a generation loop or allocate without
//! bound, whoever sent them.

use serde::{Deserialize, Serialize};

use super::EngineError;
use crate::proof::Fingerprint;
use crate::sample::{Format, Sampling};

/// The longest answer; the model's context ends earlier for small bases.
pub const MAX_OUTPUT_TOKENS: usize = 8_192;
/// Most stop sequences of one request; OpenAI's interface allows four.
pub const MAX_STOPS: usize = 8;
/// The longest stop sequence: every piece of text waits for at most this many bytes.
pub const MAX_STOP_BYTES: usize = 256;
/// The longest prompt text; a token is at least one byte, so this is beyond any context we serve.
pub const MAX_PROMPT_BYTES: usize = 4 << 20;

/// How to generate. Together with prompt, base and adapter it determines every token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateParams {
    /// Tokens at most, the end-of-text token included.
    pub max_tokens: usize,
    /// 0 is greedy; otherwise logits are divided by this before sampling.
    pub temperature: f32,
    /// The committed seed of the sampling noise.
    pub seed: u64,
    /// Texts that end the answer; they are not part of it.
    #[serde(default)]
    pub stop: Vec<String>,
    /// What bends or cuts the distribution.
    #[serde(default)]
    pub sampling: Sampling,
    /// The form that the answer must have.
    #[serde(default)]
    pub format: Format,
}

impl Default for GenerateParams {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            seed: 0,
            stop: Vec::new(),
            sampling: Sampling::default(),
            format: Format::Text,
        }
    }
}

impl GenerateParams {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`EngineError::Params`] names the field.
    pub fn check(&self) -> Result<(), EngineError> {
        if self.max_tokens == 0 || self.max_tokens > MAX_OUTPUT_TOKENS {
            return Err(EngineError::Params("max_tokens must be 1 to 8192"));
        }
        if !(self.temperature == 0.0 || (0.001..=100.0).contains(&self.temperature)) {
            return Err(EngineError::Params("temperature must be 0 or 0.001 to 100"));
        }
        if self.stop.len() > MAX_STOPS {
            return Err(EngineError::Params("at most 8 stop sequences"));
        }
        if self.stop.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
            return Err(EngineError::Params("a stop sequence must have 1 to 256 bytes"));
        }
        self.sampling.check()?;
        self.format.check()
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so; the end-of-text token is the last output token.
    EndOfText,
    /// A stop sequence appeared.
    Stop,
    /// `max_tokens` were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The listener asked to stop.
    Cancelled,
}

/// A finished answer with everything that a receipt and a check need.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The answer, up to a stop sequence, without special tokens.
    pub text: String,
    /// The prompt as the model saw it.
    pub prompt_tokens: Vec<u32>,
    /// Every generated token, including an end-of-text token.
    pub output_tokens: Vec<u32>,
    /// One for each 32 output tokens, over the last hidden states that predicted them.
    pub fingerprints: Vec<Fingerprint>,
    /// Why it ended.
    pub finish: Finish,
}
