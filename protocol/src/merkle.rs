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

/// A tree with all its levels, from which many proofs are taken.
#[derive(Debug, Clone)]
pub struct Tree {
    count: u64,
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// The tree over `leaves` in their order.
    #[must_use]
    pub fn of(leaves: &[Hash]) -> Self {
        let mut levels = vec![leaves.iter().map(leaf_hash).collect::<Vec<_>>()];
        while let Some(last) = levels.last().filter(|level| level.len() > 1) {
            levels.push(level_above(last));
        }
        Self { count: count_of(leaves), levels }
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> Hash {
        root_hash(self.count, &self.levels.last().and_then(|top| top.first()).copied().unwrap_or_default())
    }

    /// All nodes, from the leaves' level up: what [`siblings`] reads when they are kept elsewhere.
    pub fn nodes(&self) -> impl Iterator<Item = &Hash> {
        self.levels.iter().flatten()
    }
}

/// How many nodes a tree of `count` leaves has, over all levels.
#[must_use]
pub fn node_count(count: u64) -> u64 {
    widths(count).sum()
}

/// The widths of the levels of a tree of `count` leaves, from the leaves' up.
fn widths(count: u64) -> impl Iterator<Item = u64> {
    core::iter::successors(Some(count), |width| (*width > 1).then(|| width.div_ceil(2)))
}

/// The siblings on the way from leaf `index` to the top, lowest first, or `None` when there is no such leaf; `node` gives
/// the nodes by their number in the order of [`Tree::nodes`].
pub fn siblings(count: u64, index: u64, mut node: impl FnMut(u64) -> Option<Hash>) -> Option<Vec<Hash>> {
    let (mut first, mut position) = (0, (index < count).then_some(index)?);
    let mut found = Vec::new();
    for width in widths(count) {
        if position ^ 1 < width {
            found.push(node(first + (position ^ 1))?);
        }
        first += width;
        position /= 2;
    }
    Some(found)
}

/// The root over `leaves` in their order.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    Tree::of(leaves).root()
}

/// The siblings on the way from leaf `index` to the top, lowest first, or `None` when there is no such leaf.
#[must_use]
pub fn proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    let tree = Tree::of(leaves);
    let nodes: Vec<&Hash> = tree.nodes().collect();
    let node = |at| nodes.get(usize::try_from(at).ok()?).copied().copied();
    siblings(tree.count, u64::try_from(index).ok()?, node)
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
