//! silu(gate) · up, the activation of the MLPs (arXiv 2002.05202).
//!
//! Invariant: element by element, so no order of additions exists.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::exponential::sigmoid;
use super::{floats, portable, stored, tensor, with_floats};

/// Elements one thread takes at a time.
const JOB: usize = 8192;

/// silu(gate) · up for equally shaped tensors.
///
/// # Errors
/// When the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("swiglu of {:?} and {:?}", gate.dims(), up.dims());
    }
    if portable::is_portable(gate) {
        return portable::swiglu(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, Swiglu)
}

struct Swiglu;

#[inline(always)]
fn backward(gate: &[f32], up: &[f32], gradient: &[f32], for_gate: &mut [f32], for_up: &mut [f32]) {
    let inputs = gate.iter().zip(up).zip(gradient);
    for (((gate, up), gradient), (for_gate, for_up)) in inputs.zip(for_gate.iter_mut().zip(for_up)) {
        let sigmoid = sigmoid(*gate);
        let silu = gate * sigmoid;
        *for_up = gradient * silu;
        *for_gate = gradient * up * (sigmoid * (1.0 - silu) + silu);
    }
}

impl CustomOp2 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_at: &Layout,
        up: &CpuStorage,
        up_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(gate, gate_at)?, floats(up, up_at)?);
        let mut y = vec![0.0_f32; gate.len()];
        y.par_chunks_mut(JOB).zip(gate.par_chunks(JOB).zip(up.par_chunks(JOB))).for_each(|(y, (gate, up))| {
            vectorised!({
                for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                    *y = gate * sigmoid(*gate) * up;
                }
            });
        });
        Ok(stored(y, gate_at.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut for_gate = vec![0.0_f32; gate.elem_count()];
        let mut for_up = vec![0.0_f32; gate.elem_count()];
        with_floats(gate, |gate| {
            with_floats(up, |up| {
                with_floats(gradient, |gradient| {
                    let outputs = for_gate.par_chunks_mut(JOB).zip(for_up.par_chunks_mut(JOB));
                    let inputs = gate.par_chunks(JOB).zip(up.par_chunks(JOB)).zip(gradient.par_chunks(JOB));
                    outputs.zip(inputs).for_each(|((for_gate, for_up), ((gate, up), gradient))| {
                        vectorised!(backward(gate, up, gradient, for_gate, for_up));
                    });
                })
            })
        })???;
        let shape = gate.shape();
        Ok((Some(tensor(for_gate, shape.clone())?), Some(tensor(for_up, shape.clone())?)))
    }
}
