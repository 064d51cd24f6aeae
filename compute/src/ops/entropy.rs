//! Negative log-likelihood of one target per row of logits, in nats.
//!
//! Invariant: a row's value is logsumexp of the row less its target, summed in eight lanes from the row's maximum.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::exponential::exponential;
use super::{floats, largest, portable, stored, sum_pairs, tensor, vectorised, with_floats};

/// −ln of the softmax of each row at its target, for logits (rows, vocabulary); shape (rows).
///
/// # Errors
/// When there is not one target per row or a target lies outside the vocabulary.
pub fn negative_log_likelihood(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (rows, vocabulary) = logits.dims2()?;
    if rows != targets.len() {
        bail!("{} targets for {rows} rows", targets.len());
    }
    if let Some(target) = targets.iter().find(|target| **target as usize >= vocabulary) {
        bail!("target {target} outside a vocabulary of {vocabulary}");
    }
    if portable::is_portable(logits) {
        return portable::negative_log_likelihood(logits, targets);
    }
    logits.contiguous()?.apply_op1(Likelihood { targets: targets.into() })
}

struct Likelihood {
    targets: Arc<[u32]>,
}

/// The row's maximum and Σ e^(x − maximum).
#[inline(always)]
fn mass(row: &[f32]) -> (f32, f32) {
    let largest = largest(row);
    (largest, sum_pairs(row, row, |value, _| exponential(value - largest)))
}

impl CustomOp1 for Likelihood {
    fn name(&self) -> &'static str {
        "negative-log-likelihood"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, vocabulary) = at.shape().dims2()?;
        let logits = floats(logits, at)?;
        let jobs = self.targets.par_iter().zip(logits.par_chunks_exact(vocabulary));
        let losses = jobs.map(|(target, row)| {
            let (largest, sum) = vectorised(|| mass(row));
            sum.ln() + (largest - row[*target as usize])
        });
        Ok(stored(losses.collect(), rows))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, vocabulary) = logits.dims2()?;
        let mut into = vec![0.0_f32; logits.elem_count()];
        let factors = gradient.to_vec1::<f32>()?;
        with_floats(logits, |logits| {
            let rows = into.par_chunks_exact_mut(vocabulary).zip(logits.par_chunks_exact(vocabulary)).enumerate();
            rows.for_each(|(index, (into, row))| {
                let factor = factors[index];
                vectorised(|| {
                    let (largest, sum) = mass(row);
                    let share = factor / sum;
                    for (into, value) in into.iter_mut().zip(row) {
                        *into = share * exponential(value - largest);
                    }
                });
                into[self.targets[index] as usize] -= factor;
            });
        })?;
        tensor(into, logits.shape().clone()).map(Some)
    }
}
