//! The inner loops of products with strips.
//!
//! Invariant: a sum is carried in one register through the terms of a block, in order, with one rounding for each term.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{BLOCK_TERMS, GROUP, STRIP};

/// Rows whose sums with three strips fill the registers of the widest instructions: each weight is then read half as often.
const MANY_SUMS: usize = 8;
/// Terms that all rows go through before the next ones: with four strips they take two thirds of a first-level cache.
const TILE_TERMS: usize = 128;
/// How many terms ahead memory is asked for, where strips are that long; else it is the next strips' beginning.
const AHEAD_TERMS: usize = 16;
/// Terms up to which a strip ends before memory that is asked for within it has come.
pub(super) const FEW_TERMS: usize = 2 * AHEAD_TERMS;

/// One strip of a weight.
#[derive(Debug, Clone)]
pub(super) struct Strip<'a> {
    /// From its first term on, and on through the weight's later strips.
    pub(super) values: &'a [[f32; STRIP]],
    /// Where its results stand in a row.
    pub(super) columns: Range<usize>,
}

/// x (rows, terms) · strips, which are read in their order and may be of several weights, written to y (rows, width).
pub(super) struct StripProduct<'a> {
    pub(super) x: &'a [f32],
    pub(super) terms: usize,
    pub(super) strips: &'a [Strip<'a>],
    pub(super) width: usize,
    pub(super) y: &'a mut [f32],
}

/// Some terms of x and of `N` neighbouring strips.
struct Tile<'a, const N: usize> {
    /// From the first of these terms on, one row every `stride` values.
    x: &'a [f32],
    stride: usize,
    /// From the first of these terms on, and on through later strips.
    strips: [&'a [[f32; STRIP]]; N],
    terms: usize,
    /// How many terms ahead memory is asked for.
    ahead: usize,
}

impl WithSimd for StripProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let strips = self.strips.len();
        let rows = self.x.len() / self.terms.max(1);
        // As many sums as registers hold: with few rows more strips, with narrow vectors fewer.
        let together = match rows {
            1 => GROUP,
            _ if size_of::<S::f32s>() < size_of::<[f32; STRIP]>() => 1,
            MANY_SUMS.. => GROUP - 1,
            _ => GROUP,
        };
        let (mut strip, mut sums) = (0, Vec::new());
        while strip < strips {
            strip += match together.min(strips - strip) {
                GROUP.. => self.group::<S, GROUP>(simd, strip, &mut sums),
                3 => self.group::<S, 3>(simd, strip, &mut sums),
                2 => self.group::<S, 2>(simd, strip, &mut sums),
                _ => self.group::<S, 1>(simd, strip, &mut sums),
            };
        }
    }
}

impl StripProduct<'_> {
    /// The products with `N` neighbouring strips; returns `N`.
    #[inline(always)]
    fn group<S: Simd, const N: usize>(&mut self, simd: S, strip: usize, sums: &mut Vec<[f32; STRIP]>) -> usize {
        let terms = self.terms;
        let own: [&Strip<'_>; N] = std::array::from_fn(|at| &self.strips[strip + at]);
        let strips = own.map(|strip| strip.values);
        let ahead = if terms <= FEW_TERMS { N * terms } else { AHEAD_TERMS };
        sums.resize(self.x.len() / terms * N, [0.0; STRIP]);
        let sums = sums.as_chunks_mut::<N>().0;
        for block in (0..terms).step_by(BLOCK_TERMS) {
            let end = terms.min(block + BLOCK_TERMS);
            sums.fill([[0.0; STRIP]; N]);
            for start in (block..end).step_by(TILE_TERMS) {
                let strips = strips.map(|strip: &[[f32; STRIP]]| &strip[start..]);
                let (x, now) = (&self.x[start..], TILE_TERMS.min(end - start));
                let tile = Tile { x, stride: terms, strips, terms: now, ahead };
                tile.add(simd, sums);
            }
            for (y, sums) in self.y.chunks_exact_mut(self.width).zip(sums.iter()) {
                for (strip, sums) in own.iter().zip(sums) {
                    put(&mut y[strip.columns.clone()], sums, block == 0);
                }
            }
        }
        N
    }
}

/// Writes a strip's sums of a row, or adds them.
#[inline(always)]
fn put(into: &mut [f32], sums: &[f32; STRIP], is_first: bool) {
    match (into.as_chunks_mut::<STRIP>(), is_first) {
        (([whole], []), true) => *whole = *sums,
        (([whole], []), false) => whole.iter_mut().zip(sums).for_each(|(into, sum)| *into += sum),
        ((_, part), true) => part.copy_from_slice(&sums[..part.len()]),
        ((_, part), false) => part.iter_mut().zip(sums).for_each(|(into, sum)| *into += sum),
    }
}

impl<const N: usize> Tile<'_, N> {
    /// Adds the tile's products to `sums` of all rows.
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, sums: &mut [[[f32; STRIP]; N]]) {
        let mut row = 0;
        while row < sums.len() {
            row += match sums.len() - row {
                MANY_SUMS.. if N < GROUP && size_of::<S::f32s>() == size_of::<[f32; STRIP]>() => {
                    self.add_rows::<S, MANY_SUMS>(simd, row, sums)
                }
                4.. => self.add_rows::<S, 4>(simd, row, sums),
                2.. => self.add_rows::<S, 2>(simd, row, sums),
                _ => self.add_rows::<S, 1>(simd, row, sums),
            };
        }
    }

    /// The same for `R` rows from `row` on; returns `R`.
    #[inline(always)]
    fn add_rows<S: Simd, const R: usize>(&self, simd: S, row: usize, sums: &mut [[[f32; STRIP]; N]]) -> usize {
        match size_of::<[f32; STRIP]>() / size_of::<S::f32s>() {
            1 => self.add_vectors::<S, R, 1>(simd, row, sums),
            2 => self.add_vectors::<S, R, 2>(simd, row, sums),
            4 => self.add_vectors::<S, R, 4>(simd, row, sums),
            _ => self.add_vectors::<S, R, STRIP>(simd, row, sums),
        }
        R
    }

    /// The same with `V` vectors to a strip.
    #[inline(always)]
    fn add_vectors<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        row: usize,
        sums: &mut [[[f32; STRIP]; N]],
    ) {
        // No maps of arrays: they are not inlined, and copy the sums through memory.
        let mut x: [&[f32]; R] = [&[]; R];
        for (at, x) in x.iter_mut().enumerate() {
            *x = &self.x[(row + at) * self.stride..][..self.terms];
        }
        let mut strips: [&[[f32; STRIP]]; N] = [&[]; N];
        for (own, strip) in strips.iter_mut().zip(&self.strips) {
            *own = &strip[..self.terms];
        }
        let sums = &mut sums[row..row + R];
        let mut own = [[[simd.splat_f32s(0.0); V]; N]; R];
        for (own, sums) in own.iter_mut().zip(sums.iter()) {
            for (own, sums) in own.iter_mut().zip(sums) {
                own.iter_mut().zip(S::as_simd_f32s(sums).0).for_each(|(own, sums)| *own = *sums);
            }
        }
        for term in 0..self.terms {
            let mut w = [[simd.splat_f32s(0.0); V]; N];
            for (w, strip) in w.iter_mut().zip(&strips) {
                w.iter_mut().zip(S::as_simd_f32s(&strip[term]).0).for_each(|(w, values)| *w = *values);
            }
            // Later rows find what the first ones have brought.
            if row == 0 {
                self.strips.iter().for_each(|strip| bring(strip.get(term + self.ahead)));
            }
            // Never as slices: debug assertions look at where those lie, and then the sums are kept in memory.
            for (own, x) in own.iter_mut().zip(&x) {
                let x = simd.splat_f32s(x[term]);
                for (own, w) in own.iter_mut().zip(&w) {
                    for (own, w) in own.iter_mut().zip(w) {
                        *own = simd.mul_add_f32s(x, *w, *own);
                    }
                }
            }
        }
        for (sums, own) in sums.iter_mut().zip(&own) {
            for (sums, own) in sums.iter_mut().zip(own) {
                S::as_mut_simd_f32s(sums).0.iter_mut().zip(own).for_each(|(sums, own)| *sums = *own);
            }
        }
    }
}

/// Asks for the cache line of a term that will be read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn bring(values: Option<&[f32; STRIP]>) {
    use pulp::core_arch::x86::Sse;
    use std::arch::x86_64::_MM_HINT_T1;
    if let (Some(values), Some(sse)) = (values, Sse::try_new()) {
        sse._mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(values).cast());
    }
}

/// Asks for nothing: other processors are left to guess.
#[cfg(not(target_arch = "x86_64"))]
const fn bring(_: Option<&[f32; STRIP]>) {}
