// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Distributor} from "../src/Distributor.sol";
import {LeafProof, Sibling, SumTree} from "../src/SumTree.sol";
import {Earnings, Kit, vm} from "./Kit.sol";
import {Network} from "./Network.sol";

contract DistributorTest is Network {
    using Kit for Earnings;

    function requireBooks() internal view {
        require(distributor.funded() == distributor.claimedTotal() + distributor.remaining(), "funded = claimed + remaining");
        require(token.balanceOf(address(distributor)) == distributor.remaining(), "tokens held");
    }

    function test_anyoneClaimsForTheAccount() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        makeFinal(earnings);
        vm.prank(WATCHER);
        require(distributor.claim(earnings.proof(1)) == 20, "amount");
        require(token.balanceOf(account(1)) == 20 && token.balanceOf(WATCHER) == 0, "to the account");
        vm.expectRevert(Distributor.NothingDue.selector);
        distributor.claim(earnings.proof(1));
        requireBooks();
    }

    function test_claimsAreCumulative() public {
        makeFinal(tree(amountsOf(10, 20, 30)));
        Earnings memory second = tree(amountsOf(15, 20, 35));
        Earnings memory first = tree(amountsOf(10, 20, 30));
        distributor.claim(first.proof(0));
        makeFinal(second);
        for (uint256 i; i < 3; ++i) {
            distributor.claim(second.proof(i));
        }
        require(token.balanceOf(account(0)) == 15 && token.balanceOf(account(2)) == 35, "the difference, the missed epoch");
        vm.expectRevert(Distributor.BadProof.selector);
        distributor.claim(first.proof(1));
        requireBooks();
    }

    function testFuzz_everyLeafOfAnyTreeIsPaidInFull(uint8 count, uint64 seed) public {
        uint128[] memory amounts = new uint128[](count % 20 + 1);
        uint128 total;
        for (uint256 i; i < amounts.length; ++i) {
            amounts[i] = uint128(uint256(keccak256(abi.encode(seed, i))) % 500);
            total += amounts[i];
        }
        Earnings memory earnings = tree(amounts);
        makeFinal(earnings);
        for (uint256 i; i < amounts.length; ++i) {
            if (amounts[i] != 0) require(distributor.claim(earnings.proof(i)) == amounts[i], "amount");
        }
        require(distributor.claimedTotal() == total, "the whole tree");
        requireBooks();
    }

    function testFuzz_refusesForgedLeaves(uint8 index, uint128 cumulative, address who) public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        makeFinal(earnings);
        LeafProof memory leaf = earnings.proof(index % 3);
        vm.assume(who != address(0) && cumulative != leaf.cumulative && who != leaf.account);
        LeafProof memory forged = earnings.proof(index % 3);
        forged.account = who;
        vm.expectRevert(Distributor.BadProof.selector);
        distributor.claim(forged);
        forged = earnings.proof(index % 3);
        forged.cumulative = cumulative;
        // A large amount overflows the sum on the way up instead.
        (bool ok,) = address(distributor).call(abi.encodeCall(Distributor.claim, (forged)));
        require(!ok, "forged amount");
    }

    /// The path's sums are part of every hash: moving a sum from one sibling to the claimant breaks it.
    function test_refusesShiftedSums() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        makeFinal(earnings);
        LeafProof memory forged = earnings.proof(0);
        forged.cumulative = 20;
        forged.siblings[0].sum = 10;
        vm.expectRevert(Distributor.BadProof.selector);
        distributor.claim(forged);
    }

    /// A poster who understates the total can't make the books short: leaves under a wrong sum can't be claimed at all.
    function test_understatedSumsBlockInsteadOfOverpaying() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        earnings.declare(2, 5);
        makeFinal(earnings);
        vm.expectRevert(Distributor.BadProof.selector);
        distributor.claim(earnings.proof(0));
        distributor.claim(earnings.proof(2));
        requireBooks();
    }

    /// The same at the top: the root's own sum must be the total that was anchored.
    function test_understatedTotalBlocksEverybody() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        earnings.declare(1, 50);
        makeFinal(earnings);
        for (uint256 i; i < 3; ++i) {
            vm.expectRevert(Distributor.BadProof.selector);
            distributor.claim(earnings.proof(i));
        }
    }

    /// If nobody stopped a tree that moves paid earnings to somebody else, what is paid out still ends at its total.
    function test_claimsEndAtTheTotal() public {
        Earnings memory first = tree(amountsOf(60, 0, 0));
        makeFinal(first);
        distributor.claim(first.proof(0));
        Earnings memory second = tree(amountsOf(0, 0, 61));
        makeFinal(second);
        vm.expectRevert(Distributor.Insolvent.selector);
        distributor.claim(second.proof(2));
        requireBooks();
    }

    /// 128 bytes of a node are no leaf, and an inner node's hash can't be claimed as one.
    function test_innerNodeIsNoLeaf() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        makeFinal(earnings);
        LeafProof memory forged = LeafProof(address(uint160(uint256(earnings.hash[2]))), 30, 0, earnings.siblings(2));
        vm.expectRevert(Distributor.BadProof.selector);
        distributor.claim(forged);
    }

    function test_nothingBeforeTheFirstFinalTree() public {
        LeafProof memory leaf = LeafProof(account(0), 1, 0, new Sibling[](0));
        vm.expectRevert(Distributor.BadProof.selector);
        distributor.claim(leaf);
        leaf = LeafProof(address(0), 0, 0, new Sibling[](0));
        vm.expectRevert(Distributor.ZeroAccount.selector);
        distributor.claim(leaf);
        post(tree(amountsOf(10, 20, 30)));
        vm.expectRevert(Distributor.BadProof.selector);
        distributor.claim(tree(amountsOf(10, 20, 30)).proof(0));
    }

    function test_capBoundsAnEpochAndTheRestStaysDue() public {
        deploy(25);
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        makeFinal(earnings);
        require(distributor.claim(earnings.proof(1)) == 20, "within the cap");
        require(distributor.claim(earnings.proof(2)) == 5, "what the cap leaves");
        vm.expectRevert(Distributor.CapReached.selector);
        distributor.claim(earnings.proof(0));
        require(distributor.paidInEpoch(1) == 25, "cap");
        earnings = tree(amountsOf(10, 20, 31));
        makeFinal(earnings);
        require(distributor.claim(earnings.proof(2)) == 25, "the next epoch goes on");
        makeFinal(tree(amountsOf(10, 20, 32)));
        require(distributor.claim(tree(amountsOf(10, 20, 32)).proof(2)) == 2, "to the last unit");
        requireBooks();
    }

    function test_proofsAreBounded() public {
        Earnings memory earnings = tree(amountsOf(10, 20, 30));
        makeFinal(earnings);
        LeafProof memory leaf = earnings.proof(0);
        leaf.siblings = new Sibling[](33);
        vm.expectRevert(SumTree.ProofTooLong.selector);
        distributor.claim(leaf);
        leaf = earnings.proof(0);
        leaf.index = 4;
        vm.expectRevert(SumTree.IndexOutOfRange.selector);
        distributor.claim(leaf);
    }

    function test_aGiftIsNotFunding() public {
        token.transfer(address(distributor), 5);
        require(distributor.funded() == FUNDS && distributor.remaining() == FUNDS, "books");
        vm.expectRevert(Distributor.ZeroAmount.selector);
        distributor.fund(0);
    }
}
