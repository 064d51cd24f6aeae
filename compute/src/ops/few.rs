//! Products of few rows: decoding. Streams the weight once, as fast as memory gives it.
//!
//! Invariant: each result is the chain of fused multiply-adds over the terms in order, which is what gemm's kernels
//! compute for more rows, so both give the same bits (a test in `product` holds them to it). Only used where the
//! processor fuses, as gemm does there too.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

/// Rows up to which a weight is streamed once as it lies; for more, packing it as gemm does pays.
pub(super) const MOST_ROWS: usize = 64;
/// Rows whose sums are held at once.
const ROWS: usize = 16;
/// Multiplications below which waking another thread costs more than it brings.
const THREAD_WORK: usize = 1 << 17;
/// Columns one job works on at a time: with all rows' sums and the rows of the weight at hand they stay in the
/// first-level cache.
const COLUMNS: usize = 256;
/// Terms added to a sum each time it is loaded.
const STEP: usize = 4;
/// Terms of a weight stored by columns that are turned around at a time: with 256 columns they fit the second-level cache.
const TURNED_TERMS: usize = 128;
/// Side of the squares that are turned around in registers.
const SIDE: usize = 8;

/// Whether this processor fuses multiplication and addition in vectors.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Whether this processor fuses multiplication and addition in vectors.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const fn is_available() -> bool {
    cfg!(target_arch = "aarch64")
}

/// A dense weight (terms, columns).
#[derive(Debug, Clone, Copy)]
pub(super) struct FewWeight<'a> {
    pub(super) values: &'a [f32],
    pub(super) terms: usize,
    pub(super) columns: usize,
    /// Stored column by column: the transpose of an embedding.
    pub(super) by_columns: bool,
}

/// x (rows, terms) · w; `block` terms are summed from zero and then added to the rest.
pub(super) fn multiply_few(x: &[f32], w: FewWeight<'_>, block: usize) -> Vec<f32> {
    let (rows, tiles) = (x.len() / w.terms, w.columns.div_ceil(COLUMNS));
    // One run of tiles for each thread: waking a thread costs as much as a small tile.
    let worth = (x.len() * w.columns / THREAD_WORK).max(1);
    let jobs = rayon::current_num_threads().min(tiles).min(worth);
    let run = |job: usize| {
        let columns = job * tiles / jobs * COLUMNS..((job + 1) * tiles / jobs * COLUMNS).min(w.columns);
        pulp::Arch::new().dispatch(ColumnRun { x, w, block, rows, columns })
    };
    if jobs == 1 {
        return run(0);
    }
    let parts: Vec<Vec<f32>> = (0..jobs).into_par_iter().with_max_len(1).map(run).collect();
    let mut y = Vec::with_capacity(rows * w.columns);
    for row in 0..rows {
        for part in &parts {
            let width = part.len() / rows;
            y.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    y
}

/// Some columns of the product, (rows, columns).
struct ColumnRun<'a> {
    x: &'a [f32],
    w: FewWeight<'a>,
    block: usize,
    rows: usize,
    columns: Range<usize>,
}

impl WithSimd for ColumnRun<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let width = self.columns.len();
        let mut y = vec![0.0_f32; self.rows * width];
        let mut sums = vec![0.0_f32; self.rows.min(ROWS) * COLUMNS];
        let mut turned = Vec::new();
        for tile in self.columns.clone().step_by(COLUMNS) {
            let length = COLUMNS.min(self.columns.end - tile);
            for first in (0..self.rows).step_by(ROWS) {
                let rows = first..self.rows.min(first + ROWS);
                let group = Group { x: &self.x[rows.start * self.w.terms..rows.end * self.w.terms], w: self.w };
                let y = &mut y[rows.start * width + tile - self.columns.start..];
                group.run(simd, self.block, tile..tile + length, (y, width), (&mut sums, &mut turned));
            }
        }
        y
    }
}

/// Some rows of x against the weight.
struct Group<'a> {
    x: &'a [f32],
    w: FewWeight<'a>,
}

impl Group<'_> {
    /// The columns `tile` of the product, to rows of `y` that are `stride` apart.
    #[inline(always)]
    fn run<S: Simd>(
        &self,
        simd: S,
        block: usize,
        tile: Range<usize>,
        (y, stride): (&mut [f32], usize),
        (sums, turned): (&mut [f32], &mut Vec<f32>),
    ) {
        let (terms, length) = (self.w.terms, tile.len());
        let rows = self.x.len() / terms;
        for start in (0..terms).step_by(block) {
            let sums = &mut sums[..rows * COLUMNS];
            sums.fill(0.0);
            let range = start..terms.min(start + block);
            match self.w.by_columns {
                false => self.add_terms(simd, range, &self.w.values[tile.start..], self.w.columns, length, sums),
                true => self.turn_and_add(simd, range, tile.clone(), turned, sums),
            }
            for (row, sums) in sums.chunks_exact(COLUMNS).enumerate() {
                let y = &mut y[row * stride..][..length];
                match terms <= block {
                    true => y.copy_from_slice(&sums[..length]),
                    false => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
                }
            }
        }
    }

    /// Adds the terms of `range` to `sums`; row `term` of the weight begins at `w[(term - from) · stride]`, where `from` is
    /// 0 for a weight stored by rows.
    #[inline(always)]
    fn add_terms<S: Simd>(
        &self,
        simd: S,
        range: Range<usize>,
        w: &[f32],
        stride: usize,
        length: usize,
        sums: &mut [f32],
    ) {
        let from = if self.w.by_columns { range.start } else { 0 };
        let weights = |term: usize| &w[(term - from) * stride..][..length];
        let whole = range.start + range.len() / STEP * STEP;
        for term in (range.start..whole).step_by(STEP) {
            let rows = [weights(term), weights(term + 1), weights(term + 2), weights(term + 3)];
            for (x, sums) in self.x.chunks_exact(self.w.terms).zip(sums.chunks_exact_mut(COLUMNS)) {
                add_four(simd, &x[term..term + STEP], rows, &mut sums[..length]);
            }
        }
        for term in whole..range.end {
            for (x, sums) in self.x.chunks_exact(self.w.terms).zip(sums.chunks_exact_mut(COLUMNS)) {
                add_one(simd, x[term], weights(term), &mut sums[..length]);
            }
        }
    }

    /// The same for a weight stored by columns: a part of it at a time is stored by rows first.
    #[inline(always)]
    fn turn_and_add<S: Simd>(
        &self,
        simd: S,
        range: Range<usize>,
        columns: Range<usize>,
        turned: &mut Vec<f32>,
        sums: &mut [f32],
    ) {
        let length = columns.len();
        for start in range.clone().step_by(TURNED_TERMS) {
            let part = start..range.end.min(start + TURNED_TERMS);
            turned.resize(part.len() * length, 0.0);
            for column in (0..length).step_by(SIDE) {
                let width = SIDE.min(length - column);
                let source = |at: usize| &self.w.values[(columns.start + column + at) * self.w.terms..][part.clone()];
                let whole = if width == SIDE { part.len() / SIDE * SIDE } else { 0 };
                for term in (0..whole).step_by(SIDE) {
                    turn_square(
                        std::array::from_fn(|at| &source(at)[term..]),
                        &mut turned[term * length + column..],
                        length,
                    );
                }
                for at in 0..width {
                    let rest = turned.chunks_exact_mut(length).zip(source(at)).skip(whole);
                    for (into, value) in rest {
                        into[column + at] = *value;
                    }
                }
            }
            self.add_terms(simd, part, turned, length, length, sums);
        }
    }
}

/// Stores eight pieces of columns as pieces of eight rows that are `stride` apart.
#[inline(always)]
fn turn_square(columns: [&[f32]; SIDE], into: &mut [f32], stride: usize) {
    let mut square = [[0.0_f32; SIDE]; SIDE];
    for (at, column) in columns.into_iter().enumerate() {
        for (row, value) in square.iter_mut().zip(&column[..SIDE]) {
            row[at] = *value;
        }
    }
    for (row, into) in square.iter().zip(into.chunks_mut(stride)) {
        into[..SIDE].copy_from_slice(row);
    }
}

/// sums += x[0] · w[0] + … + x[3] · w[3], one fused step after the other.
#[inline(always)]
fn add_four<S: Simd>(simd: S, x: &[f32], w: [&[f32]; STEP], sums: &mut [f32]) {
    let (sums, sums_rest) = S::as_mut_simd_f32s(sums);
    let w = w.map(S::as_simd_f32s);
    let factors = [x[0], x[1], x[2], x[3]].map(|x| simd.splat_f32s(x));
    let [(a, _), (b, _), (c, _), (d, _)] = w;
    for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        let next = simd.mul_add_f32s(factors[0], *a, *sum);
        let next = simd.mul_add_f32s(factors[1], *b, next);
        let next = simd.mul_add_f32s(factors[2], *c, next);
        *sum = simd.mul_add_f32s(factors[3], *d, next);
    }
    for (factor, (_, w)) in x.iter().zip(w) {
        for (sum, w) in sums_rest.iter_mut().zip(w) {
            *sum = factor.mul_add(*w, *sum);
        }
    }
}

/// sums += x · w
#[inline(always)]
fn add_one<S: Simd>(simd: S, x: f32, w: &[f32], sums: &mut [f32]) {
    let (sums, sums_rest) = S::as_mut_simd_f32s(sums);
    let (w, w_rest) = S::as_simd_f32s(w);
    let factor = simd.splat_f32s(x);
    for (sum, w) in sums.iter_mut().zip(w) {
        *sum = simd.mul_add_f32s(factor, *w, *sum);
    }
    for (sum, w) in sums_rest.iter_mut().zip(w_rest) {
        *sum = x.mul_add(*w, *sum);
    }
}
