//! Amounts as people write them: OPEN with decimals, kept exactly in atto-OPEN.
//!
//! Invariant: no floating point; what [`exact`] prints, [`parse`] reads back to the same amount.

use tributary_protocol::id::Amount;

/// Decimals of OPEN.
const DECIMALS: usize = 18;
/// Decimals in tables.
const BRIEF_DECIMALS: usize = 6;

/// Why a text is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AmountError {
    /// Not digits with at most one point.
    #[error("not an amount of OPEN: write digits with at most one decimal point, for example 2.5")]
    Form,
    /// Smaller than the smallest unit.
    #[error("OPEN has at most {DECIMALS} decimals")]
    Decimals,
    /// Larger than any amount.
    #[error("the amount is larger than all OPEN there can be")]
    TooLarge,
}

/// Reads OPEN with decimals.
pub(super) fn parse(text: &str) -> Result<Amount, AmountError> {
    let (whole, decimals) = text.split_once('.').map_or((text, None), |(whole, decimals)| (whole, Some(decimals)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || decimals.is_some_and(|decimals| !digits(decimals)) {
        return Err(AmountError::Form);
    }
    let decimals = decimals.unwrap_or_default();
    if decimals.len() > DECIMALS {
        return Err(AmountError::Decimals);
    }
    format!("{whole}{decimals:0<DECIMALS$}").parse().map(Amount).map_err(|_| AmountError::TooLarge)
}

/// All digits that matter: `2.5`.
pub(super) fn exact(amount: Amount) -> String {
    with_decimals(amount, DECIMALS)
}

/// Six decimals at most, rounded down: for tables.
pub(super) fn brief(amount: Amount) -> String {
    let text = with_decimals(amount, BRIEF_DECIMALS);
    if text == "0" && amount > Amount::ZERO { "<0.000001".into() } else { text }
}

fn with_decimals(amount: Amount, decimals: usize) -> String {
    let (whole, rest) = (amount.0 / Amount::OPEN.0, amount.0 % Amount::OPEN.0);
    let rest = format!("{rest:018}");
    let rest = rest[..decimals].trim_end_matches('0');
    if rest.is_empty() { whole.to_string() } else { format!("{whole}.{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        assert_eq!(parse("2.5"), Ok(Amount(2_500_000_000_000_000_000)));
        assert_eq!(parse("0.000000000000000001"), Ok(Amount(1)));
        assert_eq!(parse("0.1"), Ok(Amount(100_000_000_000_000_000)));
        assert_eq!(parse("007"), Ok(Amount(7 * Amount::OPEN.0)));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "1.2.3", "0x1", "١", " 1"] {
            assert_eq!(parse(text), Err(AmountError::Form), "{text:?}");
        }
        assert_eq!(parse("0.0000000000000000001"), Err(AmountError::Decimals));
        assert_eq!(parse("340282366920938463464"), Err(AmountError::TooLarge));
    }

    #[test]
    fn tables_never_show_something_as_nothing() {
        assert_eq!(brief(Amount(1)), "<0.000001");
        assert_eq!(brief(Amount::ZERO), "0");
        assert_eq!(brief(Amount(1_234_567_890_000_000_000)), "1.234567");
    }

    #[test]
    fn what_is_printed_reads_back() {
        for shift in 0..128 {
            for atto in [u128::MAX >> shift, (u128::MAX >> shift) / 3, (1_u128 << shift) / 10 * 10] {
                assert_eq!(parse(&exact(Amount(atto))), Ok(Amount(atto)));
            }
        }
    }
}
