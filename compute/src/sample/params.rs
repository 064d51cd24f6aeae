//! What narrows or bends the distribution that a token is drawn from.
//!
//! Invariant: the default changes nothing, bit for bit; whatever passes [`Sampling::check`] leaves at least one token.

use serde::{Deserialize, Serialize};

use crate::engine::EngineError;

/// Most alternatives listed for a token; OpenAI's interface allows 20.
pub const MAX_TOP_LOGPROBS: u8 = 20;
/// The longest JSON schema; a grammar grows with it.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;

/// How logits are bent and cut before sampling, in this order: penalties, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Only this many largest; 0 is all.
    pub top_k: u32,
    /// Only the fewest largest whose probabilities sum to this (arXiv 1904.09751); 1 is all.
    pub top_p: f32,
    /// Only those at least this probable beside the most probable (arXiv 2407.01082); 0 is all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens of prompt and answer (arXiv 1909.05858); 1 is none.
    pub repetition_penalty: f32,
    /// Subtracted for each time a token stands in the answer; 0 is none.
    pub frequency_penalty: f32,
    /// Subtracted once for tokens that stand in the answer; 0 is none.
    pub presence_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
        }
    }
}

impl Sampling {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`EngineError::Params`] names the field.
    pub fn check(&self) -> Result<(), EngineError> {
        let bounds = [
            (self.top_p > 0.0 && self.top_p <= 1.0, "top_p must be above 0 to 1"),
            ((0.0..=1.0).contains(&self.min_p), "min_p must be 0 to 1"),
            ((0.01..=100.0).contains(&self.repetition_penalty), "repetition_penalty must be 0.01 to 100"),
            ((-2.0..=2.0).contains(&self.frequency_penalty), "frequency_penalty must be -2 to 2"),
            ((-2.0..=2.0).contains(&self.presence_penalty), "presence_penalty must be -2 to 2"),
        ];
        match bounds.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(EngineError::Params(what)),
            None => Ok(()),
        }
    }

    /// Whether logits depend on the tokens before.
    pub(super) fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Whether tokens may be cut off.
    pub(super) fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}

/// What form an answer must have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Any text.
    #[default]
    Text,
    /// One JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema(String),
}

impl Format {
    /// Checks the schema's length; whether it is one shows when it is compiled.
    ///
    /// # Errors
    /// [`EngineError::Params`] when it is too long.
    pub fn check(&self) -> Result<(), EngineError> {
        match self {
            Self::JsonSchema(schema) if schema.len() > MAX_SCHEMA_BYTES => {
                Err(EngineError::Params("a schema must have at most 65536 bytes"))
            }
            _ => Ok(()),
        }
    }
}
