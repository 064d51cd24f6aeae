//! From credits to integer shares: how much of an answer each contributor explains.
//!
//! Invariant: the shares and the commons' part of one answer sum exactly to [`WHOLE`]. Who splits an identity into
//! several gains nothing where the parts' credits add up to the whole's: shares are superadditive in the credits of what
//! helps, and what harms is worth no less under another identity than left away (design section 8, "Shares"). Credits
//! of real trainings add up where contributors teach what others don't; `compute/ATTRIBUTION.md` has what they do elsewhere.

pub mod audit;

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::{AccountId, ChainAddress};

/// The whole of an answer, in parts per million.
pub const WHOLE: u32 = 1_000_000;

/// The weight of one contributor in one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Share {
    /// Who contributed.
    pub account: AccountId,
    /// Where their earnings go, as they signed it with their contribution.
    pub payout: ChainAddress,
    /// Parts per million of the answer.
    pub weight: u32,
}

/// What an attribution method said of one contributor: by how much the loss of the answer rises when they
/// are left out, in millionths of a nat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditScore {
    /// Who contributed.
    pub account: AccountId,
    /// Where their earnings go.
    pub payout: ChainAddress,
    /// Loss difference, in micro-nats; negative when leaving them out helps.
    pub micro_nats: i64,
}

/// How right a release's shares are, as its builder measured it: the method beside the true losses, on records of its own
/// datanet that nobody could choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Quality {
    /// Answers that were attributed twice: by the method, and by what each really loses under the adapters trained without
    /// each contributor.
    pub answers: u16,
    /// Contributors whose true losses are known, since an adapter was trained without them; the others are left aside.
    pub contributors: u16,
    /// The part of an answer's fee that the method gives to others than the true losses do: the mean, in parts per million.
    pub misallocated: u32,
    /// Correlation over contributors of credit and true loss: the mean over answers, in millionths; nothing where credits
    /// don't differ.
    pub correlation: Option<i32>,
    /// Credits of no more than this are taken for chance, in micro-nats: how far the credits of those spread who teach nothing of
    /// an answer, times a factor that was fitted on trainings with other seeds.
    pub noise: u32,
}

impl Quality {
    pub(crate) fn is_well_formed(&self) -> bool {
        let correlated = match self.correlation {
            None => true,
            Some(correlation) => correlation.unsigned_abs() <= WHOLE,
        };
        self.answers > 0
            && self.contributors > 0
            && self.misallocated <= WHOLE
            && correlated
            && (NOISE_MICRO_NATS..=NOISE_MAX_MICRO_NATS).contains(&u64::from(self.noise))
    }
}

/// What is taken for chance in the credits of a release of this quality, in micro-nats.
#[must_use]
pub fn noise_of(quality: Option<Quality>) -> u64 {
    quality.map_or(NOISE_MICRO_NATS, |quality| quality.noise.into())
}

/// Credit, in micro-nats, that no contributor explains and that stays with the commons in every answer, so
/// that weak evidence pays the pool: a twentieth of a nat.
pub const COMMONS_MICRO_NATS: u64 = 50_000;

/// The least credit that is not taken for chance, in micro-nats, however little a release's credits spread.
pub const NOISE_MICRO_NATS: u64 = 5_000;
/// The most that a release may take for chance: a quarter of a nat. A builder who says more than there is takes from those who
/// explain little and gives to those who explain much; this bounds how much.
pub const NOISE_MAX_MICRO_NATS: u64 = 250_000;

/// Turns credits into shares: sums them per identity, subtracts `noise` micro-nats, clips once at zero, and divides by
/// the sum with the commons' part. Never a softmax, which rewards splitting. The commons' weight is what is
/// missing to [`WHOLE`]. Shares are ordered by account; contributors without credit are left out.
#[must_use]
pub fn shares(credits: &[CreditScore], noise: u64) -> Vec<Share> {
    let mut sums: BTreeMap<AccountId, (ChainAddress, i64)> = BTreeMap::new();
    for credit in credits {
        let entry = sums.entry(credit.account).or_insert((credit.payout, 0));
        entry.1 = entry.1.saturating_add(credit.micro_nats);
    }
    let clipped: Vec<(AccountId, ChainAddress, u64)> = sums
        .into_iter()
        .map(|(account, (payout, sum))| (account, payout, u64::try_from(sum).unwrap_or(0).saturating_sub(noise)))
        .collect();
    let pot: u128 =
        clipped.iter().map(|(_, _, credit)| u128::from(*credit)).sum::<u128>() + u128::from(COMMONS_MICRO_NATS);
    clipped
        .into_iter()
        .filter_map(|(account, payout, credit)| {
            let weight = u128::from(credit) * u128::from(WHOLE) / pot;
            let weight = u32::try_from(weight).unwrap_or(WHOLE);
            (weight > 0).then_some(Share { account, payout, weight })
        })
        .collect()
}

/// The weight that no contributor explains, or `None` when the shares exceed the whole.
#[must_use]
pub fn commons_weight(shares: &[Share]) -> Option<u32> {
    let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    u32::try_from(u64::from(WHOLE).checked_sub(sum)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(identity: u8, micro_nats: i64) -> CreditScore {
        CreditScore { account: AccountId([identity; 32]), payout: ChainAddress([identity; 20]), micro_nats }
    }

    #[test]
    fn weak_evidence_pays_the_commons() {
        let shares = shares(&[score(1, 2_000), score(2, -70_000)], NOISE_MICRO_NATS);
        assert_eq!(shares, []);
        assert_eq!(commons_weight(&shares), Some(WHOLE));
    }

    #[test]
    fn strong_evidence_pays_the_contributor() {
        let shares = shares(&[score(1, 5_000_000), score(2, 1_000)], NOISE_MICRO_NATS);
        assert_eq!(shares.len(), 1);
        assert!(shares[0].weight > WHOLE / 10 * 9, "{shares:?}");
    }

    fn weight_of(shares: &[Share], whose: impl Fn(u8) -> bool) -> u64 {
        shares.iter().filter(|share| whose(share.account.0[0])).map(|share| u64::from(share.weight)).sum()
    }

    /// Credits of other identities, from noise to many nats, some harmful.
    fn others() -> impl Strategy<Value = Vec<CreditScore>> {
        let credit = prop_oneof![-20_000..20_000_i64, -2_000_000..9_000_000_i64];
        proptest::collection::vec((100..110_u8, credit), 0..8)
            .prop_map(|all| all.into_iter().map(|(who, nats)| score(who, nats)).collect())
    }

    /// From the least to the most that a release may take for chance.
    fn noise() -> impl Strategy<Value = u64> {
        prop_oneof![Just(NOISE_MICRO_NATS), 0..=NOISE_MAX_MICRO_NATS]
    }

    /// What the parts of one body of records are worth, from noise to many nats.
    fn parts(least: i64) -> impl Strategy<Value = Vec<i64>> {
        proptest::collection::vec(prop_oneof![least.max(-20_000)..20_000, least..4_000_000], 1..12)
    }

    /// The attacker's parts under identities of their own, 1 and up.
    fn split(parts: &[i64]) -> Vec<CreditScore> {
        (1..).zip(parts).map(|(who, nats)| score(who, *nats)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn an_identity_gains_nothing_by_splitting(parts in parts(0), others in others(), noise in noise()) {
            let whole = shares(&[vec![score(1, parts.iter().sum())], others.clone()].concat(), noise);
            let apart = shares(&[split(&parts), others].concat(), noise);
            prop_assert!(weight_of(&apart, |who| who < 100) <= weight_of(&whole, |who| who < 100));
        }

        #[test]
        fn what_harms_is_worth_no_more_under_another_identity_than_left_away(parts in parts(-4_000_000), others in others(), noise in noise()) {
            let helpful = parts.iter().filter(|nats| **nats > 0).sum();
            let without = shares(&[vec![score(1, helpful)], others.clone()].concat(), noise);
            let apart = shares(&[split(&parts), others].concat(), noise);
            prop_assert!(weight_of(&apart, |who| who < 100) <= weight_of(&without, |who| who < 100));
        }

        #[test]
        fn nobody_loses_when_another_splits(parts in parts(0), others in others(), noise in noise()) {
            // What the noise takes of each part goes to the others and the commons, never the other way.
            let whole = shares(&[vec![score(1, parts.iter().sum())], others.clone()].concat(), noise);
            let apart = shares(&[split(&parts), others].concat(), noise);
            for who in 100..110 {
                prop_assert!(weight_of(&apart, |one| one == who) >= weight_of(&whole, |one| one == who));
            }
        }

        #[test]
        fn the_order_of_credits_does_not_matter(mut credits in others(), parts in parts(-4_000_000), turn in 0..20_usize, noise in noise()) {
            credits.extend(split(&parts));
            let told = shares(&credits, noise);
            credits.reverse();
            let turn = turn % credits.len();
            credits.rotate_left(turn);
            prop_assert_eq!(told, shares(&credits, noise));
        }

        #[test]
        fn shares_and_commons_are_the_whole(credits in proptest::collection::vec((0..6_u8, any::<i64>()), 0..20), noise in noise()) {
            let scores: Vec<CreditScore> = credits.iter().map(|(who, nats)| score(*who, *nats)).collect();
            let shares = shares(&scores, noise);
            let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
            prop_assert_eq!(sum + u64::from(commons_weight(&shares).unwrap()), u64::from(WHOLE));
        }

        #[test]
        fn one_identity_gains_nothing_by_many_entries(parts in proptest::collection::vec(0..1_000_000_i64, 1..8), other in 0..1_000_000_i64, noise in noise()) {
            let whole = shares(&[score(1, parts.iter().sum()), score(2, other)], noise);
            let mut split: Vec<CreditScore> = parts.iter().map(|part| score(1, *part)).collect();
            split.push(score(2, other));
            prop_assert_eq!(whole, shares(&split, noise));
        }
    }
}
