//! Credits where contributors who teach the same are left out together too.
//!
//! Invariant: whoever is in no cluster has the plain leave-one-out credit; a cluster's credits follow from trainings without sets of its
//! members, and every training is counted.

use super::attributor::Case;
use super::economy::divided;
use super::laboratory::OnTraining;
use super::matrix::Matrix;
use super::peers::scored;
use super::{Outcome, StudyError};
use crate::attribute::clusters::{shapley, without};
use crate::attribute::{Estimator, Index, Learned, Rule};
use crate::lora::Adapter;
use crate::ops::narrow;

/// Scores of one rule.
pub(super) struct Ruled {
    pub(super) rule: &'static str,
    /// Beside the deployed one.
    pub(super) trainings: usize,
    /// (contributors, questions).
    pub(super) scores: Matrix,
}

/// A run, and contributors who are left out together.
pub(super) struct Clustered<'a> {
    case: &'a Case<'a>,
    clusters: &'a [Vec<u32>],
    on_training: OnTraining<'a>,
}

impl<'a> Clustered<'a> {
    pub(super) const fn new(case: &'a Case<'a>, clusters: &'a [Vec<u32>], on_training: OnTraining<'a>) -> Self {
        Self { case, clusters, on_training }
    }

    /// Each contributor left out alone.
    pub(super) fn alone(&self) -> Result<Ruled, StudyError> {
        let everybody = 0..self.contributors();
        let sets: Vec<Vec<u32>> = std::iter::once(Vec::new()).chain(everybody.map(|one| vec![one])).collect();
        let runs = self.runs(&sets)?;
        let full = &runs[0];
        let rise = |run: &Outcome| run.losses.iter().zip(&full.losses).map(|(out, with)| out - with).collect();
        let scores = Matrix::from_rows(runs[1..].iter().map(rise).collect())?;
        Ok(Ruled { rule: "leave one out", trainings: runs.len() - 1, scores })
    }

    /// Every set of a cluster's members left out, and the whole's credit divided by Shapley's rule.
    pub(super) fn shapley(&self, rule: &'static str) -> Result<Ruled, StudyError> {
        let mut scores = self.alone()?.scores;
        for members in self.clusters {
            let runs = self.runs(&without(members))?;
            for (place, member) in members.iter().enumerate() {
                let row = scores.row_mut(*member as usize);
                row.copy_from_slice(&weighed(&shapley(members.len(), place), &runs, |run| &run.losses));
            }
        }
        Ok(Ruled { rule, trainings: self.trainings(), scores })
    }

    /// Clusters left out whole, and nobody of them alone; members differ as their gradient scores do.
    pub(super) fn gradient(&self, rule: &'static str, prior: &Matrix) -> Result<Ruled, StudyError> {
        let sets = self.wholes();
        let scores = divided(self.case.laboratory, self.case.seed, &sets, prior, self.on_training)?;
        Ok(Ruled { rule, trainings: sets.len(), scores })
    }

    /// One row of the index for each contributor, a member's being Shapley's value of the deltas themselves: the product's
    /// own credits from it.
    pub(super) fn rows(&self, rule: &'static str, credits: Rule) -> Result<Ruled, StudyError> {
        let row = |members: &[u32], place| (without(members), shapley(members.len(), place));
        Ok(Ruled { rule, trainings: self.trainings(), scores: self.credits(credits, row)? })
    }

    /// The same where clusters are only left out whole, and each member's row is its part by gradients, as in the product.
    pub(super) fn parted_rows(&self, rule: &'static str, credits: Rule) -> Result<Ruled, StudyError> {
        let mut leave_out = self.case.leave_out.clone();
        let owners = self.case.laboratory.dealt().examples.iter().map(|example| example.contributor);
        let learned =
            Learned { records: owners.zip(self.case.records.iter().cloned()).collect(), ..Learned::default() };
        for members in self.clusters {
            let run = self.runs(std::slice::from_ref(members))?.remove(0);
            let (base, without) = (&self.case.laboratory.base, self.adapter(&run.values)?);
            let parts = Estimator::new(base, &self.case.deployed, &learned, &|| false)?.divide(members, &without)?;
            members.iter().zip(parts).for_each(|(member, own)| leave_out[*member as usize].1 = own);
        }
        Ok(Ruled { rule, trainings: self.wholes().len(), scores: self.scored(&leave_out, self.clusters, credits)? })
    }

    /// Credits of the index whose rows of members are weighed sums of runs, given the sets that are left out and the weights.
    fn credits(
        &self,
        credits: Rule,
        row: impl Fn(&[u32], usize) -> (Vec<Vec<u32>>, Vec<f64>),
    ) -> Result<Matrix, StudyError> {
        let mut leave_out = self.case.leave_out.clone();
        for members in self.clusters {
            for (place, member) in members.iter().enumerate() {
                let (sets, weights) = row(members, place);
                let runs = self.runs(&sets)?;
                let delta = weighed(&weights, &runs, |run| &run.values);
                let values = runs[0].values.iter().zip(delta).map(|(value, delta)| value + delta).collect::<Vec<_>>();
                leave_out[*member as usize].1 = self.adapter(&values)?;
            }
        }
        self.scored(&leave_out, &[], credits)
    }

    /// The product's own credits by an index of these leave-out adapters.
    fn scored(&self, leave_out: &[(u32, Adapter)], clusters: &[Vec<u32>], credits: Rule) -> Result<Matrix, StudyError> {
        let scored = scored(self.case, &Index::build_with(&self.case.deployed, leave_out, clusters)?, credits)?;
        scored.contributors.ok_or_else(|| StudyError::Plan("no contributor is scored".into()))
    }

    /// Clusters whole, and everybody else alone.
    fn wholes(&self) -> Vec<Vec<u32>> {
        let is_free = |one: &u32| !self.clusters.iter().flatten().any(|member| member == one);
        let free = (0..self.contributors()).filter(is_free).map(|one| vec![one]);
        self.clusters.iter().cloned().chain(free).collect()
    }

    fn adapter(&self, values: &[f32]) -> Result<Adapter, StudyError> {
        let laboratory = self.case.laboratory;
        Ok(Adapter::from_values(laboratory.base.config(), &laboratory.recipe.lora(), values)?)
    }

    /// One for each contributor, and one for each set of two or more of a cluster.
    pub(super) fn trainings(&self) -> usize {
        let more = |members: &Vec<u32>| (1 << members.len()) - 1 - members.len();
        self.contributors() as usize + self.clusters.iter().map(more).sum::<usize>()
    }

    fn contributors(&self) -> u32 {
        u32::try_from(self.case.laboratory.dealt().contributors).unwrap_or(u32::MAX)
    }

    fn runs(&self, sets: &[Vec<u32>]) -> Result<Vec<Outcome>, StudyError> {
        let laboratory = self.case.laboratory;
        let trainings: Vec<_> = sets.iter().map(|set| laboratory.without(self.case.seed, set)).collect();
        laboratory.train(&trainings, self.on_training)
    }
}

/// The weighed sum of some numbers of all runs; the weights' own sum is 0, so it is one of differences.
fn weighed(weights: &[f64], runs: &[Outcome], numbers: impl Fn(&Outcome) -> &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0; runs.first().map_or(0, |run| numbers(run).len())];
    for (weight, run) in weights.iter().zip(runs) {
        sums.iter_mut().zip(numbers(run)).for_each(|(sum, number)| *sum += weight * f64::from(*number));
    }
    sums.into_iter().map(narrow).collect()
}
