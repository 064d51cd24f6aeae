//! Llama, Mistral, Qwen2 and Qwen3: training over packed sequences with gradients, and serving over caches, with the
//! same kernels.
//!
//! Invariant: on the processor, a token's hidden state depends bitwise only on the weights, its adapter and its own
//! sequence, in both modes, whatever else is in the batch; so a prefill repeats exactly what decoding token by token
//! computed.

mod base;
mod batch;
mod block;
mod config;
mod export;
mod module;
mod rope;
mod stages;
pub(crate) mod weights;

use std::sync::Arc;

use candle_core::{Device, Tensor};

pub use base::{Base, BaseFacts, Extras, MAX_BASE_BYTES, base_hash};
pub use batch::{Feed, LogitRows, Packed, Stepped};
pub use config::{
    Config, Family, MAX_CONFIG_BYTES, MAX_END_TOKENS, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH,
    SlidingWindow,
};
pub use module::Module;
pub use rope::{Frequencies, RopeScaling, yarn_amplitude};
pub use weights::{WeightType, Weights};

use crate::gguf::GgufError;
use crate::linear::Hook;
use crate::ops::{self, Precision, RopeTable, Table, Weight};
use block::{Attend, Block};
use weights::Parts;

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
    /// A GGUF file was refused.
    #[error("gguf: {0}")]
    Gguf(#[from] GgufError),
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

/// A model. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Model {
    config: Arc<Config>,
    embedding: Table,
    blocks: Arc<[Block]>,
    norm: Tensor,
    head: Weight,
    rope: Arc<RopeTable>,
}

impl Model {
    /// A model over dense `weights`, which may be variables.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn new(config: &Config, weights: Weights) -> Result<Self, ModelError> {
        Ok(Self::assemble(config, weights.into_parts()?))
    }

    pub(crate) fn assemble(config: &Config, parts: Parts) -> Self {
        let blocks = parts.blocks.iter().enumerate().map(|(layer, block)| Block::new(config, layer, block));
        Self {
            config: Arc::new(config.clone()),
            embedding: parts.embedding,
            blocks: blocks.collect(),
            norm: parts.norm,
            head: parts.head,
            rope: Arc::new(RopeTable::new(&config.frequencies(), config.max_positions)),
        }
    }

    /// The same model with its quantised products computed in another precision.
    #[must_use]
    pub fn with_precision(&self, precision: Precision) -> Self {
        let blocks = self.blocks.iter().map(|block| block.with_precision(precision)).collect();
        Self { blocks, head: self.head.with_precision(precision), ..self.clone() }
    }

    /// The same model on `device`.
    ///
    /// # Errors
    /// When it doesn't fit the device's memory.
    pub fn to_device(&self, device: &Device) -> Result<Self, ModelError> {
        let head = self.head.to_device(device)?;
        let blocks = self.blocks.iter().map(|block| block.to_device(device)).collect::<Result<_, _>>()?;
        let embedding = self.embedding.to_device(device, (&self.head, &head))?;
        Ok(Self { embedding, blocks, norm: self.norm.to_device(device)?, head, ..self.clone() })
    }

    /// Where the model computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.norm.device()
    }

    /// Runs `work` with this model where its kernels wait for nobody to wake.
    pub(crate) fn within_pool<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        ops::within_pool(&self.norm, work)
    }

    /// Whether a product is computed by quantised kernels.
    #[must_use]
    pub fn is_quantised(&self) -> bool {
        let weights = self.blocks.iter().flat_map(Block::weights).chain(std::iter::once(&self.head));
        weights.into_iter().any(Weight::is_quantised)
    }

    /// Bytes of all products as they lie in memory, without what candle repacks for its kernels.
    #[must_use]
    pub fn product_bytes(&self) -> usize {
        self.blocks.iter().flat_map(Block::weights).chain(std::iter::once(&self.head)).map(Weight::bytes).sum()
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
        self.check_batch(batch)?;
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
        Ok(self.head.product(hidden)?)
    }

    /// The likelihood of one target per hidden state, in nats, (rows).
    ///
    /// # Errors
    /// When the shape doesn't fit or a target is unknown.
    pub(crate) fn losses(&self, hidden: &Tensor, targets: &[u32]) -> Result<Tensor, ModelError> {
        Ok(ops::head_likelihood(hidden, &self.head, targets)?)
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
            many => Hook::Segments(many),
        };
        self.check_hook(hook)?;
        let hidden = self.run(&tokens, &positions.into(), hook, Attend::Cached(feeds))?.detach();
        let logits = match logits {
            LogitRows::None => None,
            LogitRows::All => Some(self.logits(&hidden)?.detach()),
            LogitRows::Last => {
                let last: Vec<u32> = segments.iter().filter_map(|(rows, _)| u32::try_from(rows.end - 1).ok()).collect();
                let rows = hidden.index_select(&Tensor::new(last, self.device())?, 0)?;
                Some(self.logits(&rows)?.detach())
            }
        };
        Ok(Stepped { hidden, logits })
    }

    fn check_batch(&self, batch: &Packed) -> Result<(), ModelError> {
        match batch.sequences.iter().find(|range| range.len() > self.config.max_positions) {
            Some(range) => Err(self.too_long(range.len())),
            None => self.check_tokens(&batch.tokens),
        }
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        let unknown = |token: &&u32| usize::try_from(**token).is_ok_and(|id| id >= self.config.vocab);
        match tokens.iter().find(unknown) {
            Some(token) => Err(ModelError::Input(format!("token {token} in a vocabulary of {}", self.config.vocab))),
            None => Ok(()),
        }
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
        self.check_tokens(tokens)?;
        let ids = Tensor::new(tokens, self.device())?;
        let mut x = self.embedding.rows(&ids)?;
        for block in self.blocks.iter() {
            x = block.forward(&x, &self.rope, positions, hook, &mut attend)?;
        }
        Ok(ops::rms_norm(&x, &self.norm, self.config.rms_norm_eps)?)
    }
}
