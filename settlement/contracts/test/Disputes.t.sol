// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Anchor, Batch, NodeProof} from "../src/Anchor.sol";
import {LeafProof, Sibling, SumTree} from "../src/SumTree.sol";
import {ReceiptLeaf, ReceiptProof, ReceiptTree} from "../src/ReceiptTree.sol";
import {Earnings, Kit, vm} from "./Kit.sol";
import {Network} from "./Network.sol";

/// Each single-step proof: it stops its fault, and fails on a batch without it.
contract DisputesTest is Network {
    using Kit for Earnings;

    bytes32 constant IDENTITY = 0x0100000000000000000000000000000000000000000000000000000000000000;
    bytes32 constant BASE = 0x5866666666666666666666666666666666666666666666666666666666666666;

    function accountsOf(uint160 a, uint160 b, uint160 c) internal pure returns (address[] memory accounts) {
        accounts = new address[](3);
        (accounts[0], accounts[1], accounts[2]) = (address(a), address(b), address(c));
    }

    function test_decreasedAmount() public {
        Earnings memory older = tree(amountsOf(10, 20, 30));
        makeFinal(older);
        Earnings memory newer = tree(amountsOf(10, 19, 40));
        Batch memory batch = post(newer);
        vm.prank(WATCHER);
        anchor.challengeDecrease(batch, older.proof(1), newer.proof(1));
        requireRejected(batch);
    }

    function test_equalAndOtherAmountsAreNoDecrease() public {
        Earnings memory older = tree(amountsOf(10, 20, 30));
        makeFinal(older);
        Earnings memory newer = tree(amountsOf(10, 25, 30));
        Batch memory batch = post(newer);
        for (uint256 i; i < 3; ++i) {
            vm.expectRevert(Anchor.NotFraud.selector);
            anchor.challengeDecrease(batch, older.proof(i), newer.proof(i));
        }
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeDecrease(batch, older.proof(2), newer.proof(0));
        LeafProof memory forged = older.proof(0);
        forged.cumulative = 11;
        vm.expectRevert(Anchor.BadProof.selector);
        anchor.challengeDecrease(batch, forged, newer.proof(0));
    }

    /// Accounts 0x1000, 0x1010, 0x1020 are final; each in turn is left out of the next tree.
    function test_omittedAccount() public {
        Earnings memory older = tree(amountsOf(10, 20, 30));
        makeFinal(older);
        uint256 snapshot = block.timestamp;
        for (uint256 gone; gone < 3; ++gone) {
            vm.warp(snapshot);
            uint160 a = gone == 0 ? 0x1010 : 0x1000;
            uint160 b = gone < 2 ? 0x1020 : 0x1010;
            uint128[] memory amounts = amountsOf(100, uint128(200 + gone), 0);
            Earnings memory newer = Kit.build(accountsOf(a, b, 0), amounts);
            Batch memory batch = post(newer);
            LeafProof memory before = newer.proof(gone == 0 ? 0 : gone - 1);
            LeafProof memory next = newer.proof(gone);
            vm.prank(WATCHER);
            anchor.challengeOmission(batch, older.proof(gone), before, next);
            require(anchor.rejected(anchor.contentOf(batch)), "rejected");
        }
    }

    function test_omittedBehindAFullTree() public {
        Earnings memory older = tree(amountsOf(10, 20, 30));
        makeFinal(older);
        address[] memory accounts = new address[](2);
        uint128[] memory amounts = new uint128[](2);
        (accounts[0], accounts[1], amounts[0], amounts[1]) = (account(0), account(1), 30, 30);
        Earnings memory newer = Kit.build(accounts, amounts);
        Batch memory batch = post(newer);
        vm.prank(WATCHER);
        anchor.challengeOmission(batch, older.proof(2), newer.proof(1), newer.proof(1));
        requireRejected(batch);
    }

    /// No pair of places of a well-formed tree shows an omission, and an account without earnings may be left out.
    function test_nothingIsOmittedFromAWholeTree() public {
        Earnings memory older = tree(amountsOf(10, 20, 0));
        makeFinal(older);
        Earnings memory newer = tree(amountsOf(10, 20, 5));
        Batch memory batch = post(newer);
        for (uint256 i; i < 3; ++i) {
            for (uint256 before; before < 4; ++before) {
                for (uint256 next; next < 4; ++next) {
                    vm.expectRevert(Anchor.NotFraud.selector);
                    anchor.challengeOmission(batch, older.proof(i), newer.proof(before), newer.proof(next));
                }
            }
        }
        vm.prank(GUARDIAN);
        anchor.veto(batch);
        address[] memory accounts = new address[](2);
        (accounts[0], accounts[1]) = (account(0), account(1));
        uint128[] memory amounts = new uint128[](2);
        (amounts[0], amounts[1]) = (10, 20);
        newer = Kit.build(accounts, amounts);
        batch = post(newer);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeOmission(batch, older.proof(2), newer.proof(1), newer.proof(1));
    }

    function test_wrongSumAtTheRoot() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        earnings.declare(1, 50);
        Batch memory batch = post(earnings);
        vm.prank(WATCHER);
        challengeNode(batch, earnings, 1);
        requireRejected(batch);
    }

    function test_wrongSumInside() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        earnings.declare(2, 5);
        Batch memory batch = post(earnings);
        vm.prank(WATCHER);
        challengeNode(batch, earnings, 2);
        requireRejected(batch);
    }

    /// The lie is the child's, not the parent's: the parent's sum agrees with what it declares.
    function test_rightSumIsNoFraud() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        earnings.declare(2, 5);
        Batch memory batch = post(earnings);
        vm.expectRevert(Anchor.NotFraud.selector);
        challengeNode(batch, earnings, 1);
        vm.expectRevert(Anchor.NotFraud.selector);
        challengeNode(batch, earnings, 3);
    }

    function challengeNode(Batch memory batch, Earnings memory earnings, uint256 node) internal {
        uint256 left = 2 * node;
        anchor.challengeNodeSum(
            batch, nodeProof(earnings, node), earnings.hash[left], earnings.sum[left], earnings.hash[left + 1], earnings.sum[left + 1]
        );
    }

    /// Children whose sums wrap around 2^256 are as wrong as any.
    function test_wrappingSums() public {
        bytes32 left = Kit.leafHash(account(0), 40);
        bytes32 right = Kit.leafHash(account(1), 60);
        uint256 huge = type(uint256).max - 39;
        Batch memory batch = batchOf(tree(amountsOf(10, 20, 30)), 0);
        batch.earningsRoot = keccak256(abi.encode(left, 100, right, huge));
        batch.total = 60;
        post(batch);
        NodeProof memory node = NodeProof(batch.earningsRoot, 60, 0, new Sibling[](0));
        vm.prank(WATCHER);
        anchor.challengeNodeSum(batch, node, left, 100, right, huge);
        requireRejected(batch);
    }

    function test_wrongLeafSum() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        earnings.declare(4 + 1, 25);
        Batch memory batch = post(earnings);
        NodeProof memory good = nodeProof(earnings, 4);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeLeafSum(batch, good, account(0), 10);
        vm.expectRevert(Anchor.BadProof.selector);
        anchor.challengeLeafSum(batch, good, account(0), 11);
        NodeProof memory node = nodeProof(earnings, 5);
        vm.prank(WATCHER);
        anchor.challengeLeafSum(batch, node, account(1), 20);
        requireRejected(batch);
    }

    function test_emptyLeafWithASum() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        earnings.declare(7, 25);
        Batch memory batch = post(earnings);
        NodeProof memory node = nodeProof(earnings, 7);
        vm.prank(WATCHER);
        anchor.challengeLeafSum(batch, node, address(0), 0);
        requireRejected(batch);
    }

    function test_outOfOrder() public {
        Earnings memory earnings = Kit.build(accountsOf(0x1000, 0x1020, 0x1010), amountsOf(1, 2, 3));
        Batch memory batch = post(earnings);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeOrder(batch, earnings.proof(0), earnings.proof(1));
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeOrder(batch, earnings.proof(2), earnings.proof(1));
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeOrder(batch, earnings.proof(2), earnings.proof(2));
        vm.prank(WATCHER);
        anchor.challengeOrder(batch, earnings.proof(1), earnings.proof(2));
        requireRejected(batch);
    }

    function test_accountTwice() public {
        Earnings memory earnings = Kit.build(accountsOf(0x1000, 0x1010, 0x1010), amountsOf(1, 2, 3));
        Batch memory batch = post(earnings);
        vm.prank(WATCHER);
        anchor.challengeOrder(batch, earnings.proof(1), earnings.proof(2));
        requireRejected(batch);
    }

    function test_leafBehindAnEmptyOne() public {
        Earnings memory earnings = Kit.build(accountsOf(0x1000, 0, 0x1010), amountsOf(1, 0, 3));
        Batch memory batch = post(earnings);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeOrder(batch, earnings.proof(0), earnings.proof(3));
        vm.prank(WATCHER);
        anchor.challengeOrder(batch, earnings.proof(1), earnings.proof(2));
        requireRejected(batch);
    }

    /// A tree with leaves at two depths is ordered by the places they cover: here depth 2 on the left, depth 1 on the right. By their bare
    /// indices, 1 and 1, the two leaves would share a place.
    function test_orderInACrookedTree() public {
        bytes32 a = Kit.leafHash(account(0), 6);
        bytes32 b = Kit.leafHash(account(2), 7);
        bytes32 c = Kit.leafHash(account(1), 5);
        bytes32 left = keccak256(abi.encode(a, 6, b, 7));
        Batch memory batch = batchOf(tree(amountsOf(5, 6, 7)), 0);
        batch.earningsRoot = keccak256(abi.encode(left, 13, c, 5));
        post(batch);
        Sibling[] memory beside = new Sibling[](2);
        (beside[0], beside[1]) = (Sibling(a, 6), Sibling(c, 5));
        LeafProof memory first = LeafProof(account(2), 7, 1, beside);
        beside = new Sibling[](1);
        beside[0] = Sibling(left, 13);
        LeafProof memory second = LeafProof(account(1), 5, 1, beside);
        vm.prank(WATCHER);
        anchor.challengeOrder(batch, first, second);
        requireRejected(batch);
    }

    function test_duplicateReceipt() public {
        ReceiptLeaf[] memory leaves = receipts(5);
        leaves[4].id = leaves[1].id;
        Batch memory batch = post(batchOf(tree(amountsOf(10, 20, 30)), Kit.receiptNodes(leaves)[1]));
        ReceiptProof memory one = Kit.receiptProof(leaves, 1);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeDuplicate(batch, one, one);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeDuplicate(batch, one, Kit.receiptProof(leaves, 2));
        vm.prank(WATCHER);
        anchor.challengeDuplicate(batch, one, Kit.receiptProof(leaves, 4));
        requireRejected(batch);
    }

    function test_oneReceiptIsNoDuplicateUnderAnotherIndex() public {
        ReceiptLeaf[] memory leaves = receipts(4);
        Batch memory batch = post(batchOf(tree(amountsOf(10, 20, 30)), Kit.receiptNodes(leaves)[1]));
        ReceiptProof memory one = Kit.receiptProof(leaves, 1);
        ReceiptProof memory shifted = Kit.receiptProof(leaves, 1);
        shifted.index += 4;
        vm.expectRevert(ReceiptTree.IndexOutOfRange.selector);
        anchor.challengeDuplicate(batch, one, shifted);
        shifted.index = 2;
        vm.expectRevert(Anchor.BadProof.selector);
        anchor.challengeDuplicate(batch, one, shifted);
    }

    function testFuzz_falseSignature(bool ofWorker, uint8 bit) public {
        ReceiptLeaf[] memory leaves = receipts(2);
        bytes32 flip = bytes32(uint256(1) << bit);
        if (ofWorker) leaves[1].workerS ^= flip;
        else leaves[1].payerR ^= flip;
        Batch memory batch = post(batchOf(tree(amountsOf(10, 20, 30)), Kit.receiptNodes(leaves)[1]));
        ReceiptProof memory proof = Kit.receiptProof(leaves, 1);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeSignature(batch, proof, !ofWorker);
        vm.prank(WATCHER);
        anchor.challengeSignature(batch, proof, ofWorker);
        requireRejected(batch);
    }

    function testFuzz_trueSignaturesStand(uint256 seed) public {
        ReceiptLeaf[] memory leaves = new ReceiptLeaf[](1);
        leaves[0] = receipt(seed);
        Batch memory batch = post(batchOf(tree(amountsOf(10, 20, 30)), Kit.receiptHash(leaves[0])));
        ReceiptProof memory proof = Kit.receiptProof(leaves, 0);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeSignature(batch, proof, true);
        vm.expectRevert(Anchor.NotFraud.selector);
        anchor.challengeSignature(batch, proof, false);
        require(anchor.verifySignature(leaves[0].payerKey, leaves[0].payerR, leaves[0].payerS, leaves[0].digest), "view");
    }

    /// A key that anybody can sign for makes a receipt false, however well its equation holds.
    function test_smallOrderKeyIsAFalseSignature() public {
        ReceiptLeaf[] memory leaves = receipts(1);
        (leaves[0].workerKey, leaves[0].workerR, leaves[0].workerS) = (IDENTITY, BASE, IDENTITY);
        Batch memory batch = post(batchOf(tree(amountsOf(10, 20, 30)), Kit.receiptHash(leaves[0])));
        ReceiptProof memory proof = Kit.receiptProof(leaves, 0);
        vm.prank(WATCHER);
        anchor.challengeSignature(batch, proof, true);
        requireRejected(batch);
    }

    function test_proofsAreBounded() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        Batch memory batch = post(earnings);
        LeafProof memory long = earnings.proof(0);
        long.siblings = new Sibling[](33);
        vm.expectRevert(SumTree.ProofTooLong.selector);
        anchor.challengeOrder(batch, long, earnings.proof(1));
        LeafProof memory outside = earnings.proof(0);
        outside.index = 4;
        vm.expectRevert(SumTree.IndexOutOfRange.selector);
        anchor.challengeOrder(batch, outside, earnings.proof(1));
        ReceiptLeaf[] memory leaves = receipts(1);
        ReceiptProof memory receiptProof = Kit.receiptProof(leaves, 0);
        receiptProof.siblings = new bytes32[](33);
        vm.expectRevert(ReceiptTree.ProofTooLong.selector);
        anchor.challengeSignature(batch, receiptProof, true);
    }

    /// Proofs against a batch that isn't the pending one go nowhere, even when they are right.
    function test_onlyThePendingBatchIsChallenged() public {
        Earnings memory earnings = Kit.build(accountsOf(0x1000, 0x1020, 0x1010), amountsOf(1, 2, 3));
        Batch memory batch = batchOf(earnings, 0);
        post(tree(amountsOf(1, 2, 3)));
        vm.expectRevert(Anchor.NotPending.selector);
        anchor.challengeOrder(batch, earnings.proof(1), earnings.proof(2));
    }
}
