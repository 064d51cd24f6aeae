//! The exact tier of records: the deployed run unrolled for a few audited answers.
//!
//! Invariant: no training is bought, and no truth is seen; one pass backwards through the run is paid for each answer.

use crate::ops::narrow;
use crate::study::attributor::{Case, Scores};
use crate::study::gradients::gradients;
use crate::study::{Matrix, StudyError};

/// Scores of the first `answers` questions: by how much each one's loss rises without each record, and without all records of
/// each contributor.
///
/// # Errors
/// When the model can't run.
pub fn unrolled(case: &Case<'_>, answers: usize) -> Result<Scores, StudyError> {
    let (laboratory, dealt) = (case.laboratory, case.laboratory.dealt());
    let trail = laboratory.trainer(case.seed)?.unroll(&|| false)?;
    let queries = laboratory.queries.get(..answers).unwrap_or(&laboratory.queries);
    let gradients = gradients(&laboratory.base, trail.kept(), queries)?;
    let mut left_out: Vec<Vec<u32>> = vec![Vec::new(); dealt.contributors];
    for (place, example) in (0..).zip(&dealt.examples) {
        left_out[example.contributor as usize].push(place);
    }
    left_out.extend((0..).zip(&dealt.examples).map(|(place, _)| vec![place]));
    let rises = trail.rises(&gradients.iter().collect::<Vec<_>>(), &left_out, &|| false)?;
    let of = |set: usize| rises.iter().map(|rises| narrow(rises[set])).collect::<Vec<f32>>();
    let contributors = Matrix::from_rows((0..dealt.contributors).map(of).collect())?;
    let records = Matrix::from_rows((dealt.contributors..left_out.len()).map(of).collect())?;
    Ok(Scores { contributors: Some(contributors), records: Some(records), suspicion: None })
}
