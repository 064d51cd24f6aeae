//! Correlations, misallocation and ranking: pure functions of numbers.
//!
//! Invariant: a figure that its numbers don't determine (no spread, nothing to share, one class only) is `None`, never 0.

/// Pearson's correlation. `None` below two pairs, or where one side has no spread.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let (mean_a, mean_b) = (mean(a)?, mean(b)?);
    let (mut over, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        over += (a - mean_a) * (b - mean_b);
        square_a += (a - mean_a) * (a - mean_a);
        square_b += (b - mean_b) * (b - mean_b);
    }
    let under = (square_a * square_b).sqrt();
    // A constant side differs from its mean by rounding only.
    let has_spread = |square: f64, mean: f64| square > 1e-24 * (1.0 + mean * mean) * a.len() as f64;
    let defined = under.is_finite() && has_spread(square_a, mean_a) && has_spread(square_b, mean_b);
    defined.then(|| (over / under).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation; equals share their middle rank.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

/// Ranks from 1, equals sharing the mean of theirs.
#[must_use]
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut rest = order.as_slice();
    let mut before = 0;
    while let Some(first) = rest.first() {
        let equal = rest.iter().take_while(|at| values[**at].total_cmp(&values[*first]).is_eq()).count();
        let (same, later) = rest.split_at(equal);
        let rank = before as f64 + (equal as f64 + 1.0) / 2.0;
        same.iter().for_each(|at| ranks[*at] = rank);
        before += equal;
        rest = later;
    }
    ranks
}

/// The mean; `None` of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The middle one, of two the mean of both; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length.is_multiple_of(2) => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

/// Parts of a whole: negatives are clipped once, the rest divided by their sum. `None` when nothing is positive.
#[must_use]
pub fn parts(values: &[f64]) -> Option<Vec<f64>> {
    let clipped: Vec<f64> = values.iter().map(|value| value.max(0.0)).collect();
    let sum: f64 = clipped.iter().sum();
    (sum > 0.0).then(|| clipped.iter().map(|value| value / sum).collect())
}

/// The part of the money that goes to the wrong ones: total variation of two divisions of a whole. Where one of them
/// gives nobody anything, all of it is wrong; where both do, none.
#[must_use]
pub fn misallocated(given: &[f64], due: &[f64]) -> f64 {
    match (parts(given), parts(due)) {
        (Some(given), Some(due)) => given.iter().zip(&due).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0,
        (None, None) => 0.0,
        _ => 1.0,
    }
}

/// Probability that a marked one scores above an unmarked one, equals counting half (area under the ROC curve).
/// `None` unless both kinds are there.
#[must_use]
pub fn auc(scores: &[f64], marked: &[bool]) -> Option<f64> {
    let count = marked.iter().filter(|marked| **marked).count();
    let others = marked.len() - count;
    if scores.len() != marked.len() || count == 0 || others == 0 {
        return None;
    }
    let sum: f64 = ranks(scores).iter().zip(marked).filter(|(_, marked)| **marked).map(|(rank, _)| rank).sum();
    let (count, others) = (count as f64, others as f64);
    Some((sum - count * (count + 1.0) / 2.0) / (count * others))
}

#[cfg(test)]
mod tests {
    use super::{auc, median, misallocated, parts, pearson, ranks, spearman};

    fn is_near(found: Option<f64>, expected: f64) {
        assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?} {expected}");
    }

    #[test]
    fn correlations_match_hand_computed_values() {
        // Deviations (-1.5, -0.5, 0.5, 1.5) and (-1.25, 0.75, -0.25, 0.75): 2.5 / sqrt(5 * 2.75).
        is_near(pearson(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 3.0]), 2.5 / (5.0_f64 * 2.75).sqrt());
        is_near(pearson(&[1.0, 2.0], &[5.0, 1.0]), -1.0);
        // Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6*4 / (5*24).
        is_near(spearman(&[1.0, 2.0, 3.0, 4.0, 50.0], &[2.0, 1.0, 4.0, 3.0, 5.0]), 0.8);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }

    #[test]
    fn the_middle_of_two_is_their_mean() {
        assert_eq!((median(&[]), median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0])), (None, Some(2.0), Some(2.5)));
    }

    #[test]
    fn what_has_no_spread_has_no_correlation() {
        assert_eq!(pearson(&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]), None);
        assert_eq!(pearson(&[1.0], &[1.0]), None);
        assert_eq!(pearson(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(pearson(&[f64::NAN, 2.0, 1.0], &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn misallocation_is_the_part_of_the_money_in_wrong_hands() {
        // 1/2 1/2 0 against 1/4 1/4 1/2 (the negative is clipped).
        assert!((misallocated(&[3.0, 3.0, -7.0], &[1.0, 1.0, 2.0]) - 0.5).abs() < 1e-12);
        assert!(misallocated(&[1.0, 2.0], &[10.0, 20.0]).abs() < 1e-12);
        assert!((misallocated(&[0.0, 0.0], &[1.0, 2.0]) - 1.0).abs() < 1e-12);
        assert_eq!(parts(&[-1.0, 0.0]), None);
    }

    #[test]
    fn the_area_counts_pairs() {
        // Marked 0.9 and 0.4 against 0.5, 0.4, 0.1: of six pairs 3 + 1.5 are won.
        let found = auc(&[0.9, 0.4, 0.5, 0.4, 0.1], &[true, true, false, false, false]);
        is_near(found, 4.5 / 6.0);
        assert_eq!(auc(&[1.0, 2.0], &[true, true]), None);
    }
}
