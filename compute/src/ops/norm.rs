//! RMS norm (arXiv 1910.07467) over the last axis of (rows, width).
//!
//! Invariant: each row is reduced in eight lanes, so its result depends on nothing but the row.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::{ROWS_PER_JOB, add_scaled, dot, floats, narrow, portable, stored, sum_pairs, tensor, with_floats};

/// x / √(mean(x²) + eps) · weight
///
/// # Errors
/// When `weight` is not as wide as the rows of `x`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.dim(1)? != weight.dim(0)? {
        candle_core::bail!("norm of width {} over rows of {}", weight.dim(0)?, x.dim(1)?);
    }
    if portable::is_portable(x) {
        return portable::rms_norm(x, weight, eps);
    }
    x.contiguous()?.apply_op2(weight, RmsNorm { eps: narrow(eps) })
}

struct RmsNorm {
    eps: f32,
}

#[inline(always)]
fn inverse_root(row: &[f32], eps: f32) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + eps).sqrt()
}

impl RmsNorm {
    #[inline(always)]
    fn backward_rows(&self, x: &[f32], weight: &[f32], gradient: &[f32], into: &mut [f32]) {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(into.chunks_exact_mut(width));
        for ((x, gradient), into) in rows {
            let root = inverse_root(x, self.eps);
            for ((into, gradient), weight) in into.iter_mut().zip(gradient).zip(weight) {
                *into = gradient * weight;
            }
            let shared = sum_pairs(into, x, |a, b| a * b) * root * root * root / width as f32;
            for (into, x) in into.iter_mut().zip(x) {
                *into = *into * root - x * shared;
            }
        }
    }

    fn weight_gradient(&self, x: &[f32], gradient: &[f32], width: usize) -> Vec<f32> {
        let mut total = vec![0.0; width];
        let mut row_part = vec![0.0; width];
        for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact(width)) {
            for ((part, x), gradient) in row_part.iter_mut().zip(x).zip(gradient) {
                *part = x * gradient;
            }
            add_scaled(&mut total, inverse_root(x, self.eps), &row_part);
        }
        total
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        weight: &CpuStorage,
        weight_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (floats(x, x_at)?, floats(weight, weight_at)?);
        let width = weight.len();
        let mut y = vec![0.0_f32; x.len()];
        let job = ROWS_PER_JOB * width;
        y.par_chunks_mut(job).zip(x.par_chunks(job)).for_each(|(y, x)| {
            vectorised!({
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let root = inverse_root(x, self.eps);
                    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                        *y = x * root * weight;
                    }
                }
            });
        });
        Ok(stored(y, x_at.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = weight.dim(0)?;
        let job = ROWS_PER_JOB * width;
        let mut for_x = if x.track_op() { vec![0.0_f32; x.elem_count()] } else { Vec::new() };
        let mut for_weight = None;
        with_floats(x, |xs| {
            with_floats(gradient, |gradient| {
                if weight.track_op() {
                    for_weight = Some(self.weight_gradient(xs, gradient, width));
                }
                with_floats(weight, |weight| {
                    let parts = for_x.par_chunks_mut(job).zip(xs.par_chunks(job)).zip(gradient.par_chunks(job));
                    parts.for_each(|((into, x), gradient)| vectorised!(self.backward_rows(x, weight, gradient, into)));
                })
            })
        })???;
        let for_x = if x.track_op() { Some(tensor(for_x, x.shape().clone())?) } else { None };
        Ok((for_x, for_weight.map(|values| tensor(values, width)).transpose()?))
    }
}
