//! Two who teach the same in their own words: what each rule pays them beside what one alone would get.
//!
//! Invariant: a pair's credits are counted over the questions on its topics only, and alone means that the other one's records
//! are left out of every run.

use super::StudyError;
use super::bootstrap::{Figure, figure};
use super::laboratory::{Laboratory, OnTraining, Training};
use super::matrix::Matrix;
use crate::statistics::mean;

/// What a rule pays pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Redundancy {
    /// The rule.
    pub rule: &'static str,
    /// Trainings beside the deployed one, for all contributors.
    pub trainings: usize,
    /// Both credits together, as a part of what one alone would get.
    pub joint: Option<Figure>,
    /// How far the two are from half each, as a part of half; the mean over pairs that get anything.
    pub imbalance: Option<f64>,
}

/// Losses of the questions on one pair's topics: with both, without the first, the second, both.
struct Pair {
    losses: [Vec<f64>; 4],
}

impl Pair {
    /// What one alone is worth for a question: the mean of the two.
    fn alone(&self, query: usize) -> f64 {
        let [_, first, second, both] = &self.losses;
        both[query] - f64::midpoint(first[query], second[query])
    }

    fn leave_one_out(&self, query: usize) -> [f64; 2] {
        let [with, first, second, _] = &self.losses;
        [first[query] - with[query], second[query] - with[query]]
    }

    /// The pair is left out whole, and its value is split by Shapley's rule, which for two is Banzhaf's too.
    fn shapley(&self, query: usize) -> [f64; 2] {
        let [with, first, second, both] = self.losses.each_ref().map(|losses| losses[query]);
        [f64::midpoint(first - with, both - second), f64::midpoint(second - with, both - first)]
    }
}

/// The rules that need pairs to be left out, on the run of `seed`.
///
/// # Errors
/// When nobody was dealt the same topics, or a training fails.
pub fn redundancy(
    laboratory: &Laboratory,
    seed: u64,
    on_training: OnTraining<'_>,
) -> Result<Vec<Redundancy>, StudyError> {
    let dealt = laboratory.dealt();
    if dealt.twins.is_empty() {
        return Err(StudyError::Plan("nobody teaches the same: deal twins".into()));
    }
    let sets = dealt.twins.iter().flat_map(|[a, b]| [vec![*a], vec![*b], vec![*a, *b]]);
    let trainings: Vec<Training> =
        std::iter::once(Vec::new()).chain(sets).map(|set| laboratory.without(seed, &set)).collect();
    let outcomes = laboratory.train(&trainings, on_training)?;
    let (full, runs) = outcomes.split_first().ok_or_else(|| StudyError::Plan("no run".into()))?;
    let mut pairs = Vec::new();
    for (twins, runs) in dealt.twins.iter().zip(runs.as_chunks::<3>().0) {
        let places = places(laboratory, *twins);
        let of = |losses: &[f32]| places.iter().map(|place| f64::from(losses[*place])).collect();
        pairs.push(Pair { losses: [of(&full.losses), of(&runs[0].losses), of(&runs[1].losses), of(&runs[2].losses)] });
    }
    let credits = |rule: fn(&Pair, usize) -> [f64; 2]| -> Vec<Vec<[f64; 2]>> {
        pairs.iter().map(|pair| (0..pair.losses[0].len()).map(|query| rule(pair, query)).collect()).collect()
    };
    let many = dealt.contributors;
    Ok(vec![
        judged("leave one out", many, &pairs, &credits(Pair::leave_one_out)),
        judged("clusters left out, Shapley inside", many + pairs.len(), &pairs, &credits(Pair::shapley)),
    ])
}

/// Any other rule's scores of all contributors for all questions.
///
/// # Errors
/// As [`redundancy`].
pub fn redundancy_of(
    laboratory: &Laboratory,
    seed: u64,
    (rule, trainings, scores): (&'static str, usize, &Matrix),
) -> Result<Redundancy, StudyError> {
    let dealt = laboratory.dealt();
    let (mut pairs, mut credits) = (Vec::new(), Vec::new());
    for twins in &dealt.twins {
        let places = places(laboratory, *twins);
        let sets = [vec![], vec![twins[0]], vec![twins[1]], twins.to_vec()];
        let runs = laboratory.train(&sets.map(|set| laboratory.without(seed, &set)), &|_, _| {})?;
        let of = |at: usize| -> Vec<f64> { places.iter().map(|place| f64::from(runs[at].losses[*place])).collect() };
        pairs.push(Pair { losses: [of(0), of(1), of(2), of(3)] });
        let of = |place: &usize| twins.map(|who| f64::from(scores.row(who as usize)[*place]));
        credits.push(places.iter().map(of).collect());
    }
    Ok(judged(rule, trainings, &pairs, &credits))
}

/// The questions on the topics of two contributors.
fn places(laboratory: &Laboratory, twins: [u32; 2]) -> Vec<usize> {
    let dealt = laboratory.dealt();
    let own: Vec<u32> = dealt
        .examples
        .iter()
        .zip(&dealt.topics)
        .filter(|(example, _)| twins.contains(&example.contributor))
        .filter_map(|(_, topic)| *topic)
        .collect();
    let is_own = |place: &usize| dealt.queries[*place].topic.is_some_and(|topic| own.contains(&topic));
    (0..dealt.queries.len()).filter(is_own).collect()
}

fn judged(rule: &'static str, trainings: usize, pairs: &[Pair], credits: &[Vec<[f64; 2]>]) -> Redundancy {
    let flat: Vec<(f64, f64)> = pairs
        .iter()
        .zip(credits)
        .flat_map(|(pair, credits)| {
            credits.iter().enumerate().map(|(query, [first, second])| (first + second, pair.alone(query)))
        })
        .collect();
    let joint = figure(1, [flat.len(), 0], |places, _| {
        let sum = |of: fn(&(f64, f64)) -> f64| places.iter().map(|place| of(&flat[*place])).sum::<f64>();
        let alone = sum(|both| both.1);
        (alone > 0.0).then(|| sum(|both| both.0) / alone)
    });
    let off = |credits: &Vec<[f64; 2]>| {
        let [first, second] = [0, 1].map(|at| credits.iter().map(|both| both[at]).sum::<f64>());
        let joint = first + second;
        (joint > 0.0).then(|| (first - second).abs() / joint)
    };
    let imbalance = mean(&credits.iter().filter_map(off).collect::<Vec<_>>());
    Redundancy { rule, trainings, joint, imbalance }
}

#[cfg(test)]
mod tests {
    use super::{Pair, judged};

    #[test]
    fn two_who_know_the_same_share_what_one_would_get() {
        // Without either nothing changes, without both the loss rises by 2.
        let pair = Pair { losses: [vec![1.0], vec![1.0], vec![1.0], vec![3.0]] };
        let plain = judged("", 2, &[pair], &[vec![[0.0, 0.0]]]);
        assert!(plain.joint.unwrap().value.abs() < 1e-12 && plain.imbalance.is_none());
        let pair = Pair { losses: [vec![1.0], vec![1.0], vec![1.0], vec![3.0]] };
        assert_eq!((pair.alone(0), pair.leave_one_out(0), pair.shapley(0)), (2.0, [0.0, 0.0], [1.0, 1.0]));
        // The second knows more: without him the loss rises by 0.5.
        let pair = Pair { losses: [vec![1.0], vec![1.0], vec![1.5], vec![3.0]] };
        assert_eq!((pair.alone(0), pair.shapley(0)), (1.75, [0.75, 1.25]));
        let split = judged("", 3, &[pair], &[vec![[0.75, 1.25]]]);
        assert!((split.joint.unwrap().value - 2.0 / 1.75).abs() < 1e-12);
        assert!((split.imbalance.unwrap() - 0.25).abs() < 1e-12);
    }
}
