//! Causal softmax attention over sequences laid end to end, and over a cache, in a sliding window where asked.
//!
//! Invariant: a query row's result is computed by the same loop in the same order in both, so decoding one token at a
//! time gives bitwise what one pass over the whole sequence gives.

mod row;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::{add_scaled, dot, floats, pool, portable, stored, tensor, with_floats};
use row::{add_rows, attend_row, dots, soften};

/// Multiplications below which other cores' shares cost more than they bring.
const THREAD_WORK: usize = 1 << 15;
/// Rows below which heads are shared out one by one.
const FEW_ROWS: usize = 16;

/// How the width of queries, keys and values divides into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Positions that a query sees, its own included; `None` is all before it.
    pub window: Option<usize>,
}

impl HeadShape {
    /// The first position that the query at `position` sees.
    pub(super) const fn first_seen(&self, position: usize) -> usize {
        match self.window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        }
    }
}

/// Consecutive rows of keys and values, each row `kv_heads · width` wide.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Keys, already rotated.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// Attention within each of `sequences` (ranges of rows). q (rows, heads · width); k and v (rows, kv_heads · width).
///
/// # Errors
/// When shapes don't fit or a sequence lies outside the rows.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, shape: HeadShape, sequences: &Arc<[Range<usize>]>) -> Result<Tensor> {
    let rows = q.dim(0)?;
    if k.dims() != [rows, shape.kv_heads * shape.width]
        || v.dims() != k.dims()
        || q.dim(1)? != shape.heads * shape.width
    {
        bail!("attention of {:?}, {:?}, {:?} with {shape:?}", q.dims(), k.dims(), v.dims());
    }
    let covered = sequences.iter().try_fold(0, |at, range| (range.start == at && range.end > at).then_some(range.end));
    if covered != Some(rows) {
        bail!("sequences do not cover {rows} rows end to end");
    }
    if portable::is_portable(q) {
        return portable::attend(q, k, v, shape, sequences);
    }
    let op = Attention { shape, sequences: sequences.clone() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// One sequence of a step over caches: its last `rows` positions ask, and each sees those before it and itself.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// All its positions in order.
    pub runs: Vec<Run<'a>>,
    /// How many of them ask.
    pub rows: usize,
}

/// Some heads of one row.
struct Piece<'a> {
    query: &'a [f32],
    runs: &'a [Run<'a>],
    /// The row's position in its sequence.
    position: usize,
    heads: Range<usize>,
}

/// Attention of the sequences' query rows, one sequence after the other. `queries` and the result are
/// (rows, heads · width).
#[must_use]
pub fn attend_cached(queries: &[f32], sequences: &[Seen<'_>], shape: HeadShape) -> Vec<f32> {
    let (width, kv_width) = (shape.heads * shape.width, shape.kv_heads * shape.width);
    let group = shape.heads / shape.kv_heads;
    let rows: usize = sequences.iter().map(|seen| seen.rows).sum();
    // Few rows are divided by their heads too.
    let heads = if rows < FEW_ROWS { group } else { shape.heads };
    let (mut pieces, mut rest, mut work) = (Vec::new(), queries.chunks_exact(width), 0);
    for seen in sequences {
        let context: usize = seen.runs.iter().map(|run| run.keys.len() / kv_width).sum();
        for (position, query) in (context - seen.rows..context).zip(rest.by_ref()) {
            work += (position + 1 - shape.first_seen(position)) * width;
            let starts = (0..shape.heads).step_by(heads);
            pieces.extend(starts.map(|start| Piece { query, runs: &seen.runs, position, heads: start..start + heads }));
        }
    }
    let attend = |piece: usize| pieces[piece].attend(shape);
    match work < THREAD_WORK {
        true => (0..pieces.len()).flat_map(attend).collect(),
        false => pool::share(pieces.len(), attend).concat(),
    }
}

impl Piece<'_> {
    fn attend(&self, shape: HeadShape) -> Vec<f32> {
        let first = shape.first_seen(self.position);
        let mut scores = vec![0.0_f32; self.position + 1 - first];
        let mut out = vec![0.0_f32; self.heads.len() * shape.width];
        if first == 0 {
            vectorised!(attend_row(self.query, self.runs, shape, self.heads.clone(), &mut scores, &mut out));
            return out;
        }
        let runs = runs_from(self.runs, first, shape.kv_heads * shape.width);
        vectorised!(attend_row(self.query, &runs, shape, self.heads.clone(), &mut scores, &mut out));
        out
    }
}

/// The runs without their first `first` rows.
fn runs_from<'a>(runs: &[Run<'a>], first: usize, stride: usize) -> Vec<Run<'a>> {
    let mut skip = first * stride;
    let mut kept = Vec::with_capacity(runs.len());
    for run in runs {
        let now = skip.min(run.keys.len());
        skip -= now;
        if now < run.keys.len() {
            kept.push(Run { keys: &run.keys[now..], values: &run.values[now..] });
        }
    }
    kept
}

struct Attention {
    shape: HeadShape,
    sequences: Arc<[Range<usize>]>,
}

/// The gradients of one sequence's one key head: queries of its whole group, keys, values; head by head.
struct GroupGradient {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Copies columns `offset..offset + width` of the rows of `from`.
fn columns(from: &[f32], stride: usize, offset: usize, width: usize) -> Vec<f32> {
    from.chunks_exact(stride).flat_map(|row| &row[offset..offset + width]).copied().collect()
}

/// Puts rows of `width` back at columns `offset..` of the rows of `into`.
fn put_columns(into: &mut [f32], stride: usize, offset: usize, from: &[f32], width: usize) {
    for (into, from) in into.chunks_exact_mut(stride).zip(from.chunks_exact(width)) {
        into[offset..offset + width].copy_from_slice(from);
    }
}

impl Attention {
    fn widths(&self) -> (usize, usize) {
        (self.shape.heads * self.shape.width, self.shape.kv_heads * self.shape.width)
    }

    /// Gradients of one head, added into `for_keys` and `for_values`; rows are contiguous within the head.
    #[inline(always)]
    fn backward_head(&self, [q, k, v, gradient]: [&[f32]; 4], for_q: &mut [f32], for_k: &mut [f32], for_v: &mut [f32]) {
        let width = self.shape.width;
        let scale = 1.0 / (width as f32).sqrt();
        let rows = q.len() / width;
        let (mut weights, mut slopes) = (vec![0.0_f32; rows], vec![0.0_f32; rows]);
        let queries = q.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(for_q.chunks_exact_mut(width));
        for (row, ((query, gradient), for_query)) in queries.enumerate() {
            let first = self.shape.first_seen(row);
            let (weights, slopes) = (&mut weights[first..=row], &mut slopes[first..=row]);
            let (k, v) = (&k[first * width..], &v[first * width..]);
            let (for_k, for_v) = (&mut for_k[first * width..], &mut for_v[first * width..]);
            dots(query, k, width, weights);
            dots(gradient, v, width, slopes);
            let total = soften(weights, width);
            weights.iter_mut().for_each(|weight| *weight /= total);
            let mean = dot(weights, slopes);
            for (slope, weight) in slopes.iter_mut().zip(weights.iter()) {
                *slope = weight * (*slope - mean) * scale;
            }
            add_rows(for_query, slopes, k, width);
            let sides = for_k.chunks_exact_mut(width).zip(for_v.chunks_exact_mut(width));
            for ((weight, slope), (for_key, for_value)) in weights.iter().zip(slopes.iter()).zip(sides) {
                add_scaled(for_key, *slope, query);
                add_scaled(for_value, *weight, gradient);
            }
        }
    }

    fn backward_group(&self, [q, k, v, gradient]: [&[f32]; 4], kv_head: usize) -> GroupGradient {
        let (width, (q_stride, kv_stride)) = (self.shape.width, self.widths());
        let group = self.shape.heads / self.shape.kv_heads;
        let keys = columns(k, kv_stride, kv_head * width, width);
        let values = columns(v, kv_stride, kv_head * width, width);
        let mut result =
            GroupGradient { queries: Vec::new(), keys: vec![0.0; keys.len()], values: vec![0.0; keys.len()] };
        for head in kv_head * group..(kv_head + 1) * group {
            let query = columns(q, q_stride, head * width, width);
            let gradient = columns(gradient, q_stride, head * width, width);
            let mut for_q = vec![0.0; query.len()];
            let inputs = [&query[..], &keys, &values, &gradient];
            vectorised!(self.backward_head(inputs, &mut for_q, &mut result.keys, &mut result.values));
            result.queries.extend(for_q);
        }
        result
    }

    fn backward(&self, q: &[f32], k: &[f32], v: &[f32], gradient: &[f32]) -> [Vec<f32>; 3] {
        let (width, (q_stride, kv_stride)) = (self.shape.width, self.widths());
        let group = self.shape.heads / self.shape.kv_heads;
        let jobs: Vec<(&Range<usize>, usize)> =
            self.sequences.iter().flat_map(|range| (0..self.shape.kv_heads).map(move |head| (range, head))).collect();
        let work = jobs.into_par_iter().map(|(range, kv_head)| {
            let wide = range.start * q_stride..range.end * q_stride;
            let narrow = range.start * kv_stride..range.end * kv_stride;
            let inputs = [&q[wide.clone()], &k[narrow.clone()], &v[narrow], &gradient[wide]];
            (range, kv_head, self.backward_group(inputs, kv_head))
        });
        let parts: Vec<_> = work.collect();
        let (mut for_q, mut for_k, mut for_v) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        for (range, kv_head, part) in parts {
            let wide = &mut for_q[range.start * q_stride..range.end * q_stride];
            for (index, queries) in part.queries.chunks_exact(range.len() * width).enumerate() {
                put_columns(wide, q_stride, (kv_head * group + index) * width, queries, width);
            }
            let narrow = range.start * kv_stride..range.end * kv_stride;
            put_columns(&mut for_k[narrow.clone()], kv_stride, kv_head * width, &part.keys, width);
            put_columns(&mut for_v[narrow], kv_stride, kv_head * width, &part.values, width);
        }
        [for_q, for_k, for_v]
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_at: &Layout,
        k: &CpuStorage,
        k_at: &Layout,
        v: &CpuStorage,
        v_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (floats(q, q_at)?, floats(k, k_at)?, floats(v, v_at)?);
        let (q_stride, kv_stride) = self.widths();
        let starts: Vec<usize> =
            self.sequences.iter().flat_map(|range| std::iter::repeat_n(range.start, range.len())).collect();
        let mut out = vec![0.0_f32; q.len()];
        out.par_chunks_mut(q_stride).enumerate().for_each(|(row, out)| {
            let first = starts[row] + self.shape.first_seen(row - starts[row]);
            let rows = first * kv_stride..(row + 1) * kv_stride;
            let run = [Run { keys: &k[rows.clone()], values: &v[rows] }];
            let mut scores = vec![0.0_f32; row + 1 - first];
            let query = &q[row * q_stride..][..q_stride];
            vectorised!(attend_row(query, &run, self.shape, 0..self.shape.heads, &mut scores, out));
        });
        Ok(stored(out, q_at.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let parts = with_floats(q, |q| {
            with_floats(k, |k| with_floats(v, |v| with_floats(gradient, |gradient| self.backward(q, k, v, gradient))))
        })????;
        let [for_q, for_k, for_v] = parts;
        Ok((
            Some(tensor(for_q, q.shape().clone())?),
            Some(tensor(for_k, k.shape().clone())?),
            Some(tensor(for_v, v.shape().clone())?),
        ))
    }
}
