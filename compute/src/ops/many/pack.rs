//! How the sides of a product lie in memory, and the order in which its kernel reads them.
//!
//! Invariant: packing copies numbers and fills up with zeros; it computes nothing.

use std::ops::Range;

/// Terms that are turned around at a time: one cache line of each row. The width of a strip.
pub(super) const LINE: usize = 16;

/// One side of a product: some rows of numbers, the terms of each of which are multiplied with those of the other side.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Side<'a> {
    values: &'a [f32],
    pub(super) rows: usize,
    pub(super) terms: usize,
    lies: Lies,
}

#[derive(Debug, Clone, Copy)]
enum Lies {
    /// Sixteen terms of a row stand together: so far from row to row, and to the next sixteen.
    Along { row: usize, line: usize },
    /// The rows stand side by side: so far from term to term.
    Across { term: usize },
}

impl<'a> Side<'a> {
    /// The rows of a matrix.
    pub(in super::super) fn rows(values: &'a [f32], terms: usize) -> Self {
        Self::part(values, terms, 0..terms)
    }

    /// Some terms of the rows of a matrix.
    pub(in super::super) fn part(values: &'a [f32], stride: usize, terms: Range<usize>) -> Self {
        let rows = values.len() / stride.max(1);
        let lies = Lies::Along { row: stride, line: LINE };
        Self { values: values.get(terms.start..).unwrap_or_default(), rows, terms: terms.len(), lies }
    }

    /// The columns of a matrix with so many of them.
    pub(in super::super) fn columns(values: &'a [f32], columns: usize) -> Self {
        let terms = values.len() / columns.max(1);
        Self { values, rows: columns, terms, lies: Lies::Across { term: columns } }
    }

    /// The rows, `terms` numbers each, of a matrix that lies in strips of sixteen columns.
    pub(in super::super) fn of_strips(values: &'a [f32], rows: usize, terms: usize) -> Self {
        Self { values, rows, terms, lies: Lies::Along { row: LINE, line: rows * LINE } }
    }
}

/// Some rows side by side, term by term: `WIDTH` numbers for each term, of which those without a row are zero. `terms`
/// begin at a whole line.
#[inline(always)]
pub(super) fn pack<const WIDTH: usize>(
    side: Side<'_>,
    rows: Range<usize>,
    terms: Range<usize>,
    into: &mut [[f32; WIDTH]],
) {
    let own = rows.len().min(WIDTH);
    if own < WIDTH {
        into.fill([0.0; WIDTH]);
    }
    match side.lies {
        Lies::Across { term: stride } => {
            for (into, term) in into.iter_mut().zip(terms) {
                let from = &side.values[term * stride + rows.start..];
                match from.first_chunk::<WIDTH>().filter(|_| own == WIDTH) {
                    Some(from) => *into = *from,
                    None => into[..own].copy_from_slice(&from[..own]),
                }
            }
        }
        Lies::Along { row: stride, line } => {
            for (into, start) in into.chunks_mut(LINE).zip(terms.step_by(LINE)) {
                let from = &side.values[start / LINE * line + rows.start * stride..];
                match into.first_chunk_mut().filter(|_| own == WIDTH) {
                    Some(into) => turn_line(from, stride, into),
                    None => turn(from, stride, own, into),
                }
            }
        }
    }
}

/// A line of each of `WIDTH` rows that begin every `stride` values.
#[inline(always)]
fn turn_line<const WIDTH: usize>(from: &[f32], stride: usize, into: &mut [[f32; WIDTH]; LINE]) {
    for at in 0..WIDTH {
        for (into, value) in into.iter_mut().zip(&from[at * stride..][..LINE]) {
            into[at] = *value;
        }
    }
}

/// The same of fewer rows, or less than a line.
fn turn<const WIDTH: usize>(from: &[f32], stride: usize, rows: usize, into: &mut [[f32; WIDTH]]) {
    for at in 0..rows {
        for (into, value) in into.iter_mut().zip(&from[at * stride..]) {
            into[at] = *value;
        }
    }
}
