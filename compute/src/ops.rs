//! The kernels of the model, as candle operations with their own gradients.
//!
//! Invariant: forward and gradient of each row are computed in one fixed order of additions, whatever the batch and
//! the number of threads. Candle's fused operations drop gradients without a word; each of these has a
//! finite-difference check in the tests. Tensors on a GPU go through [`portable`] instead, which promises less.

/// Computes an expression with the widest vector instructions of this processor; the results don't depend on which. What
/// is not inlined into it is compiled for the oldest processor instead, so functions called here are `inline(always)`.
macro_rules! vectorised {
    ($work:expr) => {
        pulp::Arch::new().dispatch($crate::ops::Vectorised(
            #[inline(always)]
            || $work,
        ))
    };
}

/// Work for [`pulp::Arch::dispatch`]. Given a bare closure, that calls it through a function which is not inlined.
struct Vectorised<W>(W);

impl<T, W: FnMut() -> T> pulp::WithSimd for Vectorised<W> {
    type Output = T;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) -> T {
        (self.0)()
    }
}

mod aligned;
mod attention;
mod entropy;
mod exponential;
mod integers;
mod lora;
mod many;
mod norm;
mod pool;
pub mod portable;
mod product;
mod rope;
mod segments;
mod strips;
mod swiglu;
mod weight;

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};

pub use attention::{HeadShape, Run, Seen, attend, attend_cached};
pub use entropy::{head_likelihood, negative_log_likelihood};
pub use exponential::exponential;
pub(crate) use integers::integer_product;
pub use lora::lora_product;
pub use norm::rms_norm;
pub use product::product;
pub use rope::{RopeTable, rotate};
pub use segments::{Addition, Factors, products};
pub use strips::Strips;
pub use swiglu::swiglu;
pub use weight::{Precision, Table, Weight};

/// Rows one thread takes at a time in row-wise kernels: enough work to outweigh waking a thread.
const ROWS_PER_JOB: usize = 32;

/// Numbers added side by side in a reduction. Part of the determinism class: never change it without
/// [`crate::device::KERNEL_REVISION`].
const LANES: usize = 8;

/// The contiguous floats behind a storage.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("kernel needs contiguous rows, got strides {:?}", layout.stride()),
    }
}

fn on_processor(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => bail!("kernel runs on the processor only"),
    }
}

/// Lends the floats of a tensor, copying only when it is not contiguous.
pub(crate) fn with_floats<T>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    Ok(work(floats(on_processor(&storage)?, layout)?))
}

/// Runs `work` on one of the threads that the kernels of many rows share, where they find each other awake.
pub(crate) fn within_pool<T: Send>(like: &Tensor, work: impl FnOnce() -> T + Send) -> T {
    if portable::is_portable(like) { work() } else { rayon::scope(|_| work()) }
}

fn stored(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Rounds to f32 where f64 was used for accuracy only.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
pub(crate) const fn narrow(value: f64) -> f32 {
    value as f32
}

#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f32 {
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
}

/// Σ f(a, b) over two equally long slices, in eight lanes.
#[inline(always)]
fn sum_pairs(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    fold(pair_lanes(left, right, term))
}

/// The eight lanes of that sum.
#[inline(always)]
fn pair_lanes(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [0.0_f32; LANES];
    let (left_blocks, left_rest) = left.as_chunks::<LANES>();
    let (right_blocks, right_rest) = right.as_chunks::<LANES>();
    for (a, b) in left_blocks.iter().zip(right_blocks) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    for (lane, (a, b)) in left_rest.iter().zip(right_rest).enumerate() {
        lanes[lane] += term(*a, *b);
    }
    lanes
}

/// The dot products of several equally long slices with one, each with the bits of [`dot`].
#[inline(always)]
fn dots_of<const N: usize>(left: &[f32], right: [&[f32]; N]) -> [f32; N] {
    let lanes = right.map(|right| pair_lanes(left, right, |a, b| a * b));
    let side = |lane: usize| -> [f32; N] { std::array::from_fn(|at| lanes[at][lane]) };
    let add = |a: [f32; N], b: [f32; N]| -> [f32; N] { std::array::from_fn(|at| a[at] + b[at]) };
    let even = add(add(side(0), side(4)), add(side(2), side(6)));
    let odd = add(add(side(1), side(5)), add(side(3), side(7)));
    add(even, odd)
}

#[inline(always)]
fn dot(left: &[f32], right: &[f32]) -> f32 {
    sum_pairs(left, right, |a, b| a * b)
}

/// `into += factor · from`
#[inline(always)]
fn add_scaled(into: &mut [f32], factor: f32, from: &[f32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += factor * from;
    }
}

/// The largest value, in any order since the maximum of finite numbers has none.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(f32::NEG_INFINITY, |largest, value| if *value > largest { *value } else { largest })
}
