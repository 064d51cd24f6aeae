// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {OpenToken} from "../src/OpenToken.sol";
import {vm} from "./Kit.sol";

contract OpenTokenTest {
    function deploy(uint256[] memory bps) internal returns (OpenToken) {
        address[] memory to = new address[](bps.length);
        for (uint256 i; i < to.length; ++i) {
            to[i] = address(uint160(0x1000 + i));
        }
        return new OpenToken(to, bps);
    }

    function test_theLaunchAllocation() public {
        uint256[] memory bps = new uint256[](5);
        (bps[0], bps[1], bps[2], bps[3], bps[4]) = (5171, 1829, 1500, 1000, 500);
        OpenToken token = deploy(bps);
        require(token.totalSupply() == 1e27, "supply");
        require(token.balanceOf(address(0x1000)) == 517_100_000 ether, "community");
        require(token.balanceOf(address(0x1004)) == 50_000_000 ether, "liquidity");
        require(token.decimals() == 18, "decimals");
    }

    function testFuzz_anyTwoSharesMakeTheWhole(uint16 first) public {
        uint256[] memory bps = new uint256[](2);
        bps[0] = first % 10_001;
        bps[1] = 10_000 - bps[0];
        require(deploy(bps).totalSupply() == 1e27, "supply");
    }

    function testFuzz_refusesSharesThatAreNoWhole(uint16 first, uint16 second) public {
        vm.assume(uint256(first) + second != 10_000);
        uint256[] memory bps = new uint256[](2);
        (bps[0], bps[1]) = (first, second);
        vm.expectRevert(OpenToken.BadAllocation.selector);
        deploy(bps);
    }

    function test_refusesUnequalLists() public {
        uint256[] memory bps = new uint256[](1);
        bps[0] = 10_000;
        vm.expectRevert(OpenToken.BadAllocation.selector);
        new OpenToken(new address[](2), bps);
    }

    function test_countsVotesByTime() public {
        uint256[] memory bps = new uint256[](1);
        bps[0] = 10_000;
        OpenToken token = deploy(bps);
        address holder = address(0x1000);
        vm.warp(5000);
        require(token.clock() == 5000, "clock");
        require(keccak256(bytes(token.CLOCK_MODE())) == keccak256("mode=timestamp"), "mode");
        vm.prank(holder);
        token.delegate(holder);
        vm.warp(5001);
        require(token.getPastVotes(holder, 5000) == 1e27, "votes");
    }

    function test_permitMovesByASignature() public {
        uint256 key = 0xA11CE;
        address[] memory to = new address[](1);
        uint256[] memory bps = new uint256[](1);
        (to[0], bps[0]) = (vm.addr(key), 10_000);
        OpenToken token = new OpenToken(to, bps);
        bytes32 permit = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 inner = keccak256(abi.encode(permit, to[0], address(this), 7, 0, type(uint256).max));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), inner)));
        token.permit(to[0], address(this), 7, type(uint256).max, v, r, s);
        require(token.transferFrom(to[0], address(this), 7), "transfer");
        require(token.nonces(to[0]) == 1, "nonce");
    }
}
