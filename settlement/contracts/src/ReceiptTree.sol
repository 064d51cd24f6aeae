// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// What a batch commits of one receipt: its id, the 32-byte digest both sides signed, and both ed25519 signatures over that digest.
struct ReceiptLeaf {
    bytes32 id;
    bytes32 digest;
    bytes32 payerKey;
    bytes32 payerR;
    bytes32 payerS;
    bytes32 workerKey;
    bytes32 workerR;
    bytes32 workerS;
}

/// One receipt of a batch with the hashes beside its path, bottom first.
struct ReceiptProof {
    ReceiptLeaf leaf;
    uint256 index;
    bytes32[] siblings;
}

/// @title Merkle tree over a batch's receipts, in the batch's order
/// @notice Invariant: a proof fixes the place of its receipt, so two proofs of one id at two places show a receipt counted twice.
/// @dev How each hash is formed:
///
///   leaf  = keccak256(keccak256(abi.encode(id, digest, payerKey, payerR, payerS, workerKey, workerR, workerS)))    eight words
///   empty = bytes32(0)
///   node  = keccak256(abi.encode(bytes32 left, bytes32 right))
///
/// filled up with empty leaves to a power of two; no receipt: root bytes32(0); one receipt: root = its leaf.
/// Preimages are 32 bytes for a leaf and 64 for a node, so neither can be taken for the other.
library ReceiptTree {
    /// As for the earnings tree: 2^32 receipts in a batch are never reached.
    uint256 internal constant MAX_DEPTH = 32;

    error ProofTooLong();
    error IndexOutOfRange();

    function leafHash(ReceiptLeaf calldata leaf) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(leaf))));
    }

    function rootOf(ReceiptProof calldata proof) internal pure returns (bytes32 hash) {
        uint256 depth = proof.siblings.length;
        if (depth > MAX_DEPTH) revert ProofTooLong();
        if (proof.index >> depth != 0) revert IndexOutOfRange();
        hash = leafHash(proof.leaf);
        for (uint256 height; height < depth; ++height) {
            bytes32 beside = proof.siblings[height];
            hash = (proof.index >> height) & 1 == 0 ? keccak256(abi.encode(hash, beside)) : keccak256(abi.encode(beside, hash));
        }
    }

    /// The receipt's place, comparable between proofs of unequal depth. Call it only after `rootOf` has checked depth and index.
    function place(ReceiptProof calldata proof) internal pure returns (uint256) {
        return proof.index << (MAX_DEPTH - proof.siblings.length);
    }
}
