//! Ours: the LOCO-delta index as it is released, with and without forward passes for the largest contributors.
//!
//! Invariant: the scores are the product's own credits, from the index that would be committed.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::attribute::{Credit, EXACT_CONTRIBUTORS, Estimator, Index, Learned, Rule, credits_by};
use crate::lora::Adapter;
use crate::loss::Target;
use crate::ops::narrow;
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::economy::by_size;
use crate::study::{Matrix, StudyError};

/// The index of a release that has this part of its leave-out adapters trained, of those with the most records, and the others
/// estimated from gradients.
pub(in crate::study) struct PartlyTrained(pub(in crate::study) Part);

/// A part of the contributors.
#[derive(Clone, Copy)]
pub(in crate::study) enum Part {
    Quarter,
    Half,
}

impl Part {
    fn of(self, contributors: usize) -> usize {
        contributors.div_ceil(match self {
            Self::Quarter => 4,
            Self::Half => 2,
        })
    }
}

impl Attributor for PartlyTrained {
    fn name(&self) -> &'static str {
        match self.0 {
            Part::Quarter => "LOCO-delta, a quarter trained",
            Part::Half => "LOCO-delta, half trained",
        }
    }

    fn trainings(&self, contributors: usize) -> usize {
        self.0.of(contributors)
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let laboratory = case.laboratory;
        let (base, deployed) = (&laboratory.base, &case.deployed);
        let records = laboratory.dealt().examples.iter().zip(&case.records);
        let records = records.map(|(example, record)| (example.contributor, record.clone())).collect();
        let learned = Learned { records, ..Learned::default() };
        let largest = by_size(laboratory);
        let (trained, others) = largest.split_at(self.0.of(largest.len()));
        let mut leave_out: Vec<(u32, Adapter)> =
            case.leave_out.iter().filter(|(contributor, _)| trained.contains(contributor)).cloned().collect();
        let alone: Vec<_> = leave_out.iter().map(|(one, without)| (vec![*one], without.clone())).collect();
        let estimates = Estimator::new(base, deployed, &learned, &|| false)?.fit(&alone)?;
        for contributor in others {
            leave_out.push((*contributor, estimates.without(*contributor)?));
        }
        scored(case, &Index::build(deployed, &leave_out)?, Rule::of(largest.len()))
    }
}

/// What single records did, as `answer explain --records` tells it.
pub(in crate::study) struct ByRecord;

impl Attributor for ByRecord {
    fn name(&self) -> &'static str {
        "K-FAC, as answers are explained"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let laboratory = case.laboratory;
        let records = (0..).zip(case.records.iter().cloned()).collect();
        let learned = Learned { records, ..Learned::default() };
        let estimator = Estimator::new(&laboratory.base, &case.deployed, &learned, &|| false)?;
        let scores = estimator.by_record(&laboratory.queries)?;
        let row = |row: Vec<f64>| row.into_iter().map(narrow).collect();
        Ok(Scores::of_records(Matrix::from_rows(scores.into_iter().map(row).collect())?, case))
    }
}

/// Credits of the index.
pub(in crate::study) enum LocoDelta {
    /// Of first-order estimates alone.
    Linear,
    /// As in the product with many contributors: the longest deltas by forward passes, the others by bare estimates.
    Exact,
    /// The same, and the others' estimates are bent by what those of the former miss.
    Bent,
}

impl LocoDelta {
    const fn rule(&self) -> Rule {
        match self {
            Self::Linear => Rule::LINEAR,
            Self::Exact => Rule { exact: EXACT_CONTRIBUTORS, bent: false },
            Self::Bent => Rule { exact: EXACT_CONTRIBUTORS, bent: true },
        }
    }
}

impl Attributor for LocoDelta {
    fn name(&self) -> &'static str {
        match self {
            Self::Linear => "LOCO-delta, linear",
            Self::Exact => "LOCO-delta, exact k=8",
            Self::Bent => "LOCO-delta, exact k=8, bent",
        }
    }

    fn trainings(&self, contributors: usize) -> usize {
        contributors
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        scored(case, &Index::build(&case.deployed, &case.leave_out)?, self.rule())
    }
}

/// Credits of an index by a rule.
pub(in crate::study) fn scored(case: &Case<'_>, index: &Index, rule: Rule) -> Result<Scores, StudyError> {
    let laboratory = case.laboratory;
    let of = |query: &Target| -> Result<Vec<Credit>, StudyError> {
        let start = query.scored.first().map_or(0, |scored| scored.start);
        let (prompt, output) = query.tokens.split_at(start);
        Ok(credits_by(rule, &laboratory.base, &case.deployed, index, (prompt, output))?)
    };
    let columns = laboratory.queries.par_iter().map(of).collect::<Result<Vec<_>, _>>()?;
    let mut scores = Matrix::zeros(case.leave_out.len(), columns.len());
    for (column, credits) in columns.iter().enumerate() {
        for (row, credit) in credits.iter().enumerate() {
            scores.row_mut(row)[column] = narrow(credit.micro_nats as f64 / 1e6);
        }
    }
    Ok(Scores::of_contributors(scores))
}
