//! What really changes when contributors or records are left out.
//!
//! Invariant: subsets are drawn from the plan's seed before anything is trained; a rise is the loss without less the loss with,
//! in nats a token of the answer, on the run of one seed.

use super::bootstrap::Draws;
use super::laboratory::{Laboratory, OnTraining, Training};
use super::matrix::Matrix;
use super::{Outcome, StudyError};

/// How much truth is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Seed of the deployed run.
    pub seed: u64,
    /// Seeds of runs that no method sees; each costs a training for each contributor and one more.
    pub unseen: Vec<u64>,
    /// Subsets of contributors of each size.
    pub subsets: usize,
    /// Subsets of records of each size.
    pub record_subsets: usize,
    /// Records that are left out alone.
    pub singles: usize,
}

impl Plan {
    /// Wide intervals, and one unseen seed: that which recipes are compared by, so that a whole study trains nothing more for it.
    #[must_use]
    pub fn quick(seed: u64) -> Self {
        Self { seed, unseen: vec![seed + 1], subsets: 16, record_subsets: 12, singles: 24 }
    }

    /// What is published.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        Self { seed, unseen: vec![seed + 1, seed + 2], subsets: 40, record_subsets: 40, singles: 40 }
    }

    /// How many trainings it takes.
    #[must_use]
    pub const fn trainings(&self, contributors: usize) -> usize {
        (1 + contributors) * (1 + self.unseen.len()) + 2 * self.subsets + 2 * self.record_subsets + self.singles
    }
}

/// What was left out, and the losses then.
#[derive(Debug, Clone, PartialEq)]
pub struct Subsets {
    /// Numbers of contributors, or places of records.
    pub left_out: Vec<Vec<u32>>,
    /// (subsets, questions).
    pub losses: Matrix,
}

/// Everything that methods are judged by. Questions behind the trigger are not part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// Rise without each contributor on the deployed run, (contributors, questions).
    pub without: Matrix,
    /// The same on unseen seeds.
    pub unseen: Vec<Matrix>,
    /// A tenth of the contributors left out, but two at least.
    pub tenths: Subsets,
    /// Half of them.
    pub halves: Subsets,
    /// A tenth of the records.
    pub record_tenths: Subsets,
    /// Half of them.
    pub record_halves: Subsets,
    /// One record.
    pub singles: Subsets,
    /// Rise without it, (records left out, questions).
    pub single_rises: Matrix,
    /// Which records have wrong labels.
    pub mislabelled: Vec<bool>,
    /// Which records teach the trigger.
    pub poisoned: Vec<bool>,
    /// How many questions are paid for.
    pub queries: usize,
    /// Mean loss of the deployed run.
    pub loss: f64,
}

impl Truth {
    /// Trains what the journal lacks.
    ///
    /// # Errors
    /// When a training fails.
    pub fn measure(laboratory: &Laboratory, plan: &Plan, on_training: OnTraining<'_>) -> Result<Self, StudyError> {
        let dealt = laboratory.dealt();
        let (contributors, records) = (dealt.contributors, dealt.examples.len());
        let seeds: Vec<u64> = std::iter::once(plan.seed).chain(plan.unseen.iter().copied()).collect();
        let wholes: Vec<Training> = seeds.iter().flat_map(|seed| leave_one_out(laboratory, *seed)).collect();
        let tenth = |count: usize| (count / 10).max(2).min(count.saturating_sub(1));
        let tenths = drawn(plan.seed, 1, contributors, tenth(contributors), plan.subsets);
        let halves = drawn(plan.seed, 2, contributors, contributors / 2, plan.subsets);
        let record_tenths = drawn(plan.seed, 3, records, tenth(records), plan.record_subsets);
        let record_halves = drawn(plan.seed, 4, records, records / 2, plan.record_subsets);
        let mut singles = drawn(plan.seed, 5, records, plan.singles.min(records), 1);
        let singles: Vec<Vec<u32>> = singles.remove(0).into_iter().map(|place| vec![place]).collect();
        let mut wanted = wholes.clone();
        let of_contributors = |left_out: &Vec<u32>| laboratory.without(plan.seed, left_out);
        let of_records =
            |left_out: &Vec<u32>| Training { seed: plan.seed, left_out: left_out.clone(), shared_steps: 0 };
        wanted.extend(tenths.iter().chain(&halves).map(of_contributors));
        wanted.extend(record_tenths.iter().chain(&record_halves).chain(&singles).map(of_records));
        let outcomes = laboratory.train(&wanted, on_training)?;
        let queries = dealt.queries.len();
        let mut taken = Taken { rest: &outcomes, queries };
        let mut rises = Vec::new();
        let mut full = Vec::new();
        for _ in &seeds {
            let losses = taken.losses(1 + contributors)?;
            full.push(losses.row(0).to_vec());
            rises.push(rise(&losses.rows_from(1), losses.row(0)));
        }
        let full = &full[0];
        let mut subsets = |left_out: Vec<Vec<u32>>| -> Result<Subsets, StudyError> {
            let losses = taken.losses(left_out.len())?;
            Ok(Subsets { left_out, losses })
        };
        let (tenths, halves) = (subsets(tenths)?, subsets(halves)?);
        let (record_tenths, record_halves, singles) =
            (subsets(record_tenths)?, subsets(record_halves)?, subsets(singles)?);
        let is = |flaw| dealt.flaws.iter().map(|own| *own == flaw).collect();
        Ok(Self {
            without: rises.remove(0),
            unseen: rises,
            single_rises: rise(&singles.losses, full),
            tenths,
            halves,
            record_tenths,
            record_halves,
            singles,
            mislabelled: is(super::deal::Flaw::Mislabelled),
            poisoned: is(super::deal::Flaw::Poisoned),
            queries,
            loss: full.iter().map(|loss| f64::from(*loss)).sum::<f64>() / queries.max(1) as f64,
        })
    }
}

impl Truth {
    /// The truth of the first questions alone.
    #[must_use]
    pub fn of_first(&self, queries: usize) -> Self {
        let queries = queries.min(self.queries);
        let cut = |matrix: &Matrix| if matrix.rows() == 0 { matrix.clone() } else { matrix.slice(0, queries) };
        let subsets = |subsets: &Subsets| Subsets { left_out: subsets.left_out.clone(), losses: cut(&subsets.losses) };
        Self {
            without: cut(&self.without),
            unseen: self.unseen.iter().map(cut).collect(),
            tenths: subsets(&self.tenths),
            halves: subsets(&self.halves),
            record_tenths: subsets(&self.record_tenths),
            record_halves: subsets(&self.record_halves),
            singles: subsets(&self.singles),
            single_rises: cut(&self.single_rises),
            queries,
            ..self.clone()
        }
    }
}

/// The run with everybody, then one without each contributor.
pub(super) fn leave_one_out(laboratory: &Laboratory, seed: u64) -> Vec<Training> {
    let contributors = u32::try_from(laboratory.dealt().contributors).unwrap_or(u32::MAX);
    let without = (0..contributors).map(|contributor| laboratory.without(seed, &[contributor]));
    std::iter::once(laboratory.without(seed, &[])).chain(without).collect()
}

/// `count` draws of `size` different places out of `all`, each ascending.
pub(super) fn drawn(seed: u64, stream: u32, all: usize, size: usize, count: usize) -> Vec<Vec<u32>> {
    let mut draws = Draws::new(seed, stream);
    let draw = |_| {
        let mut places: Vec<u32> = (0..u32::try_from(all).unwrap_or(u32::MAX)).collect();
        draws.shuffle(&mut places);
        places.truncate(size);
        places.sort_unstable();
        places
    };
    (0..count).map(draw).collect()
}

pub(super) fn rise(losses: &Matrix, full: &[f32]) -> Matrix {
    losses.clone().map_rows(|row| row.iter_mut().zip(full).for_each(|(loss, full)| *loss -= full))
}

/// Outcomes that are taken one after another.
struct Taken<'a> {
    rest: &'a [Outcome],
    queries: usize,
}

impl Taken<'_> {
    /// The next ones' losses of what is paid for.
    fn losses(&mut self, count: usize) -> Result<Matrix, StudyError> {
        let short = || StudyError::Shape("fewer outcomes than trainings".into());
        let (own, rest) = self.rest.split_at_checked(count).ok_or_else(short)?;
        self.rest = rest;
        let losses = own.iter().map(|outcome| outcome.losses.get(..self.queries).map(<[f32]>::to_vec));
        Matrix::from_rows(losses.collect::<Option<_>>().ok_or_else(short)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, drawn};

    #[test]
    fn subsets_are_drawn_without_repeats() {
        let subsets = drawn(3, 1, 20, 5, 50);
        assert_eq!(subsets.len(), 50);
        assert!(subsets.iter().all(|subset| subset.len() == 5 && subset.windows(2).all(|pair| pair[0] < pair[1])));
        assert_ne!(subsets[0], subsets[1]);
        assert_eq!(drawn(3, 1, 20, 5, 50), subsets);
    }

    #[test]
    fn trainings_are_counted() {
        let plan = Plan { seed: 1, unseen: vec![2, 3], subsets: 4, record_subsets: 5, singles: 6 };
        assert_eq!(plan.trainings(10), 33 + 8 + 10 + 6);
    }
}
