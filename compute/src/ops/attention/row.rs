//! The inner loops of attention: one query row against keys and values.
//!
//! Invariant: a score is a dot product in eight lanes, and a result adds the values in order, one rounding for each product
//! and each addition, however many keys are taken side by side.

use std::ops::Range;

use super::super::exponential::exponential;
use super::super::{add_scaled, dot, dots_of, largest, sum_pairs};
use super::{HeadShape, Run};

/// Keys or values that a query meets side by side: chains of additions that don't wait for each other.
const TOGETHER: usize = 4;

/// Some heads of one query row against the first `scores.len()` rows of `runs`; `out` has these heads only.
#[inline(always)]
pub(super) fn attend_row(
    query: &[f32],
    runs: &[Run<'_>],
    shape: HeadShape,
    heads: Range<usize>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let (width, kv_width) = (shape.width, shape.kv_heads * shape.width);
    let group = shape.heads / shape.kv_heads;
    for (head, out) in heads.zip(out.chunks_exact_mut(width)) {
        let query = &query[head * width..][..width];
        let offset = head / group * width;
        let mut rest = &mut *scores;
        for run in runs {
            let (own, later) = rest.split_at_mut((run.keys.len() / kv_width).min(rest.len()));
            dots(query, &run.keys[offset..], kv_width, own);
            rest = later;
        }
        let total = soften(scores, width);
        let mut rest = &*scores;
        for run in runs {
            let (own, later) = rest.split_at((run.values.len() / kv_width).min(rest.len()));
            add_rows(out, own, &run.values[offset..], kv_width);
            rest = later;
        }
        for out in out.iter_mut() {
            *out /= total;
        }
    }
}

/// The dot product of `query` with each of the rows that begin every `stride` values.
#[inline(always)]
pub(super) fn dots(query: &[f32], rows: &[f32], stride: usize, into: &mut [f32]) {
    let width = query.len();
    let mut at = 0;
    let (groups, rest) = into.as_chunks_mut::<TOGETHER>();
    for into in groups {
        *into = dots_of(query, std::array::from_fn(|own| &rows[(at + own) * stride..][..width]));
        at += TOGETHER;
    }
    for into in rest {
        *into = dot(query, &rows[at * stride..][..width]);
        at += 1;
    }
}

/// into += the sum, in order, of the rows that begin every `stride` values, each scaled by its factor.
#[inline(always)]
pub(super) fn add_rows(into: &mut [f32], factors: &[f32], rows: &[f32], stride: usize) {
    let width = into.len();
    let mut at = 0;
    let (groups, rest) = factors.as_chunks::<TOGETHER>();
    for [a, b, c, d] in groups {
        let [for_a, for_b, for_c, for_d]: [&[f32]; TOGETHER] =
            std::array::from_fn(|own| &rows[(at + own) * stride..][..width]);
        let pairs = for_a.iter().zip(for_b).zip(for_c.iter().zip(for_d));
        for (into, ((a_value, b_value), (c_value, d_value))) in into.iter_mut().zip(pairs) {
            *into = (((*into + a * a_value) + b * b_value) + c * c_value) + d * d_value;
        }
        at += TOGETHER;
    }
    for factor in rest {
        add_scaled(into, *factor, &rows[at * stride..][..width]);
        at += 1;
    }
}

/// Turns raw scores into e^(scaled score − maximum); gives their sum.
#[inline(always)]
pub(super) fn soften(scores: &mut [f32], width: usize) -> f32 {
    let scale = 1.0 / (width as f32).sqrt();
    let largest = largest(scores);
    for score in scores.iter_mut() {
        *score = exponential((*score - largest) * scale);
    }
    sum_pairs(scores, scores, |value, _| value)
}
