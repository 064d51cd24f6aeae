//! An adapter stored for multiplying, as serving holds it in memory.
//!
//! Invariant: a row's addition has the same bits as through the [`Adapter`] that this was made of.

use candle_core::{Device, Result, Tensor};

use super::{Adapter, AdapterFiles, LoraConfig, LoraError, Pair, place, sites};
use crate::model::{Config, Module};
use crate::ops::{Factors, Strips};

/// An adapter that only answers.
#[derive(Debug)]
pub struct FrozenAdapter {
    config: LoraConfig,
    layers: usize,
    /// In the order of [`Adapter`]'s.
    pairs: Vec<Factors>,
}

impl FrozenAdapter {
    /// The same numbers, stored anew.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn new(adapter: &Adapter) -> Result<Self> {
        // Strips are the processor's, wherever the adapter was trained.
        let strips = |factor: &Tensor| Strips::new(&factor.to_device(&Device::Cpu)?);
        let freeze = |pair: &Pair| Ok(Factors::new(strips(&pair.down)?, strips(&pair.up)?));
        let pairs = adapter.pairs.iter().map(freeze).collect::<Result<_>>()?;
        Ok(Self { config: adapter.config.clone(), layers: adapter.layers, pairs })
    }

    /// Reads files from anybody for a model of shape `model`, as [`Adapter::from_files`] does.
    ///
    /// # Errors
    /// As [`Adapter::from_files`].
    pub fn from_files(model: &Config, files: &AdapterFiles) -> std::result::Result<Self, LoraError> {
        Ok(Self::new(&Adapter::as_stored(model, files)?)?)
    }

    /// Bytes of the numbers of such an adapter.
    #[must_use]
    pub fn bytes(model: &Config, lora: &LoraConfig) -> usize {
        let bytes = sites(model.layers, lora).map(|(_, module)| {
            let (inner, outer) = model.module_shape(module);
            Strips::bytes_of(inner, lora.rank) + Strips::bytes_of(lora.rank, outer)
        });
        bytes.sum()
    }

    /// The adapter's shape.
    #[must_use]
    pub const fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The pair of a product, if it carries one.
    #[must_use]
    pub fn pair(&self, layer: usize, module: Module) -> Option<&Factors> {
        self.pairs.get(place(&self.config, layer, module)?)
    }

    /// Whether the adapter fits a model of that shape.
    #[must_use]
    pub fn fits(&self, model: &Config) -> bool {
        let shapes = sites(model.layers, &self.config).map(|(_, module)| model.module_shape(module));
        self.layers == model.layers
            && shapes.zip(&self.pairs).all(|((inner, outer), pair)| {
                pair.down.shape() == (inner, self.config.rank) && pair.up.shape() == (self.config.rank, outer)
            })
    }
}
