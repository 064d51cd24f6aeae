//! Matrix products whose rows come out the same whatever stands beside them.
//!
//! Invariant: row i of `product(x, w)` depends bitwise only on row i of x and on w: it is the sum, in order, of blocks of
//! 512 terms, each a chain of fused multiply-adds. The gemm below candle computes such chains except in three cases,
//! each avoided here: one row (another kernel: the row is doubled), a contiguous reduction axis on both sides with at
//! most 256 results (another kernel: weights are stored (in, out)), and more than 512 terms (its blocks depend on rows,
//! columns and cache sizes: summed in our own). Few rows are computed by a kernel of ours that gives the same bits.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Storage, Tensor};

use super::few::{self, FewWeight};
use super::floats;

/// Terms summed in one block. Up to here gemm sums all terms in order; beyond, its blocks would depend on the number
/// of rows and on the processor's caches (gemm-common 0.19, `cache.rs`).
pub(super) const BLOCK_TERMS: usize = 512;

/// x (rows, in) · w (in, out). The gradient of either side is computed only where it is tracked.
///
/// # Errors
/// When the shapes don't fit.
pub fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if x.dim(0)? == 1 && dense_for_few(w.layout()).is_none() {
        return Tensor::cat(&[x, x], 0)?.apply_op2(w, Product)?.narrow(0, 0, 1);
    }
    x.contiguous()?.apply_op2(w, Product)
}

/// The product on bare storages, for kernels that contain one.
pub(super) fn multiply(x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<CpuStorage> {
    let (rows, terms) = x_at.shape().dims2()?;
    let (inner, columns) = w_at.shape().dims2()?;
    if terms != inner {
        candle_core::bail!("product of ({rows}, {terms}) with ({inner}, {columns})");
    }
    if rows <= few::MOST_ROWS
        && x_at.is_contiguous()
        && let Some(by_columns) = dense_for_few(w_at)
    {
        let values = w.as_slice::<f32>()?;
        let start = w_at.start_offset();
        let weight = FewWeight { values: &values[start..start + terms * columns], terms, columns, by_columns };
        let product = few::multiply_few(floats(x, x_at)?, &[weight], BLOCK_TERMS).pop();
        return Ok(CpuStorage::F32(product.unwrap_or_default()));
    }
    if terms <= BLOCK_TERMS {
        return x.matmul(w, (1, rows, columns, terms), x_at, w_at);
    }
    let mut total = vec![0.0_f32; rows * columns];
    for start in (0..terms).step_by(BLOCK_TERMS) {
        let length = BLOCK_TERMS.min(terms - start);
        let (x_block, w_block) = (x_at.narrow(1, start, length)?, w_at.narrow(0, start, length)?);
        let part = x.matmul(w, (1, rows, columns, length), &x_block, &w_block)?;
        for (total, part) in total.iter_mut().zip(part.as_slice::<f32>()?) {
            *total += part;
        }
    }
    Ok(CpuStorage::F32(total))
}

/// x · each weight in one go, where our kernel for few rows takes them all; the same bits as one by one. No gradients.
pub(super) fn products_of_few(x: &[f32], rows: usize, weights: &[&Tensor]) -> Result<Option<Vec<Vec<f32>>>> {
    if rows == 0 || rows > few::MOST_ROWS {
        return Ok(None);
    }
    let held: Vec<_> = weights.iter().map(|weight| weight.storage_and_layout()).collect();
    let mut all = Vec::with_capacity(held.len());
    for (storage, layout) in &held {
        let (Some(by_columns), (terms, columns)) = (dense_for_few(layout), layout.shape().dims2()?) else {
            return Ok(None);
        };
        if terms * rows != x.len() {
            candle_core::bail!("product of {} values in {rows} rows with ({terms}, {columns})", x.len());
        }
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("kernel runs on the processor only") };
        let start = layout.start_offset();
        let values = &storage.as_slice::<f32>()?[start..start + terms * columns];
        all.push(FewWeight { values, terms, columns, by_columns });
    }
    Ok(Some(few::multiply_few(x, &all, BLOCK_TERMS)))
}

/// Whether our kernel for few rows takes a weight of that layout, and then whether it is stored by columns. One column
/// only is left to gemm's blocks, where it is a product of vectors for many rows.
fn dense_for_few(w_at: &Layout) -> Option<bool> {
    let columns = w_at.dims().last().copied()?;
    let by_columns = !w_at.is_contiguous();
    let dense = !by_columns || w_at.is_fortran_contiguous();
    (few::is_available() && columns > 1 && dense).then_some(by_columns)
}

/// The same for any number of rows: a single row is doubled.
pub(super) fn multiply_padded(x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<CpuStorage> {
    let (rows, terms) = x_at.shape().dims2()?;
    if rows != 1 || dense_for_few(w_at).is_some() {
        return multiply(x, x_at, w, w_at);
    }
    let row = floats(x, x_at)?;
    let both = multiply(&CpuStorage::F32([row, row].concat()), &Layout::contiguous((2, terms)), w, w_at)?;
    let values = both.as_slice::<f32>()?;
    Ok(CpuStorage::F32(values[..values.len() / 2].to_vec()))
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from((x_at.shape().dims2()?.0, w_at.shape().dims2()?.1));
        Ok((multiply(x, x_at, w, w_at)?, shape))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let for_x = if x.track_op() { Some(gradient.matmul(&w.detach().t()?)?) } else { None };
        let for_w = if w.track_op() { Some(x.detach().t()?.matmul(gradient)?) } else { None };
        Ok((for_x, for_w))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::product;

    #[test]
    fn rows_do_not_depend_on_their_company() {
        let narrow = [(192, 16), (512, 16), (16, 512), (192, 64), (1500, 16), (3, 5), (515, 2)];
        let shapes = [(192, 512), (512, 192), (1500, 96), (192, 2048), (768, 256), (2048, 768), (1030, 700)];
        let shapes = narrow.into_iter().chain(shapes);
        for (terms, columns) in shapes {
            let x = Tensor::randn(0f32, 1.0, (300, terms), &Device::Cpu).unwrap();
            let w = Tensor::randn(0f32, 1.0, (terms, columns), &Device::Cpu).unwrap();
            let by_columns = w.t().unwrap().contiguous().unwrap().t().unwrap();
            let whole: Vec<Vec<f32>> = product(&x, &w).unwrap().to_vec2().unwrap();
            for rows in [1, 2, 3, 5, 8, 16, 17, 33, 64, 65, 200] {
                let part: Vec<Vec<f32>> = product(&x.narrow(0, 0, rows).unwrap(), &w).unwrap().to_vec2().unwrap();
                assert_eq!(part, whole[..rows], "{terms}x{columns}, {rows} rows");
                let part = product(&x.narrow(0, 0, rows).unwrap(), &by_columns).unwrap();
                let part: Vec<Vec<f32>> = part.to_vec2().unwrap();
                let first = rows * columns > 256 || rows <= 16;
                assert!(!first || part == whole[..rows], "{terms}x{columns} by columns, {rows} rows");
            }
        }
    }
}
