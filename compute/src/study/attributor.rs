//! What all methods of attribution have in common: a score for each contributor and question.
//!
//! Invariant: a score predicts by how much the answer's loss rises when the contributor is left out, in a unit of the method's
//! own, the same for all contributors; more is more credit.

use std::sync::OnceLock;

use super::gradients::gradients;
use super::journal::Outcome;
use super::laboratory::{Laboratory, OnTraining};
use super::matrix::Matrix;
use super::{StudyError, peers};
use crate::attribute::clusters::{ALIKE, Likeness, directions};
use crate::lora::Adapter;
use crate::loss::Target;
use crate::train::Snapshot;

/// Checkpoints of methods that follow the training.
pub const CHECKPOINTS: u32 = 6;

/// Scores of one method.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// (contributors, questions).
    pub contributors: Option<Matrix>,
    /// (records, questions), of methods that score records.
    pub records: Option<Matrix>,
    /// How much each record looks wrong, of methods that have an own rule for it; else a record looks as wrong as its
    /// summed score is low.
    pub suspicion: Option<Vec<f64>>,
}

impl Scores {
    /// Of a method that scores contributors only.
    #[must_use]
    pub const fn of_contributors(contributors: Matrix) -> Self {
        Self { contributors: Some(contributors), records: None, suspicion: None }
    }

    /// Of a method that says which records look wrong, and nothing of answers.
    #[must_use]
    pub const fn of_suspicion(suspicion: Vec<f64>) -> Self {
        Self { contributors: None, records: None, suspicion: Some(suspicion) }
    }

    /// Of a method that scores records: a contributor's is the sum of his.
    #[must_use]
    pub fn of_records(records: Matrix, case: &Case<'_>) -> Self {
        let dealt = case.laboratory.dealt();
        let mut contributors = Matrix::zeros(dealt.contributors, records.columns());
        for (example, row) in dealt.examples.iter().zip(records.iter()) {
            let sums = contributors.row_mut(example.contributor as usize);
            sums.iter_mut().zip(row).for_each(|(sum, score)| *sum += score);
        }
        Self { contributors: Some(contributors), records: Some(records), suspicion: None }
    }
}

/// A way to say who taught an answer.
pub trait Attributor: Sync {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// Trainings that it needs beside the deployed one.
    fn trainings(&self, contributors: usize) -> usize {
        let _ = contributors;
        0
    }

    /// Scores of all contributors for all questions.
    ///
    /// # Errors
    /// When the model can't run them.
    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError>;
}

/// Every method, simple rules first and ours last.
#[must_use]
pub fn all() -> Vec<Box<dyn Attributor>> {
    vec![
        Box::new(peers::EqualSplit),
        Box::new(peers::RecordCount),
        Box::new(peers::TrainingLoss),
        Box::new(peers::Triage),
        Box::new(peers::TfIdf),
        Box::new(peers::Bm25),
        Box::new(peers::RepSim),
        Box::new(peers::GradDot),
        Box::new(peers::GradCos),
        Box::new(peers::TracInCp),
        Box::new(peers::Less),
        Box::new(peers::DataInf),
        Box::new(peers::EkFac),
        Box::new(peers::ByRecord),
        Box::new(peers::PartlyTrained(peers::Part::Quarter)),
        Box::new(peers::PartlyTrained(peers::Part::Half)),
        Box::new(peers::LocoDelta::Linear),
        Box::new(peers::LocoDelta::Exact),
        Box::new(peers::LocoDelta::Bent),
    ]
}

/// One deployed run, and what methods may see of it.
pub struct Case<'a> {
    pub(super) laboratory: &'a Laboratory,
    pub(super) deployed: Adapter,
    pub(super) seed: u64,
    /// Of the run with everybody; the last is the run's end.
    snapshots: OnceLock<Vec<Snapshot>>,
    /// One for each contributor, in order.
    pub(super) leave_out: Vec<(u32, Adapter)>,
    pub(super) records: Vec<Target>,
    record_gradients: OnceLock<Matrix>,
    query_gradients: OnceLock<Matrix>,
}

impl<'a> Case<'a> {
    /// The run of `seed`: trains it, and once without each contributor, unless the journal has them.
    ///
    /// # Errors
    /// When a training fails.
    pub fn prepare(laboratory: &'a Laboratory, seed: u64, on_training: OnTraining<'_>) -> Result<Self, StudyError> {
        let contributors = u32::try_from(laboratory.dealt().contributors).unwrap_or(u32::MAX);
        let mut trainings = vec![laboratory.without(seed, &[])];
        trainings.extend((0..contributors).map(|contributor| laboratory.without(seed, &[contributor])));
        let outcomes = laboratory.train(&trainings, on_training)?;
        let adapter = |outcome: &Outcome| laboratory.adapter(outcome);
        let mut adapters = outcomes.iter().map(adapter).collect::<Result<Vec<_>, _>>()?.into_iter();
        let deployed = adapters.next().ok_or_else(|| StudyError::Plan("no run".into()))?;
        Ok(Self {
            laboratory,
            deployed,
            seed,
            snapshots: OnceLock::new(),
            leave_out: (0..contributors).zip(adapters).collect(),
            records: laboratory.record_targets()?,
            record_gradients: OnceLock::new(),
            query_gradients: OnceLock::new(),
        })
    }

    /// Points of the run with everybody, the last at its end.
    pub(super) fn snapshots(&self) -> Result<&[Snapshot], StudyError> {
        if let Some(found) = self.snapshots.get() {
            return Ok(found);
        }
        let found = self.laboratory.snapshots(self.seed, CHECKPOINTS)?;
        Ok(self.snapshots.get_or_init(|| found))
    }

    /// Gradients of each record's summed loss at the deployed adapter.
    pub(super) fn record_gradients(&self) -> Result<&Matrix, StudyError> {
        self.once(&self.record_gradients, &self.records)
    }

    /// Gradients of each answer's mean loss at the deployed adapter.
    pub(super) fn query_gradients(&self) -> Result<&Matrix, StudyError> {
        self.once(&self.query_gradients, &self.laboratory.queries)
    }

    /// Who teaches the same, by what a builder has when it releases: the records and the deployed adapter.
    ///
    /// # Errors
    /// When the model can't run the records.
    pub fn clusters(&self) -> Result<Vec<Vec<u32>>, StudyError> {
        Ok(self.likeness()?.clusters(ALIKE))
    }

    /// How alike what contributors teach is.
    ///
    /// # Errors
    /// When the model can't run the records.
    pub fn likeness(&self) -> Result<Likeness, StudyError> {
        let owners = self.laboratory.dealt().examples.iter().map(|example| example.contributor);
        let records: Vec<(u32, Target)> = owners.zip(self.records.iter().cloned()).collect();
        Ok(Likeness::of(&directions(&self.laboratory.base, &self.deployed, &records, || false)?))
    }

    /// What methods share is computed again when it is asked for again, so that each one's time is its own.
    pub fn forget(&mut self) {
        (self.record_gradients, self.query_gradients) = (OnceLock::new(), OnceLock::new());
        self.snapshots = OnceLock::new();
    }

    fn once<'b>(&self, cell: &'b OnceLock<Matrix>, targets: &[Target]) -> Result<&'b Matrix, StudyError> {
        if let Some(found) = cell.get() {
            return Ok(found);
        }
        let found = gradients(&self.laboratory.base, &self.deployed, targets)?;
        Ok(cell.get_or_init(|| found))
    }
}
