//! Conversations rendered as `transformers` renders them, and where texts begin and end.

use tributary_compute::chat::{ChatError, ChatTemplate, Conversation, SpecialTexts};
use tributary_compute::model::{Base, Extras};

use crate::golden::folder;
use crate::parity;

#[test]
fn conversations_are_rendered_as_by_transformers() {
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(folder().join("chat.json")).unwrap()).unwrap();
    let (mut rendered, mut refused) = (0, 0);
    for case in told["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let source = told["templates"][case["template"].as_str().unwrap()].as_str().unwrap();
        let specials = SpecialTexts { bos: Some("<s>".into()), eos: Some("</s>".into()) };
        let template = ChatTemplate::new(&[("default".into(), source.into())], specials).unwrap();
        let conversation = Conversation::from_json(case["conversation"].as_str().unwrap().as_bytes()).unwrap();
        let ours = template.render(&conversation, case["ask"].as_bool().unwrap(), 0);
        match case["rendered"].as_str() {
            Some(theirs) => {
                assert_eq!(ours.unwrap_or_else(|error| panic!("{name}: {error}")), theirs, "{name}");
                rendered += 1;
            }
            None => {
                assert!(ours.is_err(), "{name} was not refused");
                let why = case["refused"].as_str().unwrap();
                let raised = why.contains("alternate") || why.contains("supported");
                assert_eq!(matches!(ours, Err(ChatError::Refused(_))), raised, "{name}: {ours:?}");
                refused += 1;
            }
        }
    }
    assert!(rendered > 20 && refused > 2, "{rendered} rendered, {refused} refused");
}

fn base(extras: Extras<'_>) -> Result<Base, String> {
    let [config, tokenizer, weights] = parity::base_files();
    Base::from_bytes_with(&config, &tokenizer, &weights, extras).map_err(|error| error.to_string())
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

#[test]
fn texts_begin_and_end_as_the_files_say() {
    let bare = base(Extras::default()).unwrap();
    assert_eq!(bare.hash(), parity::base().hash(), "three files alone keep their hash");
    assert_eq!(bare.tokenizer().encode_prompt("the").unwrap()[0], 0, "a bare Llama begins texts");
    let without = json(&serde_json::json!({"add_bos_token": false, "eos_token": {"content": "<|endoftext|>"}}));
    let ends = json(&serde_json::json!({"eos_token_id": [7, 9]}));
    let quiet =
        base(Extras { tokenizer_config: Some(&without), generation_config: Some(&ends), ..Extras::default() }).unwrap();
    assert_ne!(quiet.hash(), bare.hash());
    assert_eq!(quiet.tokenizer().encode_prompt("the").unwrap(), bare.tokenizer().encode("the").unwrap());
    let is_end = |token| quiet.tokenizer().is_end(token);
    assert!(is_end(0) && is_end(7) && is_end(9) && !is_end(8));
    assert_eq!(quiet.tokenizer().encode_completion("the").unwrap().last(), Some(&0), "the tokenizer's own end");
    let silent = json(&serde_json::json!({}));
    let silent = base(Extras { tokenizer_config: Some(&silent), ..Extras::default() }).unwrap();
    assert_ne!(silent.tokenizer().encode_prompt("the").unwrap()[0], 0, "nothing asks for a begin token");
    assert!(matches!(*silent.chat().unwrap_err(), ChatError::None));
}

#[test]
fn a_tokenizers_template_says_whether_texts_begin() {
    let [config, tokenizer, weights] = parity::base_files();
    for (first, begins) in [
        (serde_json::json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}), true),
        (serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}), false),
    ] {
        let mut tokenizer: serde_json::Value = serde_json::from_slice(&tokenizer).unwrap();
        let sequence = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
        let single = if begins { vec![first, sequence] } else { vec![first] };
        tokenizer["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing", "single": single, "pair": single,
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        });
        let base = Base::from_bytes(&config, &json(&tokenizer), &weights).unwrap();
        assert_eq!(base.tokenizer().encode_prompt("the").unwrap()[0] == 0, begins);
    }
}

#[test]
fn templates_come_from_either_file() {
    let with = |template: serde_json::Value| {
        json(&serde_json::json!({"bos_token": "<|endoftext|>", "chat_template": template}))
    };
    let talk = Conversation::of(&[("user", "hi")]);
    let said = |extras: Extras<'_>| base(extras).unwrap().chat().unwrap().render(&talk, true, 0);
    let one = with("{{ bos_token }}{{ messages[0].content }}".into());
    let many = with(serde_json::json!([
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "usual"},
    ]));
    let only = |tokenizer_config| Extras { tokenizer_config: Some(tokenizer_config), ..Extras::default() };
    assert_eq!(said(only(&one)).unwrap(), "<|endoftext|>hi");
    assert_eq!(said(only(&many)).unwrap(), "usual");
    let own = Extras { chat_template: Some(b"own"), ..only(&one) };
    assert_eq!(said(own).unwrap(), "own");
    let broken = Extras { chat_template: Some(b"{% if %}"), ..Extras::default() };
    assert!(matches!(said(broken).unwrap_err(), ChatError::Template(_)), "the base loads, its template is refused");
}

#[test]
fn hostile_talking_files_are_refused() {
    let many: Vec<u32> = (0..100).collect();
    for (tokenizer_config, generation_config) in [
        (Some(vec![b'['; 1 << 20]), None),
        (Some(vec![b' '; 8 << 20]), None),
        (Some(json(&serde_json::json!({"add_bos_token": "yes"}))), None),
        (None, Some(json(&serde_json::json!({"eos_token_id": 300})))),
        (None, Some(json(&serde_json::json!({"eos_token_id": many})))),
        (None, Some(json(&serde_json::json!({"eos_token_id": "end"})))),
        (None, Some(vec![b' '; 1 << 20])),
    ] {
        let extras = Extras {
            tokenizer_config: tokenizer_config.as_deref(),
            generation_config: generation_config.as_deref(),
            ..Extras::default()
        };
        assert!(base(extras).is_err());
    }
}
