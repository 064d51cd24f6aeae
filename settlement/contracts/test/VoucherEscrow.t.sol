// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Anchor} from "../src/Anchor.sol";
import {Distributor} from "../src/Distributor.sol";
import {OpenToken} from "../src/OpenToken.sol";
import {Voucher, VoucherEscrow} from "../src/VoucherEscrow.sol";
import {Kit, vm} from "./Kit.sol";

contract VoucherEscrowTest {
    uint64 constant THAW = 1 days;
    uint256 constant PAYER_KEY = 0xA11CE;
    address constant WORKER = address(0x3043E4);
    bytes32 constant STREAM = "stream";
    OpenToken token;
    Distributor distributor;
    VoucherEscrow escrow;
    address payer;

    function setUp() public {
        vm.warp(1_000_000);
        payer = vm.addr(PAYER_KEY);
        token = Kit.tokenFor(payer);
        distributor = new Anchor(IERC20(address(token)), 1 hours, 0, type(uint128).max, address(0)).distributor();
        escrow = new VoucherEscrow(IERC20(address(token)), distributor, THAW);
        vm.prank(payer);
        token.approve(address(escrow), type(uint256).max);
    }

    function deposit(uint128 amount) internal {
        vm.prank(payer);
        escrow.deposit(WORKER, amount);
    }

    function voucher(uint128 cumulative, uint128 fees) internal pure returns (Voucher memory) {
        return Voucher(WORKER, STREAM, cumulative, fees);
    }

    function redeem(uint128 cumulative, uint128 fees) internal returns (uint128, uint128) {
        Voucher memory v = voucher(cumulative, fees);
        return escrow.redeem(v, Kit.signVoucher(escrow, PAYER_KEY, v));
    }

    function balanceOfPayer() internal view returns (uint128 balance) {
        (balance,,) = escrow.accounts(payer, WORKER);
    }

    function requireBooks() internal view {
        uint256 out = escrow.totalPaid() + escrow.totalFees() + escrow.totalWithdrawn();
        require(escrow.totalDeposited() == out + balanceOfPayer(), "deposits = paid + fees + withdrawn + balance");
        require(token.balanceOf(address(escrow)) == balanceOfPayer(), "tokens held");
        require(token.balanceOf(WORKER) == escrow.totalPaid(), "worker");
        require(distributor.funded() == escrow.totalFees(), "fees");
        require(token.balanceOf(address(distributor)) == escrow.totalFees(), "distributor holds the fees");
    }

    function test_digestIsEip712AsDocumented() public view {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tributary VoucherEscrow"),
                keccak256("1"),
                block.chainid,
                address(escrow)
            )
        );
        bytes32 kind = keccak256("Voucher(address payee,bytes32 stream,uint128 cumulative,uint128 feesCumulative)");
        bytes32 body = keccak256(abi.encode(kind, WORKER, STREAM, uint256(70), uint256(30)));
        require(escrow.digest(voucher(70, 30)) == keccak256(abi.encodePacked("\x19\x01", domain, body)), "digest");
    }

    function test_redeemPaysWorkerAndFundsFees() public {
        deposit(1000);
        (uint128 paid, uint128 fees) = redeem(70, 30);
        require(paid == 70 && fees == 30, "amounts");
        (paid, fees) = redeem(100, 45);
        require(paid == 30 && fees == 15, "only the difference");
        requireBooks();
    }

    function test_aVoucherPaysOnce() public {
        deposit(1000);
        redeem(70, 30);
        Voucher memory v = voucher(70, 30);
        bytes memory signature = Kit.signVoucher(escrow, PAYER_KEY, v);
        vm.expectRevert(VoucherEscrow.NothingDue.selector);
        escrow.redeem(v, signature);
        redeem(80, 30);
        vm.expectRevert(VoucherEscrow.NotMonotone.selector);
        escrow.redeem(v, signature);
        requireBooks();
    }

    function test_feesCannotBeTakenBack() public {
        deposit(1000);
        redeem(70, 30);
        Voucher memory v = voucher(80, 29);
        bytes memory signature = Kit.signVoucher(escrow, PAYER_KEY, v);
        vm.expectRevert(VoucherEscrow.NotMonotone.selector);
        escrow.redeem(v, signature);
    }

    function test_partialRedeemKeepsTheProportionAndTheRest() public {
        deposit(50);
        (uint128 paid, uint128 fees) = redeem(80, 20);
        require(paid == 40 && fees == 10, "in proportion");
        requireBooks();
        deposit(1000);
        (paid, fees) = redeem(80, 20);
        require(paid == 40 && fees == 10, "the rest stayed due");
        requireBooks();
    }

    function test_emptyBalanceConsumesNothing() public {
        Voucher memory v = voucher(80, 20);
        bytes memory signature = Kit.signVoucher(escrow, PAYER_KEY, v);
        vm.expectRevert(VoucherEscrow.EmptyBalance.selector);
        escrow.redeem(v, signature);
        deposit(100);
        escrow.redeem(v, signature);
        require(token.balanceOf(WORKER) == 80, "paid");
    }

    /// However the deposits are sliced, the worker ends with the whole price and the distributor with all the fees.
    function testFuzz_slicedDepositsLoseNoClaim(uint64 price, uint64 fees, uint64[8] memory slices) public {
        vm.assume(uint256(price) + fees != 0);
        uint128 due = uint128(price) + fees;
        for (uint256 i; i < slices.length && escrow.totalDeposited() < due; ++i) {
            uint128 missing = uint128(due - escrow.totalDeposited());
            uint128 slice = slices[i] % missing + 1;
            deposit(slice);
            uint256 paidBefore = escrow.totalPaid();
            uint256 feesBefore = escrow.totalFees();
            redeem(price, fees);
            uint256 exactPaid = uint256(slice) * (price - paidBefore) / missing;
            require(escrow.totalPaid() - paidBefore == exactPaid, "price part");
            require(escrow.totalFees() - feesBefore == slice - exactPaid, "fee part");
            requireBooks();
        }
        if (escrow.totalDeposited() < due) {
            deposit(uint128(due - escrow.totalDeposited()));
            redeem(price, fees);
        }
        require(escrow.totalPaid() == price && escrow.totalFees() == fees, "all was paid in the end");
    }

    function test_signatureIsForOneChainAndOneEscrow() public {
        deposit(1000);
        VoucherEscrow other = new VoucherEscrow(IERC20(address(token)), distributor, THAW);
        vm.prank(payer);
        token.approve(address(other), type(uint256).max);
        vm.prank(payer);
        other.deposit(WORKER, 1000);
        Voucher memory v = voucher(70, 30);
        bytes memory signature = Kit.signVoucher(escrow, PAYER_KEY, v);
        // Elsewhere the signature recovers to some other payer, who has set nothing aside.
        vm.expectRevert(VoucherEscrow.EmptyBalance.selector);
        other.redeem(v, signature);
        uint256 chain = block.chainid;
        vm.chainId(chain + 1);
        vm.expectRevert(VoucherEscrow.EmptyBalance.selector);
        escrow.redeem(v, signature);
        vm.chainId(chain);
        escrow.redeem(v, signature);
    }

    function test_changedVoucherPaysNobody() public {
        deposit(1000);
        Voucher memory v = voucher(70, 30);
        bytes memory signature = Kit.signVoucher(escrow, PAYER_KEY, v);
        v.cumulative = 71;
        vm.expectRevert(VoucherEscrow.EmptyBalance.selector);
        escrow.redeem(v, signature);
        v = voucher(70, 30);
        v.payee = address(0xBAD);
        vm.expectRevert(VoucherEscrow.EmptyBalance.selector);
        escrow.redeem(v, signature);
    }

    function test_refusesMalleableAndShortSignatures() public {
        deposit(1000);
        Voucher memory v = voucher(70, 30);
        (uint8 sv, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, escrow.digest(v));
        uint256 order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        bytes32 high = bytes32(order - uint256(s));
        vm.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureS.selector, high));
        escrow.redeem(v, abi.encodePacked(r, high, sv == 27 ? 28 : 27));
        vm.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, 64));
        escrow.redeem(v, abi.encodePacked(r, s));
    }

    function test_streamsAreApart() public {
        deposit(1000);
        redeem(70, 30);
        Voucher memory v = Voucher(WORKER, "another", 70, 30);
        escrow.redeem(v, Kit.signVoucher(escrow, PAYER_KEY, v));
        require(escrow.totalPaid() == 140, "both streams");
        requireBooks();
    }

    function test_thawGivesTheWorkerTime() public {
        deposit(1000);
        vm.prank(payer);
        escrow.requestThaw(WORKER, 900);
        require(escrow.available(payer, WORKER) == 100, "thawing money isn't counted on");
        vm.prank(payer);
        vm.expectRevert(VoucherEscrow.NotThawed.selector);
        escrow.withdraw(WORKER);
        redeem(300, 100);
        vm.warp(block.timestamp + THAW);
        vm.prank(payer);
        require(escrow.withdraw(WORKER) == 600, "what is left");
        requireBooks();
        vm.prank(payer);
        vm.expectRevert(VoucherEscrow.NotThawed.selector);
        escrow.withdraw(WORKER);
    }

    function test_aNewRequestStartsAnewAndZeroCancels() public {
        deposit(1000);
        vm.prank(payer);
        escrow.requestThaw(WORKER, 1);
        vm.warp(block.timestamp + THAW - 1);
        vm.prank(payer);
        escrow.requestThaw(WORKER, 1000);
        vm.warp(block.timestamp + 1);
        vm.prank(payer);
        vm.expectRevert(VoucherEscrow.NotThawed.selector);
        escrow.withdraw(WORKER);
        vm.prank(payer);
        escrow.requestThaw(WORKER, 0);
        vm.warp(block.timestamp + THAW);
        vm.prank(payer);
        vm.expectRevert(VoucherEscrow.NotThawed.selector);
        escrow.withdraw(WORKER);
        require(escrow.available(payer, WORKER) == 1000, "all available");
    }

    function test_limits() public {
        vm.prank(payer);
        vm.expectRevert(VoucherEscrow.ZeroAmount.selector);
        escrow.deposit(WORKER, 0);
        vm.prank(payer);
        vm.expectRevert(VoucherEscrow.ZeroPayee.selector);
        escrow.deposit(address(0), 1);
        vm.prank(payer);
        vm.expectRevert(VoucherEscrow.NotEnough.selector);
        escrow.requestThaw(WORKER, 1);
        vm.expectRevert(VoucherEscrow.ThawTooLong.selector);
        new VoucherEscrow(IERC20(address(token)), distributor, 91 days);
    }
}
