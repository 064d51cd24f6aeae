//! What a command returns and how it is printed: one place for all commands.
//!
//! Invariant: standard output carries only what was asked for, in one of three forms: text, one JSON document, or
//! ids. Everything else goes to standard error, and nothing else with `--json` or `--quiet`.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;

use serde_json::Value;

use super::failure::{FAILED, Failure};
use crate::client::Client;

/// What every command knows of how it was called.
pub(super) struct Context {
    pub(super) json: bool,
    pub(super) quiet: bool,
    pub(super) yes: bool,
    pub(super) dry_run: bool,
    pub(super) data_dir: PathBuf,
    pub(super) client: Client,
}

impl Context {
    /// Whether somebody reads along and can be asked.
    pub(super) fn is_attended() -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Tells people something, unless only data is wanted.
    pub(super) fn say(&self, text: &str) {
        if !self.json && !self.quiet {
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Refuses `--dry-run` where there is nothing to preview, rather than doing what was not wanted.
    pub(super) fn no_preview(&self, verb: &str) -> Result<(), Failure> {
        if !self.dry_run {
            return Ok(());
        }
        Err(Failure::usage(format!("tributary {verb} has no preview"), "run it without --dry-run; it spends nothing"))
    }
}

/// What a command returns.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// Everything, for programs: ids and amounts whole.
    pub(super) document: Value,
    /// The ids of what is shown or was made.
    pub(super) ids: Vec<String>,
    /// The same for people.
    pub(super) text: String,
    /// Remarks for people.
    pub(super) notes: Vec<String>,
    /// The command that most want next.
    pub(super) next: Option<String>,
    /// The text is a file whose bytes matter, whatever form was asked for.
    pub(super) verbatim: bool,
    /// The exit code of a command that says what it has to say and still does not end well.
    pub(super) code: u8,
}

impl Output {
    pub(super) fn new(document: Value, ids: Vec<String>, text: String) -> Self {
        Self { document, ids, text, ..Self::default() }
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(super) fn ending(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    pub(super) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    /// What goes to standard output.
    fn data(&self, json: bool, quiet: bool) -> String {
        if self.verbatim && !quiet {
            return self.text.clone();
        }
        if json {
            return format!("{:#}\n", self.document);
        }
        if quiet {
            return self.ids.iter().map(|id| format!("{id}\n")).collect();
        }
        self.text.clone()
    }

    pub(super) fn print(&self, context: &Context) -> Result<(), Failure> {
        emit(&self.data(context.json, context.quiet))?;
        for note in &self.notes {
            context.say(note);
        }
        if let Some(next) = &self.next {
            context.say(&format!("  next: {next}"));
        }
        Ok(())
    }
}

/// Writes to standard output at once. A reader that went away, like `head`, has what it wanted.
pub(super) fn emit(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            Err(Failure::new(FAILED, format!("standard output: {error}"), "give it a place that can be written"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_three_forms_never_mix() {
        let output =
            Output::new(json!({"id": "abc"}), vec!["abc".into()], "ID\nabc\n".into()).note("made").next("look");
        assert_eq!(output.data(false, false), "ID\nabc\n");
        assert_eq!(output.data(false, true), "abc\n");
        let document: Value = serde_json::from_str(&output.data(true, false)).unwrap();
        assert_eq!(document, json!({"id": "abc"}));
    }

    #[test]
    fn a_file_keeps_its_bytes() {
        let file =
            Output { verbatim: true, ..Output::new(json!({"a": 1}), vec!["id".into()], "{ \"a\": 1 }\n".into()) };
        assert_eq!(file.data(true, false), "{ \"a\": 1 }\n");
        assert_eq!(file.data(false, true), "id\n");
    }
}
