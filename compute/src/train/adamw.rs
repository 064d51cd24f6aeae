//! AdamW (arXiv 1711.05101) whose moments can be saved; candle's are private.
//!
//! Invariant: one update is a pure function of values, moments, gradient, step and rate, element by element; only the
//! gradient's norm is a reduction, in f64 from the first element to the last.

use std::ops::Range;

use crate::ops::narrow;

/// Decay of the first moment.
pub(super) const BETA_1: f64 = 0.9;
/// Decay of the second moment; runs are short, so it remembers about a hundred steps.
pub(super) const BETA_2: f64 = 0.99;
/// Keeps the division finite.
pub(super) const EPSILON: f32 = 1e-8;

/// Values with their moments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AdamW {
    pub(super) values: Vec<f32>,
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
}

/// One update's settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    /// Steps done before this one.
    pub(super) step: u32,
    pub(super) lr: f64,
    pub(super) clip: f64,
    pub(super) weight_decay: f64,
}

impl AdamW {
    pub(super) fn new(values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self { first: zeros.clone(), second: zeros, values }
    }

    /// Applies `gradient`; weight decay applies to the values in `decayed`. Gives the gradient's norm before clipping.
    pub(super) fn update(&mut self, gradient: &[f32], update: Update, decayed: &[Range<usize>]) -> f64 {
        let norm = gradient.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
        let factor = if update.clip > 0.0 && norm > update.clip { narrow(update.clip / norm) } else { 1.0 };
        let done = i32::try_from(update.step).unwrap_or(i32::MAX).saturating_add(1);
        let correct_first = narrow(1.0 / (1.0 - BETA_1.powi(done)));
        let correct_second = narrow(1.0 / (1.0 - BETA_2.powi(done)));
        let rate = narrow(update.lr);
        let decay = narrow(1.0 - update.lr * update.weight_decay);
        if update.weight_decay > 0.0 {
            for range in decayed {
                self.values[range.clone()].iter_mut().for_each(|value| *value *= decay);
            }
        }
        let (keep_first, keep_second) = (narrow(BETA_1), narrow(BETA_2));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, (first, second)), gradient) in self.values.iter_mut().zip(moments).zip(gradient) {
            let gradient = gradient * factor;
            *first = *first * keep_first + gradient * (1.0 - keep_first);
            *second = *second * keep_second + gradient * gradient * (1.0 - keep_second);
            *value -= rate * (*first * correct_first) / ((*second * correct_second).sqrt() + EPSILON);
        }
        norm
    }
}

#[cfg(test)]
mod tests {
    use super::{AdamW, Update};

    #[test]
    fn first_step_moves_by_the_rate_against_the_sign() {
        let mut state = AdamW::new(vec![1.0, -1.0, 0.5]);
        let update = Update { step: 0, lr: 0.01, clip: 0.0, weight_decay: 0.0 };
        let norm = state.update(&[3.0, -4.0, 0.0], update, &[]);
        assert!((norm - 5.0).abs() < 1e-6);
        for (value, expected) in state.values.iter().zip([0.99, -0.99, 0.5]) {
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    }

    #[test]
    fn minimises_a_bowl() {
        let mut state = AdamW::new(vec![3.0, -2.0]);
        for step in 0..800 {
            let gradient: Vec<f32> = state.values.iter().map(|value| 2.0 * (value - 1.0)).collect();
            state.update(&gradient, Update { step, lr: 0.05, clip: 1.0, weight_decay: 0.0 }, &[]);
        }
        assert!(state.values.iter().all(|value| (value - 1.0).abs() < 1e-2), "{:?}", state.values);
    }
}
