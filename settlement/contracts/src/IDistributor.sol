// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// What the escrow and the anchor need of the distributor.
interface IDistributor {
    function fund(uint256 amount) external;
    function funded() external view returns (uint256);
}
