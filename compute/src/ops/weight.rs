//! The weight of a product: dense in f32, or quantised as GGUF stores it.
//!
//! Invariant: row i of a product depends bitwise only on row i of x and on the weight, for either kind (a test holds
//! candle's quantised kernels to it). A quantised weight is frozen: gradients go through it, never into it.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::product::product;

/// How a quantised product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Rows of x are rounded to eight bits and multiplied as integers: fast, and what llama.cpp computes.
    Quantised,
    /// The weight is expanded to f32 for each product: slow, and exactly the model that the file's numbers describe.
    Exact,
}

/// A weight of shape (in, out). Cloning shares it.
#[derive(Debug, Clone)]
pub enum Weight {
    /// (in, out) in f32; may be a variable.
    Dense(Tensor),
    /// (out, in) in GGUF's blocks.
    Quantised(Arc<QTensor>, Precision),
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl Weight {
    /// The same weight multiplied in another precision; nothing changes for a dense one.
    #[must_use]
    pub fn with_precision(&self, precision: Precision) -> Self {
        match self {
            Self::Dense(tensor) => Self::Dense(tensor.clone()),
            Self::Quantised(tensor, _) => Self::Quantised(tensor.clone(), precision),
        }
    }

    /// Whether products run on candle's quantised kernels.
    #[must_use]
    pub const fn is_quantised(&self) -> bool {
        matches!(self, Self::Quantised(_, Precision::Quantised))
    }

    /// Bytes of the numbers as they lie in memory, without what candle repacks for its kernels.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Self::Quantised(tensor, _) => tensor.storage_size_in_bytes(),
        }
    }

    /// x (rows, in) to (rows, out). The gradient with respect to x is computed where it is tracked.
    ///
    /// # Errors
    /// When the shapes don't fit.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => product(x, tensor),
            Self::Quantised(tensor, precision) => {
                x.contiguous()?.apply_op1(QuantisedProduct { weight: tensor.clone(), precision: *precision })
            }
        }
    }

    /// The weight in f32, (in, out).
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn dense(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Quantised(tensor, _) => tensor.dequantize(&Device::Cpu)?.t()?.contiguous(),
        }
    }

    /// gradient (rows, out) · weightᵀ: what flows back to x.
    pub(super) fn back(&self, gradient: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => gradient.matmul(&tensor.t()?),
            Self::Quantised(tensor, _) => gradient.contiguous()?.matmul(&tensor.dequantize(&Device::Cpu)?),
        }
    }
}

/// Whether candle multiplies one row by another kernel than several (`repack_x86::select`, candle 0.11): then a single
/// row is doubled.
fn single_row_differs(kind: GgmlDType) -> bool {
    kind == GgmlDType::Q6K
}

/// The quantised product on bare storages.
pub(super) fn multiply_quantised(x: &CpuStorage, x_at: &Layout, weight: &QTensor) -> Result<CpuStorage> {
    let (rows, terms) = x_at.shape().dims2()?;
    let (columns, inner) = weight.shape().dims2()?;
    if terms != inner || x.as_slice::<f32>().is_err() {
        bail!("quantised product of ({rows}, {terms}) with ({inner}, {columns})");
    }
    if rows == 1 && single_row_differs(weight.dtype()) {
        let row = super::floats(x, x_at)?;
        let twice = CpuStorage::F32([row, row].concat());
        let (CpuStorage::F32(mut both), _) = weight.cpu_fwd(&twice, &Layout::contiguous((2, terms)))? else {
            bail!("product is not f32")
        };
        both.truncate(columns);
        return Ok(CpuStorage::F32(both));
    }
    Ok(weight.cpu_fwd(x, x_at)?.0)
}

struct QuantisedProduct {
    weight: Arc<QTensor>,
    precision: Precision,
}

impl CustomOp1 for QuantisedProduct {
    fn name(&self) -> &'static str {
        "quantised-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from((x_at.shape().dims2()?.0, self.weight.shape().dims2()?.0));
        Ok((multiply_by(x, x_at, &self.weight, self.precision)?, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Weight::Quantised(self.weight.clone(), self.precision).back(gradient).map(Some)
    }
}

/// The product on bare storages in the given precision.
pub(super) fn multiply_by(
    x: &CpuStorage,
    x_at: &Layout,
    weight: &Arc<QTensor>,
    precision: Precision,
) -> Result<CpuStorage> {
    if precision == Precision::Quantised {
        return multiply_quantised(x, x_at, weight);
    }
    let dense = Weight::Quantised(weight.clone(), precision).dense()?;
    let (storage, layout) = dense.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { bail!("kernel runs on the processor only") };
    super::product::multiply_padded(x, x_at, storage, layout)
}

/// The embedding: dense, or quantised and expanded row by row.
#[derive(Debug, Clone)]
pub enum Table {
    /// (rows, width); may be a variable.
    Dense(Tensor),
    /// The same in GGUF's blocks.
    Quantised(Arc<QTensor>),
}

impl Table {
    /// Rows by their numbers, (count, width).
    ///
    /// # Errors
    /// When a number is outside the table.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.index_select(ids, 0),
            Self::Quantised(tensor) => tensor.embedding(ids)?.to_dtype(DType::F32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Device, GgmlDType, Precision, QTensor, Tensor, Weight};

    const KINDS: [GgmlDType; 6] =
        [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K, GgmlDType::Q8_0, GgmlDType::Q5_0, GgmlDType::Q4_0];

    #[test]
    fn quantised_rows_do_not_depend_on_their_company() {
        for kind in KINDS {
            for (terms, columns) in [(256, 64), (512, 48), (1024, 16), (256, 200), (768, 7)] {
                let x = Tensor::randn(0f32, 1.0, (80, terms), &Device::Cpu).unwrap();
                let w = Tensor::randn(0f32, 1.0, (columns, terms), &Device::Cpu).unwrap();
                for precision in [Precision::Quantised, Precision::Exact] {
                    let weight = Weight::Quantised(Arc::new(QTensor::quantize(&w, kind).unwrap()), precision);
                    let whole: Vec<Vec<f32>> = weight.product(&x).unwrap().to_vec2().unwrap();
                    for rows in [1, 2, 3, 4, 5, 8, 17, 31, 32, 33, 64] {
                        let part = weight.product(&x.narrow(0, 0, rows).unwrap()).unwrap();
                        let part: Vec<Vec<f32>> = part.to_vec2().unwrap();
                        assert!(part == whole[..rows], "{kind:?} {precision:?} {terms}x{columns}, {rows} rows");
                    }
                }
            }
        }
    }
}
