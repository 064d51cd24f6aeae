//! A dense model or an adapter as GGUF: metadata, tokenizer and tensors under llama.cpp's names.
//!
//! Invariant: what GGUF can't express (a window, a tokenizer whose splitting has no name there) is refused and never
//! left out; whether the file says the same is for the caller to see by reading it again.

use std::io::Write;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::GgufError;
use super::tokenizer::metadata_of;
use super::value::Value;
use super::weights::stem;
use super::write::{GgufTensor, write_to};
use crate::chat::ChatTemplate;
use crate::lora::Adapter;
use crate::model::weights::to_bytes;
use crate::model::{Config, Family, Module, RopeScaling, Weights, yarn_amplitude};
use crate::tokenizer::Tokenizer;

/// ggml's layout of quantised blocks; the specification asks for it wherever there are any.
const QUANTISATION_VERSION: u64 = 2;

/// Writes a model: table and products as `kind`, the rest in single precision, as llama.cpp's own tools do.
///
/// # Errors
/// When GGUF can't express the model, a value does not fit, or writing fails.
pub(crate) fn write_model(
    out: &mut impl Write,
    config: &Config,
    weights: &Weights,
    tokenizer: &Tokenizer,
    chat: Option<&ChatTemplate>,
    kind: GgmlDType,
) -> Result<(), GgufError> {
    let mut metadata = shape_of(config)?;
    metadata.extend(file_type(kind).map(|code| ("general.file_type".to_owned(), Value::Unsigned(code))));
    if !matches!(kind, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) {
        metadata.push(("general.quantization_version".into(), Value::Unsigned(QUANTISATION_VERSION)));
    }
    metadata.extend(metadata_of(tokenizer, config.vocab)?);
    if let Some(chat) = chat {
        let (usual, with_tools) = chat.sources();
        metadata.push(("tokenizer.chat_template".into(), Value::Text(usual)));
        metadata.extend(with_tools.map(|tools| ("tokenizer.chat_template.tool_use".into(), Value::Text(tools))));
    }
    let tensors = tensors_of(config, weights, kind)?;
    write_to(out, &metadata, &tensors)
}

/// Writes an adapter of a model of that shape, in single precision.
///
/// # Errors
/// When GGUF can't express the model or writing fails.
pub(crate) fn write_adapter(out: &mut impl Write, config: &Config, adapter: &Adapter) -> Result<(), GgufError> {
    let text = |key: &str, text: &str| (key.to_owned(), Value::Text(text.into()));
    // llama.cpp divides by the rank, whatever the adapter's own rule is.
    let alpha = f64::from(adapter.config().scale()) * adapter.config().rank as f64;
    let metadata = [
        text("general.architecture", architecture(config)?),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".into(), Value::Float(alpha)),
    ];
    let mut tensors = Vec::new();
    for (layer, module) in (0..config.layers).flat_map(|layer| Module::ALL.map(|module| (layer, module))) {
        let Some(pair) = adapter.pair(layer, module) else { continue };
        let heads = rotated_heads(config, module);
        for (side, factor, heads) in [('a', &pair.down, None), ('b', &pair.up, heads)] {
            let name = format!("blk.{layer}.{}.weight.lora_{side}", stem(module));
            tensors.push(stored(&name, &factor.t()?, heads, GgmlDType::F32)?);
        }
    }
    write_to(out, &metadata, &tensors)
}

/// What most of the tensors are, as llama.cpp counts its kinds of files.
const fn file_type(kind: GgmlDType) -> Option<u64> {
    match kind {
        GgmlDType::F32 => Some(0),
        GgmlDType::F16 => Some(1),
        GgmlDType::Q8_0 => Some(7),
        GgmlDType::Q4K => Some(14),
        GgmlDType::Q6K => Some(18),
        _ => None,
    }
}

/// The width of heads whose rows llama.cpp rotates in neighbouring pairs.
const fn rotated_heads(config: &Config, module: Module) -> Option<usize> {
    match (config.family, module) {
        (Family::Llama | Family::Mistral, Module::Query | Module::Key) => Some(config.head_dim),
        _ => None,
    }
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
            metadata.push(own("rope.scaling.original_context_length", whole(*original_positions)?));
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

/// A number of positions, which llama.cpp reads as a whole number only.
fn whole(positions: f64) -> Result<Value, GgufError> {
    let refused = |_| GgufError::metadata("rope.scaling.original_context_length", format!("{positions} positions"));
    Ok(Value::Unsigned(positions.to_string().parse().map_err(refused)?))
}

fn tensors_of(config: &Config, weights: &Weights, kind: GgmlDType) -> Result<Vec<GgufTensor>, GgufError> {
    let product = |name: &str, tensor: &Tensor, heads: Option<usize>| stored(name, tensor, heads, kind);
    let vector = |name: &str, tensor: &Tensor| stored(name, tensor, None, GgmlDType::F32);
    let mut tensors =
        vec![product("token_embd.weight", &weights.embedding, None)?, vector("output_norm.weight", &weights.norm)?];
    if let Some(head) = &weights.head {
        tensors.push(product("output.weight", &head.t()?, None)?);
    }
    if let Some(divisors) = divisors(config) {
        let count = divisors.len();
        tensors.push(vector("rope_freqs.weight", &Tensor::from_vec(divisors, count, &Device::Cpu)?)?);
    }
    for (layer, block) in weights.blocks.iter().enumerate() {
        let name = |stem: &str, kind: &str| format!("blk.{layer}.{stem}.{kind}");
        tensors.push(vector(&name("attn_norm", "weight"), &block.attention_norm)?);
        tensors.push(vector(&name("ffn_norm", "weight"), &block.mlp_norm)?);
        for (stem, norm) in ["attn_q_norm", "attn_k_norm"].into_iter().zip(block.head_norms.iter().flatten()) {
            tensors.push(vector(&name(stem, "weight"), norm)?);
        }
        for (module, linear) in Module::ALL.into_iter().zip(&block.linears) {
            let heads = rotated_heads(config, module);
            tensors.push(product(&name(stem(module), "weight"), &linear.t()?, heads)?);
        }
        let biased = [Module::Query, Module::Key, Module::Value];
        for (module, bias) in biased.into_iter().zip(block.biases.iter().flatten()) {
            tensors.push(vector(&name(stem(module), "bias"), bias)?);
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

/// A tensor in the file's shape, stored as `kind`.
fn stored(name: &str, tensor: &Tensor, heads: Option<usize>, kind: GgmlDType) -> Result<GgufTensor, GgufError> {
    let tensor = match heads {
        Some(width) => alternate(tensor, width)?,
        None => tensor.contiguous()?,
    };
    let tensor = match kind {
        GgmlDType::F16 => {
            // Refuses what half precision has no number for.
            let bytes = to_bytes(&tensor, DType::F16).map_err(|error| GgufError::tensor(name, error))?;
            QTensor::new(QStorage::from_data(bytes.into(), &Device::Cpu, kind)?, tensor.dims())?
        }
        _ => QTensor::quantize(&tensor, kind)?,
    };
    Ok(GgufTensor { name: name.to_owned(), tensor })
}

/// The rows of each head's halves in turns: the opposite of what reading puts back.
fn alternate(rows: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    let from = |row: usize| row / width * width + row % 2 * (width / 2) + row % width / 2;
    let order: Vec<u32> = (0..rows.dim(0)?).filter_map(|row| u32::try_from(from(row)).ok()).collect();
    rows.contiguous()?.index_select(&Tensor::new(order, &Device::Cpu)?, 0)
}

#[cfg(test)]
mod tests {
    use super::{Device, Tensor, alternate, whole};
    use crate::gguf::Value;

    #[test]
    fn rows_of_heads_stand_in_turns() {
        // Two heads of width 4.
        let rows = Tensor::new(&[[0_f32], [1.0], [2.0], [3.0], [10.0], [11.0], [12.0], [13.0]], &Device::Cpu).unwrap();
        let turned = alternate(&rows, 4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(turned, [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0]);
    }

    #[test]
    fn positions_are_whole_numbers() {
        assert_eq!(whole(4096.0).unwrap(), Value::Unsigned(4096));
        assert!(whole(0.5).is_err());
    }
}
