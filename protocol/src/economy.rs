//! Splitting a price: who gets which part of what was paid for one task.
//!
//! Invariant: the parts of a split sum exactly to the price; rounding dust goes to the commons (the treasury),
//! never to a party who could choose amounts to gain from it.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::attribution::{Share, WHOLE};
use crate::id::{Amount, ChainAddress};

/// Basis points in a whole.
pub const BASIS_POINTS: u16 = 10_000;

/// How the fee part of a price is divided, in basis points of the fee. What remains after the four parts is
/// the data contributors'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct FeePolicy {
    /// The treasury's part.
    pub treasury_bps: u16,
    /// The model builder's part.
    pub builder_bps: u16,
    /// The verifiers' part: checking is paid, or nobody does it.
    pub verifier_bps: u16,
}

impl FeePolicy {
    /// The policy of inference answers until governance sets another: half of the fee is the contributors'.
    pub const INFERENCE: Self = Self { treasury_bps: 1_000, builder_bps: 2_500, verifier_bps: 1_000 };
    /// The policy of training: there is no adapter yet whose contributors could be paid, so the fee pays the
    /// treasury and the verifiers.
    pub const TRAINING: Self = Self { treasury_bps: 3_000, builder_bps: 0, verifier_bps: 7_000 };

    /// Whether the parts fit into a whole.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        u32::from(self.treasury_bps) + u32::from(self.builder_bps) + u32::from(self.verifier_bps)
            <= u32::from(BASIS_POINTS)
    }
}

/// Who is paid beside the worker and the contributors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Beneficiaries {
    /// The worker, paid by voucher.
    pub worker: ChainAddress,
    /// The treasury, which also takes the commons' part and the dust.
    pub treasury: ChainAddress,
    /// The model's builder.
    pub builder: ChainAddress,
    /// The verifier, or the treasury when nobody was to check.
    pub verifier: ChainAddress,
}

/// One payment of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Payment {
    /// Who is paid.
    pub to: ChainAddress,
    /// For what.
    pub role: PaymentRole,
    /// How much.
    pub amount: Amount,
}

/// For what somebody is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentRole {
    /// For the computation.
    Worker,
    /// The protocol's part, the commons' weight and rounding dust.
    Treasury,
    /// For the model.
    Builder,
    /// For checking.
    Verifier,
    /// For data.
    Contributor,
}

/// Why a price cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The worker's part exceeds the price.
    #[error("the worker's part of {worker} exceeds the price of {price}")]
    WorkerAbovePrice {
        /// The price.
        price: Amount,
        /// The worker's part.
        worker: Amount,
    },
    /// The policy's parts exceed a whole.
    #[error("the fee policy hands out more than the fee")]
    Policy,
    /// The weights do not sum to [`WHOLE`].
    #[error("attribution weights sum to {0}, not to {WHOLE}")]
    Weights(u64),
    /// The amounts do not fit 128 bits.
    #[error("amount overflow")]
    Overflow,
}

/// Splits `price`: the worker's part off the top, the rest by `policy`, the contributors' part by `shares`.
///
/// The list is ordered worker, builder, verifier, contributors in the order of `shares`, treasury; parts of
/// zero are left out except the worker's. Source: design section 10, "Fee of an answer".
///
/// # Errors
/// See [`SplitError`].
pub fn split(
    price: Amount,
    worker: Amount,
    policy: FeePolicy,
    to: &Beneficiaries,
    shares: &[Share],
) -> Result<Vec<Payment>, SplitError> {
    let fee = price.checked_sub(worker).ok_or(SplitError::WorkerAbovePrice { price, worker })?;
    if !policy.is_valid() {
        return Err(SplitError::Policy);
    }
    let part = |bps: u16| fee.checked_mul_div(bps.into(), BASIS_POINTS.into()).ok_or(SplitError::Overflow);
    let builder = part(policy.builder_bps)?;
    let verifier = part(policy.verifier_bps)?;
    let treasury = part(policy.treasury_bps)?;
    let data =
        [builder, verifier, treasury].into_iter().try_fold(fee, Amount::checked_sub).ok_or(SplitError::Overflow)?;
    let mut payments = vec![Payment { to: to.worker, role: PaymentRole::Worker, amount: worker }];
    payments.push(Payment { to: to.builder, role: PaymentRole::Builder, amount: builder });
    payments.push(Payment { to: to.verifier, role: PaymentRole::Verifier, amount: verifier });
    payments.extend(contributor_payments(data, shares)?);
    payments.retain(|payment| payment.role == PaymentRole::Worker || payment.amount > Amount::ZERO);
    let paid = total(&payments).ok_or(SplitError::Overflow)?;
    let rest = price.checked_sub(paid).ok_or(SplitError::Overflow)?;
    if rest > Amount::ZERO {
        payments.push(Payment { to: to.treasury, role: PaymentRole::Treasury, amount: rest });
    }
    Ok(payments)
}

fn contributor_payments(data: Amount, shares: &[Share]) -> Result<Vec<Payment>, SplitError> {
    let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    if sum > u64::from(WHOLE) {
        return Err(SplitError::Weights(sum));
    }
    shares
        .iter()
        .map(|share| {
            let amount = data.checked_mul_div(share.weight.into(), WHOLE.into()).ok_or(SplitError::Overflow)?;
            Ok(Payment { to: share.payout, role: PaymentRole::Contributor, amount })
        })
        .collect()
}

/// The sum of `payments`, or `None` when it does not fit.
#[must_use]
pub fn total(payments: &[Payment]) -> Option<Amount> {
    payments.iter().try_fold(Amount::ZERO, |sum, payment| sum.checked_add(payment.amount))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::AccountId;

    fn beneficiaries() -> Beneficiaries {
        let address = |byte| ChainAddress([byte; 20]);
        Beneficiaries { worker: address(1), treasury: address(2), builder: address(3), verifier: address(4) }
    }

    proptest! {
        #[test]
        fn a_split_sums_exactly_to_the_price(
            price in 0..u128::MAX >> 24,
            worker_part in 0..=1_000_u128,
            weights in proptest::collection::vec(0..WHOLE / 8, 0..8),
        ) {
            let worker = Amount(price / 1_000 * worker_part);
            let shares: Vec<Share> = weights
                .iter()
                .map(|weight| Share { account: AccountId([9; 32]), payout: ChainAddress([9; 20]), weight: *weight })
                .collect();
            for policy in [FeePolicy::INFERENCE, FeePolicy::TRAINING] {
                let payments = split(Amount(price), worker, policy, &beneficiaries(), &shares).unwrap();
                prop_assert_eq!(total(&payments), Some(Amount(price)));
            }
        }
    }

    #[test]
    fn a_worker_above_the_price_is_refused() {
        let result = split(Amount(1), Amount(2), FeePolicy::INFERENCE, &beneficiaries(), &[]);
        assert_eq!(result, Err(SplitError::WorkerAbovePrice { price: Amount(1), worker: Amount(2) }));
    }
}
