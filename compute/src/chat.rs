//! Chat templates: a conversation to the prompt that the model was trained on, as `transformers` renders it.
//!
//! Invariant: a template is a stranger's program. It sees the conversation and nothing else, runs within a bound on its
//! steps, and what it renders has a bound; the time of day is the caller's. Strings that it joins on the way have no bound
//! in minijinja, so a hostile one can take memory: render in a process that may die.
//!
//! What `transformers` gives a template is given here: `raise_exception`, `strftime_now`, `tojson` with Python's spacing,
//! Python's methods of strings, lists and maps, `break` and `continue`, trimmed blocks, and `{% generation %}`.

mod compile;
mod json;

use std::fmt;
use std::io::{self, Write};

use jiff::Timestamp;
use jiff::fmt::strtime;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Deserialize;

pub use self::compile::MAX_TEMPLATE_BYTES;
use self::compile::{compile, with_room};
use crate::engine::MAX_PROMPT_BYTES;

/// Name of the template that `transformers` takes when tools are given and a file has several.
const TOOL_USE: &str = "tool_use";
const NAME: &str = "chat_template";
/// Names under which a message's thought is passed, the standard one first.
const THOUGHT_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Why a conversation can't be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The model came without one.
    #[error("the model has no chat template")]
    None,
    /// The template is too long or no valid template.
    #[error("chat template: {0}")]
    Template(String),
    /// The template itself refuses the conversation (`raise_exception`).
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template fails on this conversation or exceeds a bound.
    #[error("chat template failed: {0}")]
    Failed(String),
    /// The conversation is no JSON of the right form.
    #[error("conversation: {0}")]
    Conversation(String),
}

/// A conversation to render: what OpenAI's interface calls `messages` and `tools`.
#[derive(Debug, Clone, Deserialize)]
pub struct Conversation {
    /// Objects with `role` and `content` and whatever else the template knows, keys in the order they came.
    pub messages: Value,
    /// Descriptions of functions that the model may call.
    #[serde(default)]
    pub tools: Option<Value>,
    /// Further variables of the template, such as `enable_thinking`.
    #[serde(default, rename = "chat_template_kwargs")]
    pub variables: Option<Value>,
}

impl Conversation {
    /// Reads `{"messages": …, "tools": …, "chat_template_kwargs": …}`.
    ///
    /// # Errors
    /// When the text is no such object or longer than a prompt may be.
    pub fn from_json(json: &[u8]) -> Result<Self, ChatError> {
        if json.len() > MAX_PROMPT_BYTES {
            return Err(ChatError::Conversation(format!("{} bytes, at most {MAX_PROMPT_BYTES}", json.len())));
        }
        serde_json::from_slice(json).map_err(|error| ChatError::Conversation(error.to_string()))
    }

    /// A conversation of (role, content) pairs.
    #[must_use]
    pub fn of(messages: &[(&str, &str)]) -> Self {
        let messages = messages.iter().map(|&(role, content)| context! { role, content }).collect();
        Self { messages, tools: None, variables: None }
    }
}

/// Texts of special tokens that templates write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTexts {
    /// `bos_token`.
    pub bos: Option<String>,
    /// `eos_token`.
    pub eos: Option<String>,
}

/// A compiled template. Cloning shares nothing but is cheap enough for once per model.
#[derive(Clone)]
pub struct ChatTemplate {
    usual: Environment<'static>,
    with_tools: Option<Environment<'static>>,
    specials: SpecialTexts,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("specials", &self.specials).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles templates by name: the one named `default` (or the only one), and `tool_use` for conversations with
    /// tools.
    ///
    /// # Errors
    /// When there is none, or one is too long or malformed.
    pub fn new(templates: &[(String, String)], specials: SpecialTexts) -> Result<Self, ChatError> {
        let named = |wanted: &str| templates.iter().find(|(name, _)| name == wanted).map(|(_, source)| source);
        let usual = named("default").or_else(|| templates.first().map(|(_, source)| source));
        let usual = usual.ok_or_else(|| ChatError::Template("there is none".into()))?;
        Ok(Self {
            usual: compile(usual)?,
            with_tools: named(TOOL_USE).map(|source| compile(source)).transpose()?,
            specials,
        })
    }

    /// The templates' own text: the usual one, and the one for tools.
    #[must_use]
    pub fn sources(&self) -> (String, Option<String>) {
        let text = |from: &Environment<'static>| {
            from.get_template(NAME).map(|template| template.source().to_owned()).unwrap_or_default()
        };
        (text(&self.usual), self.with_tools.as_ref().map(text))
    }

    /// Texts of special tokens that the templates write.
    #[must_use]
    pub const fn specials(&self) -> &SpecialTexts {
        &self.specials
    }

    /// The prompt of a conversation. `ask` appends what begins the model's answer (`add_generation_prompt`); `now_s` is
    /// the time that `strftime_now` shows, in seconds since 1970, as UTC.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails on it or exceeds a bound.
    pub fn render(&self, conversation: &Conversation, ask: bool, now_s: i64) -> Result<String, ChatError> {
        with_room(|| self.render_here(conversation, ask, now_s))
            .map_err(|error| ChatError::Failed(error.to_string()))?
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

/// Marks an error of `raise_exception`, to tell a refusal from a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

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

#[cfg(test)]
mod tests {
    use super::{ChatError, ChatTemplate, Conversation, SpecialTexts};

    fn template(source: &str) -> ChatTemplate {
        let specials = SpecialTexts { bos: Some("<s>".into()), eos: Some("</s>".into()) };
        ChatTemplate::new(&[("default".into(), source.into())], specials).unwrap()
    }

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, ChatError> {
        template(source).render(&Conversation::of(messages), true, 1_700_000_000)
    }

    #[test]
    fn what_transformers_offers_is_there() {
        let cases = [
            (
                "{{ bos_token }}{% for m in messages %}\n  [{{ m.role }}] {{ m['content'].strip() }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}",
                "<s>  [user] hi</s>\n>",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "14 Nov 2023"),
            (
                "{{ {'b': [1, 2.5, none, true], 'a': '<\u{e9}\"'} | tojson }}",
                "{\"b\": [1, 2.5, null, true], \"a\": \"<\u{e9}\\\"\"}",
            ),
            (
                "{{ {'b': [1], 'a': {}} | tojson(indent=2, sort_keys=true) }}",
                "{\n  \"a\": {},\n  \"b\": [\n    1\n  ]\n}",
            ),
            (
                "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "013",
            ),
            ("a{% generation %}b{% endgeneration %}c", "abc"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "1",
            ),
            (
                "{{ messages[0]['content'].split('h')[-1] }}{{ 'x' if tools is not none and tools }}{{ messages[::-1][0].role.upper() }}",
                "i USER",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source, &[("user", " hi ")]).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn refusals_are_told_from_failures() {
        let refused = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert!(matches!(&refused, ChatError::Refused(why) if why == "roles must alternate"), "{refused}");
        assert!(matches!(render("{{ messages[0].content.nothing() }}", &[("user", "x")]), Err(ChatError::Failed(_))));
        let broken = ChatTemplate::new(&[("default".into(), "{% for %}".into())], SpecialTexts::default());
        assert!(matches!(broken, Err(ChatError::Template(_))));
    }

    #[test]
    fn hostile_templates_are_stopped() {
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
        let long = "{% for a in range(9000) %}{{ 'x' * 9000 }}{% endfor %}";
        let deep = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}";
        let huge = "{{ 'x' * 99999999999 }}";
        for source in [endless, long, deep, huge, "{% include '/etc/passwd' %}"] {
            assert!(matches!(render(source, &[]), Err(ChatError::Failed(_))), "{source}");
        }
        assert!(ChatTemplate::new(&[(String::new(), "x".repeat(1 << 20))], SpecialTexts::default()).is_err());
        assert!(ChatTemplate::new(&[], SpecialTexts::default()).is_err());
    }

    #[test]
    fn tools_take_their_own_template() {
        let templates = [("default".into(), "plain".into()), ("tool_use".into(), "{{ tools | tojson }}".into())];
        let template = ChatTemplate::new(&templates, SpecialTexts::default()).unwrap();
        let with = Conversation::from_json(br#"{"messages": [], "tools": [{"name": "f", "a": 1}]}"#).unwrap();
        assert_eq!(template.render(&with, true, 0).unwrap(), r#"[{"name": "f", "a": 1}]"#);
        assert_eq!(template.render(&Conversation::of(&[]), true, 0).unwrap(), "plain");
        assert!(Conversation::from_json(b"[1").is_err());
    }
}
