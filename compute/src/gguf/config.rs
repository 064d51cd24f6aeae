//! A model's shape from GGUF's metadata.
//!
//! Invariant: the same bounds as for config.json hold, since the result passes `Config::checked`.

use std::io::{Read, Seek};

use super::{GgufError, GgufFile, Value};
use crate::model::{Config, Family, RopeScaling, yarn_amplitude};

/// Texts of tokens that end a turn or a text.
const ENDS: [&str; 7] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"];

fn whole(value: &Value) -> Option<usize> {
    value.unsigned().and_then(|value| usize::try_from(value).ok())
}

fn token(value: &Value) -> Option<u32> {
    value.unsigned().and_then(|value| u32::try_from(value).ok())
}

/// The shape of the model in the file.
///
/// # Errors
/// When an entry is missing, of another type, out of bounds or names something we would compute wrongly.
pub(crate) fn config_of<R: Read + Seek>(file: &GgufFile<R>) -> Result<Config, GgufError> {
    let name = file.need("general.architecture", Value::text)?;
    // Mistral comes under the name of llama; its window is not written.
    let family = Family::from_name(name).filter(|family| *family != Family::Mistral);
    let family =
        family.ok_or_else(|| GgufError::metadata("general.architecture", format!("{name:?} is not supported")))?;
    if file.optional("split.count", whole)?.is_some_and(|parts| parts > 1) {
        return Err(GgufError::metadata(
            "split.count",
            "one of several parts: join them with llama-gguf-split --merge",
        ));
    }
    let key = |rest: &str| format!("{name}.{rest}");
    let heads = file.need(&key("attention.head_count"), whole)?;
    let hidden = file.need(&key("embedding_length"), whole)?;
    let head_dim = match file.optional(&key("attention.key_length"), whole)? {
        Some(width) => Some(width),
        None => file.optional(&key("rope.dimension_count"), whole)?,
    };
    let head_dim = head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0));
    for part in ["attention.value_length", "rope.dimension_count"] {
        if file.optional(&key(part), whole)?.is_some_and(|width| width != head_dim) {
            return Err(GgufError::metadata(&key(part), format!("differs from the heads' width {head_dim}")));
        }
    }
    let embedding = file.tensors().get("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    let ends = ["eos", "eot", "eom"].map(|end| file.optional(&format!("tokenizer.ggml.{end}_token_id"), token));
    let mut eos = Vec::new();
    for end in ends {
        eos.extend(end?.filter(|end| !eos.contains(end)));
    }
    for end in ends_by_text(file) {
        if !eos.contains(&end) {
            eos.push(end);
        }
    }
    let config = Config {
        family,
        hidden,
        intermediate: file.need(&key("feed_forward_length"), whole)?,
        layers: file.need(&key("block_count"), whole)?,
        heads,
        kv_heads: file.optional(&key("attention.head_count_kv"), whole)?.unwrap_or(heads),
        head_dim,
        vocab: embedding.ok_or_else(|| GgufError::tensor("token_embd.weight", "missing"))?,
        max_positions: file.need(&key("context_length"), whole)?,
        rms_norm_eps: file.need(&key("attention.layer_norm_rms_epsilon"), Value::float)?,
        rope_theta: file.optional(&key("rope.freq_base"), Value::float)?.unwrap_or(10_000.0),
        rope_scaling: scaling(file, &key)?,
        window: None,
        tied: !file.tensors().contains_key("output.weight"),
        bos: file.optional("tokenizer.ggml.bos_token_id", token)?,
        eos,
    };
    config.checked().map_err(|error| GgufError::metadata(name, error))
}

/// Special tokens whose text says that they end an answer. Older converters name only one, often not the one that ends a
/// turn; llama.cpp looks at the texts too.
fn ends_by_text<R: Read + Seek>(file: &GgufFile<R>) -> Vec<u32> {
    const CONTROL: i64 = 3;
    let tokens = file.get("tokenizer.ggml.tokens").and_then(Value::texts).unwrap_or_default();
    let kinds = file.get("tokenizer.ggml.token_type").and_then(Value::wholes).unwrap_or_default();
    let said = (0_u32..).zip(tokens.iter().zip(kinds));
    said.filter(|(_, (text, kind))| **kind == CONTROL && ENDS.contains(&text.as_str())).map(|(id, _)| id).collect()
}

/// The scaling that the metadata name; Llama 3.1's divisors lie in a tensor and are added with the weights.
fn scaling<R: Read + Seek>(file: &GgufFile<R>, key: &dyn Fn(&str) -> String) -> Result<RopeScaling, GgufError> {
    let kind_key = key("rope.scaling.type");
    let kind = file.optional(&kind_key, Value::text)?.unwrap_or("none");
    let float = |rest: &str| file.optional(&key(rest), Value::float);
    let factor = match float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => float("rope.scale_linear")?,
    };
    match (kind, factor) {
        ("none", _) => Ok(RopeScaling::None),
        ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
        ("yarn", Some(factor)) => Ok(RopeScaling::Yarn {
            factor,
            original_positions: file.need(&key("rope.scaling.original_context_length"), Value::float)?,
            attention_factor: float("rope.scaling.attn_factor")?.unwrap_or(1.0) * yarn_amplitude(factor, 1.0),
            beta_fast: float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
        }),
        (kind, _) => Err(GgufError::metadata(&kind_key, format!("{kind:?} is not supported, or has no factor"))),
    }
}
