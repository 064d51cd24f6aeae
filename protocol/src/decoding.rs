//! What is asked of a model: a prompt, and how its answer is drawn.
//!
//! Invariant: whatever is well formed is bounded, and the same everywhere: numbers are whole parts, never floats, so
//! asker, worker and verifier decode with the very same settings.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::Hash;
use crate::limits::{
    ANSWER_TOKENS_MAX, LOGPROBS_MAX, PROMPT_MAX_BYTES, SCHEMA_MAX_BYTES, STOP_MAX_BYTES, STOPS_MAX, TOP_LOGPROBS_MAX,
};

/// Basis points in a whole probability.
pub const BASIS_POINTS: u16 = 10_000;
/// Thousandths in one.
pub const MILLI: u16 = 1_000;
/// The largest presence or frequency penalty either way, in thousandths, as OpenAI's interface has it.
const PENALTY_MAX_MILLI: u16 = 2_000;
/// Bounds of the repetition penalty, in thousandths.
const REPETITION_MILLI: std::ops::RangeInclusive<u16> = 100..=10_000;

/// What the model is given.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// Text to go on from.
    Text(String),
    /// A conversation, which the worker renders with the base's chat template.
    Chat {
        /// A JSON object with `messages`, and `tools` and `chat_template_kwargs` where they are given, as OpenAI's
        /// interface has them.
        conversation: String,
        /// The time that a template may show, in seconds since 1970.
        at_s: u64,
    },
}

impl Prompt {
    /// What a receipt names the prompt by: the hash of the text, or of the conversation's canonical bytes.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        match self {
            Self::Text(text) => Hash::of(text.as_bytes()),
            Self::Chat { .. } => {
                Hash::of(&[b"tributary 2026 conversation".as_slice(), &crate::wire::encode(self)].concat())
            }
        }
    }

    /// Bytes of its text.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Chat { conversation, .. } => conversation.len(),
        }
    }

    /// Whether there is nothing to go on from.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// The form that an answer must have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
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

/// How an answer is drawn. With base, adapter and prompt it determines every token.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default)]
pub struct Decoding {
    /// The most tokens wanted.
    pub max_tokens: u32,
    /// Sampling temperature in thousandths; zero takes the likeliest token.
    pub temperature_milli: u16,
    /// The seed of sampling.
    pub seed: u64,
    /// Only this many likeliest tokens; zero is all.
    pub top_k: u32,
    /// Only the fewest likeliest tokens whose probabilities sum to this, in basis points.
    pub top_p_bp: u16,
    /// Only tokens at least this likely beside the likeliest, in basis points.
    pub min_p_bp: u16,
    /// Divides the logits of tokens of prompt and answer, in thousandths.
    pub repetition_penalty_milli: u16,
    /// Subtracted for each time a token stands in the answer, in thousandths.
    pub frequency_penalty_milli: i16,
    /// Subtracted once for tokens that stand in the answer, in thousandths.
    pub presence_penalty_milli: i16,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The form that the answer must have.
    pub format: Format,
    /// The probability of each token is wanted, and so many of the likeliest beside it; they change no token.
    pub logprobs: Option<u8>,
}

impl Default for Decoding {
    /// The likeliest tokens, at most 64.
    fn default() -> Self {
        Self {
            max_tokens: 64,
            temperature_milli: 0,
            seed: 0,
            top_k: 0,
            top_p_bp: BASIS_POINTS,
            min_p_bp: 0,
            repetition_penalty_milli: MILLI,
            frequency_penalty_milli: 0,
            presence_penalty_milli: 0,
            stop: Vec::new(),
            format: Format::Text,
            logprobs: None,
        }
    }
}

impl Decoding {
    /// What is out of bounds, in words for the asker; nothing when all is well.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let penalty = |milli: i16| milli.unsigned_abs() <= PENALTY_MAX_MILLI;
        let stops =
            self.stop.len() <= STOPS_MAX && self.stop.iter().all(|stop| (1..=STOP_MAX_BYTES).contains(&stop.len()));
        let schema = match &self.format {
            Format::JsonSchema(schema) => (1..=SCHEMA_MAX_BYTES).contains(&schema.len()),
            Format::Text | Format::JsonObject => true,
        };
        let reported = |top: u8| self.max_tokens.saturating_mul(1 + u32::from(top));
        let bounds = [
            (
                (1..=ANSWER_TOKENS_MAX).contains(&self.max_tokens),
                format!("an answer has 1 to {ANSWER_TOKENS_MAX} tokens"),
            ),
            ((1..=BASIS_POINTS).contains(&self.top_p_bp), "top_p is above 0 and at most 1".to_owned()),
            (self.min_p_bp <= BASIS_POINTS, "min_p is 0 to 1".to_owned()),
            (REPETITION_MILLI.contains(&self.repetition_penalty_milli), "repetition_penalty is 0.1 to 10".to_owned()),
            (penalty(self.frequency_penalty_milli), "frequency_penalty is -2 to 2".to_owned()),
            (penalty(self.presence_penalty_milli), "presence_penalty is -2 to 2".to_owned()),
            (stops, format!("there are at most {STOPS_MAX} stop texts of 1 to {STOP_MAX_BYTES} bytes")),
            (schema, format!("a schema has 1 to {SCHEMA_MAX_BYTES} bytes")),
            (
                self.logprobs.is_none_or(|top| top <= TOP_LOGPROBS_MAX),
                format!("at most {TOP_LOGPROBS_MAX} logprobs are given beside a token's own"),
            ),
            (
                self.logprobs.is_none_or(|top| reported(top) <= LOGPROBS_MAX),
                format!(
                    "with logprobs, tokens times those given for each are at most {LOGPROBS_MAX}: lower max_tokens"
                ),
            ),
        ];
        bounds.into_iter().find_map(|(holds, what)| (!holds).then_some(what))
    }
}

/// Whether prompt and decoding are within bounds.
pub(crate) fn is_well_formed(prompt: &Prompt, decoding: &Decoding) -> bool {
    prompt.len() <= PROMPT_MAX_BYTES && decoding.fault().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named() {
        assert_eq!(Decoding::default().fault(), None);
        let base = Decoding::default;
        let bad = [
            (Decoding { max_tokens: 0, ..base() }, "tokens"),
            (Decoding { max_tokens: ANSWER_TOKENS_MAX + 1, ..base() }, "tokens"),
            (Decoding { top_p_bp: 0, ..base() }, "top_p"),
            (Decoding { min_p_bp: BASIS_POINTS + 1, ..base() }, "min_p"),
            (Decoding { repetition_penalty_milli: 0, ..base() }, "repetition_penalty"),
            (Decoding { frequency_penalty_milli: i16::MIN, ..base() }, "frequency_penalty"),
            (Decoding { presence_penalty_milli: 2_001, ..base() }, "presence_penalty"),
            (Decoding { stop: vec![String::new()], ..base() }, "stop"),
            (Decoding { stop: vec!["x".into(); STOPS_MAX + 1], ..base() }, "stop"),
            (Decoding { format: Format::JsonSchema("x".repeat(SCHEMA_MAX_BYTES + 1)), ..base() }, "schema"),
            (Decoding { logprobs: Some(TOP_LOGPROBS_MAX + 1), ..base() }, "logprobs"),
            (Decoding { logprobs: Some(4), max_tokens: ANSWER_TOKENS_MAX, ..base() }, "max_tokens"),
        ];
        for (decoding, word) in bad {
            let fault = decoding.fault().expect("it is out of bounds");
            assert!(fault.contains(word), "{fault} should name {word}");
        }
    }

    #[test]
    fn a_text_and_a_conversation_of_the_same_bytes_are_two_prompts() {
        let chat = Prompt::Chat { conversation: "{}".into(), at_s: 1 };
        let later = Prompt::Chat { conversation: "{}".into(), at_s: 2 };
        assert_eq!(Prompt::from("{}").commitment(), Hash::of(b"{}"));
        assert_ne!(chat.commitment(), Prompt::from("{}").commitment());
        assert_ne!(chat.commitment(), later.commitment());
    }
}
