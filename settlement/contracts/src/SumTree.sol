// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// One step of a proof: the node beside the path, with the sum that its parent declares for it.
struct Sibling {
    bytes32 hash;
    uint128 sum;
}

/// One leaf of an earnings tree with the nodes beside its path, bottom first. `account == 0 && cumulative == 0` names an empty leaf.
struct LeafProof {
    address account;
    uint128 cumulative;
    uint256 index;
    Sibling[] siblings;
}

/// @title Merkle-sum tree of (account, cumulative earnings)
/// @notice Invariant: the cumulative amounts of all leaves that can be proven against one (root, total) sum to at most `total`.
/// @dev How each hash is formed, so that other languages can mirror it. All words are 32 bytes big-endian, as `abi.encode` writes them.
///
///   leaf  hash = keccak256(keccak256(abi.encode(address account, uint256 cumulative)));    leaf sum = cumulative
///   empty hash = bytes32(0);                                                               empty sum = 0
///   node  hash = keccak256(abi.encode(bytes32 leftHash, uint256 leftSum, bytes32 rightHash, uint256 rightSum));
///   node  sum  = leftSum + rightSum
///   root  = the topmost (hash, sum); the tree of no leaf has root bytes32(0) and total 0; of one leaf, that leaf.
///
/// Leaves are sorted by account, strictly rising, and filled up with empty leaves to a power of two. A leaf's preimage is 32 bytes long
/// and a node's is 128, so neither can be taken for the other. Bit k of `index` says whether the path's node at height k is a right child.
library SumTree {
    /// 2^32 accounts are more than any epoch will hold; the bound keeps a hostile proof from costing without end.
    uint256 internal constant MAX_DEPTH = 32;

    error ProofTooLong();
    error IndexOutOfRange();

    function leafHash(address account, uint256 cumulative) internal pure returns (bytes32) {
        if (account == address(0) && cumulative == 0) return bytes32(0);
        return keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
    }

    function nodeHash(bytes32 leftHash, uint256 leftSum, bytes32 rightHash, uint256 rightSum) internal pure returns (bytes32) {
        return keccak256(abi.encode(leftHash, leftSum, rightHash, rightSum));
    }

    /// The root hash and total that follow from one node of known place, hash and sum.
    function rootOf(bytes32 hash, uint256 sum, uint256 index, Sibling[] calldata siblings) internal pure returns (bytes32, uint256) {
        uint256 depth = siblings.length;
        if (depth > MAX_DEPTH) revert ProofTooLong();
        if (index >> depth != 0) revert IndexOutOfRange();
        for (uint256 height; height < depth; ++height) {
            Sibling calldata beside = siblings[height];
            hash = (index >> height) & 1 == 0 ? nodeHash(hash, sum, beside.hash, beside.sum) : nodeHash(beside.hash, beside.sum, hash, sum);
            sum += beside.sum;
        }
        return (hash, sum);
    }

    /// Whether the leaf stands in the tree of that root and total.
    function contains(LeafProof calldata leaf, bytes32 root, uint256 total) internal pure returns (bool) {
        (bytes32 hash, uint256 sum) = rootOf(leafHash(leaf.account, leaf.cumulative), leaf.cumulative, leaf.index, leaf.siblings);
        return hash == root && sum == total;
    }

    /// The half-open span of places, out of 2^MAX_DEPTH, that a node covers. Comparing spans orders nodes of unequal depth too,
    /// so a poster gains nothing from a crooked tree. Call it only after `rootOf` has checked depth and index.
    function span(uint256 index, uint256 depth) internal pure returns (uint256 from, uint256 to) {
        uint256 shift = MAX_DEPTH - depth;
        return (index << shift, (index + 1) << shift);
    }
}
