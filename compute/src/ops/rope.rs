//! Rotary positions (arXiv 2104.09864), Hugging Face's half-split form.
//!
//! Invariant: the gradient is the inverse rotation, since a rotation is orthogonal (and YaRN's factor is a scalar).

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::portable::OnDevice;
use super::{floats, narrow, portable, stored};
use crate::model::Frequencies;

/// Cosines and sines of every position and frequency.
#[derive(Debug)]
pub struct RopeTable {
    half: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
    /// The same as two tensors (positions, half) on the device that last asked.
    on_device: OnDevice,
}

impl RopeTable {
    /// The table of `positions` rows. Angles are f32 products, as in `transformers`.
    #[must_use]
    pub fn new(frequencies: &Frequencies, positions: usize) -> Self {
        let amplitude = frequencies.amplitude;
        let angles = (0..positions)
            .flat_map(|position| frequencies.each.iter().map(move |each| f64::from(position as f32 * each)));
        let scaled = |angle: f64| (narrow(angle.cos()) * amplitude, narrow(angle.sin()) * amplitude);
        let (cosines, sines) = angles.map(scaled).unzip();
        Self { half: frequencies.each.len(), cosines, sines, on_device: OnDevice::default() }
    }

    /// Number of positions.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cosines.len() / self.half
    }

    /// Cosines and sines of `positions` on `device`, (positions, half) each.
    pub(super) fn rows_on(&self, device: &Device, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        let table = |values: &[f32]| Tensor::from_slice(values, (self.positions(), self.half), &Device::Cpu);
        let [cosines, sines] = self.on_device.on(device, || Ok([table(&self.cosines)?, table(&self.sines)?]))?;
        let rows = Tensor::new(positions, device)?;
        Ok((cosines.index_select(&rows, 0)?, sines.index_select(&rows, 0)?))
    }
}

/// Rotates each head of x (rows, heads · width) by its row's position.
///
/// # Errors
/// When a position lies outside the table or the positions are not one per row.
pub fn rotate(x: &Tensor, table: &Arc<RopeTable>, positions: &Arc<[u32]>) -> Result<Tensor> {
    if x.dim(0)? != positions.len() {
        bail!("{} positions for {} rows", positions.len(), x.dim(0)?);
    }
    if let Some(position) = positions.iter().find(|position| **position as usize >= table.positions()) {
        bail!("position {position} in a context of {}", table.positions());
    }
    if portable::is_portable(x) {
        return portable::rotate(x, table, positions);
    }
    x.contiguous()?.apply_op1(Rotate { table: table.clone(), positions: positions.clone(), direction: 1.0 })
}

struct Rotate {
    table: Arc<RopeTable>,
    positions: Arc<[u32]>,
    direction: f32,
}

impl Rotate {
    #[inline(always)]
    fn rotate_row(&self, from: &[f32], into: &mut [f32], position: usize) {
        let half = self.table.half;
        let cosines = &self.table.cosines[position * half..][..half];
        let sines = &self.table.sines[position * half..][..half];
        for (from, into) in from.chunks_exact(2 * half).zip(into.chunks_exact_mut(2 * half)) {
            let (from_low, from_high) = from.split_at(half);
            let (into_low, into_high) = into.split_at_mut(half);
            let pairs = into_low.iter_mut().zip(into_high).zip(from_low.iter().zip(from_high));
            for (((low, high), (a, b)), (cosine, sine)) in pairs.zip(cosines.iter().zip(sines)) {
                let sine = sine * self.direction;
                *low = a * cosine - b * sine;
                *high = b * cosine + a * sine;
            }
        }
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = x_at.shape().dims2()?;
        let x = floats(x, x_at)?;
        let mut y = vec![0.0_f32; x.len()];
        y.par_chunks_mut(width).with_min_len(super::ROWS_PER_JOB).enumerate().for_each(|(row, y)| {
            let position = self.positions[row] as usize;
            vectorised!(self.rotate_row(&x[row * width..][..width], y, position));
        });
        Ok(stored(y, x_at.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let inverse = Self { table: self.table.clone(), positions: self.positions.clone(), direction: -self.direction };
        gradient.contiguous()?.apply_op1_no_bwd(&inverse).map(Some)
    }
}
