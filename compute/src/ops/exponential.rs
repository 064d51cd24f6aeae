//! eˣ in f32 by range reduction and a polynomial (Cephes' `expf`), free of the platform's mathematical library.
//!
//! Invariant: only additions, multiplications and bit moves in a fixed order, so every machine gives the same bits;
//! relative error below 2·10⁻⁷ on [−87, 88].

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, so that n·ln 2 loses no bits for |n| < 2⁹.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting 1.5·2²³ rounds to the nearest integer.
const ROUNDER: f32 = 12_582_912.0;
/// Below, the result would not be a normal number; it is within 10⁻³⁸ of zero anyway.
const LEAST: f32 = -87.0;
const MOST: f32 = 88.0;

/// eˣ, with x clamped to [−87, 88].
#[must_use]
#[inline(always)]
pub fn exponential(x: f32) -> f32 {
    let x = x.clamp(LEAST, MOST);
    let shifted = x * LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 0.5;
    let mantissa = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    mantissa * f32::from_bits(exponent << 23)
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exponential(-x))
}

#[cfg(test)]
mod tests {
    use super::exponential;

    #[test]
    fn follows_the_library() {
        for step in -8700..8800_i16 {
            let x = f32::from(step) / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exponential(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}) is off by {error}");
        }
        assert!((exponential(0.0) - 1.0).abs() < f32::EPSILON);
        assert!(exponential(-1e30) < 1e-37);
    }
}
