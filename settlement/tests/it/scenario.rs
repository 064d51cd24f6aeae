//! Deposit, vouchers, redeem, post, finalise, claim: in process and over HTTP, with equal gas and equal money.

use std::path::Path;

use alloy::consensus::Transaction;
use alloy::primitives::B256;
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use ed25519_dalek::{Signer, SigningKey};
use tempfile::TempDir;
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, Signature};
use tributary_settlement::anchor::{EpochTree, ReceiptLeaf, ReceiptTree};
use tributary_settlement::chain::{Chain, ChainError, Confirmation, Epoch, Genesis, Totals};
use tributary_settlement::evm::EmbeddedChain;
use tributary_settlement::rpc::serve;

use super::kit::{Ledger, address, any_port, key, open, signed, voucher};

/// Where the two runs must agree.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    gas: Vec<(&'static str, u64)>,
    totals: Totals,
    balances: Vec<Amount>,
    head: u64,
}

const EARNERS: [&str; 5] = ["treasury", "builder", "verifier", "contributor one", "contributor two"];

#[tokio::test]
async fn both_transports_give_the_same_gas_and_the_same_money() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // The same chain id on both, or signatures and with them gas would differ.
    drop(EmbeddedChain::open(first.path()).unwrap());
    for file in std::fs::read_dir(first.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), second.path().join(file.file_name())).unwrap();
    }
    let in_process = run(first.path(), false).await;
    let over_http = run(second.path(), true).await;
    assert_eq!(in_process, over_http);
}

async fn run(folder: &Path, over_http: bool) -> Outcome {
    let embedded = EmbeddedChain::open(folder).unwrap();
    let server = serve(embedded.clone(), any_port()).await.unwrap();
    let chain = match over_http {
        true => Chain::connect(&server.url(), key("operator")).await.unwrap(),
        false => Chain::embedded(embedded.clone(), key("operator")).unwrap(),
    };
    let reader = ProviderBuilder::default().connect_http(server.url().parse().unwrap()).erased();
    let deployment = chain.deploy(&Genesis::local(address("operator"))).await.unwrap();
    let mut run = Run { operator: chain.at(deployment).unwrap(), embedded, reader, gas: Vec::new() };
    run.operator.check_deployment().await.unwrap();
    let fees = run.pay_for_work().await;
    run.bind_worker().await;
    run.share(1, fees[0], 3).await;
    run.share(2, Amount(fees[0].0 + fees[1].0), EARNERS.len()).await;
    run.finish().await
}

struct Run {
    operator: Chain,
    embedded: EmbeddedChain,
    reader: DynProvider,
    gas: Vec<(&'static str, u64)>,
}

impl Run {
    /// Gas without what the input's own bytes cost: a block's time is among them, and no two runs share that.
    async fn note(&mut self, step: &'static str, confirmation: Confirmation) {
        let hash = B256::new(confirmation.transaction);
        let transaction = self.reader.get_transaction_by_hash(hash).await.unwrap().unwrap();
        let input = transaction.inner.input();
        let bytes: u64 = input.iter().map(|byte| if *byte == 0 { 4 } else { 16 }).sum();
        self.gas.push((step, confirmation.gas_used - bytes));
    }

    /// Deposits, vouchers and redeems; the fees of two rounds.
    async fn pay_for_work(&mut self) -> [Amount; 2] {
        let payer = self.operator.with_key(key("payer"));
        let worker = self.operator.with_key(key("worker"));
        let too_early = payer.deposit(address("worker"), open(1)).await;
        let expected_need = open(1);
        assert!(matches!(too_early, Err(ChainError::InsufficientFunds { need, have })
            if need == expected_need && have == Amount::ZERO));

        let sent = self.operator.transfer(address("payer"), open(1_000)).await.unwrap();
        self.note("transfer", sent).await;
        let deposit = payer.deposit(address("worker"), Amount(open(100).0 + 7)).await.unwrap();
        self.note("deposit", deposit).await;
        let again = payer.deposit(address("worker"), open(5)).await.unwrap();
        self.note("deposit again", again).await;
        assert_eq!(payer.available(payer.address(), worker.address()).await.unwrap(), Amount(open(105).0 + 7));

        let deployment = self.operator.deployment().unwrap();
        let newest = signed(&payer, voucher(1, Amount(30_000_000_000_000_000_001), Amount(3_333_333_333_333_333_333)));
        let older = signed(&payer, voucher(1, open(10), open(1)));
        assert_eq!(deployment.payer_of(&newest).unwrap(), payer.address());
        let mut forged = newest.clone();
        forged.voucher.cumulative = open(31);
        assert_ne!(deployment.payer_of(&forged).ok(), Some(payer.address()));
        let mut malleable = newest.clone();
        malleable.signature[64] = 0;
        assert!(matches!(deployment.payer_of(&malleable), Err(ChainError::BadSignature)));

        let redeemed = worker.redeem(&newest).await.unwrap();
        assert_eq!((redeemed.paid, redeemed.fees), (newest.voucher.cumulative, newest.voucher.fees_cumulative));
        self.note("redeem", redeemed.confirmation).await;
        assert!(worker.redeem(&newest).await.unwrap_err().is_revert("NothingDue"));
        assert!(worker.redeem(&older).await.unwrap_err().is_revert("NotMonotone"));
        let later = signed(&payer, voucher(1, open(60), open(7)));
        let second = worker.redeem(&later).await.unwrap();
        self.note("redeem again", second.confirmation).await;
        assert_eq!(worker.settled(payer.address(), &later.voucher).await.unwrap(), (open(60), open(7)));
        [redeemed.fees, second.fees]
    }

    async fn bind_worker(&mut self) {
        let worker = self.operator.with_key(key("worker"));
        let secret = SigningKey::from_bytes(&[9; 32]);
        let account = AccountId(secret.verifying_key().to_bytes());
        let digest = worker.bind_digest(account).await.unwrap();
        let signature = Signature(secret.sign(&digest).to_bytes());
        let thief = self.operator.with_key(key("thief"));
        assert!(thief.bind(account, &signature).await.unwrap_err().is_revert("BadSignature"));
        let bound = worker.bind(account, &signature).await.unwrap();
        self.note("bind", bound).await;
        assert_eq!(worker.address_bound_to(account).await.unwrap(), Some(worker.address()));
    }

    /// Posts and finalises an epoch that splits `total`, and claims for the first `claimers` earners.
    async fn share(&mut self, number: u64, total: Amount, claimers: usize) {
        let earnings = EpochTree::build(&split(total)).unwrap();
        assert_eq!(earnings.total(), total);
        let receipts = ReceiptTree::build((0..3).map(receipt).collect());
        let epoch = Epoch::of(number, &earnings, &receipts, Hash::of(b"both trees"));
        let batch = self.operator.post_root(&epoch).await.unwrap();
        assert_eq!(self.operator.pending().await.unwrap(), Some(batch));
        assert_eq!(batch.faults(&earnings, &receipts), []);
        assert!(self.operator.post_root(&epoch).await.unwrap_err().is_revert("PendingExists"));

        self.embedded.advance_time(3).unwrap();
        assert!(self.operator.can_finalize(&batch).await.unwrap());
        let finalised = self.operator.finalize(&batch).await.unwrap();
        self.note("finalize", finalised).await;
        assert_eq!(self.operator.latest().await.unwrap().earnings_root, earnings.root());
        assert_eq!(self.operator.pending().await.unwrap(), None);

        for name in &EARNERS[..claimers] {
            let proof = earnings.proof(&address(name)).unwrap();
            let expected = proof.cumulative.checked_sub(self.operator.claimed(proof.account).await.unwrap()).unwrap();
            let claimed = self.operator.claim(&proof).await.unwrap();
            assert_eq!(claimed.amount, expected);
            self.note("claim", claimed.confirmation).await;
            assert!(self.operator.claim(&proof).await.unwrap_err().is_revert("NothingDue"));
        }
    }

    async fn finish(mut self) -> Outcome {
        let payer = self.operator.with_key(key("payer"));
        let thaw = payer.request_thaw(address("worker"), open(20)).await.unwrap();
        self.note("thaw", thaw).await;
        assert!(payer.withdraw(address("worker")).await.unwrap_err().is_revert("NotThawed"));
        self.embedded.advance_time(3_601).unwrap();
        let withdrawn = payer.withdraw(address("worker")).await.unwrap();
        self.note("withdraw", withdrawn).await;

        let totals = self.operator.totals().await.unwrap();
        assert!(totals.balance(), "{totals:?}");
        assert_eq!(totals.deposits, Amount(open(105).0 + 7));
        assert_eq!((totals.paid, totals.withdrawn), (open(60), open(20)));
        assert_eq!(totals.claimed, totals.fees, "every unit of the fees was claimed");
        let mut balances = Vec::new();
        for name in EARNERS.iter().chain(&["payer", "worker", "operator"]) {
            balances.push(self.operator.balance(address(name)).await.unwrap());
        }
        let earned: u128 = balances[..EARNERS.len()].iter().map(|balance| balance.0).sum();
        assert_eq!(Amount(earned), totals.claimed);
        let held: u128 = balances.iter().map(|balance| balance.0).sum();
        assert_eq!(held + totals.remaining.0, open(1_000_000_000).0, "the supply is all accounted for");
        Outcome { gas: self.gas, totals, balances, head: self.embedded.head() }
    }
}

/// Uneven shares whose rest goes to the first, so that the sum is exact.
fn split(total: Amount) -> Ledger {
    let mut ledger: Ledger = Ledger::new();
    let mut left = total.0;
    for (place, name) in EARNERS.iter().enumerate().skip(1) {
        let share = total.0 / (place as u128 + 5);
        ledger.insert(address(name), Amount(share));
        left -= share;
    }
    ledger.insert(address(EARNERS[0]), Amount(left));
    ledger
}

fn receipt(number: u8) -> ReceiptLeaf {
    ReceiptLeaf {
        id: [number; 32],
        digest: [1; 32],
        payer_key: [2; 32],
        payer_signature: [3; 64],
        worker_key: [4; 32],
        worker_signature: [5; 64],
    }
}

#[tokio::test]
async fn contracts_of_another_chain_are_refused() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let here = Chain::embedded(EmbeddedChain::open(first.path()).unwrap(), key("operator")).unwrap();
    let there = Chain::embedded(EmbeddedChain::open(second.path()).unwrap(), key("operator")).unwrap();
    assert_ne!(here.chain_id(), there.chain_id());
    let deployment = here.deploy(&Genesis::local(address("operator"))).await.unwrap();
    assert!(matches!(there.at(deployment), Err(ChainError::WrongChain { .. })));
    assert!(matches!(there.balance(address("operator")).await, Err(ChainError::NoDeployment)));
    let mut moved = deployment;
    moved.escrow = ChainAddress([1; 20]);
    let missing = here.at(moved).unwrap().check_deployment().await;
    assert!(matches!(missing, Err(ChainError::NotDeployed { contract: "escrow", .. })));
    let mut genesis = Genesis::local(address("operator"));
    genesis.allocations[0].1 = 9_999;
    assert!(here.deploy(&genesis).await.unwrap_err().is_revert("BadAllocation"));
}
