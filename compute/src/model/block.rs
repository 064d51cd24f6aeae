//! One block: attention, then the MLP, each added to the residual stream.
//!
//! Invariant: the same code computes training and serving; only where keys and values come from differs.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::weights::BlockWeights;
use super::{Config, Feed, Module};
use crate::linear::{Hook, Linear};
use crate::ops::{self, HeadShape, Precision, RopeTable, Seen, Weight};

/// Where a pass finds keys and values.
pub(super) enum Attend<'a, 'b> {
    /// In the rows themselves, sequence by sequence.
    Packed(&'a Arc<[Range<usize>]>),
    /// In each sequence's cache, which takes the new rows first.
    Cached(&'a mut [Feed<'b>]),
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    layer: usize,
    shape: HeadShape,
    eps: f64,
    attention_norm: Tensor,
    mlp_norm: Tensor,
    /// Norms of each head's queries and keys (Qwen3).
    head_norms: Option<[Tensor; 2]>,
    linears: [Linear; 7],
}

impl Block {
    pub(super) fn new(config: &Config, layer: usize, weights: &BlockWeights<Weight>) -> Self {
        let window = config.window_of(layer);
        // Biases are those of the first three modules.
        let bias = |module: Module| weights.biases.as_ref()?.get(module.index()).cloned();
        Self {
            layer,
            shape: HeadShape { heads: config.heads, kv_heads: config.kv_heads, width: config.head_dim, window },
            eps: config.rms_norm_eps,
            attention_norm: weights.attention_norm.clone(),
            mlp_norm: weights.mlp_norm.clone(),
            head_norms: weights.head_norms.clone(),
            linears: Module::ALL.map(|module| {
                Linear::new(weights.linears[module.index()].clone(), layer, module).with_bias(bias(module))
            }),
        }
    }

    pub(super) fn with_precision(&self, precision: Precision) -> Self {
        Self { linears: self.linears.each_ref().map(|linear| linear.with_precision(precision)), ..self.clone() }
    }

    pub(super) fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = |tensor: &Tensor| tensor.to_device(device);
        let head_norms = match &self.head_norms {
            Some([q_norm, k_norm]) => Some([moved(q_norm)?, moved(k_norm)?]),
            None => None,
        };
        let mut linears = self.linears.clone();
        for linear in &mut linears {
            *linear = linear.to_device(device)?;
        }
        let (attention_norm, mlp_norm) = (moved(&self.attention_norm)?, moved(&self.mlp_norm)?);
        Ok(Self { attention_norm, mlp_norm, head_norms, linears, ..self.clone() })
    }

    pub(super) fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.linears.iter().map(Linear::weight)
    }

    /// Norms of attention, of the MLP, and of the heads where there are any.
    pub(super) fn norms(&self) -> (Tensor, Tensor, Option<[Tensor; 2]>) {
        (self.attention_norm.clone(), self.mlp_norm.clone(), self.head_norms.clone())
    }

    /// Biases of queries, keys and values, where there are any.
    pub(super) fn biases(&self) -> Option<[Tensor; 3]> {
        let [query, key, value, ..] = &self.linears;
        Some([query.bias()?.clone(), key.bias()?.clone(), value.bias()?.clone()])
    }

    /// The residual stream after this block.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rope: &Arc<RopeTable>,
        positions: &Arc<[u32]>,
        hook: Hook<'_>,
        attend: &mut Attend<'_, '_>,
    ) -> Result<Tensor> {
        let linear = |module: Module| &self.linears[module.index()];
        let normed = ops::rms_norm(x, &self.attention_norm, self.eps)?;
        let [q, k, v] = Linear::forward_all([Module::Query, Module::Key, Module::Value].map(linear), &normed, hook)?;
        let (q, k) = self.norm_heads(q, k)?;
        let (q, k) = (ops::rotate(&q, rope, positions)?, ops::rotate(&k, rope, positions)?);
        let mixed = self.attend([&q, &k, &v], attend)?;
        let x = (x + linear(Module::Output).forward(&mixed, hook)?)?;
        let normed = ops::rms_norm(&x, &self.mlp_norm, self.eps)?;
        let [gate, up] = Linear::forward_all([Module::Gate, Module::Up].map(linear), &normed, hook)?;
        x + linear(Module::Down).forward(&ops::swiglu(&gate, &up)?, hook)?
    }

    fn norm_heads(&self, q: Tensor, k: Tensor) -> Result<(Tensor, Tensor)> {
        let Some([q_norm, k_norm]) = &self.head_norms else { return Ok((q, k)) };
        let norm = |x: &Tensor, weight: &Tensor| {
            let heads = x.reshape((x.elem_count() / self.shape.width, self.shape.width))?;
            ops::rms_norm(&heads, weight, self.eps)?.reshape(x.shape())
        };
        Ok((norm(&q, q_norm)?, norm(&k, k_norm)?))
    }

    fn attend(&self, [q, k, v]: [&Tensor; 3], attend: &mut Attend<'_, '_>) -> Result<Tensor> {
        let feeds = match attend {
            Attend::Packed(sequences) => return ops::attend(q, k, v, self.shape, sequences),
            Attend::Cached(feeds) => feeds,
        };
        if ops::portable::is_portable(q) {
            return self.attend_on_device([q, k, v], feeds);
        }
        let kv_width = self.shape.kv_heads * self.shape.width;
        let mut row = 0;
        ops::with_floats(k, |k| {
            ops::with_floats(v, |v| {
                for feed in feeds.iter_mut() {
                    let kv = row * kv_width..(row + feed.tokens.len()) * kv_width;
                    feed.cache.layer_mut(self.layer).append(&k[kv.clone()], &v[kv]);
                    row += feed.tokens.len();
                }
            })
        })??;
        let runs = feeds.iter().map(|feed| (feed.cache.layer(self.layer).runs(), feed.tokens.len()));
        let sequences: Vec<Seen<'_>> = runs.map(|(runs, rows)| Seen { runs, rows }).collect();
        let mixed = ops::with_floats(q, |q| ops::attend_cached(q, &sequences, self.shape))?;
        Tensor::from_vec(mixed, q.shape().clone(), &Device::Cpu)
    }

    fn attend_on_device(&self, [q, k, v]: [&Tensor; 3], feeds: &mut [Feed<'_>]) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(feeds.len());
        let mut row = 0;
        for feed in feeds {
            let rows = feed.tokens.len();
            let own = |tensor: &Tensor| ops::portable::by_heads(&tensor.narrow(0, row, rows)?, self.shape);
            let layer = feed.cache.layer_mut(self.layer);
            let (keys, values) = layer.append_on_device(&own(k)?, &own(v)?)?;
            parts.push(ops::portable::attend_rows(&q.narrow(0, row, rows)?, &keys, &values, self.shape)?);
            row += rows;
        }
        Tensor::cat(&parts, 0)
    }
}
