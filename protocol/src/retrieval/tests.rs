use proptest::prelude::*;

use super::*;
use crate::attribution::{NOISE_MICRO_NATS, commons_weight};

const NAT: i64 = 1_000_000;

fn passage(number: u8) -> Passage {
    Passage { record: Hash([number; 32]), contributor: 0, prompt: "p".into(), completion: "c".into() }
}

fn context(count: u8, losses: Vec<i64>) -> Context {
    Context { passages: (0..count).map(passage).collect(), losses }
}

fn owner(identity: u8) -> (AccountId, ChainAddress) {
    (AccountId([identity; 32]), ChainAddress([identity; 20]))
}

fn score(identity: u8, micro_nats: i64) -> CreditScore {
    let (account, payout) = owner(identity);
    CreditScore { account, payout, micro_nats }
}

fn weight(shares: &[Share], identity: u8) -> u32 {
    shares.iter().find(|share| share.account.0[0] == identity).map_or(0, |share| share.weight)
}

/// Losses of one to five passages, from noise to many nats.
fn losses() -> impl Strategy<Value = (u8, Vec<i64>)> {
    let loss = prop_oneof![0..20_000_i64, 0..9 * NAT];
    (1..=5_u8).prop_flat_map(move |count| {
        let all = proptest::collection::vec(loss.clone(), coalitions(count.into()));
        (Just(count), all)
    })
}

/// The losses with passages `one` and `other` exchanged.
fn exchanged(count: u8, losses: &[i64], one: u8, other: u8) -> Vec<i64> {
    let swap = |place: usize| {
        let (first, second) = (place >> one & 1, place >> other & 1);
        place & !(1 << one) & !(1 << other) | first << other | second << one
    };
    (0..coalitions(count.into())).map(|place| losses[swap(place)]).collect()
}

#[test]
fn what_only_one_of_both_lowers_is_its_own() {
    // Alone 5 nats, with the passage 1, with the adapter 2 less each time.
    let split = context(1, vec![5 * NAT, 3 * NAT, 3 * NAT, NAT]).split().unwrap();
    assert_eq!((split.scale, split.adapter, split.passages), (2, 4 * i128::from(NAT), vec![4 * i128::from(NAT)]));
    // Either is enough: they share it.
    let split = context(1, vec![5 * NAT, NAT, NAT, NAT]).split().unwrap();
    assert_eq!(split.adapter, split.passages[0]);
    // The adapter alone does it, whatever stands before the question.
    let split = context(2, vec![5 * NAT, 5 * NAT, 5 * NAT, 5 * NAT, NAT, NAT, NAT, NAT]).split().unwrap();
    assert_eq!((split.adapter, split.passages), (4 * i128::from(NAT) * split.scale, vec![0, 0]));
}

#[test]
fn a_passage_that_answers_pays_its_contributor_and_another_that_does_not_gets_nothing() {
    // Passage 0 says the answer; the adapter knows half of it.
    let told = context(2, vec![6 * NAT, NAT, 6 * NAT, NAT, 3 * NAT, NAT, 3 * NAT, NAT]);
    let split = told.split().unwrap();
    let shares = shares_with((&[score(1, NAT), score(2, NAT)], NOISE_MICRO_NATS), &split, &[owner(3), owner(4)]);
    assert_eq!(weight(&shares, 4), 0);
    assert_eq!(weight(&shares, 1), weight(&shares, 2));
    // The passage explains 3.5 of 5 nats, the adapter 1.5.
    assert!((680_000..700_000).contains(&weight(&shares, 3)), "{shares:?}");
    let (adapter, passages) = sources(&split, &[0, 1]);
    assert_eq!((passages[0], passages[1]), (weight(&shares, 3), 0));
    assert!((290_000..300_000).contains(&adapter), "{adapter}");
}

#[test]
fn a_context_that_is_malformed_is_named_and_explains_nothing() {
    let sound = context(2, vec![0; 8]);
    assert_eq!(sound.fault(2, 1), None);
    assert_eq!(Context::default().fault(0, 1), None);
    let twice = Context { passages: vec![passage(1), passage(1)], ..sound.clone() };
    let long = Passage { prompt: "x".repeat(PASSAGE_MAX_BYTES), ..passage(1) };
    let long = Context { passages: vec![passage(0), long], ..sound.clone() };
    let short = Context { losses: vec![0; 7], ..sound.clone() };
    for (bad, word) in [(&twice, "twice"), (&long, "long"), (&short, "coalition")] {
        assert!(bad.fault(2, 1).is_some_and(|fault| fault.contains(word)), "{word}");
    }
    assert!(sound.fault(1, 1).is_some_and(|fault| fault.contains("more records")));
    assert!(sound.fault(2, 0).is_some(), "its contributor is unknown");
    assert_eq!((short.split(), Context::default().split()), (None, None));
    assert_eq!(context(6, vec![0; coalitions(6)]).split(), None);
}

#[test]
fn passages_stand_before_the_question_as_they_were_trained() {
    let passage =
        |prompt: &str, completion: &str| Passage { prompt: prompt.into(), completion: completion.into(), ..passage(1) };
    let all = [passage("Question: who?\nAnswer:", " Jarelle\n"), passage("", "A text."), passage("who?", "Jarelle")];
    let text = before(&all, "Question: what?");
    assert_eq!(text, "Question: who?\nAnswer: Jarelle\n\nA text.\n\nwho?\nJarelle\n\nQuestion: what?");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_parts_sum_exactly_to_the_whole((count, losses) in losses()) {
        let split = context(count, losses.clone()).split().unwrap();
        let whole = i128::from(losses[0]) - i128::from(losses[losses.len() - 1]);
        prop_assert_eq!(split.adapter + split.passages.iter().sum::<i128>(), whole * split.scale);
    }

    #[test]
    fn any_losses_at_all_can_be_split_and_shared(
        count in 1..=5_u8,
        losses in proptest::collection::vec(any::<i64>(), coalitions(PASSAGES_MAX)),
        credits in proptest::collection::vec((0..6_u8, any::<i64>()), 0..8),
    ) {
        let split = context(count, losses[..coalitions(count.into())].to_vec()).split().unwrap();
        let adapter: Vec<CreditScore> = credits.iter().map(|(who, nats)| score(*who, *nats)).collect();
        let shares = shares_with((&adapter, NOISE_MICRO_NATS), &split, &(4..4 + count).map(owner).collect::<Vec<_>>());
        let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        prop_assert_eq!(sum + u64::from(commons_weight(&shares).unwrap()), u64::from(WHOLE));
        prop_assert!(shares.windows(2).all(|pair| pair[0].account < pair[1].account));
        let (from_adapter, from_passages) = sources(&split, &(0..count.into()).collect::<Vec<_>>());
        prop_assert!(from_adapter + from_passages.iter().sum::<u32>() <= WHOLE);
    }

    #[test]
    fn a_passage_that_changes_nothing_gets_nothing((count, losses) in losses(), null in any::<prop::sample::Index>()) {
        let own = 1 << null.index(count.into());
        let losses: Vec<i64> = (0..losses.len()).map(|place| losses[place & !own]).collect();
        let split = context(count, losses).split().unwrap();
        prop_assert_eq!(split.passages[null.index(count.into())], 0);
    }

    #[test]
    fn passages_that_change_the_same_get_the_same((count, losses) in losses()) {
        prop_assume!(count > 1);
        let other = exchanged(count, &losses, 0, 1);
        let alike: Vec<i64> = losses.iter().zip(&other).map(|(one, other)| (one + other) / 2).collect();
        let split = context(count, alike).split().unwrap();
        prop_assert_eq!(split.passages[0], split.passages[1]);
    }

    #[test]
    fn the_order_of_passages_does_not_matter((count, losses) in losses(), credit in 0..9 * NAT) {
        prop_assume!(count > 1);
        let mut owners: Vec<_> = (1..=count).map(owner).collect();
        let told = context(count, losses.clone()).split().unwrap();
        let turned = context(count, exchanged(count, &losses, 0, count - 1)).split().unwrap();
        let before = shares_with((&[score(1, credit)], NOISE_MICRO_NATS), &told, &owners);
        owners.swap(0, usize::from(count) - 1);
        prop_assert_eq!(before, shares_with((&[score(1, credit)], NOISE_MICRO_NATS), &turned, &owners));
    }

    #[test]
    fn one_identity_gains_nothing_by_splitting_what_helps(
        passages in proptest::collection::vec(0..4 * i128::from(NAT), 1..=PASSAGES_MAX),
        adapter in -i128::from(NAT)..4 * i128::from(NAT),
        credit in 0..9 * NAT,
    ) {
        let count = u8::try_from(passages.len()).unwrap();
        let split = Split { scale: 2, adapter, passages };
        let one = shares_with((&[score(9, credit)], NOISE_MICRO_NATS), &split, &vec![owner(1); count.into()]);
        let apart = shares_with((&[score(9, credit)], NOISE_MICRO_NATS), &split, &(1..=count).map(owner).collect::<Vec<_>>());
        let together: u32 = (1..=count).map(|who| weight(&apart, who)).sum();
        prop_assert!(together <= weight(&one, 1), "{} > {}", together, weight(&one, 1));
    }
}
