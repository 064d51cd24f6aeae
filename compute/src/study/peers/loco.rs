//! Ours: the LOCO-delta index as it is released, with and without forward passes for the largest contributors.
//!
//! Invariant: the scores are the product's own credits, from the index that would be committed.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::attribute::{Credit, Index, credits, linear_credits};
use crate::loss::Target;
use crate::ops::narrow;
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::{Matrix, StudyError};

/// Credits of the index.
pub(in crate::study) struct LocoDelta {
    /// Whether the longest deltas are scored by a forward pass, as in the product.
    pub(in crate::study) exact: bool,
}

impl Attributor for LocoDelta {
    fn name(&self) -> &'static str {
        if self.exact { "LOCO-delta, exact k=8" } else { "LOCO-delta, linear" }
    }

    fn trainings(&self, contributors: usize) -> usize {
        contributors
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let index = Index::build(&case.deployed, &case.leave_out)?;
        let laboratory = case.laboratory;
        let rule = if self.exact { credits } else { linear_credits };
        let of = |query: &Target| -> Result<Vec<Credit>, StudyError> {
            let start = query.scored.first().map_or(0, |scored| scored.start);
            let (prompt, output) = query.tokens.split_at(start);
            Ok(rule(&laboratory.base, &case.deployed, &index, prompt, output)?)
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
