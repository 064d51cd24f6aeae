//! A model's shape, read from Hugging Face's `config.json` and refused when it is not one we compute exactly.
//!
//! Invariant: a `Config` that exists is within every bound below, so no later arithmetic on its fields can overflow.

mod json;

use super::rope::{Frequencies, RopeScaling};
use super::{ModelError, Module};

pub use json::MAX_CONFIG_BYTES;
pub(crate) use json::end_tokens_of;

/// Widest hidden or intermediate size: four times Llama-3.1-405B's hidden size.
pub const MAX_WIDTH: usize = 65_536;
/// Most layers: twice Llama-3.1-405B's.
pub const MAX_LAYERS: usize = 256;
/// Most attention heads of one layer.
pub const MAX_HEADS: usize = 512;
/// Largest vocabulary: twice Llama-3's.
pub const MAX_VOCAB: usize = 262_144;
/// Longest context: Llama-3.1's. A model that says it can do more is served up to here.
pub const MAX_POSITIONS: usize = 131_072;
/// Longest context a file may claim; beyond it the number is a mistake.
const MAX_CLAIMED_POSITIONS: usize = 1 << 24;
/// Most entries (positions · head width) of the rotation table: 128 MiB, enough for heads of 256 in the longest context.
const MAX_ROTATIONS: usize = 1 << 25;
/// Most end-of-text tokens a model may name.
pub const MAX_END_TOKENS: usize = 16;

/// The families whose blocks we compute. They differ in biases, norms of heads and windows, which the same code covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// Llama 2 and 3 and what copies them.
    #[default]
    Llama,
    /// Llama with a sliding window.
    Mistral,
    /// Biases on queries, keys and values.
    Qwen2,
    /// A norm over each head's queries and keys before the rotation.
    Qwen3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` of config.json.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The family of a `model_type`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// Whether queries, keys and values have biases.
    #[must_use]
    pub const fn has_biases(self) -> bool {
        matches!(self, Self::Qwen2)
    }

    /// Whether each head's queries and keys are normed.
    #[must_use]
    pub const fn has_head_norms(self) -> bool {
        matches!(self, Self::Qwen3)
    }

    /// Whether prompts begin with the begin token where nothing else says so.
    #[must_use]
    pub const fn begins_texts(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral)
    }

    const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// Attention to the latest positions only, in some layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Positions that a query sees, its own included.
    pub positions: usize,
    /// For each layer, whether it has the window.
    pub layers: Vec<bool>,
}

/// The shape of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// Which family's blocks.
    pub family: Family,
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
    /// How the frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Which layers see the latest positions only.
    pub window: Option<SlidingWindow>,
    /// Whether the output product uses the embedding.
    pub tied: bool,
    /// Token put before every text, if the model has one.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

impl Config {
    /// Checks every bound.
    ///
    /// # Errors
    /// Names the field that breaks one.
    pub fn checked(mut self) -> Result<Self, ModelError> {
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
        within("max_position_embeddings", self.max_positions, MAX_CLAIMED_POSITIONS)?;
        within("query width", self.query_width(), MAX_WIDTH)?;
        self.max_positions = self.max_positions.min(MAX_POSITIONS);
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
        self.rope_scaling.check(self.head_dim)?;
        self.check_window()?;
        self.check_tokens()?;
        Ok(self)
    }

    fn check_window(&self) -> Result<(), ModelError> {
        match &self.window {
            Some(window) if window.positions == 0 || window.layers.len() != self.layers => Err(ModelError::Config(
                format!("a window of {} in {} of {} layers", window.positions, window.layers.len(), self.layers),
            )),
            _ => Ok(()),
        }
    }

    fn check_tokens(&self) -> Result<(), ModelError> {
        if self.eos.len() > MAX_END_TOKENS {
            return Err(ModelError::Config(format!("{} end tokens, at most {MAX_END_TOKENS}", self.eos.len())));
        }
        match self.bos.iter().chain(&self.eos).find(|id| usize::try_from(**id).is_ok_and(|id| id >= self.vocab)) {
            Some(id) => Err(ModelError::Config(format!("special token {id} outside the vocabulary of {}", self.vocab))),
            None => Ok(()),
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

    /// Input and output width of a module.
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

    /// Positions that a query of this layer sees, its own included; `None` is all.
    #[must_use]
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.as_ref().filter(|window| window.layers.get(layer) == Some(&true)).map(|window| window.positions)
    }

    /// The rotary frequencies.
    #[must_use]
    pub fn frequencies(&self) -> Frequencies {
        self.rope_scaling.frequencies(self.head_dim, self.rope_theta)
    }
}
