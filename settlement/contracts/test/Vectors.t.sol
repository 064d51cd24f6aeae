// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Anchor, Batch} from "../src/Anchor.sol";
import {LeafProof, SumTree} from "../src/SumTree.sol";
import {ReceiptLeaf, ReceiptProof, ReceiptTree} from "../src/ReceiptTree.sol";
import {Earnings, Kit} from "./Kit.sol";

bytes32 constant LEAF = 0xffce8806faa082c86e79d5b612369c0fe5f4082340a61d33724266a97b31931c;
bytes32 constant EARNINGS_ROOT = 0x4e7f9feedf5ae5a28646d81e1901da0ed03737e2e611c5d8f44a5471277a712c;
bytes32 constant RECEIPTS_ROOT = 0x598f624e177566cc281149dbf0648c3c9b26f48219b80cda078e1b13cb14ba89;
bytes32 constant BATCH_ID = 0xaf439f3fa670985c06fbb78b63f45c2505cfa030b7dab0314a60198094ed84d7;

/// Reads calldata, as the libraries' functions want it.
contract Reader {
    function contains(LeafProof calldata leaf, bytes32 root, uint256 total) external pure returns (bool) {
        return SumTree.contains(leaf, root, total);
    }

    function rootOf(ReceiptProof calldata proof) external pure returns (bytes32) {
        return ReceiptTree.rootOf(proof);
    }
}

/// One worked example of each hash. Other languages repeat the same constants in their own tests.
contract VectorsTest {
    using Kit for Earnings;

    /// Accounts 0x…1111, 0x…2222, 0x…3333 with 100, 200, 300 atto-OPEN.
    function earnings() internal pure returns (Earnings memory) {
        address[] memory accounts = new address[](3);
        uint128[] memory amounts = new uint128[](3);
        (accounts[0], accounts[1], accounts[2]) = (address(0x1111), address(0x2222), address(0x3333));
        (amounts[0], amounts[1], amounts[2]) = (100, 200, 300);
        return Kit.build(accounts, amounts);
    }

    /// Receipt k has the words 8k + 1 … 8k + 8.
    function receipts() internal pure returns (ReceiptLeaf[] memory leaves) {
        leaves = new ReceiptLeaf[](3);
        for (uint256 k; k < 3; ++k) {
            bytes32[8] memory w;
            for (uint256 i; i < 8; ++i) {
                w[i] = bytes32(8 * k + i + 1);
            }
            leaves[k] = ReceiptLeaf(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
        }
    }

    function test_earningsTree() public {
        Earnings memory tree = earnings();
        require(tree.hash[4] == LEAF, "leaf");
        require(tree.root() == EARNINGS_ROOT && tree.total() == 600, "root");
        Reader reader = new Reader();
        for (uint256 i; i < 4; ++i) {
            require(reader.contains(tree.proof(i), EARNINGS_ROOT, 600), "proof");
        }
    }

    function test_receiptTree() public {
        ReceiptLeaf[] memory leaves = receipts();
        require(Kit.receiptNodes(leaves)[1] == RECEIPTS_ROOT, "root");
        Reader reader = new Reader();
        for (uint256 i; i < 3; ++i) {
            require(reader.rootOf(Kit.receiptProof(leaves, i)) == RECEIPTS_ROOT, "proof");
        }
    }

    function test_batchId() public pure {
        Batch memory batch = Batch(1, 2, 3, address(0x4444), 600, EARNINGS_ROOT, RECEIPTS_ROOT, bytes32(uint256(5)));
        require(
            keccak256(
                    abi.encodePacked(
                        uint256(1), uint256(2), uint256(3), uint256(0x4444), uint256(600), EARNINGS_ROOT, RECEIPTS_ROOT, uint256(5)
                    )
                ) == keccak256(abi.encode(batch)) && keccak256(abi.encode(batch)) == BATCH_ID,
            "id"
        );
    }
}
