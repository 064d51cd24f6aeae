// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Anchor} from "../src/Anchor.sol";
import {Distributor} from "../src/Distributor.sol";
import {OpenToken} from "../src/OpenToken.sol";
import {VoucherEscrow} from "../src/VoucherEscrow.sol";
import {Handler} from "./Handler.sol";

/// What holds after any sequence of actions of honest people and attackers, whether or not anybody watches.
abstract contract Books {
    Handler handler;
    OpenToken token;
    Anchor anchor;
    Distributor distributor;
    VoucherEscrow escrow;

    function start(bool watched) internal {
        handler = new Handler(watched);
        (token, anchor, distributor, escrow) = (handler.token(), handler.anchor(), handler.distributor(), handler.escrow());
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// One function, so that forge walks through one set of sequences and checks all of it after each step.
    function invariant_books() public view {
        supplyNeverChanges();
        fundedIsClaimedPlusHeld();
        epochsStayWithinTheCap();
        anchorHoldsTheBondOfThePending();
        escrowIsSolvent();
        nothingForbiddenHappened();
        noneGetsMoreThanTheLedgerOwes();
    }

    function noneGetsMoreThanTheLedgerOwes() internal view virtual;

    function supplyNeverChanges() private view {
        require(token.totalSupply() == 1e27, "supply");
    }

    function fundedIsClaimedPlusHeld() private view {
        uint256 claimed = distributor.claimedTotal();
        require(distributor.funded() == claimed + distributor.remaining(), "funded = claimed + remaining");
        require(token.balanceOf(address(distributor)) == distributor.remaining(), "held");
        require(claimed <= anchor.finalTotal() && anchor.finalTotal() <= distributor.funded(), "claimed <= total <= funded");
        uint256 received;
        for (uint256 i; i < handler.ACCOUNTS(); ++i) {
            address account = handler.account(i);
            require(token.balanceOf(account) == distributor.claimed(account), "claimed as received");
            received += token.balanceOf(account);
        }
        require(received == claimed, "all that was claimed was received");
    }

    function epochsStayWithinTheCap() private view {
        uint256 paid;
        for (uint64 epoch; epoch <= anchor.finalEpoch(); ++epoch) {
            require(distributor.paidInEpoch(epoch) <= handler.CAP(), "cap");
            paid += distributor.paidInEpoch(epoch);
        }
        require(paid == distributor.claimedTotal(), "every claim is in an epoch");
    }

    function anchorHoldsTheBondOfThePending() private view {
        require(token.balanceOf(address(anchor)) == (anchor.pending() == 0 ? 0 : handler.BOND()), "bond");
        require(anchor.finalEpoch() == handler.finalized(), "dense epochs");
    }

    function escrowIsSolvent() private view {
        uint256 balances;
        uint256 fees;
        for (uint256 w; w < 2; ++w) {
            uint256 paid;
            for (uint256 p; p < 2; ++p) {
                (uint128 balance,,) = escrow.accounts(handler.payer(p), handler.worker(w));
                balances += balance;
                for (uint256 s; s < 2; ++s) {
                    (uint128 settledPaid, uint128 settledFees) = escrow.settled(handler.payer(p), handler.worker(w), bytes32(s));
                    (uint128 price, uint128 feesSigned,,) = handler.signed(p, w, s);
                    require(settledPaid <= price && settledFees <= feesSigned, "no more than was signed");
                    paid += settledPaid;
                    fees += settledFees;
                }
            }
            require(token.balanceOf(handler.worker(w)) == paid, "worker");
        }
        require(token.balanceOf(address(escrow)) == balances, "held");
        require(fees == escrow.totalFees() && fees <= distributor.funded(), "fees");
        uint256 out = escrow.totalPaid() + escrow.totalFees() + escrow.totalWithdrawn();
        require(escrow.totalDeposited() == out + balances, "deposits = paid + fees + withdrawn + balances");
    }

    function nothingForbiddenHappened() private view {
        string memory broken = handler.broken();
        require(bytes(broken).length == 0, broken);
    }
}

/// One honest watcher and the guardian suffice: then nobody gets a unit more than the ledger owes.
contract WatchedInvariants is Books {
    function setUp() public {
        start(true);
    }

    function noneGetsMoreThanTheLedgerOwes() internal view override {
        for (uint256 i; i < handler.ACCOUNTS(); ++i) {
            require(token.balanceOf(handler.account(i)) <= handler.honest(i), "more than the ledger owes");
        }
    }
}

/// Nobody watches and every attack becomes final: the thief may rob the others, but the books hold and the cap bounds him.
contract UnwatchedInvariants is Books {
    function setUp() public {
        start(false);
    }

    function noneGetsMoreThanTheLedgerOwes() internal view override {}
}

/// The random walks above prove nothing unless they reach the states in question: one walk of a fixed seed must see each of them.
contract ReachTest {
    uint256 constant STEPS = 1500;
    uint256 private state = uint256(keccak256("a walk"));

    function draw(uint256 bound) private returns (uint256) {
        state = uint256(keccak256(abi.encode(state)));
        return state % bound;
    }

    function test_theWalkReachesEveryAttackAndEveryPayment() public {
        Handler handler = new Handler(true);
        for (uint256 i; i < STEPS; ++i) {
            step(handler);
        }
        require(bytes(handler.broken()).length == 0, handler.broken());
        require(handler.finalized() > 10 && handler.claims() > 10, "epochs and claims");
        require(handler.redeems() > 10 && handler.withdrawals() > 3, "vouchers and withdrawals");
        for (uint8 kind = 1; kind < 13; ++kind) {
            Handler.Kind named = Handler.Kind(kind);
            require(handler.stopped(named) + handler.refused(named) != 0, attackName(kind));
        }
    }

    function attackName(uint8 kind) private pure returns (string memory) {
        return string.concat("never tried: attack ", string(abi.encodePacked(bytes1(uint8(65 + kind)))));
    }

    function step(Handler handler) private {
        uint256 action = draw(10);
        uint8 a = uint8(draw(256));
        uint8 b = uint8(draw(256));
        uint8 c = uint8(draw(256));
        uint80 amount = uint80(draw(1e21));
        if (action == 0) handler.deposit(a, b, amount);
        else if (action == 1) handler.serve(a, b, c, amount, amount / 3);
        else if (action == 2) handler.redeem(a, b, c, uint8(amount), false);
        else if (action == 3) handler.fund(a, amount, b % 2 == 0);
        else if (action == 4 || action == 5) handler.post(a, b);
        else if (action == 6 || action == 7) handler.settle(uint16(amount));
        else if (action == 8) handler.claim(a);
        else thawOrPass(handler, a, b, amount);
    }

    function thawOrPass(Handler handler, uint8 a, uint8 b, uint80 amount) private {
        if (amount % 3 == 0) handler.thaw(a, b, amount);
        else if (amount % 3 == 1) handler.withdraw(a, b);
        else handler.pass(uint32(amount));
    }
}
