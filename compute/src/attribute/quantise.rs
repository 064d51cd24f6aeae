//! Floats to integers with one scale for each tensor, so that scores are exact integer sums.
//!
//! Invariant: [`dot`] of two quantised vectors is the same on every machine: an i64 sum for each tensor, then IEEE
//! double products and additions in tensor order.

use crate::ops::integer_product;

/// One tensor of a leave-out delta: eight bits a value, worth `scale` each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DeltaTensor {
    pub(super) scale: f32,
    pub(super) values: Vec<i8>,
}

/// One tensor of an answer's gradient: sixteen bits a value, worth `scale` each.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GradientTensor {
    pub(super) scale: f32,
    pub(super) values: Vec<i16>,
}

impl DeltaTensor {
    /// Rounds to the nearest of 255 levels. `None` when a value is not finite.
    pub(super) fn of(values: &[f32]) -> Option<Self> {
        let (scale, levels) = levels(values, f32::from(i8::MAX))?;
        #[allow(clippy::cast_possible_truncation, reason = "levels are whole numbers from -127 to 127")]
        let values = levels.into_iter().map(|level| level as i8).collect();
        Some(Self { scale, values })
    }

    /// The numbers that the levels stand for.
    pub(super) fn numbers(&self) -> impl Iterator<Item = f32> + '_ {
        self.values.iter().map(|level| f32::from(*level) * self.scale)
    }

    /// The squared length.
    pub(super) fn squared_norm(&self) -> f64 {
        let sum: i64 = self.values.iter().map(|&value| i64::from(value) * i64::from(value)).sum();
        to_f64(sum) * f64::from(self.scale) * f64::from(self.scale)
    }
}

impl GradientTensor {
    /// Rounds to the nearest of 65,535 levels. `None` when a value is not finite.
    pub(super) fn of(values: &[f32]) -> Option<Self> {
        let (scale, levels) = levels(values, f32::from(i16::MAX))?;
        #[allow(clippy::cast_possible_truncation, reason = "levels are whole numbers from -32767 to 32767")]
        let values = levels.into_iter().map(|level| level as i16).collect();
        Some(Self { scale, values })
    }
}

/// The inner product over tensors of equal shapes.
pub(super) fn dot(gradient: &[GradientTensor], delta: &[DeltaTensor]) -> f64 {
    gradient
        .iter()
        .zip(delta)
        .map(|(g, d)| to_f64(integer_product(&g.values, &d.values)) * f64::from(g.scale) * f64::from(d.scale))
        .sum()
}

fn to_f64(sum: i64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a sum above 2^53 rounds, in the same way everywhere")]
    let sum = sum as f64;
    sum
}

fn levels(values: &[f32], most: f32) -> Option<(f32, Vec<f32>)> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let high = values.iter().fold(0.0_f32, |high, value| high.max(value.abs()));
    let scale = high / most;
    if scale == 0.0 {
        return Some((0.0, vec![0.0; values.len()]));
    }
    Some((scale, values.iter().map(|value| (value / scale).round_ties_even().clamp(-most, most)).collect()))
}

#[cfg(test)]
mod tests {
    use super::{DeltaTensor, GradientTensor, dot};

    #[test]
    fn quantising_keeps_half_a_level() {
        let values: Vec<f32> = (0..500).map(|at| (at as f32 * 0.31).sin() * 3.0).collect();
        let tensor = DeltaTensor::of(&values).unwrap();
        for (value, number) in values.iter().zip(tensor.numbers()) {
            assert!((value - number).abs() <= tensor.scale * 0.5001);
        }
    }

    #[test]
    fn zeros_and_subnormal_ranges_stay_zero() {
        assert_eq!(DeltaTensor::of(&[0.0; 4]).unwrap(), DeltaTensor { scale: 0.0, values: vec![0; 4] });
        let tiny = DeltaTensor::of(&[f32::from_bits(1), 0.0]).unwrap();
        assert!(tiny.scale == 0.0 && tiny.values == [0, 0]);
        assert!(DeltaTensor::of(&[f32::NAN]).is_none());
        assert!(GradientTensor::of(&[f32::INFINITY]).is_none());
    }

    #[test]
    fn the_product_approximates_the_real_one() {
        let a: Vec<f32> = (0..999).map(|at| (at as f32 * 0.17).cos()).collect();
        let b: Vec<f32> = (0..999).map(|at| (at as f32 * 0.19).cos()).collect();
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let quantised = dot(&[GradientTensor::of(&a).unwrap()], &[DeltaTensor::of(&b).unwrap()]);
        assert!((exact - quantised).abs() < 0.3, "{exact} {quantised}");
    }
}
