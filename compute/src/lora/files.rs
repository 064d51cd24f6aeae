//! PEFT's files. Layout checked with peft 0.21: `base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight`
//! (rank, in) and `.lora_B.weight` (out, rank).
//!
//! Invariant: files from strangers are measured before anything is allocated for them, and hold exactly the tensors
//! their configuration calls for.

mod measure;

use candle_core::{DType, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::Deserialize;
use serde_json::{Map, Value};
use tributary_protocol::id::Hash;

use super::{Adapter, LoraConfig, LoraError, MAX_RANK, Pair, parameter_count, sites};
use crate::model::{Config, Module, weights};

pub use measure::{AdapterMeasure, measure};

/// The longest `adapter_config.json` read; PEFT writes about one kilobyte.
pub const MAX_ADAPTER_CONFIG_BYTES: usize = 64 * 1024;
/// Header bytes allowed for each tensor: a name of about 80 characters, type, shape and offsets.
const HEADER_BYTES_PER_TENSOR: usize = 512;

/// The two files of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFiles {
    /// `adapter_config.json`.
    pub config_json: Vec<u8>,
    /// `adapter_model.safetensors`.
    pub safetensors: Vec<u8>,
}

impl AdapterFiles {
    /// BLAKE3 over the hashes of the configuration and of the weights.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(Hash::of(&self.config_json).as_bytes());
        hasher.update(Hash::of(&self.safetensors).as_bytes());
        Hash(*hasher.finalize().as_bytes())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    Named(Vec<String>),
    Keyword(String),
}

#[derive(Deserialize)]
struct RawAdapter {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    target_modules: Targets,
    bias: Option<String>,
    modules_to_save: Option<Vec<String>>,
    layers_to_transform: Option<Value>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    /// PEFT's newer fields, each of which changes what is computed unless it is absent, null, false or empty.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Fields among [`RawAdapter::others`] that must be off.
const CHANGES_THE_COMPUTATION: [&str; 10] = [
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
];

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

impl RawAdapter {
    fn refuse_unsupported(&self) -> Result<(), LoraError> {
        let patterned = |map: &Option<Map<_, _>>| map.as_ref().is_some_and(|map| !map.is_empty());
        let problems = [
            (self.peft_type != "LORA", "a peft_type other than LORA"),
            (self.use_dora, "DoRA (use_dora), whose magnitudes a sum of low-rank products can't express,"),
            (self.fan_in_fan_out, "fan_in_fan_out"),
            (self.bias.as_deref().is_some_and(|bias| bias != "none"), "bias"),
            (self.modules_to_save.as_ref().is_some_and(|saved| !saved.is_empty()), "modules_to_save"),
            (self.layers_to_transform.as_ref().is_some_and(|layers| !layers.is_null()), "layers_to_transform"),
            (patterned(&self.rank_pattern) || patterned(&self.alpha_pattern), "rank_pattern or alpha_pattern"),
        ];
        let newer = |field: &&&str| self.others.get(**field).is_some_and(|value| !is_off(value));
        let problem = problems.iter().find(|(present, _)| *present).map(|(_, what)| *what);
        match problem.or_else(|| CHANGES_THE_COMPUTATION.iter().find(newer).copied()) {
            Some(what) => Err(LoraError::Config(format!("{what} is not supported"))),
            None => Ok(()),
        }
    }

    fn into_config(self) -> Result<LoraConfig, LoraError> {
        let target_modules = match self.target_modules {
            Targets::Keyword(word) if word == "all-linear" => Module::ALL.to_vec(),
            Targets::Keyword(word) => return Err(LoraError::Config(format!("target_modules {word:?}"))),
            Targets::Named(names) => {
                // A newer PEFT names each product by its whole path; whether they are the same ones in every layer
                // shows in the number of tensors.
                let known = |name: &String| {
                    let last = name.rsplit('.').next().unwrap_or(name);
                    Module::from_name(last).ok_or_else(|| LoraError::Config(format!("unknown module {name:?}")))
                };
                names.iter().map(known).collect::<Result<_, _>>()?
            }
        };
        let config = LoraConfig {
            rank: self.r,
            alpha: self.lora_alpha,
            rslora: self.use_rslora,
            dropout: self.lora_dropout,
            target_modules,
        };
        config.checked()
    }
}

fn tensor_name(layer: usize, module: Module, side: char) -> String {
    format!("base_model.model.model.layers.{layer}.{}.lora_{side}.weight", module.path())
}

fn config_json(config: &LoraConfig, base: Option<&str>) -> Vec<u8> {
    let value = serde_json::json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "target_modules": config.target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.rslora,
    });
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}

impl Adapter {
    /// The adapter as PEFT's files, in f32.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn to_files(&self) -> Result<AdapterFiles, LoraError> {
        self.files(None)
    }

    /// The same, with the name of the base that the adapter is for.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn to_files_on(&self, base: &str) -> Result<AdapterFiles, LoraError> {
        self.files(Some(base))
    }

    fn files(&self, base: Option<&str>) -> Result<AdapterFiles, LoraError> {
        let mut stored: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for ((layer, module), pair) in sites(self.layers, &self.config).zip(&self.pairs) {
            for (side, tensor) in [('A', &pair.down), ('B', &pair.up)] {
                let transposed = tensor.detach().t()?.contiguous()?;
                let bytes = weights::to_bytes(&transposed, DType::F32)?;
                stored.push((tensor_name(layer, module, side), transposed.dims().to_vec(), bytes));
            }
        }
        let refused = |error: safetensors::SafeTensorError| LoraError::Weights(error.to_string());
        let mut views = Vec::new();
        for (name, shape, bytes) in &stored {
            views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(refused)?));
        }
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let safetensors = serialize(views, Some(metadata)).map_err(refused)?;
        Ok(AdapterFiles { config_json: config_json(&self.config, base), safetensors })
    }

    /// Reads files from anybody for a model of shape `model`.
    ///
    /// # Errors
    /// When they are malformed, too large, of another shape, not finite, or use something we would compute wrongly.
    pub fn from_files(model: &Config, files: &AdapterFiles) -> Result<Self, LoraError> {
        let stored = Self::as_stored(model, files)?;
        let turn = |pair: &Pair| Ok(Pair { down: pair.down.contiguous()?, up: pair.up.contiguous()? });
        let pairs = stored.pairs.iter().map(turn).collect::<Result<_, LoraError>>()?;
        Ok(Self { pairs, ..stored })
    }

    /// The same with tensors that lie as they are stored, column by column.
    pub(super) fn as_stored(model: &Config, files: &AdapterFiles) -> Result<Self, LoraError> {
        let length = files.config_json.len();
        if length > MAX_ADAPTER_CONFIG_BYTES {
            return Err(LoraError::Config(format!("{length} bytes, at most {MAX_ADAPTER_CONFIG_BYTES}")));
        }
        let raw: RawAdapter =
            serde_json::from_slice(&files.config_json).map_err(|error| LoraError::Config(error.to_string()))?;
        raw.refuse_unsupported()?;
        let config = raw.into_config()?;
        debug_assert!(config.rank <= MAX_RANK, "checked above");
        let tensors = model.layers * config.target_modules.len() * 2;
        let most = parameter_count(model, &config) * size_of::<f32>() + (tensors + 2) * HEADER_BYTES_PER_TENSOR;
        if files.safetensors.len() > most {
            return Err(LoraError::Weights(format!("{} bytes, at most {most}", files.safetensors.len())));
        }
        let file =
            SafeTensors::deserialize(&files.safetensors).map_err(|error| LoraError::Weights(error.to_string()))?;
        if file.len() != tensors {
            return Err(LoraError::Weights(format!("{} tensors, expected {tensors}", file.len())));
        }
        let read = |name: String, shape: [usize; 2]| -> Result<Tensor, LoraError> {
            let tensor = weights::read(&file, &name, &shape).map_err(|error| LoraError::Weights(error.to_string()))?;
            Ok(tensor.t()?)
        };
        let mut pairs = Vec::new();
        for (layer, module) in sites(model.layers, &config) {
            let (inner, outer) = model.module_shape(module);
            let down = read(tensor_name(layer, module, 'A'), [config.rank, inner])?;
            let up = read(tensor_name(layer, module, 'B'), [outer, config.rank])?;
            pairs.push(Pair { down, up });
        }
        Ok(Self { config, layers: model.layers, pairs })
    }
}
