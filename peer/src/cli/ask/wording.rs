//! How a question is put and its answer drawn, as options.
//!
//! Invariant: what is out of range is refused by the option's name before the node is asked, and numbers become the whole
//! parts that travel.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};
use tributary_protocol::decoding::{BASIS_POINTS, MILLI};
use tributary_protocol::limits::{PROMPT_MAX_BYTES, SCHEMA_MAX_BYTES};

use crate::cli::failure::Failure;

/// The largest temperature, as OpenAI's interface has it.
const TEMPERATURE_MAX: f64 = 2.0;

#[derive(Debug, Args)]
pub(super) struct WordingArgs {
    /// Put the question as a user's message, through the base's chat template.
    #[arg(long)]
    chat: bool,
    /// What the model is told before the question; needs a base whose chat template knows a system's message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A JSON file with a conversation, a list of objects with role and content; the question, if given, comes last.
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// The most tokens of an answer.
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    max_tokens: u32,
    /// How freely words are chosen, 0 to 2: 0 always takes the likeliest.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = temperature)]
    temperature: i32,
    /// The seed of that choice; any by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Choose among so many likeliest tokens only; 0 is all.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    top_k: u32,
    /// Choose among the likeliest tokens that together have this probability only, above 0 to 1.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = probability)]
    top_p: i32,
    /// Choose among tokens at least this likely beside the likeliest only, 0 to 1.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = probability)]
    min_p: i32,
    /// How much less likely a token becomes that stands in prompt or answer, 0.1 to 10; 1 is not at all.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = repetition)]
    repetition_penalty: i32,
    /// How much less likely a token becomes each time it stands in the answer, -2 to 2.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = penalty)]
    frequency_penalty: i32,
    /// How much less likely a token becomes once it stands in the answer, -2 to 2.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = penalty)]
    presence_penalty: i32,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Hold the answer to one JSON object.
    #[arg(long, conflicts_with = "schema")]
    json_object: bool,
    /// Hold the answer to the JSON schema in this file.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Report each token's probability, and of so many of the likeliest beside it; they stand in what --json prints.
    #[arg(long, value_name = "TOKENS", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    logprobs: Option<u8>,
}

fn temperature(text: &str) -> Result<i32, String> {
    parts(text, MILLI, 0.0..=TEMPERATURE_MAX)
}

fn probability(text: &str) -> Result<i32, String> {
    parts(text, BASIS_POINTS, 0.0..=1.0)
}

fn repetition(text: &str) -> Result<i32, String> {
    parts(text, MILLI, 0.1..=10.0)
}

fn penalty(text: &str) -> Result<i32, String> {
    parts(text, MILLI, -2.0..=2.0)
}

/// A number in whole parts, rounded.
fn parts(text: &str, parts_of_one: u16, bounds: std::ops::RangeInclusive<f64>) -> Result<i32, String> {
    let wanted = || format!("give a number from {} to {}, such as 0.7", bounds.start(), bounds.end());
    let value: f64 = text.parse().map_err(|_| wanted())?;
    if !bounds.contains(&value) {
        return Err(wanted());
    }
    // Written out and read back: there is no checked conversion from floats.
    format!("{:.0}", value * f64::from(parts_of_one)).parse().map_err(|_| wanted())
}

impl WordingArgs {
    /// What to say of an answer of so many tokens when it has all that it may have.
    pub(super) fn is_spent_by(&self, answer_tokens: u64) -> Option<String> {
        let is_json = self.json_object || self.schema.is_some();
        let what = if is_json { "may be no whole JSON" } else { "may break off" };
        (answer_tokens >= u64::from(self.max_tokens))
            .then(|| format!("! the answer has all {} tokens that --max-tokens allows and {what}", self.max_tokens))
    }

    /// The fields of a question: prompt or messages, and how its answer is drawn.
    pub(super) fn fields(&self, prompt: Option<&str>) -> Result<Map<String, Value>, Failure> {
        let mut fields = self.question(prompt)?;
        let format = match &self.schema {
            Some(path) => json!({"json_schema": schema(path)?}),
            None if self.json_object => json!("json_object"),
            None => json!("text"),
        };
        let drawn = json!({
            "max_tokens": self.max_tokens,
            "temperature_milli": self.temperature,
            "seed": self.seed(),
            "top_k": self.top_k,
            "top_p_bp": self.top_p,
            "min_p_bp": self.min_p,
            "repetition_penalty_milli": self.repetition_penalty,
            "frequency_penalty_milli": self.frequency_penalty,
            "presence_penalty_milli": self.presence_penalty,
            "stop": self.stop,
            "format": format,
            "logprobs": self.logprobs,
        });
        fields.extend(drawn.as_object().cloned().unwrap_or_default());
        Ok(fields)
    }

    /// A seed makes a difference only where words are chosen.
    fn seed(&self) -> u64 {
        let any = || {
            let mut bytes = [0; 8];
            // Without randomness the choice is as good with zero.
            getrandom::fill(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
        };
        self.seed.unwrap_or_else(|| if self.temperature > 0 { any() } else { 0 })
    }

    fn question(&self, prompt: Option<&str>) -> Result<Map<String, Value>, Failure> {
        let hint = "tributary ask \"…\", or --messages FILE with a conversation";
        let is_chat = self.chat || self.system.is_some() || self.messages.is_some();
        let mut fields = Map::new();
        if !is_chat {
            let prompt = prompt.filter(|prompt| !prompt.is_empty());
            let prompt = prompt.ok_or_else(|| Failure::usage("there is no question", hint))?;
            fields.insert("prompt".into(), prompt.into());
            return Ok(fields);
        }
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let mut messages: Vec<Value> = self.system.iter().map(|text| said("system", text)).collect();
        if let Some(path) = &self.messages {
            messages.extend(conversation(path)?);
        }
        messages.extend(prompt.map(|text| said("user", text)));
        if messages.iter().all(|message| message["role"] == "system") {
            return Err(Failure::usage("there is no question", hint));
        }
        fields.insert("messages".into(), messages.into());
        Ok(fields)
    }
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()), "give a file");
    let length = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if usize::try_from(length).unwrap_or(usize::MAX) > most {
        return Err(failed(&format!("{length} bytes, at most {most}")));
    }
    std::fs::read(path).map_err(|error| failed(&error))
}

fn conversation(path: &Path) -> Result<Vec<Value>, Failure> {
    let hint = r#"write [{"role": "user", "content": "…"}, …]"#;
    let refused = |what: String| Failure::usage(format!("{}: {what}", path.display()), hint);
    let given: Value =
        serde_json::from_slice(&read(path, PROMPT_MAX_BYTES)?).map_err(|error| refused(error.to_string()))?;
    // A whole request has its conversation in a field.
    let messages = if given["messages"].is_array() { &given["messages"] } else { &given };
    let messages = messages.as_array().ok_or_else(|| refused("this is no list of messages".into()))?;
    match messages.iter().position(|message| !message["role"].is_string()) {
        Some(at) => Err(refused(format!("message {} has no role", at + 1))),
        None => Ok(messages.clone()),
    }
}

fn schema(path: &Path) -> Result<String, Failure> {
    let refused = |error| Failure::usage(format!("{}: {error}", path.display()), "give a JSON schema");
    let schema: Value = serde_json::from_slice(&read(path, SCHEMA_MAX_BYTES)?).map_err(refused)?;
    Ok(schema.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tributary_protocol::decoding::{Decoding, Format};

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        wording: WordingArgs,
    }

    fn fields(given: &[&str], prompt: Option<&str>) -> Result<Map<String, Value>, Failure> {
        Only::try_parse_from([&["test"], given].concat()).unwrap().wording.fields(prompt)
    }

    fn decoding(given: &[&str]) -> Decoding {
        serde_json::from_value(Value::Object(fields(given, Some("p")).unwrap())).unwrap()
    }

    #[test]
    fn an_answer_that_took_all_its_tokens_says_what_may_be_missing() {
        let wording = |given: &[&str]| Only::try_parse_from([&["test"], given].concat()).unwrap().wording;
        assert_eq!(wording(&["--max-tokens", "8"]).is_spent_by(7), None);
        let told = wording(&["--max-tokens", "8", "--json-object"]).is_spent_by(8).unwrap();
        assert!(told.contains("all 8 tokens") && told.contains("no whole JSON"), "{told}");
        assert!(wording(&[]).is_spent_by(64).unwrap().contains("break off"));
    }

    #[test]
    fn options_become_the_decoding_that_travels() {
        assert_eq!(decoding(&[]), Decoding::default());
        let drawn = decoding(&[
            "--temperature",
            "0.7",
            "--top-p",
            "0.95",
            "--top-k",
            "40",
            "--min-p",
            "0.05",
            "--seed",
            "3",
            "--stop",
            "a",
            "--stop",
            "b",
            "--logprobs",
            "--repetition-penalty",
            "1.1",
            "--presence-penalty=-0.5",
            "--json-object",
            "--max-tokens",
            "9",
        ]);
        let expected = Decoding {
            max_tokens: 9,
            temperature_milli: 700,
            seed: 3,
            top_k: 40,
            top_p_bp: 9_500,
            min_p_bp: 500,
            repetition_penalty_milli: 1_100,
            frequency_penalty_milli: 0,
            presence_penalty_milli: -500,
            stop: vec!["a".into(), "b".into()],
            format: Format::JsonObject,
            logprobs: Some(0),
        };
        assert_eq!((&drawn, drawn.fault()), (&expected, None));
        assert_eq!(decoding(&["--logprobs=5"]).logprobs, Some(5));
        let [one, other] = [(); 2].map(|()| decoding(&["--temperature", "1"]).seed);
        assert_ne!(one, other, "without a seed each question has another");
    }

    #[test]
    fn what_is_out_of_range_names_its_option() {
        for (option, value) in [
            ("--temperature", "2.1"),
            ("--temperature", "700"),
            ("--top-p", "1.5"),
            ("--min-p", "x"),
            ("--repetition-penalty", "0"),
        ] {
            let told = Only::try_parse_from(["test", option, value]).map(|_| ()).unwrap_err().to_string();
            assert!(told.contains(option) && told.contains("give a number from"), "{told}");
        }
    }

    #[test]
    fn a_chat_is_its_messages_and_a_question_must_be_there() {
        assert_eq!(fields(&[], Some("p")).unwrap()["prompt"], "p");
        let user = json!({"role": "user", "content": "p"});
        assert_eq!(fields(&["--chat"], Some("p")).unwrap()["messages"], json!([user]));
        let system = json!({"role": "system", "content": "s"});
        assert_eq!(fields(&["--system", "s"], Some("p")).unwrap()["messages"], json!([system, user]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let talk = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
        std::fs::write(&path, talk.to_string()).unwrap();
        let file = path.to_str().unwrap();
        let asked = fields(&["--messages", file], Some("p")).unwrap();
        assert_eq!(asked["messages"], json!([talk[0], talk[1], user]));
        assert_eq!(fields(&["--messages", file], None).unwrap()["messages"], talk);
        for wrong in ["[", "{}", "[{}]"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(fields(&["--messages", file], None).unwrap_err().message.contains("talk.json"), "{wrong}");
        }
        for (given, prompt) in [(&[][..], None), (&[][..], Some("")), (&["--system", "s"][..], None)] {
            assert_eq!(fields(given, prompt).unwrap_err().message, "there is no question");
        }
        std::fs::write(&path, r#"{"type": "object"}"#).unwrap();
        let held = serde_json::from_value::<Decoding>(Value::Object(fields(&["--schema", file], Some("p")).unwrap()));
        assert_eq!(held.unwrap().format, Format::JsonSchema(r#"{"type":"object"}"#.into()));
    }
}
