//! Rules that ask little: an equal split, by record count, similarity of hidden states, and what the training made of records.
//!
//! Invariant: those of contributors alone give every question the same scores.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::linear::Hook;
use crate::lora::Adapter;
use crate::loss::{Target, mean_losses};
use crate::model::{Mode, Packed};
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::{Matrix, StudyError};
use crate::triage::{MAX_POINTS, doubts, mean_loss, measure, points};

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
        let model = case.laboratory.base.model();
        let mut curves = vec![Vec::new(); case.records.len()];
        for snapshot in case.snapshots()? {
            let losses = mean_losses(model, &snapshot.adapter, &case.records)?;
            curves.iter_mut().zip(losses).for_each(|(curve, loss)| curve.push(loss));
        }
        Ok(Scores::of_suspicion(curves.iter().map(|curve| mean_loss(curve)).collect()))
    }
}

/// What reviewers are shown: the product's own triage, of the deployed adapter and points of its training.
pub(in crate::study) struct Triage;

impl Attributor for Triage {
    fn name(&self) -> &'static str {
        "triage"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let base = &case.laboratory.base;
        let between: Vec<Adapter> =
            case.snapshots()?.iter().take(MAX_POINTS).map(|snapshot| snapshot.adapter.clone()).collect();
        let curves = measure(base, &points(base, &between, &case.deployed)?, &case.records, &|| true)?;
        let mut suspicion = vec![0.0; curves.len()];
        for doubt in doubts(&curves) {
            suspicion[doubt.place] = doubt.score;
        }
        Ok(Scores::of_suspicion(suspicion))
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
