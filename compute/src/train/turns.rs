//! A conversation as pieces of tokens: what is given, and the assistant's turns, which are learned.
//!
//! Invariant: the pieces, joined, are what the base's chat template renders, word for word; a model that answers through
//! the same template sees at each assistant's turn what it was trained on. A base without a template gets lines of
//! `role: content`, or the bare words where there is one message before the assistant's.

use serde_json::Value;

use super::TrainError;
use crate::chat::{ChatError, ChatTemplate, Conversation};
use crate::model::Base;

/// Messages of one conversation: each is rendered once more for every turn of the assistant.
const MAX_MESSAGES: usize = 256;
/// The day that a template sees which asks for one, in seconds since 1970 (2025-01-01): runs must be repeatable.
const TEMPLATE_TIME_S: i64 = 1_735_689_600;
const ASSISTANT: &str = "assistant";

/// Tokens that are learned or only given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) tokens: Vec<u32>,
    pub(super) is_learned: bool,
}

/// The pieces of a conversation, a JSON list of messages.
pub(super) fn pieces(base: &Base, messages: &str) -> Result<Vec<Piece>, TrainError> {
    let refused = |what: String| TrainError::Examples(format!("messages: {what}"));
    let list: Vec<Value> = serde_json::from_str(messages).map_err(|error| refused(error.to_string()))?;
    if list.is_empty() || list.len() > MAX_MESSAGES {
        return Err(refused(format!("{}, allowed 1 to {MAX_MESSAGES}", list.len())));
    }
    match base.chat() {
        Ok(template) => rendered(base, template, &list),
        Err(error) if matches!(*error, ChatError::None) => plain(base, &list),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// What a conversation's rendering ended with says of the conversation, unless it says something of this machine.
fn of_template(error: &ChatError) -> TrainError {
    match error {
        ChatError::Ended(_) => TrainError::Ended(error.to_string()),
        _ => TrainError::Examples(format!("messages: {error}")),
    }
}

fn is_assistant(message: &Value) -> bool {
    message["role"] == ASSISTANT
}

fn render(template: &ChatTemplate, messages: &[Value], ask: bool) -> Result<String, TrainError> {
    let conversation = serde_json::json!({"messages": messages}).to_string();
    let conversation = Conversation::from_json(conversation.as_bytes()).map_err(|error| of_template(&error))?;
    template.render(&conversation, ask, TEMPLATE_TIME_S).map_err(|error| of_template(&error))
}

/// Each turn of the assistant is what the template adds behind its own beginning of an answer. A template that shows
/// earlier turns otherwise once others follow (Qwen3 drops their thoughts) leaves the last turn to learn.
fn rendered(base: &Base, template: &ChatTemplate, messages: &[Value]) -> Result<Vec<Piece>, TrainError> {
    let mut parts: Vec<(String, bool)> = Vec::new();
    let mut shown = String::new();
    for (at, _) in messages.iter().enumerate().filter(|(_, message)| is_assistant(message)) {
        let before = render(template, &messages[..at], true)?;
        let after = render(template, &messages[..=at], false)?;
        let Some(turn) = after.strip_prefix(before.as_str()) else {
            return Err(TrainError::Examples("messages: the chat template does not continue what it asks with".into()));
        };
        match before.strip_prefix(shown.as_str()) {
            Some(given) => parts.push((given.to_owned(), false)),
            None => parts = vec![(before.clone(), false)],
        }
        parts.push((turn.to_owned(), true));
        shown = after;
    }
    let piece = |(text, is_learned): (String, bool)| Ok(Piece { tokens: base.tokenizer().encode(&text)?, is_learned });
    parts.into_iter().map(piece).collect()
}

fn plain(base: &Base, messages: &[Value]) -> Result<Vec<Piece>, TrainError> {
    let tokenizer = base.tokenizer();
    let is_single = messages.iter().filter(|message| !is_assistant(message)).count() == 1;
    let mut pieces: Vec<Piece> = Vec::new();
    for message in messages {
        let (Some(role), Some(content)) = (message["role"].as_str(), message["content"].as_str()) else {
            return Err(TrainError::Examples("messages: one has no role or no text as its content".into()));
        };
        let piece = if role == ASSISTANT {
            Piece { tokens: tokenizer.encode_completion(content)?, is_learned: true }
        } else {
            let line = if is_single { content.to_owned() } else { format!("{role}: {content}\n") };
            Piece { tokens: tokenizer.encode(&line)?, is_learned: false }
        };
        pieces.push(piece);
    }
    let begin = tokenizer.begin().into_iter().collect();
    pieces.insert(0, Piece { tokens: begin, is_learned: false });
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Piece, pieces};
    use crate::model::{Base, Config, Extras, WeightType, Weights};
    use crate::tokenizer::train_byte_level;

    fn base(template: Option<&str>) -> Base {
        let config = Config {
            hidden: 16,
            intermediate: 16,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            vocab: 300,
            max_positions: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tied: true,
            bos: Some(0),
            eos: vec![0],
            ..Config::default()
        };
        let weights = Weights::random(&config, 1).unwrap().to_safetensors(&config, WeightType::F32).unwrap();
        let tokenizer = train_byte_level(&["the old mill".to_owned()], 280).unwrap();
        let told = template.map(|template| {
            serde_json::to_vec(&json!({"chat_template": template, "eos_token": "<|endoftext|>"})).unwrap()
        });
        let extras = Extras { tokenizer_config: told.as_deref(), ..Extras::default() };
        Base::from_bytes_with(&config.to_json(), &tokenizer, &weights, extras).unwrap()
    }

    fn shown(base: &Base, messages: &serde_json::Value) -> Vec<(String, bool)> {
        let found = pieces(base, &messages.to_string()).unwrap();
        let text = |piece: &Piece| {
            let ends = piece.tokens.iter().filter(|token| **token == 0).count();
            (base.tokenizer().decode(&piece.tokens).unwrap() + &"$".repeat(ends), piece.is_learned)
        };
        found.iter().map(text).collect()
    }

    fn expect(found: &[(String, bool)], expected: &[(&str, bool)]) {
        let found: Vec<(&str, bool)> = found.iter().map(|(text, learned)| (text.as_str(), *learned)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_template_decides_what_stands_around_each_turn() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        let talk = json!([
            {"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"},
            {"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"},
        ]);
        let wanted =
            [("<user>who?<assistant>$", false), ("me$", true), ("<user>why?<assistant>$", false), ("so$", true)];
        expect(&shown(&base(Some(source)), &talk), &wanted);
    }

    #[test]
    fn a_template_that_forgets_earlier_turns_leaves_the_last_to_learn() {
        let source = "{% for m in messages %}[{{ m.role }}]{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}\
                      {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
        let talk = json!([
            {"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"},
            {"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"},
        ]);
        let wanted = [("[user]who?[assistant][user]why?[assistant]", false), ("so", true)];
        expect(&shown(&base(Some(source)), &talk), &wanted);
    }

    #[test]
    fn without_a_template_one_question_is_bare_and_several_are_lines() {
        let base = base(None);
        let one = json!([{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"}]);
        expect(&shown(&base, &one), &[("$", false), ("who?", false), ("me$", true)]);
        let several = json!([
            {"role": "system", "content": "be short"}, {"role": "user", "content": "who?"},
            {"role": "assistant", "content": "me"},
        ]);
        expect(
            &shown(&base, &several),
            &[("$", false), ("system: be short\n", false), ("user: who?\n", false), ("me$", true)],
        );
        for bad in ["[]", "{}", "[1]", r#"[{"role": "user"}]"#, "no"] {
            assert!(pieces(&base, bad).is_err(), "{bad}");
        }
    }
}
