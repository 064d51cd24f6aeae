//! A model's shape, read from Hugging Face's `config.json` (Llama family) and refused when it is not one we compute exactly.
//!
//! Invariant: a `Config` that exists is within every bound below, so no later arithmetic on its fields can overflow.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// The longest `config.json` read; real ones are about one kilobyte.
pub const MAX_CONFIG_BYTES: usize = 64 * 1024;
/// Widest hidden or intermediate size: four times Llama-3.1-405B's hidden size.
pub const MAX_WIDTH: usize = 65_536;
/// Most layers: twice Llama-3.1-405B's.
pub const MAX_LAYERS: usize = 256;
/// Most attention heads of one layer.
pub const MAX_HEADS: usize = 512;
/// Largest vocabulary: twice Llama-3's.
pub const MAX_VOCAB: usize = 262_144;
/// Longest context: Llama-3.1's.
pub const MAX_POSITIONS: usize = 131_072;
/// Most entries (positions · head width) of the rotation table: 128 MiB, enough for heads of 256 in the longest context.
const MAX_ROTATIONS: usize = 1 << 25;
/// Most end-of-text tokens a model may name.
pub const MAX_END_TOKENS: usize = 16;

/// The shape of a Llama-family model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads (grouped-query attention when fewer than `heads`).
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Added under the root of RMS norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output product uses the embedding.
    pub tied: bool,
    /// Token put before every text, if the model has one.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

/// One of the seven products of a block, all of which can carry LoRA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Module {
    /// Queries.
    #[serde(rename = "q_proj")]
    Query,
    /// Keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Values.
    #[serde(rename = "v_proj")]
    Value,
    /// Output of attention.
    #[serde(rename = "o_proj")]
    Output,
    /// Gate of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Up product of the MLP.
    #[serde(rename = "up_proj")]
    Up,
    /// Down product of the MLP.
    #[serde(rename = "down_proj")]
    Down,
}

impl Module {
    /// All seven, in canonical order.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Hugging Face's name of the module, as in `target_modules`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module's path inside a layer: `self_attn.q_proj`.
    #[must_use]
    pub fn path(self) -> String {
        let parent = match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("{parent}.{}", self.name())
    }

    /// The module of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|module| module.name() == name)
    }

    /// Position in [`Module::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
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
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<RopeParameters>,
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

impl Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// When it is not JSON, not of the Llama family, uses something we would compute wrongly, or breaks a bound.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        if bytes.len() > MAX_CONFIG_BYTES {
            return Err(ModelError::Config(format!("{} bytes, at most {MAX_CONFIG_BYTES}", bytes.len())));
        }
        let raw: RawConfig = serde_json::from_slice(bytes).map_err(|error| ModelError::Config(error.to_string()))?;
        raw.refuse_unsupported()?;
        raw.into_config().checked()
    }

    /// The configuration as `config.json`, readable by `transformers` and by [`Config::from_json`].
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let eos = match self.eos.as_slice() {
            [] => serde_json::Value::Null,
            [one] => serde_json::json!(one),
            many => serde_json::json!(many),
        };
        let value = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
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
        let mut text = format!("{value:#}");
        text.push('\n');
        text.into_bytes()
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// Names the field that breaks one.
    pub fn checked(self) -> Result<Self, ModelError> {
        let within = |name: &str, value: usize, most: usize| match value {
            0 => Err(ModelError::Config(format!("{name} is zero"))),
            value if value > most => Err(ModelError::Config(format!("{name} is {value}, at most {most}"))),
            _ => Ok(()),
        };
        within("hidden_size", self.hidden, MAX_WIDTH)?;
        within("intermediate_size", self.intermediate, MAX_WIDTH)?;
        within("num_hidden_layers", self.layers, MAX_LAYERS)?;
        within("num_attention_heads", self.heads, MAX_HEADS)?;
        within("num_key_value_heads", self.kv_heads, MAX_HEADS)?;
        within("head_dim", self.head_dim, MAX_WIDTH)?;
        within("vocab_size", self.vocab, MAX_VOCAB)?;
        within("max_position_embeddings", self.max_positions, MAX_POSITIONS)?;
        within("query width", self.query_width(), MAX_WIDTH)?;
        if !self.head_dim.is_multiple_of(2) {
            return Err(ModelError::Config(format!("head_dim {} is odd", self.head_dim)));
        }
        within("max_position_embeddings times head_dim", self.max_positions * self.head_dim, MAX_ROTATIONS)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(ModelError::Config(format!("{} heads over {} key heads", self.heads, self.kv_heads)));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(ModelError::Config(format!("rms_norm_eps {}", self.rms_norm_eps)));
        }
        if !(self.rope_theta > 1.0 && self.rope_theta < 1e12) {
            return Err(ModelError::Config(format!("rope_theta {}", self.rope_theta)));
        }
        if self.eos.len() > MAX_END_TOKENS {
            return Err(ModelError::Config(format!("{} end tokens, at most {MAX_END_TOKENS}", self.eos.len())));
        }
        match self.bos.iter().chain(&self.eos).find(|id| usize::try_from(**id).is_ok_and(|id| id >= self.vocab)) {
            Some(id) => Err(ModelError::Config(format!("special token {id} outside the vocabulary of {}", self.vocab))),
            None => Ok(self),
        }
    }

    /// Width of all query heads.
    #[must_use]
    pub const fn query_width(&self) -> usize {
        self.heads.saturating_mul(self.head_dim)
    }

    /// Width of all key (or value) heads.
    #[must_use]
    pub const fn kv_width(&self) -> usize {
        self.kv_heads.saturating_mul(self.head_dim)
    }

    /// (in, out) of a module's product.
    #[must_use]
    pub const fn module_shape(&self, module: Module) -> (usize, usize) {
        match module {
            Module::Query => (self.hidden, self.query_width()),
            Module::Key | Module::Value => (self.hidden, self.kv_width()),
            Module::Output => (self.query_width(), self.hidden),
            Module::Gate | Module::Up => (self.hidden, self.intermediate),
            Module::Down => (self.intermediate, self.hidden),
        }
    }
}

impl RawConfig {
    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        let unsupported = |what: String| Err(ModelError::Config(format!("{what} is not supported")));
        if self.model_type != "llama" {
            return unsupported(format!("model_type {:?}", self.model_type));
        }
        if self.attention_bias || self.mlp_bias {
            return unsupported("bias".into());
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return unsupported(format!("hidden_act {act:?}"));
        }
        if self.rope_scaling.as_ref().is_some_and(|scaling| !scaling.is_null()) {
            return unsupported("rope_scaling".into());
        }
        let kind = self.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref());
        match kind.filter(|kind| *kind != "default") {
            Some(kind) => unsupported(format!("rope_type {kind:?}")),
            None => Ok(()),
        }
    }

    fn into_config(self) -> Config {
        let in_parameters = self.rope_parameters.and_then(|rope| rope.rope_theta);
        Config {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0)),
            vocab: self.vocab_size,
            max_positions: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta.or(in_parameters).unwrap_or(10_000.0),
            tied: self.tie_word_embeddings,
            bos: self.bos_token_id,
            eos: match self.eos_token_id {
                None => Vec::new(),
                Some(TokenIds::One(id)) => vec![id],
                Some(TokenIds::Many(ids)) => ids,
            },
        }
    }
}
