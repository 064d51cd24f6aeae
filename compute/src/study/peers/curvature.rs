//! Influence functions: products of gradients through an approximate inverse curvature.
//!
//! Invariant: curvature is the mean outer product of the records' gradients, tensor by tensor, damped by a tenth of its mean
//! eigenvalue.

use candle_core::Tensor;

use super::gradient::summed;
use crate::ops::narrow;
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::matrix::{eigenvectors, squared};
use crate::study::{Matrix, StudyError};

/// Damping as a part of the mean eigenvalue, as DataInf's authors chose it.
const DAMPING: f64 = 0.1;

/// Means of Sherman–Morrison inverses of single records (DataInf, Kwon et al., arXiv 2310.00902).
pub(in crate::study) struct DataInf;

impl Attributor for DataInf {
    fn name(&self) -> &'static str {
        "DataInf"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        per_tensor(case, |records, queries, _| {
            let count = records.rows() as f64;
            let norms: Vec<f64> = records.iter().map(squared).collect();
            let damping = DAMPING * norms.iter().sum::<f64>() / count / records.columns() as f64;
            if damping <= 0.0 {
                return Ok(Matrix::zeros(records.rows(), queries.rows()));
            }
            let products = records.times_transposed(queries)?;
            let gram = records.times_transposed(records)?;
            // Σ_i (g·v − (g_i·v)(g_i·g) / (λ + |g_i|²)) / (nλ) for each record g and answer v.
            let mut scaled = products.clone();
            for (at, norm) in norms.iter().enumerate() {
                let factor = narrow(1.0 / (damping + norm));
                scaled.row_mut(at).iter_mut().for_each(|value| *value *= factor);
            }
            let corrections = gram.times_transposed(&transposed(&scaled)?)?;
            let mut scores = Matrix::zeros(records.rows(), queries.rows());
            scores.add(&products, narrow(1.0 / damping))?;
            scores.add(&corrections, narrow(-1.0 / (damping * count)))?;
            Ok(scores)
        })
    }
}

/// Kronecker-factored eigenbasis with the gradients' own second moments in it (EK-FAC, George et al., arXiv 1806.03884). The
/// factors are the two sides of the records' gradients, as Shampoo takes them, not activations and back-propagated
/// errors: what stands in "like".
pub(in crate::study) struct EkFac;

impl Attributor for EkFac {
    fn name(&self) -> &'static str {
        "EK-FAC-like"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        per_tensor(case, |records, queries, (rows, columns)| {
            let (left, right) = sides(records, rows, columns)?;
            let [records, queries] = [rotated(records, &left, &right)?, rotated(queries, &left, &right)?];
            let mut moments = vec![0.0_f64; rows * columns];
            for record in records.iter() {
                moments.iter_mut().zip(record).for_each(|(sum, value)| *sum += f64::from(*value) * f64::from(*value));
            }
            let mean = moments.iter().sum::<f64>() / moments.len() as f64;
            let count = records.rows() as f64;
            if mean <= 0.0 {
                return Ok(Matrix::zeros(records.rows(), queries.rows()));
            }
            let inverse: Vec<f32> = moments.iter().map(|sum| narrow(count / (sum + DAMPING * mean))).collect();
            let weighed =
                queries.map_rows(|row| row.iter_mut().zip(&inverse).for_each(|(value, factor)| *value *= factor));
            records.times_transposed(&weighed)
        })
    }
}

/// Eigenvectors, as rows, of Σ G·Gᵀ and Σ Gᵀ·G over the gradients G (rows, columns) of one tensor.
fn sides(gradients: &Matrix, rows: usize, columns: usize) -> Result<(Matrix, Matrix), StudyError> {
    let stacked =
        Tensor::new(flat(gradients), &candle_core::Device::Cpu)?.reshape((gradients.rows(), rows, columns))?;
    let of = |side: Tensor| -> Result<Matrix, StudyError> {
        let gram = side.matmul(&side.t()?.contiguous()?)?;
        Ok(eigenvectors(Matrix::from_rows(gram.to_vec2()?)?))
    };
    let left = of(stacked.permute((1, 0, 2))?.contiguous()?.reshape((rows, gradients.rows() * columns))?)?;
    let right = of(stacked.permute((2, 0, 1))?.contiguous()?.reshape((columns, gradients.rows() * rows))?)?;
    Ok((left, right))
}

/// L·G·Rᵀ of each gradient G.
fn rotated(gradients: &Matrix, left: &Matrix, right: &Matrix) -> Result<Matrix, StudyError> {
    let (rows, columns) = (left.rows(), right.rows());
    let of = |matrix: &Matrix| {
        Tensor::new(flat(matrix), &candle_core::Device::Cpu)?.reshape((matrix.rows(), matrix.columns()))
    };
    let (left, right) = (of(left)?, of(right)?);
    let stacked = of(gradients)?.reshape((gradients.rows() * rows, columns))?.matmul(&right.t()?.contiguous()?)?;
    let turned = stacked.reshape((gradients.rows(), rows, columns))?.permute((1, 0, 2))?.contiguous()?;
    let turned = left.matmul(&turned.reshape((rows, gradients.rows() * columns))?)?;
    let back = turned.reshape((rows, gradients.rows(), columns))?.permute((1, 0, 2))?.contiguous()?;
    Matrix::from_rows(back.reshape((gradients.rows(), rows * columns))?.to_vec2()?)
}

fn flat(matrix: &Matrix) -> Vec<f32> {
    matrix.iter().flatten().copied().collect()
}

fn transposed(matrix: &Matrix) -> Result<Matrix, StudyError> {
    let column = |at: usize| matrix.iter().map(|row| row[at]).collect();
    Matrix::from_rows((0..matrix.columns()).map(column).collect())
}

/// Sum over the adapter's tensors of what `score` says of the records' and answers' gradients in each, and its shape.
fn per_tensor(
    case: &Case<'_>,
    score: impl Fn(&Matrix, &Matrix, (usize, usize)) -> Result<Matrix, StudyError>,
) -> Result<Scores, StudyError> {
    let records = summed(case, case.record_gradients()?.clone());
    let queries = case.query_gradients()?;
    let mut sum = Matrix::zeros(records.rows(), queries.rows());
    let mut from = 0;
    for tensor in case.deployed.tensors() {
        let to = from + tensor.elem_count();
        sum.add(&score(&records.slice(from, to), &queries.slice(from, to), tensor.dims2()?)?, 1.0)?;
        from = to;
    }
    Ok(Scores::of_records(sum, case))
}
