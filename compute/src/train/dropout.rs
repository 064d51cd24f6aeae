//! Dropout masks drawn from counters.
//!
//! Invariant: whether an element is kept depends on (seed, step, product, slot in the batch, position, column) only, so
//! leaving an example out of a batch changes no mask of the others.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::model::Module;
use crate::ops::narrow;
use crate::random::{Stream, words};

/// Elements that one draw of 128 bits decides, 16 bits each.
const ELEMENTS_PER_DRAW: usize = 8;
/// Bits of a counter for the product within the step: 256 layers of seven products fit.
const SITE_BITS: u32 = 11;

/// The masks of one training step.
#[derive(Debug, Clone)]
pub struct Dropout<'a> {
    /// Fraction dropped, 0 to below 1.
    pub rate: f64,
    /// The recipe's seed.
    pub seed: u64,
    /// The step, below 2²¹ ([`super::MAX_STEPS`] is less).
    pub step: u32,
    /// Rows of each sequence of the batch and its slot.
    pub slots: &'a [(Range<usize>, u32)],
}

impl Dropout<'_> {
    /// The mask (rows, width) of one product: zero, or 1 / (1 − rate).
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn mask(&self, width: usize, layer: usize, module: Module) -> Result<Tensor> {
        let rows = self.slots.last().map_or(0, |(range, _)| range.end);
        let mut values = vec![0.0_f32; rows * width];
        let site =
            u32::try_from(layer * Module::ALL.len() + module.index()).unwrap_or(u32::MAX) & ((1 << SITE_BITS) - 1);
        let places: Vec<(u32, usize)> = self
            .slots
            .iter()
            .flat_map(|(range, slot)| (0..range.len()).map(move |position| (*slot, position)))
            .collect();
        values.par_chunks_mut(width).zip(places.par_iter()).with_min_len(16).for_each(|(row, (slot, position))| {
            self.fill_row(row, site, *slot, *position);
        });
        Tensor::from_vec(values, (rows, width), &Device::Cpu)
    }

    fn fill_row(&self, row: &mut [f32], site: u32, slot: u32, position: usize) {
        let kept = narrow(1.0 / (1.0 - self.rate));
        let threshold = self.rate * 65_536.0;
        // Counter: site and slot above, position and block of columns below; none overlap within their bounds.
        let place = (u64::from(slot) << 40) | ((position as u64) << 16);
        let high = (self.step << SITE_BITS) | site;
        for (block, elements) in row.chunks_mut(ELEMENTS_PER_DRAW).enumerate() {
            let draw = words(
                self.seed ^ u64::from(self.step >> (32 - SITE_BITS)),
                Stream::Dropout,
                high,
                place | block as u64,
            );
            let halves = draw.iter().flat_map(|word| [word & 0xffff, word >> 16]);
            for (element, half) in elements.iter_mut().zip(halves) {
                *element = if f64::from(half) < threshold { 0.0 } else { kept };
            }
        }
    }
}
