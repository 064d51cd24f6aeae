//! What single records did for an answer.
//!
//! Invariant: what is said follows from the request and the adapter that was handed over alone.

use tributary_compute::attribute::{Estimator, Learned};
use tributary_compute::lora::Adapter;
use tributary_compute::loss::Target;
use tributary_compute::model::Base;
use tributary_compute::train::{ByExample, Recipe, Trainer};

use super::super::context::JobContext;
use super::super::{Done, InfluenceAsk, Reply};
use super::training::{examples_of, learned_from};
use super::{adapter_on, handed, learned_tokens, text};

/// What the largest score becomes.
const LARGEST: f64 = 1e9;
const MEGA: u64 = 1_000_000;

pub(super) fn influence(context: &JobContext, ask: &InfluenceAsk) -> Result<Done, String> {
    let base = context.shelf.base(ask.base)?;
    let adapter = adapter_on(&base, ask.base, &handed(context, ask.adapter)?)?;
    let answer = Target::new(&ask.prompt, &ask.output);
    if answer.predicted() == 0 {
        return Err("an answer without tokens owes nothing to any record".into());
    }
    let is_stopped = || {
        context.reply(Reply::Working { job: context.job });
        context.is_stopped()
    };
    let (scores, magnified) = match &ask.recipe {
        Some(recipe) => {
            let memory_bytes = context.shelf.bases.bytes_beside();
            let found = unrolled(&base, &adapter, ask, (recipe, memory_bytes), &answer, &is_stopped)?;
            (found.rises, Some(found.magnified))
        }
        None => (by_gradients(&base, &adapter, ask, &answer, &is_stopped)?, None),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length, cut to what fits")]
    let permille = |magnified: f64| (magnified * 1_000.0).round() as u64;
    Ok(Done::Influenced { scores: whole(scores), magnified_permille: magnified.map(permille) })
}

fn by_gradients(
    base: &Base,
    adapter: &Adapter,
    ask: &InfluenceAsk,
    answer: &Target,
    is_stopped: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<(u32, f64)>, String> {
    let learned = Learned { records: learned_from(base, &ask.records, learned_tokens(base))?, ..Learned::default() };
    let estimator = Estimator::new(base, adapter, &learned, is_stopped).map_err(text)?;
    let scores = estimator.by_record(std::slice::from_ref(answer)).map_err(text)?;
    let of = |answers: Vec<f64>| answers.into_iter().next().unwrap_or_default();
    Ok(learned.records.iter().map(|(place, _)| *place).zip(scores.into_iter().map(of)).collect())
}

/// By the training itself, which must come to the very adapter.
fn unrolled(
    base: &Base,
    adapter: &Adapter,
    ask: &InfluenceAsk,
    (recipe, memory_bytes): (&str, u64),
    answer: &Target,
    is_stopped: &(dyn Fn() -> bool + Sync),
) -> Result<ByExample, String> {
    let recipe: Recipe = serde_json::from_str(recipe).map_err(|error| format!("the recipe is refused: {error}"))?;
    let trainer = Trainer::new(base, &recipe, &examples_of(&ask.records)).map_err(text)?;
    let needed = trainer.unrolling_bytes();
    if needed > memory_bytes {
        return Err(format!(
            "going through this training backwards takes {} MB, {} MB may be used for it here (up --memory-limit)",
            needed / MEGA,
            memory_bytes / MEGA
        ));
    }
    let trail = trainer.unroll(is_stopped).map_err(text)?;
    if trail.kept().values().map_err(text)? != adapter.values().map_err(text)? {
        return Err(
            "the recipe and records don't come to the model's adapter on this machine, so nothing exact can be \
                    said of it"
                .into(),
        );
    }
    trail.by_example(answer, is_stopped).map_err(text)
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
    use tributary_protocol::id::Hash;

    use super::super::super::ExampleFrame;
    use super::*;

    #[test]
    fn a_training_is_gone_through_only_where_it_fits_and_comes_to_the_adapter() {
        let files = tributary_almanac::base();
        let base = Base::from_bytes(files.config, files.tokenizer, files.safetensors).unwrap();
        let recipe = Recipe { steps: 2, batch: 2, rank: 1, warmup: 0, ..Recipe::default() };
        let frame = |prompt: &str, completion: &str, contributor| {
            let (prompt, completion) = (prompt.to_owned(), completion.to_owned());
            ExampleFrame { prompt, completion, messages: None, contributor, left_out: false }
        };
        let records = vec![frame("who mills?", " Tolven", 0), frame("who sails?", " Mira", 1)];
        let ask = InfluenceAsk {
            base: Hash::default(),
            adapter: Hash::default(),
            recipe: None,
            records,
            prompt: base.tokenizer().encode_prompt("who mills?").unwrap(),
            output: base.tokenizer().encode_completion(" Tolven").unwrap(),
        };
        let answer = Target::new(&ask.prompt, &ask.output);
        let mut trainer = Trainer::new(&base, &recipe, &examples_of(&ask.records)).unwrap();
        let before = trainer.adapter().unwrap();
        trainer.step().unwrap();
        trainer.step().unwrap();
        let after = trainer.adapter().unwrap();
        let told = serde_json::to_string(&recipe).unwrap();
        let by = |adapter: &Adapter, recipe: &str, memory_bytes: u64| {
            unrolled(&base, adapter, &ask, (recipe, memory_bytes), &answer, &|| false)
        };
        let scores = by(&after, &told, u64::MAX).unwrap().rises;
        assert_eq!(scores.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 1]);
        assert!(scores.iter().all(|(_, rise)| rise.is_finite()) && scores[0].1 > scores[1].1, "{scores:?}");
        assert!(by(&before, &told, u64::MAX).unwrap_err().contains("don't come to the model's adapter"));
        assert!(by(&after, &told, 1_000_000).unwrap_err().contains("--memory-limit"));
        assert!(by(&after, "{", u64::MAX).unwrap_err().contains("recipe"));
        let impatient = serde_json::to_string(&Recipe { dropout: 0.1, ..recipe.clone() }).unwrap();
        assert!(by(&after, &impatient, u64::MAX).unwrap_err().contains("dropout"));
    }

    #[test]
    fn scores_keep_their_ratios_and_what_is_no_number_says_nothing() {
        assert_eq!(whole(vec![(3, -2.0), (5, 1.0)]), [(3, -1_000_000_000), (5, 500_000_000)]);
        assert!(whole(vec![(0, 0.0)]).is_empty() && whole(vec![(0, 1.0), (1, f64::INFINITY)]).is_empty());
        assert!(whole(Vec::new()).is_empty());
    }
}
