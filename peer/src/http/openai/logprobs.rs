//! Tokens' probabilities as OpenAI's clients read them.
//!
//! Invariant: what is shown of tokens is the answer's text, no more: neither an end token nor a stop text's tokens. The
//! numbers are the worker's, whose receipt commits to them.

use serde_json::{Map, Value, json};
use tributary_protocol::logprobs::{Spelling, TokenLogprob, TokenReport};

use super::reply::Shape;

/// The tokens that the text consists of; those after it were picked and are no part of it.
pub(super) fn of_text<'a>(tokens: &'a [TokenReport], text: &str) -> &'a [TokenReport] {
    let mut left = text.len() + usize::from(drops_blank(tokens, text));
    let mut end = 0;
    for (place, report) in tokens.iter().enumerate() {
        if left == 0 {
            break;
        }
        let Spelling::Bytes(bytes) = &report.chosen.spelling else { continue };
        left = left.saturating_sub(bytes.len());
        end = place + 1;
    }
    &tokens[..end]
}

/// Tokenizers that write a blank before each word drop the first one of a text.
fn drops_blank(tokens: &[TokenReport], text: &str) -> bool {
    let first = tokens.iter().find_map(|report| match &report.chosen.spelling {
        Spelling::Bytes(bytes) if !bytes.is_empty() => Some(bytes),
        _ => None,
    });
    first.is_some_and(|bytes| bytes.starts_with(b" ")) && !text.is_empty() && !text.starts_with(' ')
}

/// The `logprobs` of one answer, chunk by chunk.
#[derive(Debug)]
pub(super) struct Logprobs {
    shape: Shape,
    /// Characters of the answer before the next token; `None` before the first. A dropped blank counts one less.
    characters: Option<i64>,
}

impl Logprobs {
    pub(super) const fn new(shape: Shape) -> Self {
        Self { shape, characters: None }
    }

    /// What is said of the tokens of `text`, the next piece of the answer.
    pub(super) fn of(&mut self, text: &str, tokens: &[TokenReport]) -> Value {
        if tokens.is_empty() {
            return Value::Null;
        }
        match self.shape {
            Shape::Chat => json!({"content": tokens.iter().map(chat_token).collect::<Vec<_>>(), "refusal": null}),
            Shape::Completion => self.completion(text, tokens),
        }
    }

    fn completion(&mut self, text: &str, tokens: &[TokenReport]) -> Value {
        let mut at = self.characters.unwrap_or_else(|| -i64::from(drops_blank(tokens, text)));
        let mut offsets = Vec::with_capacity(tokens.len());
        for report in tokens {
            offsets.push(at.max(0));
            if let Spelling::Bytes(bytes) = &report.chosen.spelling {
                let begun = bytes.iter().filter(|byte| **byte & 0b1100_0000 != 0b1000_0000).count();
                at += i64::try_from(begun).unwrap_or(i64::MAX);
            }
        }
        self.characters = Some(at);
        let chosen = || tokens.iter().map(|report| &report.chosen);
        json!({
            "tokens": chosen().map(completion_name).collect::<Vec<_>>(),
            "token_logprobs": chosen().map(nats).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(completion_top).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}

/// ln p.
fn nats(token: &TokenLogprob) -> f64 {
    // Beyond four thousand nats nothing is told apart.
    0.0 - f64::from(u32::try_from(token.minus_micro_nats).unwrap_or(u32::MAX)) / 1e6
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// A token's name in a chat: its text; bytes that are no whole characters are written out.
fn chat_name(token: &TokenLogprob) -> String {
    match &token.spelling {
        Spelling::Special(name) => name.clone(),
        Spelling::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap_or_else(|_| escaped(bytes)),
    }
}

/// A token's name in a completion, where that API marks bytes.
fn completion_name(token: &TokenLogprob) -> String {
    match &token.spelling {
        Spelling::Bytes(bytes) if std::str::from_utf8(bytes).is_err() => format!("bytes:{}", escaped(bytes)),
        _ => chat_name(token),
    }
}

fn chat_one(token: &TokenLogprob) -> Value {
    let bytes = match &token.spelling {
        Spelling::Bytes(bytes) => json!(bytes),
        Spelling::Special(_) => Value::Null,
    };
    json!({"token": chat_name(token), "logprob": nats(token), "bytes": bytes})
}

fn chat_token(report: &TokenReport) -> Value {
    let mut shown = chat_one(&report.chosen);
    shown["top_logprobs"] = report.top.iter().map(chat_one).collect();
    shown
}

/// The likeliest tokens by name, the chosen one always among them.
fn completion_top(report: &TokenReport) -> Map<String, Value> {
    let all = report.top.iter().chain([&report.chosen]);
    all.map(|token| (completion_name(token), json!(nats(token)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8], micro_nats: u64) -> TokenLogprob {
        TokenLogprob { token: 1, spelling: Spelling::Bytes(bytes.to_vec()), minus_micro_nats: micro_nats }
    }

    fn report(bytes: &[u8]) -> TokenReport {
        TokenReport { chosen: token(bytes, 250_000), top: vec![token(b"x", 100_000)] }
    }

    fn special(name: &str) -> TokenReport {
        let spelling = Spelling::Special(name.into());
        TokenReport { chosen: TokenLogprob { token: 0, spelling, minus_micro_nats: 0 }, top: vec![] }
    }

    #[test]
    fn a_chat_has_its_tokens_with_their_bytes() {
        let shown =
            Logprobs::new(Shape::Chat).of("Jä", &[report(b"J"), report(b"\xc3"), report(b"\xa4"), special("</s>")]);
        let content = shown["content"].as_array().unwrap();
        assert_eq!(content[0]["token"], "J");
        assert_eq!(content[0]["logprob"], -0.25);
        assert_eq!(content[0]["bytes"], json!([74]));
        assert_eq!(content[0]["top_logprobs"], json!([{"token": "x", "logprob": -0.1, "bytes": [120]}]));
        assert_eq!(content[1]["token"], "\\xc3");
        assert_eq!((&content[3]["token"], &content[3]["bytes"]), (&json!("</s>"), &Value::Null));
        assert_eq!(content[3]["logprob"].to_string(), "0.0");
        assert_eq!(shown["refusal"], Value::Null);
        assert_eq!(Logprobs::new(Shape::Chat).of("J", &[]), Value::Null);
    }

    #[test]
    fn a_completion_has_lists_side_by_side_and_offsets_go_on_over_chunks() {
        let mut logprobs = Logprobs::new(Shape::Completion);
        let shown = logprobs.of("Jä", &[report(b" J"), report(b"\xc3"), report(b"\xa4")]);
        assert_eq!(shown["tokens"], json!([" J", "bytes:\\xc3", "bytes:\\xa4"]));
        assert_eq!(shown["token_logprobs"], json!([-0.25, -0.25, -0.25]));
        assert_eq!(shown["top_logprobs"][0], json!({"x": -0.1, " J": -0.25}));
        assert_eq!(shown["text_offset"], json!([0, 1, 2]));
        assert_eq!(logprobs.of("y", &[report(b"y")])["text_offset"], json!([2]));
    }

    #[test]
    fn tokens_after_the_text_are_not_shown() {
        let tokens = [report(b" The"), report(b" river"), report(b"ST"), report(b"OP"), special("</s>")];
        let shown = |text| of_text(&tokens, text).len();
        assert_eq!(shown(" The river"), 2);
        assert_eq!(shown("The river"), 2, "a dropped blank");
        assert_eq!(shown("The riverS"), 3);
        assert_eq!(shown(""), 0);
        assert_eq!(shown(" The riverSTOP"), 4);
    }
}
