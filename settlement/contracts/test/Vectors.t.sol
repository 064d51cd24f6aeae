// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;
import {Kit, Earnings} from "./Kit.sol";
contract VectorsTest {
    using Kit for Earnings;
    event Show(string, bytes32);
    function test_show() public {
        address[] memory a = new address[](3); uint128[] memory m = new uint128[](3);
        for (uint256 i; i < 3; ++i) { a[i] = address(uint160(0x1111 * (i + 1))); m[i] = uint128(100 * (i + 1)); }
        emit Show("root", Kit.build(a, m).root());
    }
}
