//! What a first-order estimate misses, learned from the contributors whose true difference is known.
//!
//! The next term of the loss around the deployed adapter is ½ δᵀHδ. Over directions as different as leave-out deltas are, it is
//! near the curvature's mean times |δ|², the same factor for all contributors of one answer.
//!
//! Invariant: the factor is a function of the measured contributors alone, added in their order in double precision.

/// A curvature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bend(f64);

impl Bend {
    /// The curvature that fits best, by least squares, given each one's |δ|² and by how much its true difference exceeds its
    /// estimate. None, where there is nothing to fit.
    pub(super) fn of(known: impl Iterator<Item = (f64, f64)>) -> Self {
        let (mut over, mut under) = (0.0, 0.0);
        for (squared_length, missed) in known {
            over += squared_length * missed;
            under += squared_length * squared_length;
        }
        Self(if under > 0.0 { over / under } else { 0.0 })
    }

    /// What the estimate misses of a contributor with this |δ|².
    pub(super) fn missed(self, squared_length: f64) -> f64 {
        self.0 * squared_length
    }
}

#[cfg(test)]
mod tests {
    use super::Bend;

    #[test]
    fn a_parabola_is_found_again() {
        let bend = Bend::of([(1.0, 0.5), (4.0, 2.0), (0.25, 0.125)].into_iter());
        assert!((bend.missed(2.0) - 1.0).abs() < 1e-12);
        assert!(Bend::of(std::iter::empty()).missed(3.0).abs() < 1e-12);
        assert!(Bend::of([(0.0, 1.0)].into_iter()).missed(3.0).abs() < 1e-12);
    }
}
