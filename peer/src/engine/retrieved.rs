//! Answers with retrieved records: the prompt that the model reads, and the answer's losses without some of them.
//!
//! Invariant: the prompt follows from question and passages alone, as `protocol::retrieval` forms it, so worker, verifier
//! and judge compute the same tokens; what is given up because it doesn't fit the context is the least likely.

use serde_json::Value;
use tributary_compute::attribute::coalition_losses;
use tributary_compute::lora::Adapter;
use tributary_compute::model::Base;
use tributary_protocol::decoding::Prompt;
use tributary_protocol::refusal::RefusalKind;
use tributary_protocol::retrieval::{Passage, before};

use super::serving::{Ended, tokens_of};

fn invalid(reason: &str) -> Ended {
    Ended::Refused(RefusalKind::Invalid, reason.to_owned())
}

/// The prompt with passages before the question; of a conversation, before the user's last message.
fn with(prompt: &Prompt, passages: &[&Passage]) -> Result<Prompt, Ended> {
    let stand = |question: &str| before(passages.iter().copied(), question);
    match prompt {
        _ if passages.is_empty() => Ok(prompt.clone()),
        Prompt::Text(text) => Ok(Prompt::Text(stand(text))),
        Prompt::Chat { conversation, at_s } => {
            let mut parsed: Value = serde_json::from_str(conversation).map_err(|error| invalid(&error.to_string()))?;
            let messages = parsed.get_mut("messages").and_then(Value::as_array_mut);
            let last = messages.and_then(|all| all.iter_mut().rfind(|message| message["role"] == "user"));
            let content = last.and_then(|message| message.get_mut("content"));
            let none = || invalid("records are retrieved for a message of the user with text only");
            let content = content.ok_or_else(none)?;
            *content = Value::String(content.as_str().map(stand).ok_or_else(none)?);
            Ok(Prompt::Chat { conversation: parsed.to_string(), at_s: *at_s })
        }
    }
}

/// The tokens of a prompt with all these passages.
pub(super) fn tokens_with(base: &Base, prompt: &Prompt, passages: &[Passage]) -> Result<Vec<u32>, Ended> {
    tokens_of(base, &with(prompt, &passages.iter().collect::<Vec<_>>())?)
}

/// The prompt's tokens with as many of the passages as leave room for the answer, the last ones.
pub(super) fn fitting(
    base: &Base,
    prompt: &Prompt,
    mut passages: Vec<Passage>,
    answer_tokens: u32,
) -> Result<(Vec<u32>, Vec<Passage>), Ended> {
    let answer_tokens = usize::try_from(answer_tokens).unwrap_or(usize::MAX);
    loop {
        let tokens = tokens_with(base, prompt, &passages)?;
        if passages.is_empty() || tokens.len().saturating_add(answer_tokens) <= base.config().max_positions {
            return Ok((tokens, passages));
        }
        passages.remove(0);
    }
}

/// The answer's losses under all coalitions, in the order of [`Context`](tributary_protocol::retrieval::Context).
pub(super) fn losses(
    base: &Base,
    adapter: &Adapter,
    prompt: &Prompt,
    passages: &[Passage],
    output: &[u32],
) -> Result<Vec<i64>, Ended> {
    if passages.is_empty() {
        return Ok(Vec::new());
    }
    let of = |some: usize| {
        let passages = passages.iter().enumerate().filter(|(place, _)| some >> place & 1 == 1);
        tokens_of(base, &with(prompt, &passages.map(|(_, passage)| passage).collect::<Vec<_>>())?)
    };
    let prompts = (0..1_usize << passages.len()).map(of).collect::<Result<Vec<_>, Ended>>()?;
    coalition_losses(base, adapter, &prompts, output).map_err(|error| Ended::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use tributary_protocol::id::Hash;

    use super::*;

    fn passage() -> Passage {
        Passage { record: Hash([1; 32]), contributor: 0, prompt: "Who?".into(), completion: " Jarelle.".into() }
    }

    fn chat(conversation: &str) -> Prompt {
        Prompt::Chat { conversation: conversation.into(), at_s: 3 }
    }

    #[test]
    fn passages_stand_before_the_last_words_of_the_user() {
        let passage = passage();
        let text = with(&"Who else?".into(), &[&passage]).ok().unwrap();
        assert_eq!(text, Prompt::from("Who? Jarelle.\n\nWho else?"));
        let conversation = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"x":1}"#;
        let asked = with(&chat(conversation), &[&passage]).ok().unwrap();
        let expected = conversation.replace("\"c\"", r#""Who? Jarelle.\n\nc""#);
        assert_eq!(asked, chat(&expected));
        assert_eq!(with(&chat("nothing"), &[]).ok().unwrap(), chat("nothing"));
    }

    #[test]
    fn conversations_without_a_text_of_the_user_are_refused() {
        let hostile = [
            "nothing",
            "[]",
            r#"{"messages":7}"#,
            r#"{"messages":[{"role":"system","content":"s"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"q"}]}]}"#,
            r#"{"messages":["user"]}"#,
        ];
        for conversation in hostile {
            let refused = with(&chat(conversation), &[&passage()]);
            assert!(matches!(refused, Err(Ended::Refused(RefusalKind::Invalid, _))), "{conversation}");
        }
    }
}
