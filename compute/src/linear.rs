//! One product of a block, dense or quantised, with the hook where LoRA comes in.
//!
//! Invariant: whatever the hook, a row's result depends bitwise only on the row, the weight and the row's own pair.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::lora::Adapter;
use crate::model::Module;
use crate::ops::{Addition, Precision, Weight, add_segments, lora_product};
use crate::train::Dropout;

/// Which adapter applies to which rows.
#[derive(Clone, Copy)]
pub enum Hook<'a> {
    /// The base alone.
    Base,
    /// One adapter for all rows, in training with dropout on what it sees.
    One(&'a Adapter, Option<&'a Dropout<'a>>),
    /// Rows in segments that cover them all in order, each with its own adapter or the base.
    Segments(&'a [(Range<usize>, Option<&'a Adapter>)]),
}

/// A weight (in, out) at its place in the model, with a bias in the families that have one.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    layer: usize,
    module: Module,
}

impl Linear {
    /// The product `module` of block `layer` with weight (in, out).
    #[must_use]
    pub const fn new(weight: Weight, layer: usize, module: Module) -> Self {
        Self { weight, bias: None, layer, module }
    }

    /// The same, multiplied in another precision.
    #[must_use]
    pub fn with_precision(&self, precision: Precision) -> Self {
        Self { weight: self.weight.with_precision(precision), ..self.clone() }
    }

    /// The same with a bias (out).
    #[must_use]
    pub fn with_bias(self, bias: Option<Tensor>) -> Self {
        Self { bias, ..self }
    }

    /// The bias, (out).
    #[must_use]
    pub const fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The weight, (in, out).
    #[must_use]
    pub const fn weight(&self) -> &Weight {
        &self.weight
    }

    /// x (rows, in) to (rows, out).
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, x: &Tensor, hook: Hook<'_>) -> Result<Tensor> {
        let y = self.without_bias(x, hook)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn without_bias(&self, x: &Tensor, hook: Hook<'_>) -> Result<Tensor> {
        match hook {
            Hook::Base => self.weight.product(x),
            Hook::One(adapter, dropout) => match adapter.pair(self.layer, self.module) {
                None => self.weight.product(x),
                Some(pair) => {
                    let mask =
                        dropout.map(|dropout| dropout.mask(x.dims2()?.1, self.layer, self.module)).transpose()?;
                    let scale = adapter.config().scale();
                    lora_product(x, &self.weight, &pair.down, &pair.up, scale, mask.as_ref())
                }
            },
            Hook::Segments(segments) => self.segmented(x, segments),
        }
    }

    /// One product for all rows, then each segment's addition: on a processor faster than gathering pairs per row.
    fn segmented(&self, x: &Tensor, segments: &[(Range<usize>, Option<&Adapter>)]) -> Result<Tensor> {
        let base = self.weight.product(x)?;
        let mut additions: Vec<Addition<'_>> = Vec::with_capacity(segments.len());
        let mut last: Option<&Adapter> = None;
        for (rows, adapter) in segments {
            let Some(adapter) = *adapter else {
                last = None;
                continue;
            };
            let Some(pair) = adapter.pair(self.layer, self.module) else { continue };
            match additions.last_mut().filter(|_| last.is_some_and(|last| std::ptr::eq(last, adapter))) {
                // Neighbours of one adapter are one product.
                Some(addition) => addition.rows.end = rows.end,
                None => {
                    let scale = adapter.config().scale();
                    additions.push(Addition { rows: rows.clone(), down: &pair.down, up: &pair.up, scale });
                }
            }
            last = Some(adapter);
        }
        if additions.is_empty() { Ok(base) } else { add_segments(x, &base, &additions) }
    }
}
