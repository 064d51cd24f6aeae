//! Cutting candidates: top-k, top-p and min-p over scores that are divided by the temperature.
//!
//! Invariant: candidates are ordered by score and then by token id, so equal logits give equal cuts everywhere; the
//! first candidate is never cut.

use std::cmp::Ordering;

use super::Sampling;

/// Candidates sorted first when the cut is unknown; most distributions end their nucleus within.
const FIRST_SORTED: usize = 256;

/// A token that may be drawn.
pub(super) type Candidate = (u32, f64);

fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Cuts `candidates`, in any order, to those that may be drawn.
pub(super) fn cut(mut candidates: Vec<Candidate>, sampling: &Sampling) -> Vec<Candidate> {
    let top_k = usize::try_from(sampling.top_k).unwrap_or(usize::MAX);
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k, order);
        candidates.truncate(top_k);
        candidates.sort_unstable_by_key(|(token, _)| *token);
    }
    let largest = candidates.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
    if sampling.top_p < 1.0 {
        cut_nucleus(&mut candidates, largest, f64::from(sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        let least = f64::from(sampling.min_p);
        candidates.retain(|(_, score)| *score == largest || (score - largest).exp() >= least);
    }
    candidates
}

/// Keeps the fewest largest whose probabilities reach `top_p`.
fn cut_nucleus(candidates: &mut Vec<Candidate>, largest: f64, top_p: f64) {
    let weight = |(_, score): &Candidate| (score - largest).exp();
    let enough = candidates.iter().map(weight).sum::<f64>() * top_p;
    let mut sorted = FIRST_SORTED;
    loop {
        sorted = sorted.min(candidates.len());
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, order);
        }
        candidates[..sorted].sort_unstable_by(order);
        let mut sum = 0.0;
        let reached = candidates[..sorted].iter().position(|candidate| {
            sum += weight(candidate);
            sum >= enough
        });
        match reached {
            Some(last) => return candidates.truncate(last + 1),
            None if sorted == candidates.len() => return,
            None => sorted = sorted.saturating_mul(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Sampling, cut};

    fn candidates(probabilities: &[f64]) -> Vec<Candidate> {
        (0_u32..).zip(probabilities.iter().map(|p| p.ln())).collect()
    }

    fn kept(probabilities: &[f64], sampling: Sampling) -> Vec<u32> {
        let mut kept: Vec<u32> =
            cut(candidates(probabilities), &sampling).into_iter().map(|(token, _)| token).collect();
        kept.sort_unstable();
        kept
    }

    const P: [f64; 5] = [0.1, 0.4, 0.2, 0.25, 0.05];

    #[test]
    fn each_filter_keeps_what_it_says() {
        let none = Sampling::default();
        assert_eq!(kept(&P, none), [0, 1, 2, 3, 4]);
        assert_eq!(kept(&P, Sampling { top_k: 2, ..none }), [1, 3]);
        assert_eq!(kept(&P, Sampling { top_p: 0.8, ..none }), [1, 2, 3]);
        assert_eq!(kept(&P, Sampling { top_p: 0.001, ..none }), [1]);
        assert_eq!(kept(&P, Sampling { min_p: 0.3, ..none }), [1, 2, 3]);
        assert_eq!(kept(&P, Sampling { min_p: 1.0, ..none }), [1]);
        // top-p sees what top-k left: 0.4 of 0.65 is below 0.62, so the second is needed, the third never.
        assert_eq!(kept(&P, Sampling { top_k: 2, top_p: 0.62, ..none }), [1, 3]);
    }

    #[test]
    fn equal_scores_go_to_the_lowest_token() {
        assert_eq!(kept(&[0.25; 4], Sampling { top_k: 3, ..Sampling::default() }), [0, 1, 2]);
        assert_eq!(kept(&[0.25; 4], Sampling { top_p: 0.5, ..Sampling::default() }), [0, 1]);
    }

    #[test]
    fn a_nucleus_wider_than_the_first_sort_is_found() {
        let flat = vec![1.0 / 3000.0; 3000];
        let kept = kept(&flat, Sampling { top_p: 0.9, ..Sampling::default() });
        assert!((2_699..=2_701).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last().copied(), u32::try_from(kept.len() - 1).ok());
    }
}
