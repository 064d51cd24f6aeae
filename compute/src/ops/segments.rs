//! Low-rank additions of many adapters to one product's rows.
//!
//! Invariant: a row gets bitwise what [`super::lora_product`] gives it alone; rows of the base are not touched.

use std::ops::Range;

use candle_core::{Layout, Result, Storage, Tensor, bail};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::product::multiply_padded;
use super::tensor;

/// Rows that one pair of factors, down (in, rank) and up (rank, out), is added to with a scale.
pub struct Addition<'a> {
    /// Which rows.
    pub rows: Range<usize>,
    /// The first factor.
    pub down: &'a Tensor,
    /// The second factor.
    pub up: &'a Tensor,
    /// What their product is scaled by.
    pub scale: f32,
}

/// y + for each addition s·(x·down)·up on its rows. x (rows, in), y (rows, out).
///
/// # Errors
/// When shapes don't fit.
pub fn add_segments(x: &Tensor, y: &Tensor, additions: &[Addition<'_>]) -> Result<Tensor> {
    let columns = y.dim(1)?;
    let mut values = super::with_floats(y, <[f32]>::to_vec)?;
    let parts: Result<Vec<Vec<f32>>> = additions.par_iter().map(|addition| part(x, addition)).collect();
    for (addition, part) in additions.iter().zip(parts?) {
        let own = &mut values[addition.rows.start * columns..addition.rows.end * columns];
        if own.len() != part.len() {
            bail!("an addition of {} values to {}", part.len(), own.len());
        }
        for (value, part) in own.iter_mut().zip(part) {
            *value += addition.scale * part;
        }
    }
    tensor(values, (y.dim(0)?, columns))
}

/// (x·down)·up of one addition's rows.
fn part(x: &Tensor, addition: &Addition<'_>) -> Result<Vec<f32>> {
    let rows = addition.rows.len();
    let x = x.narrow(0, addition.rows.start, rows)?;
    let x = x.contiguous()?;
    let ((x, x_at), (down, down_at)) = (x.storage_and_layout(), addition.down.storage_and_layout());
    let (up, up_at) = addition.up.storage_and_layout();
    let (Storage::Cpu(x), Storage::Cpu(down), Storage::Cpu(up)) = (&*x, &*down, &*up) else {
        bail!("kernel runs on the processor only")
    };
    let small = multiply_padded(x, x_at, down, down_at)?;
    let shape = Layout::contiguous((x_at.dims()[0], down_at.shape().dims2()?.1));
    Ok(multiply_padded(&small, &shape, up, up_at)?.as_slice::<f32>()?.to_vec())
}
