//! What is taken for chance in credits: by how much those spread who taught nothing of an answer.
//!
//! A training without a contributor ends elsewhere by chance too, which raises a loss as often as it lowers it. Whom leaving out
//! makes an answer better taught nothing of it for the most part, so the credits below zero show the spread of chance, and no
//! second training is needed to see it.
//!
//! Invariant: the noise is a pure function of the credits, within the bounds that a release may claim.

use tributary_protocol::attribution::{NOISE_MAX_MICRO_NATS, NOISE_MICRO_NATS};

use crate::statistics::median;

/// Standard deviations of chance that are taken off a credit. Fitted on trainings with other seeds: with it, credits of one seed
/// predict the rises of another best (`tributary eval attribution --part recipes`, `compute/ATTRIBUTION.md`).
pub const NOISE_SPREADS: f64 = 1.0;
/// The standard deviation of a normal distribution in medians of its absolute deviation.
const MEDIANS: f64 = 1.482_602_218_505_602;
/// Credits below zero that a spread is told by; fewer say nothing.
const LEAST: usize = 16;

/// The standard deviation of chance in credits, in their unit: of the middle credit below zero. None where too few are below.
#[must_use]
pub fn spread(credits: impl Iterator<Item = f64>) -> Option<f64> {
    let below: Vec<f64> = credits.filter(|credit| *credit < 0.0).map(f64::abs).collect();
    (below.len() >= LEAST).then(|| median(&below)).flatten().map(|middle| middle * MEDIANS)
}

/// What is taken for chance in credits of `micro_nats`, for a release.
#[must_use]
pub fn noise(micro_nats: impl Iterator<Item = i64>) -> u32 {
    #[expect(clippy::cast_precision_loss, reason = "credits are whole numbers within 2^53")]
    let spread = spread(micro_nats.map(|credit| credit as f64)).unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded and not below zero; saturates"
    )]
    let noise = (spread * NOISE_SPREADS).round() as u64;
    let bounded = noise.clamp(NOISE_MICRO_NATS, NOISE_MAX_MICRO_NATS);
    u32::try_from(bounded).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{LEAST, MEDIANS, noise, spread};

    #[test]
    fn what_is_below_zero_tells_the_spread_and_great_credits_do_not() {
        let chance = (1..=40).map(|at| -f64::from(at));
        let taught = (0..500).map(|at| f64::from(at) * 1e6);
        assert!((spread(chance.chain(taught)).unwrap() - 20.5 * MEDIANS).abs() < 1e-9);
        assert_eq!(spread((1..LEAST).map(|at| -(at as f64))), None);
    }

    #[test]
    fn noise_stays_within_what_a_release_may_claim() {
        assert_eq!(noise(std::iter::empty()), 5_000);
        assert_eq!(noise([-1; 100].into_iter()), 5_000);
        assert_eq!(noise([i64::MIN; 100].into_iter()), 1_000_000);
        assert_eq!(noise([-100_000; 100].into_iter()), 148_260);
    }
}
