//! What clients send, and what of it we can do.
//!
//! Invariant: a parameter that would change the answer is honoured or refused by name, never dropped.

use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tributary_protocol::decoding::{BASIS_POINTS, Decoding, Format, MILLI, Prompt};
use tributary_protocol::id::Amount;

use super::super::ApiError;
use super::super::asks::{Ask, chat};

/// Tokens of an answer unless the client says otherwise, as that API has it for completions.
const COMPLETION_TOKENS: u32 = 16;
/// The same for chats, where that API says "until the end".
const CHAT_TOKENS: u32 = 256;
/// That API's bound of a temperature.
const TEMPERATURE_MAX: f64 = 2.0;
/// Most messages of a conversation.
const MESSAGES_MAX: usize = 256;
/// Most texts of one embedding request.
const INPUTS_MAX: usize = 256;
/// Bytes of all of them.
const INPUTS_MAX_BYTES: usize = 1 << 20;

/// A question with how its answer is to be sent.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) ask: Ask,
    pub(super) stream: bool,
    /// A last chunk with the numbers of tokens is wanted.
    pub(super) usage: bool,
    /// The client chose the seed.
    pub(super) is_seeded: bool,
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
    stop: Option<Stop>,
    top_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    response_format: Option<ResponseFormat>,
    /// As vLLM and others have it.
    top_k: Option<i64>,
    /// As vLLM and others have it.
    min_p: Option<f64>,
    /// As vLLM and others have it.
    repetition_penalty: Option<f64>,
    /// The most to pay for the answer, in atto-OPEN: ours.
    price_max: Option<Amount>,
    /// Whether another peer checks the computation: ours.
    check: Option<bool>,
    /// How many records of the model's datanet stand before the question at most: ours.
    retrieve: Option<u8>,
    /// Everything else.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Debug, Deserialize)]
struct NamedSchema {
    schema: Value,
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
    /// Each token's probability, and so many likeliest ones beside it.
    logprobs: Option<u64>,
    #[serde(flatten)]
    common: Common,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Chat {
    messages: Vec<Message>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    /// Further variables of the chat template, as vLLM and others have it.
    chat_template_kwargs: Option<Map<String, Value>>,
    #[serde(flatten)]
    common: Common,
}

/// `POST /v1/embeddings`.
#[derive(Debug, Deserialize)]
pub(super) struct Embedding {
    pub(super) model: String,
    input: Value,
    encoding_format: Option<String>,
    dimensions: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Value,
}

/// Parameters that change no word of an answer here, or only say how to use others that are refused.
const WITHOUT_EFFECT: [&str; 10] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "tool_choice",
    "function_call",
];

/// Parameters that would change the answer, each with the values that change nothing.
const UNSUPPORTED: [(&str, &[&str]); 9] = [
    ("n", &["1"]),
    ("best_of", &["1"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
    ("top_logprobs", &["0"]),
    ("logit_bias", &["{}"]),
    ("tools", &["[]"]),
    ("functions", &["[]"]),
    ("modalities", &["[\"text\"]"]),
];

impl Common {
    fn into_question(self, prompt: Prompt, max_tokens: u32, logprobs: Option<u64>) -> Result<Question, ApiError> {
        for (name, neutral) in UNSUPPORTED {
            let given = self.rest.get(name).filter(|value| !value.is_null());
            if given.is_some_and(|value| !neutral.contains(&value.to_string().as_str())) {
                let hint = "answers are one text each: leave it out";
                return Err(ApiError::unsupported(name, format!("{name} is not supported"), hint));
            }
        }
        self.refuse_unknown()?;
        // Out of bounds is refused with the other parameters of decoding.
        let logprobs = logprobs.map(|most| u8::try_from(most).unwrap_or(u8::MAX));
        let decoding = Decoding { logprobs, ..self.decoding(max_tokens)? };
        let usage = self.stream_options.is_some_and(|options| options.include_usage);
        let (price_max, check, retrieve) = (self.price_max, self.check, self.retrieve.unwrap_or(0));
        let ask = Ask { key: None, model: self.model, prompt, decoding, retrieve, price_max, check, timeout_s: None };
        Ok(Question { ask, stream: self.stream, usage, is_seeded: self.seed.is_some() })
    }

    /// OpenAI's API refuses what it does not know: a misspelt parameter must not be dropped.
    fn refuse_unknown(&self) -> Result<(), ApiError> {
        let is_known =
            |name: &str| WITHOUT_EFFECT.contains(&name) || UNSUPPORTED.iter().any(|(known, _)| *known == name);
        let unknown = self.rest.iter().find(|(name, value)| !is_known(name) && !value.is_null());
        match unknown {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.chars().filter(|letter| !letter.is_control()).take(64).collect();
                let error = ApiError::usage(format!("unrecognized request argument: {shown}"), "leave it out");
                Err(error.about(&shown).with_detail("unknown_parameter"))
            }
        }
    }

    fn decoding(&self, max_tokens: u32) -> Result<Decoding, ApiError> {
        let signed = |name, value: Option<f64>| {
            let whole = parts(name, value.unwrap_or(0.0), MILLI, -2.0..=2.0)?;
            i16::try_from(whole).map_err(ApiError::internal)
        };
        let unsigned = |name, value, parts_of_one, bounds| {
            let whole = parts(name, value, parts_of_one, bounds)?;
            u16::try_from(whole).map_err(ApiError::internal)
        };
        let stop = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Several(stops)) => stops.clone(),
        };
        if stop.iter().any(String::is_empty) {
            return Err(ApiError::usage("stop has an empty text", "leave it out").about("stop"));
        }
        // Zero and less mean no bound where this parameter is known.
        let top_k = u32::try_from(self.top_k.unwrap_or(0).max(0)).unwrap_or(u32::MAX);
        Ok(Decoding {
            max_tokens,
            temperature_milli: unsigned("temperature", self.temperature.unwrap_or(1.0), MILLI, 0.0..=TEMPERATURE_MAX)?,
            seed: self.seed.unwrap_or(0).cast_unsigned(),
            top_k,
            // No cut at all is one; the least is the likeliest token alone.
            top_p_bp: unsigned("top_p", self.top_p.unwrap_or(1.0), BASIS_POINTS, 0.0..=1.0)?.max(1),
            min_p_bp: unsigned("min_p", self.min_p.unwrap_or(0.0), BASIS_POINTS, 0.0..=1.0)?,
            repetition_penalty_milli: unsigned(
                "repetition_penalty",
                self.repetition_penalty.unwrap_or(1.0),
                MILLI,
                0.1..=10.0,
            )?,
            frequency_penalty_milli: signed("frequency_penalty", self.frequency_penalty)?,
            presence_penalty_milli: signed("presence_penalty", self.presence_penalty)?,
            stop,
            format: match &self.response_format {
                None | Some(ResponseFormat::Text) => Format::Text,
                Some(ResponseFormat::JsonObject) => Format::JsonObject,
                Some(ResponseFormat::JsonSchema { json_schema }) => Format::JsonSchema(json_schema.schema.to_string()),
            },
            ..Decoding::default()
        })
    }
}

/// A number of a client in whole parts, rounded.
fn parts(name: &str, value: f64, parts_of_one: u16, bounds: RangeInclusive<f64>) -> Result<i32, ApiError> {
    if !bounds.contains(&value) {
        let reason = format!("{name} must be {} to {}", bounds.start(), bounds.end());
        return Err(ApiError::usage(reason, "choose another one").about(name));
    }
    // Written out and read back: there is no checked conversion from floats.
    format!("{:.0}", value * f64::from(parts_of_one)).parse().map_err(ApiError::internal)
}

fn wrong(what: &str, hint: &str) -> ApiError {
    ApiError::usage(what, hint)
}

impl Completion {
    pub(super) fn into_question(self) -> Result<Question, ApiError> {
        let prompt = match &self.prompt {
            Value::String(text) => text.clone(),
            Value::Array(texts) => match texts.as_slice() {
                [Value::String(text)] => text.clone(),
                [] => return Err(wrong("prompt is an empty list", "send the prompt as a string").about("prompt")),
                [Value::String(_), ..] => {
                    return Err(wrong("prompt has several texts", "send one request for each prompt").about("prompt"));
                }
                _ => return Err(wrong("prompt must be a text", "send text, not tokens").about("prompt")),
            },
            _ => return Err(wrong("prompt must be a text", "send the prompt as a string").about("prompt")),
        };
        self.common.into_question(Prompt::Text(prompt), self.max_tokens.unwrap_or(COMPLETION_TOKENS), self.logprobs)
    }
}

impl Chat {
    pub(super) fn into_question(self) -> Result<Question, ApiError> {
        let prompt = prompt_of(&self.messages, self.chat_template_kwargs)?;
        let max_tokens = self.max_completion_tokens.or(self.max_tokens).unwrap_or(CHAT_TOKENS);
        let wanted = self.logprobs.unwrap_or_default();
        if !wanted && self.top_logprobs.unwrap_or(0) > 0 {
            return Err(ApiError::usage("top_logprobs is for requests with logprobs", "send \"logprobs\": true too"));
        }
        self.common.into_question(prompt, max_tokens, wanted.then(|| self.top_logprobs.unwrap_or(0)))
    }
}

impl Embedding {
    /// The texts, and whether their vectors are wanted as numbers (else in base64).
    pub(super) fn into_inputs(self) -> Result<(Vec<String>, bool), ApiError> {
        let not_text =
            || ApiError::usage("input must be a text or a list of texts", "send text, not tokens").about("input");
        let inputs: Vec<String> = match self.input {
            Value::String(text) => vec![text],
            Value::Array(texts) => {
                let texts = texts.into_iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(not_text));
                texts.collect::<Result<_, _>>()?
            }
            _ => return Err(not_text()),
        };
        let bytes: usize = inputs.iter().map(String::len).sum();
        if inputs.iter().all(String::is_empty) {
            return Err(ApiError::usage("input is empty", "send one text or more").about("input"));
        }
        if inputs.len() > INPUTS_MAX || bytes > INPUTS_MAX_BYTES {
            let reason = format!("there are 1 to {INPUTS_MAX} texts of at most {INPUTS_MAX_BYTES} bytes in all");
            return Err(ApiError::usage(reason, "send them in several requests"));
        }
        if let Some(dimensions) = self.dimensions {
            let reason = format!("dimensions = {dimensions} is not supported");
            return Err(ApiError::usage(reason, "leave it out: vectors are as wide as the model"));
        }
        match self.encoding_format.as_deref() {
            None | Some("float") => Ok((inputs, true)),
            Some("base64") => Ok((inputs, false)),
            Some(other) => Err(ApiError::usage(format!("encoding_format {other} is not known"), "use float or base64")),
        }
    }
}

/// The conversation as the chat template gets it; a model that has none takes one message of the user.
fn prompt_of(messages: &[Message], variables: Option<Map<String, Value>>) -> Result<Prompt, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::usage("messages is empty", "send one message of the user or more").about("messages"));
    }
    if messages.len() > MESSAGES_MAX {
        let reason = format!("a conversation has at most {MESSAGES_MAX} messages, not {}", messages.len());
        return Err(ApiError::usage(reason, "leave the oldest out").about("messages"));
    }
    let messages = messages
        .iter()
        .map(|message| Ok(json!({"role": message.role, "content": content(&message.content)?})))
        .collect::<Result<Vec<_>, ApiError>>()?;
    let mut conversation = json!({"messages": messages});
    if let Some(variables) = variables {
        conversation["chat_template_kwargs"] = Value::Object(variables);
    }
    Ok(chat(&conversation))
}

fn content(content: &Value) -> Result<String, ApiError> {
    let not_text = || ApiError::usage("content must be text", "send text only").about("messages");
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

    fn text(prompt: &Prompt) -> Value {
        match prompt {
            Prompt::Text(text) => json!(text),
            Prompt::Chat { conversation, .. } => serde_json::from_str(conversation).unwrap(),
        }
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let asked = completion(json!({"model": "m", "prompt": "p"})).unwrap();
        let expected = Decoding { max_tokens: 16, temperature_milli: 1_000, ..Decoding::default() };
        assert_eq!(asked.ask.decoding, expected);
        assert!(!asked.stream && !asked.is_seeded);
    }

    #[test]
    fn what_would_change_the_answer_is_honoured_or_refused_by_name() {
        let with = |name: &str, value: Value| {
            let mut body = json!({"model": "m", "prompt": "p"});
            body.as_object_mut().unwrap().insert(name.into(), value);
            completion(body)
        };
        for (name, value) in [("n", json!(2)), ("echo", json!(true)), ("tools", json!([1]))] {
            assert!(with(name, value).unwrap_err().sentence().contains(name), "{name}");
        }
        for (name, value) in [("n", json!(1)), ("stop", json!(null)), ("top_p", json!(1)), ("user", json!("me"))] {
            assert!(with(name, value).is_ok(), "{name}");
        }
        for (name, value) in [("temperature", json!(2.5)), ("top_p", json!(1.5)), ("presence_penalty", json!(-3))] {
            assert!(with(name, value).unwrap_err().sentence().contains(name), "{name}");
        }
        let decoding = |name, value| with(name, value).unwrap().ask.decoding;
        assert_eq!(decoding("temperature", json!(0.7)).temperature_milli, 700);
        assert_eq!(decoding("top_p", json!(0.95)).top_p_bp, 9_500);
        assert_eq!(decoding("frequency_penalty", json!(-0.5)).frequency_penalty_milli, -500);
        assert_eq!(decoding("stop", json!("x")).stop, ["x"]);
        assert_eq!(decoding("stop", json!(["x", "y"])).stop, ["x", "y"]);
        assert_eq!(decoding("response_format", json!({"type": "json_object"})).format, Format::JsonObject);
        let schema = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}});
        assert_eq!(
            decoding("response_format", schema).format,
            Format::JsonSchema(json!({"type": "object"}).to_string())
        );
    }

    #[test]
    fn what_is_unknown_or_empty_is_refused_with_its_field() {
        let of = |name: &str, value: Value| {
            let mut body = json!({"model": "m", "prompt": "p"});
            body.as_object_mut().unwrap().insert(name.into(), value);
            completion(body).unwrap_err()
        };
        let unknown = of("heat", json!(0.5));
        assert_eq!((unknown.field(), unknown.detail()), (Some("heat"), Some("unknown_parameter")));
        for (name, value) in [("stop", json!("")), ("prompt", json!([])), ("prompt", json!(7)), ("top_p", json!(7))] {
            assert_eq!(of(name, value).field(), Some(name));
        }
        assert!(completion(json!({"model": "m", "prompt": "p", "unheard": null})).is_ok());
        let empty = chat(json!({"model": "m", "messages": []})).unwrap_err();
        assert!(empty.sentence().contains("empty") && !empty.sentence().contains("shorten"));
        assert!(of("n", json!(2)).detail() == Some("unsupported_parameter"));
    }

    #[test]
    fn probabilities_are_asked_for_in_the_words_of_either_interface() {
        let of = |asked: Result<Question, ApiError>| asked.unwrap().ask.decoding.logprobs;
        assert_eq!(of(completion(json!({"model": "m", "prompt": "p", "logprobs": 0}))), Some(0));
        assert_eq!(of(completion(json!({"model": "m", "prompt": "p", "logprobs": 5}))), Some(5));
        let one = json!([{"role": "user", "content": "u"}]);
        let of_chat = |logprobs: Value, top: Value| {
            chat(json!({"model": "m", "messages": one, "logprobs": logprobs, "top_logprobs": top}))
        };
        assert_eq!(of(of_chat(json!(true), json!(3))), Some(3));
        assert_eq!(of(of_chat(json!(true), json!(null))), Some(0));
        assert_eq!(of(of_chat(json!(false), json!(0))), None);
        assert!(of_chat(json!(null), json!(3)).unwrap_err().sentence().contains("logprobs"));
        assert!(of_chat(json!(true), json!(300)).unwrap().ask.decoding.fault().unwrap().contains("logprobs"));
    }

    #[test]
    fn a_chat_is_its_conversation() {
        let user = |content: Value| json!({"model": "m", "messages": [{"role": "user", "content": content}]});
        let who = json!({"messages": [{"role": "user", "content": "Who is it?"}]});
        assert_eq!(text(&chat(user(json!("Who is it?"))).unwrap().ask.prompt), who);
        let parts = json!([{"type": "text", "text": "Who"}, {"type": "text", "text": " is it?"}]);
        assert_eq!(text(&chat(user(parts)).unwrap().ask.prompt), who);
        assert!(chat(user(json!([{"type": "image_url"}]))).is_err());
        let two = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]);
        let asked = chat(json!({"model": "m", "messages": two, "chat_template_kwargs": {"enable_thinking": false}}));
        let prompt = text(&asked.unwrap().ask.prompt);
        assert_eq!(prompt["messages"], two);
        assert_eq!(prompt["chat_template_kwargs"]["enable_thinking"], false);
        assert!(chat(json!({"model": "m", "messages": []})).is_err());
    }

    #[test]
    fn prompts_are_single_texts() {
        assert_eq!(text(&completion(json!({"model": "m", "prompt": ["p"]})).unwrap().ask.prompt), json!("p"));
        assert!(completion(json!({"model": "m", "prompt": ["p", "q"]})).is_err());
        assert!(completion(json!({"model": "m", "prompt": [1, 2]})).is_err());
    }

    #[test]
    fn texts_to_embed_are_few_and_no_tokens() {
        let embed = |body: Value| serde_json::from_value::<Embedding>(body).unwrap().into_inputs();
        assert_eq!(embed(json!({"model": "m", "input": "a"})).unwrap(), (vec!["a".to_owned()], true));
        let (texts, as_numbers) =
            embed(json!({"model": "m", "input": ["a", "b"], "encoding_format": "base64"})).unwrap();
        assert!(texts.len() == 2 && !as_numbers);
        for body in [
            json!({"model": "m", "input": [1, 2]}),
            json!({"model": "m", "input": []}),
            json!({"model": "m", "input": vec!["a"; INPUTS_MAX + 1]}),
            json!({"model": "m", "input": "a", "dimensions": 8}),
            json!({"model": "m", "input": "a", "encoding_format": "hex"}),
        ] {
            assert!(embed(body).is_err());
        }
    }
}
