// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Anchor, Batch} from "../src/Anchor.sol";
import {Distributor} from "../src/Distributor.sol";
import {OpenToken} from "../src/OpenToken.sol";
import {LeafProof} from "../src/SumTree.sol";
import {ReceiptLeaf} from "../src/ReceiptTree.sol";
import {Voucher, VoucherEscrow} from "../src/VoucherEscrow.sol";
import {Earnings, Kit, vm} from "./Kit.sol";
import {Watcher} from "./Watcher.sol";

/// A small economy that forge drives at random: two payers, two workers, five earning accounts of which one is a thief who also posts.
/// Invariant: `honest` is what the fees truly owe each account; whatever the attackers do, nothing here changes it but money that came in.
contract Handler {
    using Kit for Earnings;

    enum Kind {
        Honest,
        Decrease,
        Omit,
        NodeSum,
        LeafSum,
        Swap,
        Twice,
        Inflate,
        Divert,
        DuplicateReceipt,
        FalseSignature,
        BeyondFunds,
        Backwards
    }

    struct Signed {
        uint128 price;
        uint128 fees;
        uint128 olderPrice;
        uint128 olderFees;
    }

    uint256 public constant ACCOUNTS = 5;
    uint256 public constant THIEF = 2;
    uint64 public constant WINDOW = 1 hours;
    uint128 public constant BOND = 100 ether;
    uint128 public constant CAP = 3e21;
    address constant GUARDIAN = address(0x60A2D);

    OpenToken public immutable token;
    Anchor public immutable anchor;
    Distributor public immutable distributor;
    VoucherEscrow public immutable escrow;
    Watcher immutable watcher;
    /// Without a watcher every attack becomes final: then the books alone must hold.
    bool public immutable watched;

    address[2] private payers;
    uint128[ACCOUNTS] public honest;
    mapping(uint256 payer => mapping(uint256 worker => mapping(uint256 stream => Signed))) public signed;
    Earnings finalTree;
    Earnings pendingTree;
    Batch pendingBatch;
    ReceiptLeaf[] pendingReceipts;
    ReceiptLeaf[] trueReceipts;
    Kind public pendingKind;
    /// Whether an attack ever became final.
    bool public lied;
    uint256 private time = 1_000_000;

    uint256 public finalized;
    mapping(Kind => uint256) public stopped;
    mapping(Kind => uint256) public refused;
    uint256 public withdrawals;
    uint256 public claims;
    uint256 public redeems;
    string public broken;

    constructor(bool watched_) {
        watched = watched_;
        vm.warp(time);
        token = Kit.tokenFor(address(this));
        anchor = new Anchor(IERC20(address(token)), WINDOW, BOND, CAP, GUARDIAN);
        distributor = anchor.distributor();
        escrow = new VoucherEscrow(IERC20(address(token)), distributor, 1 days);
        watcher = new Watcher(anchor);
        token.approve(address(anchor), type(uint256).max);
        token.approve(address(distributor), type(uint256).max);
        for (uint256 i; i < 2; ++i) {
            payers[i] = vm.addr(_payerKey(i));
            token.transfer(payer(i), 1e25);
            vm.prank(payer(i));
            token.approve(address(escrow), type(uint256).max);
            trueReceipts.push(_receipt(i));
        }
        finalTree = Kit.build(new address[](0), new uint128[](0));
    }

    function account(uint256 i) public pure returns (address) {
        return address(uint160(0x1000 + 0x10 * i));
    }

    function payer(uint256 i) public view returns (address) {
        return payers[i];
    }

    function worker(uint256 i) public pure returns (address) {
        return address(uint160(0x9000 + i));
    }

    // --- payer to worker ---

    function deposit(uint8 p, uint8 w, uint80 amount) external {
        vm.prank(payer(p % 2));
        escrow.deposit(worker(w % 2), uint128(amount) % 1e21 + 1);
    }

    function serve(uint8 p, uint8 w, uint8 s, uint80 price, uint80 fees) external {
        Signed storage voucher = signed[p % 2][w % 2][s % 2];
        (voucher.olderPrice, voucher.olderFees) = (voucher.price, voucher.fees);
        voucher.price += uint128(price) % 1e21;
        voucher.fees += uint128(fees) % 1e21;
    }

    /// Hands in the newest voucher or, to see it refused or harmless, the one before. The fees are owed to some account.
    function redeem(uint8 p, uint8 w, uint8 s, uint8 earner, bool older) external {
        Signed storage last = signed[p % 2][w % 2][s % 2];
        Voucher memory voucher = older
            ? Voucher(worker(w % 2), bytes32(uint256(s % 2)), last.olderPrice, last.olderFees)
            : Voucher(worker(w % 2), bytes32(uint256(s % 2)), last.price, last.fees);
        try escrow.redeem(voucher, Kit.signVoucher(escrow, _payerKey(p % 2), voucher)) returns (uint128, uint128 fees) {
            honest[earner % ACCOUNTS] += fees;
            ++redeems;
        } catch {}
    }

    /// A worker signs himself a voucher: it must find no money.
    function forgeVoucher(uint8 w, uint80 price) external {
        Voucher memory voucher = Voucher(worker(w % 2), 0, uint128(price) + 1, 0);
        bytes memory signature = Kit.signVoucher(escrow, 0xBAD, voucher);
        try escrow.redeem(voucher, signature) {
            broken = "a forged voucher was paid";
        } catch {}
    }

    function thaw(uint8 p, uint8 w, uint80 amount) external {
        (uint128 balance,,) = escrow.accounts(payer(p % 2), worker(w % 2));
        vm.prank(payer(p % 2));
        escrow.requestThaw(worker(w % 2), balance == 0 ? 0 : uint128(amount) % (balance + 1));
    }

    function withdraw(uint8 p, uint8 w) external {
        (,, uint64 thawedAt) = escrow.accounts(payer(p % 2), worker(w % 2));
        vm.prank(payer(p % 2));
        try escrow.withdraw(worker(w % 2)) {
            if (time < thawedAt) broken = "withdrawn before the thaw";
            ++withdrawals;
        } catch {}
    }

    // --- fees to accounts ---

    /// Money put in by hand, owed to an account or, if `gift`, to nobody: the slack that an inflating poster is after.
    function fund(uint8 earner, uint80 amount, bool gift) external {
        uint128 value = uint128(amount) % 1e21 + 1;
        distributor.fund(value);
        if (!gift) honest[earner % ACCOUNTS] += value;
    }

    function post(uint8 kind, uint8 victim) external {
        if (anchor.pending() != 0) return;
        _prepare(Kind(kind % 24 > 12 ? 0 : kind % 24), victim % ACCOUNTS);
        Batch memory b = pendingBatch;
        try anchor.post(b.epoch, b.earningsRoot, b.total, b.receiptsRoot, b.dataHash, b.count) {
            if (pendingKind == Kind.BeyondFunds) broken = "a total beyond the funds was posted";
            if (pendingKind == Kind.Backwards) broken = "a falling total was posted";
        } catch {
            ++refused[pendingKind];
        }
    }

    /// Time passes; whoever watches acts within the window; then anyone tries to make the batch final.
    function settle(uint16 wait) external {
        if (anchor.pending() == 0) return;
        Batch memory batch = pendingBatch;
        if (watched && _watch(batch)) return;
        time += wait;
        vm.warp(time);
        try anchor.finalize(batch) {
            if (time < uint256(batch.postedAt) + WINDOW) broken = "final before the window was over";
            finalTree = pendingTree;
            lied = lied || pendingKind != Kind.Honest;
            ++finalized;
        } catch {}
    }

    /// Attackers try each proof, with true paths, against an honest batch.
    function attackHonest(uint8 i, uint8 j, uint8 k) external {
        if (anchor.pending() == 0 || pendingKind != Kind.Honest) return;
        Batch memory batch = pendingBatch;
        Earnings memory newer = pendingTree;
        Earnings memory older = finalTree;
        uint256 places = 1 << newer.depth;
        LeafProof memory a = newer.proof(i % places);
        LeafProof memory b = newer.proof(j % places);
        try anchor.challengeOrder(batch, a, b) {
            broken = "order: an honest batch was rejected";
        } catch {}
        try anchor.veto(batch) {
            broken = "veto: by a stranger";
        } catch {}
        // After a lie became final, the true amounts may be lower than the final ones: then a proof of it is a true one.
        if (older.accounts.length == 0 || lied) return;
        LeafProof memory old = older.proof(k % (1 << older.depth));
        try anchor.challengeDecrease(batch, old, a) {
            broken = "decrease: an honest batch was rejected";
        } catch {}
        try anchor.challengeOmission(batch, old, a, b) {
            broken = "omission: an honest batch was rejected";
        } catch {}
    }

    function claim(uint8 i) external {
        Earnings memory tree = finalTree;
        if (tree.accounts.length == 0) return;
        try distributor.claim(tree.proof(i % tree.accounts.length)) {
            ++claims;
        } catch {}
    }

    /// The thief asks for more than his leaf says, and claims from a tree that isn't final.
    function claimForged(uint8 i, uint80 more) external {
        Earnings memory tree = finalTree;
        if (tree.accounts.length == 0) return;
        LeafProof memory leaf = tree.proof(i % tree.accounts.length);
        leaf.cumulative += uint128(more) + 1;
        try distributor.claim(leaf) {
            broken = "a forged leaf was paid";
        } catch {}
        if (anchor.pending() == 0) return;
        leaf = pendingTree.proof(i % pendingTree.accounts.length);
        if (_isFinal(leaf)) return;
        try distributor.claim(leaf) {
            broken = "a pending tree was paid";
        } catch {}
    }

    function pass(uint32 wait) external {
        time += wait % 3 days;
        vm.warp(time);
    }

    // --- how trees are made and watched ---

    /// The watcher proves what can be proven; the guardian vetoes what only recomputation shows. True when the batch was stopped.
    function _watch(Batch memory batch) private returns (bool) {
        bool faulty = watcher.watch(batch, finalTree, pendingTree, pendingReceipts);
        if (!faulty && (pendingKind == Kind.Inflate || pendingKind == Kind.Divert)) {
            vm.prank(GUARDIAN);
            anchor.veto(batch);
            faulty = true;
        }
        if (faulty && pendingKind == Kind.Honest) broken = "an honest batch was rejected";
        if (!faulty && pendingKind != Kind.Honest) broken = "no proof stopped a faulty batch";
        if (faulty) ++stopped[pendingKind];
        return faulty;
    }

    function _prepare(Kind kind, uint256 victim) private {
        address[] memory accounts = new address[](ACCOUNTS);
        uint128[] memory amounts = new uint128[](ACCOUNTS);
        for (uint256 i; i < ACCOUNTS; ++i) {
            (accounts[i], amounts[i]) = (account(i), honest[i]);
        }
        kind = _spoilLeaves(kind, victim, accounts, amounts);
        if (kind == Kind.Omit) (accounts, amounts) = _without(accounts, amounts, victim);
        Earnings memory tree = Kit.build(accounts, amounts);
        if (kind == Kind.NodeSum) tree.declare(2, tree.sum[2] + distributor.funded() - tree.total());
        if (kind == Kind.LeafSum) tree.declare(8 + victim, amounts[victim] - 1);
        pendingKind = kind;
        pendingTree = tree;
        delete pendingReceipts;
        for (uint256 i; i < 2; ++i) {
            pendingReceipts.push(trueReceipts[i]);
        }
        if (kind == Kind.DuplicateReceipt) pendingReceipts[1].id = pendingReceipts[0].id;
        if (kind == Kind.FalseSignature) pendingReceipts[1].payerS ^= bytes32(uint256(1) << 20);
        uint64 epoch = anchor.finalEpoch() + 1;
        bytes32 receiptsRoot = Kit.receiptNodes(pendingReceipts)[1];
        pendingBatch = Batch(epoch, uint64(time), 2, address(this), tree.total(), tree.root(), receiptsRoot, bytes32(time));
    }

    /// Gives the thief what an attack of this kind would give him. Returns Honest where the ledger leaves no room for the attack.
    function _spoilLeaves(Kind kind, uint256 victim, address[] memory accounts, uint128[] memory amounts) private view returns (Kind) {
        uint128 sum;
        for (uint256 i; i < ACCOUNTS; ++i) {
            sum += amounts[i];
        }
        uint128 funded = uint128(distributor.funded());
        if (kind == Kind.Divert) victim = _grown(victim, amounts);
        uint128 earlier = finalTree.amounts.length == ACCOUNTS ? finalTree.amounts[victim] : 0;
        bool ofOther = victim != THIEF;
        if (kind == Kind.BeyondFunds) {
            amounts[THIEF] += funded - sum + 1;
        } else if (kind == Kind.Backwards) {
            if (anchor.finalTotal() == 0) return Kind.Honest;
            for (uint256 i; i < ACCOUNTS; ++i) {
                amounts[i] = 0;
            }
        } else if (kind == Kind.Decrease) {
            if (!ofOther || earlier == 0 || earlier > amounts[victim]) return Kind.Honest;
            amounts[THIEF] += amounts[victim] - (earlier - 1);
            amounts[victim] = earlier - 1;
        } else if (kind == Kind.Omit) {
            if (!ofOther || earlier == 0) return Kind.Honest;
            amounts[THIEF] += amounts[victim];
        } else if (kind == Kind.NodeSum) {
            if (funded == sum) return Kind.Honest;
        } else if (kind == Kind.LeafSum) {
            if (amounts[victim] == 0) return Kind.Honest;
        } else if (kind == Kind.Inflate) {
            if (funded == sum) return Kind.Honest;
            amounts[THIEF] += funded - sum;
        } else if (kind == Kind.Divert) {
            if (!ofOther || amounts[victim] <= earlier) return Kind.Honest;
            amounts[THIEF] += amounts[victim] - earlier;
            amounts[victim] = earlier;
        } else if (kind == Kind.Swap) {
            (accounts[0], accounts[4]) = (accounts[4], accounts[0]);
        } else if (kind == Kind.Twice) {
            accounts[THIEF + 1] = accounts[THIEF];
        }
        return kind;
    }

    /// The first account from `victim` on that is no thief and has earned since the final tree.
    function _grown(uint256 victim, uint128[] memory amounts) private view returns (uint256) {
        for (uint256 i; i < ACCOUNTS && finalTree.amounts.length == ACCOUNTS; ++i) {
            uint256 other = (victim + i) % ACCOUNTS;
            if (other != THIEF && amounts[other] > finalTree.amounts[other]) return other;
        }
        return victim;
    }

    function _without(address[] memory accounts, uint128[] memory amounts, uint256 gone)
        private
        pure
        returns (address[] memory fewer, uint128[] memory rest)
    {
        fewer = new address[](ACCOUNTS - 1);
        rest = new uint128[](ACCOUNTS - 1);
        for (uint256 i; i < ACCOUNTS - 1; ++i) {
            uint256 from = i < gone ? i : i + 1;
            (fewer[i], rest[i]) = (accounts[from], amounts[from]);
        }
    }

    function _isFinal(LeafProof memory leaf) private view returns (bool) {
        for (uint256 i; i < finalTree.accounts.length; ++i) {
            if (finalTree.accounts[i] == leaf.account && finalTree.amounts[i] == leaf.cumulative) return true;
        }
        return false;
    }

    function _payerKey(uint256 i) private pure returns (uint256) {
        return 0xA11CE + i;
    }

    function _receipt(uint256 seed) private pure returns (ReceiptLeaf memory leaf) {
        leaf.id = keccak256(abi.encode("id", seed));
        leaf.digest = keccak256(abi.encode("digest", seed));
        bytes32 secret = keccak256(abi.encode("secret", seed));
        leaf.payerKey = leaf.workerKey = vm.publicKeyEd25519(secret);
        (leaf.payerR, leaf.payerS) = Kit.signEd25519(secret, leaf.digest);
        (leaf.workerR, leaf.workerS) = (leaf.payerR, leaf.payerS);
    }
}
