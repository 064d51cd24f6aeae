//! What a stranger's `tokenizer.json` may ask for: the steps that the model families use, and no more.
//!
//! Invariant: with a file that passes, a text grows by at most [`MAX_GROWTH`] on its way in and out, and a pattern takes no
//! more than the square of the text's length: those that would need backtracking are only the families' own.

use serde_json::Value;

/// Times a text may become longer; `NFKC` and a space's replacement by three bytes need 33.
const MAX_GROWTH: usize = 64;
/// Most steps of a sequence; those of the families have up to five.
const MAX_STEPS: usize = 16;
/// The longest text that a step puts in.
const MAX_CONTENT_BYTES: usize = 64;
/// The longest pattern that isn't known.
const MAX_PATTERN_BYTES: usize = 512;
/// Most parts of a template; those of the families have up to three.
const MAX_TEMPLATE_PARTS: usize = 8;

/// How GPT-2 splits.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How Llama 3 splits.
pub(crate) const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 and 3 split.
pub(crate) const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Mistral's newer models split.
pub(crate) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Checks the steps of a `tokenizer.json`.
pub(super) fn check(file: &Value) -> Result<(), String> {
    for (part, inner, rule) in [
        ("normalizer", "normalizers", normalizer as Rule),
        ("pre_tokenizer", "pretokenizers", pre_tokenizer),
        ("decoder", "decoders", decoder),
        ("post_processor", "processors", post_processor),
    ] {
        check_part(&file[part], inner, rule).map_err(|what| format!("{part}: {what}"))?;
    }
    // The crate panics where a token is shorter than the prefix it should have.
    let prefix = file.pointer("/model/continuing_subword_prefix");
    match prefix.is_none_or(|prefix| prefix.is_null() || prefix == "") {
        true => Ok(()),
        false => Err("a continuing_subword_prefix is not supported".into()),
    }
}

/// How much longer a step makes a text, if it may be asked for.
type Rule = fn(&str, &Value) -> Result<usize, String>;

fn check_part(part: &Value, inner: &str, rule: Rule) -> Result<(), String> {
    if part.is_null() {
        return Ok(());
    }
    let steps = match part["type"].as_str() {
        Some("Sequence") => part[inner].as_array().ok_or("a sequence without steps")?.as_slice(),
        _ => std::slice::from_ref(part),
    };
    if steps.len() > MAX_STEPS {
        return Err(format!("{} steps, at most {MAX_STEPS}", steps.len()));
    }
    let mut growth = 1_usize;
    for step in steps {
        let kind = step["type"].as_str().ok_or("a step without a type")?;
        growth = growth.saturating_mul(rule(kind, step)?);
    }
    match growth <= MAX_GROWTH {
        true => Ok(()),
        false => Err(format!("a text may become {growth} times as long, allowed are {MAX_GROWTH}")),
    }
}

fn unknown(kind: &str) -> Result<usize, String> {
    Err(format!("{kind:?} is not supported"))
}

fn normalizer(kind: &str, step: &Value) -> Result<usize, String> {
    match kind {
        "NFC" | "NFD" => Ok(4),
        "NFKC" | "NFKD" => Ok(11),
        "Lowercase" => Ok(2),
        "Strip" => Ok(1),
        "Prepend" => short(&step["prepend"]).map(|_| 1),
        "Replace" => replacement(step),
        _ => unknown(kind),
    }
}

fn pre_tokenizer(kind: &str, step: &Value) -> Result<usize, String> {
    match kind {
        // A byte becomes a letter of up to two.
        "ByteLevel" => Ok(2),
        "Metaspace" => Ok(4),
        "Digits" => Ok(1),
        "Split" => pattern(&step["pattern"]).map(|_| 1),
        _ => unknown(kind),
    }
}

fn decoder(kind: &str, step: &Value) -> Result<usize, String> {
    match kind {
        // A byte that is no UTF-8 becomes the three of a replacement character.
        "ByteLevel" | "ByteFallback" => Ok(3),
        "Fuse" | "Strip" | "Metaspace" => Ok(1),
        "Replace" => replacement(step),
        _ => unknown(kind),
    }
}

fn post_processor(kind: &str, step: &Value) -> Result<usize, String> {
    let short = |list: &Value| list.as_array().is_none_or(|parts| parts.len() <= MAX_TEMPLATE_PARTS);
    match kind {
        "ByteLevel" => Ok(1),
        "TemplateProcessing" if short(&step["single"]) && short(&step["pair"]) => Ok(step["single"]
            .as_array()
            .map_or(1, |parts| parts.iter().filter(|part| part["Sequence"].is_object()).count().max(1))),
        "TemplateProcessing" => Err(format!("a template of more than {MAX_TEMPLATE_PARTS} parts")),
        _ => unknown(kind),
    }
}

fn short(text: &Value) -> Result<usize, String> {
    match text.as_str().map(str::len) {
        Some(length) if length <= MAX_CONTENT_BYTES => Ok(length),
        Some(length) => Err(format!("{length} bytes put in, at most {MAX_CONTENT_BYTES}")),
        None => Err("no text to put in".into()),
    }
}

fn replacement(step: &Value) -> Result<usize, String> {
    let content = short(&step["content"])?;
    // Where the pattern may match nothing, the content comes before every byte.
    Ok(match pattern(&step["pattern"])? {
        0 => content + 1,
        least => content.div_ceil(least).max(1),
    })
}

/// The fewest bytes that a pattern matches, as far as that is plain.
fn pattern(pattern: &Value) -> Result<usize, String> {
    match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
        (Some(""), _) => Err("an empty pattern".into()),
        (Some(text), None) => Ok(text.len()),
        (None, Some(GPT_2 | LLAMA_3 | QWEN_2 | TEKKEN)) => Ok(1),
        (None, Some(regex)) if needs_no_backtracking(regex) => Ok(0),
        (None, Some(regex)) => Err(format!("the pattern {:?} might take for ever", regex.get(..80).unwrap_or(regex))),
        _ => Err("a pattern that is neither a text nor an expression".into()),
    }
}

/// Whether an expression is of the kind that an automaton matches in one pass: only what is known to be so, since
/// fancy-regex goes back and forth for all else.
fn needs_no_backtracking(regex: &str) -> bool {
    let mut chars = regex.chars().peekable();
    let mut repeated = false;
    while let Some(char) = chars.next() {
        let again = matches!(char, '*' | '+' | '?' | '}');
        let fine = match char {
            '\\' => chars.next().is_some_and(|escaped| {
                escaped.is_ascii_punctuation()
                    || matches!(escaped, 'p' | 'P' | 's' | 'S' | 'd' | 'D' | 'w' | 'W' | 'r' | 'n' | 't')
            }),
            // Groups may be plain or without a number; all others look around, hold fast or refer to something.
            '(' if chars.peek() == Some(&'?') => {
                chars.next();
                let after: String = chars.clone().take(2).collect();
                after.starts_with(':') || after == "i:"
            }
            // A repetition that gives nothing back.
            '+' => !repeated,
            _ => true,
        };
        if !fine {
            return false;
        }
        repeated = again;
    }
    regex.len() <= MAX_PATTERN_BYTES
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{GPT_2, LLAMA_3, QWEN_2, TEKKEN, check};

    fn split(regex: &str) -> Value {
        json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}})
    }

    #[test]
    fn what_the_families_use_is_read() {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        for regex in [GPT_2, LLAMA_3, QWEN_2, TEKKEN, r"\p{N}{1,3}", r"[\r\n]", " ?[a-z]+", "(?:a|b)+", "(a+)+"] {
            assert_eq!(check(&split(regex)), Ok(()), "{regex}");
        }
        let fine = [
            json!({"model": {"continuing_subword_prefix": ""}}),
            json!({"normalizer": {"type": "NFC"}, "decoder": {"type": "ByteLevel"}}),
            json!({"normalizer": {"type": "Sequence", "normalizers": [prepend, replace(" ", "▁")]}}),
            json!({"decoder": {"type": "Sequence", "decoders": [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip"}]}}),
            json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}}),
            json!({"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}, {"Sequence": {}}]}]}}),
        ];
        for file in fine {
            assert_eq!(check(&file), Ok(()), "{file}");
        }
    }

    #[test]
    fn what_costs_more_than_the_text_is_refused() {
        let regexes = [
            "(?=(a+)+$)x",
            "(?:a|b|ab)*?(?=c)",
            r"(a)\1",
            "(?>a)",
            "a++",
            "a*+",
            "a{2}+",
            "(?<=a)b",
            "(?<n>a)",
            r"\Ka",
            "(?x) a",
            r"(?(1)a|b)",
        ];
        for regex in regexes {
            assert!(check(&split(regex)).is_err(), "{regex}");
        }
        let dot = json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "xx"});
        let bytes = json!({"type": "ByteLevel"});
        let hostile = [
            json!({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(1 << 20)}}),
            json!({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "b"}}),
            json!({"normalizer": {"type": "Prepend", "prepend": "b".repeat(1 << 20)}}),
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}),
            json!({"normalizer": {"precompiled_charsmap": "/////w=="}}),
            json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}}),
            json!({"decoder": {"type": "Sequence", "decoders": vec![dot; 12]}}),
            json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![bytes; 12]}}),
            json!({"post_processor": {"type": "TemplateProcessing", "single": vec![json!({"Sequence": {}}); 99]}}),
            json!({"model": {"continuing_subword_prefix": "##"}}),
        ];
        for file in hostile {
            assert!(check(&file).is_err(), "{}", &file.to_string()[..60]);
        }
    }
}
