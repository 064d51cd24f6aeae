//! The fingerprint of up to 32 generated tokens: what a worker commits to and a checker recomputes.
//!
//! Two halves serve two checkers. `exact` is the BLAKE3 hash of every bit of the hidden states that predicted the
//! tokens: a checker of the same determinism class must get the same bits, so nothing hides inside a tolerance.
//! The polynomial is TOPLOC's (arXiv 2501.16007): the 128 largest values in bf16, for a checker of another class,
//! which compares exponents and mantissas.
//!
//! Invariant: equal hidden states give equal bytes; decoding accepts canonical bytes only.

use tributary_protocol::id::Hash;

use super::polynomial::{self, PRIME};

/// Tokens that one fingerprint covers; TOPLOC's interval, 8 bytes a token.
pub const TOKENS_PER_FINGERPRINT: usize = 32;
/// Values kept of each interval; TOPLOC's choice.
pub const TOP_VALUES: usize = 128;
/// The smallest modulus tried for positions: below it collisions among 128 positions stop being rare.
const LOWEST_MODULUS: u32 = 1 << 15;
/// Tokens, hash, modulus, number of coefficients.
const HEADER_BYTES: usize = 1 + 32 + 2 + 1;
/// Mantissa bits of a bf16 value.
const MANTISSA_BITS: u32 = 7;

const EXACT_CONTEXT: &str = "tributary 2026 exact hidden states of one fingerprint";
const ROOT_DOMAIN: &[u8] = b"tributary fingerprint root v1";

/// Why bytes are no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintError {
    /// Not the number of bytes that the header announces.
    #[error("a fingerprint of {expected} bytes, got {got}")]
    Length {
        /// Bytes announced.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// A field is outside its range.
    #[error("fingerprint field out of range: {0}")]
    Range(&'static str),
}

/// What a worker commits to for one interval of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    tokens: u8,
    exact: Hash,
    modulus: u16,
    coefficients: Vec<u16>,
}

/// How far a recomputation is from a commitment, over the top values of the recomputation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Values compared.
    pub values: usize,
    /// Values whose sign and exponent agree.
    pub exponents_equal: usize,
    /// Mean difference of the mantissas (0–127) where sign and exponent agree.
    pub mantissa_mean: f64,
    /// Median of the same.
    pub mantissa_median: f64,
}

impl Deviation {
    /// TOPLOC's published rule for another machine class, scaled to the values compared: more than 90 of 128
    /// exponents equal, mantissas off by less than 10 in the mean and 8 in the median. Not calibrated by us.
    #[must_use]
    pub fn within_published_bounds(&self) -> bool {
        self.values > 0
            && self.exponents_equal * TOP_VALUES > 90 * self.values
            && self.mantissa_mean < 10.0
            && self.mantissa_median < 8.0
    }
}

impl Fingerprint {
    /// The fingerprint of one to 32 rows of hidden state. `None` without rows, with more, or with a value that
    /// is not finite.
    #[must_use]
    pub fn of(states: &[Vec<f32>]) -> Option<Self> {
        let tokens = u8::try_from(states.len()).ok().filter(|&n| n >= 1 && states.len() <= TOKENS_PER_FINGERPRINT)?;
        if states.iter().flatten().any(|value| !value.is_finite()) {
            return None;
        }
        let top = top_values(states);
        let modulus = injective_modulus(&top)?;
        let points: Vec<(u32, u32)> =
            top.iter().map(|&(at, bits)| (at % u32::from(modulus), u32::from(bits))).collect();
        let coefficients =
            polynomial::interpolate(&points).into_iter().map(u16::try_from).collect::<Result<_, _>>().ok()?;
        Some(Self { tokens, exact: exact_hash(states), modulus, coefficients })
    }

    /// Tokens covered.
    #[must_use]
    pub fn tokens(&self) -> usize {
        usize::from(self.tokens)
    }

    /// The hash over every bit of the hidden states.
    #[must_use]
    pub fn exact(&self) -> Hash {
        self.exact
    }

    /// Compares the committed top values with recomputed states, for a checker of another class.
    #[must_use]
    pub fn deviation(&self, states: &[Vec<f32>]) -> Deviation {
        let coefficients: Vec<u32> = self.coefficients.iter().map(|&c| u32::from(c)).collect();
        let top = top_values(states);
        let mut mantissas = Vec::new();
        for &(at, bits) in &top {
            let claimed = polynomial::evaluate(&coefficients, at % u32::from(self.modulus));
            let own = u32::from(bits);
            if claimed >> MANTISSA_BITS == own >> MANTISSA_BITS {
                let mask = (1 << MANTISSA_BITS) - 1;
                mantissas.push((claimed & mask).abs_diff(own & mask));
            }
        }
        mantissas.sort_unstable();
        let exponents_equal = mantissas.len();
        let sum: u32 = mantissas.iter().sum();
        let count = u32::try_from(exponents_equal).unwrap_or(u32::MAX).max(1);
        Deviation {
            values: top.len(),
            exponents_equal,
            mantissa_mean: f64::from(sum) / f64::from(count),
            mantissa_median: f64::from(mantissas.get(exponents_equal / 2).copied().unwrap_or(0)),
        }
    }

    /// Canonical bytes: tokens (1), exact hash (32), modulus (2, little-endian), coefficients less one (1), then
    /// each coefficient (2, little-endian). 292 bytes for a full interval.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 2 * self.coefficients.len());
        bytes.push(self.tokens);
        bytes.extend(self.exact.as_bytes());
        bytes.extend(self.modulus.to_le_bytes());
        bytes.push(u8::try_from(self.coefficients.len() - 1).expect("invariant: 1 to 128 coefficients"));
        bytes.extend(self.coefficients.iter().flat_map(|coefficient| coefficient.to_le_bytes()));
        bytes
    }

    /// Reads one fingerprint from bytes of any origin.
    ///
    /// # Errors
    /// [`FingerprintError`] when they are not canonical.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FingerprintError> {
        let short = FingerprintError::Length { expected: HEADER_BYTES, got: bytes.len() };
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(short)?;
        let tokens = header[0];
        if tokens == 0 || usize::from(tokens) > TOKENS_PER_FINGERPRINT {
            return Err(FingerprintError::Range("tokens"));
        }
        let mut exact = [0; 32];
        exact.copy_from_slice(&header[1..33]);
        let modulus = u16::from_le_bytes([header[33], header[34]]);
        if u32::from(modulus) < LOWEST_MODULUS || u32::from(modulus) > PRIME {
            return Err(FingerprintError::Range("modulus"));
        }
        let count = usize::from(header[35]) + 1;
        if count > TOP_VALUES {
            return Err(FingerprintError::Range("coefficients"));
        }
        if rest.len() != 2 * count {
            return Err(FingerprintError::Length { expected: HEADER_BYTES + 2 * count, got: bytes.len() });
        }
        let coefficients: Vec<u16> = rest.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        if coefficients.iter().any(|&coefficient| u32::from(coefficient) >= PRIME) {
            return Err(FingerprintError::Range("coefficient"));
        }
        Ok(Self { tokens, exact: Hash(exact), modulus, coefficients })
    }
}

/// The hash that a receipt carries for all fingerprints of an answer: a hash list with lengths, so neither a
/// split nor an order can be moved.
#[must_use]
pub fn fingerprint_root(fingerprints: &[Fingerprint]) -> Hash {
    let mut bytes = ROOT_DOMAIN.to_vec();
    bytes.extend((fingerprints.len() as u64).to_le_bytes());
    for fingerprint in fingerprints {
        let encoded = fingerprint.to_bytes();
        bytes.extend((encoded.len() as u64).to_le_bytes());
        bytes.extend(encoded);
    }
    Hash::of(&bytes)
}

fn exact_hash(states: &[Vec<f32>]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(EXACT_CONTEXT);
    for row in states {
        hasher.update(&(row.len() as u64).to_le_bytes());
        for value in row {
            hasher.update(&value.to_bits().to_le_bytes());
        }
    }
    Hash(*hasher.finalize().as_bytes())
}

/// Position and bf16 bits of the largest magnitudes, largest first; ties go to the lower position.
fn top_values(states: &[Vec<f32>]) -> Vec<(u32, u16)> {
    let mut values: Vec<(u32, f32)> = (0_u32..).zip(states.iter().flatten().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0));
    if values.len() > TOP_VALUES {
        values.select_nth_unstable_by(TOP_VALUES, order);
        values.truncate(TOP_VALUES);
    }
    values.sort_unstable_by(order);
    values.into_iter().map(|(at, value)| (at, to_bf16(value))).collect()
}

/// The upper half of the bits after rounding to nearest, ties to even; a value that would round to infinity
/// keeps the largest finite exponent.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.saturating_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let upper = u16::try_from(rounded).unwrap_or(u16::MAX);
    if upper & 0x7f80 == 0x7f80 { u16::try_from(bits >> 16).unwrap_or(u16::MAX) } else { upper }
}

/// The largest modulus, not above the prime, that keeps the positions apart.
fn injective_modulus(top: &[(u32, u16)]) -> Option<u16> {
    (LOWEST_MODULUS..=PRIME).rev().find(|modulus| apart(top, *modulus)).and_then(|modulus| u16::try_from(modulus).ok())
}

fn apart(top: &[(u32, u16)], modulus: u32) -> bool {
    let mut residues: Vec<u32> = top.iter().map(|&(at, _)| at % modulus).collect();
    residues.sort_unstable();
    residues.windows(2).all(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, proptest};

    use super::{Fingerprint, TOKENS_PER_FINGERPRINT, fingerprint_root, to_bf16};

    fn states(rows: usize, width: usize, seed: f32) -> Vec<Vec<f32>> {
        (0..rows)
            .map(|row| (0..width).map(|col| ((row * width + col) as f32 * 0.37 + seed).sin() * 9.0).collect())
            .collect()
    }

    #[test]
    fn bytes_round_trip() {
        for (rows, width) in [(1, 3), (32, 64), (7, 4096)] {
            let fingerprint = Fingerprint::of(&states(rows, width, 0.0)).unwrap();
            assert_eq!(Fingerprint::from_bytes(&fingerprint.to_bytes()).unwrap(), fingerprint);
        }
        assert_eq!(Fingerprint::of(&states(32, 64, 0.0)).unwrap().to_bytes().len(), 292);
    }

    #[test]
    fn equal_states_do_not_deviate_and_others_do() {
        let own = states(32, 64, 0.0);
        let fingerprint = Fingerprint::of(&own).unwrap();
        let same = fingerprint.deviation(&own);
        assert_eq!((same.values, same.exponents_equal), (128, 128));
        assert!(same.mantissa_mean == 0.0 && same.within_published_bounds());
        let other = fingerprint.deviation(&states(32, 64, 1.0));
        assert!(!other.within_published_bounds(), "{other:?}");
    }

    #[test]
    fn one_bit_of_one_state_changes_the_exact_half() {
        let own = states(4, 64, 0.0);
        let mut changed = own.clone();
        changed[2][5] = f32::from_bits(changed[2][5].to_bits() ^ 1);
        assert_ne!(Fingerprint::of(&own).unwrap().exact(), Fingerprint::of(&changed).unwrap().exact());
    }

    #[test]
    fn refuses_too_many_rows_and_values_that_are_not_finite() {
        assert!(Fingerprint::of(&[]).is_none());
        assert!(Fingerprint::of(&states(33, 4, 0.0)).is_none());
        assert!(Fingerprint::of(&[vec![0.0, f32::NAN]]).is_none());
    }

    #[test]
    fn the_root_depends_on_order_and_number() {
        let states = states(TOKENS_PER_FINGERPRINT * 2 + 3, 16, 0.0);
        let all: Vec<Fingerprint> =
            states.chunks(TOKENS_PER_FINGERPRINT).map(|chunk| Fingerprint::of(chunk).unwrap()).collect();
        assert_eq!(all.iter().map(Fingerprint::tokens).collect::<Vec<_>>(), [32, 32, 3]);
        let mut swapped = all.clone();
        swapped.swap(0, 1);
        assert_ne!(fingerprint_root(&all), fingerprint_root(&swapped));
        assert_ne!(fingerprint_root(&all), fingerprint_root(&all[..2]));
    }

    #[test]
    fn bf16_rounds_to_nearest_even_and_stays_finite() {
        assert_eq!(to_bf16(1.0), 0x3f80);
        assert_eq!(to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(to_bf16(f32::MAX), 0x7f7f);
        assert_eq!(to_bf16(-f32::MAX), 0xff7f);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn hostile_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            if let Ok(fingerprint) = Fingerprint::from_bytes(&bytes) {
                prop_assert!(fingerprint.to_bytes() == bytes);
            }
        }
    }
}
