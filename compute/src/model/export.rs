//! A model's weights in f32 again, with an adapter merged into them where asked.
//!
//! Invariant: without an adapter, dense weights come back bit by bit; merging adds each pair's product once, so the merged
//! model says what base and adapter say up to rounding.

use candle_core::{Result, Tensor};

use super::weights::{BlockWeights, Weights};
use super::{Model, ModelError, Module};
use crate::lora::Adapter;
use crate::ops::Table;

impl Model {
    /// All weights in f32, quantised ones expanded, with the adapter merged into its products. They write as
    /// `model.safetensors` under a configuration whose family and shape are this model's.
    ///
    /// # Errors
    /// When the adapter is of another shape or memory can't be had.
    pub fn merged(&self, adapter: Option<&Adapter>) -> std::result::Result<Weights, ModelError> {
        if adapter.is_some_and(|adapter| !adapter.fits(&self.config)) {
            return Err(ModelError::Input("the adapter is of another shape".into()));
        }
        let embedding = match &self.embedding {
            Table::Dense(tensor) => tensor.clone(),
            Table::Quantised(tensor) => tensor.dequantize(&tensor.device())?,
        };
        let blocks = self.blocks.iter().enumerate().map(|(layer, block)| {
            let (attention_norm, mlp_norm, head_norms) = block.norms();
            let mut linears = Vec::with_capacity(Module::ALL.len());
            for (module, weight) in Module::ALL.into_iter().zip(block.weights()) {
                linears.push(merge(weight.dense()?, adapter, layer, module)?);
            }
            let linears = linears.try_into().map_err(|_| ModelError::Input("not seven products".into()))?;
            Ok(BlockWeights { attention_norm, mlp_norm, head_norms, linears, biases: block.biases() })
        });
        let head = if self.config.tied { None } else { Some(self.head.dense()?) };
        let blocks = blocks.collect::<std::result::Result<_, ModelError>>()?;
        Ok(Weights { embedding, blocks, norm: self.norm.clone(), head })
    }
}

fn merge(weight: Tensor, adapter: Option<&Adapter>, layer: usize, module: Module) -> Result<Tensor> {
    let pair = adapter.and_then(|adapter| Some((adapter.pair(layer, module)?, adapter.config().scale())));
    match pair {
        None => Ok(weight),
        Some((pair, scale)) => {
            let added = (pair.down.detach().matmul(&pair.up.detach())? * f64::from(scale))?;
            &weight + added.to_device(weight.device())?
        }
    }
}
