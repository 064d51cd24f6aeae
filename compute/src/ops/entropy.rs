//! Negative log-likelihood of one target per row, in nats: of logits, or of hidden states before a frozen head.
//!
//! Invariant: a row's value is logsumexp of its logits less its target's, summed in eight lanes from the row's maximum.
//! Before a frozen head there are never more than [`PIECE_LOGITS`] logits (or one row's); losses and gradients don't depend
//! on how many, since each row is computed apart.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::exponential::exponential;
use super::weight::Weight;
use super::{floats, largest, on_processor, portable, stored, sum_pairs, tensor, with_floats};

/// Logits held at a time: 16 MB, a hundred and thirty rows of a vocabulary of 32,000.
const PIECE_LOGITS: usize = 1 << 22;

/// −ln of the softmax of each row at its target, for logits (rows, vocabulary); shape (rows).
///
/// # Errors
/// When there is not one target per row or a target lies outside the vocabulary.
pub fn negative_log_likelihood(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    check(logits.dims2()?, targets)?;
    if portable::is_portable(logits) {
        return portable::negative_log_likelihood(logits, targets);
    }
    logits.contiguous()?.apply_op1(Likelihood { targets: targets.into() })
}

/// The same for the logits hidden · head, of hidden (rows, width). Before a frozen head the gradient is computed along with
/// the losses, so that no logits have to be kept for it.
///
/// # Errors
/// When shapes don't fit, there is not one target per row or a target lies outside the vocabulary.
pub fn head_likelihood(hidden: &Tensor, head: &Weight, targets: &[u32]) -> Result<Tensor> {
    if matches!(head, Weight::Dense(_)) || portable::is_portable(hidden) {
        return negative_log_likelihood(&head.product(hidden)?, targets);
    }
    in_pieces(&hidden.contiguous()?, head, targets, PIECE_LOGITS / head.shape()?.1.max(1))
}

/// The same with the logits of so many rows at a time.
fn in_pieces(hidden: &Tensor, head: &Weight, targets: &[u32], at_once: usize) -> Result<Tensor> {
    let (rows, vocabulary) = (hidden.dim(0)?, head.shape()?.1);
    check((rows, vocabulary), targets)?;
    let (mut losses, mut slopes) = (Vec::with_capacity(rows), Vec::new());
    for targets in targets.chunks(at_once.max(1)) {
        let (storage, at) = hidden.storage_and_layout();
        let (logits, _) = head.multiply(on_processor(&storage)?, &at.narrow(0, losses.len(), targets.len())?)?;
        let CpuStorage::F32(mut logits) = logits else { bail!("logits are not f32") };
        losses.extend(turn_to_slopes(&mut logits, targets, vocabulary));
        if hidden.track_op() {
            slopes.push(head.back(&tensor(logits, (targets.len(), vocabulary))?)?);
        }
    }
    match slopes.is_empty() {
        true => tensor(losses, rows),
        false => hidden.apply_op1(HeadLikelihood { losses, slopes: Tensor::cat(&slopes, 0)? }),
    }
}

/// Each row's likelihood; its logits become their gradient.
fn turn_to_slopes(logits: &mut [f32], targets: &[u32], vocabulary: usize) -> Vec<f32> {
    let rows = logits.par_chunks_exact_mut(vocabulary).zip(targets.par_iter());
    let losses = rows.map(|(row, target)| {
        let target = *target as usize;
        let (largest, sum) = vectorised!(mass(row));
        let loss = sum.ln() + (largest - row[target]);
        vectorised!({
            let share = 1.0 / sum;
            row.iter_mut().for_each(|value| *value = share * exponential(*value - largest));
        });
        row[target] -= 1.0;
        loss
    });
    losses.collect()
}

/// Losses that are known, and the gradient of each with respect to its row.
struct HeadLikelihood {
    losses: Vec<f32>,
    slopes: Tensor,
}

impl CustomOp1 for HeadLikelihood {
    fn name(&self) -> &'static str {
        "head-likelihood"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(stored(self.losses.clone(), self.losses.len()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.slopes.broadcast_mul(&gradient.unsqueeze(1)?).map(Some)
    }
}

fn check((rows, vocabulary): (usize, usize), targets: &[u32]) -> Result<()> {
    if rows != targets.len() {
        bail!("{} targets for {rows} rows", targets.len());
    }
    match targets.iter().find(|target| **target as usize >= vocabulary) {
        Some(target) => bail!("target {target} outside a vocabulary of {vocabulary}"),
        None => Ok(()),
    }
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
            let (largest, sum) = vectorised!(mass(row));
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
                vectorised!({
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor, Var};

    use super::super::weight::Precision;
    use super::{Weight, head_likelihood, in_pieces, negative_log_likelihood};

    const ROWS: usize = 37;
    const WIDTH: usize = 256;
    const VOCABULARY: usize = 1030;

    fn random(rows: usize, columns: usize, scale: f64) -> Tensor {
        (Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap() * scale).unwrap()
    }

    fn targets() -> Vec<u32> {
        (0..37).map(|row| row * 27).collect()
    }

    /// Losses, and their gradient where every row has another factor.
    fn both(hidden: &Var, losses: &Tensor) -> [Vec<f32>; 2] {
        let factors = Tensor::arange(1_f32, 38.0, &Device::Cpu).unwrap();
        let gradients = (losses * factors).unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        [losses.detach().to_vec1().unwrap(), gradient]
    }

    #[test]
    fn neither_losses_nor_gradients_depend_on_the_pieces() {
        let head = random(WIDTH, VOCABULARY, 0.1);
        let blocks = QTensor::quantize(&head.t().unwrap().contiguous().unwrap(), GgmlDType::Q4K).unwrap();
        let heads = [Weight::new(head).unwrap(), Weight::Quantised(Arc::new(blocks), Precision::Quantised)];
        let hidden = Var::from_tensor(&random(ROWS, WIDTH, 1.0)).unwrap();
        for head in heads {
            let whole = both(&hidden, &head_likelihood(&hidden, &head, &targets()).unwrap());
            for at_once in [1, 2, 8, 33, 36] {
                let pieces = both(&hidden, &in_pieces(&hidden, &head, &targets(), at_once).unwrap());
                assert!(pieces == whole, "{at_once} rows at once");
            }
            let untracked = head_likelihood(&hidden.detach(), &head, &targets()).unwrap();
            assert!(untracked.to_vec1::<f32>().unwrap() == whole[0]);
        }
    }

    #[test]
    fn a_frozen_head_gives_what_a_trained_one_gives() {
        let (head, hidden) = (random(WIDTH, VOCABULARY, 0.1), Var::from_tensor(&random(ROWS, WIDTH, 1.0)).unwrap());
        let logits = hidden.matmul(&head).unwrap();
        let expected = both(&hidden, &negative_log_likelihood(&logits, &targets()).unwrap());
        let frozen = head_likelihood(&hidden, &Weight::new(head).unwrap(), &targets()).unwrap();
        for (found, expected) in both(&hidden, &frozen).iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
        }
        let head = Weight::new(random(WIDTH, 8, 1.0)).unwrap();
        assert!(head_likelihood(&hidden, &head, &[8; ROWS]).is_err());
        assert!(head_likelihood(&hidden, &head, &[0; ROWS - 1]).is_err());
    }
}
