// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Anchor, Batch, NodeProof} from "../src/Anchor.sol";
import {ReceiptLeaf} from "../src/ReceiptTree.sol";
import {Ed25519} from "../src/Ed25519.sol";
import {Earnings, Kit} from "./Kit.sol";

/// An honest watcher: from published trees alone it finds the proof that stops a faulty batch.
/// Invariant: it knows nothing of who posted or why, and calls the anchor only with a proof it believes in.
contract Watcher {
    using Kit for Earnings;

    Anchor immutable anchor;
    /// Signatures that were found true, so that none is checked twice.
    mapping(bytes32 leaf => bool) private checked;

    constructor(Anchor anchor_) {
        anchor = anchor_;
    }

    /// Returns whether the batch was faulty. A believed proof that the anchor refuses reverts.
    function watch(Batch memory batch, Earnings memory older, Earnings memory newer, ReceiptLeaf[] memory leaves) external returns (bool) {
        return _sums(batch, newer) || _order(batch, newer) || _kept(batch, older, newer) || _receipts(batch, leaves);
    }

    /// From the top down, so that all above the first wrong sum agrees.
    function _sums(Batch memory batch, Earnings memory tree) private returns (bool) {
        uint256 width = 1 << tree.depth;
        for (uint256 node = 1; node < 2 * width; ++node) {
            bool leaf = node >= width;
            uint256 index = leaf ? node - width : 0;
            uint256 truth = leaf ? (index < tree.amounts.length ? tree.amounts[index] : 0) : tree.sum[2 * node] + tree.sum[2 * node + 1];
            if (truth == tree.sum[node]) continue;
            NodeProof memory proof = _nodeProof(tree, node);
            if (leaf) {
                address account = index < tree.accounts.length ? tree.accounts[index] : address(0);
                anchor.challengeLeafSum(batch, proof, account, truth);
            } else {
                uint256 left = 2 * node;
                anchor.challengeNodeSum(batch, proof, tree.hash[left], tree.sum[left], tree.hash[left + 1], tree.sum[left + 1]);
            }
            return true;
        }
        return false;
    }

    function _nodeProof(Earnings memory tree, uint256 node) private pure returns (NodeProof memory) {
        uint256 height;
        for (uint256 up = node; up > 1; up /= 2) {
            ++height;
        }
        return NodeProof(tree.hash[node], uint128(tree.sum[node]), node - (1 << height), tree.siblings(node));
    }

    function _order(Batch memory batch, Earnings memory tree) private returns (bool) {
        for (uint256 i = 1; i < tree.accounts.length; ++i) {
            if (tree.accounts[i - 1] < tree.accounts[i]) continue;
            anchor.challengeOrder(batch, tree.proof(i - 1), tree.proof(i));
            return true;
        }
        return false;
    }

    /// Whether every account of the final tree is still there with at least its amount.
    function _kept(Batch memory batch, Earnings memory older, Earnings memory newer) private returns (bool) {
        for (uint256 i; i < older.accounts.length; ++i) {
            uint256 place;
            while (place < newer.accounts.length && newer.accounts[place] < older.accounts[i]) ++place;
            bool found = place < newer.accounts.length && newer.accounts[place] == older.accounts[i];
            if (found && newer.amounts[place] < older.amounts[i]) {
                anchor.challengeDecrease(batch, older.proof(i), newer.proof(place));
                return true;
            }
            if (!found && older.amounts[i] != 0) {
                uint256 last = (1 << newer.depth) - 1;
                uint256 next = place > last ? last : place;
                anchor.challengeOmission(batch, older.proof(i), newer.proof(place == 0 ? 0 : place - 1), newer.proof(next));
                return true;
            }
        }
        return false;
    }

    function _receipts(Batch memory batch, ReceiptLeaf[] memory leaves) private returns (bool) {
        for (uint256 i; i < leaves.length; ++i) {
            ReceiptLeaf memory leaf = leaves[i];
            for (uint256 j = i + 1; j < leaves.length; ++j) {
                if (leaf.id != leaves[j].id) continue;
                anchor.challengeDuplicate(batch, Kit.receiptProof(leaves, i), Kit.receiptProof(leaves, j));
                return true;
            }
            bytes32 hash = Kit.receiptHash(leaf);
            if (checked[hash]) continue;
            bool payerHolds = Ed25519.verify(leaf.payerKey, leaf.payerR, leaf.payerS, leaf.digest);
            if (payerHolds && Ed25519.verify(leaf.workerKey, leaf.workerR, leaf.workerS, leaf.digest)) {
                checked[hash] = true;
                continue;
            }
            anchor.challengeSignature(batch, Kit.receiptProof(leaves, i), payerHolds);
            return true;
        }
        return false;
    }
}
