//! The Llama family: training over packed sequences with gradients, and serving over caches, with the same kernels.
//!
//! Invariant: a token's hidden state depends bitwise only on the weights, its adapter and its own sequence, in both
//! modes, whatever else is in the batch; so a prefill repeats exactly what decoding token by token computed.

mod base;
mod config;
pub(crate) mod weights;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, Device, Tensor};

pub use base::{Base, MAX_BASE_BYTES, base_hash};
pub use config::{
    Config, MAX_CONFIG_BYTES, MAX_END_TOKENS, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Module,
};
pub use weights::{WeightType, Weights};

use crate::kv::Cache;
use crate::linear::{Hook, Linear};
use crate::lora::Adapter;
use crate::ops::{self, HeadShape, RopeTable};

/// Most tokens of one forward pass; bounds its memory.
pub const MAX_BATCH_TOKENS: usize = 65_536;

/// Why a model can't be read or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// `config.json` is malformed, out of bounds or of a kind we would compute wrongly.
    #[error("config.json: {0}")]
    Config(String),
    /// `tokenizer.json` is malformed or does not fit the model.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),
    /// `model.safetensors` does not hold exactly the expected finite tensors.
    #[error("model.safetensors: {0}")]
    Weights(String),
    /// A file of the model can't be read.
    #[error("cannot read {file}: {source}")]
    File {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A request the model can't run: too long, empty, a token it does not have, an adapter of another shape.
    #[error("cannot run: {0}")]
    Input(String),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Compute(#[from] candle_core::Error),
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Records what `backward` needs; dropout applies.
    Train,
    /// Records nothing, even for an adapter made of variables; no dropout.
    Infer,
}

/// Sequences laid end to end, without padding; each attends to itself only, from position 0.
#[derive(Debug, Clone)]
pub struct Packed {
    tokens: Vec<u32>,
    sequences: Arc<[Range<usize>]>,
    positions: Arc<[u32]>,
}

impl Packed {
    /// Packs sequences.
    ///
    /// # Errors
    /// When there is none, one is empty, or there are more than [`MAX_BATCH_TOKENS`] tokens.
    pub fn new<T: AsRef<[u32]>>(sequences: &[T]) -> Result<Self, ModelError> {
        let (mut tokens, mut ranges, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            let sequence = sequence.as_ref();
            let start = tokens.len();
            if sequence.is_empty() || start + sequence.len() > MAX_BATCH_TOKENS {
                return Err(ModelError::Input(format!("a sequence of {} tokens after {start}", sequence.len())));
            }
            tokens.extend_from_slice(sequence);
            ranges.push(start..tokens.len());
            positions.extend((0_u32..).take(sequence.len()));
        }
        match tokens.is_empty() {
            true => Err(ModelError::Input("no sequence".into())),
            false => Ok(Self { tokens, sequences: ranges.into(), positions: positions.into() }),
        }
    }

    /// Rows of each sequence.
    #[must_use]
    pub fn sequences(&self) -> &[Range<usize>] {
        &self.sequences
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.tokens.len()
    }
}

/// One sequence's part of a serving step.
pub struct Feed<'a> {
    /// New tokens: a prompt (or a piece of one), or the last token picked.
    pub tokens: &'a [u32],
    /// The adapter that answers, or the base.
    pub adapter: Option<&'a Adapter>,
    /// What the sequence remembers; grows by the new tokens.
    pub cache: &'a mut Cache,
}

/// Which rows of a step need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None.
    None,
    /// The last new token of each sequence: one row per sequence.
    Last,
    /// Every new token.
    All,
}

/// The result of a serving step.
pub struct Stepped {
    /// Final hidden states after the last norm, (new tokens of all sequences, hidden).
    pub hidden: Tensor,
    /// (rows asked for, vocabulary); `None` for [`LogitRows::None`].
    pub logits: Option<Tensor>,
}

#[derive(Debug, Clone)]
struct Block {
    attention_norm: Tensor,
    mlp_norm: Tensor,
    linears: [Linear; 7],
}

/// A Llama model. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Llama {
    config: Arc<Config>,
    /// (vocabulary, hidden).
    embedding: Tensor,
    blocks: Arc<[Block]>,
    norm: Tensor,
    /// (hidden, vocabulary).
    head: Tensor,
    rope: Arc<RopeTable>,
}

enum Attend<'a, 'b> {
    Packed(&'a Arc<[Range<usize>]>),
    Cached(&'a mut [Feed<'b>]),
}

impl Llama {
    /// A model over `weights`, which may be variables.
    ///
    /// # Errors
    /// When a view of a tensor can't be made.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self, ModelError> {
        let blocks = weights.blocks.iter().enumerate().map(|(layer, block)| Block {
            attention_norm: block.attention_norm.clone(),
            mlp_norm: block.mlp_norm.clone(),
            linears: Module::ALL.map(|module| Linear::new(block.linears[module.index()].clone(), layer, module)),
        });
        let head = match &weights.head {
            Some(head) => head.clone(),
            None => weights.embedding.t()?,
        };
        Ok(Self {
            config: Arc::new(config.clone()),
            embedding: weights.embedding.clone(),
            blocks: blocks.collect(),
            norm: weights.norm.clone(),
            head,
            rope: Arc::new(RopeTable::new(config.head_dim, config.max_positions, config.rope_theta)),
        })
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Final hidden states after the last norm of whole sequences, (rows, hidden).
    ///
    /// # Errors
    /// When a sequence is too long, a token unknown or the adapter of another shape.
    pub fn hidden(&self, mode: Mode, batch: &Packed, hook: Hook<'_>) -> Result<Tensor, ModelError> {
        if let Some(range) = batch.sequences.iter().find(|range| range.len() > self.config.max_positions) {
            return Err(self.too_long(range.len()));
        }
        self.check_hook(hook)?;
        let attend = Attend::Packed(&batch.sequences);
        match (mode, hook) {
            (Mode::Infer, Hook::One(adapter, _)) => {
                let adapter = adapter.detached();
                Ok(self.run(&batch.tokens, &batch.positions, Hook::One(&adapter, None), attend)?.detach())
            }
            (Mode::Infer, _) => Ok(self.run(&batch.tokens, &batch.positions, hook, attend)?.detach()),
            (Mode::Train, _) => self.run(&batch.tokens, &batch.positions, hook, attend),
        }
    }

    /// Logits (rows, vocabulary) of hidden states (rows, hidden).
    ///
    /// # Errors
    /// When the shape doesn't fit.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(ops::product(hidden, &self.head)?)
    }

    /// One serving step: feeds each sequence its new tokens, whatever adapters they use, and grows their caches.
    ///
    /// # Errors
    /// Before any cache is touched: when a sequence would be too long, a token is unknown or an adapter of another shape.
    pub fn step(&self, feeds: &mut [Feed<'_>], logits: LogitRows) -> Result<Stepped, ModelError> {
        let (mut tokens, mut positions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for feed in feeds.iter() {
            let (start, seen) = (tokens.len(), feed.cache.positions());
            let length = seen + feed.tokens.len();
            if feed.tokens.is_empty() || start + feed.tokens.len() > MAX_BATCH_TOKENS {
                return Err(ModelError::Input(format!("a step of {} tokens after {start}", feed.tokens.len())));
            }
            if length > self.config.max_positions {
                return Err(self.too_long(length));
            }
            tokens.extend_from_slice(feed.tokens);
            positions.extend((seen..length).filter_map(|position| u32::try_from(position).ok()));
            segments.push((start..tokens.len(), feed.adapter));
        }
        let hook = match segments.as_slice() {
            [] => return Err(ModelError::Input("no sequence".into())),
            [(_, None)] => Hook::Base,
            [(_, Some(adapter))] => Hook::One(adapter, None),
            many => Hook::Segments(many),
        };
        self.check_hook(hook)?;
        let hidden = self.run(&tokens, &positions.into(), hook, Attend::Cached(feeds))?.detach();
        let logits = match logits {
            LogitRows::None => None,
            LogitRows::All => Some(self.logits(&hidden)?.detach()),
            LogitRows::Last => {
                let last: Vec<u32> = segments.iter().filter_map(|(rows, _)| u32::try_from(rows.end - 1).ok()).collect();
                let rows = hidden.index_select(&Tensor::new(last, &Device::Cpu)?, 0)?;
                Some(self.logits(&rows)?.detach())
            }
        };
        Ok(Stepped { hidden, logits })
    }

    fn too_long(&self, length: usize) -> ModelError {
        ModelError::Input(format!("{length} tokens in a context of {}", self.config.max_positions))
    }

    fn check_hook(&self, hook: Hook<'_>) -> Result<(), ModelError> {
        let fits = match hook {
            Hook::Base => true,
            Hook::One(adapter, _) => adapter.fits(&self.config),
            Hook::Segments(segments) => {
                segments.iter().filter_map(|(_, adapter)| *adapter).all(|adapter| adapter.fits(&self.config))
            }
        };
        if fits { Ok(()) } else { Err(ModelError::Input("the adapter is of another shape".into())) }
    }

    fn run(
        &self,
        tokens: &[u32],
        positions: &Arc<[u32]>,
        hook: Hook<'_>,
        mut attend: Attend<'_, '_>,
    ) -> Result<Tensor, ModelError> {
        if let Some(token) =
            tokens.iter().find(|token| usize::try_from(**token).is_ok_and(|id| id >= self.config.vocab))
        {
            return Err(ModelError::Input(format!("token {token} in a vocabulary of {}", self.config.vocab)));
        }
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        let eps = self.config.rms_norm_eps;
        for (layer, block) in self.blocks.iter().enumerate() {
            let linear = |module: Module, x: &Tensor| block.linears[module.index()].forward(x, hook);
            let normed = ops::rms_norm(&x, &block.attention_norm, eps)?;
            let q = ops::rotate(&linear(Module::Query, &normed)?, &self.rope, positions)?;
            let k = ops::rotate(&linear(Module::Key, &normed)?, &self.rope, positions)?;
            let v = linear(Module::Value, &normed)?;
            let mixed = self.attend(layer, [&q, &k, &v], &mut attend)?;
            x = (x + linear(Module::Output, &mixed)?)?;
            let normed = ops::rms_norm(&x, &block.mlp_norm, eps)?;
            let inner = ops::swiglu(&linear(Module::Gate, &normed)?, &linear(Module::Up, &normed)?)?;
            x = (x + linear(Module::Down, &inner)?)?;
        }
        Ok(ops::rms_norm(&x, &self.norm, eps)?)
    }

    fn attend(
        &self,
        layer: usize,
        [q, k, v]: [&Tensor; 3],
        attend: &mut Attend<'_, '_>,
    ) -> candle_core::Result<Tensor> {
        let shape = HeadShape { heads: self.config.heads, kv_heads: self.config.kv_heads, width: self.config.head_dim };
        let feeds = match attend {
            Attend::Packed(sequences) => return ops::attend(q, k, v, shape, sequences),
            Attend::Cached(feeds) => feeds,
        };
        let (q_width, kv_width) = (q.dim(D::Minus1)?, k.dim(D::Minus1)?);
        let mut mixed = Vec::with_capacity(q.elem_count());
        ops::with_floats(q, |q| {
            ops::with_floats(k, |k| {
                ops::with_floats(v, |v| {
                    let mut row = 0;
                    for feed in feeds.iter_mut() {
                        let rows = row..row + feed.tokens.len();
                        let kv = rows.start * kv_width..rows.end * kv_width;
                        let cache = feed.cache.layer_mut(layer);
                        cache.append(&k[kv.clone()], &v[kv]);
                        let queries = &q[rows.start * q_width..rows.end * q_width];
                        mixed.extend(ops::attend_cached(queries, &cache.runs(), cache.positions(), shape));
                        row = rows.end;
                    }
                })
            })
        })???;
        Tensor::from_vec(mixed, q.shape().clone(), &Device::Cpu)
    }
}
