//! What single records did for an answer.
//!
//! Invariant: what is said follows from the request and the adapter that was handed over alone.

use tributary_compute::attribute::{Estimator, Learned};
use tributary_compute::loss::Target;

use super::super::context::JobContext;
use super::super::{Done, InfluenceAsk, Reply};
use super::training::learned_from;
use super::{adapter_on, handed, learned_tokens, text};

/// What the largest score becomes.
const LARGEST: f64 = 1e9;

pub(super) fn influence(context: &JobContext, ask: &InfluenceAsk) -> Result<Done, String> {
    let base = context.shelf.base(ask.base)?;
    let adapter = adapter_on(&base, ask.base, &handed(context, ask.adapter)?)?;
    let answer = Target::new(&ask.prompt, &ask.output);
    if answer.predicted() == 0 {
        return Err("an answer without tokens owes nothing to any record".into());
    }
    let records = learned_from(&base, &ask.records, learned_tokens(&base));
    let learned = Learned { records, ..Learned::default() };
    let is_stopped = || {
        context.reply(Reply::Working { job: context.job });
        context.is_stopped()
    };
    let estimator = Estimator::new(&base, &adapter, &learned, &is_stopped).map_err(text)?;
    let scores = estimator.by_record(std::slice::from_ref(&answer)).map_err(text)?;
    let of = |answers: Vec<f64>| answers.into_iter().next().unwrap_or_default();
    Ok(Done::Influenced(whole(
        learned.records.iter().map(|(place, _)| *place).zip(scores.into_iter().map(of)).collect(),
    )))
}

/// Scores as parts of the largest: only their ratios mean something.
fn whole(scores: Vec<(u32, f64)>) -> Vec<(u32, i64)> {
    let largest = scores.iter().map(|(_, score)| score.abs()).fold(0.0, f64::max);
    if largest <= 0.0 || !largest.is_finite() {
        return Vec::new();
    }
    #[expect(clippy::cast_possible_truncation, reason = "no more than a billion")]
    let part = |score: f64| (score / largest * LARGEST).round() as i64;
    scores.into_iter().map(|(place, score)| (place, part(score))).collect()
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn scores_keep_their_ratios_and_what_is_no_number_says_nothing() {
        assert_eq!(whole(vec![(3, -2.0), (5, 1.0)]), [(3, -1_000_000_000), (5, 500_000_000)]);
        assert!(whole(vec![(0, 0.0)]).is_empty() && whole(vec![(0, 1.0), (1, f64::INFINITY)]).is_empty());
        assert!(whole(Vec::new()).is_empty());
    }
}
