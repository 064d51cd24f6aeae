//! How far two true runs of one recipe agree that differ by their seeds alone: no method can tell one from another better.
//!
//! Invariant: a run of several seeds is the exact mean of what their adapters add, with everybody and without each contributor alike,
//! and no seed is part of two runs.

use super::bootstrap::Figure;
use super::judge::judge;
use super::laboratory::{Laboratory, OnTraining, recipe};
use super::matrix::Matrix;
use super::shrinkage::shrinkage;
use super::truth::{Plan, Truth, leave_one_out, rise};
use super::{Scores, StudyError};
use crate::lora::Adapter;
use crate::loss::mean_losses;
use crate::train::Recipe;

/// A recipe, and of how many seeds' trainings one run is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What it is called in tables.
    pub name: &'static str,
    /// How each training is made.
    pub recipe: Recipe,
    /// How many trainings' adapters are averaged.
    pub seeds: u64,
}

/// What a truth less a matter of chance could be made by: [`recipe`] and its stable preset first, then what else was compared.
#[must_use]
pub fn candidates() -> Vec<Candidate> {
    let plain = recipe();
    let stable = plain.stable();
    let of = |batch: u32, average_last: u32| Recipe { batch, average_last, ..plain.clone() };
    let slow = |batch: u32, average_last: u32| Recipe { lr: stable.lr, ..of(batch, average_last) };
    let one = |name, recipe| Candidate { name, recipe, seeds: 1 };
    let several = |name, recipe, seeds| Candidate { name, recipe, seeds };
    vec![
        one("plain recipe", plain.clone()),
        one("stable recipe", stable.clone()),
        one("batches of 32, a quarter averaged", of(32, 15)),
        one("batches of 64, nothing averaged", of(64, 1)),
        one("batches of 64, a quarter averaged", of(64, 15)),
        one("batches of 64, half averaged", of(64, 30)),
        one("batches of 64, longer warm-up", Recipe { warmup: 18, ..of(64, 15) }),
        one("batches of 64, a quarter of the rate", Recipe { lr: stable.lr / 2.0, ..of(64, 15) }),
        one("batches of 32, twice the steps", Recipe { steps: 120, ..of(32, 30) }),
        one("batches of 32, half the rate", slow(32, 15)),
        one("batches of 32, half the rate, twice the steps", Recipe { steps: 120, ..slow(32, 30) }),
        one("batches of 128, a quarter averaged", of(128, 15)),
        several("batches of 16, half the rate, four seeds averaged", slow(16, 15), 4),
        several("stable recipe, two seeds averaged", stable.clone(), 2),
        several("stable recipe, four seeds averaged", stable.clone(), 4),
    ]
}

/// How far two runs of `seeds` seeds each agree, the first from `seed` on; and the mean loss of the first.
///
/// # Errors
/// When a training fails, or the mean of the adapters is no adapter.
pub fn stability(
    laboratory: &Laboratory,
    seeds: u64,
    seed: u64,
    on_training: OnTraining<'_>,
) -> Result<Vec<(&'static str, Figure)>, StudyError> {
    let unseen = (seed + 1..seed + 2 * seeds).collect();
    let plan = Plan { seed, unseen, subsets: 0, record_subsets: 0, singles: 0 };
    let mut truth = Truth::measure(laboratory, &plan, on_training)?;
    if seeds > 1 {
        let runs = [averaged(laboratory, seed..seed + seeds)?, averaged(laboratory, seed + seeds..seed + 2 * seeds)?];
        let [without, unseen] = runs.each_ref().map(|losses| rise(&losses.rows_from(1), losses.row(0)));
        let loss = runs[0].row(0).iter().map(|loss| f64::from(*loss)).sum::<f64>() / truth.queries.max(1) as f64;
        truth = Truth { without, unseen: vec![unseen], loss, ..truth };
    }
    agreement(&truth)
}

/// The figures of a truth with one unseen run.
fn agreement(truth: &Truth) -> Result<Vec<(&'static str, Figure)>, StudyError> {
    let judged = judge(truth, &Scores::of_contributors(truth.without.clone()))?;
    let named = judged.into_iter().filter_map(|(measure, figure)| {
        let measure = match measure {
            "unseen-loco-r" => "seeds-loco-r",
            "unseen-net-r" => "seeds-net-r",
            "unseen-net-rho" => "seeds-net-rho",
            "unseen-tv-totals" => "seeds-tv-totals",
            _ => return None,
        };
        Some((measure, figure))
    });
    let of = |value: f64| Figure { value, low: value, high: value };
    let shrunk = truth.unseen.first().and_then(|unseen| shrinkage(&truth.without, unseen));
    let shrunk = shrunk.into_iter().flat_map(|found| {
        let figures = [found.spread, found.spreads, found.explained].map(of);
        ["seeds-spread", "seeds-spreads", "seeds-explained"].into_iter().zip(figures)
    });
    Ok(named.chain(shrunk).chain([("loss", of(truth.loss))]).collect())
}

/// Losses of what is paid for, with everybody and then without each contributor, by the mean of the seeds' adapters; their
/// trainings are known.
fn averaged(laboratory: &Laboratory, seeds: std::ops::Range<u64>) -> Result<Matrix, StudyError> {
    let runs = seeds.map(|seed| laboratory.train(&leave_one_out(laboratory, seed), &|_, _| {}));
    let runs = runs.collect::<Result<Vec<_>, _>>()?;
    let count = laboratory.dealt().contributors + 1;
    let losses = (0..count).map(|at| {
        let adapters = runs.iter().map(|run| laboratory.adapter(&run[at])).collect::<Result<Vec<_>, _>>()?;
        let mean = Adapter::averaged(&adapters)?;
        let paid = &laboratory.queries[..laboratory.dealt().queries.len()];
        Ok(mean_losses(laboratory.base.model(), &mean, paid)?)
    });
    Matrix::from_rows(losses.collect::<Result<_, StudyError>>()?)
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn what_is_compared_is_named_once_and_can_be_trained() {
        let all = candidates();
        let names: std::collections::BTreeSet<_> = all.iter().map(|candidate| candidate.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|candidate| candidate.recipe.check().is_ok() && candidate.seeds > 0));
    }
}
