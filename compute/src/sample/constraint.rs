//! Answers held to a form by a grammar over tokens; `llguidance` compiles JSON schemas and computes the masks.
//!
//! Invariant: a mask depends on the tokenizer, the format and the accepted tokens only. Schemas come from strangers:
//! llguidance bounds its own work by counting, not by time, so the bound is the same on every machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use super::Format;
use crate::engine::EngineError;
use crate::tokenizer::Tokenizer;

/// Whitespace between the parts of a JSON text: a blank, or a line's end and its indentation. Without a bound a small
/// model fills its whole answer with it.
const WHITESPACE: &str = r"\x20|\x0A\x20{0,16}";

/// What says which tokens may come next.
pub(super) trait Constraint: Send {
    /// The tokens allowed now.
    fn allowed(&mut self) -> Result<SimpleVob, EngineError>;
    /// Goes on after a token.
    fn accept(&mut self, token: u32) -> Result<(), EngineError>;
}

fn refused(what: impl std::fmt::Display) -> EngineError {
    EngineError::Constraint(what.to_string())
}

/// llguidance's own panics come as errors with a backtrace, which tells a stranger about this machine and nobody else
/// anything.
fn not_compiled(error: &str) -> EngineError {
    match error.lines().next().filter(|line| !line.starts_with("panic")) {
        Some(line) => refused(format!("this schema can't be compiled: {line}")),
        None => refused("this schema can't be compiled"),
    }
}

/// The grammar compiler of one tokenizer, made when it is first needed: it holds a tree of all tokens.
#[derive(Clone, Default)]
pub struct Grammars(Arc<OnceLock<Result<ParserFactory, String>>>);

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("made", &self.0.get().is_some()).finish()
    }
}

impl Grammars {
    /// A constraint of that form, before its first token.
    pub(super) fn constraint(tokenizer: &Tokenizer, format: &Format) -> Result<Box<dyn Constraint>, EngineError> {
        let mut schema = match format {
            Format::Text => serde_json::json!({}),
            Format::JsonObject => serde_json::json!({ "type": "object" }),
            Format::JsonSchema(schema) => serde_json::from_str(schema).map_err(refused)?,
        };
        if schema.is_object() {
            // Also instead of options that the schema itself brings.
            let whitespace_pattern = Some(WHITESPACE.to_owned());
            JsonCompileOptions { whitespace_pattern, ..JsonCompileOptions::default() }.apply_to(&mut schema);
        }
        let made = tokenizer.grammars().0.get_or_init(|| {
            // The tokenizer's file is a stranger's, and llguidance asserts what it expects of one.
            let made = catch_unwind(AssertUnwindSafe(|| factory(tokenizer)));
            made.unwrap_or_else(|_| Err(refused("not with this tokenizer"))).map_err(|error| error.to_string())
        });
        let factory = made.as_ref().map_err(refused)?;
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let parser = factory.create_parser(grammar).map_err(|error| not_compiled(&error.to_string()))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(not_compiled(&error)),
            None => Ok(Box::new(JsonConstraint { matcher, ends: tokenizer.ends().to_vec() })),
        }
    }
}

fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory, EngineError> {
    let Some(end) = tokenizer.ends().first() else {
        return Err(refused("the model has no end token, which would end the JSON"));
    };
    let mut words = tokenizer.words()?.to_vec();
    let vocabulary = u32::try_from(words.len()).map_err(refused)?;
    for end in tokenizer.ends() {
        mark_special(&mut words, *end);
    }
    let trie = TokTrie::from(&TokRxInfo::new(vocabulary, *end), &words).with_eos_tokens(tokenizer.ends());
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&env).map_err(refused)?;
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}

/// An end token must never count as text of the JSON.
fn mark_special(words: &mut [Vec<u8>], token: u32) {
    if let Some(word) = words.get_mut(token as usize)
        && word.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER)
    {
        word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
    }
}

struct JsonConstraint {
    matcher: Matcher,
    ends: Vec<u32>,
}

impl Constraint for JsonConstraint {
    fn allowed(&mut self) -> Result<SimpleVob, EngineError> {
        self.matcher.compute_mask_or_eos().map_err(|error| not_compiled(&error.to_string()))
    }

    fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        if self.ends.contains(&token) && self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| not_compiled(&error.to_string()))
    }
}
