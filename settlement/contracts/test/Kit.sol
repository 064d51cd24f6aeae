// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {OpenToken} from "../src/OpenToken.sol";
import {LeafProof, Sibling} from "../src/SumTree.sol";
import {ReceiptLeaf, ReceiptProof} from "../src/ReceiptTree.sol";
import {Voucher, VoucherEscrow} from "../src/VoucherEscrow.sol";

/// The cheat codes in use. Declared here, so that no further library is needed.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function assume(bool condition) external pure;
    function chainId(uint256 id) external;
    function expectRevert(bytes4 selector) external;
    function expectRevert(bytes calldata data) external;
    function prank(address sender) external;
    function publicKeyEd25519(bytes32 key) external pure returns (bytes32);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function signEd25519(bytes calldata prefix, bytes calldata message, bytes32 key) external pure returns (bytes memory);
    function warp(uint256 time) external;
}

Vm constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

/// An earnings tree in a heap: node 1 is the root, node k has children 2k and 2k+1, leaf i is node 2^depth + i.
struct Earnings {
    address[] accounts;
    uint128[] amounts;
    uint256 depth;
    bytes32[] hash;
    uint256[] sum;
}

/// Trees, keys and signatures for the tests, formed by the words of the documentation and not by the code under test.
/// Invariant: nothing here calls SumTree or ReceiptTree.
library Kit {
    function leafHash(address account, uint256 amount) internal pure returns (bytes32) {
        if (account == address(0) && amount == 0) return 0;
        return keccak256(abi.encodePacked(keccak256(abi.encodePacked(uint256(uint160(account)), amount))));
    }

    function depthOf(uint256 count) internal pure returns (uint256 depth) {
        while ((uint256(1) << depth) < count) ++depth;
    }

    function build(address[] memory accounts, uint128[] memory amounts) internal pure returns (Earnings memory tree) {
        tree.accounts = accounts;
        tree.amounts = amounts;
        tree.depth = depthOf(accounts.length);
        uint256 width = 1 << tree.depth;
        tree.hash = new bytes32[](2 * width);
        tree.sum = new uint256[](2 * width);
        for (uint256 i; i < accounts.length; ++i) {
            tree.hash[width + i] = leafHash(accounts[i], amounts[i]);
            tree.sum[width + i] = amounts[i];
        }
        for (uint256 node = width - 1; node != 0; --node) {
            _join(tree, node);
        }
    }

    /// Declares another sum for a node and carries it up, as a lying poster would.
    function declare(Earnings memory tree, uint256 node, uint256 sum) internal pure {
        tree.sum[node] = sum;
        while (node > 1) {
            node /= 2;
            _join(tree, node);
        }
    }

    function _join(Earnings memory tree, uint256 node) private pure {
        uint256 left = 2 * node;
        tree.hash[node] = keccak256(abi.encodePacked(tree.hash[left], tree.sum[left], tree.hash[left + 1], tree.sum[left + 1]));
        tree.sum[node] = tree.sum[left] + tree.sum[left + 1];
    }

    function root(Earnings memory tree) internal pure returns (bytes32) {
        return tree.accounts.length == 0 ? bytes32(0) : tree.hash[1];
    }

    function total(Earnings memory tree) internal pure returns (uint128) {
        return tree.accounts.length == 0 ? 0 : uint128(tree.sum[1]);
    }

    /// The siblings beside a node's path, bottom first.
    function siblings(Earnings memory tree, uint256 node) internal pure returns (Sibling[] memory path) {
        uint256 height;
        for (uint256 up = node; up > 1; up /= 2) {
            ++height;
        }
        path = new Sibling[](height);
        for (uint256 i; i < height; ++i) {
            path[i] = Sibling(tree.hash[node ^ 1], uint128(tree.sum[node ^ 1]));
            node /= 2;
        }
    }

    function proof(Earnings memory tree, uint256 index) internal pure returns (LeafProof memory) {
        bool filled = index < tree.accounts.length;
        return LeafProof(
            filled ? tree.accounts[index] : address(0), filled ? tree.amounts[index] : 0, index, siblings(tree, (1 << tree.depth) + index)
        );
    }

    function receiptHash(ReceiptLeaf memory leaf) internal pure returns (bytes32) {
        bytes memory keys = abi.encodePacked(leaf.id, leaf.digest, leaf.payerKey, leaf.payerR, leaf.payerS);
        return keccak256(abi.encodePacked(keccak256(abi.encodePacked(keys, leaf.workerKey, leaf.workerR, leaf.workerS))));
    }

    function receiptNodes(ReceiptLeaf[] memory leaves) internal pure returns (bytes32[] memory hash) {
        uint256 width = 1 << depthOf(leaves.length);
        hash = new bytes32[](2 * width);
        for (uint256 i; i < leaves.length; ++i) {
            hash[width + i] = receiptHash(leaves[i]);
        }
        for (uint256 node = width - 1; node != 0; --node) {
            hash[node] = keccak256(abi.encodePacked(hash[2 * node], hash[2 * node + 1]));
        }
    }

    function receiptProof(ReceiptLeaf[] memory leaves, uint256 index) internal pure returns (ReceiptProof memory) {
        bytes32[] memory hash = receiptNodes(leaves);
        uint256 depth = depthOf(leaves.length);
        bytes32[] memory path = new bytes32[](depth);
        uint256 node = (1 << depth) + index;
        for (uint256 i; i < depth; ++i) {
            path[i] = hash[node ^ 1];
            node /= 2;
        }
        return ReceiptProof(leaves[index], index, path);
    }

    function signEd25519(bytes32 secret, bytes32 digest) internal pure returns (bytes32 r, bytes32 s) {
        (r, s) = abi.decode(vm.signEd25519("", abi.encodePacked(digest), secret), (bytes32, bytes32));
    }

    function signVoucher(VoucherEscrow escrow, uint256 key, Voucher memory voucher) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, escrow.digest(voucher));
        return abi.encodePacked(r, s, v);
    }

    /// A token whose whole supply belongs to one address.
    function tokenFor(address holder) internal returns (OpenToken) {
        address[] memory to = new address[](1);
        uint256[] memory bps = new uint256[](1);
        to[0] = holder;
        bps[0] = 10_000;
        return new OpenToken(to, bps);
    }
}
