//! LoRA adapters: their shape, their weights, and PEFT's two files (`adapter_config.json`, `adapter_model.safetensors`).
//!
//! Invariant: an `Adapter` fits the configuration it was made for, every number in it is finite, and equal adapters give
//! equal files, so that a hash names one.

mod files;
mod frozen;

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use tributary_protocol::id::Hash;

use crate::model::{Config, Module};
use crate::ops::narrow;
use crate::random::{Stream, uniform};

pub use files::{AdapterFiles, AdapterMeasure, MAX_ADAPTER_CONFIG_BYTES, measure};
pub use frozen::FrozenAdapter;

/// Largest rank: the cap of mistral.rs; above it LoRA saves nothing.
pub const MAX_RANK: usize = 256;
/// Largest alpha; scales beyond it are surely mistakes and could overflow.
pub const MAX_ALPHA: f64 = 65_536.0;

/// Why an adapter was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// `adapter_config.json` is no LoRA configuration we compute exactly.
    #[error("adapter_config.json: {0}")]
    Config(String),
    /// `adapter_model.safetensors` does not hold exactly the expected tensors.
    #[error("adapter weights: {0}")]
    Weights(String),
    /// A tensor operation failed.
    #[error("adapter: {0}")]
    Compute(#[from] candle_core::Error),
}

/// The shape of an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank of each pair.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Scale by alpha / √rank (arXiv 2312.03732) in place of alpha / rank.
    pub rslora: bool,
    /// Dropout while training.
    pub dropout: f64,
    /// Products that carry a pair, in canonical order.
    pub target_modules: Vec<Module>,
}

impl LoraConfig {
    /// Checks bounds and brings the modules into canonical order.
    ///
    /// # Errors
    /// Names the field that breaks a bound.
    pub fn checked(mut self) -> Result<Self, LoraError> {
        if self.rank == 0 || self.rank > MAX_RANK {
            return Err(LoraError::Config(format!("rank {}, allowed 1 to {MAX_RANK}", self.rank)));
        }
        if !(self.alpha > 0.0 && self.alpha <= MAX_ALPHA) {
            return Err(LoraError::Config(format!("alpha {}, allowed above 0 to {MAX_ALPHA}", self.alpha)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(LoraError::Config(format!("dropout {}, allowed 0 to below 1", self.dropout)));
        }
        self.target_modules.sort_unstable();
        self.target_modules.dedup();
        match self.target_modules.is_empty() {
            true => Err(LoraError::Config("no target modules".into())),
            false => Ok(self),
        }
    }

    /// Factor of the low-rank addition.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        narrow(if self.rslora { self.alpha / rank.sqrt() } else { self.alpha / rank })
    }
}

/// The two factors of one product's addition.
#[derive(Debug, Clone)]
pub struct Pair {
    /// (in, rank): the transpose of PEFT's `lora_A`.
    pub down: Tensor,
    /// (rank, out): the transpose of PEFT's `lora_B`.
    pub up: Tensor,
}

/// A trained (or training) set of pairs. Cloning shares the tensors.
#[derive(Debug, Clone)]
pub struct Adapter {
    config: LoraConfig,
    layers: usize,
    /// One per layer and target module, in canonical order: layers outside, modules inside.
    pairs: Vec<Pair>,
}

impl Adapter {
    /// A fresh adapter as PEFT makes one: down uniform in ±1/√in, up zero, so that it changes nothing yet.
    ///
    /// # Errors
    /// When `lora` breaks a bound.
    pub fn fresh(model: &Config, lora: &LoraConfig, seed: u64) -> Result<Self, LoraError> {
        let lora = lora.clone().checked()?;
        let mut drawn = 0_u64;
        let mut values = Vec::new();
        for (_, module) in sites(model.layers, &lora) {
            let (inner, outer) = model.module_shape(module);
            let bound = 1.0 / (inner as f64).sqrt();
            values.extend((0..inner * lora.rank).map(|_| {
                drawn += 1;
                narrow((2.0 * uniform(seed, Stream::Initial, 0, drawn) - 1.0) * bound)
            }));
            values.extend(std::iter::repeat_n(0.0, lora.rank * outer));
        }
        Self::from_values(model, &lora, &values)
    }

    /// Rebuilds an adapter from [`Adapter::values`].
    ///
    /// # Errors
    /// When the count is wrong or a value is not finite.
    pub fn from_values(model: &Config, lora: &LoraConfig, values: &[f32]) -> Result<Self, LoraError> {
        let lora = lora.clone().checked()?;
        let expected = parameter_count(model, &lora);
        if values.len() != expected {
            return Err(LoraError::Weights(format!("{} values, expected {expected}", values.len())));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(LoraError::Weights("a value is not finite".into()));
        }
        let mut rest = values;
        let mut take = |rows: usize, columns: usize| {
            let (now, later) = rest.split_at(rows * columns);
            rest = later;
            Tensor::from_slice(now, (rows, columns), &Device::Cpu)
        };
        let mut pairs = Vec::new();
        for (_, module) in sites(model.layers, &lora) {
            let (inner, outer) = model.module_shape(module);
            pairs.push(Pair { down: take(inner, lora.rank)?, up: take(lora.rank, outer)? });
        }
        Ok(Self { config: lora, layers: model.layers, pairs })
    }

    /// The adapter's shape.
    #[must_use]
    pub const fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The pair of a product, if it carries one.
    #[must_use]
    pub fn pair(&self, layer: usize, module: Module) -> Option<&Pair> {
        self.pairs.get(place(&self.config, layer, module)?)
    }

    /// All tensors in canonical order: per layer and target module down (in, rank), then up (rank, out).
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.pairs.iter().flat_map(|pair| [&pair.down, &pair.up])
    }

    /// All numbers, tensor after tensor in canonical order. Deltas and gradients use the same order.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn values(&self) -> Result<Vec<f32>, LoraError> {
        let mut values = Vec::new();
        for tensor in self.tensors() {
            values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(values)
    }

    /// A copy whose tensors are variables: `backward` gives their gradients, under the ids of its own tensors.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn trainable(&self) -> Result<(Self, Vec<Var>), LoraError> {
        let (mut pairs, mut variables) = (Vec::new(), Vec::new());
        for pair in &self.pairs {
            let (down, up) = (Var::from_tensor(&pair.down.detach())?, Var::from_tensor(&pair.up.detach())?);
            pairs.push(Pair { down: down.as_tensor().clone(), up: up.as_tensor().clone() });
            variables.extend([down, up]);
        }
        Ok((Self { config: self.config.clone(), layers: self.layers, pairs }, variables))
    }

    /// The same numbers on `device`.
    ///
    /// # Errors
    /// When they don't fit its memory.
    pub fn to_device(&self, device: &Device) -> Result<Self, LoraError> {
        let moved = |pair: &Pair| Ok(Pair { down: pair.down.to_device(device)?, up: pair.up.to_device(device)? });
        let pairs = self.pairs.iter().map(moved).collect::<Result<_, LoraError>>()?;
        Ok(Self { config: self.config.clone(), layers: self.layers, pairs })
    }

    /// The same numbers outside any gradient graph.
    #[must_use]
    pub fn detached(&self) -> Self {
        let pairs = self.pairs.iter().map(|pair| Pair { down: pair.down.detach(), up: pair.up.detach() }).collect();
        Self { config: self.config.clone(), layers: self.layers, pairs }
    }

    /// An adapter of the same shape that changes nothing of the base: its second factors are zero, as before training.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn untrained(&self) -> Result<Self, LoraError> {
        let zero = |pair: &Pair| Ok(Pair { down: pair.down.clone(), up: pair.up.zeros_like()? });
        let pairs = self.pairs.iter().map(zero).collect::<Result<_, LoraError>>()?;
        Ok(Self { config: self.config.clone(), layers: self.layers, pairs })
    }

    /// The exact mean of what adapters of one shape add to the base's products: their pairs side by side, so that ranks add up.
    ///
    /// # Errors
    /// When there is none, shapes differ, or the sum of the ranks breaks its bound.
    pub fn averaged(adapters: &[Self]) -> Result<Self, LoraError> {
        let first = adapters.first().ok_or_else(|| LoraError::Config("no adapters to average".into()))?;
        if adapters.iter().any(|other| other.config != first.config || other.layers != first.layers) {
            return Err(LoraError::Config("adapters of different shapes have no mean".into()));
        }
        let count = adapters.len() as f64;
        let alpha = if first.config.rslora { first.config.alpha / count.sqrt() } else { first.config.alpha };
        let rank = first.config.rank * adapters.len();
        let config = LoraConfig { rank, alpha, ..first.config.clone() }.checked()?;
        let side_by_side = |at: usize| {
            let all = || adapters.iter().map(|adapter| &adapter.pairs[at]);
            let down = Tensor::cat(&all().map(|pair| &pair.down).collect::<Vec<_>>(), 1)?;
            let up = Tensor::cat(&all().map(|pair| &pair.up).collect::<Vec<_>>(), 0)?;
            Ok(Pair { down, up })
        };
        let pairs = (0..first.pairs.len()).map(side_by_side).collect::<Result<_, LoraError>>()?;
        Ok(Self { config, layers: first.layers, pairs })
    }

    /// Whether the adapter fits a model of that shape.
    #[must_use]
    pub fn fits(&self, model: &Config) -> bool {
        let shapes = sites(model.layers, &self.config).map(|(_, module)| model.module_shape(module));
        self.layers == model.layers
            && shapes.zip(&self.pairs).all(|((inner, outer), pair)| {
                pair.down.dims() == [inner, self.config.rank] && pair.up.dims() == [self.config.rank, outer]
            })
    }

    /// The content hash: BLAKE3 over the hashes of the two files.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn hash(&self) -> Result<Hash, LoraError> {
        self.to_files().map(|files| files.hash())
    }
}

/// Numbers in an adapter of that shape.
#[must_use]
pub fn parameter_count(model: &Config, lora: &LoraConfig) -> usize {
    let sizes = sites(model.layers, lora).map(|(_, module)| {
        let (inner, outer) = model.module_shape(module);
        lora.rank * (inner + outer)
    });
    sizes.sum()
}

/// Where a product's pair stands in the canonical order.
fn place(lora: &LoraConfig, layer: usize, module: Module) -> Option<usize> {
    let index = lora.target_modules.iter().position(|target| *target == module)?;
    Some(layer * lora.target_modules.len() + index)
}

/// Every (layer, module) with a pair, in canonical order.
fn sites(layers: usize, lora: &LoraConfig) -> impl Iterator<Item = (usize, Module)> {
    (0..layers).flat_map(|layer| lora.target_modules.iter().map(move |module| (layer, *module)))
}
