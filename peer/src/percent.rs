//! Parts of a million as percentages for people.
//!
//! Invariant: percentages of parts that are shown together sum to their sum's own percentage, whatever is rounded.

use tributary_protocol::receipt::Receipt;

/// Parts of a million that a tenth of a percent is.
const TENTH: u64 = 1_000;

/// Each part as a percentage with one decimal: rounded so that together they are what their sum is, the largest remainders up.
#[must_use]
pub fn percents(parts: &[u64]) -> Vec<String> {
    let mut tenths: Vec<u64> = parts.iter().map(|part| part / TENTH).collect();
    let whole = (parts.iter().sum::<u64>() + TENTH / 2) / TENTH;
    let missing = whole.saturating_sub(tenths.iter().sum());
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(parts[*at] % TENTH));
    for at in order.into_iter().take(usize::try_from(missing).unwrap_or(usize::MAX)) {
        tenths[at] += 1;
    }
    tenths.into_iter().map(|tenths| format!("{}.{} %", tenths / 10, tenths % 10)).collect()
}

/// The shares of `receipt` in its order, and its commons: everywhere that shows them, the same figures.
#[must_use]
pub fn shares(receipt: &Receipt) -> (Vec<String>, String) {
    let weights = receipt.shares.iter().map(|share| share.weight).chain([receipt.commons]).map(u64::from);
    let mut parts = percents(&weights.collect::<Vec<_>>());
    let commons = parts.pop().unwrap_or_default();
    (parts, commons)
}

#[cfg(test)]
mod tests {
    use super::percents;

    #[test]
    fn what_is_shown_together_sums_to_its_whole() {
        assert_eq!(percents(&[823_630, 171_512, 4_858]), ["82.4 %", "17.1 %", "0.5 %"].map(String::from));
        assert_eq!(percents(&[986_449, 13_551]), ["98.6 %", "1.4 %"].map(String::from));
        assert_eq!(percents(&[333_333, 333_333, 333_334]), ["33.3 %", "33.3 %", "33.4 %"].map(String::from));
        assert_eq!(percents(&[]), [""; 0]);
        assert_eq!(percents(&[400]), ["0.0 %"]);
    }
}
