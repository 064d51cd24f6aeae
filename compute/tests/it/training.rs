//! Training runs: they learn, resume, replay and leave out as promised.

use tributary_compute::linear::Hook;
use tributary_compute::loss::{Target, token_losses};
use tributary_compute::model::{Base, Mode, WeightType, Weights};
use tributary_compute::tokenizer::train_byte_level;
use tributary_compute::train::{Example, PretrainRecipe, Pretrainer, Recipe, TrainError, Trainer, replay};

use crate::serving_base::config;

/// A random base whose embedding is large enough for confident logits: the embedding is frozen, so an adapter alone
/// could not make them.
pub fn base(seed: u64) -> Base {
    let texts = ["who owns the mill by the river?", "the old mill grinds the grain"].map(String::from);
    let config = config(300);
    let mut weights = Weights::random(&config, seed).unwrap();
    weights.embedding = (&weights.embedding * 25.0).unwrap();
    for block in &mut weights.blocks {
        for linear in &mut block.linears {
            *linear = (&*linear * 6.0).unwrap();
        }
    }
    let file = weights.to_safetensors(&config, WeightType::F16).unwrap();
    Base::from_bytes(&config.to_json(), &train_byte_level(&texts, 300).unwrap(), &file).unwrap()
}

/// Where the weights begin in a checkpoint.
const VALUES_AT: usize = 64;

pub fn example(prompt: &str, completion: &str, contributor: u32) -> Example {
    Example { prompt: prompt.into(), completion: completion.into(), contributor, weight: 1.0, ..Example::default() }
}

pub fn examples() -> Vec<Example> {
    vec![
        example("who owns the mill?", " the miller", 0),
        example("where does the river flow?", " to the sea", 0),
        example("what does the mill grind?", " grain", 1),
        example("what flows past the mill?", " the river", 1),
        example("", "the old mill grinds the grain", 2),
    ]
}

pub fn recipe() -> Recipe {
    Recipe { rank: 4, alpha: 8.0, steps: 12, batch: 3, max_len: 64, warmup: 2, seed: 11, ..Recipe::default() }
}

fn finish(mut trainer: Trainer) -> (Vec<u8>, f32) {
    let mut loss = f32::NAN;
    while !trainer.is_done() {
        loss = trainer.step().unwrap().loss;
    }
    (trainer.checkpoint(), loss)
}

pub fn train(base: &Base, recipe: &Recipe, examples: &[Example]) -> Vec<u8> {
    finish(Trainer::new(base, recipe, examples).unwrap()).0
}

fn loss_of(base: &Base, trainer: &Trainer, example: &Example) -> f32 {
    let tokenizer = base.tokenizer();
    let prompt = tokenizer.encode_prompt(&example.prompt).unwrap();
    let completion = tokenizer.encode_completion(&example.completion).unwrap();
    let adapter = trainer.adapter().unwrap();
    let target = [Target::new(&prompt, &completion)];
    let losses = token_losses(base.model(), Mode::Infer, Hook::One(&adapter, None), &target).unwrap();
    losses.mean_all().unwrap().to_scalar().unwrap()
}

#[test]
fn learns_its_examples_by_heart() {
    let base = base(1);
    let recipe = Recipe { steps: 120, lr: 1e-2, ..recipe() };
    let mut trainer = Trainer::new(&base, &recipe, &examples()).unwrap();
    let first = trainer.step().unwrap();
    assert!(first.loss > 3.0 && first.tokens > 0 && first.gradient_norm > 0.0);
    while !trainer.is_done() {
        trainer.step().unwrap();
    }
    for example in examples() {
        let loss = loss_of(&base, &trainer, &example);
        assert!(loss < 0.1, "{example:?} still costs {loss} nats a token");
    }
    assert!(trainer.step().is_err(), "a finished run goes no further");
}

#[test]
fn resuming_at_any_step_changes_no_bit() {
    let base = base(1);
    for dropout in [0.0, 0.2] {
        let recipe = Recipe { dropout, ..recipe() };
        let whole = train(&base, &recipe, &examples());
        for stop in [0, 1, 7, 12] {
            let mut trainer = Trainer::new(&base, &recipe, &examples()).unwrap();
            for _ in 0..stop {
                trainer.step().unwrap();
            }
            let resumed = Trainer::resume(&base, &recipe, &examples(), &trainer.checkpoint()).unwrap();
            assert_eq!(resumed.steps_done(), stop);
            assert_eq!(finish(resumed).0, whole, "resumed at {stop} with dropout {dropout}");
        }
    }
}

#[test]
fn a_replayed_segment_ends_in_the_same_checkpoint() {
    let base = base(1);
    let mut trainer = Trainer::new(&base, &recipe(), &examples()).unwrap();
    let mut checkpoints = vec![trainer.checkpoint()];
    while !trainer.is_done() {
        trainer.step().unwrap();
        checkpoints.push(trainer.checkpoint());
    }
    for (start, end) in [(0_usize, 4_u32), (4, 8), (8, 12), (5, 5)] {
        let replayed = replay(&base, &recipe(), &examples(), &checkpoints[start], end).unwrap();
        assert_eq!(replayed, checkpoints[end as usize]);
    }
    assert!(replay(&base, &recipe(), &examples(), &checkpoints[6], 5).is_err());
    // One value nudged by one bit, as a cheating worker would: the segment no longer ends where it claims.
    let mut forged = checkpoints[4].clone();
    let last_value = forged.len() / 3;
    forged[last_value] ^= 1;
    assert_ne!(replay(&base, &recipe(), &examples(), &forged, 8).unwrap(), checkpoints[8]);
}

#[test]
fn the_seed_decides_everything() {
    let base = base(1);
    let run = |seed| train(&base, &Recipe { seed, ..recipe() }, &examples());
    assert_eq!(run(1), run(1));
    assert_ne!(run(1)[VALUES_AT..], run(2)[VALUES_AT..]);
}

#[test]
fn weight_zero_removes_all_influence() {
    let base = base(1);
    let without = Example::leave_out(&examples(), 1);
    assert!(without.iter().all(|example| (example.weight == 0.0) == (example.contributor == 1)));
    // Whatever an equally long text of contributor 1 said, the run without it is the same.
    let mut other = without.clone();
    for example in other.iter_mut().filter(|example| example.contributor == 1) {
        example.prompt = example.prompt.chars().rev().collect();
    }
    let recipe = Recipe { dropout: 0.1, ..recipe() };
    let same_length = |left: &Example, right: &Example| {
        let count = |text: &str| base.tokenizer().encode(text).unwrap().len();
        count(&left.completion) == count(&right.completion)
    };
    assert!(without.iter().zip(&other).all(|(left, right)| same_length(left, right)));
    let values = |examples: &[Example]| train(&base, &recipe, examples)[VALUES_AT..].to_vec();
    assert_eq!(values(&without), values(&other));
    assert_ne!(values(&without), values(&examples()));
}

#[test]
fn a_batch_of_nothing_but_left_out_examples_passes() {
    let base = base(1);
    let nothing: Vec<Example> = (0..3).fold(examples(), |examples, who| Example::leave_out(&examples, who));
    let mut trainer = Trainer::new(&base, &recipe(), &nothing).unwrap();
    let before = trainer.adapter().unwrap().values().unwrap();
    let report = trainer.step().unwrap();
    assert_eq!((report.tokens, report.loss), (0, 0.0));
    assert_eq!(trainer.adapter().unwrap().values().unwrap(), before);
}

#[test]
fn checkpoints_of_others_are_refused() {
    let base = base(1);
    let checkpoint = Trainer::new(&base, &recipe(), &examples()).unwrap().checkpoint();
    let resume = |recipe: &Recipe, examples: &[Example], bytes: &[u8]| Trainer::resume(&base, recipe, examples, bytes);
    assert!(resume(&recipe(), &examples(), &checkpoint).is_ok());
    assert!(resume(&Recipe { lr: 1e-4, ..recipe() }, &examples(), &checkpoint).is_err());
    assert!(resume(&Recipe { rank: 5, ..recipe() }, &examples(), &checkpoint).is_err());
    assert!(resume(&recipe(), &examples()[1..], &checkpoint).is_err());
    assert!(Trainer::resume(&self::base(2), &recipe(), &examples(), &checkpoint).is_err());
    assert!(resume(&recipe(), &examples(), &checkpoint[..checkpoint.len() - 1]).is_err());
    assert!(resume(&recipe(), &examples(), &[]).is_err());
    let with = |at: usize, bytes: [u8; 4]| {
        let mut forged = checkpoint.clone();
        forged[at..at + 4].copy_from_slice(&bytes);
        forged
    };
    let cases = [with(0, *b"XXXX"), with(40, 13_u32.to_le_bytes()), with(VALUES_AT, f32::NAN.to_le_bytes())];
    for forged in cases {
        assert!(matches!(resume(&recipe(), &examples(), &forged), Err(TrainError::Checkpoint(_))));
    }
    let last = checkpoint.len() - 4;
    assert!(resume(&recipe(), &examples(), &with(last, (-1.0_f32).to_le_bytes())).is_err());
}

#[test]
fn an_example_that_nothing_can_be_learned_from_keeps_no_other_from_being_trained() {
    let base = base(1);
    let conversation = |messages: &str| Example { messages: Some(messages.into()), ..example("", "", 0) };
    let useless = [conversation("[]"), conversation("no JSON"), conversation(r#"[{"role": "user"}]"#)];
    let Err(refused) = Trainer::new(&base, &recipe(), &useless) else { panic!("there is nothing to train on") };
    assert!(refused.to_string().contains("none of 3 can be trained") && refused.to_string().contains("example 0"));
    // The others come in the same order, at the same steps: only the run's name, which is of all that was given, is another.
    let (mut all, places) = (examples(), [0, 2, 4]);
    for (place, bad) in places.into_iter().zip(useless) {
        all.insert(place, bad);
    }
    let [with, without] = [all, examples()].map(|examples| train(&base, &recipe(), &examples));
    assert_eq!(with[VALUES_AT..], without[VALUES_AT..]);
}

#[test]
fn unusable_examples_are_refused_and_long_ones_cut() {
    let base = base(1);
    assert!(Trainer::new(&base, &recipe(), &[]).is_err());
    for weight in [f32::NAN, -1.0, f32::INFINITY] {
        let bad = [Example { weight, ..example("a", "b", 0) }];
        assert!(matches!(Trainer::new(&base, &recipe(), &bad), Err(TrainError::Examples(_))));
    }
    let long = "the old mill ".repeat(200);
    let cut = [example(&long, &long, 0), example("", &long, 0), example(&long, " grain", 0), example("a", "b", 0)];
    let mut trainer = Trainer::new(&base, &Recipe { batch: 4, ..recipe() }, &cut).unwrap();
    assert_eq!(trainer.examples_cut(), 3);
    assert!(trainer.step().unwrap().tokens <= 4 * 63);
}

#[test]
fn a_pretrained_base_learns_resumes_and_loads_back() {
    let texts: Vec<String> =
        ["the old mill", "the old river", "the river flows", "the mill grinds"].map(String::from).to_vec();
    let tokenizer = train_byte_level(&texts, 280).unwrap();
    assert_eq!(tokenizer, train_byte_level(&texts, 280).unwrap(), "equal texts give equal tokenizers");
    let config = config(280);
    let tokens = tributary_compute::tokenizer::Tokenizer::from_bytes(&tokenizer, 280, Some(0), &[0]).unwrap();
    let sequence = |text: &String| [tokens.encode_prompt(text).unwrap(), vec![0]].concat();
    let sequences: Vec<Vec<u32>> = texts.iter().map(sequence).collect();
    let recipe = PretrainRecipe { steps: 60, batch: 4, lr: 5e-3, warmup: 5, clip: 1.0, weight_decay: 0.01, seed: 3 };
    let mut trainer = Pretrainer::new(&config, &recipe, sequences.clone()).unwrap();
    let first = trainer.step().unwrap().loss;
    let early = trainer.checkpoint();
    let mut last = first;
    while !trainer.is_done() {
        last = trainer.step().unwrap().loss;
    }
    assert!(last < 0.7 * first && last < 1.5, "loss {first} to {last}");
    let mut resumed = Pretrainer::resume(&config, &recipe, sequences, &early).unwrap();
    while !resumed.is_done() {
        resumed.step().unwrap();
    }
    assert_eq!(resumed.checkpoint(), trainer.checkpoint());
    for kind in [WeightType::F16, WeightType::F32] {
        let file = trainer.to_safetensors(kind).unwrap();
        assert_eq!(file, resumed.to_safetensors(kind).unwrap());
        let base = Base::from_bytes(&config.to_json(), &tokenizer, &file).unwrap();
        let target = [Target::new(&tokens.encode_prompt("the").unwrap(), &tokens.encode(" old").unwrap())];
        let losses = token_losses(base.model(), Mode::Infer, Hook::Base, &target).unwrap();
        assert!(losses.mean_all().unwrap().to_scalar::<f32>().unwrap() < 2.0);
    }
}
