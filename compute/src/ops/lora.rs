//! A frozen product with its low-rank addition in one operation: y = x·W + s·((x∘mask)·down)·up (LoRA, arXiv 2106.09685).
//!
//! Invariant: W never gets a gradient, `down` and `up` always do. The forward keeps nothing but its arguments.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::product::multiply;
use super::weight::Weight;
use super::{floats, portable, with_floats};

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
    x.contiguous()?.apply_op3(down, up, LoraProduct { weight: weight.clone(), scale, mask: mask.cloned() })
}

struct LoraProduct {
    weight: Weight,
    scale: f32,
    mask: Option<Tensor>,
}

impl LoraProduct {
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
        let (rows, rank) = (x_at.shape().dims2()?.0, down_at.shape().dims2()?.1);
        let small = match self.masked(x, x_at)? {
            Some(masked) => multiply(&masked, &Layout::contiguous(x_at.shape()), down, down_at)?,
            None => multiply(x, x_at, down, down_at)?,
        };
        let addition = multiply(&small, &Layout::contiguous((rows, rank)), up, up_at)?;
        let CpuStorage::F32(values) = &mut y else { bail!("product is not f32") };
        for (value, addition) in values.iter_mut().zip(addition.as_slice::<f32>()?) {
            *value += self.scale * addition;
        }
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
        let scale = f64::from(self.scale);
        let (seen, down, up) = (x.detach(), down.detach(), up.detach());
        let seen = match &self.mask {
            Some(mask) => (seen * mask)?,
            None => seen,
        };
        let for_small = (gradient.matmul(&up.t()?)? * scale)?;
        let for_down = seen.t()?.matmul(&for_small)?;
        let for_up = (seen.matmul(&down)?.t()?.matmul(gradient)? * scale)?;
        if !x.track_op() {
            return Ok((None, Some(for_down), Some(for_up)));
        }
        let through = for_small.matmul(&down.t()?)?;
        let through = match &self.mask {
            Some(mask) => (through * mask)?,
            None => through,
        };
        let for_x = (self.weight.back(gradient)? + through)?;
        Ok((Some(for_x), Some(for_down), Some(for_up)))
    }
}
