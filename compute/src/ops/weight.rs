//! The weight of a product: dense in f32, or quantised as GGUF stores it.
//!
//! Invariant: row i of a product depends bitwise only on row i of x and on the weight, for every kind (a test holds
//! candle's quantised kernels to it). Strips and quantised weights are frozen: gradients go through them, never into them.

mod quantised;

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, MetalStorage, Result, Shape, Tensor, bail,
};

use super::many::{Side, add_product};
use super::product::{multiply, product};
use super::strips::{self, Strips};
use super::{floats, on_processor, portable, tensor, with_floats};

/// Rows up to which candle's kernel for several weights is the fastest; beyond, matrix instructions are.
const MOST_FUSED_ROWS: usize = 31;

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
    /// (in, out) in f32, stored for multiplying.
    Strips(Arc<Strips>),
    /// (out, in) in GGUF's blocks.
    Quantised(Arc<QTensor>, Precision),
}

impl Weight {
    /// A weight (in, out) of any layout: a variable stays one, everything else is stored for multiplying.
    ///
    /// # Errors
    /// When it is not a matrix of f32.
    pub fn new(tensor: Tensor) -> Result<Self> {
        match tensor.track_op() {
            true => Ok(Self::Dense(tensor)),
            false => Ok(Self::Strips(Arc::new(Strips::new(&tensor)?))),
        }
    }

    /// The same weight multiplied in another precision; nothing changes for a dense one.
    #[must_use]
    pub fn with_precision(&self, precision: Precision) -> Self {
        match self {
            Self::Dense(_) | Self::Strips(_) => self.clone(),
            Self::Quantised(tensor, _) => Self::Quantised(tensor.clone(), precision),
        }
    }

    /// Whether this may be trained.
    #[must_use]
    pub fn is_variable(&self) -> bool {
        matches!(self, Self::Dense(tensor) if tensor.track_op())
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
            Self::Strips(strips) => strips.bytes(),
            Self::Quantised(tensor, _) => tensor.storage_size_in_bytes(),
        }
    }

    /// x (rows, in) to (rows, out). The gradient with respect to x is computed where it is tracked.
    ///
    /// # Errors
    /// When the shapes don't fit.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        if portable::is_portable(x) {
            return portable::weight_product(x, self);
        }
        match self {
            Self::Dense(tensor) => product(x, tensor),
            Self::Strips(_) | Self::Quantised(..) => self.frozen_product(x),
        }
    }

    /// The product with a weight that is no tensor of candle's.
    pub(super) fn frozen_product(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(FrozenProduct(self.clone()))
    }

    /// x (rows, in) by each of `weights`, together where the kernels can, with the same bits as one by one. No gradients.
    pub(super) fn products(x: &Tensor, weights: &[&Self]) -> Result<Vec<Tensor>> {
        let (rows, terms) = x.dims2()?;
        let strips: Option<Vec<&Strips>> = weights.iter().map(|weight| weight.as_strips(terms)).collect();
        if let Some(strips) = strips {
            let products = with_floats(x, |x| strips::multiply(x, &strips))?.into_iter().zip(&strips);
            return products.map(|(product, strips)| tensor(product, (rows, strips.shape().1))).collect();
        }
        let quantised: Option<Vec<&QTensor>> = weights.iter().map(|weight| weight.as_quantised(rows)).collect();
        if let Some(quantised) = quantised
            && cfg!(target_arch = "x86_64")
            && rows <= MOST_FUSED_ROWS
            && let Some(products) = QTensor::gemv_fused_shared_lhs(&quantised, x)?
        {
            return Ok(products);
        }
        weights.iter().map(|weight| weight.product(x)).collect()
    }

    fn as_strips(&self, terms: usize) -> Option<&Strips> {
        match self {
            Self::Strips(strips) if strips.shape().0 == terms => Some(strips),
            _ => None,
        }
    }

    /// The blocks, if products of so many rows run on candle's quantised kernels as they are.
    fn as_quantised(&self, rows: usize) -> Option<&QTensor> {
        match self {
            Self::Quantised(tensor, Precision::Quantised) => {
                (rows > 1 || !quantised::single_row_differs(tensor.dtype())).then_some(tensor)
            }
            _ => None,
        }
    }

    /// The weight in f32, (in, out).
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn dense(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Strips(strips) => strips.dense(),
            Self::Quantised(tensor, _) => tensor.dequantize(&tensor.device())?.t()?.contiguous(),
        }
    }

    /// The same numbers on `device`; of a GPU dense ones are a tensor there.
    ///
    /// # Errors
    /// When they don't fit its memory.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::Dense(tensor) => Self::Dense(tensor.to_device(device)?),
            Self::Strips(_) if device.is_cpu() => self.clone(),
            Self::Strips(strips) => Self::Dense(strips.dense()?.to_device(device)?),
            Self::Quantised(tensor, precision) => Self::Quantised(quantised::blocks_to(tensor, device)?, *precision),
        })
    }

    fn blocks(&self) -> Result<&QTensor> {
        match self {
            Self::Quantised(tensor, _) => Ok(tensor),
            _ => bail!("kernel runs on the processor only"),
        }
    }

    /// gradient (rows, out) · weightᵀ: what flows back to x, (rows, in).
    pub(super) fn back(&self, gradient: &Tensor) -> Result<Tensor> {
        if portable::is_portable(gradient) {
            return match self {
                Self::Dense(weight) => gradient.matmul(&weight.t()?),
                Self::Strips(strips) => gradient.matmul(&strips.dense()?.to_device(gradient.device())?.t()?),
                Self::Quantised(weight, _) => quantised::back_on_device(gradient, weight),
            };
        }
        let (rows, terms) = (gradient.dim(0)?, self.shape()?.0);
        let mut total = vec![0.0; rows * terms];
        with_floats(gradient, |gradient| self.add_back(&mut total, gradient))??;
        tensor(total, (rows, terms))
    }

    /// The same added to `into`.
    pub(super) fn add_back(&self, into: &mut [f32], gradient: &[f32]) -> Result<()> {
        let columns = self.shape()?.1;
        match self {
            Self::Dense(weight) => with_floats(weight, |weight| {
                add_product(into, Side::rows(gradient, columns), Side::rows(weight, columns), 1.0);
            }),
            Self::Strips(strips) => {
                add_product(into, Side::rows(gradient, columns), strips.side(), 1.0);
                Ok(())
            }
            Self::Quantised(weight, _) => quantised::add_back(into, gradient, weight),
        }
    }

    /// (in, out)
    pub(super) fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => weight.dims2(),
            Self::Strips(strips) => Ok(strips.shape()),
            Self::Quantised(weight, _) => weight.shape().dims2().map(|(columns, terms)| (terms, columns)),
        }
    }
}

/// x times a weight that is no tensor of candle's.
struct FrozenProduct(Weight);

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.multiply(x, x_at)
    }

    fn cuda_fwd(&self, x: &CudaStorage, x_at: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.blocks()?.cuda_fwd(x, x_at)
    }

    fn metal_fwd(&self, x: &MetalStorage, x_at: &Layout) -> Result<(MetalStorage, Shape)> {
        self.0.blocks()?.metal_fwd(x, x_at)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.0.back(gradient).map(Some)
    }
}

impl Weight {
    /// The product on bare storages, and its shape.
    pub(super) fn multiply(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = x_at.shape().dims2()?.0;
        match self {
            Self::Dense(weight) => {
                let (storage, weight_at) = weight.storage_and_layout();
                let product = multiply(x, x_at, on_processor(&storage)?, weight_at)?;
                Ok((product, Shape::from((rows, weight.dim(1)?))))
            }
            Self::Strips(weight) => {
                let (terms, columns) = weight.shape();
                if x_at.shape().dims2()?.1 != terms {
                    bail!("product of {:?} with ({terms}, {columns})", x_at.shape());
                }
                let product = strips::multiply(floats(x, x_at)?, &[weight]).pop().unwrap_or_default();
                Ok((CpuStorage::F32(product), Shape::from((rows, columns))))
            }
            Self::Quantised(weight, Precision::Quantised) => {
                Ok((quantised::multiply(x, x_at, weight)?, Shape::from((rows, weight.shape().dims2()?.0))))
            }
            Self::Quantised(weight, Precision::Exact) => {
                // (out, in) as it lies is the transpose of what strips are made of.
                Self::new(weight.dequantize(&Device::Cpu)?.t()?)?.multiply(x, x_at)
            }
        }
    }
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
    /// The same numbers on `device`. Of a model whose head has the same blocks, they are shared again: `head` is that one
    /// before and after it was moved.
    ///
    /// # Errors
    /// When they don't fit its memory.
    pub fn to_device(&self, device: &Device, head: (&Weight, &Weight)) -> Result<Self> {
        Ok(match (self, head) {
            (Self::Dense(tensor), _) => Self::Dense(tensor.to_device(device)?),
            (Self::Quantised(own), (Weight::Quantised(head, _), Weight::Quantised(moved, _)))
                if Arc::ptr_eq(own, head) =>
            {
                Self::Quantised(moved.clone())
            }
            (Self::Quantised(own), _) => Self::Quantised(quantised::blocks_to(own, device)?),
        })
    }

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
