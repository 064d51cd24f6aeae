//! Products of many rows with what is not stored for multiplying: the gradients of training.
//!
//! Invariant: each result is the sum, in order, of blocks of [`BLOCK_TERMS`] terms, each a chain of fused multiply-adds
//! over its terms in order: bits depend on neither the rows beside it nor the number of threads nor the processor's caches.
//!
//! Both sides are packed tile by tile (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008),
//! so that it doesn't matter how they lie; only a part of the weight is ever there twice.

mod pack;
mod tile;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::aligned::Aligned;
use super::product::BLOCK_TERMS;
pub(super) use pack::Side;
use tile::{Columns, Lanes, Strip};

/// Vectors side by side in a tile; with eight rows their sums leave eight of 32 registers for what is multiplied.
const VECTORS: usize = 3;
/// Rows of a tile where there are 32 registers of sixteen numbers, and elsewhere.
const WIDE_ROWS: usize = 8;
const NARROW_ROWS: usize = 4;
/// Rows that a core takes at a time at most: with a block's terms they fit a second-level cache.
const MOST_ROWS: usize = 128;
/// Columns that are packed at a time at most: 3 MB.
const MOST_COLUMNS: usize = 1536;

/// into += scale · a · bᵀ for `into` (rows of a, rows of b), of sides with as many terms.
pub(super) fn add_product(into: &mut [f32], a: Side<'_>, b: Side<'_>, scale: f32) {
    if into.is_empty() {
        return;
    }
    let width = VECTORS * pulp::Arch::new().dispatch(Lanes);
    let rows = a.rows.div_ceil(rayon::current_num_threads()).next_multiple_of(WIDE_ROWS).min(MOST_ROWS);
    let mut packed = Aligned::default();
    for start in (0..a.terms).step_by(BLOCK_TERMS) {
        let terms = start..a.terms.min(start + BLOCK_TERMS);
        for first in (0..b.rows).step_by(MOST_COLUMNS) {
            let columns = first..b.rows.min(first + MOST_COLUMNS);
            let packed = packed.take(columns.len().div_ceil(width) * width * terms.len());
            packed.par_chunks_mut(width * terms.len()).enumerate().for_each(|(at, panel)| {
                let from = columns.start + at * width;
                let (columns, terms) = (from..columns.end.min(from + width), terms.clone());
                pulp::Arch::new().dispatch(Columns { b, columns, terms, panel });
            });
            into.par_chunks_mut(rows * b.rows).enumerate().for_each(|(at, into)| {
                let rows = at * rows..a.rows.min((at + 1) * rows);
                let (columns, terms) = (columns.clone(), terms.clone());
                pulp::Arch::new().dispatch(Strip { a, rows, terms, packed, columns, stride: b.rows, into, scale });
            });
        }
    }
}

/// scale · a · bᵀ, (rows of a, rows of b).
pub(super) fn product_of(a: Side<'_>, b: Side<'_>, scale: f32) -> Vec<f32> {
    let mut product = vec![0.0; a.rows * b.rows];
    add_product(&mut product, a, b, scale);
    product
}

/// The transpose of (rows, columns).
pub(super) fn turned(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    let mut turned = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
        for (into, value) in turned.chunks_exact_mut(rows).zip(values) {
            into[row] = *value;
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::product::BLOCK_TERMS;
    use super::super::strips::Strips;
    use super::{Side, add_product, product_of, turned};

    fn random(rows: usize, columns: usize) -> Vec<f32> {
        let random = Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap();
        random.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// As the invariant says it, for rows of both sides.
    fn by_definition(a: &[f32], b: &[f32], terms: usize) -> Vec<f32> {
        let one = |a: &[f32], b: &[f32]| {
            let blocks = a.chunks(BLOCK_TERMS).zip(b.chunks(BLOCK_TERMS));
            blocks.fold(0.0_f32, |sum, (a, b)| sum + a.iter().zip(b).fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum)))
        };
        a.chunks_exact(terms).flat_map(|a| b.chunks_exact(terms).map(move |b| one(a, b))).collect()
    }

    #[test]
    fn results_are_the_sums_that_the_invariant_says() {
        for (rows, terms, columns) in [(1, 1, 1), (9, 40, 7), (33, 513, 50), (130, 700, 100), (7, 1100, 1700)] {
            let (a, b) = (random(rows, terms), random(columns, terms));
            let (a_turned, b_turned) = (turned(&a, terms), turned(&b, terms));
            let expected = by_definition(&a, &b, terms);
            for a in [Side::rows(&a, terms), Side::columns(&a_turned, rows)] {
                for b in [Side::rows(&b, terms), Side::columns(&b_turned, columns)] {
                    assert!(product_of(a, b, 1.0) == expected, "{rows}x{terms}x{columns}");
                }
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_company() {
        let (terms, columns) = (600, 70);
        let (a, b) = (random(90, terms), random(columns, terms));
        let whole = product_of(Side::rows(&a, terms), Side::rows(&b, terms), 0.5);
        for rows in [1, 3, 8, 31, 64] {
            let part = product_of(Side::rows(&a[..rows * terms], terms), Side::rows(&b, terms), 0.5);
            assert!(part == whole[..rows * columns], "{rows} rows");
        }
    }

    #[test]
    fn strips_and_parts_of_rows_are_sides_too() {
        for (terms, columns) in [(40, 33), (16, 700)] {
            let weight = Tensor::randn(0f32, 1.0, (terms, columns), &Device::Cpu).unwrap();
            let strips = Strips::new(&weight).unwrap();
            let dense: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
            let gradient = random(20, columns);
            let expected = product_of(Side::rows(&gradient, columns), Side::rows(&dense, columns), 1.0);
            assert!(product_of(Side::rows(&gradient, columns), strips.side(), 1.0) == expected, "{terms}x{columns}");
        }
        // Blocks of terms one after the other are the whole.
        let (terms, first) = (3 * BLOCK_TERMS + 9, 2 * BLOCK_TERMS);
        let (a, b) = (random(5, terms), random(6, terms));
        let mut sum = vec![0.0; 5 * 6];
        for part in [0..first, first..terms] {
            add_product(&mut sum, Side::part(&a, terms, part.clone()), Side::part(&b, terms, part), 1.0);
        }
        assert!(sum == product_of(Side::rows(&a, terms), Side::rows(&b, terms), 1.0));
    }
}
