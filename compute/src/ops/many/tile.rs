//! The inner loops of products of many rows.
//!
//! Invariant: a sum is carried through the terms of a block in order, with one rounding for each term.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::super::aligned::Aligned;
use super::pack::{Side, pack};
use super::{NARROW_ROWS, VECTORS, WIDE_ROWS};

/// Terms that all rows go through before the next ones: a panel's of so many take half a first-level cache.
const TILE_TERMS: usize = 128;

/// Numbers in a vector.
pub(super) struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Some columns of the product, to be packed: as many as a panel has, or the last.
pub(super) struct Columns<'a> {
    pub(super) b: Side<'a>,
    pub(super) columns: Range<usize>,
    pub(super) terms: Range<usize>,
    pub(super) panel: &'a mut [f32],
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { b, columns, terms, panel } = self;
        match S::F32_LANES {
            16.. => pack::<{ VECTORS * 16 }>(b, columns, terms, panel.as_chunks_mut().0),
            8 => pack::<{ VECTORS * 8 }>(b, columns, terms, panel.as_chunks_mut().0),
            4 => pack::<{ VECTORS * 4 }>(b, columns, terms, panel.as_chunks_mut().0),
            _ => pack::<VECTORS>(b, columns, terms, panel.as_chunks_mut().0),
        }
    }
}

/// Some rows of the product and some of their columns.
pub(super) struct Strip<'a> {
    pub(super) a: Side<'a>,
    pub(super) rows: Range<usize>,
    pub(super) terms: Range<usize>,
    /// The terms of `columns` of the other side, panel by panel.
    pub(super) packed: &'a [f32],
    pub(super) columns: Range<usize>,
    /// From row to row of `into`.
    pub(super) stride: usize,
    pub(super) into: &'a mut [f32],
    pub(super) scale: f32,
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16.. => self.run::<S, WIDE_ROWS>(simd),
            _ => self.run::<S, NARROW_ROWS>(simd),
        }
    }
}

impl Strip<'_> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let (terms, width) = (self.terms.len(), VECTORS * S::F32_LANES);
        let (mut rows, mut sums) = (Aligned::default(), Aligned::default());
        let rows = rows.take(self.rows.len().next_multiple_of(R) * terms);
        for (into, start) in rows.chunks_exact_mut(R * terms).zip(self.rows.clone().step_by(R)) {
            let rows = start..self.rows.end.min(start + R);
            pack::<R>(self.a, rows, self.terms.clone(), into.as_chunks_mut().0);
        }
        let sums = sums.take(rows.len() / terms * width);
        for (panel, start) in self.packed.chunks_exact(width * terms).zip(self.columns.clone().step_by(width)) {
            let own = width.min(self.columns.end - start);
            let into = self.into.get_mut(start..).unwrap_or_default();
            let panel = Panel { rows, panel, terms, sums, into, stride: self.stride, own, scale: self.scale };
            match own.div_ceil(S::F32_LANES) {
                1 => panel.add::<S, R, 1>(simd),
                2 => panel.add::<S, R, 2>(simd),
                _ => panel.add::<S, R, VECTORS>(simd),
            }
        }
    }
}

/// One panel of packed columns against all packed rows.
struct Panel<'a> {
    rows: &'a [f32],
    panel: &'a [f32],
    terms: usize,
    /// Of the terms so far, tile by tile.
    sums: &'a mut [f32],
    /// The product from the panel's first column on.
    into: &'a mut [f32],
    stride: usize,
    /// Columns that are not filled up.
    own: usize,
    scale: f32,
}

impl Panel<'_> {
    /// Only the first `N` vectors of the panel count.
    #[inline(always)]
    fn add<S: Simd, const R: usize, const N: usize>(self, simd: S) {
        let width = VECTORS * S::F32_LANES;
        for first in (0..self.terms).step_by(TILE_TERMS) {
            let last = self.terms.min(first + TILE_TERMS);
            let panel = &self.panel[first * width..last * width];
            let tiles = self.rows.chunks_exact(R * self.terms).zip(self.sums.chunks_exact_mut(R * width));
            for (at, (rows, kept)) in tiles.enumerate() {
                let kept = S::as_mut_simd_f32s(kept).0.as_chunks_mut::<VECTORS>().0;
                let mut sums = [[simd.splat_f32s(0.0); N]; R];
                if first > 0 {
                    sums.iter_mut().zip(kept.iter()).for_each(|(sums, kept)| sums.copy_from_slice(&kept[..N]));
                }
                let sums = go_on::<S, R, N>(simd, &rows[first * R..last * R], panel, sums);
                if last < self.terms {
                    kept.iter_mut().zip(&sums).for_each(|(kept, sums)| kept[..N].copy_from_slice(sums));
                    continue;
                }
                let into = self.into.get_mut(at * R * self.stride..).unwrap_or_default().chunks_mut(self.stride);
                for (into, sums) in into.zip(&sums) {
                    add_row(simd, &mut into[..self.own], sums, self.scale);
                }
            }
        }
    }
}

/// Goes on with a tile's sums, one fused step after the other.
#[inline(always)]
fn go_on<S: Simd, const R: usize, const N: usize>(
    simd: S,
    rows: &[f32],
    panel: &[f32],
    mut sums: [[S::f32s; N]; R],
) -> [[S::f32s; N]; R] {
    let panel = S::as_simd_f32s(panel).0.as_chunks::<VECTORS>().0;
    for (factors, vectors) in rows.as_chunks::<R>().0.iter().zip(panel) {
        for (factor, sums) in factors.iter().zip(&mut sums) {
            let factor = simd.splat_f32s(*factor);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.mul_add_f32s(factor, *vector, *sum);
            }
        }
    }
    sums
}

/// into += scale · sums, with two roundings.
#[inline(always)]
fn add_row<S: Simd>(simd: S, into: &mut [f32], sums: &[S::f32s], scale: f32) {
    let whole = into.len() / S::F32_LANES;
    let (vectors, rest) = S::as_mut_simd_f32s(into);
    let factor = simd.splat_f32s(scale);
    for (into, sum) in vectors.iter_mut().zip(sums) {
        *into = simd.add_f32s(*into, simd.mul_f32s(factor, *sum));
    }
    if let Some(sum) = sums.get(whole).filter(|_| !rest.is_empty()) {
        let total = simd.add_f32s(simd.partial_load_f32s(rest), simd.mul_f32s(factor, *sum));
        simd.partial_store_f32s(rest, total);
    }
}
