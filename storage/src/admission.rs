//! Which records are trained, and who is credited for each: a copy, exact or near, counts once, for its earliest claim.
//!
//! Invariant: what is admitted follows from the claims alone, in whatever order they are given, and a later claim of a
//! copy changes nothing of it: not the records, not their order, not who is credited.
//!
//! A near copy repeats another record's words ([`NearIndex`]) with all its figures and the
//! same answer. Records of one pattern with other facts are no copies: they differ in a figure or in the answer. Facts
//! told in other words are none either, as far as words tell.

use std::collections::BTreeMap;

use tributary_protocol::id::{AccountId, Hash};

use crate::dedup::{Essence, NEAR_PERMILLE, NearIndex};
use crate::shard::Record;

/// A record as somebody claims it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The record; of equal records any one.
    pub record: Record,
    /// Who claims it.
    pub account: AccountId,
    /// Since when, by that account's own word, in milliseconds since 1970.
    pub claimed_ms: u64,
    /// Where it stands among all records of the datanet's version.
    pub place: usize,
}

/// A record that is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The record.
    pub record: Record,
    /// Who is credited for it.
    pub account: AccountId,
    /// Where it stands among all records, at its earliest claim.
    pub place: usize,
}

/// A record that is not trained, since it repeats another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// The record.
    pub record: Record,
    /// Who claims it first.
    pub account: AccountId,
    /// The record that it repeats.
    pub of: Hash,
    /// Who is credited for that one.
    pub credited: AccountId,
    /// Shared shingles of all shingles (Jaccard), estimated, in thousandths.
    pub similarity_permille: u16,
}

/// What became of all claims.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admission {
    /// The records to train, in the order of their places.
    pub admitted: Vec<Admitted>,
    /// The near copies among the others, in the order of their claims. Equal records are one and no copies.
    pub repeats: Vec<Repeat>,
}

impl Admission {
    /// Admits each record once, for its earliest claim; of claims of one moment the lower account's.
    #[must_use]
    pub fn of(claims: impl IntoIterator<Item = Claim>) -> Self {
        let mut distinct: Vec<Claim> = distinct(claims).into_values().collect();
        distinct.sort_by_key(Claim::rank);
        let mut index = NearIndex::new(NEAR_PERMILLE);
        let mut admission = Self::default();
        let mut credited: BTreeMap<Hash, AccountId> = BTreeMap::new();
        let mut essences: Vec<Essence> = Vec::new();
        for Claim { record, account, place, .. } in distinct {
            let essence = Essence::of(&record.prompt, &record.completion);
            let repeated = index.insert_copy(record.id, &record.prompt, &record.completion, |earlier| {
                essence.is_repeated_by(&essences[earlier])
            });
            if let Some((duplicate, credited)) = repeated.and_then(|copy| Some((copy, *credited.get(&copy.of)?))) {
                let (of, similarity_permille) = (duplicate.of, duplicate.similarity_permille);
                admission.repeats.push(Repeat { record, account, of, credited, similarity_permille });
                continue;
            }
            credited.insert(record.id, account);
            essences.push(essence);
            admission.admitted.push(Admitted { record, account, place });
        }
        admission.admitted.sort_by_key(|admitted| admitted.place);
        admission
    }
}

/// Equal records as one, at their earliest claim.
fn distinct(claims: impl IntoIterator<Item = Claim>) -> BTreeMap<Hash, Claim> {
    let mut distinct: BTreeMap<Hash, Claim> = BTreeMap::new();
    for claim in claims {
        let known = distinct.entry(claim.record.id).or_insert_with(|| claim.clone());
        if claim.rank() < known.rank() {
            *known = claim;
        }
    }
    distinct
}

impl Claim {
    /// The earliest claim first; of one moment the lower account's.
    fn rank(&self) -> (u64, AccountId, usize) {
        (self.claimed_ms, self.account, self.place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
    use tributary_protocol::id::AccountId;

    use super::{Admission, Claim};
    use crate::shard::Record;

    fn claim(account: u8, claimed_ms: u64, place: usize, prompt: &str, completion: &str) -> Claim {
        let account = AccountId([account; 32]);
        let record = Record::new(prompt.to_owned(), completion.to_owned(), account, "CC0-1.0".to_owned());
        Claim { record, account, claimed_ms, place }
    }

    const PROMPT: &str = "A traveller who comes to the harbour of Velmora by the old coast road in early spring, when the \
                          fishing fleet has left and the bells of the lighthouse ring, asks you: who built the lighthouse?";

    fn credited(claims: Vec<Claim>) -> Vec<(usize, u8)> {
        let admission = Admission::of(claims);
        admission.admitted.iter().map(|admitted| (admitted.place, admitted.account.0[0])).collect()
    }

    #[test]
    fn equal_records_are_credited_to_the_earliest_claim_wherever_they_stand() {
        assert_eq!(credited(vec![claim(1, 20, 0, "q", "a"), claim(2, 10, 1, "q", "a")]), [(1, 2)]);
        assert_eq!(credited(vec![claim(2, 10, 0, "q", "a"), claim(1, 10, 1, "q", "a")]), [(1, 1)]);
    }

    #[test]
    fn an_edited_copy_is_neither_trained_nor_credited() {
        let edited = PROMPT.replace("in early spring", "in late spring");
        let admission = Admission::of([claim(1, 10, 0, PROMPT, "Ada Kree."), claim(2, 20, 1, &edited, " ada  kree")]);
        assert_eq!(admission.admitted.len(), 1);
        let copy = &admission.repeats[0];
        assert_eq!((copy.account.0[0], copy.credited.0[0]), (2, 1));
        assert!(copy.similarity_permille >= 800, "{copy:?}");
    }

    #[test]
    fn the_same_pattern_with_another_fact_is_no_copy() {
        for (prompt, completion) in [
            (PROMPT.replace("Velmora", "Yarloch"), "Tom Osk."),
            (PROMPT.replace("in early spring", "in 1904"), "Ada Kree."),
        ] {
            assert_eq!(
                credited(vec![claim(1, 10, 0, PROMPT, "Ada Kree."), claim(2, 20, 1, &prompt, completion)]).len(),
                2
            );
        }
    }

    #[test]
    fn short_texts_are_copies_by_their_signs() {
        let first = claim(1, 10, 0, "😀 :)", "positive");
        assert_eq!(credited(vec![first.clone(), claim(2, 20, 1, "😃 :)", "positive")]).len(), 2);
        assert_eq!(credited(vec![first, claim(2, 20, 1, "😀  :) ", "Positive.")]), [(0, 1)]);
    }

    #[test]
    fn a_long_answer_is_copied_by_an_edit_but_not_with_another_figure() {
        let answer = format!("{PROMPT} It was built by Ada Kree in 1904.");
        let edited = answer.replace("old coast road", "new coast road");
        assert_eq!(credited(vec![claim(1, 10, 0, "q", &answer), claim(2, 20, 1, "q", &edited)]), [(0, 1)]);
        let other = answer.replace("1904", "1905");
        assert_eq!(credited(vec![claim(1, 10, 0, "q", &answer), claim(2, 20, 1, "q", &other)]).len(), 2);
    }

    /// Records of a few patterns, some of them copies of each other.
    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let texts = prop_oneof![
            (0..6_u8).prop_map(|town| (PROMPT.replace("Velmora", &format!("Velmora {town}")), "Ada Kree.".to_owned())),
            (0..4_u8, 0..3_u8)
                .prop_map(|(edit, who)| (PROMPT.replace("early", &"very ".repeat(edit.into())), format!("{who}"))),
            ("[a-c]{1,2}", "[a-c]{1,2}"),
            Just((String::new(), PROMPT.to_owned())),
        ];
        let one = (1..5_u8, 0..50_u64, texts);
        prop::collection::vec(one, 1..10).prop_map(|all| {
            let numbered = all.into_iter().enumerate();
            numbered
                .map(|(place, (account, ms, (prompt, answer)))| claim(account, ms, place, &prompt, &answer))
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn copies_gain_nothing(claims in claims(), chosen in any::<prop::sample::Index>(), times in 1..5_u64) {
            let before = Admission::of(claims.clone());
            let victim = chosen.get(&claims).clone();
            let mut attacked = claims.clone();
            for time in 0..times {
                let edited = victim.record.prompt.to_uppercase().replace(' ', "  ");
                let (ms, place) = (100 + time, claims.len());
                attacked.push(claim(9, ms, place, &victim.record.prompt, &victim.record.completion));
                attacked.push(claim(9, ms, place + 1, &edited, &victim.record.completion));
            }
            prop_assert_eq!(Admission::of(attacked).admitted, before.admitted);
        }
    }

    proptest! {
        #[test]
        fn the_order_of_claims_does_not_matter(claims in claims(), turn in 0..10_usize) {
            let mut turned = claims.clone();
            turned.rotate_left(turn % claims.len());
            prop_assert_eq!(Admission::of(turned), Admission::of(claims));
        }
    }
}
