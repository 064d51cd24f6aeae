//! Paying oneself: what comes back of a fee when payer, worker, builder, verifier and every contributor are one.
//!
//! Invariant: the arithmetic is the protocol's own split of a price.

use tributary_protocol::attribution::{Share, WHOLE};
use tributary_protocol::economy::{Beneficiaries, FeePolicy, PaymentRole, SplitError, split};
use tributary_protocol::id::{AccountId, Amount, ChainAddress};

use crate::study::bootstrap::Figure;

/// One token in atto.
const OPEN: u128 = 1_000_000_000_000_000_000;

/// What a payer who is everybody else too gains, as a part of the fee: with a fee of one token, and the lowest and highest
/// of fees from one atto up. It must never be above zero.
///
/// # Errors
/// Never with this policy; the protocol's own words if it should.
pub fn self_dealing() -> Result<Figure, SplitError> {
    let gain = |fee: u128| -> Result<f64, SplitError> {
        let (own, treasury) = (ChainAddress([1; 20]), ChainAddress([2; 20]));
        let to = Beneficiaries { worker: own, treasury, builder: own, verifier: own };
        let shares = [Share { account: AccountId([1; 32]), payout: own, weight: WHOLE }];
        let payments = split(Amount(fee), Amount::ZERO, FeePolicy::INFERENCE, &to, &shares)?;
        let is_back = |role: PaymentRole| role != PaymentRole::Treasury;
        let back: u128 = payments.iter().filter(|payment| is_back(payment.role)).map(|payment| payment.amount.0).sum();
        Ok(back as f64 / fee as f64 - 1.0)
    };
    let mut figure = Figure { value: gain(OPEN)?, low: f64::INFINITY, high: f64::NEG_INFINITY };
    for fee in (0..30).map(|power| 3_u128.pow(power)).chain([OPEN]) {
        let found = gain(fee)?;
        figure = Figure { low: figure.low.min(found), high: figure.high.max(found), ..figure };
    }
    Ok(figure)
}

#[cfg(test)]
mod tests {
    use super::self_dealing;

    #[test]
    fn who_pays_himself_loses_the_treasurys_part() {
        let found = self_dealing().unwrap();
        assert!((found.value + 0.1).abs() < 1e-9 && found.high <= 0.0, "{found:?}");
    }
}
