//! How large an adapter is, before anything of it but its configuration is read.
//!
//! Invariant: what passes here takes at most the bytes that the measure says, in the file and in memory.

use super::{HEADER_BYTES_PER_TENSOR, MAX_ADAPTER_CONFIG_BYTES, RawAdapter};
use crate::lora::{FrozenAdapter, LoraConfig, LoraError, parameter_count};
use crate::model::Config;

/// An adapter's shape and size.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterMeasure {
    /// Its shape.
    pub config: LoraConfig,
    /// Bytes of its numbers in memory, as serving holds them.
    pub memory_bytes: u64,
    /// The largest file that can hold exactly its tensors.
    pub most_file_bytes: u64,
}

/// Measures an adapter for a model of shape `model` by its `adapter_config.json`, which may come from anybody.
///
/// # Errors
/// When the configuration is malformed, over a bound, or uses something we would compute wrongly.
pub fn measure(model: &Config, config_json: &[u8]) -> Result<AdapterMeasure, LoraError> {
    let length = config_json.len();
    if length > MAX_ADAPTER_CONFIG_BYTES {
        return Err(LoraError::Config(format!("{length} bytes, at most {MAX_ADAPTER_CONFIG_BYTES}")));
    }
    let raw: RawAdapter = serde_json::from_slice(config_json).map_err(|error| LoraError::Config(error.to_string()))?;
    raw.refuse_unsupported()?;
    let config = raw.into_config()?;
    let tensors = model.layers * config.target_modules.len() * 2;
    let numbers = parameter_count(model, &config) * size_of::<f32>();
    let most_file_bytes = (numbers + (tensors + 2) * HEADER_BYTES_PER_TENSOR) as u64;
    let memory_bytes = FrozenAdapter::bytes(model, &config) as u64;
    Ok(AdapterMeasure { config, memory_bytes, most_file_bytes })
}
