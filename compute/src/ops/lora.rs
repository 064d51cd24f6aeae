//! A frozen product with its low-rank addition in one operation: y = x·W + s·((x∘mask)·down)·up (LoRA, arXiv 2106.09685).
//!
//! Invariant: W never gets a gradient, `down` and `up` always do. The forward keeps its arguments and x·down, no more.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::many::{Side, add_product, product_of, turned};
use super::product::multiply;
use super::weight::Weight;
use super::{ROWS_PER_JOB, floats, portable, tensor, with_floats};

/// Rows from which all cores add.
const MANY_ROWS: usize = 64;

/// x (rows, in), weight (in, out) dense or quantised, down (in, rank), up (rank, out); `mask` (rows, in) scales what the addition sees.
///
/// # Errors
/// When the shapes don't fit.
pub fn lora_product(
    x: &Tensor,
    weight: &Weight,
    down: &Tensor,
    up: &Tensor,
    scale: f32,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    if portable::is_portable(x) {
        return portable::lora_product(x, weight, [down, up], scale, mask);
    }
    let op = LoraProduct { weight: weight.clone(), scale, mask: mask.cloned(), small: OnceLock::new() };
    x.contiguous()?.apply_op3(&down.contiguous()?, &up.contiguous()?, op)
}

struct LoraProduct {
    weight: Weight,
    scale: f32,
    mask: Option<Tensor>,
    /// (x∘mask)·down, (rows, rank).
    small: OnceLock<Vec<f32>>,
}

/// What flows back to `x`, `down` and `up`.
struct Gradients {
    for_x: Option<Vec<f32>>,
    for_down: Vec<f32>,
    for_up: Vec<f32>,
}

impl LoraProduct {
    /// y + s·small·up.
    fn add(&self, y: &mut [f32], small: &[f32], up: (&CpuStorage, &Layout)) -> Result<()> {
        let (rank, columns) = up.1.shape().dims2()?;
        if small.len() >= MANY_ROWS * rank {
            add_product(y, Side::rows(small, rank), Side::columns(floats(up.0, up.1)?, columns), self.scale);
            return Ok(());
        }
        let rows = Layout::contiguous((small.len() / rank.max(1), rank));
        let addition = multiply(&CpuStorage::F32(small.to_vec()), &rows, up.0, up.1)?;
        for (value, addition) in y.iter_mut().zip(addition.as_slice::<f32>()?) {
            *value += self.scale * addition;
        }
        Ok(())
    }

    /// The gradients, given x∘mask, (in, rank), (rank, out) and what flows back from the product.
    fn back(&self, seen: &[f32], [down, up]: [&[f32]; 2], gradient: &[f32], wants_x: bool) -> Result<Gradients> {
        let (terms, columns) = self.weight.shape()?;
        let rank = down.len() / terms.max(1);
        let found;
        let small = match self.small.get() {
            Some(small) => small,
            None => {
                found = product_of(Side::rows(seen, terms), Side::columns(down, rank), 1.0);
                &found
            }
        };
        let for_small = product_of(Side::rows(gradient, columns), Side::rows(up, columns), self.scale);
        let for_down = product_of(Side::columns(seen, terms), Side::columns(&for_small, rank), 1.0);
        // With the long side as rows all cores have some.
        let for_up = product_of(Side::columns(gradient, columns), Side::columns(small, rank), self.scale);
        let for_up = turned(&for_up, rank);
        if !wants_x {
            return Ok(Gradients { for_x: None, for_down, for_up });
        }
        let mut for_x = vec![0.0; seen.len()];
        self.weight.add_back(&mut for_x, gradient)?;
        let sides = (Side::rows(&for_small, rank), Side::rows(down, rank));
        match &self.mask {
            None => add_product(&mut for_x, sides.0, sides.1, 1.0),
            Some(mask) => add_masked(&mut for_x, &product_of(sides.0, sides.1, 1.0), mask)?,
        }
        Ok(Gradients { for_x: Some(for_x), for_down, for_up })
    }

    fn masked(&self, x: &CpuStorage, x_at: &Layout) -> Result<Option<CpuStorage>> {
        let Some(mask) = &self.mask else { return Ok(None) };
        let x = floats(x, x_at)?;
        let values = with_floats(mask, |mask| x.iter().zip(mask).map(|(x, mask)| x * mask).collect())?;
        Ok(Some(CpuStorage::F32(values)))
    }
}

impl CustomOp3 for LoraProduct {
    fn name(&self) -> &'static str {
        "lora-product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        down: &CpuStorage,
        down_at: &Layout,
        up: &CpuStorage,
        up_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (mut y, shape) = self.weight.multiply(x, x_at)?;
        let small = match self.masked(x, x_at)? {
            Some(masked) => multiply(&masked, &Layout::contiguous(x_at.shape()), down, down_at)?,
            None => multiply(x, x_at, down, down_at)?,
        };
        let (CpuStorage::F32(values), CpuStorage::F32(small)) = (&mut y, small) else { bail!("product is not f32") };
        self.add(values, &small, (up, up_at))?;
        // It is the first time: an operation runs once.
        let _ = self.small.set(small);
        Ok((y, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        down: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let seen = match &self.mask {
            Some(mask) => (x.detach() * mask)?,
            None => x.detach(),
        };
        let [down_values, up_values] = [down, up].map(|factor| factor.flatten_all()?.to_vec1::<f32>());
        let (down_values, up_values) = (down_values?, up_values?);
        let factors = [down_values.as_slice(), up_values.as_slice()];
        let found = with_floats(&seen, |seen| {
            with_floats(gradient, |gradient| self.back(seen, factors, gradient, x.track_op()))
        })???;
        let for_x = found.for_x.map(|values| tensor(values, x.shape().clone())).transpose()?;
        let for_down = tensor(found.for_down, down.shape().clone())?;
        Ok((for_x, Some(for_down), Some(tensor(found.for_up, up.shape().clone())?)))
    }
}

/// into += values ∘ mask
fn add_masked(into: &mut [f32], values: &[f32], mask: &Tensor) -> Result<()> {
    let job = ROWS_PER_JOB * mask.dim(1)?.max(1);
    with_floats(mask, |mask| {
        let parts = into.par_chunks_mut(job).zip(values.par_chunks(job).zip(mask.par_chunks(job)));
        parts.for_each(|(into, (values, mask))| {
            for ((into, value), mask) in into.iter_mut().zip(values).zip(mask) {
                *into += value * mask;
            }
        });
    })
}
