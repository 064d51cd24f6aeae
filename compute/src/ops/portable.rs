//! Every kernel of [`super`] once more in candle's own tensor operations: what runs where tensors are on a GPU.
//!
//! Invariant: forward and gradient agree with the kernels up to rounding (the tests hold them to it on the processor),
//! and nothing here reads a tensor back. Bits are another matter: libraries of GPUs choose a product's order of additions
//! by its shape, so a row may depend on its company, and no determinism class of a processor is met.

mod attention;
mod product;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use candle_core::{D, Device, Result, Tensor};

pub(super) use attention::attend;
pub(crate) use attention::{attend_rows, by_heads};
pub(super) use product::{lora_product, plain_product, products, weight_product};

use super::RopeTable;

#[cfg(test)]
thread_local! {
    /// Whether tensors of the processor go this way too.
    static FORCED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `work` with everything that this thread computes going this way.
#[cfg(test)]
pub(crate) fn forced<T>(work: impl FnOnce() -> T) -> T {
    FORCED.set(true);
    let result = work();
    FORCED.set(false);
    result
}

/// Whether what is computed from `tensor` goes this way.
#[must_use]
pub fn is_portable(tensor: &Tensor) -> bool {
    #[cfg(test)]
    if FORCED.get() {
        return true;
    }
    !tensor.device().is_cpu()
}

/// Two tensors on the device that last asked for them.
#[derive(Debug, Default)]
pub(super) struct OnDevice(Mutex<Option<[Tensor; 2]>>);

impl OnDevice {
    /// The tensors on `device`; `make` makes them, anywhere.
    pub(super) fn on(&self, device: &Device, make: impl FnOnce() -> Result<[Tensor; 2]>) -> Result<[Tensor; 2]> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensors) = kept.as_ref().filter(|[first, _]| first.device().same_device(device)) {
            return Ok(tensors.clone());
        }
        let [first, second] = make()?;
        let tensors = [first.to_device(device)?, second.to_device(device)?];
        *kept = Some(tensors.clone());
        Ok(tensors)
    }
}

/// x / √(mean(x²) + eps) · weight
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// Rotates each head of x (rows, heads · width) by its row's position.
pub(super) fn rotate(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (cosines, sines) = table.rows_on(x.device(), positions)?;
    let half = cosines.dim(1)?;
    let heads = x.reshape((rows, width / (2 * half), 2, half))?;
    let (low, high) = (heads.narrow(2, 0, 1)?, heads.narrow(2, 1, 1)?);
    let (cosines, sines) = (cosines.reshape((rows, 1, 1, half))?, sines.reshape((rows, 1, 1, half))?);
    let turned_low = (low.broadcast_mul(&cosines)? - high.broadcast_mul(&sines)?)?;
    let turned_high = (high.broadcast_mul(&cosines)? + low.broadcast_mul(&sines)?)?;
    Tensor::cat(&[turned_low, turned_high], 2)?.reshape((rows, width))
}

/// silu(gate) · up
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// −ln of the softmax of each row at its target.
pub(super) fn negative_log_likelihood(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let largest = logits.detach().max_keepdim(D::Minus1)?;
    let mass = logits.broadcast_sub(&largest)?.exp()?.sum_keepdim(D::Minus1)?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    ((mass.log()? + largest)? - logits.gather(&targets, 1)?)?.squeeze(1)
}

/// The softmax of each row; what is −∞ gets nothing.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let largest = scores.detach().max_keepdim(D::Minus1)?;
    let weights = scores.broadcast_sub(&largest)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

/// Consecutive whole numbers.
fn counted(from: usize, to: usize, device: &Device) -> Result<Tensor> {
    let number = |number: usize| u32::try_from(number).map_err(candle_core::Error::wrap);
    Tensor::arange(number(from)?, number(to)?, device)
}
