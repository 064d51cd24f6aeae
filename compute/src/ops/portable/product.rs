//! Products on any device, with the low-rank additions of adapters.
//!
//! Invariant: a frozen weight gets no gradient: candle's own product computes one for both sides, as large as the model.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor, bail};

use super::super::segments::Addition;
use super::super::weight::{Precision, Weight};

/// x (rows, in) · w (in, out). The gradient of either side is computed only where it is tracked.
pub(crate) fn plain_product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(w, PlainProduct)
}

/// x · a weight of any kind; frozen ones get no gradient.
pub(crate) fn weight_product(x: &Tensor, weight: &Weight) -> Result<Tensor> {
    match weight {
        Weight::Quantised(_, Precision::Quantised) => weight.frozen_product(x),
        other => plain_product(x, &other.dense()?),
    }
}

/// y = x·W + s·((x∘mask)·down)·up. The factors may still be on the processor.
pub(crate) fn lora_product(
    x: &Tensor,
    weight: &Weight,
    [down, up]: [&Tensor; 2],
    scale: f32,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let seen = match mask {
        Some(mask) => (x * mask.to_device(x.device())?)?,
        None => x.clone(),
    };
    weight.product(x)? + addition(&seen, [down, up], scale)?
}

fn addition(x: &Tensor, factors: [&Tensor; 2], scale: f32) -> Result<Tensor> {
    let [down, up] = factors.map(|factor| factor.to_device(x.device()));
    x.contiguous()?.matmul(&down?)?.matmul(&up?)? * f64::from(scale)
}

/// x (rows, in) · each weight, and each addition on its rows.
pub(crate) fn products(x: &Tensor, weights: &[&Weight], additions: &[Addition<'_>]) -> Result<Vec<Tensor>> {
    let base = weights.iter().map(|weight| weight.product(x));
    let summed = base.enumerate().map(|(at, base)| with_additions(x, base?, at, additions));
    summed.collect()
}

/// Product number `at` with what is added to some of its rows, which come in order.
fn with_additions(x: &Tensor, base: Tensor, at: usize, additions: &[Addition<'_>]) -> Result<Tensor> {
    let rows = base.dim(0)?;
    let (mut parts, mut done) = (Vec::new(), 0);
    for own in additions {
        let Some(Some(factors)) = own.factors.get(at) else { continue };
        let (start, length) = (own.rows.start, own.rows.len());
        if start < done || own.rows.end > rows {
            bail!("an addition to rows {:?} of {rows} after row {done}", own.rows);
        }
        parts.push(base.narrow(0, done, start - done)?);
        let [down, up] = factors.on(x.device())?;
        let added = addition(&x.narrow(0, start, length)?, [&down, &up], own.scale)?;
        parts.push((base.narrow(0, start, length)? + added)?);
        done = own.rows.end;
    }
    if parts.is_empty() {
        return Ok(base);
    }
    parts.push(base.narrow(0, done, rows - done)?);
    parts.retain(|part| part.elem_count() > 0);
    Tensor::cat(&parts, 0)
}

struct PlainProduct;

fn multiply<S: BackendStorage>(x: &S, x_at: &Layout, w: &S, w_at: &Layout) -> Result<(S, Shape)> {
    let ((rows, terms), (inner, columns)) = (x_at.shape().dims2()?, w_at.shape().dims2()?);
    if terms != inner {
        bail!("product of ({rows}, {terms}) with ({inner}, {columns})");
    }
    Ok((x.matmul(w, (1, rows, columns, terms), x_at, w_at)?, Shape::from((rows, columns))))
}

impl CustomOp2 for PlainProduct {
    fn name(&self) -> &'static str {
        "plain-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<(CpuStorage, Shape)> {
        multiply(x, x_at, w, w_at)
    }

    fn cuda_fwd(&self, x: &CudaStorage, x_at: &Layout, w: &CudaStorage, w_at: &Layout) -> Result<(CudaStorage, Shape)> {
        multiply(x, x_at, w, w_at)
    }

    fn metal_fwd(
        &self,
        x: &MetalStorage,
        x_at: &Layout,
        w: &MetalStorage,
        w_at: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        multiply(x, x_at, w, w_at)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let for_x = if x.track_op() { Some(gradient.matmul(&w.detach().t()?)?) } else { None };
        let for_w = if w.track_op() { Some(x.detach().t()?.matmul(&gradient)?) } else { None };
        Ok((for_x, for_w))
    }
}
