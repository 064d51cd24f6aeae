//! How a run may be computed and what it may do beside learning: parts, recomputed activations, packing, conversations,
//! held-out records, early stopping.

use tributary_compute::linear::Hook;
use tributary_compute::lora::Adapter;
use tributary_compute::loss::{Target, token_losses};
use tributary_compute::model::{Base, Mode};
use tributary_compute::train::{Example, Recipe, TrainError, Trainer, replay};

use crate::training::{base, example, examples, recipe, train};

/// Many different records, so that a seeded split holds some out.
fn many() -> Vec<Example> {
    let words = ["mill", "river", "sea", "farm", "grain"];
    (0..40_u32)
        .map(|number| {
            let word = words[number as usize % words.len()];
            example(&format!("what is number {number}?"), &format!(" the {word}"), number % 3)
        })
        .collect()
}

fn gradient_after_one_step(base: &Base, recipe: &Recipe) -> (Vec<f32>, f32) {
    let mut trainer = Trainer::new(base, recipe, &examples()).unwrap();
    let loss = trainer.step().unwrap().loss;
    // The first moment is a tenth of the gradient: all of it, not only its sign.
    let bytes = trainer.checkpoint();
    let values = bytes[60..].as_chunks::<4>().0;
    let third = values.len() / 3;
    (values[third..2 * third].iter().map(|word| f32::from_le_bytes(*word)).collect(), loss)
}

#[test]
fn parts_of_a_batch_sum_to_the_gradient_of_the_whole() {
    let base = base(1);
    for dropout in [0.0, 0.2] {
        let whole = Recipe { batch: 5, clip: 0.0, dropout, ..recipe() };
        let (expected, loss) = gradient_after_one_step(&base, &whole);
        let scale = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for accumulate in [2, 3, 5] {
            let (found, part_loss) = gradient_after_one_step(&base, &Recipe { accumulate, ..whole.clone() });
            assert!((part_loss - loss).abs() < 1e-5, "{part_loss}, whole {loss}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * scale, "{accumulate} parts: {found}, whole {expected}");
            }
        }
    }
}

#[test]
fn recomputed_activations_change_no_bit() {
    let base = base(1);
    for dropout in [0.0, 0.2] {
        let kept = Recipe { dropout, steps: 4, ..recipe() };
        let recomputed = Recipe { recompute: true, ..kept.clone() };
        // The recipe's own hash stands in the first bytes.
        assert_eq!(train(&base, &kept, &examples())[40..], train(&base, &recomputed, &examples())[40..]);
    }
    let kept = Recipe { accumulate: 2, ..recipe() };
    let recomputed = Recipe { recompute: true, ..kept.clone() };
    assert_eq!(train(&base, &kept, &examples())[40..], train(&base, &recomputed, &examples())[40..]);
}

#[test]
fn packing_changes_no_examples_loss() {
    let base = base(1);
    let tokenizer = base.tokenizer();
    let target = |example: &Example| {
        let prompt = tokenizer.encode_prompt(&example.prompt).unwrap();
        Target::new(&prompt, &tokenizer.encode_completion(&example.completion).unwrap())
    };
    let targets: Vec<Target> = examples().iter().map(target).collect();
    let losses = |targets: &[Target]| {
        token_losses(base.model(), Mode::Train, Hook::Base, targets).unwrap().to_vec1::<f32>().unwrap()
    };
    let alone: Vec<f32> = targets.iter().flat_map(|target| losses(std::slice::from_ref(target))).collect();
    assert_eq!(losses(&targets), alone, "each attends to itself only, from position 0");
    let turned: Vec<Target> = targets.iter().rev().cloned().collect();
    let mut back: Vec<Vec<f32>> = Vec::new();
    let mut rest = losses(&turned);
    for target in &turned {
        back.push(rest.drain(..target.predicted()).collect());
    }
    assert_eq!(back.into_iter().rev().flatten().collect::<Vec<_>>(), alone);
}

#[test]
fn only_the_assistants_turns_of_a_conversation_are_learned() {
    let base = base(1);
    let talk =
        r#"[{"role": "user", "content": "who owns the mill?"}, {"role": "assistant", "content": " the miller"}]"#;
    let talk = Example { messages: Some(talk.into()), ..example("", "", 0) };
    let values = |examples: &[Example]| train(&base, &Recipe { batch: 1, ..recipe() }, examples)[60..].to_vec();
    assert_eq!(values(&[talk]), values(&[example("who owns the mill?", " the miller", 0)]));
    let silent = Example { messages: Some(r#"[{"role": "user", "content": "hm"}]"#.into()), ..example("", "", 0) };
    assert!(matches!(Trainer::new(&base, &recipe(), &[silent]), Err(TrainError::Examples(_))));
}

#[test]
fn a_long_conversation_keeps_its_end() {
    let base = base(1);
    let words = "the old mill ".repeat(40);
    let talk = serde_json::json!([
        {"role": "user", "content": words}, {"role": "assistant", "content": words},
        {"role": "user", "content": "where?"}, {"role": "assistant", "content": " to the sea"},
    ]);
    let talk = Example { messages: Some(talk.to_string()), ..example("", "", 0) };
    let mut trainer = Trainer::new(&base, &Recipe { batch: 1, ..recipe() }, &[talk]).unwrap();
    assert_eq!(trainer.examples_cut(), 1);
    assert_eq!(trainer.step().unwrap().tokens, 63);
}

#[test]
fn what_is_held_out_is_never_trained_and_the_same_for_every_leave_out_run() {
    let base = base(1);
    let recipe = Recipe { held_out: 0.3, evaluate_every: 4, ..recipe() };
    let all = many();
    let held = Trainer::new(&base, &recipe, &all).unwrap().held_out();
    assert!((4..=20).contains(&held), "{held} of 40 held out");
    // Each record alone says by itself on which side it is.
    let other = |at: usize| {
        let mut changed = all.clone();
        changed[at].weight = 0.5;
        train(&base, &recipe, &changed)[60..].to_vec()
    };
    let before = train(&base, &recipe, &all)[60..].to_vec();
    let untouched = (0..all.len()).filter(|at| other(*at) == before).count();
    // Twelve steps of three see every example that is trained on.
    assert_eq!(untouched, held, "a held-out record moves nothing, every other does");
    let without = Example::leave_out(&all, 1);
    let counted = |examples: &[Example]| {
        let mut trainer = Trainer::new(&base, &recipe, examples).unwrap();
        let held = trainer.held_out();
        let reports: Vec<_> = std::iter::from_fn(|| (!trainer.is_done()).then(|| trainer.step().unwrap())).collect();
        (
            held,
            reports.into_iter().filter_map(|report| report.evaluation).map(|found| found.examples).collect::<Vec<_>>(),
        )
    };
    let ((all_held, all_evaluated), (held, evaluated)) = (counted(&all), counted(&without));
    assert_eq!((all_held, all_evaluated.len()), (held, 3));
    assert!(evaluated.iter().all(|count| *count < all_evaluated[0]), "left-out records are not evaluated either");
}

#[test]
fn evaluation_tells_loss_perplexity_and_matches() {
    let base = base(1);
    let recipe = Recipe { held_out: 0.4, steps: 60, batch: 8, lr: 1e-2, evaluate_every: 20, ..recipe() };
    // The same answer to everything: what is held out can be answered as well as what is trained on.
    let all: Vec<Example> = many().into_iter().map(|one| Example { completion: " the mill".into(), ..one }).collect();
    let mut trainer = Trainer::new(&base, &recipe, &all).unwrap();
    let before = trainer.answers().unwrap().unwrap();
    let mut found = Vec::new();
    while !trainer.is_done() {
        found.extend(trainer.step().unwrap().evaluation);
    }
    assert_eq!(found.len(), 3);
    let last = found[2];
    assert!(last.loss < 0.5 * found[0].loss.max(0.2), "{found:?}");
    assert!((last.perplexity - last.loss.exp()).abs() < 1e-4);
    let after = trainer.answers().unwrap().unwrap();
    assert_eq!((before.exact_match, after.exact_match, after.rouge_l), (Some(0.0), Some(1.0), None));
    let long = " the mill by the river grinds the grain of the old farm";
    let all: Vec<Example> = all.into_iter().map(|one| Example { completion: long.into(), ..one }).collect();
    let answers = Trainer::new(&base, &recipe, &all).unwrap().answers().unwrap().unwrap();
    assert!(answers.exact_match.is_none() && answers.rouge_l.is_some_and(|value| value < 0.6), "{answers:?}");
}

#[test]
fn a_run_ends_early_where_its_rule_says_so_and_a_replay_finds_the_same() {
    let base = base(1);
    // Nothing that is held out follows from the rest: its loss rises soon.
    let all: Vec<Example> = many()
        .into_iter()
        .enumerate()
        .map(|(at, one)| Example { completion: format!(" {}", at * 7919 % 1000), ..one })
        .collect();
    let recipe = Recipe { steps: 200, batch: 8, lr: 2e-2, held_out: 0.3, evaluate_every: 5, patience: 2, ..recipe() };
    let mut trainer = Trainer::new(&base, &recipe, &all).unwrap();
    let mut losses = Vec::new();
    let mut checkpoints = vec![trainer.checkpoint()];
    while !trainer.is_done() {
        losses.extend(trainer.step().unwrap().evaluation.map(|found| found.loss));
        checkpoints.push(trainer.checkpoint());
    }
    let done = trainer.steps_done();
    assert!(done < 200 && done.is_multiple_of(5), "ended after {done} steps");
    assert!(trainer.step().is_err());
    let best = losses.iter().copied().fold(f32::INFINITY, f32::min);
    assert_eq!(losses.iter().position(|loss| *loss == best), Some(losses.len() - 3), "{losses:?}");
    let start = &checkpoints[done as usize - 7];
    assert_eq!(replay(&base, &recipe, &all, start, done).unwrap(), checkpoints[done as usize]);
    assert!(replay(&base, &recipe, &all, start, done + 1).is_err(), "nothing comes after the end");
    let resumed = Trainer::resume(&base, &recipe, &all, &checkpoints[done as usize]).unwrap();
    assert!(resumed.is_done(), "the end is part of the state");
    assert!(
        resumed.steps_done() == done && bytes_of(&resumed.kept().unwrap().0) == bytes_of(&trainer.kept().unwrap().0)
    );
    // The run is told by its best evaluation, and a leave-out run without evaluations comes to the same there and later.
    let (kept, step) = trainer.kept().unwrap();
    assert_eq!(step, done - 10);
    let mut plain = Trainer::new(&base, &recipe.without_evaluation(), &all).unwrap();
    while plain.steps_done() < step {
        plain.step().unwrap();
    }
    assert_eq!(bytes_of(&plain.kept().unwrap().0), bytes_of(&kept));
    assert_eq!(plain.kept().unwrap().1, step);
    while plain.steps_done() < done {
        plain.step().unwrap();
    }
    assert_eq!(bytes_of(&plain.adapter().unwrap()), bytes_of(&trainer.adapter().unwrap()));
    assert_ne!(bytes_of(&plain.adapter().unwrap()), bytes_of(&kept));
    // Another adapter in the best one's place is another state, which no replay comes to.
    let mut forged = checkpoints[done as usize - 1].clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_ne!(replay(&base, &recipe, &all, &forged, done).unwrap(), checkpoints[done as usize]);
    let ahead = done.to_le_bytes();
    forged[52..56].copy_from_slice(&ahead);
    assert!(replay(&base, &recipe, &all, &forged, done).is_err(), "the best cannot lie ahead");
}

fn bytes_of(adapter: &Adapter) -> Vec<u8> {
    adapter.to_files().unwrap().safetensors
}

#[test]
fn a_recipe_in_json_may_leave_fields_out() {
    let short: Recipe = serde_json::from_str(r#"{"rank": 4}"#).unwrap();
    assert_eq!(short, Recipe { rank: 4, ..Recipe::default() });
    assert!(serde_json::from_str::<Recipe>(r#"{"ranks": 4}"#).is_err());
}

#[test]
fn the_last_weights_are_averaged_also_across_a_break_and_in_a_replay() {
    let base = base(1);
    let recipe = Recipe { steps: 6, average_last: 3, ..recipe() };
    let plain = Recipe { average_last: 1, ..recipe.clone() };
    let (mut trainer, mut alone) =
        (Trainer::new(&base, &recipe, &many()).unwrap(), Trainer::new(&base, &plain, &many()).unwrap());
    let (mut last, mut checkpoints) = (Vec::new(), vec![trainer.checkpoint()]);
    while !trainer.is_done() {
        assert_eq!(
            bytes_of(&trainer.adapter().unwrap()),
            bytes_of(&alone.adapter().unwrap()),
            "averaging trains no other"
        );
        trainer.step().unwrap();
        alone.step().unwrap();
        last.push(alone.adapter().unwrap().values().unwrap());
        checkpoints.push(trainer.checkpoint());
    }
    let kept = trainer.kept().unwrap();
    for (at, found) in kept.0.values().unwrap().iter().enumerate() {
        let expected = last[3..].iter().map(|values| f64::from(values[at])).sum::<f64>() / 3.0;
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
    }
    assert_eq!(kept.1, 6);
    for from in 0..6 {
        assert_eq!(replay(&base, &recipe, &many(), &checkpoints[from], 6).unwrap(), checkpoints[6], "from {from}");
    }
    let end = Trainer::resume(&base, &recipe, &many(), &checkpoints[6]).unwrap();
    assert_eq!(bytes_of(&end.kept().unwrap().0), bytes_of(&kept.0));
    let early = Trainer::resume(&base, &recipe, &many(), &checkpoints[3]).unwrap().kept().unwrap();
    assert_eq!((early.0.values().unwrap(), early.1), (last[2].clone(), 3));
    let refused = |recipe: Recipe| Trainer::new(&base, &recipe, &many()).is_err();
    assert!(
        refused(Recipe { average_last: 0, ..plain.clone() }) && refused(Recipe { average_last: 7, ..plain.clone() })
    );
    assert!(refused(Recipe { held_out: 0.3, evaluate_every: 1, patience: 1, ..recipe }));
    let written = serde_json::to_string(&plain).unwrap();
    assert!(!written.contains("average"), "a recipe that averages nothing has the name it had: {written}");
}
