//! One product of a block, dense or quantised, with the hook where LoRA comes in.
//!
//! Invariant: whatever the hook, a row's result depends bitwise only on the row, the weight and the row's own pair.

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};

use crate::lora::{Adapter, FrozenAdapter};
use crate::model::Module;
use crate::ops::{Addition, Precision, Weight, lora_product, products};
use crate::train::Dropout;

/// Which adapter applies to which rows.
#[derive(Clone, Copy)]
pub enum Hook<'a> {
    /// The base alone.
    Base,
    /// One adapter for all rows, in training with dropout on what it sees.
    One(&'a Adapter, Option<&'a Dropout<'a>>),
    /// Rows in segments that cover them all in order, each with its own adapter or the base.
    Segments(&'a [(Range<usize>, Option<&'a FrozenAdapter>)]),
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

    /// The same on `device`.
    ///
    /// # Errors
    /// When it doesn't fit the device's memory.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.to_device(device)).transpose()?;
        Ok(Self { weight: self.weight.to_device(device)?, bias, ..self.clone() })
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
        let [y] = Self::forward_all([self], x, hook)?;
        Ok(y)
    }

    /// The products of one input by several weights of a block. Where nothing is differentiated, those of few rows are
    /// computed together: decoding then reads memory in long runs and wakes other cores once.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward_all<const N: usize>(linears: [&Self; N], x: &Tensor, hook: Hook<'_>) -> Result<[Tensor; N]> {
        let products = match Self::is_plain(&linears, x, hook) {
            true => {
                let weights: Vec<&Weight> = linears.iter().map(|linear| &linear.weight).collect();
                products(x, &weights, &Self::additions(&linears, hook))?
            }
            false => linears.iter().map(|linear| linear.tracked(x, hook)).collect::<Result<_>>()?,
        };
        let with_bias = linears.iter().zip(products).map(|(linear, y)| match &linear.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        });
        let all: Vec<Tensor> = with_bias.collect::<Result<_>>()?;
        all.try_into().or_else(|_| bail!("invariant: one product for each weight"))
    }

    /// Whether no gradient goes through these products.
    fn is_plain(linears: &[&Self], x: &Tensor, hook: Hook<'_>) -> bool {
        match hook {
            // Never differentiated.
            Hook::Segments(_) => true,
            Hook::Base => !x.track_op() && !linears.iter().any(|linear| linear.weight.is_variable()),
            Hook::One(..) => false,
        }
    }

    /// What adapters add to the rows of these products; neighbours of one adapter are one addition.
    fn additions<'a>(linears: &[&Self], hook: Hook<'a>) -> Vec<Addition<'a>> {
        let Hook::Segments(segments) = hook else { return Vec::new() };
        let mut additions: Vec<Addition<'a>> = Vec::with_capacity(segments.len());
        let mut last: Option<&FrozenAdapter> = None;
        for (rows, adapter) in segments {
            let is_same = last.zip(*adapter).is_some_and(|(last, adapter)| std::ptr::eq(last, adapter));
            match (adapter, additions.last_mut().filter(|_| is_same)) {
                (None, _) => {}
                (Some(_), Some(addition)) => addition.rows.end = rows.end,
                (Some(adapter), None) => {
                    let factors = |linear: &&Self| adapter.pair(linear.layer, linear.module);
                    let scale = adapter.config().scale();
                    additions.push(Addition {
                        rows: rows.clone(),
                        factors: linears.iter().map(factors).collect(),
                        scale,
                    });
                }
            }
            last = *adapter;
        }
        additions
    }

    /// The product where gradients may be asked for.
    fn tracked(&self, x: &Tensor, hook: Hook<'_>) -> Result<Tensor> {
        let (adapter, dropout) = match hook {
            Hook::One(adapter, dropout) => (adapter, dropout),
            Hook::Base | Hook::Segments(_) => return self.weight.product(x),
        };
        let Some(pair) = adapter.pair(self.layer, self.module) else { return self.weight.product(x) };
        let mask = dropout.map(|dropout| dropout.mask(x.dims2()?.1, self.layer, self.module)).transpose()?;
        lora_product(x, &self.weight, &pair.down, &pair.up, adapter.config().scale(), mask.as_ref())
    }
}
