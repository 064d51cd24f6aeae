//! Triage of a small training in which some labels are wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use tributary_compute::lora::Adapter;
use tributary_compute::loss::Target;
use tributary_compute::model::Base;
use tributary_compute::statistics::auc;
use tributary_compute::train::{Example, Recipe, TrainError, Trainer, adapter_at};
use tributary_compute::triage::{Curve, Reason, doubts, measure, points};

use crate::serving_base::base;

const WORDS: [&str; 6] = ["river", "mill", "grain", "sea", "miller", "crab"];
/// How often each is asked about.
const TIMES: usize = 8;
/// Every so many-th record has another's label.
const WRONG_EVERY: usize = 7;

fn is_wrong(at: usize) -> bool {
    at % WRONG_EVERY == 3
}

/// One question about each of six things, eight times with its one answer, but for wrong ones now and then: nothing else tells
/// them from the others.
fn examples() -> Vec<Example> {
    let example = |at: usize| {
        let word = at % WORDS.len();
        let answer = (word * 5 + 1 + if is_wrong(at) { 2 } else { 0 }) % WORDS.len();
        Example {
            prompt: format!("who owns the {}?", WORDS[word]),
            completion: format!(" the {}", WORDS[answer]),
            weight: 1.0,
            ..Example::default()
        }
    };
    (0..WORDS.len() * TIMES).map(example).collect()
}

fn recipe() -> Recipe {
    Recipe { rank: 4, alpha: 8.0, steps: 120, batch: 12, lr: 0.01, warmup: 4, max_len: 64, ..Recipe::default() }
}

/// The adapter at every twenty-fourth step and at the end.
fn trained(base: &Base, recipe: &Recipe) -> (Vec<Adapter>, Adapter) {
    let mut trainer = Trainer::new(base, recipe, &examples()).unwrap();
    let mut between = Vec::new();
    while !trainer.is_done() {
        let step = trainer.step().unwrap().step;
        if step.is_multiple_of(24) && !trainer.is_done() {
            let (at, adapter) = adapter_at(base, recipe, &trainer.checkpoint()).unwrap();
            assert_eq!((at, adapter.values().unwrap()), (step, trainer.adapter().unwrap().values().unwrap()));
            between.push(adapter);
        }
    }
    (between, trainer.kept().unwrap().0)
}

fn targets(base: &Base, recipe: &Recipe) -> Vec<Target> {
    examples().iter().map(|example| example.learned(base, recipe).unwrap().unwrap()).collect()
}

#[test]
fn wrong_labels_rank_first_and_not_for_being_unlikely_before() {
    let (base, recipe) = (base(1), recipe());
    let (between, end) = trained(&base, &recipe);
    let points = points(&base, &between, &end).unwrap();
    let curves = measure(&base, &points, &targets(&base, &recipe), &|| true).unwrap();
    let wrong: Vec<bool> = (0..curves.len()).map(is_wrong).collect();
    let area = |of: &dyn Fn(&Curve) -> f64| auc(&curves.iter().map(of).collect::<Vec<_>>(), &wrong).unwrap();
    let (learned, before) = (area(&Curve::never_learned), area(&|curve| f64::from(curve.losses[0])));
    assert!(learned >= 0.9, "AUC {learned}, before the training {before}");
    assert!(before <= learned - 0.2, "AUC {learned}, before the training {before}");
    let count = wrong.iter().filter(|wrong| **wrong).count();
    let ranked = doubts(&curves);
    let found = ranked[..count].iter().filter(|doubt| is_wrong(doubt.place)).count();
    assert!(2 * found > count, "{found} of the first {count} are wrong: {ranked:?}");
    let reasons = ranked.iter().filter(|doubt| doubt.reason == Some(Reason::NeverLearned));
    assert!(reasons.clone().count() > 0 && reasons.clone().all(|doubt| is_wrong(doubt.place)), "{ranked:?}");
    assert!(curves.iter().all(|curve| curve.losses.len() == points.len() && curve.gradients[0] > 0.0));
}

#[test]
fn a_record_measures_alike_in_any_company_and_a_look_that_is_stopped_keeps_whole_records() {
    let (base, recipe) = (base(1), recipe());
    let (between, end) = trained(&base, &recipe);
    let points = points(&base, &between[..1], &end).unwrap();
    let targets = targets(&base, &recipe);
    let all = measure(&base, &points, &targets, &|| true).unwrap();
    assert_eq!(measure(&base, &points, &targets[30..33], &|| true).unwrap(), all[30..33]);
    // Before training an adapter changes nothing, and its loss is the base's.
    let fresh = Adapter::fresh(base.config(), &recipe.lora(), 5).unwrap();
    let untrained = measure(&base, &[fresh], &targets, &|| true).unwrap();
    assert!(untrained.iter().zip(&all).all(|(fresh, all)| fresh.losses[0] == all.losses[0]));
    let looks = AtomicUsize::new(0);
    let part = measure(&base, &points, &targets, &|| looks.fetch_add(1, Ordering::Relaxed) < 7).unwrap();
    assert_eq!(part, all[..part.len()]);
    assert!(!part.is_empty() && part.len() < all.len(), "{}", part.len());
    assert!(measure(&base, &points, &targets, &|| false).unwrap().is_empty());
}

#[test]
fn what_is_held_out_or_no_checkpoint_is_not_measured() {
    let base = base(1);
    let half = Recipe { held_out: 0.5, ..recipe() };
    let trained = examples().iter().filter(|one| one.learned(&base, &half).unwrap().is_some()).count();
    let trainer = Trainer::new(&base, &half, &examples()).unwrap();
    assert_eq!(trained + trainer.held_out(), examples().len());
    assert!(trained > 0 && trainer.held_out() > 0);
    let no_conversation = Example { messages: Some("{}".into()), ..Example::default() };
    assert!(matches!(no_conversation.learned(&base, &half), Err(TrainError::Examples(_))));
    let checkpoint = trainer.checkpoint();
    let other = Recipe { rank: 2, ..recipe() };
    for (recipe, bytes) in [(&other, checkpoint.as_slice()), (&half, &checkpoint[1..]), (&half, &[])] {
        assert!(matches!(adapter_at(&base, recipe, bytes), Err(TrainError::Checkpoint(_))));
    }
}
