//! A polynomial over GF(65497) through up to 128 points: TOPLOC's encoding (arXiv 2501.16007, section 4).
//!
//! Invariant: for distinct x below the prime, `evaluate(interpolate(points), x)` gives back every y below the
//! prime. Storing coefficients instead of points saves the positions: the checker brings its own.

/// TOPLOC's prime: below 2^16, and above 65,407, the largest bit pattern of a finite bf16 value.
pub(super) const PRIME: u32 = 65_497;

fn multiply(a: u32, b: u32) -> u32 {
    // Both factors are below 2^16, so the product fits 32 bits.
    a * b % PRIME
}

fn subtract(a: u32, b: u32) -> u32 {
    (a + PRIME - b) % PRIME
}

/// The inverse by Fermat's little theorem; `a` is not zero.
fn invert(a: u32) -> u32 {
    let (mut base, mut exponent, mut result) = (a, PRIME - 2, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

/// Coefficients, constant term first, of the polynomial through `points` (Newton's divided differences).
/// The x are distinct; x and y are below [`PRIME`].
pub(super) fn interpolate(points: &[(u32, u32)]) -> Vec<u32> {
    let mut differences: Vec<u32> = points.iter().map(|&(_, y)| y).collect();
    for level in 1..points.len() {
        for row in (level..points.len()).rev() {
            let rise = subtract(differences[row], differences[row - 1]);
            let run = subtract(points[row].0, points[row - level].0);
            differences[row] = multiply(rise, invert(run));
        }
    }
    // Horner's scheme from the highest divided difference down: p = p * (x - x_row) + d_row.
    let mut coefficients = vec![0; points.len()];
    for row in (0..points.len()).rev() {
        for at in (1..points.len()).rev() {
            let shifted = multiply(coefficients[at], points[row].0);
            coefficients[at] = subtract(coefficients[at - 1], shifted);
        }
        if let Some(constant) = coefficients.first_mut() {
            let shifted = multiply(*constant, points[row].0);
            *constant = (subtract(0, shifted) + differences[row]) % PRIME;
        }
    }
    coefficients
}

/// The value at `x`, which is below [`PRIME`].
pub(super) fn evaluate(coefficients: &[u32], x: u32) -> u32 {
    coefficients.iter().rev().fold(0, |value, &coefficient| (multiply(value, x) + coefficient) % PRIME)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::{PRIME, evaluate, interpolate, invert, multiply};

    #[test]
    fn inverses_multiply_to_one() {
        for a in [1, 2, 3, 12_345, PRIME - 1] {
            assert_eq!(multiply(a, invert(a)), 1);
        }
    }

    #[test]
    fn no_points_give_no_coefficients() {
        assert!(interpolate(&[]).is_empty());
        assert_eq!(evaluate(&[], 7), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_point_comes_back(points in proptest::collection::btree_map(0..PRIME, 0..PRIME, 1..129)) {
            let points: Vec<(u32, u32)> = points.into_iter().collect();
            let coefficients = interpolate(&points);
            for (x, y) in points {
                prop_assert_eq!(evaluate(&coefficients, x), y);
            }
        }
    }
}
