// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IDistributor} from "./IDistributor.sol";
import {LeafProof, SumTree} from "./SumTree.sol";

/// What the distributor reads of the anchor: the newest final earnings tree.
interface IFinalRoot {
    function latest() external view returns (uint64 epoch, bytes32 earningsRoot, uint128 total);
}

/// @title Pays earnings out of the fees, against the newest final earnings tree
/// @notice Invariants: claimedTotal <= the newest final total <= funded; funded = claimedTotal + remaining(), and the contract holds at
/// least remaining(); an account is paid at most the largest cumulative amount a final tree ever gave it; within one final epoch at most
/// `epochCap` is paid out.
/// @dev Amounts are cumulative since the beginning, so a missed epoch costs nothing and a claim made twice pays nothing. A claim that the
/// cap cuts short pays what the cap leaves and the rest stays due. The hashes are described in SumTree.
contract Distributor is IDistributor, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    IERC20 public immutable token;
    /// The anchor that created this contract.
    IFinalRoot public immutable anchor;
    /// The most that is paid out while one epoch is the newest: it bounds what an inflated root can take before people notice.
    uint128 public immutable epochCap;

    /// All that was ever put in by `fund`. Tokens sent here without it are a gift nobody can claim.
    uint256 public funded;
    uint256 public claimedTotal;
    mapping(address account => uint256) public claimed;
    mapping(uint64 epoch => uint256) public paidInEpoch;

    event Funded(address indexed from, uint256 amount);
    event Claimed(address indexed account, uint64 indexed epoch, uint128 amount, uint256 stillDue);

    error ZeroAmount();
    error ZeroAccount();
    error BadProof();
    error NothingDue();
    error CapReached();
    error Insolvent();

    constructor(IERC20 token_, IFinalRoot anchor_, uint128 epochCap_) {
        token = token_;
        anchor = anchor_;
        epochCap = epochCap_;
    }

    /// @inheritdoc IDistributor
    function fund(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        funded += amount;
        token.safeTransferFrom(msg.sender, address(this), amount);
        emit Funded(msg.sender, amount);
    }

    /// Pays the leaf's account what it earned and has not been paid. Anyone may call it; the money goes to the account alone.
    function claim(LeafProof calldata leaf) external nonReentrant returns (uint128 amount) {
        if (leaf.account == address(0)) revert ZeroAccount();
        (uint64 epoch, bytes32 root, uint128 total) = anchor.latest();
        if (!SumTree.contains(leaf, root, total)) revert BadProof();
        uint256 done = claimed[leaf.account];
        if (leaf.cumulative <= done) revert NothingDue();
        uint256 due = leaf.cumulative - done;
        uint256 left = epochCap - paidInEpoch[epoch];
        if (left == 0) revert CapReached();
        amount = uint128(due < left ? due : left);

        claimed[leaf.account] = done + amount;
        paidInEpoch[epoch] += amount;
        claimedTotal += amount;
        if (claimedTotal > total || claimedTotal > funded) revert Insolvent();
        token.safeTransfer(leaf.account, amount);
        emit Claimed(leaf.account, epoch, amount, due - amount);
    }

    /// What was funded and not yet claimed.
    function remaining() external view returns (uint256) {
        return funded - claimedTotal;
    }
}
