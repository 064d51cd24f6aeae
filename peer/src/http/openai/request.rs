//! What clients send, and what of it we can do.
//!
//! Invariant: a parameter that would change the answer is honoured or refused by name, never dropped.

use serde::Deserialize;
use serde_json::{Map, Value};
use tributary_protocol::id::Amount;

use super::super::ApiError;
use super::super::asks::Ask;

/// Tokens of an answer unless the client says otherwise, as that API has it for completions.
const COMPLETION_TOKENS: u32 = 16;
/// The same for chats, where that API says "until the end".
const CHAT_TOKENS: u32 = 256;
/// That API's bound of a temperature.
const TEMPERATURE_MAX: f64 = 2.0;
/// Most choices of words there may be in a sequence of messages.
const MESSAGES_MAX: usize = 256;

/// A question with how its answer is to be sent.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) ask: Ask,
    pub(super) stream: bool,
    /// A last chunk with the numbers of tokens is wanted.
    pub(super) usage: bool,
}

/// What both kinds of requests have.
#[derive(Debug, Deserialize)]
struct Common {
    model: String,
    #[serde(default)]
    stream: bool,
    temperature: Option<f64>,
    seed: Option<i64>,
    stream_options: Option<StreamOptions>,
    /// The most to pay for the answer, in atto-OPEN: ours.
    price_max: Option<Amount>,
    /// Whether another peer checks the computation: ours.
    check: Option<bool>,
    /// Everything else.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    prompt: Value,
    max_tokens: Option<u32>,
    #[serde(flatten)]
    common: Common,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Chat {
    messages: Vec<Message>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Value,
}

/// Parameters that would change the answer, each with the values that change nothing.
const UNSUPPORTED: [(&str, &[&str]); 15] = [
    ("n", &["1"]),
    ("best_of", &["1"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
    ("stop", &["[]", "\"\""]),
    ("top_p", &["1", "1.0"]),
    ("logprobs", &["false", "0"]),
    ("top_logprobs", &["0"]),
    ("presence_penalty", &["0", "0.0"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("logit_bias", &["{}"]),
    ("tools", &["[]"]),
    ("functions", &["[]"]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("modalities", &["[\"text\"]"]),
];

impl Common {
    fn into_question(self, prompt: String, max_tokens: u32) -> Result<Question, ApiError> {
        for (name, neutral) in UNSUPPORTED {
            let given = self.rest.get(name).filter(|value| !value.is_null());
            if let Some(value) = given.filter(|value| !neutral.contains(&value.to_string().as_str())) {
                return Err(ApiError::usage(format!("{name} = {value} is not supported"), "leave it out"));
            }
        }
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
            return Err(ApiError::usage(format!("temperature must be 0 to {TEMPERATURE_MAX}"), "choose another one"));
        }
        let ask = Ask {
            model: self.model,
            prompt,
            max_tokens: Some(max_tokens),
            temperature_milli: Some(milli(temperature)),
            seed: self.seed.map(i64::cast_unsigned),
            price_max: self.price_max,
            check: self.check,
            ..Ask::default()
        };
        let usage = self.stream_options.is_some_and(|options| options.include_usage);
        Ok(Question { ask, stream: self.stream, usage })
    }
}

/// Thousandths of a number from 0 to [`TEMPERATURE_MAX`].
fn milli(value: f64) -> u32 {
    (0..=2_000_u32).find(|milli| f64::from(*milli) >= value * 1_000.0 - 0.5).unwrap_or(2_000)
}

impl Completion {
    pub(super) fn into_question(self) -> Result<Question, ApiError> {
        let prompt = match &self.prompt {
            Value::String(text) => text.clone(),
            Value::Array(texts) => match texts.as_slice() {
                [Value::String(text)] => text.clone(),
                _ => return Err(ApiError::usage("prompt must be one text", "send one request for each prompt")),
            },
            _ => return Err(ApiError::usage("prompt must be a text", "send the prompt as a string")),
        };
        self.common.into_question(prompt, self.max_tokens.unwrap_or(COMPLETION_TOKENS))
    }
}

impl Chat {
    pub(super) fn into_question(self) -> Result<Question, ApiError> {
        let prompt = prompt_of(&self.messages)?;
        let max_tokens = self.max_completion_tokens.or(self.max_tokens).unwrap_or(CHAT_TOKENS);
        self.common.into_question(prompt, max_tokens)
    }
}

/// The prompt of a conversation. The released models know no roles: one question is put as it is, a longer
/// conversation would be put in a form they were never trained on.
fn prompt_of(messages: &[Message]) -> Result<String, ApiError> {
    if messages.len() > MESSAGES_MAX {
        return Err(ApiError::usage(format!("at most {MESSAGES_MAX} messages"), "shorten the conversation"));
    }
    match messages {
        [only] if only.role == "user" => content(&only.content),
        [] => Err(ApiError::usage("messages is empty", "send one message of the user")),
        _ => Err(ApiError::usage(
            "this model has no chat template: it takes one message of the user",
            "send one user message, or use /v1/completions with the whole prompt",
        )),
    }
}

fn content(content: &Value) -> Result<String, ApiError> {
    let not_text = || ApiError::usage("content must be text", "send text only");
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(
                |part| {
                    if part["type"] == "text" { part["text"].as_str().ok_or_else(not_text) } else { Err(not_text()) }
                },
            )
            .collect(),
        _ => Err(not_text()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completion(body: Value) -> Result<Question, ApiError> {
        serde_json::from_value::<Completion>(body).unwrap().into_question()
    }

    fn chat(body: Value) -> Result<Question, ApiError> {
        serde_json::from_value::<Chat>(body).unwrap().into_question()
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let asked = completion(json!({"model": "m", "prompt": "p"})).unwrap();
        assert_eq!((asked.ask.max_tokens, asked.ask.temperature_milli), (Some(16), Some(1_000)));
        assert!(!asked.stream && asked.ask.seed.is_none());
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        let with = |name: &str, value: Value| {
            let mut body = json!({"model": "m", "prompt": "p"});
            body.as_object_mut().unwrap().insert(name.into(), value);
            completion(body)
        };
        for (name, value) in [("n", json!(2)), ("stop", json!("x")), ("top_p", json!(0.5)), ("logprobs", json!(3))] {
            assert!(with(name, value).unwrap_err().sentence().contains(name), "{name}");
        }
        for (name, value) in [("n", json!(1)), ("stop", json!(null)), ("top_p", json!(1)), ("user", json!("me"))] {
            assert!(with(name, value).is_ok(), "{name}");
        }
        assert!(with("temperature", json!(2.5)).is_err());
        assert_eq!(with("temperature", json!(0.7)).unwrap().ask.temperature_milli, Some(700));
    }

    #[test]
    fn a_chat_of_one_question_is_that_question() {
        let user = |content: Value| json!({"model": "m", "messages": [{"role": "user", "content": content}]});
        assert_eq!(chat(user(json!("Who?"))).unwrap().ask.prompt, "Who?");
        let parts = json!([{"type": "text", "text": "Who"}, {"type": "text", "text": " is it?"}]);
        assert_eq!(chat(user(parts)).unwrap().ask.prompt, "Who is it?");
        assert!(chat(user(json!([{"type": "image_url"}]))).is_err());
        let two = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]);
        assert!(chat(json!({"model": "m", "messages": two})).is_err());
    }

    #[test]
    fn prompts_are_single_texts() {
        assert_eq!(completion(json!({"model": "m", "prompt": ["p"]})).unwrap().ask.prompt, "p");
        assert!(completion(json!({"model": "m", "prompt": ["p", "q"]})).is_err());
        assert!(completion(json!({"model": "m", "prompt": [1, 2]})).is_err());
    }
}
