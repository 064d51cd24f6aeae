//! Templates in a process of their own, which may die: a stranger's template can ask for more memory or stack than there
//! is, when it is read and when it runs.
//!
//! Invariant: a base's templates share a process with no other base's, and its death is an error of the rendering that
//! it happened in and of nothing else. Both sides speak length-framed JSON of bounded length.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::compile::Compiled;
use super::{ChatError, Conversation, MAX_TEMPLATE_BYTES, Sources};
use crate::engine::MAX_PROMPT_BYTES;
use crate::frame;

/// The longest frame: JSON writes a control character as six bytes.
const FRAME_MAX_BYTES: usize = 6 * (MAX_PROMPT_BYTES + 2 * MAX_TEMPLATE_BYTES) + 4_096;

/// How the process is started that renders; it runs [`serve`] on its standard input and output.
#[derive(Debug, Clone)]
pub struct Renderer {
    program: PathBuf,
    arguments: Arc<[String]>,
}

impl Renderer {
    /// A process of `program` with these arguments, which limits itself.
    #[must_use]
    pub fn new(program: PathBuf, arguments: &[&str]) -> Self {
        Self { program, arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect() }
    }

    fn start(&self) -> io::Result<Running> {
        let mut child = Command::new(&self.program)
            .args(self.arguments.iter())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A process that runs out of memory or stack says so there, which is nobody's to read.
            .stderr(Stdio::null())
            .spawn()?;
        let missing = || io::Error::other("the process has no standard input or output");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        Ok(Running { child, input, output, rendered: 0 })
    }
}

#[derive(Serialize, Deserialize)]
struct Asked {
    sources: Sources,
    conversation: Conversation,
    ask: bool,
    now_s: i64,
}

struct Running {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    rendered: u64,
}

impl Running {
    fn render(&mut self, frame: &[u8]) -> io::Result<Vec<u8>> {
        frame::write(&mut self.input, frame)?;
        let told = frame::read(&mut self.output, FRAME_MAX_BYTES)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.rendered += 1;
        Ok(told)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of one base's templates, started when it is needed.
pub(super) struct Apart {
    renderer: Renderer,
    running: Mutex<Option<Running>>,
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").field("renderer", &self.renderer).finish_non_exhaustive()
    }
}

impl Apart {
    pub(super) fn new(renderer: Renderer) -> Self {
        Self { renderer, running: Mutex::default() }
    }

    /// Has the process render, and another one once more where an earlier rendering may have worn the first one out.
    pub(super) fn render(
        &self,
        sources: &Sources,
        conversation: &Conversation,
        ask: bool,
        now_s: i64,
    ) -> Result<String, ChatError> {
        let asked = Asked { sources: sources.clone(), conversation: conversation.clone(), ask, now_s };
        let frame = serde_json::to_vec(&asked).map_err(|error| ChatError::Conversation(error.to_string()))?;
        if frame.len() > FRAME_MAX_BYTES {
            return Err(ChatError::Conversation(format!("at most {MAX_PROMPT_BYTES} bytes")));
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let process = match &mut *running {
                Some(process) => process,
                none => none.insert(self.renderer.start().map_err(|error| {
                    ChatError::Ended(format!("the process that renders templates cannot be started: {error}"))
                })?),
            };
            let was_fresh = process.rendered == 0;
            match process.render(&frame) {
                Ok(told) => {
                    let malformed = |error: serde_json::Error| ChatError::Failed(error.to_string());
                    return serde_json::from_slice::<Result<String, ChatError>>(&told).map_err(malformed)?;
                }
                Err(error) => {
                    *running = None;
                    if was_fresh {
                        tracing::debug!(%error, "the process of a chat template died");
                        return Err(ChatError::Ended(DIED.into()));
                    }
                }
            }
        }
    }
}

const DIED: &str = "it takes more memory, time or nesting than a template may";

/// Renders what is asked for on `input` until it ends; the caller has limited this process.
///
/// # Errors
/// When a stream breaks or carries something else.
pub fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut known: Option<(Sources, Result<Compiled, ChatError>)> = None;
    while let Some(frame) = frame::read(input, FRAME_MAX_BYTES)? {
        let Asked { sources, conversation, ask, now_s } = match serde_json::from_slice(&frame) {
            Ok(asked) => asked,
            // Nested a little less deeply it could be read, so it is the conversation that is told about.
            Err(error) => {
                let told: Result<String, ChatError> = Err(ChatError::Conversation(error.to_string()));
                frame::write(output, &serde_json::to_vec(&told)?)?;
                continue;
            }
        };
        let (_, compiled) = match &mut known {
            Some(known) if known.0 == sources => known,
            other => {
                let compiled = Compiled::new(&sources);
                other.insert((sources, compiled))
            }
        };
        let told = match compiled {
            Ok(compiled) => compiled.render(&conversation, ask, now_s),
            Err(error) => Err(error.clone()),
        };
        if matches!(compiled, Err(ChatError::Ended(_))) {
            known = None;
        }
        frame::write(output, &serde_json::to_vec(&told)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::ChatTemplate;

    fn asked(source: &str, conversation: &Conversation) -> Vec<u8> {
        let sources = Sources { usual: source.into(), ..Sources::default() };
        let conversation = conversation.clone();
        serde_json::to_vec(&Asked { sources, conversation, ask: true, now_s: 7 }).unwrap()
    }

    #[test]
    fn a_process_tells_what_is_told_here() {
        let json = r#"{"messages": [{"role": "user", "content": "ä \u0001", "n": 1.5, "b": {"z": 1, "a": null}}],
            "tools": [1], "chat_template_kwargs": {"deep": true}}"#;
        let conversation = Conversation::from_json(json.as_bytes()).unwrap();
        let sources =
            ["{{ messages | tojson }}{{ tools }}{{ deep }}", "{% if %}", "{{ raise_exception('no') }}", "{{ a.b.c }}"];
        let mut input = Vec::new();
        for source in sources {
            frame::write(&mut input, &asked(source, &conversation)).unwrap();
        }
        let mut output = Vec::new();
        serve(&mut input.as_slice(), &mut output).unwrap();
        let mut output = output.as_slice();
        for source in sources {
            let told: Result<String, ChatError> =
                serde_json::from_slice(&frame::read(&mut output, FRAME_MAX_BYTES).unwrap().unwrap()).unwrap();
            let template = ChatTemplate::new(&[(String::new(), source.into())], Default::default()).unwrap();
            assert_eq!(told, template.render(&conversation, true, 7), "{source}");
        }
        assert!(frame::read(&mut output, FRAME_MAX_BYTES).unwrap().is_none());
    }

    #[test]
    fn a_conversation_nested_too_deeply_to_be_handed_over_ends_no_process() {
        let json = |depth: usize| {
            let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"messages": [{{"role": "user", "content": "a", "x": {nested}}}]}}"#)
        };
        let readable = |depth: &usize| Conversation::from_json(json(*depth).as_bytes()).is_ok();
        let deepest = (1..200).take_while(readable).last().unwrap();
        let told = |depth: usize| {
            let conversation = Conversation::from_json(json(depth).as_bytes()).unwrap();
            let mut input = Vec::new();
            frame::write(&mut input, &asked("x", &conversation)).unwrap();
            let mut output = Vec::new();
            serve(&mut input.as_slice(), &mut output).unwrap();
            let told = frame::read(&mut output.as_slice(), FRAME_MAX_BYTES).unwrap().unwrap();
            serde_json::from_slice::<Result<String, ChatError>>(&told).unwrap()
        };
        assert!(matches!(told(deepest), Err(ChatError::Conversation(_))));
        assert_eq!(told(deepest - 2), Ok("x".into()));
    }

    #[test]
    fn a_program_that_is_not_there_or_says_nothing_is_an_error() {
        // These tests' own program, which knows no such option, ends without a word on its standard output.
        let silent = std::env::current_exe().unwrap();
        for (program, word) in [("/nowhere/tributary".into(), "started"), (silent, "memory")] {
            let apart = Apart::new(Renderer::new(program, &["--no-such-option"]));
            let failed = apart.render(&Sources::default(), &Conversation::of(&[]), true, 0).unwrap_err();
            assert!(matches!(&failed, ChatError::Ended(why) if why.contains(word)), "{failed}");
        }
    }
}
