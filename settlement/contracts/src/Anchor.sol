// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Distributor, IFinalRoot} from "./Distributor.sol";
import {Ed25519} from "./Ed25519.sol";
import {ReceiptProof, ReceiptTree} from "./ReceiptTree.sol";
import {LeafProof, Sibling, SumTree} from "./SumTree.sol";

/// All of one posted batch. The chain stores only its hash; whoever acts on the batch hands it back, as the event `Posted` wrote it.
struct Batch {
    uint64 epoch;
    uint64 postedAt;
    uint64 count;
    address poster;
    uint128 total;
    bytes32 earningsRoot;
    bytes32 receiptsRoot;
    bytes32 dataHash;
}

/// A node of the earnings tree, with what the poster put into it: the step that a wrong sum is shown at.
struct NodeProof {
    bytes32 hash;
    uint128 sum;
    uint256 index;
    Sibling[] siblings;
}

/// @title Optimistic, bonded anchor of earnings and receipts
/// @notice Invariants: epochs are final densely and in order; totals never fall and never exceed what the distributor was funded with;
/// one batch is pending at a time; a rejected batch is never final, and the same content is never accepted again; a batch whose trees are
/// formed as SumTree and ReceiptTree say, with true sums, rising accounts, no amount lowered or left out, no receipt twice and true
/// signatures, can be stopped by nobody but the guardian.
/// @dev batch id = keccak256(abi.encode(Batch)), the eight fields as eight words in their order.
/// What no proof here can show: that an amount follows from the receipts, that a digest belongs to a receipt, that data is withheld.
/// Against those stand the guardian's veto and the distributor's payout cap.
contract Anchor is IFinalRoot, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    enum Reason {
        Veto,
        AmountDecreased,
        AccountOmitted,
        WrongSum,
        OutOfOrder,
        DuplicateReceipt,
        FalseSignature
    }

    /// Half of a lost bond goes here, so that a poster who convicts himself still pays.
    address public constant BURN = 0x000000000000000000000000000000000000dEaD;
    /// A longer window would be a mistyped unit.
    uint64 public constant MAX_WINDOW_SECONDS = 30 days;

    IERC20 public immutable token;
    Distributor public immutable distributor;
    /// How long a batch can be challenged at least. 0 trusts the poster: only for a chain of one machine.
    uint64 public immutable windowSeconds;
    uint128 public immutable bond;

    /// May veto a pending batch; can't make one final, move money or name a successor.
    address public guardian;
    /// The id of the batch that waits, or 0.
    bytes32 public pending;
    uint64 public finalEpoch;
    uint128 public finalTotal;
    bytes32 public finalRoot;
    /// The id of each final batch, so that a receipt's inclusion can be shown later.
    mapping(uint64 epoch => bytes32 id) public batchOf;
    /// Contents that were rejected, by contentOf.
    mapping(bytes32 content => bool) public rejected;

    event Posted(bytes32 indexed id, uint64 indexed epoch, address indexed poster, Batch batch);
    event Finalized(bytes32 indexed id, uint64 indexed epoch, bytes32 earningsRoot, uint128 total);
    event Rejected(bytes32 indexed id, uint64 indexed epoch, address indexed challenger, Reason reason);
    event GuardianRenounced(address indexed guardian);

    error WindowTooLong();
    error PendingExists();
    error WrongEpoch(uint64 expected);
    error TotalDecreased();
    error TotalNotFunded();
    error RejectedBefore();
    error NotPending();
    error WindowOpen();
    error NotGuardian();
    error BadProof();
    error NotFraud();

    /// Creates the distributor too, so that each knows the other for good.
    constructor(IERC20 token_, uint64 windowSeconds_, uint128 bond_, uint128 epochCap, address guardian_) {
        if (windowSeconds_ > MAX_WINDOW_SECONDS) revert WindowTooLong();
        token = token_;
        windowSeconds = windowSeconds_;
        bond = bond_;
        guardian = guardian_;
        distributor = new Distributor(token_, this, epochCap);
    }

    /// Posts the next epoch and locks the sender's bond.
    /// @param epoch must be `finalEpoch + 1`
    /// @param earningsRoot root hash of the earnings tree (SumTree)
    /// @param total root sum of the earnings tree, atto-OPEN since the beginning
    /// @param receiptsRoot root of the batch's receipts (ReceiptTree)
    /// @param dataHash content hash (BLAKE3) under which the whole of both trees is published
    /// @param count number of receipts in the batch
    function post(uint64 epoch, bytes32 earningsRoot, uint128 total, bytes32 receiptsRoot, bytes32 dataHash, uint64 count)
        external
        nonReentrant
        returns (bytes32 id)
    {
        if (pending != 0) revert PendingExists();
        if (epoch != finalEpoch + 1) revert WrongEpoch(finalEpoch + 1);
        if (total < finalTotal) revert TotalDecreased();
        if (total > distributor.funded()) revert TotalNotFunded();
        Batch memory batch = Batch(epoch, uint64(block.timestamp), count, msg.sender, total, earningsRoot, receiptsRoot, dataHash);
        if (rejected[contentOf(batch)]) revert RejectedBefore();
        id = idOf(batch);
        pending = id;
        if (bond != 0) token.safeTransferFrom(msg.sender, address(this), bond);
        emit Posted(id, epoch, msg.sender, batch);
    }

    /// Makes the pending batch final once its window is over, and gives the bond back. Anyone may call it.
    function finalize(Batch calldata batch) external nonReentrant {
        bytes32 id = _pendingId(batch);
        if (block.timestamp < uint256(batch.postedAt) + windowSeconds) revert WindowOpen();
        pending = 0;
        finalEpoch = batch.epoch;
        finalTotal = batch.total;
        finalRoot = batch.earningsRoot;
        batchOf[batch.epoch] = id;
        if (bond != 0) token.safeTransfer(batch.poster, bond);
        emit Finalized(id, batch.epoch, batch.earningsRoot, batch.total);
    }

    /// The guardian's veto while a batch is pending. The whole bond is burnt, so the guardian gains nothing by it.
    function veto(Batch calldata batch) external nonReentrant {
        if (msg.sender != guardian) revert NotGuardian();
        _reject(batch, Reason.Veto);
    }

    /// Ends the veto for good.
    function renounceGuardian() external {
        if (msg.sender != guardian) revert NotGuardian();
        guardian = address(0);
        emit GuardianRenounced(msg.sender);
    }

    /// Fraud: an account's cumulative amount is lower than in the newest final tree.
    function challengeDecrease(Batch calldata batch, LeafProof calldata older, LeafProof calldata newer) external nonReentrant {
        _requireFinal(older);
        _requireLeaf(batch, newer);
        if (older.account != newer.account || newer.cumulative >= older.cumulative) revert NotFraud();
        _reject(batch, Reason.AmountDecreased);
    }

    /// Fraud: an account of the newest final tree is missing. `before` and `next` are neighbours in the pending tree between which it would
    /// have to stand. An empty `next` stands for the end; at the left edge `before` is the first leaf and `next` repeats it; at the right
    /// edge `next` repeats `before`, the last leaf.
    function challengeOmission(Batch calldata batch, LeafProof calldata older, LeafProof calldata before, LeafProof calldata next)
        external
        nonReentrant
    {
        _requireFinal(older);
        _requireLeaf(batch, before);
        _requireLeaf(batch, next);
        if (older.cumulative == 0 || !_missing(older.account, before, next)) revert NotFraud();
        _reject(batch, Reason.AccountOmitted);
    }

    /// Fraud: a node's two children don't sum to what the node declares.
    function challengeNodeSum(
        Batch calldata batch,
        NodeProof calldata node,
        bytes32 leftHash,
        uint256 leftSum,
        bytes32 rightHash,
        uint256 rightSum
    ) external nonReentrant {
        _requireNode(batch, node);
        if (SumTree.nodeHash(leftHash, leftSum, rightHash, rightSum) != node.hash) revert BadProof();
        if (leftSum <= node.sum && rightSum == node.sum - leftSum) revert NotFraud();
        _reject(batch, Reason.WrongSum);
    }

    /// Fraud: a leaf's amount isn't the sum declared for it. An empty leaf (account 0, cumulative 0) must have sum 0.
    function challengeLeafSum(Batch calldata batch, NodeProof calldata node, address account, uint256 cumulative) external nonReentrant {
        _requireNode(batch, node);
        if (SumTree.leafHash(account, cumulative) != node.hash) revert BadProof();
        if (cumulative == node.sum) revert NotFraud();
        _reject(batch, Reason.WrongSum);
    }

    /// Fraud: of two leaves the one further left doesn't have the lower account, or is empty while the other isn't.
    function challengeOrder(Batch calldata batch, LeafProof calldata left, LeafProof calldata right) external nonReentrant {
        _requireLeaf(batch, left);
        _requireLeaf(batch, right);
        (uint256 leftFrom,) = SumTree.span(left.index, left.siblings.length);
        (uint256 rightFrom,) = SumTree.span(right.index, right.siblings.length);
        if (leftFrom >= rightFrom || _isEmpty(right)) revert NotFraud();
        if (!_isEmpty(left) && left.account < right.account) revert NotFraud();
        _reject(batch, Reason.OutOfOrder);
    }

    /// Fraud: one receipt id stands at two places of the batch.
    function challengeDuplicate(Batch calldata batch, ReceiptProof calldata a, ReceiptProof calldata b) external nonReentrant {
        _requireReceipt(batch, a);
        _requireReceipt(batch, b);
        if (a.leaf.id != b.leaf.id || ReceiptTree.place(a) == ReceiptTree.place(b)) revert NotFraud();
        _reject(batch, Reason.DuplicateReceipt);
    }

    /// Fraud: a receipt's signature, the worker's or else the payer's, is not one of its key over its digest.
    function challengeSignature(Batch calldata batch, ReceiptProof calldata receipt, bool ofWorker) external nonReentrant {
        _requireReceipt(batch, receipt);
        bool holds = ofWorker
            ? Ed25519.verify(receipt.leaf.workerKey, receipt.leaf.workerR, receipt.leaf.workerS, receipt.leaf.digest)
            : Ed25519.verify(receipt.leaf.payerKey, receipt.leaf.payerR, receipt.leaf.payerS, receipt.leaf.digest);
        if (holds) revert NotFraud();
        _reject(batch, Reason.FalseSignature);
    }

    /// @inheritdoc IFinalRoot
    function latest() external view returns (uint64 epoch, bytes32 earningsRoot, uint128 total) {
        return (finalEpoch, finalRoot, finalTotal);
    }

    /// Whether an ed25519 signature over a 32-byte digest holds on this chain: what `challengeSignature` would find.
    function verifySignature(bytes32 edKey, bytes32 r, bytes32 s, bytes32 digest) external view returns (bool) {
        return Ed25519.verify(edKey, r, s, digest);
    }

    function idOf(Batch memory batch) public pure returns (bytes32) {
        return keccak256(abi.encode(batch));
    }

    /// What a batch says, without who said it when.
    function contentOf(Batch memory batch) public pure returns (bytes32) {
        return keccak256(abi.encode(batch.epoch, batch.count, batch.total, batch.earningsRoot, batch.receiptsRoot, batch.dataHash));
    }

    function _reject(Batch calldata batch, Reason reason) private {
        bytes32 id = _pendingId(batch);
        pending = 0;
        rejected[contentOf(batch)] = true;
        uint256 reward = reason == Reason.Veto ? 0 : bond / 2;
        if (reward != 0) token.safeTransfer(msg.sender, reward);
        if (bond != reward) token.safeTransfer(BURN, bond - reward);
        emit Rejected(id, batch.epoch, msg.sender, reason);
    }

    function _pendingId(Batch calldata batch) private view returns (bytes32 id) {
        id = idOf(batch);
        if (id != pending) revert NotPending();
    }

    function _requireFinal(LeafProof calldata leaf) private view {
        if (!SumTree.contains(leaf, finalRoot, finalTotal)) revert BadProof();
    }

    function _requireLeaf(Batch calldata batch, LeafProof calldata leaf) private pure {
        if (!SumTree.contains(leaf, batch.earningsRoot, batch.total)) revert BadProof();
    }

    function _requireNode(Batch calldata batch, NodeProof calldata node) private pure {
        (bytes32 hash, uint256 sum) = SumTree.rootOf(node.hash, node.sum, node.index, node.siblings);
        if (hash != batch.earningsRoot || sum != batch.total) revert BadProof();
    }

    function _requireReceipt(Batch calldata batch, ReceiptProof calldata receipt) private pure {
        if (ReceiptTree.rootOf(receipt) != batch.receiptsRoot) revert BadProof();
    }

    function _isEmpty(LeafProof calldata leaf) private pure returns (bool) {
        return leaf.account == address(0) && leaf.cumulative == 0;
    }

    /// Whether a tree whose leaves rise, and which holds these two, can't hold the account.
    function _missing(address account, LeafProof calldata before, LeafProof calldata next) private pure returns (bool) {
        (uint256 beforeFrom, uint256 beforeTo) = SumTree.span(before.index, before.siblings.length);
        (uint256 nextFrom, uint256 nextTo) = SumTree.span(next.index, next.siblings.length);
        if (beforeFrom == nextFrom) {
            bool beforeFirst = beforeFrom == 0 && (_isEmpty(before) || account < before.account);
            bool behindLast = nextTo == 1 << SumTree.MAX_DEPTH && !_isEmpty(next) && account > next.account;
            return beforeFirst || behindLast;
        }
        bool between = beforeTo == nextFrom && !_isEmpty(before) && account > before.account;
        return between && (_isEmpty(next) || account < next.account);
    }
}
