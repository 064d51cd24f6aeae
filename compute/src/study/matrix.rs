//! Rows of numbers: scores, gradients, truths.
//!
//! Invariant: `values` holds `rows` times `columns` numbers, row after row.

use candle_core::{Device, Tensor};
use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSliceMut;

use super::StudyError;
use crate::ops::narrow;

/// A dense matrix of f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// All zero.
    #[must_use]
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: vec![0.0; rows * columns] }
    }

    /// The matrix of these rows; all must be as long as the first.
    ///
    /// # Errors
    /// When one is not.
    pub fn from_rows(rows: Vec<Vec<f32>>) -> Result<Self, StudyError> {
        let (count, columns) = (rows.len(), rows.first().map_or(0, Vec::len));
        if rows.iter().any(|row| row.len() != columns) {
            return Err(StudyError::Shape(format!("rows are not all of {columns} numbers")));
        }
        Ok(Self { rows: count, columns, values: rows.into_iter().flatten().collect() })
    }

    /// How many rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// A row.
    #[must_use]
    pub fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.columns..(at + 1) * self.columns]
    }

    /// A row to change.
    pub fn row_mut(&mut self, at: usize) -> &mut [f32] {
        &mut self.values[at * self.columns..(at + 1) * self.columns]
    }

    /// A column in double precision.
    #[must_use]
    pub fn column(&self, at: usize) -> Vec<f64> {
        (0..self.rows).map(|row| f64::from(self.row(row)[at])).collect()
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        (0..self.rows).map(|row| self.row(row))
    }

    /// The rows from `from` on.
    #[must_use]
    pub fn rows_from(&self, from: usize) -> Self {
        let values = self.values[from * self.columns..].to_vec();
        Self { rows: self.rows - from, columns: self.columns, values }
    }

    /// The columns `from..to` of every row.
    #[must_use]
    pub fn slice(&self, from: usize, to: usize) -> Self {
        let values = self.iter().flat_map(|row| row[from..to].iter().copied()).collect();
        Self { rows: self.rows, columns: to - from, values }
    }

    /// self · otherᵀ.
    ///
    /// # Errors
    /// When rows differ in length.
    pub fn times_transposed(&self, other: &Self) -> Result<Self, StudyError> {
        if self.columns != other.columns {
            return Err(StudyError::Shape(format!("{} columns against {}", self.columns, other.columns)));
        }
        let of = |matrix: &Self| Tensor::from_slice(&matrix.values, (matrix.rows, matrix.columns), &Device::Cpu);
        let product = of(self)?.matmul(&of(other)?.t()?)?;
        Ok(Self { rows: self.rows, columns: other.rows, values: product.flatten_all()?.to_vec1()? })
    }

    /// Adds `factor` times another of the same shape.
    ///
    /// # Errors
    /// When shapes differ.
    pub fn add(&mut self, other: &Self, factor: f32) -> Result<(), StudyError> {
        if (self.rows, self.columns) != (other.rows, other.columns) {
            return Err(StudyError::Shape("sum of different shapes".into()));
        }
        self.values.iter_mut().zip(&other.values).for_each(|(sum, value)| *sum += factor * value);
        Ok(())
    }

    /// Rows with `change` applied to each.
    #[must_use]
    pub fn map_rows(mut self, change: impl Fn(&mut [f32]) + Sync + Send) -> Self {
        self.values.par_chunks_mut(self.columns.max(1)).for_each(change);
        self
    }

    /// Each row divided by its length; zeros stay.
    #[must_use]
    pub fn normalised(self) -> Self {
        self.map_rows(|row| {
            let length = squared(row).sqrt();
            if length > 0.0 {
                row.iter_mut().for_each(|value| *value = narrow(f64::from(*value) / length));
            }
        })
    }
}

/// The squared length.
pub(super) fn squared(row: &[f32]) -> f64 {
    row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum()
}

/// Sweeps of [`eigenvectors`]: it converges quadratically, and this is far more than it takes.
const SWEEPS: usize = 30;
/// Cosine of two rows below which they count as orthogonal.
const ORTHOGONAL: f32 = 1e-5;

/// Orthonormal eigenvectors, as rows, of a symmetric matrix without negative eigenvalues (one-sided Jacobi, Hestenes
/// 1958): its rows are rotated in pairs until they are orthogonal, and then each is an eigenvector times its eigenvalue.
/// Eigenvectors of eigenvalue 0 are rows of zeros.
#[must_use]
pub fn eigenvectors(symmetric: Matrix) -> Matrix {
    let mut rows: Vec<Vec<f32>> = symmetric.iter().map(<[f32]>::to_vec).collect();
    let largest = rows.iter().map(|row| squared(row)).fold(0.0, f64::max);
    // Below this a row is rounding.
    let nothing = largest * 1e-14;
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for first in 0..rows.len() {
            let (head, tail) = rows.split_at_mut(first + 1);
            for other in tail {
                rotated |= rotate(&mut head[first], other, nothing);
            }
        }
        if !rotated {
            break;
        }
    }
    for row in &mut rows {
        if squared(row) <= nothing {
            row.fill(0.0);
        }
    }
    let columns = symmetric.columns;
    Matrix { rows: rows.len(), columns, values: rows.into_iter().flatten().collect() }.normalised()
}

/// Makes two rows orthogonal; whether they were not.
fn rotate(a: &mut [f32], b: &mut [f32], nothing: f64) -> bool {
    let (mut alpha, mut beta, mut gamma) = ([0.0_f32; 8], [0.0_f32; 8], [0.0_f32; 8]);
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (lane, (a, b)) in a.iter().zip(b).enumerate() {
            alpha[lane] += a * a;
            beta[lane] += b * b;
            gamma[lane] += a * b;
        }
    }
    let [alpha, beta, gamma] = [alpha, beta, gamma].map(|lanes| lanes.iter().sum::<f32>());
    let small = f64::from(alpha.min(beta)) <= nothing;
    if small || gamma.abs() <= ORTHOGONAL * (alpha * beta).sqrt() {
        return false;
    }
    let zeta = (beta - alpha) / (2.0 * gamma);
    let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
    let sine = cosine * tangent;
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
    true
}

/// Solves (symmetric positive definite) · x = right by Cholesky's factors, in double precision. `None` when a pivot is not
/// positive.
#[must_use]
pub fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let size = right.len();
    for column in 0..size {
        let above: f64 = matrix[column][..column].iter().map(|value| value * value).sum();
        let pivot = matrix[column][column] - above;
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        let pivot = pivot.sqrt();
        matrix[column][column] = pivot;
        let (done, rest) = matrix.split_at_mut(column + 1);
        for row in rest {
            let over: f64 = row[..column].iter().zip(&done[column][..column]).map(|(a, b)| a * b).sum();
            row[column] = (row[column] - over) / pivot;
        }
    }
    for at in 0..size {
        let over: f64 = matrix[at][..at].iter().zip(&right[..at]).map(|(a, b)| a * b).sum();
        right[at] = (right[at] - over) / matrix[at][at];
    }
    for at in (0..size).rev() {
        let over: f64 = (at + 1..size).map(|below| matrix[below][at] * right[below]).sum();
        right[at] = (right[at] - over) / matrix[at][at];
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::{Matrix, eigenvectors, solve, squared};

    #[test]
    fn eigenvectors_diagonalise() {
        // 5 5ᵀ + ... : a Gram matrix of five rows in seven dimensions, so two eigenvalues are 0.
        let of = |row: usize, at: usize| (((row * 31 + at * 17) % 13) as f32 - 6.0) / 3.0;
        let rows = (0..7).map(|at| (0..5).map(|row| of(row, at)).collect()).collect();
        let factor = Matrix::from_rows(rows).unwrap();
        let gram = factor.times_transposed(&factor).unwrap();
        let vectors = eigenvectors(gram.clone());
        let rotated = vectors.times_transposed(&gram).unwrap().times_transposed(&vectors).unwrap();
        let trace: f32 = (0..7).map(|at| gram.row(at)[at]).sum();
        for (at, row) in rotated.iter().enumerate() {
            for (other, value) in row.iter().enumerate() {
                assert!(at == other || value.abs() < 1e-3 * trace, "{at} {other} {value}");
            }
        }
        let sum: f32 = (0..7).map(|at| rotated.row(at)[at]).sum();
        assert!((sum - trace).abs() < 1e-3 * trace, "{sum} {trace}");
        assert_eq!(vectors.iter().filter(|row| squared(row) == 0.0).count(), 2);
    }

    #[test]
    fn cholesky_solves_what_it_can() {
        let found = solve(vec![vec![4.0, 2.0], vec![2.0, 3.0]], vec![10.0, 9.0]).unwrap();
        assert!((found[0] - 1.5).abs() < 1e-12 && (found[1] - 2.0).abs() < 1e-12, "{found:?}");
        assert_eq!(solve(vec![vec![1.0, 2.0], vec![2.0, 1.0]], vec![1.0, 1.0]), None);
    }

    #[test]
    fn products_and_shapes() {
        let a = Matrix::from_rows(vec![vec![1.0, 2.0], vec![3.0, 4.0]]).unwrap();
        let b = Matrix::from_rows(vec![vec![0.0, 1.0]]).unwrap();
        assert_eq!(a.times_transposed(&b).unwrap().column(0), [2.0, 4.0]);
        assert!(a.times_transposed(&a.slice(0, 1)).is_err());
        assert!(Matrix::from_rows(vec![vec![1.0], vec![]]).is_err());
    }
}
