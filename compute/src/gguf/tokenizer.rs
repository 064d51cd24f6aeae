//! `tokenizer.json` out of GGUF's metadata: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`).
//!
//! Invariant: how a text is split is known for the named pre-tokenizer, or the file is refused: a tokenizer that almost
//! fits would make a model quietly worse.

use std::collections::HashMap;
use std::io::{Read, Seek};

use serde_json::{Value as Json, json};

use super::{GgufError, GgufFile, Value, Values};
use crate::model::MAX_VOCAB;
use crate::tokenizer::{LLAMA_3, QWEN_2, TEKKEN, Tokenizer};

/// The longest token; vocabularies have runs of about a hundred spaces.
pub const MAX_TOKEN_BYTES: usize = 1024;
/// The longest piece of a SentencePiece model, whose merges are found by trying every split; real ones end at 48.
const MAX_PIECE_BYTES: usize = 128;

/// ggml's kinds of tokens that are matched before anything else.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const KINDS: &str = "tokenizer.ggml.token_type";
const TOKENS: &str = "tokenizer.ggml.tokens";
const PRE: &str = "tokenizer.ggml.pre";

/// A place of the vocabulary that no token has.
const UNUSED: i64 = 5;
const NORMAL: i64 = 1;

/// The tokenizer of the file as `tokenizer.json`.
///
/// # Errors
/// When an entry is missing, malformed, out of bounds, or names a tokenizer we don't know.
pub(crate) fn tokenizer_json<R: Read + Seek>(file: &GgufFile<R>) -> Result<Vec<u8>, GgufError> {
    let tokens = file.need(TOKENS, Value::texts)?;
    if tokens.is_empty() || tokens.len() > MAX_VOCAB {
        return Err(GgufError::metadata(TOKENS, format!("{} tokens, allowed 1 to {MAX_VOCAB}", tokens.len())));
    }
    if let Some(token) = tokens.iter().find(|token| token.len() > MAX_TOKEN_BYTES) {
        return Err(GgufError::metadata(TOKENS, format!("a token of {} bytes", token.len())));
    }
    let mut ids = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if ids.insert(token.as_str(), id).is_some() {
            return Err(GgufError::metadata(TOKENS, format!("{token:?} twice")));
        }
    }
    let kinds = file.optional(KINDS, Value::wholes)?.unwrap_or_default();
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(GgufError::metadata(KINDS, format!("{} kinds for {} tokens", kinds.len(), tokens.len())));
    }
    let mut parts = match file.need("tokenizer.ggml.model", Value::text)? {
        "gpt2" => byte_level(file)?,
        "llama" => sentence_piece(file, tokens, &ids, kinds)?,
        other => {
            return Err(GgufError::metadata(
                "tokenizer.ggml.model",
                format!("{other:?} is not supported: put a tokenizer.json beside the file"),
            ));
        }
    };
    let added = kinds.iter().enumerate().filter(|(_, kind)| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED));
    let added = added.map(|(id, kind)| {
        json!({
            "id": id, "content": tokens[id], "special": *kind != USER_DEFINED,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    parts["added_tokens"] = added.collect();
    parts["version"] = "1.0".into();
    parts["model"]["type"] = "BPE".into();
    parts["model"]["vocab"] =
        Json::Object(tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect());
    serde_json::to_vec(&parts).map_err(|error| GgufError::metadata(TOKENS, error))
}

fn byte_level<R: Read + Seek>(file: &GgufFile<R>) -> Result<Json, GgufError> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let merges = file.need(MERGES, Value::texts)?.iter().map(|merge| {
        let pair = merge.split_once(' ').ok_or_else(|| GgufError::metadata(MERGES, format!("{merge:?} is no pair")))?;
        Ok(json!([pair.0, pair.1]))
    });
    let merges: Json = merges.collect::<Result<_, GgufError>>()?;
    let name = file.optional(PRE, Value::text)?.unwrap_or("default");
    let bytes = |own_split: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": own_split});
    let split = |pattern: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let (pre, normalizer) = match name {
        "llama-bpe" | "llama3" | "llama-v3" => (split(LLAMA_3), Json::Null),
        "qwen2" | "deepseek-r1-qwen" => (split(QWEN_2), json!({"type": "NFC"})),
        "tekken" => (split(TEKKEN), Json::Null),
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}), Json::Null)
        }
        "gpt-2" | "default" => (bytes(true), Json::Null),
        other => {
            return Err(GgufError::metadata(
                PRE,
                format!("{other:?} is not known: put a tokenizer.json beside the file"),
            ));
        }
    };
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": bytes(false),
        "decoder": bytes(true),
        "model": {"merges": merges, "ignore_merges": matches!(name, "llama-bpe" | "llama3" | "llama-v3" | "tekken")},
    }))
}

fn sentence_piece<R: Read + Seek>(
    file: &GgufFile<R>,
    tokens: &[String],
    ids: &HashMap<&str, usize>,
    kinds: &[i64],
) -> Result<Json, GgufError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = file.need(SCORES, Value::floats)?;
    if scores.len() != tokens.len() || scores.iter().any(|score| score.is_nan()) {
        return Err(GgufError::metadata(SCORES, "not one number for each token"));
    }
    if let Some(token) = tokens.iter().find(|token| token.len() > MAX_PIECE_BYTES) {
        return Err(GgufError::metadata(
            TOKENS,
            format!("a piece of {} bytes, at most {MAX_PIECE_BYTES}", token.len()),
        ));
    }
    let plain = |id: usize| !matches!(kinds.get(id), Some(&(UNKNOWN | CONTROL | USER_DEFINED)));
    let merges: Vec<Json> =
        merges(tokens, ids, scores, &plain).into_iter().map(|(left, right)| json!([left, right])).collect();
    let unknown = match file.optional("tokenizer.ggml.unknown_token_id", Value::unsigned)? {
        Some(id) => usize::try_from(id).ok().and_then(|id| tokens.get(id)),
        None => kinds.iter().position(|kind| *kind == UNKNOWN).map(|id| &tokens[id]),
    };
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefix = file.optional("tokenizer.ggml.add_space_prefix", Value::truth)?.unwrap_or(true);
    let (normalizer, strip) = match prefix {
        true => (json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]}), 1),
        false => (spaces, 0),
    };
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": strip, "stop": 0},
        ]},
        "model": {"merges": merges, "unk_token": unknown, "fuse_unk": true, "byte_fallback": true},
    }))
}

/// SentencePiece joins the pair whose whole scores highest; as ranks: every split of every piece into two pieces, best
/// score first, then longer left parts, as `transformers` converts such models.
fn merges<'a>(
    tokens: &'a [String],
    ids: &HashMap<&str, usize>,
    scores: &[f64],
    plain: &dyn Fn(usize) -> bool,
) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| plain(*id)) {
        let mut own = Vec::new();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(a), Some(b)) = (ids.get(left), ids.get(right))
                && plain(*a)
                && plain(*b)
            {
                own.push(((*a, *b), left, right));
            }
        }
        own.sort_by_key(|(ids, ..)| *ids);
        found.extend(own.into_iter().map(|(_, left, right)| (scores[id], left, right)));
    }
    let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
    found.sort_by(|(a, a_left, a_right), (b, b_left, b_right)| {
        b.total_cmp(a).then_with(|| lengths(b_left, b_right).cmp(&lengths(a_left, a_right)))
    });
    found.into_iter().map(|(_, left, right)| (left, right)).collect()
}

/// The metadata of a byte-level tokenizer for a model of `vocab` rows.
///
/// # Errors
/// When the tokenizer is of another kind, or splits texts in a way that has no name in GGUF.
pub(crate) fn metadata_of(tokenizer: &Tokenizer, vocab: usize) -> Result<Vec<(String, Value)>, GgufError> {
    let json = tokenizer.to_json().map_err(|error| GgufError::metadata(TOKENS, error))?;
    let pre = pre_of(&json)?;
    let mut tokens: Vec<String> = (0..vocab).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![UNUSED; vocab];
    let mut put = |id: &Json, text: &str, kind: i64| {
        let place = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < vocab);
        let place = place.ok_or_else(|| GgufError::metadata(TOKENS, format!("{text:?} has no row of the model")))?;
        // What an earlier export put where there is no token is none.
        if tokens[place] != text {
            text.clone_into(&mut tokens[place]);
            kinds[place] = kind;
        }
        Ok::<(), GgufError>(())
    };
    for (text, id) in json.pointer("/model/vocab").and_then(Json::as_object).into_iter().flatten() {
        put(id, text, NORMAL)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
        put(&added["id"], added["content"].as_str().unwrap_or_default(), kind)?;
    }
    let merges = json.pointer("/model/merges").and_then(Json::as_array).into_iter().flatten();
    let merges: Vec<String> = merges
        .filter_map(|merge| match merge {
            Json::String(text) => Some(text.clone()),
            pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
        })
        .collect();
    let mut metadata = vec![
        ("tokenizer.ggml.model".to_owned(), Value::Text("gpt2".into())),
        (PRE.to_owned(), Value::Text(pre.into())),
        (TOKENS.to_owned(), Value::Array(Values::Text(tokens))),
        (KINDS.to_owned(), Value::Array(Values::Whole(kinds))),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(Values::Text(merges))),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(tokenizer.begin().is_some())),
    ];
    let mut token = |key: &str, id: Option<u32>| {
        metadata.extend(id.map(|id| (format!("tokenizer.ggml.{key}_token_id"), Value::Unsigned(u64::from(id)))));
    };
    token("bos", tokenizer.begin());
    // Up to three ends have a place; whether that was enough shows when the file is read again.
    for (key, end) in ["eos", "eot", "eom"].into_iter().zip(tokenizer.ends()) {
        token(key, Some(*end));
    }
    Ok(metadata)
}

/// GGUF's name for how a tokenizer splits texts.
fn pre_of(json: &Json) -> Result<&'static str, GgufError> {
    let unknown = || GgufError::metadata(PRE, "this tokenizer's splitting has no name in GGUF");
    if json.pointer("/model/type").and_then(Json::as_str) != Some("BPE")
        || json.pointer("/model/byte_fallback") == Some(&Json::Bool(true))
    {
        return Err(GgufError::metadata("tokenizer.ggml.model", "only byte-level BPE is written"));
    }
    let pre = &json["pre_tokenizer"];
    let parts = match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().cloned().unwrap_or_default(),
        _ => vec![pre.clone()],
    };
    let kind = |part: &Json| part["type"].as_str().unwrap_or_default().to_owned();
    let prefixed = parts.iter().any(|part| part["add_prefix_space"] == true);
    match parts.as_slice() {
        _ if prefixed => Err(unknown()),
        [only] if kind(only) == "ByteLevel" && only["use_regex"] != false => Ok("gpt-2"),
        [digits, bytes] if kind(digits) == "Digits" && kind(bytes) == "ByteLevel" => Ok("smollm"),
        [split, bytes] if kind(split) == "Split" && kind(bytes) == "ByteLevel" => {
            match split.pointer("/pattern/Regex").and_then(Json::as_str) {
                Some(LLAMA_3) => Ok("llama-bpe"),
                Some(QWEN_2) => Ok("qwen2"),
                Some(TEKKEN) => Ok("tekken"),
                _ => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}
