//! The study of attribution: truth by real trainings, journalled; methods that score it; what can't be studied is refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use tributary_compute::linear::Hook;
use tributary_compute::lora::Adapter;
use tributary_compute::loss::{Target, token_losses};
use tributary_compute::model::{Base, Mode, Module};
use tributary_compute::statistics::pearson;
use tributary_compute::study::attacks::assail;
use tributary_compute::study::dataset::{Dataset, Item};
use tributary_compute::study::deal::{Dealt, Setting, deal};
use tributary_compute::study::stability::stability;
use tributary_compute::study::{
    Case, Journal, Laboratory, Plan, Scores, StudyError, Training, Truth, all, judge, unrolled,
};
use tributary_compute::train::{Example, Recipe, TrainError, Trainer};

use crate::serving_base::base;

fn dataset() -> Dataset {
    let words = ["river", "mill", "grain", "sea", "miller", "crab"];
    let item = |at: usize| {
        let topic = at % words.len();
        Item {
            prompt: format!("{} {}?", ["where is the", "who owns the"][at / words.len() % 2], words[topic]),
            completion: format!(" the old {}", words[(topic * 5 + 1) % words.len()]),
            topic: u32::try_from(topic).ok(),
        }
    };
    Dataset { name: "mill".into(), records: (0..24).map(item).collect(), queries: (0..6).map(item).collect() }
}

fn recipe() -> Recipe {
    Recipe { rank: 2, alpha: 8.0, steps: 8, batch: 6, lr: 0.02, warmup: 2, ..Recipe::default() }
}

pub fn dealt(setting: Setting, contributors: usize) -> Dealt {
    deal(&dataset(), setting, contributors, 1).unwrap()
}

pub fn laboratory(base: &Base, dealt: &Dealt, journal: Option<Journal>, workers: usize) -> Laboratory {
    Laboratory::new(base, &recipe(), dealt, journal, workers).unwrap()
}

#[test]
fn a_training_of_the_study_is_the_products_leave_out_run() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    let laboratory = laboratory(&base, &dealt, None, 2);
    let found = laboratory.train(&[laboratory.without(9, &[2]), laboratory.without(9, &[])], &|_, _| {}).unwrap();
    let seeded = Recipe { seed: 9, ..recipe() };
    for (outcome, examples) in found.iter().zip([Example::leave_out(&dealt.examples, 2), dealt.examples.clone()]) {
        let mut trainer = Trainer::new(&base, &seeded, &examples).unwrap();
        while !trainer.is_done() {
            trainer.step().unwrap();
        }
        assert_eq!(trainer.adapter().unwrap().values().unwrap(), outcome.values);
    }
    assert_ne!(found[0].losses, found[1].losses);
}

#[test]
fn an_interrupted_study_goes_on_where_it_was() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    let folder = tempfile::tempdir().unwrap();
    let open = || laboratory(&base, &dealt, Some(Journal::open(folder.path()).unwrap()), 1);
    let wanted: Vec<Training> = (0..4).map(|contributor| open().without(1, &[contributor])).collect();
    let first = open().train(&wanted[..2], &|_, _| {}).unwrap();
    let trained = AtomicUsize::new(0);
    let count = |_: usize, _: usize| {
        trained.fetch_add(1, Ordering::Relaxed);
    };
    let all = open().train(&wanted, &count).unwrap();
    assert_eq!((trained.load(Ordering::Relaxed), &all[..2]), (2, &first[..]));
    let damaged = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&damaged, b"half a file").unwrap();
    let again = open().train(&wanted, &count).unwrap();
    assert_eq!(trained.load(Ordering::Relaxed), 3);
    for (again, before) in again.iter().zip(&all) {
        assert_eq!((&again.values, &again.losses), (&before.values, &before.losses));
    }
}

#[test]
fn every_method_scores_every_contributor_and_is_judged() {
    let base = base(1);
    let dealt = dealt(Setting::Differing, 8);
    let laboratory = laboratory(&base, &dealt, None, 1);
    let plan = Plan { seed: 1, unseen: vec![2], subsets: 5, record_subsets: 4, singles: 3 };
    let truth = Truth::measure(&laboratory, &plan, &|_, _| {}).unwrap();
    let case = Case::prepare(&laboratory, 1, &|_, _| {}).unwrap();
    for method in all() {
        let scores = method.scores(&case).unwrap();
        for matrix in scores.contributors.iter().chain(&scores.records) {
            assert_eq!(matrix.columns(), dealt.queries.len() + dealt.triggered.len(), "{}", method.name());
            assert!(matrix.iter().flatten().all(|score| score.is_finite()), "{}", method.name());
        }
        let judgement = judge(&truth, &scores).unwrap();
        for (measure, figure) in &judgement {
            assert!((-1.0..=1.0).contains(&figure.value), "{} {measure} {figure:?}", method.name());
            assert!(figure.low <= figure.high, "{} {measure} {figure:?}", method.name());
        }
        assert!(!judgement.is_empty(), "{}", method.name());
    }
    // The truth itself is without error on its own run.
    let known = Scores::of_contributors(truth.without.clone());
    let judgement = judge(&truth, &known).unwrap();
    assert!((judgement["loco-r"].value - 1.0).abs() < 1e-9 && judgement["tv-totals"].value.abs() < 1e-9);
    assert!(judgement["tv-audited-4"].high.abs() < 1e-9 && judgement["tv-audited-8"].high.abs() < 1e-9);
    let foreign = Scores::of_contributors(truth.without.slice(0, 1));
    assert!(matches!(judge(&truth, &foreign), Err(StudyError::Shape(_))));
}

#[test]
fn exact_credits_of_a_small_index_are_the_truth() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 5);
    let laboratory = laboratory(&base, &dealt, None, 1);
    let plan = Plan { subsets: 0, record_subsets: 0, singles: 0, ..Plan::quick(3) };
    let truth = Truth::measure(&laboratory, &plan, &|_, _| {}).unwrap();
    let case = Case::prepare(&laboratory, 3, &|_, _| {}).unwrap();
    let ours = all().pop().unwrap();
    assert_eq!((ours.name(), ours.trainings(5)), ("LOCO-delta, exact k=8, bent", 5));
    let scores = ours.scores(&case).unwrap().contributors.unwrap();
    // The index keeps a byte of each number's difference.
    let largest = truth.without.iter().flatten().fold(0.0_f32, |most, due| most.max(due.abs()));
    for (found, due) in scores.iter().flatten().zip(truth.without.iter().flatten()) {
        assert!((found - due).abs() < largest / 20.0, "{found} {due} of {largest}");
    }
}

#[test]
fn weights_are_averaged_over_the_last_steps() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    let averaged = Recipe { average_last: 2, ..recipe() };
    let laboratory = Laboratory::new(&base, &averaged, &dealt, None, 1).unwrap();
    let found = laboratory.train(&[laboratory.without(4, &[])], &|_, _| {}).unwrap();
    let mut trainer = Trainer::new(&base, &Recipe { seed: 4, ..recipe() }, &dealt.examples).unwrap();
    let mut last = Vec::new();
    while !trainer.is_done() {
        trainer.step().unwrap();
        last.push(trainer.adapter().unwrap().values().unwrap());
    }
    let middle = last[6].iter().zip(&last[7]).map(|(a, b)| f32::midpoint(*a, *b));
    for (found, expected) in found[0].values.iter().zip(middle) {
        assert!((found - expected).abs() < 1e-6);
    }
}

#[test]
fn seeds_are_averaged_exactly() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    let laboratory = laboratory(&base, &dealt, None, 1);
    let trained = |seed| laboratory.train(&[laboratory.without(seed, &[])], &|_, _| {}).unwrap().remove(0);
    let adapters = [1, 2].map(|seed| laboratory.adapter(&trained(seed)).unwrap());
    let mean = Adapter::averaged(&adapters).unwrap();
    assert_eq!(mean.config().rank, 2 * adapters[0].config().rank);
    let added = |adapter: &Adapter| {
        let pair = adapter.pair(0, Module::ALL[0]).unwrap();
        let product = pair.down.matmul(&pair.up).unwrap() * f64::from(adapter.config().scale());
        product.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let halves = added(&adapters[0]).into_iter().zip(added(&adapters[1])).map(|(a, b)| f32::midpoint(a, b));
    assert!(added(&mean).into_iter().zip(halves).all(|(found, due)| (found - due).abs() < 1e-6));
    let other = Recipe { rank: 3, ..recipe() };
    let other = Laboratory::new(&base, &other, &dealt, None, 1).unwrap();
    let of_rank_3 = other.adapter(&other.train(&[other.without(1, &[])], &|_, _| {}).unwrap()[0]).unwrap();
    assert!(Adapter::averaged(&[adapters[0].clone(), of_rank_3]).is_err());
    assert!(Adapter::averaged(&[]).is_err());

    let loss_of = |seeds| {
        let figures: BTreeMap<_, _> = stability(&laboratory, seeds, 1, &|_, _| {}).unwrap().into_iter().collect();
        assert!(figures["seeds-net-r"].value.abs() <= 1.0, "{figures:?}");
        figures["loss"].value
    };
    let mean_loss = |adapter: &Adapter| {
        let losses = dealt.queries.iter().map(|item| loss_with(&base, adapter, item));
        losses.sum::<f64>() / dealt.queries.len() as f64
    };
    assert!((loss_of(1) - mean_loss(&adapters[0])).abs() < 1e-5);
    assert!((loss_of(2) - mean_loss(&mean)).abs() < 1e-5);
    assert!((loss_of(1) - loss_of(2)).abs() > 1e-4, "two seeds are one");
}

#[test]
fn a_warm_start_shares_the_first_steps() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    let laboratory = laboratory(&base, &dealt, None, 1);
    let anew = laboratory.without(1, &[0]);
    let warm = |shared_steps| Training { shared_steps, ..anew.clone() };
    let wanted = [laboratory.without(1, &[]), anew.clone(), warm(4), warm(8)];
    let found = laboratory.train(&wanted, &|_, _| {});
    // A run that shares every step has nothing left to train.
    assert!(matches!(found, Err(StudyError::Plan(_))));
    let found = laboratory.train(&wanted[..3], &|_, _| {}).unwrap();
    let distance = |a: usize, b: usize| -> f32 {
        found[a].values.iter().zip(&found[b].values).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    assert!(distance(0, 2) > 0.0 && distance(0, 2) < distance(0, 1));
}

fn answer_of(base: &Base, item: &Item) -> Target {
    let prompt = base.tokenizer().encode_prompt(&item.prompt).expect("a prompt of few words");
    Target::new(&prompt, &base.tokenizer().encode_completion(&item.completion).expect("a completion of few words"))
}

/// Mean loss of an answer by an adapter.
fn loss_with(base: &Base, adapter: &Adapter, item: &Item) -> f64 {
    let answer = [answer_of(base, item)];
    let losses = token_losses(base.model(), Mode::Infer, Hook::One(adapter, None), &answer).expect("a short answer");
    f64::from(losses.mean_all().and_then(|mean| mean.to_scalar::<f32>()).expect("a number"))
}

/// Mean losses of the first `queries` answers after a training with one example at another weight.
fn losses_with(root: &Trainer, dealt: &Dealt, place: usize, weight: f32, queries: usize) -> Vec<f64> {
    let base = base(1);
    let mut weights = vec![1.0; dealt.examples.len()];
    weights[place] = weight;
    let mut trainer = root.fork(&weights).unwrap();
    while !trainer.is_done() {
        trainer.step().unwrap();
    }
    let (adapter, _) = trainer.kept().unwrap();
    dealt.queries[..queries].iter().map(|item| loss_with(&base, &adapter, item)).collect()
}

#[test]
fn an_unrolled_run_says_what_leaving_a_record_out_does() {
    const QUERIES: usize = 2;
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    // Gradients long enough that some are clipped, an average of the last steps, and a rate as low as a stable recipe's.
    let recipe = Recipe { average_last: 3, clip: 0.5, batch: 12, lr: 0.005, ..recipe() };
    let laboratory = Laboratory::new(&base, &recipe, &dealt, None, 1).unwrap();
    let case = Case::prepare(&laboratory, 4, &|_, _| {}).unwrap();
    let found = unrolled(&case, QUERIES).unwrap().records.unwrap();
    let root = Trainer::new(&base, &Recipe { seed: 4, ..recipe.clone() }, &dealt.examples).unwrap();
    let with = losses_with(&root, &dealt, 0, 1.0, QUERIES);
    let (mut given, mut due) = (Vec::new(), Vec::new());
    for place in (0..dealt.examples.len()).step_by(3) {
        let without = losses_with(&root, &dealt, place, 0.0, QUERIES);
        given.extend(found.row(place).iter().map(|rise| f64::from(*rise)));
        due.extend(without.iter().zip(&with).map(|(without, with)| without - with));
    }
    // Alone, of one answer, as nodes explain it, it is the same; and it ends where nobody wants it any more.
    let trainer = || Trainer::new(&base, &Recipe { seed: 4, ..recipe.clone() }, &dealt.examples).unwrap();
    let trail = trainer().unroll(&|| false).unwrap();
    let answer = answer_of(&base, &dealt.queries[0]);
    let by_example = trail.by_example(&answer, &|| false).unwrap();
    let places: Vec<u32> = by_example.rises.iter().map(|(place, _)| *place).collect();
    assert!(by_example.magnified.is_finite() && by_example.magnified > 0.1, "{}", by_example.magnified);
    assert_eq!(places, (0..).take(dealt.examples.len()).collect::<Vec<u32>>());
    assert!(
        by_example.rises.iter().all(|(place, rise)| (f64::from(found.row(*place as usize)[0]) - rise).abs() < 1e-6)
    );
    assert!(matches!(trail.by_example(&answer, &|| true), Err(TrainError::Stopped)));
    assert!(matches!(trainer().unroll(&|| true), Err(TrainError::Stopped)));
    let longer = Trainer::new(&base, &Recipe { steps: 2 * recipe.steps, ..recipe.clone() }, &dealt.examples).unwrap();
    let grows = longer.unrolling_bytes() - trainer().unrolling_bytes();
    let values = trail.kept().values().unwrap().len() as u64;
    assert_eq!(grows, 16 * values * u64::from(recipe.steps));
    let r = pearson(&given, &due).unwrap();
    assert!(r > 0.9, "{r}: {given:?} {due:?}");
    let size = |rises: &[f64]| rises.iter().map(|rise| rise.abs()).sum::<f64>();
    assert!((size(&given) / size(&due) - 1.0).abs() < 0.2, "{given:?} {due:?}");
}

#[test]
fn copies_gain_nothing_where_they_are_admitted_once() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    let laboratory = laboratory(&base, &dealt, None, 1);
    let once = |dealt: &Dealt| -> Vec<usize> {
        let texts: Vec<_> = dealt.examples.iter().map(|one| (&one.prompt, &one.completion)).collect();
        (0..texts.len()).filter(|at| !texts[..*at].contains(&texts[*at])).collect()
    };
    let found = assail(&laboratory, 1, &once, &|_| {}, &|_, _| {}).unwrap();
    let of = |measure: &str, method: &str| {
        let one = found.iter().find(|one| one.measure == measure && one.method == method);
        one.map(|one| one.figure.value)
    };
    for method in ["LOCO-delta, exact k=8", "GradDot", "record count"] {
        for measure in ["duplicate-4-admitted", "copycat-admitted"] {
            // A base that knows nothing may pay somebody nothing, of which no part can be lost.
            assert!(of(measure, method).is_none_or(|value| value.abs() < 1e-9), "{measure} {method} {found:?}");
        }
    }
    let gained = of("duplicate-4", "record count").unwrap();
    // Four times the records beside an average other: at most four fifths, less the half that it was, and what is taken for
    // noise.
    assert!((0.2..0.4).contains(&gained), "{gained}");
    assert_eq!(of("sybil", "equal split").map(|value| value > 1.0), Some(true));
}

#[test]
fn what_cannot_be_studied_is_refused() {
    let base = base(1);
    let dealt = dealt(Setting::Alike, 4);
    let held_out = Recipe { held_out: 0.1, ..recipe() };
    assert!(matches!(Laboratory::new(&base, &held_out, &dealt, None, 1), Err(StudyError::Plan(_))));
    assert!(matches!(Laboratory::new(&base, &recipe(), &dealt, None, 0), Err(StudyError::Plan(_))));
    let laboratory = laboratory(&base, &dealt, None, 1);
    let everybody = laboratory.without(1, &[0, 1, 2, 3]);
    assert!(matches!(laboratory.train(&[everybody], &|_, _| {}), Err(StudyError::Plan(_))));
    let beyond = Training { seed: 1, left_out: vec![24], shared_steps: 0 };
    assert!(matches!(laboratory.train(&[beyond], &|_, _| {}), Err(StudyError::Plan(_))));
}
