//! Leave-out runs that begin where the run of everything had come to the same: no bit of them is another.

use tributary_compute::model::Base;
use tributary_compute::train::{Example, Prefix, Recipe, TrainError, Trainer};

use crate::training::{base, example, recipe};

/// Who has a single record.
const ALONE: u32 = 9;

/// Records of some, and one of somebody else at `place`.
fn records(place: usize) -> Vec<Example> {
    let words = ["mill", "river", "sea", "farm", "grain"];
    let whose = |number: usize| if number == place { ALONE } else { u32::from(number.is_multiple_of(2)) };
    (0..30)
        .map(|number| {
            example(
                &format!("what is number {number}?"),
                &format!(" the {}", words[number % words.len()]),
                whose(number),
            )
        })
        .collect()
}

fn prefix(base: &Base, recipe: &Recipe, whole: &Recipe, all: &[Example]) -> Prefix {
    let without = Example::leave_out(all, ALONE);
    Prefix::of(base, recipe, &without, (whole, all)).unwrap()
}

/// The records among which the one of [`ALONE`] is trained on as late as can be, and how many steps lie before.
fn late(base: &Base, recipe: &Recipe, whole: &Recipe) -> (Vec<Example>, u32) {
    let placed = (0..30).map(records).map(|all| {
        let steps = prefix(base, recipe, whole, &all).steps();
        (all, steps)
    });
    let trained = placed.filter(|(_, steps)| *steps + 1 < recipe.steps);
    trained.max_by_key(|(_, steps)| *steps).expect("some record is trained on")
}

/// A run's state after every step, and the adapter that it is told by.
fn states(mut trainer: Trainer) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut states = vec![trainer.checkpoint()];
    while !trainer.is_done() {
        trainer.step().unwrap();
        states.push(trainer.checkpoint());
    }
    (states, trainer.kept().unwrap().0.to_files().unwrap().safetensors)
}

#[test]
fn a_leave_out_run_begun_from_the_run_of_everything_is_bitwise_one_from_nothing() {
    let base = base(1);
    let plain = Recipe { steps: 12, ..recipe() };
    let evaluated = Recipe { held_out: 0.2, evaluate_every: 2, ..plain.clone() };
    let stable = Recipe { average_last: 10, ..plain.clone() };
    for whole in [
        plain.clone(),
        plain.stable(),
        stable,
        Recipe { dropout: 0.2, accumulate: 2, ..plain.clone() },
        evaluated.clone(),
        Recipe { patience: 20, ..evaluated },
    ] {
        // A leave-out run evaluates nothing on its way; see `Recipe::without_evaluation`.
        let own = whole.without_evaluation();
        let (all, shared) = late(&base, &own, &whole);
        assert!(shared > 1, "{shared} steps of {whole:?}");
        let without = Example::leave_out(&all, ALONE);
        let (of_all, _) = states(Trainer::new(&base, &whole, &all).unwrap());
        let (unbroken, adapter) = states(Trainer::new(&base, &own, &without).unwrap());
        let prefix = prefix(&base, &own, &whole, &all);
        let shared = usize::try_from(shared).unwrap();
        for step in 0..=shared {
            assert_eq!(prefix.adopt(&of_all[step]).unwrap(), unbroken[step], "step {step} of {whole:?}");
        }
        assert!(matches!(prefix.adopt(&of_all[shared + 1]), Err(TrainError::Checkpoint(_))), "the runs have parted");
        assert_ne!(of_all[shared + 1][60..], unbroken[shared + 1][60..]);
        let begun = Trainer::resume(&base, &own, &without, &prefix.adopt(&of_all[shared]).unwrap()).unwrap();
        assert_eq!(states(begun), (unbroken[shared..].to_vec(), adapter), "{whole:?}");
    }
}

#[test]
fn nothing_is_shared_with_a_run_of_another_recipe_or_other_records() {
    let base = base(1);
    let (plain, all) = (recipe(), records(0));
    let refused = |recipe: &Recipe, other: (&Recipe, &[Example])| Prefix::of(&base, recipe, &all, other).is_err();
    assert!(!refused(&plain, (&plain, &all)));
    assert!(refused(&plain, (&Recipe { seed: 1, ..plain.clone() }, &all)));
    assert!(refused(&plain, (&plain, &all[1..])) && refused(&plain, (&plain, &records(1))));
    let patient = Recipe { held_out: 0.2, evaluate_every: 2, patience: 1, ..plain.clone() };
    assert!(refused(&patient, (&patient, &all)), "what is evaluated depends on the weights");
    // Only a checkpoint of exactly the other run is adopted.
    let prefix = prefix(&base, &plain, &plain, &all);
    let of = |recipe: &Recipe, examples: &[Example]| Trainer::new(&base, recipe, examples).unwrap().checkpoint();
    assert!(prefix.adopt(&of(&plain, &all)).is_ok());
    assert!(prefix.adopt(&of(&plain, &records(1))).is_err());
    assert!(prefix.adopt(&of(&Recipe { lr: 1e-4, ..plain.clone() }, &all)).is_err());
}

#[test]
fn runs_that_evaluate_part_at_the_first_evaluation_and_before_the_last_step() {
    let base = base(1);
    let (plain, all) = (recipe(), records(0));
    let evaluated = Recipe { held_out: 0.2, evaluate_every: 5, ..plain.clone() };
    let alike = |recipe: &Recipe| Prefix::of(&base, recipe, &all, (recipe, &all)).unwrap().steps();
    assert_eq!((alike(&plain), alike(&evaluated)), (plain.steps - 1, 4));
}
