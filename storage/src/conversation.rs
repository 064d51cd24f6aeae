//! Conversations: records of several turns, kept as the messages they are.
//!
//! Invariant: one conversation has one text, its messages as JSON with sorted keys, and prompt and completion that readers
//! of plain text see follow from it.

use std::collections::BTreeMap;

use serde_json::Value;

/// Messages of one conversation.
pub const MAX_MESSAGES: usize = 256;

/// A conversation that ends with the assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The list of messages as JSON without spaces, keys sorted.
    pub json: String,
    /// All but the last message: a single one as it is, several as lines with their roles.
    pub prompt: String,
    /// The last message, which is the assistant's.
    pub completion: String,
}

impl Conversation {
    /// Reads a list of messages.
    ///
    /// # Errors
    /// Says what keeps it from being a conversation.
    pub fn of(messages: &Value) -> Result<Self, &'static str> {
        let list = messages.as_array().ok_or("not a list")?;
        if list.len() > MAX_MESSAGES {
            return Err("too many of them");
        }
        let mut turns = Vec::new();
        for message in list {
            let role = message.get("role").and_then(Value::as_str).ok_or("a message has no role")?;
            let content = message.get("content").and_then(Value::as_str);
            turns.push((role, content.ok_or("a message has no text as its content")?));
        }
        let Some(((role, completion), before)) = turns.split_last() else { return Err("no message") };
        if *role != "assistant" {
            return Err("the last one is not the assistant's");
        }
        let prompt = match before {
            [] => String::new(),
            [(_, content)] => (*content).to_owned(),
            several => {
                several.iter().map(|(role, content)| format!("{role}: {content}")).collect::<Vec<_>>().join("\n")
            }
        };
        let json = sorted(messages).to_string();
        Ok(Self { json, prompt, completion: (*completion).to_owned() })
    }

    /// Reads the JSON of a conversation, from anybody.
    ///
    /// # Errors
    /// When it is no conversation, or not in its one form.
    pub fn from_json(json: &str) -> Result<Self, &'static str> {
        let messages: Value = serde_json::from_str(json).map_err(|_| "not JSON")?;
        Self::of(&messages).and_then(|read| if read.json == json { Ok(read) } else { Err("not in its one form") })
    }
}

/// The same value with the keys of every object in order, whatever a build makes of `serde_json`.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Object(fields) => {
            let fields: BTreeMap<&String, Value> = fields.iter().map(|(key, value)| (key, sorted(value))).collect();
            fields.into_iter().map(|(key, value)| (key.clone(), value)).collect()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Conversation;

    #[test]
    fn one_conversation_has_one_form() {
        let talk = json!([{"role": "user", "content": "hi"}, {"content": "hello", "role": "assistant", "a": {"c": 1, "b": 2}}]);
        let read = Conversation::of(&talk).unwrap();
        let expected = r#"[{"content":"hi","role":"user"},{"a":{"b":2,"c":1},"content":"hello","role":"assistant"}]"#;
        assert_eq!((read.json.as_str(), read.prompt.as_str(), read.completion.as_str()), (expected, "hi", "hello"));
        assert_eq!(Conversation::from_json(expected), Ok(read));
        assert!(Conversation::from_json(&expected.replace(',', ", ")).is_err());
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        for bad in [
            json!({}),
            json!([]),
            json!([1]),
            json!([{"role": "user", "content": "hi"}]),
            json!([{"role": "assistant"}]),
        ] {
            assert!(Conversation::of(&bad).is_err(), "{bad}");
        }
        let many = vec![json!({"role": "assistant", "content": "x"}); 300];
        assert!(Conversation::of(&many.into()).is_err());
        assert!(Conversation::from_json("[").is_err());
    }
}
