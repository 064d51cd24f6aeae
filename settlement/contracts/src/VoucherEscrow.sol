// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IDistributor} from "./IDistributor.sol";

/// What a payer owes a payee on one stream since its beginning: the worker's price and, beside it, the fees. Atto-OPEN.
struct Voucher {
    address payee;
    bytes32 stream;
    uint128 cumulative;
    uint128 feesCumulative;
}

/// @title Payer's escrow, settled by cumulative vouchers
/// @notice Invariants: totalDeposited = totalPaid + totalFees + totalWithdrawn + the sum of all balances, and that sum is held in tokens;
/// per stream, what was paid and what went to fees only grow and never exceed what the payer signed.
/// @dev The EIP-712 domain is name "Tributary VoucherEscrow", version "1", chain id, this contract. The type is
///
///   Voucher(address payee,bytes32 stream,uint128 cumulative,uint128 feesCumulative)
///
/// The payer is whoever signed. A voucher replaces all earlier ones of its stream, so it can be handed in again without effect, and a lost
/// one costs nothing.
contract VoucherEscrow is EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    struct Account {
        uint128 balance;
        uint128 thawing;
        uint64 thawedAt;
    }

    struct Settled {
        uint128 paid;
        uint128 fees;
    }

    bytes32 public constant VOUCHER_TYPEHASH = keccak256("Voucher(address payee,bytes32 stream,uint128 cumulative,uint128 feesCumulative)");
    /// A longer thaw would be a mistyped unit.
    uint64 public constant MAX_THAW_SECONDS = 90 days;

    IERC20 public immutable token;
    IDistributor public immutable distributor;
    /// Time a payee has to redeem after the payer asked for money back.
    uint64 public immutable thawSeconds;

    uint256 public totalDeposited;
    uint256 public totalPaid;
    uint256 public totalFees;
    uint256 public totalWithdrawn;

    mapping(address payer => mapping(address payee => Account)) public accounts;
    mapping(address payer => mapping(address payee => mapping(bytes32 stream => Settled))) public settled;

    event Deposited(address indexed payer, address indexed payee, uint128 amount);
    event Redeemed(address indexed payer, address indexed payee, bytes32 indexed stream, uint128 paid, uint128 fees, uint256 stillDue);
    event ThawRequested(address indexed payer, address indexed payee, uint128 amount, uint64 thawedAt);
    event Withdrawn(address indexed payer, address indexed payee, uint128 amount);

    error ThawTooLong();
    error ZeroAmount();
    error ZeroPayee();
    error NotMonotone();
    error NothingDue();
    error EmptyBalance();
    error NotEnough();
    error NotThawed();

    constructor(IERC20 token_, IDistributor distributor_, uint64 thawSeconds_) EIP712("Tributary VoucherEscrow", "1") {
        if (thawSeconds_ > MAX_THAW_SECONDS) revert ThawTooLong();
        token = token_;
        distributor = distributor_;
        thawSeconds = thawSeconds_;
        // The distributor only ever pulls from the caller of `fund`, so this allowance moves nothing but fees.
        token_.forceApprove(address(distributor_), type(uint256).max);
    }

    /// Adds to what the sender has set aside for `payee`.
    function deposit(address payee, uint128 amount) external nonReentrant {
        if (payee == address(0)) revert ZeroPayee();
        if (amount == 0) revert ZeroAmount();
        accounts[msg.sender][payee].balance += amount;
        totalDeposited += amount;
        token.safeTransferFrom(msg.sender, address(this), amount);
        emit Deposited(msg.sender, payee, amount);
    }

    /// Pays what a voucher leaves due: the price to the payee, the fees into the distributor. Anyone may hand it in.
    /// @dev When the balance is short, it is divided in proportion to the price due and the fees due; the price is rounded down, so each
    /// call shifts at most one atto from price to fees and none can strip the fees by many small redeems. What isn't paid stays due and
    /// the same voucher collects it after the next deposit.
    function redeem(Voucher calldata voucher, bytes calldata signature) external nonReentrant returns (uint128 paid, uint128 fees) {
        address payer = ECDSA.recover(digest(voucher), signature);
        Settled storage done = settled[payer][voucher.payee][voucher.stream];
        if (voucher.cumulative < done.paid || voucher.feesCumulative < done.fees) revert NotMonotone();
        uint256 priceDue = voucher.cumulative - done.paid;
        uint256 due = priceDue + (voucher.feesCumulative - done.fees);
        if (due == 0) revert NothingDue();
        Account storage account = accounts[payer][voucher.payee];
        uint256 balance = account.balance;
        if (balance == 0) revert EmptyBalance();
        uint256 moved = due < balance ? due : balance;
        paid = uint128(moved * priceDue / due);
        fees = uint128(moved - paid);

        account.balance = uint128(balance - moved);
        done.paid += paid;
        done.fees += fees;
        totalPaid += paid;
        totalFees += fees;
        if (paid != 0) token.safeTransfer(voucher.payee, paid);
        if (fees != 0) distributor.fund(fees);
        emit Redeemed(payer, voucher.payee, voucher.stream, paid, fees, due - moved);
    }

    /// Starts to take `amount` back. Until it is withdrawn the payee can still redeem against it. A second request replaces the first and
    /// its time starts anew; zero cancels.
    function requestThaw(address payee, uint128 amount) external {
        Account storage account = accounts[msg.sender][payee];
        if (amount > account.balance) revert NotEnough();
        account.thawing = amount;
        account.thawedAt = amount == 0 ? 0 : uint64(block.timestamp) + thawSeconds;
        emit ThawRequested(msg.sender, payee, amount, account.thawedAt);
    }

    /// Gives the sender what has thawed and was not redeemed meanwhile.
    function withdraw(address payee) external nonReentrant returns (uint128 amount) {
        Account storage account = accounts[msg.sender][payee];
        if (account.thawedAt == 0 || block.timestamp < account.thawedAt) revert NotThawed();
        amount = account.thawing < account.balance ? account.thawing : account.balance;
        account.balance -= amount;
        account.thawing = 0;
        account.thawedAt = 0;
        totalWithdrawn += amount;
        if (amount != 0) token.safeTransfer(msg.sender, amount);
        emit Withdrawn(msg.sender, payee, amount);
    }

    /// What a payee can count on: the balance without the part that is thawing. Serve no further than this.
    function available(address payer, address payee) external view returns (uint128) {
        Account storage account = accounts[payer][payee];
        return account.balance > account.thawing ? account.balance - account.thawing : 0;
    }

    /// The 32 bytes a payer signs.
    function digest(Voucher calldata voucher) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(abi.encode(VOUCHER_TYPEHASH, voucher.payee, voucher.stream, voucher.cumulative, voucher.feesCumulative))
        );
    }
}
