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
use tributary_protocol::retrieval::{Passage, before, coalitions};

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

/// Tokens of all coalitions' prompts at the most: what an answer with records may cost beside itself, in prefills.
const COALITION_TOKENS_MAX: usize = 64 * 1024;

/// Whether computing an answer's losses without some of the passages is more than anybody has to do: then fewer stand there.
pub(super) const fn is_too_much(passages: usize, prompt_tokens: usize) -> bool {
    passages > 0 && coalitions(passages).saturating_mul(prompt_tokens) > COALITION_TOKENS_MAX
}

/// The prompt's tokens with as many of the passages as leave room for the answer and can be accounted for, the last ones; with
/// none where nothing is asked, since the answer would have no prompt without them.
pub(super) fn fitting(
    base: &Base,
    prompt: &Prompt,
    mut passages: Vec<Passage>,
    answer_tokens: u32,
) -> Result<(Vec<u32>, Vec<Passage>), Ended> {
    let answer_tokens = usize::try_from(answer_tokens).unwrap_or(usize::MAX);
    if !passages.is_empty() && tokens_of(base, prompt)?.is_empty() {
        passages.clear();
    }
    loop {
        let tokens = tokens_with(base, prompt, &passages)?;
        let is_long = tokens.len().saturating_add(answer_tokens) > base.config().max_positions;
        if passages.is_empty() || !(is_long || is_too_much(passages.len(), tokens.len())) {
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
    goes_on: &dyn Fn() -> bool,
) -> Result<Vec<i64>, Ended> {
    if passages.is_empty() {
        return Ok(Vec::new());
    }
    let of = |some: usize| {
        let passages = passages.iter().enumerate().filter(|(place, _)| some >> place & 1 == 1);
        tokens_of(base, &with(prompt, &passages.map(|(_, passage)| passage).collect::<Vec<_>>())?)
    };
    let prompts = (0..1_usize << passages.len()).map(of).collect::<Result<Vec<_>, Ended>>()?;
    coalition_losses(base, adapter, &prompts, output, goes_on).map_err(|error| Ended::Failed(error.to_string()))
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
    fn what_nobody_has_to_compute_is_bounded() {
        assert!(!is_too_much(0, usize::MAX));
        assert!(!is_too_much(5, 1_024) && is_too_much(5, 1_025));
        assert!(is_too_much(1, usize::MAX));
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
