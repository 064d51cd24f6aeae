//! Which records are trained, and who is credited for each: a copy, exact or near, counts once, for its first claim.
//!
//! Invariant: what is admitted follows from the claims alone, in whatever order they are given, and a later claim of a
//! copy changes nothing of it: not the records, not their order, not who is credited.
//!
//! Of two claims the one proven earlier is the first, and one that is proven goes before all that are not; what accounts say
//! themselves decides only between claims that nobody proves ([`tributary_protocol::note`]).
//!
//! A near copy repeats another record's words ([`NearIndex`]) with all its figures and the
//! same answer. Records of one pattern with other facts are no copies: they differ in a figure or in the answer. Facts
//! told in other words are none either, as far as words tell.

use std::collections::{BTreeMap, BTreeSet};

use tributary_protocol::datanet::Date;
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
    /// Since when, by a majority of the datanet's notaries.
    pub proven: Option<Date>,
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
    /// Where it stands among all records, at its first claim.
    pub place: usize,
    /// How many of the admitted were claimed before it.
    pub claimed_after: usize,
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
    /// Admits each record once, for its first claim.
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
            let claimed_after = admission.admitted.len();
            admission.admitted.push(Admitted { record, account, place, claimed_after });
        }
        admission.admitted.sort_by_key(|admitted| admitted.place);
        admission
    }
}

/// Equal records as one, at their first claim.
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
    /// What is proven first, the earlier before the later; then what is only said, the same way; of one moment the lower
    /// account's.
    fn rank(&self) -> (bool, Option<Date>, u64, AccountId, usize) {
        (self.proven.is_none(), self.proven, self.claimed_ms, self.account, self.place)
    }
}

/// A record that several accounts claim, word for word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contest {
    /// The record.
    pub record: Record,
    /// The first claim of each account; whose stands first is credited, unless the record repeats another.
    pub claims: Vec<Contender>,
}

/// An account's claim of a contested record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contender {
    /// Who.
    pub account: AccountId,
    /// As [`Claim::proven`].
    pub proven: Option<Date>,
    /// As [`Claim::claimed_ms`].
    pub claimed_ms: u64,
}

impl Contest {
    /// The records that more than one account claims, in the order of their first claims.
    #[must_use]
    pub fn among(claims: &[Claim]) -> Vec<Self> {
        let mut by_record: BTreeMap<Hash, Vec<&Claim>> = BTreeMap::new();
        for claim in claims {
            by_record.entry(claim.record.id).or_default().push(claim);
        }
        let mut contests: Vec<Vec<&Claim>> = by_record.into_values().filter_map(firsts).collect();
        contests.sort_by_key(|claims| claims.first().map(|first| first.rank()));
        contests.into_iter().filter_map(Self::of).collect()
    }

    fn of(claims: Vec<&Claim>) -> Option<Self> {
        let record = claims.first()?.record.clone();
        let contender =
            |claim: &&Claim| Contender { account: claim.account, proven: claim.proven, claimed_ms: claim.claimed_ms };
        Some(Self { record, claims: claims.iter().map(contender).collect() })
    }
}

/// Of claims of one record the first of each account, by rank, if they are more than one.
fn firsts(mut claims: Vec<&Claim>) -> Option<Vec<&Claim>> {
    claims.sort_by_key(|claim| claim.rank());
    let mut known = BTreeSet::new();
    claims.retain(|claim| known.insert(claim.account));
    (claims.len() > 1).then_some(claims)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
    use tributary_protocol::datanet::Date;
    use tributary_protocol::id::AccountId;

    use super::{Admission, Claim, Contest};
    use crate::shard::Record;

    fn claim(account: u8, claimed_ms: u64, place: usize, prompt: &str, completion: &str) -> Claim {
        let account = AccountId([account; 32]);
        let record = Record::new(prompt.to_owned(), completion.to_owned(), account, "CC0-1.0".to_owned());
        Claim { record, account, proven: None, claimed_ms, place }
    }

    fn proven(at_ms: u64, claim: Claim) -> Claim {
        Claim { proven: Some(Date::of(at_ms)), ..claim }
    }

    const PROMPT: &str = "A traveller who comes to the harbour of Velmora by the old coast road in early spring, when the \
                          fishing fleet has left and the bells of the lighthouse ring, asks you: who built the lighthouse?";

    fn credited(claims: Vec<Claim>) -> Vec<(usize, u8)> {
        let admission = Admission::of(claims);
        admission.admitted.iter().map(|admitted| (admitted.place, admitted.account.0[0])).collect()
    }

    #[test]
    fn who_claimed_before_whom_is_known_wherever_records_stand() {
        let claims = vec![claim(1, 30, 0, "q", "a"), claim(2, 10, 1, "r", "a"), proven(90, claim(3, 95, 2, "s", "a"))];
        let admitted = Admission::of(claims).admitted;
        assert_eq!(admitted.iter().map(|one| one.claimed_after).collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn equal_records_are_credited_to_the_earliest_claim_wherever_they_stand() {
        assert_eq!(credited(vec![claim(1, 20, 0, "q", "a"), claim(2, 10, 1, "q", "a")]), [(1, 2)]);
        assert_eq!(credited(vec![claim(2, 10, 0, "q", "a"), claim(1, 10, 1, "q", "a")]), [(1, 1)]);
    }

    #[test]
    fn what_is_proven_goes_before_what_is_said_and_the_earlier_proof_before_the_later() {
        let (said, late, early) = (claim(1, 0, 0, "q", "a"), claim(2, 900, 1, "q", "a"), claim(3, 950, 2, "q", "a"));
        assert_eq!(credited(vec![said.clone(), proven(100, late.clone())]), [(1, 2)]);
        let all = [said, proven(100, late), proven(50, early)];
        assert_eq!(credited(all.to_vec()), [(2, 3)]);
        let contest = &Contest::among(&all)[0];
        assert_eq!(contest.claims.iter().map(|one| one.account.0[0]).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!((contest.claims[0].proven, contest.claims[2].proven), (Some(Date::of(50)), None));
    }

    #[test]
    fn a_near_copy_is_credited_to_the_earlier_proof_too() {
        let edited = PROMPT.replace("in early spring", "in late spring");
        let thief = proven(300, claim(1, 5, 0, PROMPT, "Ada Kree."));
        let victim = proven(200, claim(2, 400, 1, &edited, "Ada Kree."));
        assert_eq!(credited(vec![thief, victim]), [(1, 2)]);
    }

    #[test]
    fn what_one_account_says_twice_is_not_contested() {
        assert_eq!(Contest::among(&[claim(1, 0, 0, "q", "a"), claim(1, 5, 1, "q", "a"), claim(2, 5, 2, "r", "a")]), []);
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
        let one = (1..5_u8, 0..50_u64, prop::option::of(0..50_u64), texts);
        prop::collection::vec(one, 1..10).prop_map(|all| {
            let numbered = all.into_iter().enumerate();
            numbered
                .map(|(place, (account, ms, proven_ms, (prompt, answer)))| Claim {
                    proven: proven_ms.map(Date::of),
                    ..claim(account, ms, place, &prompt, &answer)
                })
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
            // Where the victim's claim is proven, the copier's word that it was earlier is worth nothing.
            let earliest = if victim.proven.is_some() { 0 } else { 100 };
            for time in 0..times {
                let edited = victim.record.prompt.to_uppercase().replace(' ', "  ");
                let (ms, place) = (earliest + time, claims.len());
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
