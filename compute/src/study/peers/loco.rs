//! Ours: the LOCO-delta index as it is released, with and without forward passes for the largest contributors.
//!
//! Invariant: the scores are the product's own credits, from the index that would be committed.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::attribute::{Credit, EXACT_CONTRIBUTORS, Index, Rule, credits_by};
use crate::loss::Target;
use crate::ops::narrow;
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::{Matrix, StudyError};

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
        let index = Index::build(&case.deployed, &case.leave_out)?;
        let laboratory = case.laboratory;
        let of = |query: &Target| -> Result<Vec<Credit>, StudyError> {
            let start = query.scored.first().map_or(0, |scored| scored.start);
            let (prompt, output) = query.tokens.split_at(start);
            Ok(credits_by(self.rule(), &laboratory.base, &case.deployed, &index, (prompt, output))?)
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
}
