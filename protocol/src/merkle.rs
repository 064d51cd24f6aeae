//! Merkle trees over statement ids: batch roots, log heads and proofs of inclusion.
//!
//! Invariant: leaves and inner nodes are hashed in different domains and the leaf count is hashed into the
//! root, so no inner node passes for a leaf and no tree for a longer one.

use crate::id::Hash;
use crate::limits::MERKLE_DEPTH_MAX;

const LEAF: &str = "tributary merkle leaf v1";
const NODE: &str = "tributary merkle node v1";
const ROOT: &str = "tributary merkle root v1";

fn leaf_hash(leaf: &Hash) -> Hash {
    Hash(blake3::derive_key(LEAF, &leaf.0))
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&left.0);
    both[32..].copy_from_slice(&right.0);
    Hash(blake3::derive_key(NODE, &both))
}

fn root_hash(count: u64, top: &Hash) -> Hash {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&count.to_le_bytes());
    bytes[8..].copy_from_slice(&top.0);
    Hash(blake3::derive_key(ROOT, &bytes))
}

/// The level above: neighbours are joined, a last one without neighbour moves up as it is.
fn level_above(level: &[Hash]) -> Vec<Hash> {
    level.chunks(2).map(|pair| if let [left, right] = pair { node_hash(left, right) } else { pair[0] }).collect()
}

fn count_of(leaves: &[Hash]) -> u64 {
    u64::try_from(leaves.len()).unwrap_or(u64::MAX)
}

/// The root over `leaves` in their order.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    let mut level: Vec<Hash> = leaves.iter().map(leaf_hash).collect();
    while level.len() > 1 {
        level = level_above(&level);
    }
    root_hash(count_of(leaves), &level.first().copied().unwrap_or_default())
}

/// The siblings on the way from leaf `index` to the top, lowest first, or `None` when there is no such leaf.
#[must_use]
pub fn proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    leaves.get(index)?;
    let mut level: Vec<Hash> = leaves.iter().map(leaf_hash).collect();
    let mut index = index;
    let mut siblings = Vec::new();
    while level.len() > 1 {
        if let Some(sibling) = level.get(index ^ 1) {
            siblings.push(*sibling);
        }
        level = level_above(&level);
        index /= 2;
    }
    Some(siblings)
}

/// Whether `leaf` stands at `index` among `count` leaves under `root`.
#[must_use]
pub fn verify(root: &Hash, leaf: &Hash, index: u64, count: u64, siblings: &[Hash]) -> bool {
    if index >= count || siblings.len() > MERKLE_DEPTH_MAX {
        return false;
    }
    let (mut position, mut width, mut hash) = (index, count, leaf_hash(leaf));
    let mut rest = siblings.iter();
    while width > 1 {
        if position ^ 1 < width {
            let Some(sibling) = rest.next() else { return false };
            hash = if position % 2 == 0 { node_hash(&hash, sibling) } else { node_hash(sibling, &hash) };
        }
        position /= 2;
        width = width.div_ceil(2);
    }
    rest.next().is_none() && root_hash(count, &hash) == *root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: u32) -> Vec<Hash> {
        (0..count).map(|index| Hash::of(&index.to_le_bytes())).collect()
    }

    proptest! {
        #[test]
        fn every_leaf_has_a_proof_and_no_other_place(count in 1..70_u32, pick in any::<proptest::sample::Index>()) {
            let leaves = leaves(count);
            let root = root(&leaves);
            let index = pick.index(leaves.len());
            let siblings = proof(&leaves, index).unwrap();
            let at = u64::try_from(index).unwrap();
            let count = u64::from(count);
            prop_assert!(verify(&root, &leaves[index], at, count, &siblings));
            prop_assert!(!verify(&root, &Hash::of(b"another"), at, count, &siblings));
            prop_assert!(!verify(&root, &leaves[index], at, count + 1, &siblings));
            for other in (0..count).filter(|other| *other != at) {
                prop_assert!(!verify(&root, &leaves[index], other, count, &siblings));
            }
        }
    }
}
