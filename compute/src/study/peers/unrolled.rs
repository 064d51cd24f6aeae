//! The exact tier of records: the deployed run unrolled for a few audited answers.
//!
//! Invariant: no training is bought, and no truth is seen; one pass backwards through the run is paid for each answer.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::ops::narrow;
use crate::study::attributor::{Case, Scores};
use crate::study::gradients::gradients;
use crate::study::{Matrix, StudyError};

/// Scores of the first `answers` questions: by how much each one's loss rises without each record, to first order in its weight.
///
/// # Errors
/// When the model can't run.
pub fn unrolled(case: &Case<'_>, answers: usize) -> Result<Scores, StudyError> {
    let laboratory = case.laboratory;
    let trail = laboratory.trainer(case.seed)?.unroll()?;
    let queries = laboratory.queries.get(..answers).unwrap_or(&laboratory.queries);
    let gradients = gradients(&laboratory.base, trail.kept(), queries)?;
    let rows: Vec<&[f32]> = gradients.iter().collect();
    let of = |gradient: &&[f32]| Ok(trail.influence(gradient)?.into_iter().map(|rise| -rise).collect());
    let columns: Vec<Vec<f64>> = rows.par_iter().map(of).collect::<Result<_, StudyError>>()?;
    let mut scores = Matrix::zeros(case.records.len(), columns.len());
    for (column, rises) in columns.iter().enumerate() {
        for (record, rise) in rises.iter().enumerate() {
            scores.row_mut(record)[column] = narrow(*rise);
        }
    }
    Ok(Scores::of_records(scores, case))
}
