//! Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11), a pure function of key and counter.
//!
//! Invariant: no state. A draw is named by (seed, stream, counter), so it can be repeated alone and in any order.

/// What a draw is for; keeps streams of one seed apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Order of training examples.
    Order = 1,
    /// Initial weights.
    Initial = 2,
    /// Dropout masks.
    Dropout = 3,
    /// Sampling of tokens.
    Sample = 4,
    /// What a study of attribution draws.
    Study = 5,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

/// The two halves of a product.
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
#[inline(always)]
const fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = a as u64 * b as u64;
    ((product >> 32) as u32, product as u32)
}

/// Philox4x32-10.
#[must_use]
#[inline(always)]
pub const fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut round = 0;
    while round < ROUNDS {
        let (high_0, low_0) = wide_product(MULTIPLIERS[0], counter[0]);
        let (high_1, low_1) = wide_product(MULTIPLIERS[1], counter[2]);
        counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    counter
}

/// Four words for (seed, stream, `high`, `low`).
#[expect(clippy::cast_possible_truncation, reason = "halves of the numbers are meant")]
#[must_use]
#[inline(always)]
pub const fn words(seed: u64, stream: Stream, high: u32, low: u64) -> [u32; 4] {
    philox([low as u32, (low >> 32) as u32, high, stream as u32], [seed as u32, (seed >> 32) as u32])
}

/// A number in [0, 1) of 53 random bits.
#[must_use]
pub const fn uniform(seed: u64, stream: Stream, high: u32, low: u64) -> f64 {
    let words = words(seed, stream, high, low);
    let bits = ((words[0] as u64) << 21) ^ ((words[1] as u64) >> 11);
    bits as f64 / 9_007_199_254_740_992.0
}

/// A standard normal number (Box–Muller).
#[must_use]
pub fn normal(seed: u64, stream: Stream, high: u32, low: u64) -> f64 {
    let words = words(seed, stream, high, low);
    let first = (f64::from(words[0]) + 1.0) / 4_294_967_296.0;
    let second = f64::from(words[1]) / 4_294_967_296.0;
    (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos()
}

/// A random order of `0..count`, named by `high`.
#[must_use]
pub fn permutation(seed: u64, high: u32, count: u32) -> Vec<u32> {
    let key = |index: &u32| {
        let words = words(seed, Stream::Order, high, u64::from(*index));
        (words[0], words[1], *index)
    };
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by_cached_key(key);
    order
}

#[cfg(test)]
mod tests {
    use super::{permutation, philox};

    #[test]
    fn known_answers_of_random123() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutation_has_each_index_once() {
        let mut order = permutation(7, 3, 100);
        assert_ne!(order, permutation(7, 4, 100));
        assert_eq!(order, permutation(7, 3, 100));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
