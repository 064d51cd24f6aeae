// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Ed25519 over a 32-byte message
/// @notice Invariant: `verify` is a verdict, the same whoever asks: it takes no hint from the caller and answers for every input.
/// @dev RFC 8032, section 5.1.7, without the cofactor, and strict as ed25519-dalek's `verify_strict`: a key or an R of small order, a
/// non-canonical key, and an S not below the group order are false. `R` and `S` are the signature's halves, bytes as in RFC 8032.
/// About 250,000 gas; meant for key binding and disputes. The message is one 32-byte digest, so that SHA-512 takes a single block.
library Ed25519 {
    uint256 private constant P = 0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed;
    uint256 private constant D = 0x52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3;
    uint256 private constant D2 = 0x2406d9dc56dffce7198e80f2eef3d13000e0149a8283b156ebd69b9426b2f159;
    uint256 private constant L = 0x1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed;
    /// 2^256 mod L
    uint256 private constant R256 = 0xffffffffffffffffffffffffffffffec6ef5bf4737dcf70d6ec31748d98951d;
    uint256 private constant SQRT_MINUS_1 = 0x2b8324804fc1df0b2b4d00993dfbd7a72f431806ad2fe478c4ee1b274a0ea0b0;
    /// (P - 5) / 8, the exponent of RFC 8032, section 5.1.3
    uint256 private constant ROOT_EXPONENT = 0x0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffd;
    /// y of two points of order 8; P minus it is y of the two others.
    uint256 private constant ORDER_8_Y = 0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826;
    uint256 private constant Y_MASK = type(uint256).max >> 1;
    uint256 private constant M = 0xffffffffffffffff;
    /// The round constants of SHA-512 (FIPS 180-4, section 4.2.3).
    bytes private constant K =
        hex"428a2f98d728ae227137449123ef65cdb5c0fbcfec4d3b2fe9b5dba58189dbbc3956c25bf348b53859f111f1b605d019923f82a4af194f9bab1c5ed5da6d8118d807aa98a303024212835b0145706fbe243185be4ee4b28c550c7dc3d5ffb4e272be5d74f27b896f80deb1fe3b1696b19bdc06a725c71235c19bf174cf692694e49b69c19ef14ad2efbe4786384f25e30fc19dc68b8cd5b5240ca1cc77ac9c652de92c6f592b02754a7484aa6ea6e4835cb0a9dcbd41fbd476f988da831153b5983e5152ee66dfaba831c66d2db43210b00327c898fb213fbf597fc7beef0ee4c6e00bf33da88fc2d5a79147930aa72506ca6351e003826f142929670a0e6e7027b70a8546d22ffc2e1b21385c26c9264d2c6dfc5ac42aed53380d139d95b3df650a73548baf63de766a0abb3c77b2a881c2c92e47edaee692722c851482353ba2bfe8a14cf10364a81a664bbc423001c24b8b70d0f89791c76c51a30654be30d192e819d6ef5218d69906245565a910f40e35855771202a106aa07032bbd1b819a4c116b8d2d0c81e376c085141ab532748774cdf8eeb9934b0bcb5e19b48a8391c0cb3c5c95a634ed8aa4ae3418acb5b9cca4f7763e373682e6ff3d6b2b8a3748f82ee5defb2fc78a5636f43172f6084c87814a1f0ab728cc702081a6439ec90befffa23631e28a4506cebde82bde9bef9a3f7b2c67915c67178f2e372532bca273eceea26619cd186b8c721c0c207eada7dd6cde0eb1ef57d4f7fee6ed17806f067aa72176fba0a637dc5a2c898a6113f9804bef90dae1b710b35131c471b28db77f523047d8432caab7b40c724933c9ebe0a15c9bebc431d67c49c100d4c4cc5d4becb3e42b6597f299cfc657e2a5fcb6fab3ad6faec6c44198c4a475817";

    /// Whether (R, S) is the signature of `digest` by the key `A`.
    function verify(bytes32 A, bytes32 R, bytes32 S, bytes32 digest) internal view returns (bool) {
        (bool valid, uint256 ax, uint256 ay) = _decompress(A);
        if (!valid || _smallOrder(ay) || _smallOrder(_rev(uint256(R)) & Y_MASK)) return false;
        uint256 s = _rev(uint256(S));
        if (s >= L) return false;
        uint256 h;
        {
            (uint256 d0, uint256 d1) = _sha512(R, A, digest);
            h = addmod(mulmod(_rev(d1), R256, L), _rev(d0) % L, L);
        }
        (uint256 X, uint256 Y, uint256 Z) = _mul(_table(P - ax, ay), s, h);
        Z = _pow(Z, P - 2);
        X = mulmod(X, Z, P);
        Y = mulmod(Y, Z, P);
        return _rev(Y | (X << 255)) == uint256(R);
    }

    /// The point of an encoded key (RFC 8032, section 5.1.3), or false when there is none.
    function _decompress(bytes32 A) private view returns (bool valid, uint256 x, uint256 y) {
        y = _rev(uint256(A));
        uint256 sign = y >> 255;
        y &= Y_MASK;
        if (y >= P) return (false, 0, 0);
        uint256 yy = mulmod(y, y, P);
        uint256 u = addmod(yy, P - 1, P);
        uint256 v = addmod(mulmod(D, yy, P), 1, P);
        uint256 v3 = mulmod(mulmod(v, v, P), v, P);
        uint256 v7 = mulmod(mulmod(v3, v3, P), v, P);
        x = mulmod(mulmod(u, v3, P), _pow(mulmod(u, v7, P), ROOT_EXPONENT), P);
        uint256 vxx = mulmod(v, mulmod(x, x, P), P);
        if (vxx != u) {
            if (vxx != (P - u) % P) return (false, 0, 0);
            x = mulmod(x, SQRT_MINUS_1, P);
        }
        if (x == 0 && sign == 1) return (false, 0, 0);
        if (x & 1 != sign) x = P - x;
        return (true, x, y);
    }

    /// Whether y belongs to one of the eight points whose order divides 8. Anyone can sign for such a key.
    function _smallOrder(uint256 y) private pure returns (bool) {
        return y == 0 || y == 1 || y == P - 1 || y == ORDER_8_Y || y == P - ORDER_8_Y;
    }

    /// base^exponent mod P by the precompile of EIP-198.
    function _pow(uint256 base, uint256 exponent) private view returns (uint256 r) {
        bytes memory b = abi.encode(32, 32, 32, base, exponent, P);
        assembly ("memory-safe") {
            if iszero(staticcall(gas(), 5, add(b, 32), 192, 0, 32)) { revert(0, 0) }
            r := mload(0)
        }
    }

    /// Reverses the 32 bytes: the curve's numbers are little-endian.
    function _rev(uint256 v) private pure returns (uint256) {
        v = ((v & 0xFF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00) >> 8)
            | ((v & 0x00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF) << 8);
        v = ((v & 0xFFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000) >> 16)
            | ((v & 0x0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF) << 16);
        v = ((v & 0xFFFFFFFF00000000FFFFFFFF00000000FFFFFFFF00000000FFFFFFFF00000000) >> 32)
            | ((v & 0x00000000FFFFFFFF00000000FFFFFFFF00000000FFFFFFFF00000000FFFFFFFF) << 32);
        v = ((v & 0xFFFFFFFFFFFFFFFF0000000000000000FFFFFFFFFFFFFFFF0000000000000000) >> 64)
            | ((v & 0x0000000000000000FFFFFFFFFFFFFFFF0000000000000000FFFFFFFFFFFFFFFF) << 64);
        return (v >> 128) | (v << 128);
    }

    /// table[i + 4j] = iB + j(-A), i, j in 0..3, as (Y-X, Y+X, 2dT, 2Z)
    function _table(uint256 nx, uint256 ay) private pure returns (uint256 t) {
        uint256[4][16] memory e; // X Y Z T
        e[0] = [uint256(0), 1, 1, 0];
        e[1] = [
            uint256(0x216936d3cd6e53fec0a4e231fdd6dc5c692cc7609525a7b2c9562d608f25d51a),
            0x6666666666666666666666666666666666666666666666666666666666666658,
            1,
            0x67875f0fd78b766566ea4e8e64abe37d20f09f80775152f56dde8ab3a5b7dda3
        ];
        e[2] = [
            uint256(0x36ab384c9f5a046c3d043b7d1833e7ac080d8e4515d7a45f83c5a14e2843ce0e),
            0x2260cdf3092329c21da25ee8c9a21f5697390f51643851560e5f46ae6af8a3c9,
            1,
            0x2498a7850b2f68dc1de55f087303b4135d79acc9c1f72402b71a3f556d69b401
        ];
        e[3] = [
            uint256(0x67ae9c4a22928f491ff4ae743edac83a6343981981624886ac62485fd3f8e25c),
            0x1267b1d177ee69aba126a18e60269ef79f16ec176724030402c3684878f5b4d4,
            1,
            0x2a4d025cb1dd9510ebef3783adb915275c27358bfb16fc4acdf908fa78b3a41a
        ];
        e[4] = [nx, ay, 1, mulmod(nx, ay, P)];
        e[8] = _add(e[4], e[4]);
        e[12] = _add(e[8], e[4]);
        for (uint256 j = 4; j < 16; j += 4) {
            for (uint256 i = 1; i < 4; ++i) {
                e[j + i] = _add(e[j], e[i]);
            }
        }
        assembly ("memory-safe") {
            t := mload(0x40)
            mstore(0x40, add(t, 2048))
            for { let i := 0 } lt(i, 16) { i := add(i, 1) } {
                let q := mload(add(e, shl(5, i)))
                let x := mload(q)
                let y := mload(add(q, 32))
                let o := add(t, shl(7, i))
                mstore(o, add(y, sub(P, x)))
                mstore(add(o, 32), add(y, x))
                mstore(add(o, 64), mulmod(mload(add(q, 96)), D2, P))
                mstore(add(o, 96), shl(1, mload(add(q, 64))))
            }
        }
    }

    /// Addition in extended coordinates (Hisil, Wong, Carter, Dawson 2008, section 3.1).
    function _add(uint256[4] memory p, uint256[4] memory q) private pure returns (uint256[4] memory r) {
        unchecked {
            uint256 a = mulmod(p[1] + (P - p[0]), q[1] + (P - q[0]), P);
            uint256 b = mulmod(p[1] + p[0], q[1] + q[0], P);
            uint256 c = mulmod(mulmod(p[3], q[3], P), D2, P);
            uint256 d = mulmod(p[2], 2 * q[2], P);
            uint256 e = b + (P - a);
            uint256 f = d + (P - c);
            uint256 g = d + c;
            uint256 h = b + a;
            r[0] = mulmod(e, f, P);
            r[1] = mulmod(g, h, P);
            r[2] = mulmod(f, g, P);
            r[3] = mulmod(e, h, P);
        }
    }

    /// sB + h(-A) by a joint table of two bits each (Straus); T is only made where an addition needs it.
    function _mul(uint256 t, uint256 s, uint256 h) private pure returns (uint256 X, uint256 Y, uint256 Z) {
        assembly ("memory-safe") {
            Y := 1
            Z := 1
            for { let sh := 254 } sh {} {
                sh := sub(sh, 2)
                let a := mulmod(X, X, P)
                let b := mulmod(Y, Y, P)
                let e := add(X, Y)
                let k := add(a, b)
                e := addmod(k, sub(P, mulmod(e, e, P)), P)
                b := add(a, sub(P, b))
                a := mulmod(Z, Z, P)
                a := addmod(add(a, a), b, P)
                X := mulmod(e, a, P)
                Y := mulmod(b, k, P)
                Z := mulmod(a, b, P)

                a := mulmod(X, X, P)
                b := mulmod(Y, Y, P)
                e := add(X, Y)
                k := add(a, b)
                e := addmod(k, sub(P, mulmod(e, e, P)), P)
                b := add(a, sub(P, b))
                a := mulmod(Z, Z, P)
                a := addmod(add(a, a), b, P)
                X := mulmod(e, a, P)
                Y := mulmod(b, k, P)
                Z := mulmod(a, b, P)
                k := mulmod(e, k, P) // T

                e := or(and(shr(sh, s), 3), shl(2, and(shr(sh, h), 3)))
                if e {
                    e := add(t, shl(7, e))
                    a := mulmod(add(Y, sub(P, X)), mload(e), P)
                    b := mulmod(add(Y, X), mload(add(e, 32)), P)
                    k := mulmod(k, mload(add(e, 64)), P)
                    Z := mulmod(Z, mload(add(e, 96)), P)
                    e := add(b, sub(P, a))
                    b := add(b, a)
                    a := add(Z, sub(P, k))
                    k := add(Z, k)
                    X := mulmod(e, a, P)
                    Y := mulmod(k, b, P)
                    Z := mulmod(a, k, P)
                }
            }
        }
    }

    /// SHA-512 of exactly 96 bytes (one block)
    function _sha512(bytes32 r, bytes32 q, bytes32 m) private pure returns (uint256 d0, uint256 d1) {
        bytes memory kk = K;
        assembly ("memory-safe") {
            let w := mload(0x40)
            for { let i := 0 } lt(i, 4) { i := add(i, 1) } {
                let sh := sub(192, shl(6, i))
                let o := add(w, shl(5, i))
                mstore(o, and(shr(sh, r), M))
                mstore(add(o, 128), and(shr(sh, q), M))
                mstore(add(o, 256), and(shr(sh, m), M))
            }
            mstore(add(w, 384), 0x8000000000000000)
            mstore(add(w, 416), 0)
            mstore(add(w, 448), 0)
            mstore(add(w, 480), 768)
            for { let o := add(w, 512) } lt(o, add(w, 2560)) { o := add(o, 32) } {
                let x := mload(sub(o, 480))
                let y := mload(sub(o, 64))
                let dx := or(x, shl(64, x))
                let dy := or(y, shl(64, y))
                x := xor(xor(shr(1, dx), shr(8, dx)), shr(7, x))
                y := xor(xor(shr(19, dy), shr(61, dy)), shr(6, y))
                mstore(o, and(add(add(x, y), add(mload(sub(o, 512)), mload(sub(o, 224)))), M))
            }
            let a := 0x6a09e667f3bcc908
            let b := 0xbb67ae8584caa73b
            let c := 0x3c6ef372fe94f82b
            let d := 0xa54ff53a5f1d36f1
            let e := 0x510e527fade682d1
            let f := 0x9b05688c2b3e6c1f
            let g := 0x1f83d9abfb41bd6b
            let h := 0x5be0cd19137e2179
            kk := add(kk, 8)
            for { let i := 0 } lt(i, 80) { i := add(i, 1) } {
                let x := or(e, shl(64, e))
                x := xor(xor(shr(14, x), shr(18, x)), shr(41, x))
                x := add(add(add(x, h), xor(g, and(e, xor(f, g)))), add(mload(add(kk, shl(3, i))), mload(add(w, shl(5, i)))))
                h := g
                g := f
                f := e
                e := and(add(d, x), M)
                d := c
                let y := or(a, shl(64, a))
                y := xor(xor(shr(28, y), shr(34, y)), shr(39, y))
                x := and(add(x, add(y, xor(and(a, xor(b, c)), and(b, c)))), M)
                c := b
                b := a
                a := x
            }
            d0 := or(
                or(shl(192, and(add(a, 0x6a09e667f3bcc908), M)), shl(128, and(add(b, 0xbb67ae8584caa73b), M))),
                or(shl(64, and(add(c, 0x3c6ef372fe94f82b), M)), and(add(d, 0xa54ff53a5f1d36f1), M))
            )
            d1 := or(
                or(shl(192, and(add(e, 0x510e527fade682d1), M)), shl(128, and(add(f, 0x9b05688c2b3e6c1f), M))),
                or(shl(64, and(add(g, 0x1f83d9abfb41bd6b), M)), and(add(h, 0x5be0cd19137e2179), M))
            )
        }
    }
}
