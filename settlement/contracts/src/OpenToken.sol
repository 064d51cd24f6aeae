// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title OPEN
/// @notice Invariant: the supply is 10^27 atto-OPEN (1,000,000,000 OPEN) from the constructor on. No mint, owner, pause or upgrade.
contract OpenToken is ERC20, ERC20Permit, ERC20Votes {
    uint256 public constant TOTAL_SUPPLY = 1_000_000_000 ether;
    uint256 public constant WHOLE_BPS = 10_000;

    error BadAllocation();

    /// @param to receivers of the whole supply; a receiver may appear more than once
    /// @param bps the share of each in basis points; they must sum to 10,000
    constructor(address[] memory to, uint256[] memory bps) ERC20("OPEN", "OPEN") ERC20Permit("OPEN") {
        if (to.length != bps.length) revert BadAllocation();
        uint256 sum;
        for (uint256 i; i < to.length; ++i) {
            sum += bps[i];
            _mint(to[i], TOTAL_SUPPLY * bps[i] / WHOLE_BPS);
        }
        if (sum != WHOLE_BPS || totalSupply() != TOTAL_SUPPLY) revert BadAllocation();
    }

    /// Votes are counted by time, since blocks of a local chain come only with transactions (ERC-6372).
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }
}
