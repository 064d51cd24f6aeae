//! Templates from strangers to programs of minijinja.
//!
//! Invariant: no template of at most [`MAX_TEMPLATE_BYTES`] is nested too deeply for the stack that it is read on, and no
//! value that it makes in [`MAX_STEPS`] for the stack that it is dropped on: minijinja walks both by recursion. Such a value
//! may still be too deep to be printed, and constants that minijinja joins while it reads take what memory they want.

use std::fmt;
use std::thread;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::{ChatError, Sources, SpecialTexts};

pub(super) const NAME: &str = "chat_template";
/// The longest template; those of models with tools have about thirty kilobytes.
pub const MAX_TEMPLATE_BYTES: usize = 64 * 1024;
/// Most steps of a rendering: a conversation of a thousand messages needs about a hundred thousand.
const MAX_STEPS: u64 = 500_000;
/// Deepest nesting of macros and includes.
const MAX_DEPTH: usize = 64;
/// Stack for minijinja: a template nests by up to one level for each byte, a value by one for each step. Only what is
/// used becomes memory.
const STACK_BYTES: usize = 1 << 30;

/// Does what recurses as deeply as a stranger wants.
///
/// # Errors
/// [`ChatError::Ended`] when the system gives no thread, which says nothing of the template; [`ChatError::Failed`] when minijinja
/// panics.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, ChatError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("template".into()).stack_size(STACK_BYTES);
        let worker = thread.spawn_scoped(scope, work).map_err(|error| ChatError::Ended(error.to_string()))?;
        worker.join().map_err(|_| ChatError::Failed("the template made minijinja panic".into()))
    })
}

/// Marks an error of `raise_exception`, to tell a refusal from a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// Templates, ready to be rendered.
#[derive(Clone)]
pub(super) struct Compiled {
    pub(super) usual: Environment<'static>,
    pub(super) with_tools: Option<Environment<'static>>,
    pub(super) specials: SpecialTexts,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("specials", &self.specials).finish_non_exhaustive()
    }
}

impl Compiled {
    /// # Errors
    /// When a template is too long or malformed.
    pub(super) fn new(sources: &Sources) -> Result<Self, ChatError> {
        Ok(Self {
            usual: compile(&sources.usual)?,
            with_tools: sources.with_tools.as_deref().map(compile).transpose()?,
            specials: sources.specials.clone(),
        })
    }
}

/// # Errors
/// When the template is too long.
pub(super) fn check_length(source: &str) -> Result<(), ChatError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(ChatError::Template(format!("{} bytes, at most {MAX_TEMPLATE_BYTES}", source.len())));
    }
    Ok(())
}

fn compile(source: &str) -> Result<Environment<'static>, ChatError> {
    check_length(source)?;
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| ChatError::Template(error.to_string()))?);
    environment.set_debug(false);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", super::json::python_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    with_room(|| environment.add_template_owned(NAME, without_generation_marks(source)))?
        .map_err(|error| ChatError::Template(error.to_string()))?;
    Ok(environment)
}

/// `{% generation %}` and `{% endgeneration %}` only mark the assistant's words for training in `transformers`; here they
/// become a tag that does nothing and trims the same.
fn without_generation_marks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let Some(end) = rest[at..].find("%}").map(|end| at + end + 2) else { break };
        let tag = &rest[at..end];
        let word = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        result.push_str(&rest[..at]);
        match word {
            "generation" => result.push_str(&tag.replacen(word, "if true", 1)),
            "endgeneration" => result.push_str(&tag.replacen(word, "endif", 1)),
            _ => result.push_str(tag),
        }
        rest = &rest[end..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::super::{ChatError, ChatTemplate, Conversation, SpecialTexts};
    use super::MAX_TEMPLATE_BYTES;

    fn rendered(source: String) -> Result<String, ChatError> {
        ChatTemplate::new(&[("default".into(), source)], SpecialTexts::default())?.render(
            &Conversation::of(&[]),
            true,
            0,
        )
    }

    #[test]
    fn templates_as_deep_as_their_length_allows_are_no_harm() {
        let deep = [
            ("{{ ", "not ", "1 }}"),
            ("{{ ", "-", "1 }}"),
            ("{{ 1", "+1", " }}"),
            ("{{ a", ".a", " }}"),
            ("{{ a", "|e", " }}"),
            ("{{ 1", " if 1 else 1", " }}"),
            ("{% if 1 %}", "{%elif 1%}", "{% endif %}"),
            ("{{ 1", "**2", " }}"),
            ("{{ a", "[1]", " }}"),
            ("{{ a", "()", " }}"),
            ("{{ a", " is a", " }}"),
        ];
        for (start, again, end) in deep {
            let times = (MAX_TEMPLATE_BYTES - start.len() - end.len()) / again.len();
            let result = rendered(format!("{start}{}{end}", again.repeat(times)));
            assert!(!matches!(result, Err(ChatError::Template(_))), "{again:?} {times} times was not read: {result:?}");
        }
        let longer = " ".repeat(MAX_TEMPLATE_BYTES + 1);
        assert!(matches!(rendered(longer), Err(ChatError::Template(_))));
    }

    #[test]
    fn values_as_deep_as_the_steps_allow_are_dropped() {
        let nested = |rounds: usize, open: &str, close: &str, show: &str| {
            let value = format!("{}ns.x{}", open.repeat(50), close.repeat(50));
            rendered(format!(
                "{{% set ns = namespace(x=1) %}}{{% for a in range({rounds}) %}}{{% for b in range(100) %}}{{% set ns.x = {value} %}}{{% endfor %}}{{% endfor %}}{show}"
            ))
        };
        // Most of the steps are spent on nesting; then all of them.
        assert_eq!(nested(80, "[", "]", "done").unwrap(), "done");
        assert!(matches!(nested(200, "{1:", "}", ""), Err(ChatError::Failed(_))));
    }
}
