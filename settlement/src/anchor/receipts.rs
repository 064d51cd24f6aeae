//! The Merkle tree over a batch's receipts, hash for hash as the contract `ReceiptTree` checks it.
//!
//! Invariant: a proof fixes the place of its receipt, so two proofs of one id show a receipt counted twice.

use alloy::primitives::keccak256;

use super::{MAX_TREE_DEPTH, levels, siblings};

/// What a batch commits of one receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptLeaf {
    /// The receipt's id.
    pub id: [u8; 32],
    /// The digest both sides signed.
    pub digest: [u8; 32],
    /// The payer's ed25519 key.
    pub payer_key: [u8; 32],
    /// The payer's signature.
    pub payer_signature: [u8; 64],
    /// The worker's ed25519 key.
    pub worker_key: [u8; 32],
    /// The worker's signature.
    pub worker_signature: [u8; 64],
}

impl ReceiptLeaf {
    fn hash(&self) -> [u8; 32] {
        let mut preimage = Vec::with_capacity(8 * 32);
        preimage.extend_from_slice(&self.id);
        preimage.extend_from_slice(&self.digest);
        preimage.extend_from_slice(&self.payer_key);
        preimage.extend_from_slice(&self.payer_signature);
        preimage.extend_from_slice(&self.worker_key);
        preimage.extend_from_slice(&self.worker_signature);
        keccak256(keccak256(preimage)).0
    }
}

/// That a receipt stands at a place of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptProof {
    /// The receipt.
    pub leaf: ReceiptLeaf,
    /// Its place from the left.
    pub index: u64,
    /// The hashes beside its path, bottom first.
    pub siblings: Vec<[u8; 32]>,
}

impl ReceiptProof {
    /// Whether the receipt stands in the batch of that root.
    #[must_use]
    pub fn holds(&self, root: &[u8; 32]) -> bool {
        let depth = self.siblings.len();
        if depth > MAX_TREE_DEPTH || self.index >> depth != 0 {
            return false;
        }
        let climb = |hash: [u8; 32], (height, beside): (usize, &[u8; 32])| match self.index >> height & 1 {
            0 => receipt_parent(&hash, beside),
            _ => receipt_parent(beside, &hash),
        };
        self.siblings.iter().enumerate().fold(self.leaf.hash(), climb) == *root
    }
}

/// The receipts of one batch, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptTree {
    leaves: Vec<ReceiptLeaf>,
    levels: Vec<Vec<[u8; 32]>>,
}

impl ReceiptTree {
    /// The tree of a batch.
    #[must_use]
    pub fn build(leaves: Vec<ReceiptLeaf>) -> Self {
        let hashes = leaves.iter().map(ReceiptLeaf::hash).collect();
        let join = |left: &[u8; 32], right: &[u8; 32]| Ok::<_, core::convert::Infallible>(receipt_parent(left, right));
        let levels = levels(hashes, [0; 32], join).unwrap_or_else(|never| match never {});
        Self { leaves, levels }
    }

    /// The root, which is posted; zero for no receipt.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or_default()
    }

    /// How many receipts the batch holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// The proof for the receipt at `index`.
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<ReceiptProof> {
        let leaf = *self.leaves.get(index)?;
        Some(ReceiptProof { leaf, index: index as u64, siblings: siblings(&self.levels, index)? })
    }
}

fn receipt_parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut preimage = [0; 64];
    preimage[..32].copy_from_slice(left);
    preimage[32..].copy_from_slice(right);
    keccak256(preimage).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same worked example stands in the contracts' own tests: receipt k has the words 8k + 1 to 8k + 8.
    #[test]
    fn the_root_is_the_contracts_vector() {
        let word = |number: u8| {
            let mut bytes = [0; 32];
            bytes[31] = number;
            bytes
        };
        let pair = |number: u8| {
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&word(number));
            bytes[32..].copy_from_slice(&word(number + 1));
            bytes
        };
        let leaf = |base: u8| ReceiptLeaf {
            id: word(base + 1),
            digest: word(base + 2),
            payer_key: word(base + 3),
            payer_signature: pair(base + 4),
            worker_key: word(base + 6),
            worker_signature: pair(base + 7),
        };
        let tree = ReceiptTree::build(vec![leaf(0), leaf(8), leaf(16)]);
        assert_eq!(hex::encode(tree.root()), "598f624e177566cc281149dbf0648c3c9b26f48219b80cda078e1b13cb14ba89");
    }

    #[test]
    fn every_receipt_is_provable_at_its_place_alone() {
        for count in 0_u8..20 {
            let leaf = |n: u8| ReceiptLeaf {
                id: [n; 32],
                digest: [1; 32],
                payer_key: [2; 32],
                payer_signature: [3; 64],
                worker_key: [4; 32],
                worker_signature: [5; 64],
            };
            let tree = ReceiptTree::build((0..count).map(leaf).collect());
            assert_eq!(tree.count(), u64::from(count));
            for index in 0..usize::from(count) {
                let proof = tree.proof(index).unwrap();
                assert!(proof.holds(&tree.root()));
                let moved = ReceiptProof { index: proof.index ^ 1, ..proof };
                assert!(!moved.holds(&tree.root()));
            }
        }
    }
}
