// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {PeerRegistry} from "../src/PeerRegistry.sol";
import {Kit, vm} from "./Kit.sol";

contract PeerRegistryTest {
    uint64 constant DELAY = 1 days;
    address constant ALICE = address(0xA11CE);
    address constant MALLORY = address(0xBAD);
    bytes32 constant SECRET = keccak256("alice");
    bytes32 constant SECOND_SECRET = keccak256("alice's second key");
    PeerRegistry registry;
    bytes32 key;
    bytes32 secondKey;

    function setUp() public {
        registry = new PeerRegistry(DELAY);
        key = vm.publicKeyEd25519(SECRET);
        secondKey = vm.publicKeyEd25519(SECOND_SECRET);
        vm.warp(1_000_000);
    }

    function bindAs(address account, bytes32 secret) internal {
        bytes32 edKey = vm.publicKeyEd25519(secret);
        (bytes32 r, bytes32 s) = Kit.signEd25519(secret, registry.bindDigest(account, edKey));
        vm.prank(account);
        registry.bind(edKey, r, s);
    }

    function requestRotate(address account, bytes32 secret) internal {
        bytes32 edKey = vm.publicKeyEd25519(secret);
        (bytes32 r, bytes32 s) = Kit.signEd25519(secret, registry.bindDigest(account, edKey));
        vm.prank(account);
        registry.requestRotate(edKey, r, s);
    }

    function requireBound(address account, bytes32 edKey) internal view {
        require(registry.keyOf(account) == edKey && registry.accountOf(edKey) == account, "binding");
    }

    function testFuzz_bindsBothWays(address account, bytes32 secret) public {
        vm.assume(account != address(0) && uint160(account) > 0xffff);
        bindAs(account, secret);
        requireBound(account, vm.publicKeyEd25519(secret));
    }

    function test_digestIsAsDocumented() public view {
        bytes32 domain = keccak256("tributary/peer-binding/v1");
        bytes32 expected = keccak256(
            abi.encodePacked(domain, block.chainid, uint256(uint160(address(registry))), uint256(uint160(ALICE)), key, uint256(0))
        );
        require(registry.bindDigest(ALICE, key) == expected, "digest");
    }

    function test_nobodyFrontRunsABinding() public {
        (bytes32 r, bytes32 s) = Kit.signEd25519(SECRET, registry.bindDigest(ALICE, key));
        vm.prank(MALLORY);
        vm.expectRevert(PeerRegistry.BadSignature.selector);
        registry.bind(key, r, s);
        vm.prank(ALICE);
        registry.bind(key, r, s);
        requireBound(ALICE, key);
    }

    function test_proofIsForOneChainAndOneRegistry() public {
        (bytes32 r, bytes32 s) = Kit.signEd25519(SECRET, registry.bindDigest(ALICE, key));
        PeerRegistry other = new PeerRegistry(DELAY);
        vm.prank(ALICE);
        vm.expectRevert(PeerRegistry.BadSignature.selector);
        other.bind(key, r, s);
        vm.chainId(block.chainid + 1);
        vm.prank(ALICE);
        vm.expectRevert(PeerRegistry.BadSignature.selector);
        registry.bind(key, r, s);
    }

    function test_oneKeyOneAccount() public {
        bindAs(ALICE, SECRET);
        (bytes32 r, bytes32 s) = Kit.signEd25519(SECRET, registry.bindDigest(MALLORY, key));
        vm.prank(MALLORY);
        vm.expectRevert(PeerRegistry.KeyTaken.selector);
        registry.bind(key, r, s);
        (r, s) = Kit.signEd25519(SECOND_SECRET, registry.bindDigest(ALICE, secondKey));
        vm.prank(ALICE);
        vm.expectRevert(PeerRegistry.AccountTaken.selector);
        registry.bind(secondKey, r, s);
    }

    function test_refusesSmallOrderKeys() public {
        bytes32 identity = 0x0100000000000000000000000000000000000000000000000000000000000000;
        bytes32 base = 0x5866666666666666666666666666666666666666666666666666666666666666;
        vm.prank(MALLORY);
        vm.expectRevert(PeerRegistry.BadSignature.selector);
        registry.bind(identity, base, identity);
    }

    function test_rotatesAfterTheDelayOnly() public {
        bindAs(ALICE, SECRET);
        requestRotate(ALICE, SECOND_SECRET);
        vm.warp(block.timestamp + DELAY - 1);
        vm.expectRevert(PeerRegistry.NotReady.selector);
        registry.applyChange(ALICE);
        requireBound(ALICE, key);
        vm.warp(block.timestamp + 1);
        registry.applyChange(ALICE);
        requireBound(ALICE, secondKey);
        require(registry.accountOf(key) == address(0), "the old key is free");
        vm.expectRevert(PeerRegistry.NoChange.selector);
        registry.applyChange(ALICE);
    }

    function test_revokesAfterTheDelayOnly() public {
        bindAs(ALICE, SECRET);
        vm.prank(ALICE);
        registry.requestRevoke();
        vm.expectRevert(PeerRegistry.NotReady.selector);
        registry.applyChange(ALICE);
        vm.warp(block.timestamp + DELAY);
        registry.applyChange(ALICE);
        require(registry.keyOf(ALICE) == 0 && registry.accountOf(key) == address(0), "revoked");
    }

    function test_cancelsAChange() public {
        bindAs(ALICE, SECRET);
        vm.prank(ALICE);
        registry.requestRevoke();
        vm.prank(ALICE);
        registry.cancelChange();
        vm.warp(block.timestamp + DELAY);
        vm.expectRevert(PeerRegistry.NoChange.selector);
        registry.applyChange(ALICE);
        requireBound(ALICE, key);
    }

    /// After a key moved away, the proof it once gave must not bind it to its old account again.
    function test_anOldProofIsSpent() public {
        (bytes32 r, bytes32 s) = Kit.signEd25519(SECRET, registry.bindDigest(ALICE, key));
        vm.prank(ALICE);
        registry.bind(key, r, s);
        vm.prank(ALICE);
        registry.requestRevoke();
        vm.warp(block.timestamp + DELAY);
        registry.applyChange(ALICE);
        vm.prank(ALICE);
        vm.expectRevert(PeerRegistry.BadSignature.selector);
        registry.bind(key, r, s);
    }

    function test_aKeyTakenMeanwhileStopsTheRotation() public {
        bindAs(ALICE, SECRET);
        requestRotate(ALICE, SECOND_SECRET);
        bindAs(MALLORY, SECOND_SECRET);
        vm.warp(block.timestamp + DELAY);
        vm.expectRevert(PeerRegistry.KeyTaken.selector);
        registry.applyChange(ALICE);
        requireBound(ALICE, key);
        requireBound(MALLORY, secondKey);
    }

    function test_onlyTheBoundAsk() public {
        vm.prank(MALLORY);
        vm.expectRevert(PeerRegistry.NotBound.selector);
        registry.requestRevoke();
        bytes32 digest = registry.bindDigest(MALLORY, key);
        (bytes32 r, bytes32 s) = Kit.signEd25519(SECRET, digest);
        vm.prank(MALLORY);
        vm.expectRevert(PeerRegistry.NotBound.selector);
        registry.requestRotate(key, r, s);
        vm.expectRevert(PeerRegistry.DelayTooLong.selector);
        new PeerRegistry(91 days);
    }

    function test_rotationNeedsTheNewKeysProof() public {
        bindAs(ALICE, SECRET);
        (bytes32 r, bytes32 s) = Kit.signEd25519(SECRET, registry.bindDigest(ALICE, secondKey));
        vm.prank(ALICE);
        vm.expectRevert(PeerRegistry.BadSignature.selector);
        registry.requestRotate(secondKey, r, s);
    }
}
