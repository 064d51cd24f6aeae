//! Chat templates: a conversation to the prompt that the model was trained on, as `transformers` renders it.
//!
//! Invariant: a template is a stranger's program. It sees the conversation and nothing else, is not even read before it is
//! used, runs within a bound on its steps, and what it renders has a bound; the time of day is the caller's. What it takes
//! of memory on the way has no bound in minijinja, neither when it is read nor when it runs: [`apart`] renders in a
//! process that may die.
//!
//! What `transformers` gives a template is given here: `raise_exception`, `strftime_now`, `tojson` with Python's spacing,
//! Python's methods of strings, lists and maps, `break` and `continue`, trimmed blocks, and `{% generation %}`.

pub mod apart;
mod compile;
mod json;
mod render;

use std::sync::{Arc, OnceLock};

use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use self::apart::{Apart, Renderer};
use self::compile::Compiled;
pub use self::compile::MAX_TEMPLATE_BYTES;
use crate::engine::MAX_PROMPT_BYTES;

/// Name of the template that `transformers` takes when tools are given and a file has several.
const TOOL_USE: &str = "tool_use";

/// Why a conversation can't be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
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
    /// The process that renders could not begin or died: another machine may give it more.
    #[error("chat template failed: {0}")]
    Ended(String),
    /// The conversation is no JSON of the right form.
    #[error("conversation: {0}")]
    Conversation(String),
}

/// A conversation to render: what OpenAI's interface calls `messages` and `tools`.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTexts {
    /// `bos_token`.
    pub bos: Option<String>,
    /// `eos_token`.
    pub eos: Option<String>,
}

/// What a base's files say of conversations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sources {
    usual: String,
    with_tools: Option<String>,
    specials: SpecialTexts,
}

/// Where a template is read and rendered.
#[derive(Debug, Clone)]
enum Place {
    /// In this process, read when it is first used.
    Here(Arc<OnceLock<Result<Compiled, ChatError>>>),
    /// In one that may die.
    Apart(Arc<Apart>),
}

/// A base's templates. Cloning shares them.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    sources: Arc<Sources>,
    place: Place,
}

impl ChatTemplate {
    /// Takes templates by name: the one named `default` (or the only one), and `tool_use` for conversations with
    /// tools. Whether they can be used, [`ChatTemplate::check`] says.
    ///
    /// # Errors
    /// When there is none, or one is too long.
    pub fn new(templates: &[(String, String)], specials: SpecialTexts) -> Result<Self, ChatError> {
        let named = |wanted: &str| templates.iter().find(|(name, _)| name == wanted).map(|(_, source)| source.clone());
        let usual = named("default").or_else(|| templates.first().map(|(_, source)| source.clone()));
        let usual = usual.ok_or_else(|| ChatError::Template("there is none".into()))?;
        let sources = Sources { usual, with_tools: named(TOOL_USE), specials };
        for source in [Some(&sources.usual), sources.with_tools.as_ref()].into_iter().flatten() {
            compile::check_length(source)?;
        }
        Ok(Self { sources: Arc::new(sources), place: Place::Here(Arc::default()) })
    }

    /// The same templates, read and rendered by a process of their own.
    #[must_use]
    pub fn apart(&self, renderer: &Renderer) -> Self {
        Self { sources: Arc::clone(&self.sources), place: Place::Apart(Arc::new(Apart::new(renderer.clone()))) }
    }

    /// The templates' own text: the usual one, and the one for tools.
    #[must_use]
    pub fn sources(&self) -> (String, Option<String>) {
        (self.sources.usual.clone(), self.sources.with_tools.clone())
    }

    /// Texts of special tokens that the templates write.
    #[must_use]
    pub fn specials(&self) -> &SpecialTexts {
        &self.sources.specials
    }

    /// Whether the templates can be read, and the usual one writes a short conversation; it may refuse that one.
    ///
    /// # Errors
    /// When one is malformed, with its line, or fails.
    pub fn check(&self) -> Result<(), ChatError> {
        let greeting = Conversation::of(&[("user", "Hello"), ("assistant", "Hello to you")]);
        let question = Conversation::of(&[("user", "Hello")]);
        for (conversation, ask) in [(question, true), (greeting, false)] {
            match self.render(&conversation, ask, 0) {
                Ok(_) | Err(ChatError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The prompt of a conversation. `ask` appends what begins the model's answer (`add_generation_prompt`); `now_s` is
    /// the time that `strftime_now` shows, in seconds since 1970, as UTC.
    ///
    /// # Errors
    /// When a template is malformed, refuses the conversation, fails on it or exceeds a bound.
    pub fn render(&self, conversation: &Conversation, ask: bool, now_s: i64) -> Result<String, ChatError> {
        match &self.place {
            Place::Here(compiled) => {
                let compiled = compiled.get_or_init(|| Compiled::new(&self.sources)).as_ref().map_err(Clone::clone)?;
                compiled.render(conversation, ask, now_s)
            }
            Place::Apart(apart) => apart.render(&self.sources, conversation, ask, now_s),
        }
    }
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
        assert!(matches!(render("{% for %}", &[]), Err(ChatError::Template(_))));
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
    fn a_check_names_the_line_and_lets_a_template_refuse() {
        let refused = template("{{ bos_token }}\n{% for m in messages %}\n{{ m.content }\n").check().unwrap_err();
        assert!(matches!(&refused, ChatError::Template(why) if why.contains(":3")), "{refused}");
        let failed = template("{{ messages[0].content.nothing() }}").check().unwrap_err();
        assert!(matches!(failed, ChatError::Failed(_)), "{failed}");
        template("{{ raise_exception('a system message must come first') }}").check().unwrap();
        template("{{ messages[0].content }}").check().unwrap();
        let tools = [("default".into(), "plain".into()), ("tool_use".into(), "{% if %}".into())];
        assert!(ChatTemplate::new(&tools, SpecialTexts::default()).unwrap().check().is_err());
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
