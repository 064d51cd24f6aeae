//! How right an index is on its own adapter: what it pays for some answers, beside what they really lose.
//!
//! The truth is the loss of each answer under the adapters that were trained without each contributor, as they were
//! trained. The index pays by what it keeps of them, a byte a number, and of many contributors by estimates for most.
//!
//! Invariant: a quality is a pure function of base, adapter, index, leave-out adapters and answers.

use tributary_protocol::attribution::{CreditScore, Quality, WHOLE, shares};
use tributary_protocol::id::{AccountId, ChainAddress};

use super::truth::true_credits_of;
use super::{AttributeError, Credit, Index, Rule, credits_of, noise};
use crate::lora::Adapter;
use crate::loss::Target;
use crate::model::Base;
use crate::statistics::{mean, pearson};

/// Answers that a quality is measured on, at the most: with 256 contributors a small base runs them in minutes.
pub const QUALITY_ANSWERS: usize = 16;

/// The quality of what pays, measured on the first [`QUALITY_ANSWERS`] of `answers`. `leave_out` are the adapters that the
/// index was built from, those that really were trained: of other contributors nothing is compared. None without an answer or
/// without such an adapter.
///
/// # Errors
/// When the index is of another adapter or lacks one of these contributors, tokens can't run, or a number is not finite.
pub fn quality(
    base: &Base,
    adapter: &Adapter,
    index: &Index,
    leave_out: &[(u32, Adapter)],
    answers: &[Target],
) -> Result<Option<Quality>, AttributeError> {
    let mut without: Vec<&(u32, Adapter)> = leave_out.iter().collect();
    without.sort_by_key(|(contributor, _)| *contributor);
    let known: Vec<u32> = without.iter().map(|(contributor, _)| *contributor).collect();
    if known.windows(2).any(|pair| pair[0] >= pair[1])
        || !known.iter().all(|one| index.contributors().any(|it| it == *one))
    {
        return Err(AttributeError::Malformed("the index is of other contributors"));
    }
    let rule = Rule::of(index.rows().len());
    let mut spread = vec![Vec::new(); index.rows().len()];
    let mut both = Vec::new();
    for answer in &answers[..answers.len().min(QUALITY_ANSWERS)] {
        let all = credits_of(rule, base, adapter, index, answer)?;
        spread.iter_mut().zip(&all).for_each(|(own, credit)| own.push(credit.micro_nats));
        let given: Vec<Credit> = all.into_iter().filter(|credit| known.contains(&credit.contributor)).collect();
        both.push((given, true_credits_of(base, adapter, &without, answer)?));
    }
    Ok(told(&both, noise(spread.into_iter())))
}

/// What credits that were given say beside those that were due, for each answer.
fn told(both: &[(Vec<Credit>, Vec<Credit>)], noise: u32) -> Option<Quality> {
    let count = u16::try_from(both.len()).ok().filter(|count| *count > 0)?;
    let contributors = u16::try_from(both.first()?.0.len()).ok().filter(|count| *count > 0)?;
    let misallocated =
        |(given, due): &(Vec<Credit>, Vec<Credit>)| between(&weights(given, noise.into()), &weights(due, noise.into()));
    let average = both.iter().map(misallocated).sum::<u64>() / u64::from(count);
    let correlations: Vec<f64> =
        both.iter().filter_map(|(given, due)| pearson(&numbers(given), &numbers(due))).collect();
    Some(Quality {
        answers: count,
        contributors,
        misallocated: u32::try_from(average).unwrap_or(WHOLE),
        correlation: mean(&correlations).map(millionths),
        noise,
    })
}

/// Each contributor's part of an answer and the commons', in parts per million.
fn weights(credits: &[Credit], noise: u64) -> Vec<u32> {
    let account = |contributor: u32| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&contributor.to_be_bytes());
        AccountId(bytes)
    };
    let score = |credit: &Credit| CreditScore {
        account: account(credit.contributor),
        payout: ChainAddress::default(),
        micro_nats: credit.micro_nats,
    };
    let paid = shares(&credits.iter().map(score).collect::<Vec<_>>(), noise);
    let weight = |credit: &Credit| {
        let own = account(credit.contributor);
        paid.iter().find(|share| share.account == own).map_or(0, |share| share.weight)
    };
    let mut weights: Vec<u32> = credits.iter().map(weight).collect();
    weights.push(WHOLE.saturating_sub(weights.iter().sum()));
    weights
}

/// The part of a fee that two divisions of it give to different ones.
fn between(given: &[u32], due: &[u32]) -> u64 {
    given.iter().zip(due).map(|(given, due)| u64::from(given.abs_diff(*due))).sum::<u64>() / 2
}

fn numbers(credits: &[Credit]) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "credits are whole numbers within 2^53")]
    let number = |credit: &Credit| credit.micro_nats as f64;
    credits.iter().map(number).collect()
}

fn millionths(correlation: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "a correlation is at most 1")]
    let whole = (correlation.clamp(-1.0, 1.0) * f64::from(WHOLE)).round() as i32;
    whole
}

#[cfg(test)]
mod tests {
    use tributary_protocol::attribution::NOISE_MICRO_NATS;

    use super::{between, millionths, told, weights};
    use crate::attribute::Credit;

    fn credits(nats: &[i64]) -> Vec<Credit> {
        (0..).zip(nats).map(|(contributor, nats)| Credit { contributor, micro_nats: *nats, exact: true }).collect()
    }

    #[test]
    fn what_nobody_explains_counts_as_a_recipient() {
        let weights = |nats: &[i64]| weights(&credits(nats), NOISE_MICRO_NATS);
        let paid = weights(&[1_005_000, -3, 1_005_000]);
        assert_eq!(paid.iter().sum::<u32>(), 1_000_000);
        assert_eq!((paid[0], paid[1]), (paid[2], 0));
        assert_eq!(weights(&[0, 0]), [0, 0, 1_000_000]);
        assert_eq!(between(&paid, &weights(&[0, 0, 0])), 975_608);
        assert_eq!((millionths(1.0), millionths(-0.25)), (1_000_000, -250_000));
    }

    #[test]
    fn credits_that_spread_are_measured_with_their_noise() {
        let answer = |nats: i64| (credits(&[1_500_000, -nats, nats]), credits(&[1_500_000, nats, -nats]));
        let little = told(&[answer(40_000)], 5_000).unwrap();
        assert_eq!((little.answers, little.contributors, little.noise), (1, 3, 5_000));
        assert!(little.misallocated > 0, "{little:?}");
        let much = told(&vec![answer(40_000); 16], 59_304).unwrap();
        assert_eq!((much.answers, much.misallocated), (16, 0), "{much:?}");
        assert_eq!(told(&[], 5_000), None);
        assert_eq!(told(&[(Vec::new(), Vec::new())], 5_000), None);
    }
}
