//! Which columns make a record.
//!
//! Invariant: a row is read by one rule, the first of [`PAIRS`] whose columns it has, or as plain `text`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Reason, Texts};
use crate::conversation::Conversation;

/// What a user is told when no column is known.
pub(super) const KNOWN: &str = "a record needs text, prompt and completion, question and answer, text and category, \
                                or messages";

/// The columns of prompt and completion, in the order in which they are looked for.
pub(super) const PAIRS: [(&str, &str); 4] =
    [("prompt", "completion"), ("question", "answer"), ("text", "category"), ("text", "label")];

/// The column of a record without a prompt.
pub(super) const TEXT: &str = "text";

/// Column names shown in a refusal, and characters of each.
const SHOWN: usize = 8;

/// The found column names, cut to what fits a message.
pub(super) fn shown<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut short: Vec<String> = Vec::new();
    for name in names {
        if short.len() == SHOWN {
            short.push("…".to_owned());
            break;
        }
        short.push(name.chars().take(40).collect());
    }
    if short.is_empty() { "none".to_owned() } else { short.join(", ") }
}

/// Prompt and completion of a JSON object.
pub(super) fn of_object(object: &Map<String, Value>) -> Result<Texts, Reason> {
    if let Some(messages) = object.get("messages") {
        let Conversation { json, prompt, completion } = Conversation::of(messages).map_err(Reason::Messages)?;
        return Ok(Texts { prompt, completion, messages: Some(json) });
    }
    for (prompt, completion) in PAIRS {
        if object.contains_key(prompt) && object.contains_key(completion) {
            return Ok(Texts::of(text_of(object, prompt)?, text_of(object, completion)?));
        }
    }
    if object.contains_key(TEXT) {
        return Ok(Texts::of(String::new(), text_of(object, TEXT)?));
    }
    // Sorted, since whether serde_json keeps their order depends on what else is in the build.
    let names: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    Err(Reason::NoKnownColumn { found: shown(names.into_iter()) })
}

fn text_of(object: &Map<String, Value>, column: &'static str) -> Result<String, Reason> {
    object.get(column).and_then(Value::as_str).map(str::to_owned).ok_or(Reason::NotText { column })
}
