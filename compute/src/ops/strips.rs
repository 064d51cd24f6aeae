//! A frozen dense weight stored for multiplying: strips of sixteen columns, each contiguous from the first term to the last.
//!
//! Invariant: each result is the sum, in order, of blocks of [`BLOCK_TERMS`] terms, each block one chain of fused
//! multiply-adds over its terms in order, whatever the number of rows, the threads and the width of the vectors. This is
//! what [`super::product()`] computes from the same numbers stored row by row.
//!
//! Several strips are read side by side: a core that follows one run of memory gets two thirds of what it gets from
//! four, and rows of a wide matrix are too far apart to be fetched ahead (figures in SPEED.md). The layout is that of the
//! packed panels of a matrix product (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008),
//! made once instead of for each product.

mod kernel;

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::aligned::Aligned;
use super::many::Side;
use super::pool;
use super::product::BLOCK_TERMS;
use kernel::{FEW_TERMS, Strip, StripProduct};

/// Columns of a strip: one cache line of f32, and one vector of the widest instructions.
pub(super) const STRIP: usize = 16;
/// Strips that are multiplied side by side.
const GROUP: usize = 4;
/// Rows from which each core takes rows of its own instead of columns: then results are written where they belong.
const MANY_ROWS: usize = 32;
/// Rows that a core takes at a time at most: with a tile of the weight they stay in the second-level cache.
const ROWS_AT_ONCE: usize = 64;
/// Pieces for each core: one that was late leaves work to the others.
const PIECES: usize = 2;
/// Multiplications below which another core's share costs more than it brings.
const THREAD_WORK: usize = 1 << 15;

/// A weight (terms, columns) in strips. The last strip is filled up with zeros.
#[derive(Debug)]
pub struct Strips {
    /// Strip by strip, [`STRIP`] values for each term.
    values: Aligned,
    terms: usize,
    columns: usize,
}

impl Strips {
    /// Stores a weight (terms, columns) of any layout.
    ///
    /// # Errors
    /// When it is not a matrix of f32.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (terms, columns) = weight.dims2()?;
        let mut values = Aligned::zeros(terms * columns.next_multiple_of(STRIP));
        if values.is_empty() {
            return Ok(Self { values, terms, columns });
        }
        // A transposed embedding is read as it lies.
        let by_columns = weight.layout().is_fortran_contiguous() && !weight.is_contiguous();
        let stored = if by_columns { weight.t()? } else { weight.clone() };
        super::with_floats(&stored, |stored| {
            values.par_chunks_exact_mut(terms * STRIP).enumerate().for_each(|(strip, into)| {
                let own = strip * STRIP..columns.min((strip + 1) * STRIP);
                match by_columns {
                    true => fill_by_columns(into, &stored[own.start * terms..own.end * terms], terms),
                    false => {
                        for (into, row) in into.chunks_exact_mut(STRIP).zip(stored.chunks_exact(columns)) {
                            into[..own.len()].copy_from_slice(&row[own.clone()]);
                        }
                    }
                }
            });
        })?;
        Ok(Self { values, terms, columns })
    }

    /// (terms, columns)
    #[must_use]
    pub const fn shape(&self) -> (usize, usize) {
        (self.terms, self.columns)
    }

    /// Bytes in memory of a weight (terms, columns).
    #[must_use]
    pub const fn bytes_of(terms: usize, columns: usize) -> usize {
        terms * columns.next_multiple_of(STRIP) * size_of::<f32>()
    }

    /// Bytes in memory.
    pub(super) const fn bytes(&self) -> usize {
        Self::bytes_of(self.terms, self.columns)
    }

    /// Row by row, (terms, columns).
    pub(super) fn dense(&self) -> Result<Tensor> {
        let mut values = vec![0.0; self.terms * self.columns];
        for (strip, from) in self.values.chunks_exact((self.terms * STRIP).max(1)).enumerate() {
            let own = strip * STRIP..self.columns.min((strip + 1) * STRIP);
            for (row, from) in values.chunks_exact_mut(self.columns).zip(from.chunks_exact(STRIP)) {
                row[own.clone()].copy_from_slice(&from[..own.len()]);
            }
        }
        Tensor::from_vec(values, (self.terms, self.columns), &Device::Cpu)
    }

    /// The strips of some columns, from a whole strip on, in the order in which they are read. Short ones from each quarter
    /// in turns, since together they are one run of memory.
    fn strips(&self, columns: Range<usize>) -> Vec<Strip<'_>> {
        let first = columns.start / STRIP;
        let strip = |at: usize| Strip {
            values: self.values[(first + at) * self.terms * STRIP..].as_chunks().0,
            columns: at * STRIP..columns.len().min((at + 1) * STRIP),
        };
        let count = columns.len().div_ceil(STRIP);
        match self.terms <= FEW_TERMS && count >= GROUP {
            true => {
                let (quarter, rest) = (count / GROUP, count / GROUP * GROUP..count);
                let turns = (0..quarter).flat_map(|at| (0..GROUP).map(move |part| part * quarter + at));
                turns.chain(rest).map(strip).collect()
            }
            false => (0..count).map(strip).collect(),
        }
    }

    /// Its rows, whose numbers a gradient is multiplied with.
    pub(super) fn side(&self) -> Side<'_> {
        Side::of_strips(&self.values, self.terms, self.columns)
    }
}

/// A strip from its columns, `terms` values each.
fn fill_by_columns(strip: &mut [f32], columns: &[f32], terms: usize) {
    for (at, column) in columns.chunks_exact(terms).enumerate() {
        for (into, value) in strip.chunks_exact_mut(STRIP).zip(column) {
            into[at] = *value;
        }
    }
}

/// x (rows, terms) · each weight, (rows, columns) each; all weights have as many terms.
pub(super) fn multiply(x: &[f32], weights: &[&Strips]) -> Vec<Vec<f32>> {
    let Some(terms) = weights.first().map(|weight| weight.terms.max(1)) else { return Vec::new() };
    match x.len() / terms < MANY_ROWS {
        true => multiply_few(x, weights, terms),
        false => weights.iter().map(|weight| multiply_many(x, weight, terms)).collect(),
    }
}

/// The same for narrow weights: of few rows their strips are read side by side, by this core alone.
pub(super) fn multiply_beside(x: &[f32], weights: &[&Strips]) -> Vec<Vec<f32>> {
    let Some(terms) = weights.first().map(|weight| weight.terms.max(1)) else { return Vec::new() };
    if x.len() / terms >= MANY_ROWS {
        return multiply(x, weights);
    }
    let (rows, mut strips, mut width) = (x.len() / terms, Vec::new(), 0);
    for weight in weights {
        strips.extend(weight.strips(0..weight.columns).into_iter().map(|Strip { values, columns }| {
            let columns = columns.start + width..columns.end + width;
            Strip { values, columns }
        }));
        width += weight.columns;
    }
    let mut y = vec![0.0_f32; rows * width];
    pulp::Arch::new().dispatch(StripProduct { x, terms, strips: &strips, width, y: &mut y });
    let mut start = 0;
    let part = |weight: &&Strips| {
        let own = start..start + weight.columns;
        start = own.end;
        y.chunks_exact(width.max(1)).flat_map(|row| &row[own.clone()]).copied().collect()
    };
    weights.iter().map(part).collect()
}

/// Each core takes some rows, unless one was given this whole.
fn multiply_many(x: &[f32], weight: &Strips, terms: usize) -> Vec<f32> {
    let (rows, columns) = (x.len() / terms, weight.columns);
    let mut y = vec![0.0_f32; rows * columns];
    let strips = weight.strips(0..columns);
    let multiply = |(y, x): (&mut [f32], &[f32])| {
        pulp::Arch::new().dispatch(StripProduct { x, terms, strips: &strips, width: columns, y });
    };
    let at_once = rows.div_ceil(pool::threads()).next_multiple_of(GROUP).min(ROWS_AT_ONCE);
    let (many_y, many_x) = ((at_once * columns).max(1), at_once * terms);
    match pool::is_shared() {
        true => y.chunks_mut(many_y).zip(x.chunks(many_x)).for_each(multiply),
        false => y.par_chunks_mut(many_y).zip(x.par_chunks(many_x)).for_each(multiply),
    }
    y
}

/// Each core takes some columns, of all weights in one go.
fn multiply_few(x: &[f32], weights: &[&Strips], terms: usize) -> Vec<Vec<f32>> {
    let rows = x.len() / terms;
    let columns: usize = weights.iter().map(|weight| weight.columns).sum();
    let threads = pool::threads().min(x.len() * columns / THREAD_WORK).max(1);
    let most = match threads {
        1 => usize::MAX / 2,
        _ => columns.div_ceil(threads * PIECES).next_multiple_of(GROUP * STRIP),
    };
    let pieces = weights.iter().enumerate().flat_map(|(at, weight)| {
        (0..weight.columns).step_by(most).map(move |start| (at, start..weight.columns.min(start.saturating_add(most))))
    });
    let pieces: Vec<(usize, Range<usize>)> = pieces.collect();
    let work = |piece: usize| {
        let (at, columns) = pieces[piece].clone();
        let (strips, width) = (weights[at].strips(columns.clone()), columns.len());
        let mut y = vec![0.0_f32; rows * width];
        pulp::Arch::new().dispatch(StripProduct { x, terms, strips: &strips, width, y: &mut y });
        y
    };
    let parts = if threads == 1 { (0..pieces.len()).map(work).collect() } else { pool::share(pieces.len(), work) };
    gather(weights, rows, &pieces, parts)
}

/// The products, (rows, columns) each, from their pieces.
fn gather(weights: &[&Strips], rows: usize, pieces: &[(usize, Range<usize>)], parts: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let mut products: Vec<Vec<f32>> = Vec::with_capacity(weights.len());
    for ((at, columns), part) in pieces.iter().zip(parts) {
        let width = weights[*at].columns;
        if columns.len() == width {
            products.push(part);
            continue;
        }
        if columns.start == 0 {
            products.push(vec![0.0; rows * width]);
        }
        let Some(product) = products.last_mut() else { continue };
        for (row, part) in product.chunks_exact_mut(width).zip(part.chunks_exact(columns.len())) {
            row[columns.clone()].copy_from_slice(part);
        }
    }
    products
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::product::BLOCK_TERMS;
    use super::{StripProduct, Strips, multiply, multiply_beside};

    const SHAPES: [(usize, usize); 8] =
        [(1, 1), (7, 16), (768, 40), (512, 64), (513, 65), (1100, 130), (33, 700), (2048, 256)];

    fn random(rows: usize, columns: usize) -> Tensor {
        Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// As the invariant says it.
    fn by_definition(x: &[f32], weight: &[f32], (terms, columns): (usize, usize)) -> Vec<f32> {
        let mut y = Vec::new();
        for row in x.chunks_exact(terms) {
            for column in 0..columns {
                let blocks = (0..terms).step_by(BLOCK_TERMS).map(|start| {
                    let block = start..terms.min(start + BLOCK_TERMS);
                    block.fold(0.0_f32, |sum, term| row[term].mul_add(weight[term * columns + column], sum))
                });
                y.push(blocks.reduce(|sum, block| sum + block).unwrap());
            }
        }
        y
    }

    #[test]
    fn results_are_the_sums_that_the_invariant_says() {
        for (terms, columns) in SHAPES {
            let weight = random(terms, columns);
            let by_rows = Strips::new(&weight).unwrap();
            let by_columns = Strips::new(&weight.t().unwrap().contiguous().unwrap().t().unwrap()).unwrap();
            for rows in [1, 2, 3, 5, 8, 31, 32, 33, 70] {
                let x = values(&random(rows, terms));
                let expected = by_definition(&x, &values(&weight), (terms, columns));
                for strips in [&by_rows, &by_columns] {
                    assert!(multiply(&x, &[strips])[0] == expected, "{terms}x{columns}, {rows} rows");
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn narrower_vectors_give_the_same_bits() {
        let Some(narrow) = pulp::x86::V3::try_new() else { return };
        for (terms, columns) in SHAPES {
            let strips = Strips::new(&random(terms, columns)).unwrap();
            for rows in [1, 2, 7] {
                let x = values(&random(rows, terms));
                let mut y = vec![0.0; rows * columns];
                let own = strips.strips(0..columns);
                let all = StripProduct { x: &x, terms, strips: &own, width: columns, y: &mut y };
                pulp::Simd::vectorize(narrow, all);
                assert!(y == multiply(&x, &[&strips])[0], "{terms}x{columns}, {rows} rows");
            }
        }
    }

    #[test]
    fn several_weights_at_once_are_each_one_alone() {
        let weights = [700, 16, 130].map(|columns| Strips::new(&random(600, columns)).unwrap());
        let borrowed: Vec<&Strips> = weights.iter().collect();
        for rows in [1, 8, 40] {
            let x = values(&random(rows, 600));
            let alone: Vec<Vec<f32>> = borrowed.iter().map(|one| multiply(&x, &[one]).remove(0)).collect();
            assert!(multiply(&x, &borrowed) == alone, "{rows} rows");
            assert!(multiply_beside(&x, &borrowed) == alone, "{rows} rows, side by side");
        }
    }

    #[test]
    fn a_weight_comes_out_as_it_went_in() {
        for (terms, columns) in SHAPES {
            let weight = random(terms, columns);
            let strips = Strips::new(&weight).unwrap();
            assert_eq!(values(&strips.dense().unwrap()), values(&weight), "{terms}x{columns}");
        }
    }
}
