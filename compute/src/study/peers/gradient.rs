//! Products of gradients: at the deployed adapter, and along the training.
//!
//! Invariant: a record's gradient is of its summed token loss, as it stands in the trainer's objective, unless only
//! directions are compared.

use crate::ops::narrow;
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::gradients::gradients;
use crate::study::matrix::squared;
use crate::study::{Matrix, StudyError};
use crate::train::Snapshot;

/// g_record · g_answer at the deployed adapter.
pub(in crate::study) struct GradDot;

impl Attributor for GradDot {
    fn name(&self) -> &'static str {
        "GradDot"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let records = summed(case, case.record_gradients()?.clone());
        let scores = records.times_transposed(case.query_gradients()?)?;
        let suspicion = Some(records.iter().map(squared).collect());
        Ok(Scores { suspicion, ..Scores::of_records(scores, case) })
    }
}

/// The same of directions only.
pub(in crate::study) struct GradCos;

impl Attributor for GradCos {
    fn name(&self) -> &'static str {
        "GradCos"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let records = case.record_gradients()?.clone().normalised();
        let scores = records.times_transposed(&case.query_gradients()?.clone().normalised())?;
        Ok(Scores::of_records(scores, case))
    }
}

/// The products at checkpoints, weighted by the learning rate (Pruthi et al., arXiv 2002.08484).
pub(in crate::study) struct TracInCp;

impl Attributor for TracInCp {
    fn name(&self) -> &'static str {
        "TracInCP, 6 checkpoints"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        along(case, |_, records, queries| summed(case, records).times_transposed(&queries))
    }
}

/// Cosine of the answer's gradient and the record's Adam step, at checkpoints (LESS, Xia et al., arXiv 2402.04333), without
/// its random projection.
pub(in crate::study) struct Less;

/// As in the trainer's optimiser.
const KEEP: [f32; 2] = [0.9, 0.99];
const EPSILON: f32 = 1e-8;

impl Attributor for Less {
    fn name(&self) -> &'static str {
        "LESS-like, 6 checkpoints"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        along(case, |snapshot, records, queries| {
            let records = records.map_rows(|row| step(row, snapshot)).normalised();
            records.times_transposed(&queries.normalised())
        })
    }
}

/// What Adam would add for a gradient.
fn step(row: &mut [f32], snapshot: &Snapshot) {
    let moments = snapshot.first.iter().zip(&snapshot.second);
    for (value, (first, second)) in row.iter_mut().zip(moments) {
        let first = KEEP[0] * first + (1.0 - KEEP[0]) * *value;
        let second = KEEP[1] * second + (1.0 - KEEP[1]) * *value * *value;
        *value = first / (second.sqrt() + EPSILON);
    }
}

/// Sum over checkpoints of what `at` says there, times the learning rate.
fn along(
    case: &Case<'_>,
    at: impl Fn(&Snapshot, Matrix, Matrix) -> Result<Matrix, StudyError>,
) -> Result<Scores, StudyError> {
    let mut sum = Matrix::zeros(case.records.len(), case.laboratory.queries.len());
    for snapshot in case.snapshots()? {
        let of = |targets| gradients(&case.laboratory.base, &snapshot.adapter, targets);
        let found = at(snapshot, of(&case.records)?, of(&case.laboratory.queries)?)?;
        sum.add(&found, narrow(snapshot.lr))?;
    }
    Ok(Scores::of_records(sum, case))
}

/// Gradients of summed token losses, given those of means.
pub(super) fn summed(case: &Case<'_>, mut means: Matrix) -> Matrix {
    for (at, target) in case.records.iter().enumerate() {
        let tokens = narrow(target.predicted() as f64);
        means.row_mut(at).iter_mut().for_each(|value| *value *= tokens);
    }
    means
}
