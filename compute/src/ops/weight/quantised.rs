//! What candle does not do with weights in GGUF's blocks: gradients through them, and one row as several.
//!
//! Invariant: of a large weight only a piece is ever in f32, and how many columns that has changes no gradient.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Tensor, bail};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::super::many::{Side, add_product};
use super::super::{floats, with_floats};

/// Columns of a quantised weight that are expanded at a time for a gradient: 12 MB for a width of 768. Whole blocks of
/// terms, so that the gradient doesn't depend on it.
const EXPANDED_COLUMNS: usize = 4096;
/// Of these a core expands so many at a time.
const EXPANDED_ROWS: usize = 128;

/// into += gradient (rows, out) · weightᵀ.
pub(super) fn add_back(into: &mut [f32], gradient: &[f32], weight: &QTensor) -> Result<()> {
    let columns = weight.shape().dims2()?.0;
    (0..columns).step_by(EXPANDED_COLUMNS).try_for_each(|start| {
        let own = start..columns.min(start + EXPANDED_COLUMNS);
        let piece = expanded(weight, own.clone())?;
        let terms = piece.len() / own.len();
        add_product(into, Side::part(gradient, columns, own), Side::columns(&piece, terms), 1.0);
        Ok(())
    })
}

/// What flows back on a device, in pieces of the weight.
pub(super) fn back_on_device(gradient: &Tensor, weight: &QTensor) -> Result<Tensor> {
    let columns = weight.shape().dims2()?.0;
    if columns <= EXPANDED_COLUMNS {
        return gradient.matmul(&weight.dequantize(gradient.device())?);
    }
    let mut total: Option<Tensor> = None;
    for start in (0..columns).step_by(EXPANDED_COLUMNS) {
        let length = EXPANDED_COLUMNS.min(columns - start);
        let rows: Vec<u32> = (start..start + length).filter_map(|row| u32::try_from(row).ok()).collect();
        let piece = weight.embedding(&Tensor::new(rows, gradient.device())?)?;
        let part = gradient.narrow(1, start, length)?.contiguous()?.matmul(&piece.to_dtype(DType::F32)?)?;
        total = Some(match total {
            None => part,
            Some(total) => (total + part)?,
        });
    }
    total.ok_or_else(|| candle_core::Error::msg("invariant: a weight has columns"))
}

/// Some rows of a quantised matrix in f32, end to end.
fn expanded(weight: &QTensor, rows: Range<usize>) -> Result<Vec<f32>> {
    let width = weight.shape().dims2()?.1;
    let mut values = vec![0.0; rows.len() * width];
    values.par_chunks_mut((EXPANDED_ROWS * width).max(1)).enumerate().try_for_each(|(at, into)| {
        let start = rows.start + at * EXPANDED_ROWS;
        let ids: Vec<u32> = (start..start + into.len() / width).filter_map(|row| u32::try_from(row).ok()).collect();
        let own = weight.embedding(&Tensor::new(ids, &Device::Cpu)?)?.to_dtype(DType::F32)?;
        with_floats(&own, |own| into.copy_from_slice(own))
    })?;
    Ok(values)
}

/// Whether candle multiplies one row by another kernel than several (`repack_x86::select`, candle 0.11): then a single
/// row is doubled.
pub(super) fn single_row_differs(kind: GgmlDType) -> bool {
    kind == GgmlDType::Q6K
}

/// The quantised product on bare storages.
pub(super) fn multiply(x: &CpuStorage, x_at: &Layout, weight: &QTensor) -> Result<CpuStorage> {
    let (rows, terms) = x_at.shape().dims2()?;
    let (columns, inner) = weight.shape().dims2()?;
    if terms != inner || x.as_slice::<f32>().is_err() {
        bail!("quantised product of ({rows}, {terms}) with ({inner}, {columns})");
    }
    if rows == 1 && single_row_differs(weight.dtype()) {
        let row = floats(x, x_at)?;
        let twice = CpuStorage::F32([row, row].concat());
        let (CpuStorage::F32(mut both), _) = weight.cpu_fwd(&twice, &Layout::contiguous((2, terms)))? else {
            bail!("product is not f32")
        };
        both.truncate(columns);
        return Ok(CpuStorage::F32(both));
    }
    Ok(weight.cpu_fwd(x, x_at)?.0)
}

/// Blocks as they are on another device.
pub(super) fn blocks_to(tensor: &Arc<QTensor>, device: &Device) -> Result<Arc<QTensor>> {
    if tensor.device().same_device(device) {
        return Ok(tensor.clone());
    }
    let blocks = QStorage::from_data(tensor.data()?, device, tensor.dtype())?;
    Ok(Arc::new(QTensor::new(blocks, tensor.shape().clone())?))
}

#[cfg(test)]
mod tests {
    use super::super::{Precision, Weight};
    use super::{Arc, Device, EXPANDED_COLUMNS, GgmlDType, QTensor, Tensor};

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

    #[test]
    fn gradients_through_a_large_head_are_those_of_the_whole() {
        let columns = EXPANDED_COLUMNS + 1000;
        let gradient = Tensor::randn(0f32, 1.0, (3, columns), &Device::Cpu).unwrap();
        let w = Tensor::randn(0f32, 1.0, (columns, 256), &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&w, GgmlDType::Q4K).unwrap();
        let whole = gradient.matmul(&blocks.dequantize(&Device::Cpu).unwrap()).unwrap();
        let back = Weight::Quantised(Arc::new(blocks), Precision::Quantised).back(&gradient).unwrap();
        let worst = (back - &whole).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let size = whole.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-5 * size, "{worst} of {size}");
    }
}
