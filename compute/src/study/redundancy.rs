//! Two who teach the same in their own words: what each rule pays them beside what one alone would get.
//!
//! Invariant: a pair's credits are counted over the questions on its topics only, and alone means that the other one's records
//! are left out of every run.

use super::StudyError;
use super::attributor::{Case, Scores};
use super::bootstrap::{Figure, figure};
use super::clustered::{Clustered, Ruled};
use super::economy::{Economy, prior};
use super::laboratory::{Laboratory, OnTraining};
use super::matrix::Matrix;
use super::table::CLUSTERS;
use crate::attribute::Rule;
use crate::attribute::clusters::without;
use crate::statistics::{mean, pearson};

/// The gradient scores that divide clusters and stand in for what random subsets don't say.
const PRIOR: &str = "GradDot";

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
    /// Correlation of all contributors' credits, summed over the questions, with those of a run with another seed.
    pub seeds: Option<f64>,
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
}

/// How well those who teach the same are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The part of the pairs found that teach the same; none found are no wrong ones.
    pub precision: f64,
    /// The part of those who teach the same that is found.
    pub recall: f64,
}

/// What every rule pays those who teach the same, on the run of `seed`, and how well they are found. On the `unseen` one the rules
/// that only leave contributors out are applied again.
///
/// # Errors
/// When nobody was dealt the same topics, or a training fails.
pub fn redundancy(
    laboratory: &Laboratory,
    seed: u64,
    unseen: Option<u64>,
    on_training: OnTraining<'_>,
) -> Result<(Vec<Redundancy>, Found), StudyError> {
    let dealt = laboratory.dealt();
    if dealt.twins.is_empty() {
        return Err(StudyError::Plan("nobody teaches the same: deal twins".into()));
    }
    let pairs = pairs(laboratory, seed, on_training)?;
    let case = Case::prepare(laboratory, seed, on_training)?;
    let (found, known) = (case.clusters()?, dealt.twins.iter().map(|twins| twins.to_vec()).collect::<Vec<_>>());
    let mut ruled = left_out(&case, &found, on_training)?;
    let again = match unseen {
        Some(seed) => left_out(&Case::prepare(laboratory, seed, on_training)?, &found, on_training)?,
        None => Vec::new(),
    };
    let own = Clustered::new(&case, &found, on_training);
    let all = Rule { exact: dealt.contributors, bent: false };
    ruled.extend([
        Clustered::new(&case, &known, on_training).shapley("known clusters, Shapley inside")?,
        own.rows("clusters left out, Shapley's rows", all)?,
        own.rows("clusters left out, Shapley's rows, linear", Rule::LINEAR)?,
        own.parted_rows(CLUSTERS, Rule::of(dealt.contributors))?,
    ]);
    let (trainings, prior) = (own.trainings(), prior(&case, PRIOR)?);
    let part = trainings as f64 / dealt.contributors.max(1) as f64;
    for economy in [Economy::Halves(part), Economy::Quarters(part), Economy::Plain(part)] {
        let scores = economy.scores(laboratory, seed, &prior, on_training)?;
        let scores = scores.contributors.ok_or_else(|| StudyError::Plan("no contributor is scored".into()))?;
        ruled.push(Ruled { rule: economy.name(), trainings, scores });
    }
    let judge = |(at, ruled): (usize, &Ruled)| {
        let credits: Vec<_> = dealt.twins.iter().map(|twins| of_pair(laboratory, *twins, &ruled.scores)).collect();
        let seeds = again.get(at).and_then(|again| pearson(&totals(laboratory, ruled), &totals(laboratory, again)));
        Redundancy { seeds, ..judged(ruled.rule, ruled.trainings, &pairs, &credits) }
    };
    Ok((ruled.iter().enumerate().map(judge).collect(), Found::of(&found, &known)))
}

/// Each contributor left out, and clusters of them, divided in either way.
fn left_out(case: &Case<'_>, found: &[Vec<u32>], on_training: OnTraining<'_>) -> Result<Vec<Ruled>, StudyError> {
    let own = Clustered::new(case, found, on_training);
    let divided = own.gradient("clusters left out, gradient inside", &prior(case, PRIOR)?)?;
    Ok(vec![own.alone()?, own.shapley("clusters left out, Shapley inside")?, divided])
}

/// Each contributor's credits over all questions that are paid for.
fn totals(laboratory: &Laboratory, ruled: &Ruled) -> Vec<f64> {
    let paid = laboratory.dealt().queries.len();
    ruled.scores.iter().map(|row| row[..paid].iter().map(|credit| f64::from(*credit)).sum()).collect()
}

/// Scores where those who are found to teach the same are left out together too, and how many trainings they take.
///
/// # Errors
/// When a training fails.
pub fn clusters_left_out(case: &Case<'_>, on_training: OnTraining<'_>) -> Result<(usize, Scores), StudyError> {
    let found = case.clusters()?;
    let rule = Rule::of(case.laboratory.dealt().contributors);
    let Ruled { trainings, scores, .. } = Clustered::new(case, &found, on_training).parted_rows(CLUSTERS, rule)?;
    Ok((trainings, Scores::of_contributors(scores)))
}

impl Found {
    /// Of the pairs in clusters, and of those that there are.
    fn of(found: &[Vec<u32>], known: &[Vec<u32>]) -> Self {
        let together =
            |pair: &[u32; 2], all: &[Vec<u32>]| all.iter().any(|own| pair.iter().all(|who| own.contains(who)));
        let pairs = |clusters: &[Vec<u32>]| -> Vec<[u32; 2]> {
            let of = |own: &Vec<u32>| {
                let pairs = own.iter().flat_map(|a| own.iter().map(move |b| [*a, *b]));
                pairs.filter(|[a, b]| a < b).collect::<Vec<_>>()
            };
            clusters.iter().flat_map(of).collect()
        };
        let part = |of: &[Vec<u32>], among: &[Vec<u32>]| {
            let hits = pairs(of).iter().map(|pair| f64::from(u8::from(together(pair, among)))).collect::<Vec<_>>();
            mean(&hits).unwrap_or(1.0)
        };
        Self { precision: part(found, known), recall: part(known, found) }
    }
}

/// What twins lose together and alone.
fn pairs(laboratory: &Laboratory, seed: u64, on_training: OnTraining<'_>) -> Result<Vec<Pair>, StudyError> {
    let mut pairs = Vec::new();
    for twins in &laboratory.dealt().twins {
        let places = places(laboratory, *twins);
        let sets = without(twins);
        let trainings: Vec<_> = sets.iter().map(|set| laboratory.without(seed, set)).collect();
        let runs = laboratory.train(&trainings, on_training)?;
        let of = |at: usize| -> Vec<f64> { places.iter().map(|place| f64::from(runs[at].losses[*place])).collect() };
        pairs.push(Pair { losses: [of(0), of(1), of(2), of(3)] });
    }
    Ok(pairs)
}

/// The scores of two contributors for the questions on their topics.
fn of_pair(laboratory: &Laboratory, twins: [u32; 2], scores: &Matrix) -> Vec<[f64; 2]> {
    let of = |place: usize| twins.map(|who| f64::from(scores.row(who as usize)[place]));
    places(laboratory, twins).into_iter().map(of).collect()
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
    Redundancy { rule, trainings, joint, imbalance, seeds: None }
}

#[cfg(test)]
mod tests {
    use super::{Found, Pair, judged};

    #[test]
    fn two_who_know_the_same_share_what_one_would_get() {
        // Without either nothing changes, without both the loss rises by 2.
        let pair = || Pair { losses: [vec![1.0], vec![1.0], vec![1.0], vec![3.0]] };
        assert!((pair().alone(0) - 2.0).abs() < 1e-12);
        let plain = judged("", 2, &[pair()], &[vec![[0.0, 0.0]]]);
        assert!(plain.joint.unwrap().value.abs() < 1e-12 && plain.imbalance.is_none());
        let split = judged("", 3, &[pair()], &[vec![[0.75, 1.25]]]);
        assert!((split.joint.unwrap().value - 1.0).abs() < 1e-12);
        assert!((split.imbalance.unwrap() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn pairs_are_counted_in_clusters() {
        let found = Found::of(&[vec![0, 1], vec![2, 3, 4]], &[vec![0, 1], vec![2, 3], vec![6, 7]]);
        assert!((found.precision - 0.5).abs() < 1e-12 && (found.recall - 2.0 / 3.0).abs() < 1e-12, "{found:?}");
        assert_eq!(Found::of(&[], &[vec![0, 1]]), Found { precision: 1.0, recall: 0.0 });
    }
}
