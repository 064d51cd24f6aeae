//! Rules that ask little: an equal split, by record count, similarity of hidden states, and the loss in training.
//!
//! Invariant: those of contributors alone give every question the same scores.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::linear::Hook;
use crate::loss::Target;
use crate::model::{Mode, Packed};
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::laboratory::losses;
use crate::study::{Matrix, StudyError};

/// Everybody the same.
pub(in crate::study) struct EqualSplit;

impl Attributor for EqualSplit {
    fn name(&self) -> &'static str {
        "equal split"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let contributors = case.laboratory.dealt().contributors;
        let all = Matrix::zeros(contributors, case.laboratory.queries.len());
        Ok(Scores::of_contributors(all.map_rows(|row| row.fill(1.0))))
    }
}

/// Who brings more gets more.
pub(in crate::study) struct RecordCount;

impl Attributor for RecordCount {
    fn name(&self) -> &'static str {
        "record count"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let each = Matrix::zeros(case.records.len(), case.laboratory.queries.len()).map_rows(|row| row.fill(1.0));
        Ok(Scores { records: None, ..Scores::of_records(each, case) })
    }
}

/// What the model did not learn looks wrong: the mean of a record's losses along the training.
pub(in crate::study) struct TrainingLoss;

impl Attributor for TrainingLoss {
    fn name(&self) -> &'static str {
        "training loss"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let mut sums = vec![0.0; case.records.len()];
        for snapshot in case.snapshots()? {
            let losses = losses(&case.laboratory.base, &snapshot.adapter, &case.records)?;
            sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += f64::from(loss));
        }
        Ok(Scores { contributors: None, records: None, suspicion: Some(sums) })
    }
}

/// Cosine of the mean final hidden states (RepSim).
pub(in crate::study) struct RepSim;

impl Attributor for RepSim {
    fn name(&self) -> &'static str {
        "RepSim"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let state = |target: &Target| -> Result<Vec<f32>, StudyError> {
            let batch = Packed::new(&[&target.tokens])?;
            let hook = Hook::One(&case.deployed, None);
            let hidden = case.laboratory.base.model().hidden(Mode::Infer, &batch, hook)?;
            Ok(hidden.mean(0)?.to_vec1()?)
        };
        let states = |targets: &[Target]| -> Result<Matrix, StudyError> {
            Ok(Matrix::from_rows(targets.par_iter().map(state).collect::<Result<_, _>>()?)?.normalised())
        };
        let scores = states(&case.records)?.times_transposed(&states(&case.laboratory.queries)?)?;
        Ok(Scores::of_records(scores, case))
    }
}
