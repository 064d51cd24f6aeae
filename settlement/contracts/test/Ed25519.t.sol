// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Ed25519} from "../src/Ed25519.sol";
import {Kit, vm} from "./Kit.sol";

/// The library against forge's own ed25519 and against vectors made with plain integers.
contract Ed25519Test {
    /// The base point as a key: its secret scalar is 1.
    bytes32 constant BASE = 0x5866666666666666666666666666666666666666666666666666666666666666;
    bytes32 constant IDENTITY = 0x0100000000000000000000000000000000000000000000000000000000000000;
    bytes32 constant ONE = IDENTITY;
    bytes32 constant DIGEST = 0x4242424242424242424242424242424242424242424242424242424242424242;

    function testFuzz_agreesOnGoodSignatures(bytes32 secret, bytes32 digest) public view {
        (bytes32 r, bytes32 s) = Kit.signEd25519(secret, digest);
        require(Ed25519.verify(vm.publicKeyEd25519(secret), r, s, digest), "a good signature was refused");
    }

    function testFuzz_refusesAnyFlippedBit(bytes32 secret, bytes32 digest, uint8 bit, uint8 where) public view {
        (bytes32 r, bytes32 s) = Kit.signEd25519(secret, digest);
        bytes32 key = vm.publicKeyEd25519(secret);
        bytes32 flip = bytes32(uint256(1) << bit);
        if (where % 4 == 0) r ^= flip;
        if (where % 4 == 1) s ^= flip;
        if (where % 4 == 2) key ^= flip;
        if (where % 4 == 3) digest ^= flip;
        require(!Ed25519.verify(key, r, s, digest), "a changed signature was accepted");
    }

    function testFuzz_answersForEveryInput(bytes32 key, bytes32 r, bytes32 s, bytes32 digest) public view {
        require(!Ed25519.verify(key, r, s, digest), "noise was accepted");
    }

    /// Secret scalar 1 and nonce 1, so R = A = B and S = 1 + h.
    function test_vectorOfPlainIntegers() public view {
        bytes32 s = 0x912dc5c5e6098c637c24a5b57e60fbb810649e8bfcc935d45fb1735923ef9d00;
        require(Ed25519.verify(BASE, BASE, s, DIGEST), "vector");
    }

    /// The same S plus the group order would be a second encoding of the same signature.
    function test_refusesMalleableS() public view {
        bytes32 s = 0x7e01bb22016d9ebb52c19c585d5adacd10649e8bfcc935d45fb1735923ef9d10;
        require(!Ed25519.verify(BASE, BASE, s, DIGEST), "S + L");
    }

    /// Nonce 0: R is the identity and the equation holds; `verify_strict` refuses it and so must we.
    function test_refusesSmallOrderR() public view {
        bytes32 s = 0x7bff0f97eb84ebe0324f93cb68ab2340159bf3e10e60b8d59d7b7a0f3aedf000;
        require(!Ed25519.verify(BASE, IDENTITY, s, DIGEST), "R of order 1");
    }

    /// With A the identity, R = B and S = 1 satisfy the equation for every message: whoever bound such a key would have bound nobody's.
    function testFuzz_refusesIdentityKey(bytes32 digest) public view {
        require(!Ed25519.verify(IDENTITY, BASE, ONE, digest), "identity key");
    }

    function testFuzz_refusesSmallOrderKeys(bytes32 digest) public view {
        bytes32[10] memory keys = [
            bytes32(0),
            0x0000000000000000000000000000000000000000000000000000000000000080,
            IDENTITY,
            0x0100000000000000000000000000000000000000000000000000000000000080,
            0xecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f,
            0xecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff,
            0x26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05,
            0x26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85,
            0xc7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a,
            0xc7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa
        ];
        // For each key hA is one of at most 8 points, so with S = 1 one digest in 8 would pass for R = B were the keys not refused.
        for (uint256 i; i < keys.length; ++i) {
            require(!Ed25519.verify(keys[i], BASE, ONE, digest), "small order");
        }
    }

    /// y = p + 1 encodes the identity a second time.
    function test_refusesNonCanonicalKey() public view {
        bytes32 key = 0xeeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f;
        require(!Ed25519.verify(key, BASE, ONE, DIGEST), "non-canonical key");
    }
}
