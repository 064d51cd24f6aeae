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
/// Credits below zero by which a contributor's spread is told; fewer say nothing.
const LEAST: usize = 4;
/// Contributors by whose spreads that of all is told: of three, two could agree on what the third is paid.
const CONTRIBUTORS: usize = 4;

/// The standard deviation of chance in credits, in their unit: the middle one of the contributors' own, each by the middle of its
/// credits below zero, so that who brings others below zero on purpose needs half of all contributors for it. None where too
/// few say anything.
#[must_use]
pub fn spread(contributors: impl Iterator<Item = Vec<f64>>) -> Option<f64> {
    let own = |credits: Vec<f64>| {
        let below: Vec<f64> = credits.into_iter().filter(|credit| *credit < 0.0).map(f64::abs).collect();
        (below.len() >= LEAST).then(|| median(&below)).flatten()
    };
    let spreads: Vec<f64> = contributors.filter_map(own).collect();
    (spreads.len() >= CONTRIBUTORS).then(|| median(&spreads)).flatten().map(|middle| middle * MEDIANS)
}

/// What is taken for chance in contributors' credits of `micro_nats`, for a release.
#[must_use]
pub fn noise(contributors: impl Iterator<Item = Vec<i64>>) -> u32 {
    #[expect(clippy::cast_precision_loss, reason = "credits are whole numbers within 2^53")]
    let numbers = |credits: Vec<i64>| credits.into_iter().map(|credit| credit as f64).collect();
    let spread = spread(contributors.map(numbers)).unwrap_or_default();
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

    fn below(nats: f64) -> Vec<f64> {
        vec![-nats; LEAST]
    }

    #[test]
    fn what_is_below_zero_tells_the_spread_and_great_credits_do_not() {
        let taught = (0..500).map(|at| f64::from(at) * 1e6).collect::<Vec<_>>();
        let four = [1.0, 2.0, 4.0, 3.0].map(|nats| [below(nats), taught.clone()].concat());
        assert!((spread(four.clone().into_iter()).unwrap() - 2.5 * MEDIANS).abs() < 1e-9);
        assert_eq!(spread(four.into_iter().take(3)), None);
        assert_eq!(spread(vec![below(1.0)[1..].to_vec(); 9].into_iter()), None);
    }

    #[test]
    fn who_harms_on_purpose_moves_the_middle_only_with_half_of_all() {
        let honest = vec![below(0.1); 5];
        let hostile = |count| vec![vec![-50.0; 100]; count];
        let of = |count| spread([honest.clone(), hostile(count)].concat().into_iter()).unwrap();
        assert!((of(4) - of(0)).abs() < 1e-12);
        assert!(of(6) > 50.0);
    }

    #[test]
    fn noise_stays_within_what_a_release_may_claim() {
        let of = |nats: i64| noise(vec![vec![nats; 16]; 4].into_iter());
        assert_eq!(noise(std::iter::empty()), 5_000);
        assert_eq!(of(-1), 5_000);
        assert_eq!(of(i64::MIN), 250_000);
        assert_eq!(of(-100_000), 148_260);
    }
}
