//! BLAKE3 in ranges of 1 MiB: the chaining value of each range, and how they merge into the blob's hash.
//!
//! Invariant: an outline whose [`Outline::root`] is the blob's hash proves each range by itself, since every range is a
//! complete subtree of the BLAKE3 tree (the BLAKE3 paper, section 2.1; `blake3::hazmat`). A blob of at most one range
//! has no outline: its bytes are checked against the hash directly.

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use tributary_protocol::id::Hash;

use crate::net::limits::{LANE_MAX_BYTES, LANE_RANGE_BYTES};

/// Bytes of one chaining value.
const VALUE_BYTES: usize = 32;

/// The size of a blob and the chaining values of its ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    size: u64,
    values: Vec<ChainingValue>,
}

/// The number of ranges of a blob; an empty blob has one empty range.
fn ranges_of(size: u64) -> u64 {
    size.div_ceil(LANE_RANGE_BYTES).max(1)
}

/// The chaining value of the range that starts at `offset`. Only for blobs of more than one range.
pub(crate) fn range_value(offset: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

impl Outline {
    /// From a trusted source: the values of all ranges, or none for a blob of one range.
    pub(crate) fn new(size: u64, values: Vec<ChainingValue>) -> Self {
        Self { size, values }
    }

    /// Reads size and values; `None` if their number does not fit the size or the size is above the limit.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (size, values) = bytes.split_first_chunk::<8>()?;
        let size = u64::from_be_bytes(*size);
        let (values, rest) = values.as_chunks::<VALUE_BYTES>();
        let expected = match ranges_of(size) {
            1 => 0,
            several => several,
        };
        let fits = size <= LANE_MAX_BYTES && rest.is_empty() && values.len() as u64 == expected;
        fits.then(|| Self { size, values: values.to_vec() })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.values.len() * VALUE_BYTES);
        bytes.extend_from_slice(&self.size.to_be_bytes());
        bytes.extend_from_slice(self.values.as_flattened());
        bytes
    }

    /// Bytes of the largest outline.
    pub(crate) fn max_bytes() -> usize {
        usize::try_from(8 + LANE_MAX_BYTES / LANE_RANGE_BYTES * VALUE_BYTES as u64).unwrap_or(usize::MAX)
    }

    /// Bytes of the blob.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Number of ranges.
    pub(crate) fn ranges(&self) -> u32 {
        u32::try_from(ranges_of(self.size)).unwrap_or(u32::MAX)
    }

    /// Offset and length of a range, or `None` beyond the end.
    pub(crate) fn range(&self, index: u32) -> Option<(u64, u64)> {
        let offset = u64::from(index) * LANE_RANGE_BYTES;
        (index < self.ranges()).then(|| (offset, LANE_RANGE_BYTES.min(self.size - offset)))
    }

    /// Whether this outline belongs to the blob `hash`. For a blob of one range only its bytes can tell.
    pub(crate) fn proves(&self, hash: Hash) -> bool {
        self.values.is_empty() || self.root() == hash
    }

    /// Whether `bytes` are the range `index` of the blob `hash` that this outline [`Outline::proves`].
    pub(crate) fn holds(&self, hash: Hash, index: u32, bytes: &[u8]) -> bool {
        let Some((offset, length)) = self.range(index) else { return false };
        if bytes.len() as u64 != length {
            return false;
        }
        match usize::try_from(index).ok().and_then(|index| self.values.get(index)) {
            Some(value) => range_value(offset, bytes) == *value,
            None => Hash::of(bytes) == hash,
        }
    }

    fn root(&self) -> Hash {
        let (left, right) = self.halves(&self.values, self.size);
        Hash(*hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
    }

    /// The values of the two children of a subtree with `size` bytes and more than one range.
    fn halves(&self, values: &[ChainingValue], size: u64) -> (ChainingValue, ChainingValue) {
        let left_size = hazmat::left_subtree_len(size);
        // Both factors are powers of two, and a subtree of more than one range splits between ranges.
        let split = usize::try_from(left_size / LANE_RANGE_BYTES).unwrap_or(usize::MAX).min(values.len());
        let (left, right) = values.split_at(split);
        (self.value(left, left_size), self.value(right, size - left_size))
    }

    fn value(&self, values: &[ChainingValue], size: u64) -> ChainingValue {
        match values {
            [value] => *value,
            // `decode` and the builder give each subtree its values; a wrong number only gives a wrong root.
            [] => [0; VALUE_BYTES],
            several => {
                let (left, right) = self.halves(several, size);
                hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::id::Hash;

    use super::{Outline, range_value};
    use crate::net::limits::{LANE_MAX_BYTES, LANE_RANGE_BYTES};

    fn blob(size: u64) -> Vec<u8> {
        (0..size).map(|index| u8::try_from(index * 7 % 251).unwrap()).collect()
    }

    fn outline(bytes: &[u8]) -> Outline {
        let range = usize::try_from(LANE_RANGE_BYTES).unwrap();
        let values = match bytes.len() > range {
            true => bytes
                .chunks(range)
                .scan(0, |offset, chunk| {
                    let value = range_value(*offset, chunk);
                    *offset += LANE_RANGE_BYTES;
                    Some(value)
                })
                .collect(),
            false => Vec::new(),
        };
        Outline::new(bytes.len() as u64, values)
    }

    #[test]
    fn every_shape_of_tree_merges_to_the_blake3_hash() {
        let mib = LANE_RANGE_BYTES;
        for size in [0, 1, 1024, mib - 1, mib, mib + 1, 2 * mib, 2 * mib + 5, 3 * mib, 5 * mib + 1025, 8 * mib] {
            let bytes = blob(size);
            let hash = Hash::of(&bytes);
            let outline = Outline::decode(&outline(&bytes).encode()).unwrap();
            assert!(outline.proves(hash), "size {size}");
            for index in 0..outline.ranges() {
                let (offset, length) = outline.range(index).unwrap();
                let start = usize::try_from(offset).unwrap();
                let range = &bytes[start..start + usize::try_from(length).unwrap()];
                assert!(outline.holds(hash, index, range), "size {size} range {index}");
            }
            assert_eq!(outline.range(outline.ranges()), None);
        }
    }

    #[test]
    fn a_changed_value_size_or_range_is_noticed() {
        let bytes = blob(3 * LANE_RANGE_BYTES);
        let hash = Hash::of(&bytes);
        let good = outline(&bytes);
        let mut values = good.values.clone();
        values[1][0] ^= 1;
        assert!(!Outline::new(good.size, values).proves(hash));
        let mut range = bytes[..usize::try_from(LANE_RANGE_BYTES).unwrap()].to_vec();
        range[9] ^= 1;
        assert!(!good.holds(hash, 0, &range));
        range.pop();
        assert!(!good.holds(hash, 0, &range));
        // A shorter size with as many ranges passes as an outline, and no last range can pass with it.
        let shorter = Outline::new(good.size - 1, good.values.clone());
        let last = &bytes[2 * usize::try_from(LANE_RANGE_BYTES).unwrap()..];
        assert!(!shorter.holds(hash, 2, last));
        assert!(!shorter.holds(hash, 2, &last[..last.len() - 1]));
    }

    #[test]
    fn outlines_that_do_not_fit_are_refused() {
        let good = outline(&blob(2 * LANE_RANGE_BYTES)).encode();
        assert!(Outline::decode(&good).is_some());
        assert_eq!(Outline::decode(&good[..good.len() - 1]), None);
        assert_eq!(Outline::decode(&good[..8]), None);
        assert_eq!(Outline::decode(&[]), None);
        assert_eq!(Outline::decode(&(LANE_MAX_BYTES + 1).to_be_bytes()), None);
        assert_eq!(Outline::decode(&u64::MAX.to_be_bytes()), None);
    }
}
