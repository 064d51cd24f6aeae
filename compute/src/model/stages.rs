//! A pass over whole sequences, stage by stage, for a caller who keeps less than all of it.
//!
//! Invariant: the stages, one after the other, are [`Model::hidden`] bit by bit.

use candle_core::Tensor;

use super::block::Attend;
use super::{Model, ModelError, Packed};
use crate::linear::Hook;
use crate::ops;

/// The stages of one batch.
pub(crate) struct Stages<'a> {
    model: &'a Model,
    batch: &'a Packed,
}

impl Model {
    /// The stages of a pass over `batch`.
    pub(crate) fn stages<'a>(&'a self, batch: &'a Packed) -> Result<Stages<'a>, ModelError> {
        self.check_batch(batch)?;
        Ok(Stages { model: self, batch })
    }
}

impl Stages<'_> {
    pub(crate) fn layers(&self) -> usize {
        self.model.blocks.len()
    }

    /// The residual stream before the first block.
    pub(crate) fn embedded(&self) -> Result<Tensor, ModelError> {
        let ids = Tensor::new(self.batch.tokens.as_slice(), self.model.device())?;
        Ok(self.model.embedding.rows(&ids)?)
    }

    /// The residual stream after block `layer`.
    pub(crate) fn block(&self, layer: usize, x: &Tensor, hook: Hook<'_>) -> Result<Tensor, ModelError> {
        self.model.check_hook(hook)?;
        let block = self.model.blocks.get(layer).ok_or_else(|| ModelError::Input(format!("no block {layer}")))?;
        let mut attend = Attend::Packed(&self.batch.sequences);
        Ok(block.forward(x, &self.model.rope, &self.batch.positions, hook, &mut attend)?)
    }

    /// Final hidden states.
    pub(crate) fn normed(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(ops::rms_norm(x, &self.model.norm, self.model.config.rms_norm_eps)?)
    }
}
