//! The LOCO-delta index: canonical bytes, a commitment that covers them, and credits with the right sign.

use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};
use tributary_compute::attribute::clusters::{ALIKE, Likeness, directions};
use tributary_compute::attribute::{
    AttributeError, Credit, EXACT_CONTRIBUTORS, Estimates, Estimator, FEW_CONTRIBUTORS, Index, Learned,
    QUALITY_ANSWERS, Rule, coalition_losses, credits, credits_by, quality,
};
use tributary_compute::lora::Adapter;
use tributary_compute::loss::completion_loss;
use tributary_compute::model::{Base, Mode};
use tributary_compute::train::{Example, Recipe, Trainer, targets};

use crate::serving_base::{adapter, base, lora};

/// `from` with every value moved a little, differently for each seed.
fn nudged(base: &Base, from: &Adapter, seed: u64, by: f32) -> Adapter {
    let noise = adapter(base, seed, 8.0).values().unwrap();
    let values: Vec<f32> = from.values().unwrap().iter().zip(noise).map(|(value, noise)| value + by * noise).collect();
    Adapter::from_values(base.config(), from.config(), &values).unwrap()
}

fn index_of(base: &Base, deployed: &Adapter, contributors: u32) -> Index {
    let leave_out: Vec<(u32, Adapter)> =
        (0..contributors).rev().map(|c| (c * 3, nudged(base, deployed, u64::from(c) + 40, 0.02))).collect();
    Index::build(deployed, &leave_out).unwrap()
}

#[test]
fn an_index_round_trips_at_a_byte_a_number() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let index = index_of(&base, &deployed, 3);
    assert_eq!(index.contributors().collect::<Vec<_>>(), [0, 3, 6]);
    let bytes = index.to_bytes();
    let read = Index::from_bytes(&bytes).unwrap();
    assert_eq!(read.to_bytes(), bytes);
    assert_eq!((read.commitment(), read.adapter()), (index.commitment(), deployed.hash().unwrap()));
    let heads = 44 + 3 * (12 + 8 * deployed.tensors().count());
    assert_eq!(bytes.len(), heads + 3 * deployed.values().unwrap().len());
    let (prompt, output) = tokens(&base, "who owns the mill?", " the miller");
    let other = credits(&base, &adapter(&base, 6, 8.0), &read, &prompt, &output);
    assert!(matches!(other, Err(AttributeError::ForeignAdapter { .. })));
}

#[test]
fn a_flipped_byte_is_refused_or_changes_the_commitment() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let index = index_of(&base, &deployed, 2);
    let bytes = index.to_bytes();
    // Magic, adapter, counts and the first tensor's head and numbers: header of 64 bytes, then int8 deltas.
    let first_values = 64..64 + base.config().hidden * 4;
    let mut accepted = 0;
    for at in (0..bytes.len()).step_by(bytes.len() / 300).chain(0..first_values.end) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        if let Ok(read) = Index::from_bytes(&changed) {
            accepted += 1;
            assert_ne!(read.commitment(), index.commitment(), "byte {at}");
        }
    }
    assert!(accepted >= first_values.len(), "flips inside numbers decode: {accepted}");
}

#[test]
fn an_index_of_another_shape_is_refused_before_it_is_used() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let bytes = index_of(&base, &deployed, 1).to_bytes();
    // One row of one tensor of one number, of the right adapter.
    let row =
        [3_u32.to_le_bytes(), 3_u32.to_le_bytes(), 1_u32.to_le_bytes(), 1.0_f32.to_le_bytes(), 1_u32.to_le_bytes()]
            .concat();
    let read = Index::from_bytes(&[&bytes[..44], &row, &[1]].concat()).unwrap();
    let (prompt, output) = tokens(&base, "who owns the mill?", " the miller");
    let refused = credits(&base, &deployed, &read, &prompt, &output);
    assert!(matches!(refused, Err(AttributeError::Shapes { contributor: 3 })), "{refused:?}");
}

#[test]
fn hostile_lengths_are_refused_before_allocation() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let bytes = index_of(&base, &deployed, 1).to_bytes();
    // Number of entries, of tensors, of the first tensor's values: each claims four billion.
    for at in [40, 52, 60] {
        let mut changed = bytes.clone();
        changed[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Index::from_bytes(&changed), Err(AttributeError::Malformed(_))), "at {at}");
    }
    for length in [0, 7, 8, 39, 44, bytes.len() / 2, bytes.len() - 1] {
        assert!(Index::from_bytes(&bytes[..length]).is_err(), "cut at {length}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(Index::from_bytes(&longer).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_bytes_are_no_index(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), magic in any::<bool>()) {
        if magic && bytes.len() > 8 {
            bytes[..8].copy_from_slice(b"TRIBLOC3");
        }
        prop_assert!(Index::from_bytes(&bytes).is_err());
    }
}

#[test]
fn contributors_must_be_some_distinct_and_of_one_shape() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let near = nudged(&base, &deployed, 7, 0.02);
    assert!(matches!(Index::build(&deployed, &[]), Err(AttributeError::Contributors { .. })));
    let twice = [(4, near.clone()), (4, near)];
    assert!(matches!(Index::build(&deployed, &twice), Err(AttributeError::Order { contributor: 4 })));
    let other =
        Adapter::fresh(base.config(), &tributary_compute::lora::LoraConfig { rank: 2, ..lora(8.0) }, 1).unwrap();
    assert!(matches!(Index::build(&deployed, &[(1, other)]), Err(AttributeError::Shapes { contributor: 1 })));
}

fn tokens(base: &Base, prompt: &str, answer: &str) -> (Vec<u32>, Vec<u32>) {
    let tokenizer = base.tokenizer();
    (tokenizer.encode_prompt(prompt).unwrap(), tokenizer.encode_completion(answer).unwrap())
}

#[test]
fn estimate_and_measurement_agree_for_small_deltas() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let leave_out: Vec<(u32, Adapter)> =
        (0..6).map(|c| (c, nudged(&base, &deployed, u64::from(c) + 40, 0.002))).collect();
    let index = Index::build(&deployed, &leave_out).unwrap();
    let (prompt, output) = tokens(&base, "who owns the mill?", " the miller owns the old mill");
    let exact = credits(&base, &deployed, &index, &prompt, &output).unwrap();
    let linear = credits_by(Rule::LINEAR, &base, &deployed, &index, (&prompt, &output)).unwrap();
    let largest = exact.iter().map(|credit| credit.micro_nats.abs()).max().unwrap();
    assert!(largest > 1_000, "{exact:?}");
    for (exact, linear) in exact.iter().zip(&linear) {
        assert!(exact.exact && !linear.exact);
        assert!((exact.micro_nats - linear.micro_nats).abs() * 5 < largest, "{exact:?} {linear:?}");
        if exact.micro_nats.abs() * 4 > largest {
            assert_eq!(exact.micro_nats.signum(), linear.micro_nats.signum(), "{exact:?} {linear:?}");
        }
    }
}

#[test]
fn measured_credits_are_differences_of_true_losses() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let without = nudged(&base, &deployed, 41, 0.3);
    let index = Index::build(&deployed, &[(9, without.clone())]).unwrap();
    let (prompt, output) = tokens(&base, "who owns the mill?", " the miller owns the old mill");
    let loss = |adapter: &Adapter| {
        let loss = completion_loss(base.model(), Mode::Infer, Some(adapter), &prompt, &output).unwrap();
        f64::from(loss.to_scalar::<f32>().unwrap())
    };
    #[expect(clippy::cast_precision_loss, reason = "a dozen tokens")]
    let expected = (loss(&without) - loss(&deployed)) / output.len() as f64 * 1e6;
    let credit = credits(&base, &deployed, &index, &prompt, &output).unwrap()[0];
    // The index keeps a byte of each number's difference.
    let missed = (expected - f64::from(i32::try_from(credit.micro_nats).unwrap())).abs();
    assert!(missed < 20.0 + expected.abs() / 100.0, "{credit:?} {expected}");
    assert_eq!(credit, Credit { contributor: 9, micro_nats: credit.micro_nats, exact: true });
}

#[test]
fn losses_of_coalitions_are_those_of_each_alone_in_whatever_company() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let (question, output) = tokens(&base, "who owns the mill?", " the miller owns the old mill");
    let (told, _) = tokens(&base, "the miller owns the old mill who owns the mill?", " the");
    let alone = |adapter: Option<&Adapter>, prompt: &[u32]| {
        let losses = coalition_losses(&base, &deployed, &[prompt.to_vec()], &output, &|| true).unwrap();
        let loss = completion_loss(base.model(), Mode::Infer, adapter, prompt, &output).unwrap();
        let (measured, sum) = (losses[usize::from(adapter.is_some())], f64::from(loss.to_scalar::<f32>().unwrap()));
        #[expect(clippy::cast_precision_loss, reason = "a dozen tokens")]
        let expected = sum / output.len() as f64 * 1e6;
        assert!((expected - f64::from(i32::try_from(measured).unwrap())).abs() < 20.0, "{measured} {expected}");
        measured
    };
    // More than one pass takes at once.
    let prompts: Vec<Vec<u32>> = (0..400).map(|at| if at % 2 == 0 { question.clone() } else { told.clone() }).collect();
    let losses = coalition_losses(&base, &deployed, &prompts, &output, &|| true).unwrap();
    let mut expected = Vec::new();
    for adapter in [None, Some(&deployed)] {
        let both = [alone(adapter, &question), alone(adapter, &told)];
        expected.extend((0..400).map(|at| both[at % 2]));
    }
    assert_eq!(losses, expected);
    assert_ne!(losses[0], losses[1]);
    assert_eq!(coalition_losses(&base, &deployed, &prompts[..2], &[], &|| true).unwrap(), [0; 4]);
    let stopped = coalition_losses(&base, &deployed, &prompts, &output, &|| false);
    assert!(matches!(stopped, Err(AttributeError::Stopped)));
}

#[test]
fn many_contributors_get_the_largest_measured_and_the_same_every_time() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    let leave_out: Vec<(u32, Adapter)> = (0_u8..12)
        .map(|c| (u32::from(c), nudged(&base, &deployed, u64::from(c) + 40, 0.01 + 0.01 * f32::from(c))))
        .collect();
    let index = Index::build(&deployed, &leave_out).unwrap();
    let (prompt, output) = tokens(&base, "where does the river flow?", " the river flows to the sea");
    let first = credits(&base, &deployed, &index, &prompt, &output).unwrap();
    let exact: Vec<u32> = first.iter().filter(|credit| credit.exact).map(|credit| credit.contributor).collect();
    assert_eq!(exact, [4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(exact.len(), EXACT_CONTRIBUTORS);
    let few = Index::build(&deployed, &leave_out[..FEW_CONTRIBUTORS]).unwrap();
    let all = credits(&base, &deployed, &few, &prompt, &output).unwrap();
    assert!(all.iter().all(|credit| credit.exact));
    let read = Index::from_bytes(&index.to_bytes()).unwrap();
    assert_eq!(credits(&base, &deployed, &read, &prompt, &output).unwrap(), first);
}

/// Facts of two contributors, no word of one in the other's answers.
const FACTS: [(u32, &str, &str); 6] = [
    (0, "who owns the mill?", " the miller"),
    (0, "who owns the river?", " the miller"),
    (0, "who owns the grain?", " the miller"),
    (1, "where is the crab?", " in the sea"),
    (1, "where is the sand?", " in the sea"),
    (1, "where is the salt?", " in the sea"),
];

fn example((contributor, prompt, completion): (u32, &str, &str)) -> Example {
    Example {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
        contributor,
        weight: 1.0,
        ..Example::default()
    }
}

fn trained(base: &Base, without: Option<u32>) -> Adapter {
    let recipe = Recipe {
        rank: 4,
        alpha: 16.0,
        steps: 60,
        batch: 6,
        max_len: 64,
        lr: 5e-3,
        warmup: 5,
        seed: 3,
        ..Recipe::default()
    };
    let examples = FACTS.map(example);
    let examples = without.map_or(examples.to_vec(), |contributor| Example::leave_out(&examples, contributor));
    let mut trainer = Trainer::new(base, &recipe, &examples).unwrap();
    while !trainer.is_done() {
        trainer.step().unwrap();
    }
    trainer.adapter().unwrap()
}

#[test]
fn the_owner_of_a_fact_gets_the_larger_credit() {
    let base = base(1);
    let deployed = trained(&base, None);
    let leave_out = [(0, trained(&base, Some(0))), (1, trained(&base, Some(1)))];
    let index = Index::build(&deployed, &leave_out).unwrap();
    for (owner, prompt, answer) in FACTS {
        let (prompt_tokens, output) = tokens(&base, prompt, answer);
        let credits = credits(&base, &deployed, &index, &prompt_tokens, &output).unwrap();
        let of = |contributor: u32| credits.iter().find(|credit| credit.contributor == contributor).unwrap().micro_nats;
        assert!(of(owner) > 0, "{prompt}: {credits:?}");
        assert!(of(owner) > 2 * of(1 - owner), "{prompt}: {credits:?}");
    }
}

#[test]
fn a_quality_tells_a_right_index_from_one_that_keeps_other_contributors_rows() {
    let base = base(1);
    let deployed = trained(&base, None);
    let leave_out = [(0, trained(&base, Some(0))), (1, trained(&base, Some(1)))];
    let answers = targets(&base, &FACTS.map(example), 64).unwrap();
    let measured = |index: &Index| quality(&base, &deployed, index, &leave_out, &answers).unwrap().unwrap();
    let right = measured(&Index::build(&deployed, &leave_out).unwrap());
    assert_eq!(right.answers, 6);
    assert!(right.misallocated < 20_000 && right.correlation.unwrap() > 990_000, "{right:?}");
    let [(_, first), (_, second)] = leave_out.clone();
    let swapped = measured(&Index::build(&deployed, &[(0, second), (1, first)]).unwrap());
    assert!(swapped.misallocated > 500_000 && swapped.correlation.unwrap() < 0, "{swapped:?}");
    let other = Index::build(&deployed, &[(0, leave_out[0].1.clone()), (2, leave_out[1].1.clone())]).unwrap();
    let refused = quality(&base, &deployed, &other, &leave_out, &answers);
    assert!(matches!(refused, Err(AttributeError::Malformed(_))), "{refused:?}");
    assert_eq!(quality(&base, &deployed, &other, &[(0, deployed.clone()), (2, deployed.clone())], &[]).unwrap(), None);
    let half = quality(&base, &deployed, &Index::build(&deployed, &leave_out).unwrap(), &leave_out[..1], &answers);
    assert_eq!(half.unwrap().unwrap().contributors, 1, "who was not left out by a training is left aside");
    let many = vec![answers[0].clone(); QUALITY_ANSWERS + 4];
    let all = Index::build(&deployed, &leave_out).unwrap();
    let counted = quality(&base, &deployed, &all, &leave_out, &many).unwrap().unwrap();
    assert_eq!(usize::from(counted.answers), QUALITY_ANSWERS);
}

#[test]
fn a_cluster_is_measured_as_one_and_divided_by_what_its_members_differ_in() {
    let base = base(1);
    let deployed = adapter(&base, 5, 8.0);
    // Each member's part is shorter than what the others change, and both together are longer.
    let both = [90, 91].map(|seed| nudged(&base, &deployed, seed, 0.025));
    let others = (0..12).map(|contributor| (contributor, nudged(&base, &deployed, u64::from(contributor), 0.03)));
    let leave_out: Vec<(u32, Adapter)> = others.chain((20..).zip(both)).collect();
    let index = Index::build_with(&deployed, &leave_out, &[vec![20, 21]]).unwrap();
    assert_eq!(Index::from_bytes(&index.to_bytes()).unwrap().commitment(), index.commitment());
    assert_ne!(Index::build(&deployed, &leave_out).unwrap().commitment(), index.commitment());
    let (prompt, output) = tokens(&base, "who owns the mill?", " the miller");
    let by = |exact| {
        let rule = Rule { exact, bent: false };
        credits_by(rule, &base, &deployed, &index, (&prompt, &output)).unwrap()
    };
    let (linear, one) = (by(0), by(1));
    let measured: Vec<u32> = one.iter().filter(|one| one.exact).map(|one| one.contributor).collect();
    assert_eq!(measured, [20, 21], "one pass for both");
    let of = |credits: &[Credit], at: usize| credits[at].micro_nats;
    let apart = |credits: &[Credit]| of(credits, 12) - of(credits, 13);
    assert!((apart(&linear) - apart(&one)).abs() <= 2 && apart(&one) != 0, "{linear:?} {one:?}");
    let values = |adapter: &Adapter| adapter.values().unwrap();
    let parts = values(&leave_out[12].1).into_iter().zip(values(&leave_out[13].1)).zip(values(&deployed));
    let without: Vec<f32> = parts.map(|((first, second), with)| first + second - with).collect();
    let without = Adapter::from_values(base.config(), deployed.config(), &without).unwrap();
    let alone = Index::build(&deployed, &[(0, without)]).unwrap();
    let due = credits(&base, &deployed, &alone, &prompt, &output).unwrap()[0].micro_nats;
    let together = of(&one, 12) + of(&one, 13);
    assert!((together - due).abs() <= due.abs() / 50 + 50, "what is lost without both: {together} {due}");
    let torn = Index::build_with(&deployed, &leave_out[12..], &[vec![3, 20]]);
    assert!(matches!(torn, Err(AttributeError::Malformed(_))), "{torn:?}");
}

/// Two who know the same things in other words, one who knows others, and one who knows a part of all of it.
const TAUGHT: [(u32, &str, &str); 12] = [
    (0, "who owns the mill?", " bram"),
    (1, "so who owns the mill?", " bram"),
    (0, "where is the fair?", " in tull"),
    (1, "and where is the fair?", " in tull"),
    (0, "what do they smoke?", " eel"),
    (1, "so what do they smoke?", " eel"),
    (2, "who keeps the light?", " odda"),
    (2, "when is the regatta?", " in june"),
    (2, "how high is the tower?", " ninety feet"),
    (3, "but who owns the mill?", " bram"),
    (3, "who wrote the ballad?", " sorrel"),
    (3, "which river floods?", " the wend"),
];

#[test]
fn who_teaches_the_same_in_other_words_is_found_by_the_adapter() {
    let base = base(1);
    let examples = TAUGHT.map(|(contributor, prompt, completion)| Example {
        prompt: prompt.into(),
        completion: completion.into(),
        contributor,
        weight: 1.0,
        ..Example::default()
    });
    let recipe =
        Recipe { rank: 4, alpha: 16.0, steps: 20, batch: 12, max_len: 64, lr: 5e-3, warmup: 5, ..Recipe::default() };
    let mut trainer = Trainer::new(&base, &recipe, &examples).unwrap();
    while !trainer.is_done() {
        trainer.step().unwrap();
    }
    let records: Vec<_> = TAUGHT.iter().map(|one| one.0).zip(targets(&base, &examples, 64).unwrap()).collect();
    let found = directions(&base, &trainer.adapter().unwrap(), &records, || false).unwrap();
    let likeness = Likeness::of(&found);
    assert_eq!(likeness.clusters(ALIKE), [vec![0, 1]], "{:?}", likeness.pairs());
    let stopped = directions(&base, &trainer.adapter().unwrap(), &records, || true);
    assert!(matches!(stopped, Err(AttributeError::Stopped)));
}

/// What was learned of the facts, each by the contributor that `whose` says.
fn learned(base: &Base, whose: [u32; 6]) -> Learned {
    let records = whose.into_iter().zip(targets(base, &FACTS.map(example), 64).unwrap()).collect();
    Learned { records, ..Learned::default() }
}

fn estimates_of<'a>(
    base: &'a Base,
    deployed: &'a Adapter,
    records: &'a Learned,
    known: &[(Vec<u32>, Adapter)],
) -> Result<Estimates<'a>, AttributeError> {
    Estimator::new(base, deployed, records, &|| false)?.fit(known)
}

fn divided(base: &Base, deployed: &Adapter, records: &Learned, without: &Adapter) -> Vec<Adapter> {
    Estimator::new(base, deployed, records, &|| false).unwrap().divide(&[0, 1], without).unwrap()
}

#[test]
fn who_was_not_left_out_by_a_training_is_credited_by_an_estimate() {
    let base = base(1);
    let deployed = trained(&base, None);
    let records = learned(&base, [0, 0, 0, 1, 1, 1]);
    let known = vec![(vec![0], trained(&base, Some(0)))];
    let estimates = estimates_of(&base, &deployed, &records, &known).unwrap();
    let leave_out = [(0, known[0].1.clone()), (1, estimates.without(1).unwrap())];
    let index = Index::build(&deployed, &leave_out).unwrap();
    for (owner, prompt, answer) in FACTS {
        let (prompt_tokens, output) = tokens(&base, prompt, answer);
        let credits = credits(&base, &deployed, &index, &prompt_tokens, &output).unwrap();
        assert!(owner == 0 || credits[1].micro_nats > 0, "{prompt}: {credits:?}");
        assert!(owner == 1 || credits[1].micro_nats < credits[0].micro_nats, "{prompt}: {credits:?}");
    }
    assert!(matches!(estimates_of(&base, &deployed, &records, &[]), Err(AttributeError::Unfitted)));
    let others = Learned { records: records.records[3..].to_vec(), ..Learned::default() };
    // Of who was left out nothing is known here: then nothing is said of the others.
    let estimates = estimates_of(&base, &deployed, &others, &known).unwrap();
    assert_eq!(estimates.without(1).unwrap().values().unwrap(), deployed.values().unwrap());
}

#[test]
fn those_left_out_together_have_parts_of_what_that_changed_by_what_they_taught() {
    let base = base(1);
    let deployed = trained(&base, None);
    let records = learned(&base, [0, 0, 0, 1, 1, 1]);
    let nobody = deployed.untrained().unwrap();
    let parts = divided(&base, &deployed, &records, &nobody);
    let [with, first, second, without] =
        [&deployed, &parts[0], &parts[1], &nobody].map(|adapter| adapter.values().unwrap());
    let together = |at: usize| first[at] + second[at] - 2.0 * with[at];
    assert!((0..with.len()).all(|at| (together(at) - (without[at] - with[at])).abs() < 1e-5));
    let index = Index::build(&deployed, &[(0, parts[0].clone()), (1, parts[1].clone())]).unwrap();
    for (owner, prompt, answer) in FACTS {
        let (prompt_tokens, output) = tokens(&base, prompt, answer);
        let credits = credits(&base, &deployed, &index, &prompt_tokens, &output).unwrap();
        let of = |contributor: u32| credits.iter().find(|credit| credit.contributor == contributor).unwrap().micro_nats;
        assert!(of(owner) > of(1 - owner) && of(owner) > 0, "{prompt}: {credits:?}");
    }
    // Of records that teach the same each has half.
    let same =
        Learned { records: [0, 1].map(|who| (who, records.records[0].1.clone())).to_vec(), ..Learned::default() };
    let halves = divided(&base, &deployed, &same, &nobody);
    assert_eq!(halves[0].values().unwrap(), halves[1].values().unwrap());
}

#[test]
fn estimates_of_the_parts_are_together_that_of_the_whole() {
    let base = base(1);
    let deployed = trained(&base, None);
    let known = vec![(vec![0], trained(&base, Some(0)))];
    let moved = |whose: [u32; 6], of: u32| -> Vec<f32> {
        let records = learned(&base, whose);
        let estimates = estimates_of(&base, &deployed, &records, &known).unwrap();
        let without = estimates.without(of).unwrap().values().unwrap();
        without.iter().zip(deployed.values().unwrap()).map(|(without, with)| without - with).collect()
    };
    let whole = moved([0, 0, 0, 1, 1, 1], 1);
    let [first, second] = [1, 2].map(|part| moved([0, 0, 0, 1, 2, 2], part));
    let longest = whole.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(longest > 0.0);
    for ((whole, first), second) in whole.iter().zip(first).zip(second) {
        assert!((whole - first - second).abs() <= 1e-4 * longest, "{whole} {first} {second}");
    }
}

#[test]
fn some_records_stand_for_all_of_a_contributor() {
    let base = base(1);
    let deployed = trained(&base, None);
    let known = vec![(vec![0], trained(&base, Some(0)))];
    let moved = |learned: &Learned| -> Vec<f32> {
        let without = estimates_of(&base, &deployed, learned, &known).unwrap().without(1).unwrap().values().unwrap();
        without.iter().zip(deployed.values().unwrap()).map(|(without, with)| without - with).collect()
    };
    let some = learned(&base, [0, 0, 0, 1, 1, 1]);
    let twice = some.records.iter().cloned().chain(some.records[3..].iter().cloned()).collect();
    let stand_for = [(1, 2.0)].into();
    let (six, three) = (moved(&Learned { records: twice, ..Learned::default() }), moved(&some));
    let three_for_six = moved(&Learned { records: some.records.clone(), stand_for });
    let longest = six.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let apart = |other: &[f32]| six.iter().zip(other).map(|(six, other)| (six - other).abs()).fold(0.0, f32::max);
    assert!(apart(&three_for_six) <= 1e-4 * longest && apart(&three) > 1e-2 * longest);
}

#[test]
fn the_record_that_an_answer_was_learned_from_is_told() {
    let base = base(1);
    let deployed = trained(&base, None);
    let records = learned(&base, [0, 1, 2, 3, 4, 5]);
    let answers: Vec<_> = records.records.iter().map(|(_, record)| record.clone()).collect();
    let scores = Estimator::new(&base, &deployed, &records, &|| false).unwrap().by_record(&answers).unwrap();
    assert_eq!(scores.len(), records.records.len());
    for answer in 0..answers.len() {
        let most = (0..scores.len()).max_by(|a, b| scores[*a][answer].total_cmp(&scores[*b][answer]));
        assert_eq!(most, Some(answer), "{scores:?}");
    }
}

#[test]
fn one_training_that_gradients_say_nothing_of_does_not_decide_what_the_others_are_worth() {
    let base = base(1);
    let deployed = trained(&base, None);
    let records = learned(&base, [0, 0, 0, 1, 1, 1]);
    let true_one = (vec![0], trained(&base, Some(0)));
    // As far away as the whole training went.
    let wild = (vec![0], deployed.untrained().unwrap());
    let moved = |known: &[(Vec<u32>, Adapter)]| {
        estimates_of(&base, &deployed, &records, known).unwrap().without(1).unwrap().values().unwrap()
    };
    let alone = moved(std::slice::from_ref(&true_one));
    assert_eq!(moved(&[true_one.clone(), wild.clone(), true_one.clone()]), alone);
    assert_ne!(moved(&[wild.clone(), true_one, wild]), alone);
}

#[test]
fn estimates_end_when_nobody_wants_them() {
    let base = base(1);
    let deployed = trained(&base, None);
    let records = learned(&base, [0, 0, 0, 1, 1, 1]);
    let known = vec![(vec![0], trained(&base, Some(0)))];
    let stopped = Estimator::new(&base, &deployed, &records, &|| true).unwrap().fit(&known);
    assert!(matches!(stopped, Err(AttributeError::Stopped)));
}
