//! Products of few rows: decoding. Streams the weight once, as fast as memory gives it.
//!
//! Invariant: each result is the chain of fused multiply-adds over the terms in order, which is what gemm's kernels
//! compute for more rows, so both give the same bits (a test in `product` holds them to it). Only used where the
//! processor fuses, as gemm does there too.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::pool;

/// Rows up to which a weight is streamed once as it lies; for more, packing it as gemm does pays.
pub(super) const MOST_ROWS: usize = 64;
/// Rows whose sums are held at once.
const ROWS: usize = 16;
/// Multiplications below which another core's share costs more than it brings.
const THREAD_WORK: usize = 1 << 15;
/// Sums held at once: with the rows of the weight at hand they stay in the first-level cache.
const SUMS: usize = 4096;
/// Columns worked on at a time at least: fewer, and memory is read in pieces too short to be fetched ahead.
const LEAST_COLUMNS: usize = 256;
/// Columns that a core takes at a time are a multiple of this, so that no two write to one cache line.
const LINE: usize = 16;
/// Pieces for each core: one that was late leaves work to the others.
const PIECES: usize = 2;
/// Columns of a weight that are so few that its terms' blocks are summed side by side.
const NARROW: usize = 64;
/// Terms added to a sum each time it is loaded, and rows of the weight that are read side by side.
const STEP: usize = 8;
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

/// x (rows, terms) · each weight; `block` terms are summed from zero and then added to the rest. All weights have the same
/// terms.
pub(super) fn multiply_few(x: &[f32], weights: &[FewWeight<'_>], block: usize) -> Vec<Vec<f32>> {
    let Some(terms) = weights.first().map(|w| w.terms) else { return Vec::new() };
    let rows = x.len() / terms;
    let columns: usize = weights.iter().map(|w| w.columns).sum();
    let threads = pool::threads().min(x.len() * columns / THREAD_WORK).max(1);
    let pieces: Vec<Piece> =
        weights.iter().enumerate().flat_map(|(at, w)| Piece::all(at, w, columns, threads, block)).collect();
    let work = |piece: usize| {
        let Piece { at, columns, terms } = pieces[piece].clone();
        pulp::Arch::new().dispatch(ColumnRun { x, w: weights[at], block, rows, columns, terms })
    };
    let parts = if threads == 1 { (0..pieces.len()).map(work).collect() } else { pool::share(pieces.len(), work) };
    gather(weights, rows, &pieces, parts)
}

/// What one core does at a time.
#[derive(Debug, Clone)]
struct Piece {
    /// Which weight.
    at: usize,
    columns: Range<usize>,
    /// All, or one block.
    terms: Range<usize>,
}

impl Piece {
    /// The pieces of weight `at` among weights of so many columns.
    fn all(at: usize, w: &FewWeight<'_>, columns: usize, threads: usize, block: usize) -> Vec<Self> {
        let (terms, own) = (w.terms, w.columns);
        // Whole rows are the longest runs of memory.
        if threads > 1 && own == columns && !w.by_columns && terms.is_multiple_of(block * threads) && terms > block {
            let one = |start: usize| Self { at, columns: 0..own, terms: start..start + block };
            return (0..terms).step_by(block).map(one).collect();
        }
        let most = match threads {
            1 => own.max(1),
            _ => columns.div_ceil(threads * PIECES).next_multiple_of(LINE),
        };
        let one = |start: usize| Self { at, columns: start..own.min(start + most), terms: 0..terms };
        (0..own).step_by(most).map(one).collect()
    }
}

/// The products, (rows, columns) each, from their pieces.
fn gather(weights: &[FewWeight<'_>], rows: usize, pieces: &[Piece], parts: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let mut products: Vec<Vec<f32>> = Vec::with_capacity(weights.len());
    for (Piece { at, columns, terms }, part) in pieces.iter().zip(parts) {
        let width = weights[*at].columns;
        if columns.len() == width && terms.len() == weights[*at].terms {
            products.push(part);
            continue;
        }
        if products.len() <= *at {
            products.push(vec![0.0; rows * width]);
        }
        let Some(product) = products.last_mut() else { continue };
        for (row, part) in product.chunks_exact_mut(width).zip(part.chunks_exact(columns.len())) {
            let row = &mut row[columns.clone()];
            match terms.len() == weights[*at].terms {
                true => row.copy_from_slice(part),
                // Blocks come in order.
                false => row.iter_mut().zip(part).for_each(|(sum, part)| *sum += part),
            }
        }
    }
    products
}

/// Some columns of the product, (rows, columns).
struct ColumnRun<'a> {
    x: &'a [f32],
    w: FewWeight<'a>,
    block: usize,
    rows: usize,
    columns: Range<usize>,
    terms: Range<usize>,
}

impl WithSimd for ColumnRun<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let width = self.columns.len();
        let at_once = self.rows.min(ROWS);
        let tile = if self.w.by_columns { LEAST_COLUMNS } else { LEAST_COLUMNS.max(SUMS / at_once.max(1)) };
        let mut y = vec![0.0_f32; self.rows * width];
        let mut sums = vec![0.0_f32; at_once * tile];
        let mut turned = Vec::new();
        for start in self.columns.clone().step_by(tile) {
            let columns = start..self.columns.end.min(start + tile);
            for first in (0..self.rows).step_by(ROWS) {
                let rows = first..self.rows.min(first + ROWS);
                let x = &self.x[rows.start * self.w.terms..rows.end * self.w.terms];
                let group = Group { x, w: self.w, tile, terms: self.terms.clone() };
                let y = &mut y[rows.start * width + start - self.columns.start..];
                group.run(simd, self.block, columns.clone(), (y, width), (&mut sums, &mut turned));
            }
        }
        y
    }
}

/// Some rows of x against the weight.
struct Group<'a> {
    x: &'a [f32],
    w: FewWeight<'a>,
    /// Sums of one row.
    tile: usize,
    /// Which terms.
    terms: Range<usize>,
}

impl Group<'_> {
    /// Some columns of the product, to rows of `y` that are `stride` apart.
    #[inline(always)]
    fn run<S: Simd>(
        &self,
        simd: S,
        block: usize,
        columns: Range<usize>,
        (y, stride): (&mut [f32], usize),
        (sums, turned): (&mut [f32], &mut Vec<f32>),
    ) {
        let (terms, length) = (self.w.terms, columns.len());
        let rows = self.x.len() / terms;
        if length <= NARROW && self.terms.len() > block && !self.w.by_columns {
            return self.run_narrow(simd, block, columns, (y, stride));
        }
        for start in self.terms.clone().step_by(block) {
            let sums = &mut sums[..rows * self.tile];
            sums.fill(0.0);
            let range = start..self.terms.end.min(start + block);
            match self.w.by_columns {
                false => self.add_terms(simd, range, &self.w.values[columns.start..], self.w.columns, length, sums),
                true => self.turn_and_add(simd, range, columns.clone(), turned, sums),
            }
            for (row, sums) in sums.chunks_exact(self.tile).enumerate() {
                let y = &mut y[row * stride..][..length];
                match self.terms.len() <= block {
                    true => y.copy_from_slice(&sums[..length]),
                    false => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
                }
            }
        }
    }

    /// The same for so few columns that one chain of additions would leave the processor waiting for itself: all blocks
    /// go on side by side.
    #[inline(always)]
    fn run_narrow<S: Simd>(&self, simd: S, block: usize, columns: Range<usize>, (y, stride): (&mut [f32], usize)) {
        let (terms, length) = (self.w.terms, columns.len());
        let weights = |term: usize| &self.w.values[term * self.w.columns + columns.start..][..length];
        let blocks = terms.div_ceil(block);
        for (x, y) in self.x.chunks_exact(terms).zip(y.chunks_mut(stride)) {
            let mut sums = vec![0.0_f32; blocks * length];
            for step in (0..block).step_by(STEP) {
                for (at, sums) in sums.chunks_exact_mut(length).enumerate() {
                    let (term, end) = (at * block + step, terms.min((at + 1) * block));
                    if term + STEP <= end {
                        let rows = std::array::from_fn(|at| weights(term + at));
                        add_step(simd, &x[term..term + STEP], rows, [&[]; STEP], sums);
                        continue;
                    }
                    for (x, term) in x[term.min(end)..end].iter().zip(term..) {
                        add_one(simd, *x, weights(term), sums);
                    }
                }
            }
            for sums in sums.chunks_exact(length) {
                y[..length].iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
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
        let place = |term: usize| (term - from) * stride;
        let whole = range.start + range.len() / STEP * STEP;
        for term in (range.start..whole).step_by(STEP) {
            let rows = std::array::from_fn(|at| &w[place(term + at)..][..length]);
            // The processor fetches ahead within a row; where the next ones begin it can't know.
            let next = w.get(place(term + STEP)..).unwrap_or_default();
            let mut ahead = std::array::from_fn(|at| next.get(at * stride..).unwrap_or_default());
            for (x, sums) in self.x.chunks_exact(self.w.terms).zip(sums.chunks_exact_mut(self.tile)) {
                add_step(simd, &x[term..term + STEP], rows, ahead, &mut sums[..length]);
                ahead = [&[]; STEP];
            }
        }
        for term in whole..range.end {
            for (x, sums) in self.x.chunks_exact(self.w.terms).zip(sums.chunks_exact_mut(self.tile)) {
                add_one(simd, x[term], &w[place(term)..][..length], &mut sums[..length]);
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

/// sums += x[0] · w[0] + … + x[7] · w[7], one fused step after the other; what is `ahead` is brought nearer.
#[inline(always)]
fn add_step<S: Simd>(simd: S, x: &[f32], w: [&[f32]; STEP], ahead: [&[f32]; STEP], sums: &mut [f32]) {
    let (sums, sums_rest) = S::as_mut_simd_f32s(sums);
    let factors: [S::f32s; STEP] = std::array::from_fn(|at| simd.splat_f32s(x[at]));
    let vectors = w.map(|w| &S::as_simd_f32s(w).0[..sums.len()]);
    let width = size_of::<S::f32s>() / size_of::<f32>();
    for (at, sum) in sums.iter_mut().enumerate() {
        let mut next = *sum;
        for term in 0..STEP {
            bring(ahead[term].get(at * width));
            next = simd.mul_add_f32s(factors[term], vectors[term][at], next);
        }
        *sum = next;
    }
    for (factor, w) in x.iter().zip(w) {
        for (sum, w) in sums_rest.iter_mut().zip(S::as_simd_f32s(w).1) {
            *sum = factor.mul_add(*w, *sum);
        }
    }
}

/// Asks for the cache line of a number that will be read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn bring(number: Option<&f32>) {
    use pulp::core_arch::x86::Sse;
    use std::arch::x86_64::_MM_HINT_T1;
    if let (Some(number), Some(sse)) = (number, Sse::try_new()) {
        sse._mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(number).cast());
    }
}

/// Asks for nothing: other processors are left to guess.
#[cfg(not(target_arch = "x86_64"))]
const fn bring(_: Option<&f32>) {}

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
