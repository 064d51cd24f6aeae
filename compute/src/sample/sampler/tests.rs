use super::{Sampler, Sampling, top_logprobs};
use crate::engine::GenerateParams;
use crate::ops::narrow;
use crate::sample::{Format, pick};
use crate::tokenizer::{Tokenizer, train_byte_level};

fn tokenizer() -> Tokenizer {
    let texts = ["{\"name\": \"mill\", \"size\": 12}".to_owned(), "the old mill grinds the grain".to_owned()];
    Tokenizer::from_bytes(&train_byte_level(&texts, 300).unwrap(), 300, Some(0), &[0]).unwrap()
}

fn logits(count: u32, seed: f32) -> Vec<f32> {
    (0..count).map(|at| narrow((f64::from(at) * 0.37 + f64::from(seed)).sin() * 3.0)).collect()
}

fn sampler(params: &GenerateParams, prompt: &[u32]) -> Sampler {
    Sampler::new(&tokenizer(), params, prompt).unwrap()
}

fn hot(sampling: Sampling) -> GenerateParams {
    GenerateParams { temperature: 1.0, seed: 3, sampling, ..GenerateParams::default() }
}

#[test]
fn defaults_pick_what_the_plain_pick_does() {
    for temperature in [0.0, 0.7, 2.0] {
        let params = GenerateParams { temperature, seed: 9, ..GenerateParams::default() };
        let mut sampler = sampler(&params, &[1, 2]);
        for step in 0..50 {
            let logits = logits(300, step as f32);
            let token = sampler.pick(&logits, step).unwrap();
            assert_eq!(token, pick(&logits, temperature, 9, step).unwrap());
            sampler.accept(token).unwrap();
        }
    }
}

#[test]
fn a_filter_that_cuts_nothing_changes_nothing() {
    let mut wide = sampler(&hot(Sampling { top_k: 1_000, min_p: 1e-30, ..Sampling::default() }), &[]);
    for step in 0..50 {
        let logits = logits(301, step as f32);
        assert_eq!(wide.pick(&logits, step).unwrap(), pick(&logits, 1.0, 3, step).unwrap());
    }
}

#[test]
fn one_candidate_left_is_greedy() {
    let mut narrow = sampler(&hot(Sampling { top_k: 1, ..Sampling::default() }), &[]);
    for step in 0..50 {
        let logits = logits(300, step as f32);
        assert_eq!(narrow.pick(&logits, step).unwrap(), pick(&logits, 0.0, 0, 0).unwrap());
    }
}

#[test]
fn penalties_follow_prompt_and_answer() {
    let greedy = |sampling| GenerateParams { sampling, ..GenerateParams::default() };
    let logits = [1.0, 2.0, 1.5, -1.0];
    let mut repeats = sampler(&greedy(Sampling { repetition_penalty: 2.0, ..Sampling::default() }), &[1]);
    assert_eq!(repeats.pick(&logits, 0).unwrap(), 2);
    repeats.accept(2).unwrap();
    assert_eq!(repeats.pick(&logits, 1).unwrap(), 0, "1.0 and 0.75 are below the untouched 1.0 at 0");
    let mut frequent = sampler(&greedy(Sampling { frequency_penalty: 0.3, ..Sampling::default() }), &[1]);
    let mut picked = Vec::new();
    for step in 0..4 {
        let token = frequent.pick(&logits, step).unwrap();
        frequent.accept(token).unwrap();
        picked.push(token);
    }
    assert_eq!(picked, [1, 1, 2, 1], "2.0, 1.7, then 1.5 before 1.4, then 1.4 before 1.2");
    let mut present = sampler(&greedy(Sampling { presence_penalty: 0.7, ..Sampling::default() }), &[1]);
    assert_eq!(present.pick(&logits, 0).unwrap(), 1);
    present.accept(1).unwrap();
    assert_eq!(present.pick(&logits, 1).unwrap(), 2);
}

#[test]
fn logprobs_are_the_log_softmax() {
    let logits = [1.0_f32.ln(), 2.0_f32.ln(), 5.0_f32.ln()];
    let (chosen, top) = top_logprobs(&logits, 0, 2).unwrap();
    assert!((chosen.logprob - 0.125_f32.ln()).abs() < 1e-6);
    assert_eq!(top.iter().map(|one| one.token).collect::<Vec<_>>(), [2, 1]);
    assert!((top[0].logprob - 0.625_f32.ln()).abs() < 1e-6);
    assert!(top_logprobs(&logits, 3, 0).is_err());
}

/// Random logits, so that only the grammar makes JSON of it.
fn generated(format: Format, seed: u64) -> String {
    generated_by(format, seed, |_| ())
}

/// The same with logits that are bent first.
fn generated_by(format: Format, seed: u64, bend: impl Fn(&mut [f32])) -> String {
    let tokenizer = tokenizer();
    let params = GenerateParams { temperature: 1.0, seed, format, ..GenerateParams::default() };
    let mut sampler = Sampler::new(&tokenizer, &params, &[]).unwrap();
    let mut tokens = Vec::new();
    for step in 0..3_000 {
        let mut logits = logits(300, step as f32);
        bend(&mut logits);
        let token = sampler.pick(&logits, step).unwrap();
        sampler.accept(token).unwrap();
        if tokenizer.is_end(token) {
            return tokenizer.decode(&tokens).unwrap();
        }
        tokens.push(token);
    }
    panic!("no end after {} tokens: {}", tokens.len(), tokenizer.decode(&tokens).unwrap());
}

#[test]
fn a_schema_holds_whatever_the_logits_say() {
    let schema = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 6},
        "size": {"type": "integer", "minimum": 3, "maximum": 99}, "kind": {"enum": ["mill", "river"]}},
        "required": ["name", "size", "kind"], "additionalProperties": false}"#;
    for seed in 0..8 {
        let text = generated(Format::JsonSchema(schema.to_owned()), seed);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value["name"].as_str().unwrap().chars().count() <= 6, "{text}");
        assert!((3..=99).contains(&value["size"].as_i64().unwrap()), "{text}");
        assert!(["mill", "river"].contains(&value["kind"].as_str().unwrap()), "{text}");
    }
}

#[test]
fn blanks_without_end_are_no_json() {
    let tokenizer = tokenizer();
    let blanks: Vec<u32> = ["Ġ", "Ċ", "ĉ"].into_iter().filter_map(|blank| tokenizer.id(blank)).collect();
    assert_eq!(blanks.len(), 3, "byte-level vocabularies have them");
    let schema = r#"{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],
        "additionalProperties": false, "x-guidance": {"whitespace_flexible": true}}"#;
    let text = generated_by(Format::JsonSchema(schema.to_owned()), 1, |logits| {
        for blank in &blanks {
            logits[*blank as usize] = 100.0;
        }
    });
    assert!(text.len() < 120, "{text:?}");
    assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["n"].is_u64(), "{text}");
}

#[test]
fn a_json_object_is_one() {
    let text = generated(Format::JsonObject, 1);
    assert!(serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok(), "{text}");
}

#[test]
fn schemas_that_are_none_are_refused() {
    for schema in ["{", "{\"type\": \"nonsense\"}", "{\"$ref\": \"http://elsewhere/schema\"}", "[1]"] {
        let format = Format::JsonSchema(schema.to_owned());
        let params = GenerateParams { format, ..GenerateParams::default() };
        assert!(Sampler::new(&tokenizer(), &params, &[]).is_err(), "{schema}");
    }
    // llguidance panics at this one, and catches that.
    let schema = r#"{"type": "integer", "multipleOf": 982451653, "minimum": 1}"#;
    let params = GenerateParams { format: Format::JsonSchema(schema.into()), ..GenerateParams::default() };
    let error = Sampler::new(&tokenizer(), &params, &[]).err().expect("accepted").to_string();
    assert_eq!(error, "constrained output: this schema can't be compiled");
    let format = Format::JsonSchema(" ".repeat(super::super::MAX_SCHEMA_BYTES + 1));
    assert!(Sampler::new(&tokenizer(), &GenerateParams { format, ..GenerateParams::default() }, &[]).is_err());
}
