//! Intervals by drawing anew from what was measured (Efron 1979), with replacement.
//!
//! Invariant: a figure and its interval follow from the numbers and the seed; draws are named, so any can be repeated.

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::{Deserialize, Serialize};

use crate::random::{Stream, words};

/// Draws for one interval.
pub const DRAWS: u32 = 1_000;
/// What of the draws lies outside on each side.
const OUTSIDE: f64 = 0.025;

/// A figure with the middle 95 % of its draws.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Of everything that was measured.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Numbers that one seed names, one after another.
pub(super) struct Draws {
    seed: u64,
    high: u32,
    low: u64,
}

impl Draws {
    pub(super) const fn new(seed: u64, high: u32) -> Self {
        Self { seed, high, low: 0 }
    }

    /// An even draw from `0..bound`; 0 when that is empty.
    #[expect(clippy::cast_possible_truncation, reason = "the product's high half is below the bound")]
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let words = words(self.seed, Stream::Study, self.high, self.low);
        self.low += 1;
        let wide = u128::from(words[0]) << 32 | u128::from(words[1]);
        ((wide * bound as u128) >> 64) as usize
    }

    /// A number in [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        self.below(1 << 53) as f64 / (1_u64 << 53) as f64
    }

    /// A random order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// The figure of `statistic`, which is given places in two lists of `first` and `second` measurements (queries and
/// subsets, say): all of them for the value, draws with replacement for the interval. `None` where the statistic has no
/// value; draws without one are left out.
pub(super) fn figure(
    seed: u64,
    [first, second]: [usize; 2],
    statistic: impl Fn(&[usize], &[usize]) -> Option<f64> + Sync,
) -> Option<Figure> {
    let all = |count: usize| (0..count).collect::<Vec<usize>>();
    around(statistic(&all(first), &all(second))?, seed, [first, second], statistic)
}

/// The same around a value that is known.
pub(super) fn around(
    value: f64,
    seed: u64,
    [first, second]: [usize; 2],
    statistic: impl Fn(&[usize], &[usize]) -> Option<f64> + Sync,
) -> Option<Figure> {
    let draw = |draw: u32| {
        let mut draws = Draws::new(seed, draw);
        let mut some = |count: usize| (0..count).map(|_| draws.below(count)).collect::<Vec<usize>>();
        statistic(&some(first), &some(second))
    };
    let mut drawn: Vec<f64> = (0..DRAWS).into_par_iter().filter_map(draw).collect();
    drawn.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = part * drawn.len().saturating_sub(1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
        drawn.get(place.round() as usize).copied()
    };
    Some(Figure { value, low: at(OUTSIDE)?, high: at(1.0 - OUTSIDE)? })
}

#[cfg(test)]
mod tests {
    use super::{Draws, figure};
    use crate::statistics::mean;

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors() {
        let values: Vec<f64> = (0..400).map(|at| f64::from(at % 20)).collect();
        let found = figure(1, [400, 0], |places, _| mean(&places.iter().map(|at| values[*at]).collect::<Vec<_>>()));
        let found = found.unwrap();
        assert!((found.value - 9.5).abs() < 1e-9);
        // Standard deviation of 0..19 is 5.77, so the standard error is .288.
        assert!((found.high - found.low - 4.0 * 0.288).abs() < 0.2, "{found:?}");
        assert_eq!(figure(1, [3, 3], |_, _| None), None);
    }

    #[test]
    fn draws_are_even_and_repeatable() {
        let mut counts = [0; 5];
        let mut draws = Draws::new(3, 0);
        (0..5_000).for_each(|_| counts[draws.below(5)] += 1);
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
        let mut order: Vec<u8> = (0..20).collect();
        Draws::new(9, 1).shuffle(&mut order);
        let mut again: Vec<u8> = (0..20).collect();
        Draws::new(9, 1).shuffle(&mut again);
        assert_eq!(order, again);
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }
}
