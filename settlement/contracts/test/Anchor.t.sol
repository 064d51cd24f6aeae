// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Anchor, Batch} from "../src/Anchor.sol";
import {Earnings, Kit, vm} from "./Kit.sol";
import {Network} from "./Network.sol";

/// Posting, waiting, making final and vetoing; the proofs have their own file.
contract AnchorTest is Network {
    using Kit for Earnings;

    function test_postedBatchBecomesFinalAfterTheWindowOnly() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        Batch memory batch = post(earnings);
        require(token.balanceOf(address(anchor)) == BOND, "bond locked");
        vm.warp(batch.postedAt + WINDOW - 1);
        vm.expectRevert(Anchor.WindowOpen.selector);
        anchor.finalize(batch);
        vm.warp(batch.postedAt + WINDOW);
        anchor.finalize(batch);
        require(token.balanceOf(POSTER) == 1000 ether, "bond returned");
        (uint64 epoch, bytes32 root, uint128 total) = anchor.latest();
        require(epoch == 1 && root == earnings.root() && total == 60, "latest");
        require(anchor.batchOf(1) == anchor.idOf(batch) && anchor.pending() == 0, "kept");
        vm.expectRevert(Anchor.NotPending.selector);
        anchor.finalize(batch);
    }

    function test_onePendingAtATime() public {
        Batch memory batch = post(tree(amountsOf(10, 20, 30)));
        vm.prank(POSTER);
        vm.expectRevert(Anchor.PendingExists.selector);
        anchor.post(1, batch.earningsRoot, batch.total, 0, 0, 0);
    }

    function testFuzz_epochsAreDense(uint64 epoch) public {
        makeFinal(tree(amountsOf(10, 20, 30)));
        vm.assume(epoch != 2);
        vm.prank(POSTER);
        vm.expectRevert(abi.encodeWithSelector(Anchor.WrongEpoch.selector, 2));
        anchor.post(epoch, "root", 60, 0, 0, 0);
    }

    function test_totalsStayWithinWhatWasFunded() public {
        makeFinal(tree(amountsOf(10, 20, 30)));
        vm.prank(POSTER);
        vm.expectRevert(Anchor.TotalDecreased.selector);
        anchor.post(2, "root", 59, 0, 0, 0);
        vm.prank(POSTER);
        vm.expectRevert(Anchor.TotalNotFunded.selector);
        anchor.post(2, "root", FUNDS + 1, 0, 0, 0);
        vm.prank(POSTER);
        anchor.post(2, "root", FUNDS, 0, 0, 0);
    }

    function test_onlyTheVeryBatchIsActedOn() public {
        Batch memory batch = post(tree(amountsOf(10, 20, 30)));
        vm.warp(batch.postedAt + WINDOW);
        batch.poster = WATCHER;
        vm.expectRevert(Anchor.NotPending.selector);
        anchor.finalize(batch);
        batch.poster = POSTER;
        batch.postedAt -= 1;
        vm.expectRevert(Anchor.NotPending.selector);
        anchor.finalize(batch);
        Batch memory none;
        vm.expectRevert(Anchor.NotPending.selector);
        anchor.finalize(none);
    }

    function test_postingNeedsTheBond() public {
        vm.prank(WATCHER);
        (bool posted,) = address(anchor).call(abi.encodeCall(Anchor.post, (1, "root", 1, 0, 0, 0)));
        require(!posted && anchor.pending() == 0, "posted without a bond");
    }

    function test_vetoBurnsTheBondAndGivesTheGuardianNothing() public {
        Batch memory batch = post(tree(amountsOf(10, 20, 30)));
        vm.prank(WATCHER);
        vm.expectRevert(Anchor.NotGuardian.selector);
        anchor.veto(batch);
        vm.prank(GUARDIAN);
        anchor.veto(batch);
        require(token.balanceOf(GUARDIAN) == 0 && token.balanceOf(BURN) == BOND, "bond");
        vm.prank(POSTER);
        vm.expectRevert(Anchor.RejectedBefore.selector);
        anchor.post(1, batch.earningsRoot, batch.total, batch.receiptsRoot, batch.dataHash, batch.count);
        makeFinal(tree(amountsOf(10, 20, 31)));
    }

    function test_vetoCannotTouchAFinalBatch() public {
        Batch memory batch = makeFinal(tree(amountsOf(10, 20, 30)));
        vm.prank(GUARDIAN);
        vm.expectRevert(Anchor.NotPending.selector);
        anchor.veto(batch);
    }

    function test_guardianCanResign() public {
        vm.prank(WATCHER);
        vm.expectRevert(Anchor.NotGuardian.selector);
        anchor.renounceGuardian();
        vm.prank(GUARDIAN);
        anchor.renounceGuardian();
        Batch memory batch = post(tree(amountsOf(10, 20, 30)));
        vm.prank(GUARDIAN);
        vm.expectRevert(Anchor.NotGuardian.selector);
        anchor.veto(batch);
    }

    function test_aChainOfOneMachineNeedsNoWindowAndNoBond() public {
        Anchor local = new Anchor(IERC20(address(token)), 0, 0, type(uint128).max, address(0));
        Batch memory batch = Batch(1, uint64(block.timestamp), 0, address(this), 0, 0, 0, 0);
        local.post(1, 0, 0, 0, 0, 0);
        local.finalize(batch);
        require(local.finalEpoch() == 1, "final at once");
        vm.expectRevert(Anchor.WindowTooLong.selector);
        new Anchor(IERC20(address(token)), 31 days, 0, 0, address(0));
    }
}
