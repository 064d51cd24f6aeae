//! Fewer trainings: what leave-one-out credits cost less, and what they lose.
//!
//! Invariant: a method's trainings are drawn from its own seed, are never those that a truth of subsets is made of, and are
//! counted in whole runs, a run that shares steps by the part that it trains.

use super::attributor::{Case, Scores, all};
use super::laboratory::{Laboratory, OnTraining, Training};
use super::matrix::{Matrix, solve};
use super::truth::drawn;
use super::{Outcome, StudyError};
use crate::ops::narrow;

/// Stream of the subsets that are drawn here; the truth's are below it.
const STREAM: u32 = 100;
/// Ridge penalties that are compared by what they predict of runs left aside.
const PENALTIES: [f64; 6] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// A way to spend less than a training for each contributor. Every score is of forward passes through the adapters that
/// were trained, unless it says gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Economy {
    /// Leave-one-out runs that part from the run with everybody at this part of its steps.
    WarmStart(f64),
    /// Leave-one-out runs for this part of the contributors, those with the most records; the others by gradient scores,
    /// scaled to fit the former.
    Largest(f64),
    /// Contributors in groups, small beside large ones, that are left out together: this part of the contributors is the
    /// number of groups. Split inside by gradient scores.
    Groups(f64),
    /// Random halves, as many as this part of the contributors, and ridge regression towards scaled gradient scores.
    Halves(f64),
    /// The same with random quarters left out.
    Quarters(f64),
    /// Random halves and ridge regression towards nothing.
    Plain(f64),
}

/// The ways that are compared, and the method whose scores stand in for what is not trained.
pub const COMPARED: [(Economy, &str); 14] = [
    (Economy::Largest(0.25), "GradDot"),
    (Economy::Largest(0.5), "GradDot"),
    (Economy::Largest(0.75), "GradDot"),
    (Economy::Largest(0.25), "EK-FAC-like"),
    (Economy::Largest(0.5), "EK-FAC-like"),
    (Economy::Groups(0.25), "EK-FAC-like"),
    (Economy::Groups(0.5), "EK-FAC-like"),
    (Economy::Quarters(0.25), "EK-FAC-like"),
    (Economy::Quarters(0.5), "EK-FAC-like"),
    (Economy::Halves(0.5), "EK-FAC-like"),
    (Economy::Halves(1.0), "EK-FAC-like"),
    (Economy::WarmStart(0.75), "GradDot"),
    (Economy::WarmStart(0.5), "GradDot"),
    (Economy::WarmStart(0.25), "GradDot"),
];

impl Economy {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WarmStart(_) => "warm start",
            Self::Largest(_) => "largest + gradient",
            Self::Groups(_) => "groups split by gradient",
            Self::Halves(_) => "halves + ridge + gradient",
            Self::Quarters(_) => "quarters + ridge + gradient",
            Self::Plain(_) => "halves + ridge",
        }
    }

    /// Whole trainings that it takes, beside the deployed one.
    #[must_use]
    pub fn price(self, contributors: usize) -> f64 {
        match self {
            Self::WarmStart(shared) => contributors as f64 * (1.0 - shared),
            Self::Largest(part)
            | Self::Groups(part)
            | Self::Halves(part)
            | Self::Quarters(part)
            | Self::Plain(part) => runs(part, contributors) as f64,
        }
    }

    /// Scores of all contributors for all questions of the run of `seed`; `prior` are gradient scores of the same.
    ///
    /// # Errors
    /// When a training fails.
    pub fn scores(
        self,
        laboratory: &Laboratory,
        seed: u64,
        prior: &Matrix,
        on_training: OnTraining<'_>,
    ) -> Result<Scores, StudyError> {
        let count = laboratory.dealt().contributors;
        let sets = self.left_out(laboratory, seed);
        let shared = self.shared(laboratory);
        let measured = Measured::train(laboratory, (seed, shared), &sets, prior, on_training)?;
        let scores = match self {
            Self::WarmStart(_) => measured.rises,
            Self::Largest(_) => measured.largest(count)?,
            Self::Groups(_) => measured.groups(count),
            Self::Halves(_) | Self::Quarters(_) => measured.ridge(count, true)?,
            Self::Plain(_) => measured.ridge(count, false)?,
        };
        Ok(Scores::of_contributors(scores))
    }

    fn shared(self, laboratory: &Laboratory) -> u32 {
        let steps = f64::from(laboratory.recipe.steps);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of the steps")]
        match self {
            Self::WarmStart(shared) => (steps * shared) as u32,
            _ => 0,
        }
    }

    /// Who is left out of each training.
    fn left_out(self, laboratory: &Laboratory, seed: u64) -> Vec<Vec<u32>> {
        let count = laboratory.dealt().contributors;
        let everybody = 0..u32::try_from(count).unwrap_or(u32::MAX);
        match self {
            Self::WarmStart(_) => everybody.map(|contributor| vec![contributor]).collect(),
            Self::Largest(part) => {
                let mut order = by_size(laboratory);
                order.truncate(runs(part, count));
                order.into_iter().map(|contributor| vec![contributor]).collect()
            }
            Self::Groups(part) => {
                let mut groups = vec![Vec::new(); runs(part, count)];
                let many = groups.len();
                for (place, contributor) in by_size(laboratory).into_iter().enumerate() {
                    // There and back, so that groups are of about equal size.
                    let turn = place % (2 * many);
                    groups[if turn < many { turn } else { 2 * many - 1 - turn }].push(contributor);
                }
                groups
            }
            Self::Halves(part) | Self::Plain(part) => drawn(seed, STREAM, count, count / 2, runs(part, count)),
            Self::Quarters(part) => drawn(seed, STREAM + 1, count, (count / 4).max(1), runs(part, count)),
        }
    }
}

fn runs(part: f64, contributors: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
    let runs = (part * contributors as f64).round() as usize;
    runs.max(1)
}

/// Contributors by records, most first; of equals the lower number.
pub(super) fn by_size(laboratory: &Laboratory) -> Vec<u32> {
    let dealt = laboratory.dealt();
    let mut sizes = vec![0_u32; dealt.contributors];
    dealt.examples.iter().for_each(|example| sizes[example.contributor as usize] += 1);
    let mut order: Vec<u32> = (0..u32::try_from(sizes.len()).unwrap_or(u32::MAX)).collect();
    order.sort_by_key(|contributor| std::cmp::Reverse(sizes[*contributor as usize]));
    order
}

/// (runs, questions): loss without less loss with.
fn rises(full: &Outcome, runs: &[Outcome]) -> Result<Matrix, StudyError> {
    let rise = |run: &Outcome| run.losses.iter().zip(&full.losses).map(|(without, with)| without - with).collect();
    Matrix::from_rows(runs.iter().map(rise).collect())
}

/// What was trained, and what gradients say.
struct Measured<'a> {
    sets: &'a [Vec<u32>],
    rises: Matrix,
    prior: &'a Matrix,
}

impl<'a> Measured<'a> {
    /// Runs of one seed, each from so many shared steps, without each of the sets.
    fn train(
        laboratory: &Laboratory,
        (seed, shared_steps): (u64, u32),
        sets: &'a [Vec<u32>],
        prior: &'a Matrix,
        on_training: OnTraining<'_>,
    ) -> Result<Self, StudyError> {
        let of = |set: &Vec<u32>| Training { shared_steps, ..laboratory.without(seed, set) };
        let trainings: Vec<Training> =
            std::iter::once(laboratory.without(seed, &[])).chain(sets.iter().map(of)).collect();
        let outcomes = laboratory.train(&trainings, on_training)?;
        let (full, runs) = outcomes.split_first().ok_or_else(|| StudyError::Plan("no run".into()))?;
        Ok(Self { sets, rises: rises(full, runs)?, prior })
    }

    /// What the prior says of a set of contributors for a question.
    fn expected(&self, set: &[u32], query: usize) -> f64 {
        set.iter().map(|contributor| f64::from(self.prior.row(*contributor as usize)[query])).sum()
    }

    /// The factor by which the prior fits the runs best, over all questions.
    fn scale(&self, sets: &[usize]) -> f64 {
        let (mut over, mut under) = (0.0, f64::MIN_POSITIVE);
        for set in sets {
            for (query, rise) in self.rises.row(*set).iter().enumerate() {
                let expected = self.expected(&self.sets[*set], query);
                over += expected * f64::from(*rise);
                under += expected * expected;
            }
        }
        over / under
    }

    fn all(&self) -> Vec<usize> {
        (0..self.sets.len()).collect()
    }

    fn largest(&self, count: usize) -> Result<Matrix, StudyError> {
        let factor = narrow(self.scale(&self.all()));
        let mut scores = Matrix::zeros(count, self.rises.columns());
        scores.add(self.prior, factor)?;
        for (set, rises) in self.sets.iter().zip(self.rises.iter()) {
            set.iter().for_each(|contributor| scores.row_mut(*contributor as usize).copy_from_slice(rises));
        }
        Ok(scores)
    }

    /// The group's rise, divided so that members differ from each other by what the scaled prior says.
    fn groups(&self, count: usize) -> Matrix {
        let factor = self.scale(&self.all());
        let mut scores = Matrix::zeros(count, self.rises.columns());
        for (set, rises) in self.sets.iter().zip(self.rises.iter()) {
            for (query, rise) in rises.iter().enumerate() {
                let missing = (f64::from(*rise) - factor * self.expected(set, query)) / set.len() as f64;
                for contributor in set {
                    let own = factor * f64::from(self.prior.row(*contributor as usize)[query]);
                    scores.row_mut(*contributor as usize)[query] = narrow(own + missing);
                }
            }
        }
        scores
    }

    /// Ridge regression of the rises on who was left out, towards the scaled prior or nothing; the penalty is the one that
    /// predicts runs left aside best.
    fn ridge(&self, count: usize, with_prior: bool) -> Result<Matrix, StudyError> {
        let mut best = (f64::INFINITY, PENALTIES[0]);
        for penalty in PENALTIES {
            let mut error = 0.0;
            for aside in self.all() {
                let others: Vec<usize> = self.all().into_iter().filter(|set| *set != aside).collect();
                let found = self.fit(count, &others, penalty, with_prior)?;
                for (query, rise) in self.rises.row(aside).iter().enumerate() {
                    let said: f64 = self.sets[aside].iter().map(|who| f64::from(found.row(*who as usize)[query])).sum();
                    error += (said - f64::from(*rise)).powi(2);
                }
            }
            if error < best.0 {
                best = (error, penalty);
            }
        }
        self.fit(count, &self.all(), best.1, with_prior)
    }

    fn fit(&self, count: usize, sets: &[usize], penalty: f64, with_prior: bool) -> Result<Matrix, StudyError> {
        let factor = if with_prior { self.scale(sets) } else { 0.0 };
        let mut normal = vec![vec![0.0; count]; count];
        (0..count).for_each(|at| normal[at][at] = penalty);
        for set in sets {
            for a in &self.sets[*set] {
                self.sets[*set].iter().for_each(|b| normal[*a as usize][*b as usize] += 1.0);
            }
        }
        let mut scores = Matrix::zeros(count, self.rises.columns());
        for query in 0..self.rises.columns() {
            let mut right = vec![0.0; count];
            for set in sets {
                let expected = factor * self.expected(&self.sets[*set], query);
                let left = f64::from(self.rises.row(*set)[query]) - expected;
                self.sets[*set].iter().for_each(|who| right[*who as usize] += left);
            }
            let found = solve(normal.clone(), right).ok_or_else(|| StudyError::Shape("a ridge is singular".into()))?;
            for (who, value) in found.into_iter().enumerate() {
                scores.row_mut(who)[query] = narrow(value + factor * f64::from(self.prior.row(who)[query]));
            }
        }
        Ok(scores)
    }
}

/// Sets of contributors left out together, each contributor in one of them; members of one set differ as the scaled prior
/// says.
///
/// # Errors
/// When a training fails.
pub(super) fn divided(
    laboratory: &Laboratory,
    seed: u64,
    sets: &[Vec<u32>],
    prior: &Matrix,
    on_training: OnTraining<'_>,
) -> Result<Matrix, StudyError> {
    let measured = Measured::train(laboratory, (seed, 0), sets, prior, on_training)?;
    Ok(measured.groups(laboratory.dealt().contributors))
}

/// The gradient scores that stand in for what is not trained: those of the method named, of every contributor.
///
/// # Errors
/// When there is no such method, or the model can't run it.
pub fn prior(case: &Case<'_>, name: &str) -> Result<Matrix, StudyError> {
    let method = all().into_iter().find(|method| method.name() == name);
    let scores = method.ok_or_else(|| StudyError::Plan(format!("no method {name:?}")))?.scores(case)?;
    scores.contributors.ok_or_else(|| StudyError::Plan(format!("{name:?} scores no contributor")))
}

#[cfg(test)]
mod tests {
    use super::{Matrix, Measured};

    fn measured<'a>(sets: &'a [Vec<u32>], rises: &[f32], prior: &'a Matrix) -> Measured<'a> {
        Measured { sets, rises: Matrix::from_rows(rises.iter().map(|rise| vec![*rise]).collect()).unwrap(), prior }
    }

    #[test]
    fn groups_keep_their_sum_and_follow_the_prior_inside() {
        let prior = Matrix::from_rows(vec![vec![1.0], vec![3.0], vec![2.0]]).unwrap();
        let sets = [vec![0, 1], vec![2]];
        // The prior says 4 and 2, the runs 2 and 1: its scale is one half.
        let found = measured(&sets, &[2.0, 1.0], &prior).groups(3);
        assert_eq!(found.column(0), [0.5, 1.5, 1.0]);
        let found = measured(&sets, &[4.0, 2.0], &prior).largest(3).unwrap();
        assert!((found.column(0)[2] - 2.0).abs() < 1e-6);
    }

    #[test]
    fn ridge_finds_additive_values() {
        let truth = [0.5_f32, -0.2, 0.0, 1.0];
        let sets: Vec<Vec<u32>> = super::drawn(1, 9, 4, 2, 24);
        let rises: Vec<f32> = sets.iter().map(|set| set.iter().map(|who| truth[*who as usize]).sum()).collect();
        let prior = Matrix::zeros(4, 1);
        let found = measured(&sets, &rises, &prior).ridge(4, false).unwrap();
        for (found, truth) in found.column(0).iter().zip(truth) {
            assert!((found - f64::from(truth)).abs() < 0.02, "{found} {truth}");
        }
        let prior = Matrix::from_rows(truth.iter().map(|value| vec![value * 10.0]).collect()).unwrap();
        let few = measured(&sets[..2], &rises[..2], &prior).ridge(4, true).unwrap();
        for (found, truth) in few.column(0).iter().zip(truth) {
            assert!((found - f64::from(truth)).abs() < 1e-3, "a scaled prior is exact: {found} {truth}");
        }
    }
}
