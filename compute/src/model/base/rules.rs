//! Where texts begin and end and how conversations are written, from the files that say so.
//!
//! Rules, as `transformers` follows them: a prompt begins with the begin token if `add_bos_token` says so, else if the
//! tokenizer's template puts it there, else (a bare base of three files) in the families that were trained so. Answers
//! end at the tokens of `generation_config.json`, else of `config.json`, and at the tokenizer's own end token, which is
//! also what completions are trained to end with.
//!
//! Invariant: every token named here is in the model's vocabulary.

use std::io::{Read, Seek};

use serde::Deserialize;
use serde_json::Value as Json;

use super::Extras;
use super::folder::MAX_TOKENIZER_CONFIG_BYTES;
use crate::chat::{ChatError, ChatTemplate, SpecialTexts};
use crate::gguf::{GgufError, GgufFile, Value};
use crate::model::config::end_tokens_of;
use crate::model::{Config, MAX_END_TOKENS, ModelError};
use crate::tokenizer::Tokenizer;

/// What was found.
pub(super) struct Rules {
    /// The token before every prompt.
    pub(super) begin: Option<u32>,
    /// The tokens that end an answer; the first one ends completions.
    pub(super) ends: Vec<u32>,
    pub(super) chat: Result<ChatTemplate, ChatError>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Plain(String),
    Added { content: String },
}

impl TokenText {
    fn into_text(self) -> String {
        match self {
            Self::Plain(text) | Self::Added { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Many(Vec<NamedTemplate>),
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    add_bos_token: Option<bool>,
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    chat_template: Option<Templates>,
}

impl Rules {
    pub(super) fn of_files(
        config: &Config,
        tokenizer: &Tokenizer,
        tokenizer_json: &[u8],
        extras: Extras<'_>,
    ) -> Result<Self, ModelError> {
        let told = extras.tokenizer_config.map(read_tokenizer_config).transpose()?;
        let alone = told.is_none();
        let told = told.unwrap_or_default();
        let specials = SpecialTexts {
            bos: told.bos_token.map(TokenText::into_text),
            eos: told.eos_token.map(TokenText::into_text),
        };
        let id = |text: &Option<String>| text.as_deref().and_then(|text| tokenizer.id(text));
        let bos = id(&specials.bos).or(config.bos);
        let template_begins = begins_by_template(tokenizer_json);
        let begins = told.add_bos_token.or(template_begins).unwrap_or(alone && config.family.begins_texts());
        let named = extras.generation_config.map(end_tokens_of).transpose()?.flatten();
        let mut ends: Vec<u32> = id(&specials.eos).into_iter().collect();
        for end in named.unwrap_or_else(|| config.eos.clone()) {
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        check_ends(config, &ends)?;
        let templates = match (extras.chat_template, told.chat_template) {
            (Some(own), _) => String::from_utf8(own.to_vec())
                .map(|source| vec![("default".to_owned(), source)])
                .map_err(|_| ChatError::Template("not UTF-8".into())),
            (None, Some(Templates::One(source))) => Ok(vec![("default".to_owned(), source)]),
            (None, Some(Templates::Many(many))) => {
                Ok(many.into_iter().map(|named| (named.name, named.template)).collect())
            }
            (None, None) => Err(ChatError::None),
        };
        let chat = templates.and_then(|templates| ChatTemplate::new(&templates, specials));
        Ok(Self { begin: bos.filter(|_| begins), ends, chat })
    }

    pub(super) fn of_gguf<R: Read + Seek>(config: &Config, file: &GgufFile<R>) -> Result<Self, ModelError> {
        let wrong = |key: &str| GgufError::Metadata { key: key.into(), what: "of another type".into() };
        let add = "tokenizer.ggml.add_bos_token";
        let begins = match file.get(add) {
            Some(value) => value.truth().ok_or_else(|| wrong(add))?,
            // What llama.cpp does where the file is silent.
            None => {
                let text = |key: &str| file.get(key).and_then(Value::text);
                text("tokenizer.ggml.model") == Some("llama") || text("tokenizer.ggml.pre") == Some("llama-bpe")
            }
        };
        let tokens = file.get("tokenizer.ggml.tokens").and_then(Value::texts).unwrap_or_default();
        let text = |id: Option<u32>| tokens.get(usize::try_from(id?).ok()?).cloned();
        let specials = SpecialTexts { bos: text(config.bos), eos: text(config.eos.first().copied()) };
        let key = "tokenizer.chat_template";
        let chat = match file.get(key) {
            None => Err(ChatError::None),
            Some(value) => {
                let usual = value.text().ok_or_else(|| wrong(key))?.to_owned();
                let mut templates = vec![("default".to_owned(), usual)];
                if let Some(tools) = file.get("tokenizer.chat_template.tool_use").and_then(Value::text) {
                    templates.push(("tool_use".to_owned(), tools.to_owned()));
                }
                ChatTemplate::new(&templates, specials)
            }
        };
        Ok(Self { begin: config.bos.filter(|_| begins), ends: config.eos.clone(), chat })
    }
}

fn read_tokenizer_config(bytes: &[u8]) -> Result<TokenizerConfig, ModelError> {
    let refused = |what: String| ModelError::Tokenizer(format!("tokenizer_config.json: {what}"));
    if bytes.len() > MAX_TOKENIZER_CONFIG_BYTES {
        return Err(refused(format!("{} bytes, at most {MAX_TOKENIZER_CONFIG_BYTES}", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))
}

fn check_ends(config: &Config, ends: &[u32]) -> Result<(), ModelError> {
    if ends.len() > MAX_END_TOKENS {
        return Err(ModelError::Config(format!("{} end tokens, at most {MAX_END_TOKENS}", ends.len())));
    }
    match ends.iter().find(|id| usize::try_from(**id).is_ok_and(|id| id >= config.vocab)) {
        Some(id) => Err(ModelError::Config(format!("end token {id} outside the vocabulary of {}", config.vocab))),
        None => Ok(()),
    }
}

/// Whether the tokenizer's own template begins a text with a special token; `None` when it has no template.
fn begins_by_template(tokenizer_json: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    struct Raw {
        post_processor: Option<Json>,
    }
    fn of(processor: &Json) -> Option<bool> {
        match processor.get("type")?.as_str()? {
            "TemplateProcessing" => Some(processor.pointer("/single/0/SpecialToken").is_some()),
            "Sequence" => processor.get("processors")?.as_array()?.iter().find_map(of),
            _ => None,
        }
    }
    of(&serde_json::from_slice::<Raw>(tokenizer_json).ok()?.post_processor?)
}
