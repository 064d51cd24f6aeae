//! `config.json`, old spelling (`rope_theta`, `rope_scaling`) and new (`rope_parameters`, `layer_types`).
//!
//! Invariant: a field that would change what we compute and that we don't know how to follow is an error.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Config, Family, SlidingWindow};
use crate::model::ModelError;
use crate::model::rope::{RopeScaling, yarn_amplitude};

/// The longest `config.json` read; real ones are about one kilobyte.
pub const MAX_CONFIG_BYTES: usize = 64 * 1024;
/// Window of a Mistral whose file names none, as in `transformers`.
const MISTRAL_WINDOW: usize = 4096;
/// Head width of a Qwen3 whose file names none, as in `transformers`.
const QWEN3_HEAD_DIM: usize = 128;
/// First layer with a window in a Qwen whose file names none, as in `transformers`.
const QWEN_MAX_WINDOW_LAYERS: usize = 28;

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// The end tokens of a `generation_config.json`, if it names any.
pub(crate) fn end_tokens_of(generation_config: &[u8]) -> Result<Option<Vec<u32>>, ModelError> {
    #[derive(Deserialize)]
    struct Raw {
        eos_token_id: Option<TokenIds>,
    }
    let refused = |what: String| ModelError::Config(format!("generation_config.json: {what}"));
    if generation_config.len() > MAX_CONFIG_BYTES {
        return Err(refused(format!("{} bytes, at most {MAX_CONFIG_BYTES}", generation_config.len())));
    }
    let raw: Raw = serde_json::from_slice(generation_config).map_err(|error| refused(error.to_string()))?;
    Ok(raw.eos_token_id.map(TokenIds::into_vec))
}

#[derive(Deserialize, Default)]
struct RawRope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    original_max_position_embeddings: Option<f64>,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
}

fn unsupported(what: impl std::fmt::Display) -> ModelError {
    ModelError::Config(format!("{what} is not supported"))
}

impl Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// When it is not JSON, of no family we know, uses something we would compute wrongly, or breaks a bound.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        if bytes.len() > MAX_CONFIG_BYTES {
            return Err(ModelError::Config(format!("{} bytes, at most {MAX_CONFIG_BYTES}", bytes.len())));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| ModelError::Config(error.to_string()))?;
        // Absent and null differ for this field only: a Mistral without it has a window, one with null has none.
        let window = value.get("sliding_window").cloned();
        let raw: RawConfig = serde_json::from_value(value).map_err(|error| ModelError::Config(error.to_string()))?;
        let family = Family::from_name(&raw.model_type)
            .ok_or_else(|| unsupported(format!("model_type {:?}", raw.model_type)))?;
        raw.refuse_unsupported()?;
        let window = raw.window(family, window.as_ref())?;
        raw.into_config(family, window)?.checked()
    }

    /// The configuration as `config.json`, readable by `transformers` and by [`Config::from_json`].
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let mut value = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family.name(),
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "attention_bias": false,
            "mlp_bias": false,
            "hidden_act": "silu",
            "bos_token_id": self.bos,
            "eos_token_id": eos,
        });
        if let Some(scaling) = scaling_json(&self.rope_scaling) {
            value["rope_scaling"] = scaling;
        }
        match (&self.window, self.family) {
            (Some(window), _) => {
                let name = |windowed: &bool| if *windowed { "sliding_attention" } else { "full_attention" };
                value["sliding_window"] = window.positions.into();
                value["use_sliding_window"] = true.into();
                value["layer_types"] = window.layers.iter().map(name).collect();
            }
            (None, Family::Mistral) => value["sliding_window"] = Value::Null,
            (None, _) => {}
        }
        // Other crates of a build may have serde_json keep the order of insertion: sorted, the bytes are the same in all.
        value.sort_all_objects();
        let mut text = format!("{value:#}");
        text.push('\n');
        text.into_bytes()
    }
}

fn scaling_json(scaling: &RopeScaling) -> Option<Value> {
    match scaling {
        // GGUF's divisors have no spelling in config.json; what reads GGUF never writes it.
        RopeScaling::None | RopeScaling::Divisors(_) => None,
        RopeScaling::Linear { factor } => Some(json!({"rope_type": "linear", "factor": factor})),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => Some(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_positions,
        })),
        RopeScaling::Yarn { factor, original_positions, attention_factor, beta_fast, beta_slow, truncate } => {
            Some(json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original_positions,
                "attention_factor": attention_factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
            }))
        }
    }
}

impl RawRope {
    fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.r#type.as_deref()).unwrap_or("default")
    }

    /// The scaling, with `positions` as the context where the file names no original one.
    fn scaling(&self, positions: f64) -> Result<RopeScaling, ModelError> {
        let need = |value: Option<f64>, name: &str| {
            value.ok_or_else(|| ModelError::Config(format!("rope_type {:?} without {name}", self.kind())))
        };
        let original = self.original_max_position_embeddings.unwrap_or(positions);
        match self.kind() {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: need(self.factor, "factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: need(self.factor, "factor")?,
                low_freq_factor: need(self.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: need(self.high_freq_factor, "high_freq_factor")?,
                original_positions: original,
            }),
            "yarn" => {
                let factor = self.factor.unwrap_or(positions / original);
                let inferred = match (self.mscale, self.mscale_all_dim) {
                    (Some(over), Some(under)) if over != 0.0 && under != 0.0 => {
                        yarn_amplitude(factor, over) / yarn_amplitude(factor, under)
                    }
                    _ => yarn_amplitude(factor, 1.0),
                };
                let beta = |value: Option<f64>, usual: f64| value.filter(|beta| *beta != 0.0).unwrap_or(usual);
                Ok(RopeScaling::Yarn {
                    factor,
                    original_positions: original,
                    attention_factor: self.attention_factor.unwrap_or(inferred),
                    beta_fast: beta(self.beta_fast, 32.0),
                    beta_slow: beta(self.beta_slow, 1.0),
                    truncate: self.truncate.unwrap_or(true),
                })
            }
            other => Err(unsupported(format!("rope_type {other:?}"))),
        }
    }
}

impl RawConfig {
    fn ropes(&self) -> impl Iterator<Item = &RawRope> {
        self.rope_scaling.iter().chain(&self.rope_parameters)
    }

    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        if self.attention_bias || self.mlp_bias {
            return Err(unsupported("bias"));
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return Err(unsupported(format!("hidden_act {act:?}")));
        }
        let mut partial = self.ropes().filter_map(|rope| rope.partial_rotary_factor).chain(self.partial_rotary_factor);
        match partial.find(|factor| (factor - 1.0).abs() > f64::EPSILON) {
            Some(factor) => Err(unsupported(format!("partial_rotary_factor {factor}"))),
            None => Ok(()),
        }
    }

    fn window(&self, family: Family, named: Option<&Value>) -> Result<Option<SlidingWindow>, ModelError> {
        let (positions, first) = match family {
            Family::Llama => return Ok(None),
            Family::Mistral => (named.map_or(Some(MISTRAL_WINDOW as u64), Value::as_u64), 0),
            Family::Qwen2 | Family::Qwen3 => (
                named.and_then(Value::as_u64).filter(|_| self.use_sliding_window),
                self.max_window_layers.unwrap_or(QWEN_MAX_WINDOW_LAYERS),
            ),
        };
        let Some(positions) = positions else { return Ok(None) };
        let positions = usize::try_from(positions).map_err(|_| unsupported(format!("sliding_window {positions}")))?;
        // Bounded before the list of layers is made.
        let count = self.num_hidden_layers.min(super::MAX_LAYERS);
        let layers: Vec<bool> = match self.layer_types.as_deref().filter(|_| family != Family::Mistral) {
            None => (0..count).map(|layer| layer >= first).collect(),
            Some(types) => {
                let windowed = |kind: &String| match kind.as_str() {
                    "sliding_attention" => Ok(true),
                    "full_attention" => Ok(false),
                    other => Err(unsupported(format!("layer type {other:?}"))),
                };
                types.iter().map(windowed).collect::<Result<_, _>>()?
            }
        };
        Ok(layers.contains(&true).then_some(SlidingWindow { positions, layers }))
    }

    fn into_config(mut self, family: Family, window: Option<SlidingWindow>) -> Result<Config, ModelError> {
        let theta = self.ropes().find_map(|rope| rope.rope_theta);
        let mut scaling = self.rope_scaling.take().or_else(|| self.rope_parameters.take());
        if let (Some(rope), Some(outside)) = (&mut scaling, self.original_max_position_embeddings) {
            rope.original_max_position_embeddings = Some(outside);
        }
        let own_width = match family {
            Family::Qwen3 => QWEN3_HEAD_DIM,
            _ => self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0),
        };
        Ok(Config {
            family,
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or(own_width),
            vocab: self.vocab_size,
            max_positions: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta.or(theta).unwrap_or(10_000.0),
            rope_scaling: match scaling {
                Some(rope) => rope.scaling(self.max_position_embeddings as f64)?,
                None => RopeScaling::None,
            },
            window,
            tied: self.tie_word_embeddings,
            bos: self.bos_token_id,
            eos: self.eos_token_id.map(TokenIds::into_vec).unwrap_or_default(),
        })
    }
}
