//! Rendering a compiled template.
//!
//! Invariant: what is rendered is no longer than a prompt may be, and a refusal of the template is told from its failure.

use std::io::{self, Write};

use jiff::Timestamp;
use jiff::fmt::strtime;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value, context};

use super::compile::{Compiled, NAME, Raised, with_room};
use super::{ChatError, Conversation};
use crate::engine::MAX_PROMPT_BYTES;

/// Names under which a message's thought is passed, the standard one first.
const THOUGHT_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Compiled {
    /// See [`super::ChatTemplate::render`].
    pub(super) fn render(&self, conversation: &Conversation, ask: bool, now_s: i64) -> Result<String, ChatError> {
        with_room(|| self.render_here(conversation, ask, now_s))?
    }

    fn render_here(&self, conversation: &Conversation, ask: bool, now_s: i64) -> Result<String, ChatError> {
        let tools = conversation.tools.as_ref().filter(|tools| !tools.is_none());
        let chosen = self.with_tools.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.usual);
        let mut environment = chosen.clone();
        environment.add_function("strftime_now", move |format: String| strftime(&format, now_s));
        let variables = context! {
            messages => messages_for_template(&conversation.messages)?,
            tools => tools,
            documents => (),
            add_generation_prompt => ask,
            bos_token => self.specials.bos.clone(),
            eos_token => self.specials.eos.clone(),
            ..conversation.variables.clone().unwrap_or_default(),
        };
        let failed = |error: &Error| ChatError::Failed(error.to_string());
        let template = environment.get_template(NAME).map_err(|error| failed(&error))?;
        let mut rendered = Bounded(Vec::new());
        match template.render_captured_to(variables, &mut rendered) {
            Ok(_) => String::from_utf8(rendered.0).map_err(|error| ChatError::Failed(error.to_string())),
            Err(error) => Err(refusal(&error).unwrap_or_else(|| failed(&error))),
        }
    }
}

/// Messages as `transformers` hands them over: keys whose value is null are left out (OpenAI's interface writes
/// `"content": null` beside calls of tools), and a thought has all the names it is known by.
fn messages_for_template(messages: &Value) -> Result<Value, ChatError> {
    let refused = |error: Error| ChatError::Conversation(error.to_string());
    if messages.kind() != ValueKind::Seq {
        return Err(ChatError::Conversation("messages are no list".into()));
    }
    let mut handed = Vec::new();
    for message in messages.try_iter().map_err(refused)? {
        if message.kind() != ValueKind::Map {
            return Err(ChatError::Conversation("a message is no object".into()));
        }
        let mut fields: Vec<(String, Value)> = Vec::new();
        for key in message.try_iter().map_err(refused)? {
            let value = message.get_item(&key).map_err(refused)?;
            if !value.is_none() {
                fields.push((key.to_string(), value));
            }
        }
        let named = |wanted: &str| fields.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone());
        if let Some(thought) = THOUGHT_FIELDS.into_iter().find_map(named) {
            let has_old_name = named("thinking").is_some();
            fields.retain(|(key, _)| key != "reasoning_content");
            fields.push(("reasoning_content".into(), thought.clone()));
            if !has_old_name {
                fields.push(("thinking".into(), thought));
            }
        }
        handed.push(Value::from_pairs(fields));
    }
    Ok(handed.into())
}

fn refusal(error: &Error) -> Option<ChatError> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(raised) = error.downcast_ref::<Raised>() {
            return Some(ChatError::Refused(raised.0.clone()));
        }
        source = error.source();
    }
    None
}

/// Takes a prompt's length of bytes and no more.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn strftime(format: &str, now_s: i64) -> Result<String, Error> {
    let refused = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let now = Timestamp::from_second(now_s).map_err(refused)?.to_zoned(jiff::tz::TimeZone::UTC);
    strtime::format(format, &now).map_err(refused)
}
