//! The same model and adapters as llama.cpp's converters write them.
//!
//! Invariant: rows of queries and keys stand as llama.cpp rotates them; `gguf` reads the model back as it was.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::Value as Json;

use super::{BenchError, Format};
use crate::gguf::{GgufTensor, Value, Values, stem};
use crate::lora::Adapter;
use crate::model::{Config, Module, Weights};

/// What llama.cpp's converter writes for such a model, with the tokenizer's tokens and unused ones up to the table's size.
pub(super) fn metadata(config: &Config, tokenizer: &[u8]) -> Result<Vec<(String, Value)>, BenchError> {
    let tokenizer: Json = serde_json::from_slice(tokenizer).map_err(|_| BenchError::Broken("our tokenizer is JSON"))?;
    let mut tokens: Vec<String> = (0..config.vocab).map(|at| format!("<unused{at}>")).collect();
    for (token, id) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        if let Some(place) = id.and_then(|id| tokens.get_mut(id)) {
            token.clone_into(place);
        }
    }
    let merge = |merge: &Json| match merge {
        Json::Array(pair) => pair.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let merges = tokenizer["model"]["merges"].as_array().into_iter().flatten().map(merge).collect();
    let own = |key: &str, value: usize| (format!("llama.{key}"), Value::Unsigned(value as u64));
    let end = config.eos.first().copied().unwrap_or(0);
    let text = |key: &str, text: &str| (key.to_owned(), Value::Text(text.into()));
    Ok(vec![
        text("general.architecture", "llama"),
        own("context_length", config.max_positions),
        own("embedding_length", config.hidden),
        own("block_count", config.layers),
        own("feed_forward_length", config.intermediate),
        own("attention.head_count", config.heads),
        own("attention.head_count_kv", config.kv_heads),
        own("rope.dimension_count", config.head_dim),
        ("llama.attention.layer_norm_rms_epsilon".into(), Value::Float(config.rms_norm_eps)),
        ("llama.rope.freq_base".into(), Value::Float(config.rope_theta)),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "gpt-2"),
        ("tokenizer.ggml.tokens".into(), Value::Array(Values::Text(tokens))),
        ("tokenizer.ggml.token_type".into(), Value::Array(Values::Whole(vec![1; config.vocab]))),
        ("tokenizer.ggml.merges".into(), Value::Array(Values::Text(merges))),
        ("tokenizer.ggml.eos_token_id".into(), Value::Unsigned(u64::from(end))),
    ])
}

/// All tensors as llama.cpp names and orders them; norms stay in f32.
pub(super) fn tensors(config: &Config, weights: &Weights, format: Format) -> Result<Vec<GgufTensor>, BenchError> {
    let tensor = |name: String, tensor: &Tensor, kind: GgmlDType| -> candle_core::Result<GgufTensor> {
        Ok(GgufTensor { name, tensor: QTensor::quantize(&tensor.contiguous()?, kind)? })
    };
    let (kind, dense) = (format.kind(), GgmlDType::F32);
    let mut all = vec![
        tensor("token_embd.weight".into(), &weights.embedding, kind)?,
        tensor("output_norm.weight".into(), &weights.norm, dense)?,
    ];
    for (layer, block) in weights.blocks.iter().enumerate() {
        let name = |stem: &str| format!("blk.{layer}.{stem}.weight");
        all.push(tensor(name("attn_norm"), &block.attention_norm, dense)?);
        all.push(tensor(name("ffn_norm"), &block.mlp_norm, dense)?);
        for (module, weight) in Module::ALL.into_iter().zip(&block.linears) {
            let rows = weight.t()?.contiguous()?;
            let rows = if is_rotated(module) { alternate(&rows, config.head_dim)? } else { rows };
            all.push(tensor(name(stem(module)), &rows, kind)?);
        }
    }
    Ok(all)
}

/// The rows of each head's halves in turns, as llama.cpp rotates them.
fn alternate(rows: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    let count = rows.dim(0)?;
    let from = |row: usize| row / width * width + row % 2 * (width / 2) + row % width / 2;
    let order: Vec<u32> = (0..count).filter_map(|row| u32::try_from(from(row)).ok()).collect();
    rows.index_select(&Tensor::from_vec(order, count, &Device::Cpu)?, 0)
}

/// Whether llama.cpp's rows of a product stand alternately.
const fn is_rotated(module: Module) -> bool {
    matches!(module, Module::Query | Module::Key)
}

/// What is said of an adapter.
pub(super) fn adapter_metadata(alpha: f64) -> Vec<(String, Value)> {
    let text = |key: &str, text: &str| (key.to_owned(), Value::Text(text.into()));
    vec![
        text("general.architecture", "llama"),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".into(), Value::Float(alpha)),
    ]
}

/// An adapter's factors, in f32.
pub(super) fn adapter_tensors(config: &Config, adapter: &Adapter) -> Result<Vec<GgufTensor>, BenchError> {
    let mut all = Vec::new();
    for layer in 0..config.layers {
        for module in Module::ALL {
            let Some(pair) = adapter.pair(layer, module) else { continue };
            let (down, up) = (pair.down.t()?.contiguous()?, pair.up.t()?.contiguous()?);
            let up = if is_rotated(module) { alternate(&up, config.head_dim)? } else { up };
            for (side, factor) in [('a', down), ('b', up)] {
                let name = format!("blk.{layer}.{}.weight.lora_{side}", stem(module));
                all.push(GgufTensor { name, tensor: QTensor::quantize(&factor, GgmlDType::F32)? });
            }
        }
    }
    Ok(all)
}
