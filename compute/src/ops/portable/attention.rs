//! Causal softmax attention, head by head: the queries of a group are rows of one product with their keys.
//!
//! Invariant: training and serving call the same function; no mask is made for a single row.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::super::HeadShape;
use super::{counted, softmax};

/// Attention within each of `sequences`. q (rows, heads · width); k and v (rows, kv_heads · width).
pub(crate) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: HeadShape,
    sequences: &[Range<usize>],
) -> Result<Tensor> {
    let parts = sequences.iter().map(|range| {
        let own = |tensor: &Tensor| tensor.narrow(0, range.start, range.len());
        attend_rows(&own(q)?, &by_heads(&own(k)?, shape)?, &by_heads(&own(v)?, shape)?, shape)
    });
    let parts: Vec<Tensor> = parts.collect::<Result<_>>()?;
    if let [only] = parts.as_slice() { Ok(only.clone()) } else { Tensor::cat(&parts, 0) }
}

/// Keys or values (rows, kv_heads · width) as (kv_heads, rows, width).
pub(crate) fn by_heads(x: &Tensor, shape: HeadShape) -> Result<Tensor> {
    x.reshape((x.dim(0)?, shape.kv_heads, shape.width))?.transpose(0, 1)?.contiguous()
}

/// Attention of a sequence's last rows, q (rows, heads · width), to all of it: keys and values (kv_heads, positions, width).
pub(crate) fn attend_rows(q: &Tensor, keys: &Tensor, values: &Tensor, shape: HeadShape) -> Result<Tensor> {
    let (rows, positions) = (q.dim(0)?, keys.dim(1)?);
    let (kv_heads, width) = (shape.kv_heads, shape.width);
    let group = shape.heads / kv_heads;
    let Some(asking) = positions.checked_sub(rows) else {
        candle_core::bail!("{rows} rows ask in {positions} positions");
    };
    // No row sees what lies before this.
    let first = shape.first_seen(asking);
    let seen = positions - first;
    let (keys, values) = (keys.narrow(1, first, seen)?, values.narrow(1, first, seen)?);
    let queries = q.reshape((rows, kv_heads, group, width))?.permute((1, 2, 0, 3))?;
    let queries = queries.reshape((kv_heads, group * rows, width))?;
    let scores = (queries.matmul(&keys.transpose(1, 2)?)? * (1.0 / (width as f64).sqrt()))?;
    let scores = match rows {
        1 => scores,
        _ => {
            let scores = scores.reshape((kv_heads * group, rows, seen))?;
            masked(&scores, first, asking, shape)?.reshape((kv_heads, group * rows, seen))?
        }
    };
    let mixed = softmax(&scores)?.matmul(&values)?;
    mixed.reshape((kv_heads, group, rows, width))?.permute((2, 0, 1, 3))?.reshape((rows, shape.heads * width))
}

/// The scores (heads, rows, positions from `first` on) of rows at positions from `asking` on, those of what a row doesn't
/// see −∞.
fn masked(scores: &Tensor, first: usize, asking: usize, shape: HeadShape) -> Result<Tensor> {
    let (_, rows, seen) = scores.dims3()?;
    let device = scores.device();
    let asking = counted(asking, asking + rows, device)?.reshape((rows, 1))?;
    let known = counted(first, first + seen, device)?.reshape((1, seen))?;
    let mut sees = known.broadcast_le(&asking)?;
    if let Some(window) = shape.window {
        let last_asking = counted(first + window, first + window + seen, device)?.reshape((1, seen))?;
        sees = (sees * last_asking.broadcast_gt(&asking)?)?;
    }
    let nothing = Tensor::full(f32::NEG_INFINITY, (), device)?.broadcast_as(scores.shape())?;
    sees.unsqueeze(0)?.broadcast_as(scores.shape())?.where_cond(scores, &nothing)
}
