//! Whether records that say what others' say are found, where nobody copied and where a newcomer rewords all that two others have.
//!
//! Invariant: two records say the same where topic and completion are the same; the rule that finds them sees neither.

use super::StudyError;
use super::attacks::reworded;
use super::bootstrap::{Figure, figure};
use super::deal::Dealt;
use super::laboratory::{Laboratory, OnTraining};
use crate::attribute::echoes::{Echo, nearest, readings};
use crate::statistics::auc;

/// Contributors whose records are reworded: as many as a copycat has.
const VICTIMS: [u32; 2] = [0, 1];
/// Seed of the intervals' draws.
const SEED: u64 = 3;

/// What is found in one deal.
#[derive(Debug)]
pub struct Echoing {
    /// The deal.
    pub deal: &'static str,
    /// By measure.
    pub figures: Vec<(&'static str, Figure)>,
}

/// What the deployed runs of the deal and of the one with a newcomer find.
///
/// # Errors
/// When a training fails.
pub fn echoing(laboratory: &Laboratory, seed: u64, on_training: OnTraining<'_>) -> Result<[Echoing; 2], StudyError> {
    let copied = laboratory.with(&reworded(laboratory.dealt(), &VICTIMS, seed))?;
    let honest = found(laboratory, seed, on_training)?;
    let copied = found(&copied, seed, on_training)?;
    Ok([Echoing { deal: "nobody copies", figures: honest }, Echoing { deal: "one rewords two", figures: copied }])
}

fn found(
    laboratory: &Laboratory,
    seed: u64,
    on_training: OnTraining<'_>,
) -> Result<Vec<(&'static str, Figure)>, StudyError> {
    let dealt = laboratory.dealt();
    let outcome = laboratory.train(&[laboratory.without(seed, &[])], on_training)?;
    let outcome = outcome.first().ok_or_else(|| StudyError::Plan("no run".into()))?;
    let owners = dealt.examples.iter().map(|example| example.contributor);
    let records: Vec<_> = owners.zip(laboratory.record_targets()?).collect();
    let readings = readings(&laboratory.base, &laboratory.adapter(outcome)?, &records, &|| true)?;
    let nearest: Vec<Echo> = nearest(&readings).into_iter().flatten().collect();
    Ok(measured(dealt, &nearest))
}

fn measured(dealt: &Dealt, nearest: &[Echo]) -> Vec<(&'static str, Figure)> {
    let is_said: Vec<bool> = nearest.iter().map(|echo| is_said_by_others(dealt, echo.place)).collect();
    let of = |chosen: &(dyn Fn(&[usize]) -> Option<f64> + Sync)| {
        figure(SEED, [nearest.len(), 0], |places, _| chosen(places))
    };
    let part = |places: &[usize], all: &(dyn Fn(usize) -> bool + Sync), hits: &(dyn Fn(usize) -> bool + Sync)| {
        let all: Vec<usize> = places.iter().copied().filter(|at| all(*at)).collect();
        (!all.is_empty()).then(|| all.iter().filter(|at| hits(**at)).count() as f64 / all.len() as f64)
    };
    let is_shown = |at: usize| nearest[at].stands_out();
    let is_right = |at: usize| say_the_same(dealt, nearest[at].place, nearest[at].of);
    let by = |places: &[usize], sign: fn(&Echo) -> f64| {
        let scores: Vec<f64> = places.iter().map(|at| sign(&nearest[*at])).collect();
        auc(&scores, &places.iter().map(|at| is_said[*at]).collect::<Vec<_>>())
    };
    let figures = [
        ("echo-shown", of(&|places| part(places, &|_| true, &is_shown))),
        ("echo-precision", of(&|places| part(places, &is_shown, &is_right))),
        ("echo-recall", of(&|places| part(places, &|at| is_said[at], &is_shown))),
        ("echo-taught-auc", of(&|places| by(places, |echo| echo.taught))),
        ("echo-read-auc", of(&|places| by(places, |echo| echo.read))),
    ];
    figures.into_iter().filter_map(|(measure, figure)| Some((measure, figure?))).collect()
}

fn say_the_same(dealt: &Dealt, one: usize, other: usize) -> bool {
    dealt.topics[one] == dealt.topics[other] && dealt.examples[one].completion == dealt.examples[other].completion
}

fn is_said_by_others(dealt: &Dealt, place: usize) -> bool {
    let owner = dealt.examples[place].contributor;
    let others = (0..dealt.examples.len()).filter(|at| dealt.examples[*at].contributor != owner);
    others.into_iter().any(|other| say_the_same(dealt, place, other))
}
