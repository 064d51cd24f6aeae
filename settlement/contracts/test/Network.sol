// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Anchor, Batch, NodeProof} from "../src/Anchor.sol";
import {Distributor} from "../src/Distributor.sol";
import {OpenToken} from "../src/OpenToken.sol";
import {ReceiptLeaf} from "../src/ReceiptTree.sol";
import {Earnings, Kit, vm} from "./Kit.sol";

/// A deployed anchor and distributor with a poster, a guardian and some funds, for the unit tests.
abstract contract Network {
    using Kit for Earnings;

    uint64 constant WINDOW = 1 hours;
    uint128 constant BOND = 100 ether;
    uint128 constant FUNDS = 10_000;
    address constant POSTER = address(0x905732);
    address constant GUARDIAN = address(0x60A2D);
    address constant WATCHER = address(0x3A7C4);
    address constant BURN = 0x000000000000000000000000000000000000dEaD;
    OpenToken token;
    Anchor anchor;
    Distributor distributor;

    function setUp() public virtual {
        vm.warp(1_000_000);
        deploy(type(uint128).max);
    }

    function deploy(uint128 epochCap) internal {
        token = Kit.tokenFor(address(this));
        anchor = new Anchor(IERC20(address(token)), WINDOW, BOND, epochCap, GUARDIAN);
        distributor = anchor.distributor();
        token.transfer(POSTER, 1000 ether);
        vm.prank(POSTER);
        token.approve(address(anchor), type(uint256).max);
        token.approve(address(distributor), type(uint256).max);
        distributor.fund(FUNDS);
    }

    function account(uint256 i) internal pure returns (address) {
        return address(uint160(0x1000 + 0x10 * i));
    }

    /// Accounts 0, 1, … with these amounts: a well-formed tree.
    function tree(uint128[] memory amounts) internal pure returns (Earnings memory) {
        address[] memory accounts = new address[](amounts.length);
        for (uint256 i; i < amounts.length; ++i) {
            accounts[i] = account(i);
        }
        return Kit.build(accounts, amounts);
    }

    function amountsOf(uint128 a, uint128 b, uint128 c) internal pure returns (uint128[] memory amounts) {
        amounts = new uint128[](3);
        (amounts[0], amounts[1], amounts[2]) = (a, b, c);
    }

    function batchOf(Earnings memory earnings, bytes32 receiptsRoot) internal view returns (Batch memory) {
        uint64 epoch = anchor.finalEpoch() + 1;
        return Batch(epoch, uint64(block.timestamp), 1, POSTER, earnings.total(), earnings.root(), receiptsRoot, "data");
    }

    function post(Batch memory batch) internal returns (Batch memory) {
        vm.prank(POSTER);
        bytes32 id = anchor.post(batch.epoch, batch.earningsRoot, batch.total, batch.receiptsRoot, batch.dataHash, batch.count);
        require(id == keccak256(abi.encode(batch)) && anchor.pending() == id, "batch id");
        return batch;
    }

    function post(Earnings memory earnings) internal returns (Batch memory) {
        return post(batchOf(earnings, 0));
    }

    function makeFinal(Earnings memory earnings) internal returns (Batch memory batch) {
        batch = post(earnings);
        vm.warp(block.timestamp + WINDOW);
        anchor.finalize(batch);
    }

    function nodeProof(Earnings memory earnings, uint256 node) internal pure returns (NodeProof memory) {
        uint256 height;
        for (uint256 up = node; up > 1; up /= 2) {
            ++height;
        }
        return NodeProof(earnings.hash[node], uint128(earnings.sum[node]), node - (1 << height), earnings.siblings(node));
    }

    /// After a proof: nothing pends, half the bond rewarded, the other half burnt, the same content refused for good.
    function requireRejected(Batch memory batch) internal {
        require(anchor.pending() == 0 && anchor.batchOf(batch.epoch) == 0, "still pending or final");
        require(token.balanceOf(WATCHER) == BOND / 2, "reward");
        require(token.balanceOf(BURN) == BOND - BOND / 2, "burnt");
        require(token.balanceOf(address(anchor)) == 0, "anchor keeps nothing");
        vm.warp(block.timestamp + WINDOW);
        vm.expectRevert(Anchor.NotPending.selector);
        anchor.finalize(batch);
        vm.prank(POSTER);
        vm.expectRevert(Anchor.RejectedBefore.selector);
        anchor.post(batch.epoch, batch.earningsRoot, batch.total, batch.receiptsRoot, batch.dataHash, batch.count);
    }

    /// A receipt signed by two keys made from `seed`.
    function receipt(uint256 seed) internal pure returns (ReceiptLeaf memory leaf) {
        leaf.id = keccak256(abi.encode("id", seed));
        leaf.digest = keccak256(abi.encode("digest", seed));
        bytes32 payer = keccak256(abi.encode("payer", seed));
        bytes32 worker = keccak256(abi.encode("worker", seed));
        leaf.payerKey = vm.publicKeyEd25519(payer);
        leaf.workerKey = vm.publicKeyEd25519(worker);
        (leaf.payerR, leaf.payerS) = Kit.signEd25519(payer, leaf.digest);
        (leaf.workerR, leaf.workerS) = Kit.signEd25519(worker, leaf.digest);
    }

    function receipts(uint256 count) internal pure returns (ReceiptLeaf[] memory leaves) {
        leaves = new ReceiptLeaf[](count);
        for (uint256 i; i < count; ++i) {
            leaves[i] = receipt(i);
        }
    }
}
