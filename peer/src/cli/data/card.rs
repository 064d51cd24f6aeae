//! `tributary data card`: what people read about a datanet.

use clap::Args;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::{Context, Output};
use super::super::pick::DATANET;
use super::super::text;

/// The width of a description.
const WIDTH: usize = 78;

/// What is to be changed; without any the card is only shown.
#[derive(Debug, Args)]
pub(crate) struct CardEdit {
    /// One line that says what it is.
    #[arg(long)]
    title: Option<String>,
    /// As long as it needs to be.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A word to find it by; repeat it for more.
    #[arg(long, value_name = "WORD")]
    tag: Vec<String>,
    /// Take a word away.
    #[arg(long, value_name = "WORD")]
    untag: Vec<String>,
    /// A language of its records, as BCP 47 has it, such as en; repeat it for more.
    #[arg(long, value_name = "CODE")]
    language: Vec<String>,
    /// Take a language away.
    #[arg(long, value_name = "CODE")]
    unlanguage: Vec<String>,
}

impl CardEdit {
    fn changes_something(&self) -> bool {
        let lists = [&self.tag, &self.untag, &self.language, &self.unlanguage];
        self.title.is_some() || self.description.is_some() || lists.iter().any(|list| !list.is_empty())
    }

    fn body(&self) -> Value {
        json!({
            "title": self.title,
            "description": self.description,
            "tags": self.tag,
            "untag": self.untag,
            "languages": self.language,
            "unlanguage": self.unlanguage,
        })
    }
}

pub(super) async fn run(context: &Context, datanet: &str, edit: &CardEdit) -> Result<Output, Failure> {
    let known = context.client.get("/api/datanets").await?;
    let route = format!("/api/datanets/{}/card", text::field(&DATANET.find(&known, datanet)?["id"]));
    if !edit.changes_something() {
        return Ok(show(context.client.get(&route).await?));
    }
    context.no_preview("data card")?;
    let card = context.client.post(&route, &edit.body()).await?;
    let note = if card["changed"] == true { "✓ the card is changed" } else { "the card says so already" };
    Ok(show(card).note(note))
}

fn show(card: Value) -> Output {
    let list = |field: &str| -> String {
        let words: Vec<String> = text::rows(&card[field]).iter().map(text::field).collect();
        words.join(", ")
    };
    let mut shown = text::fields(&[
        ("datanet", text::field(&card["id"])),
        ("title", text::field(&card["title"])),
        ("tags", list("tags")),
        ("languages", list("languages")),
    ]);
    let description = text::printable(card["description"].as_str().unwrap_or_default());
    for paragraph in description.lines().filter(|_| !description.trim().is_empty()) {
        shown.push('\n');
        shown.push_str(&text::wrapped(paragraph, WIDTH).join("\n"));
    }
    if !shown.ends_with('\n') {
        shown.push('\n');
    }
    Output::new(card.clone(), vec![text::field(&card["id"])], shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_shown_in_lines_that_fit_and_cannot_command_the_terminal() {
        let card = json!({
            "id": "0".repeat(64), "title": "Almanac\u{1b}[2J", "tags": ["a", "b\nc"], "languages": ["en"],
            "description": format!("{}\nsecond", "word ".repeat(40)),
        });
        let output = show(card);
        assert!(output.text.lines().all(|line| line.chars().count() <= 80), "{}", output.text);
        assert!(output.text.contains("title      Almanac\u{fffd}[2J\n"), "{}", output.text);
        assert!(output.text.contains("tags       a, b c\n"), "{}", output.text);
        assert!(output.text.ends_with("word\nsecond\n"), "{}", output.text);
        assert_eq!(output.ids, ["0".repeat(64)]);
    }

    #[test]
    fn without_an_option_nothing_is_changed() {
        let none = CardEdit {
            title: None,
            description: None,
            tag: Vec::new(),
            untag: Vec::new(),
            language: Vec::new(),
            unlanguage: Vec::new(),
        };
        assert!(!none.changes_something());
        assert!(CardEdit { untag: vec!["a".into()], ..none }.changes_something());
    }
}
