//! A dense model as GGUF: metadata, tokenizer and tensors under llama.cpp's names.
//!
//! Invariant: what GGUF can't express (a window, a tokenizer whose splitting has no name there) is refused and never
//! left out; whether the file says the same is for the caller to see by reading it again.

use std::io::Write;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::GgufError;
use super::tokenizer::metadata_of;
use super::value::Value;
use super::weights::{spread, stem};
use super::write::{GgufTensor, write_to};
use crate::chat::ChatTemplate;
use crate::model::weights::to_bytes;
use crate::model::{Config, Family, Module, RopeScaling, Weights, yarn_amplitude};
use crate::tokenizer::Tokenizer;

/// Writes a model: tables and products in half precision, the rest in single, as llama.cpp's own converter does.
///
/// # Errors
/// When GGUF can't express the model, a value does not fit, or writing fails.
pub(crate) fn write_model(
    out: &mut impl Write,
    config: &Config,
    weights: &Weights,
    tokenizer: &Tokenizer,
    chat: Option<&ChatTemplate>,
) -> Result<(), GgufError> {
    let mut metadata = shape_of(config)?;
    metadata.extend(metadata_of(tokenizer, config.vocab)?);
    if let Some(chat) = chat {
        let (usual, with_tools) = chat.sources();
        metadata.push(("tokenizer.chat_template".into(), Value::Text(usual)));
        metadata.extend(with_tools.map(|tools| ("tokenizer.chat_template.tool_use".into(), Value::Text(tools))));
    }
    let tensors = tensors_of(config, weights)?;
    write_to(out, &metadata, &tensors)
}

/// The architecture's name: Mistral's is Llama's.
fn architecture(config: &Config) -> Result<&'static str, GgufError> {
    if config.window.is_some() {
        return Err(GgufError::metadata("attention.sliding_window", "GGUF of these families has no window"));
    }
    Ok(if config.family == Family::Mistral { Family::Llama.name() } else { config.family.name() })
}

fn shape_of(config: &Config) -> Result<Vec<(String, Value)>, GgufError> {
    let name = architecture(config)?;
    let number = |value: usize| Value::Unsigned(value as u64);
    let own = |key: &str, value: Value| (format!("{name}.{key}"), value);
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::Text(name.into())),
        own("context_length", number(config.max_positions)),
        own("embedding_length", number(config.hidden)),
        own("block_count", number(config.layers)),
        own("feed_forward_length", number(config.intermediate)),
        own("attention.head_count", number(config.heads)),
        own("attention.head_count_kv", number(config.kv_heads)),
        own("attention.key_length", number(config.head_dim)),
        own("attention.value_length", number(config.head_dim)),
        own("rope.dimension_count", number(config.head_dim)),
        own("attention.layer_norm_rms_epsilon", Value::Float(config.rms_norm_eps)),
        own("rope.freq_base", Value::Float(config.rope_theta)),
    ];
    match &config.rope_scaling {
        RopeScaling::None | RopeScaling::Divisors(_) | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            metadata.push(own("rope.scaling.type", Value::Text("linear".into())));
            metadata.push(own("rope.scaling.factor", Value::Float(*factor)));
        }
        RopeScaling::Yarn { factor, original_positions, attention_factor, beta_fast, beta_slow, truncate: true } => {
            metadata.push(own("rope.scaling.type", Value::Text("yarn".into())));
            metadata.push(own("rope.scaling.original_context_length", Value::Float(*original_positions)));
            for (key, value) in [
                ("factor", *factor),
                ("attn_factor", attention_factor / yarn_amplitude(*factor, 1.0)),
                ("yarn_beta_fast", *beta_fast),
                ("yarn_beta_slow", *beta_slow),
            ] {
                metadata.push(own(&format!("rope.scaling.{key}"), Value::Float(value)));
            }
        }
        RopeScaling::Yarn { truncate: false, .. } => {
            return Err(GgufError::metadata("rope.scaling.type", "YaRN with a ramp of fractions has no GGUF form"));
        }
    }
    Ok(metadata)
}

fn tensors_of(config: &Config, weights: &Weights) -> Result<Vec<GgufTensor>, GgufError> {
    let mut tensors = vec![
        stored("token_embd.weight", &weights.embedding, None)?,
        stored("output_norm.weight", &weights.norm, None)?,
    ];
    if let Some(head) = &weights.head {
        tensors.push(stored("output.weight", &head.t()?.contiguous()?, None)?);
    }
    if let Some(divisors) = divisors(config) {
        let count = divisors.len();
        tensors.push(stored("rope_freqs.weight", &Tensor::from_vec(divisors, count, &Device::Cpu)?, None)?);
    }
    for (layer, block) in weights.blocks.iter().enumerate() {
        let name = |stem: &str, kind: &str| format!("blk.{layer}.{stem}.{kind}");
        tensors.push(stored(&name("attn_norm", "weight"), &block.attention_norm, None)?);
        tensors.push(stored(&name("ffn_norm", "weight"), &block.mlp_norm, None)?);
        for (stem, norm) in ["attn_q_norm", "attn_k_norm"].into_iter().zip(block.head_norms.iter().flatten()) {
            tensors.push(stored(&name(stem, "weight"), norm, None)?);
        }
        for (module, linear) in Module::ALL.into_iter().zip(&block.linears) {
            let rotated = matches!(config.family, Family::Llama | Family::Mistral)
                && matches!(module, Module::Query | Module::Key);
            let heads = rotated.then_some(config.head_dim);
            tensors.push(stored(&name(stem(module), "weight"), &linear.t()?.contiguous()?, heads)?);
        }
        let biased = [Module::Query, Module::Key, Module::Value];
        for (module, bias) in biased.into_iter().zip(block.biases.iter().flatten()) {
            tensors.push(stored(&name(stem(module), "bias"), bias, None)?);
        }
    }
    Ok(tensors)
}

/// Llama 3.1's scaling as GGUF has it: a divisor for each frequency.
fn divisors(config: &Config) -> Option<Vec<f32>> {
    match &config.rope_scaling {
        RopeScaling::Divisors(divisors) => Some(divisors.clone()),
        RopeScaling::Llama3 { .. } => {
            let plain = Config { rope_scaling: RopeScaling::None, ..config.clone() };
            let (plain, scaled) = (plain.frequencies(), config.frequencies());
            let pairs = plain.each.iter().zip(&scaled.each);
            Some(pairs.map(|(plain, scaled)| plain / scaled).collect())
        }
        _ => None,
    }
}

/// A tensor in the file's shape; `heads` is the width of heads whose rows llama.cpp rotates in neighbouring pairs.
fn stored(name: &str, tensor: &Tensor, heads: Option<usize>) -> Result<GgufTensor, GgufError> {
    let (dtype, kind) = match tensor.rank() {
        1 => (DType::F32, GgmlDType::F32),
        _ => (DType::F16, GgmlDType::F16),
    };
    let mut bytes = to_bytes(tensor, dtype).map_err(|error| GgufError::tensor(name, error))?;
    if let Some(width) = heads {
        bytes = spread(&bytes, tensor.dim(0)?, width);
    }
    let storage = QStorage::from_data(bytes.into(), &Device::Cpu, kind)?;
    Ok(GgufTensor { name: name.to_owned(), tensor: QTensor::new(storage, tensor.dims())? })
}
