//! Before money moves: a preview, and on a terminal a question.
//!
//! Invariant: off a terminal nothing is asked; with `--dry-run` nothing is spent.

use std::io::{BufRead, Write};

use serde_json::{Value, json};

use super::failure::{FAILED, Failure};
use super::output::{Context, Output};

/// Shows what would be done. `Some` is the end of a dry run; `None` means go ahead.
pub(super) fn preview(
    context: &Context,
    facts: Value,
    lines: &[String],
    question: &str,
) -> Result<Option<Output>, Failure> {
    if context.dry_run {
        let text = lines.iter().map(|line| format!("{line}\n")).collect();
        let document = json!({"dry_run": true, "would": facts});
        return Ok(Some(Output::new(document, Vec::new(), text).note("this was a preview: nothing was done")));
    }
    for line in lines {
        context.say(line);
    }
    if context.yes || !Context::is_attended() {
        return Ok(None);
    }
    if asked(question)? { Ok(None) } else { Err(Failure::new(FAILED, "nothing was done, as you wished", "")) }
}

fn asked(question: &str) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::new(FAILED, format!("the terminal: {error}"), "answer with --yes");
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ").and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(["y\n", "YES\n", " yes "].into_iter().all(is_yes));
        assert!(!["", "\n", "n\n", "yeah", "no, yes"].into_iter().any(is_yes));
    }

    #[test]
    fn a_dry_run_shows_and_stops() {
        let folder = std::path::PathBuf::from("nowhere");
        let client = Client::new(&folder);
        let context = Context { json: false, quiet: false, yes: true, dry_run: true, data_dir: folder, client };
        let shown = preview(&context, json!({"amount": "1"}), &["send 1 OPEN".into()], "Send?").unwrap().unwrap();
        assert_eq!(shown.text, "send 1 OPEN\n");
        assert_eq!(shown.document["would"]["amount"], "1");
    }
}
