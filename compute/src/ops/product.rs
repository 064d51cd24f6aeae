//! Matrix products whose rows come out the same whatever stands beside them, for weights that may be variables.
//!
//! Invariant: row i of `product(x, w)` depends bitwise only on row i of x and on w: it is the sum, in order, of blocks of
//! 512 terms, each a chain of fused multiply-adds. The gemm below candle computes such chains except in three cases,
//! each avoided here: one row (another kernel: the row is doubled), a contiguous reduction axis on both sides with at
//! most 256 results (another kernel: such a weight is stored anew), and more than 512 terms (its blocks depend on rows,
//! columns and cache sizes: summed in our own). Frozen weights are [`super::Strips`], with the same bits at a multiple of
//! the speed.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::floats;

/// Terms summed in one block. Up to here gemm sums all terms in order; beyond, its blocks would depend on the number
/// of rows and on the processor's caches (gemm-common 0.19, `cache.rs`).
pub(super) const BLOCK_TERMS: usize = 512;
/// Results up to which gemm takes sums over two contiguous axes for products of vectors (gemm-common 0.19, `gemv.rs`).
const DOT_RESULTS: usize = 256;

/// x (rows, in) · w (in, out). The gradient of either side is computed only where it is tracked.
///
/// # Errors
/// When the shapes don't fit.
pub fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if super::portable::is_portable(x) {
        return super::portable::plain_product(x, w);
    }
    let w = if w.is_contiguous() || x.dim(0)? * w.dim(1)? > DOT_RESULTS { w.clone() } else { w.contiguous()? };
    x.contiguous()?.apply_op2(&w, Product)
}

/// The product on bare storages, for kernels that contain one; `w` lies row by row where results are few.
pub(super) fn multiply(x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<CpuStorage> {
    let (rows, terms) = x_at.shape().dims2()?;
    let (inner, columns) = w_at.shape().dims2()?;
    if terms != inner {
        candle_core::bail!("product of ({rows}, {terms}) with ({inner}, {columns})");
    }
    if rows == 1 {
        let row = floats(x, x_at)?;
        let twice = CpuStorage::F32([row, row].concat());
        let both = multiply(&twice, &Layout::contiguous((2, terms)), w, w_at)?;
        return Ok(CpuStorage::F32(both.as_slice::<f32>()?[..columns].to_vec()));
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
                assert!(part == whole[..rows], "{terms}x{columns} by columns, {rows} rows");
            }
        }
    }
}
