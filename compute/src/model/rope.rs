//! Frequencies of the rotary positions and how a longer context stretches them.
//!
//! Invariant: a checked scaling gives finite positive frequencies. Formulas are those of `transformers`
//! (`modeling_rope_utils.py`) and hold for its `default`, `linear`, `llama3` and `yarn`; anything else is refused.

use super::ModelError;
use crate::ops::narrow;

/// Largest factor by which a context is stretched; beyond it nothing of the training is left.
const MAX_FACTOR: f64 = 4096.0;

/// How frequencies are changed for contexts longer than those of the pretraining.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All positions divided by `factor`.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies are divided, high ones kept, those between interpolated.
    Llama3 {
        /// The stretch.
        factor: f64,
        /// Rotations in the original context below which a frequency counts as low.
        low_freq_factor: f64,
        /// Rotations in the original context above which it counts as high.
        high_freq_factor: f64,
        /// Context of the pretraining.
        original_positions: f64,
    },
    /// YaRN (arXiv 2309.00071), with cosines and sines scaled by `attention_factor`.
    Yarn {
        /// The stretch.
        factor: f64,
        /// Context of the pretraining.
        original_positions: f64,
        /// Factor of cosines and sines.
        attention_factor: f64,
        /// Rotations above which nothing is interpolated.
        beta_fast: f64,
        /// Rotations below which everything is.
        beta_slow: f64,
        /// Whether the bounds of the ramp are whole dimensions.
        truncate: bool,
    },
    /// A divisor for each frequency, as GGUF stores Llama 3.1's.
    Divisors(Vec<f32>),
}

/// Frequencies in radians per position, and the factor of cosines and sines.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    /// One per pair of a head's dimensions.
    pub each: Vec<f32>,
    /// 1 except for YaRN.
    pub amplitude: f32,
}

/// YaRN's default factor of cosines and sines, section 3.4.
#[must_use]
pub fn yarn_amplitude(factor: f64, multiplier: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * multiplier * factor.ln() + 1.0 }
}

impl RopeScaling {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the field that is out of bounds.
    pub fn check(&self, head_dim: usize) -> Result<(), ModelError> {
        let within = |name: &str, value: f64, least: f64, most: f64| match value >= least && value <= most {
            true => Ok(()),
            false => Err(ModelError::Config(format!("rope {name} is {value}, allowed {least} to {most}"))),
        };
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => within("factor", *factor, 1.0, MAX_FACTOR),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                within("factor", *factor, 1.0, MAX_FACTOR)?;
                within("low_freq_factor", *low_freq_factor, 1e-3, 1e3)?;
                within("high_freq_factor", *high_freq_factor, low_freq_factor + 1e-3, 1e4)?;
                within("original_max_position_embeddings", *original_positions, 1.0, 1e9)
            }
            Self::Yarn { factor, original_positions, attention_factor, beta_fast, beta_slow, .. } => {
                within("factor", *factor, 1.0, MAX_FACTOR)?;
                within("original_max_position_embeddings", *original_positions, 1.0, 1e9)?;
                within("attention_factor", *attention_factor, 1e-3, 1e3)?;
                within("beta_slow", *beta_slow, 1e-3, 1e3)?;
                within("beta_fast", *beta_fast, *beta_slow, 1e4)
            }
            Self::Divisors(divisors) if divisors.len() != head_dim / 2 => {
                Err(ModelError::Config(format!("{} rope divisors for heads of {head_dim}", divisors.len())))
            }
            Self::Divisors(divisors) => {
                divisors.iter().try_for_each(|divisor| within("divisor", f64::from(*divisor), 1e-3, MAX_FACTOR))
            }
        }
    }

    /// The frequencies of heads of width `head_dim` over base `theta`.
    #[must_use]
    pub fn frequencies(&self, head_dim: usize, theta: f64) -> Frequencies {
        let plain = (0..head_dim / 2).map(|index| theta.powf(-(2.0 * index as f64) / head_dim as f64));
        let (each, amplitude): (Vec<f64>, f64) = match self {
            Self::None => (plain.collect(), 1.0),
            Self::Linear { factor } => (plain.map(|frequency| frequency / factor).collect(), 1.0),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let stretch = |frequency: f64| {
                    let rotations = original_positions * frequency / std::f64::consts::TAU;
                    let kept = ((rotations - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                };
                (plain.map(stretch).collect(), 1.0)
            }
            Self::Yarn { factor, original_positions, attention_factor, beta_fast, beta_slow, truncate } => {
                let (low, high) = yarn_range(head_dim, theta, *original_positions, [*beta_fast, *beta_slow], *truncate);
                let stretch = |(index, frequency): (usize, f64)| {
                    let interpolated = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    frequency / factor * interpolated + frequency * (1.0 - interpolated)
                };
                (plain.enumerate().map(stretch).collect(), *attention_factor)
            }
            Self::Divisors(divisors) => {
                (plain.zip(divisors).map(|(frequency, divisor)| frequency / f64::from(*divisor)).collect(), 1.0)
            }
        };
        Frequencies { each: each.into_iter().map(narrow).collect(), amplitude: narrow(amplitude) }
    }
}

/// Indices of frequencies between which YaRN's ramp rises.
fn yarn_range(head_dim: usize, theta: f64, original: f64, betas: [f64; 2], truncate: bool) -> (f64, f64) {
    let dim = head_dim as f64;
    let at = |rotations: f64| dim * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let [mut low, mut high] = betas.map(at);
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    // The same guard against a ramp of no width as in transformers.
    if (high - low).abs() < f64::EPSILON { (low, low + 0.001) } else { (low, high) }
}

#[cfg(test)]
mod tests {
    use super::RopeScaling;

    #[test]
    fn high_frequencies_are_kept_and_low_ones_divided() {
        let plain = RopeScaling::None.frequencies(64, 10_000.0);
        let llama = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        let yarn = RopeScaling::Yarn {
            factor: 8.0,
            original_positions: 4096.0,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        };
        for scaling in [llama, yarn] {
            scaling.check(64).unwrap();
            let stretched = scaling.frequencies(64, 10_000.0);
            assert!((stretched.each[0] - plain.each[0]).abs() < 1e-7, "{scaling:?}");
            assert!((stretched.each[31] * 8.0 / plain.each[31] - 1.0).abs() < 1e-5, "{scaling:?}");
            assert!(stretched.each.windows(2).all(|pair| pair[0] > pair[1]), "{scaling:?}");
        }
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for scaling in [
            RopeScaling::Linear { factor: 0.0 },
            RopeScaling::Linear { factor: f64::NAN },
            RopeScaling::Linear { factor: f64::INFINITY },
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 4.0,
                high_freq_factor: 4.0,
                original_positions: 8192.0,
            },
            RopeScaling::Divisors(vec![1.0; 3]),
            RopeScaling::Divisors(vec![0.0; 32]),
        ] {
            assert!(scaling.check(64).is_err(), "{scaling:?}");
        }
    }
}
