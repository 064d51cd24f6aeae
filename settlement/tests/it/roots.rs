//! The trees built here against the contracts' own check, over random ledgers.

use alloy::primitives::keccak256;
use tributary_protocol::id::{Amount, ChainAddress, Hash};
use tributary_settlement::anchor::{EarningsProof, EpochTree, ReceiptTree};
use tributary_settlement::chain::Epoch;

use super::kit::{Ledger, World, open};

/// Random, and the same in every run.
fn draw(seed: &str, number: usize) -> [u8; 32] {
    keccak256(format!("{seed} {number}")).0
}

/// Adds `accounts` new accounts to the ledger and raises every third of the old ones.
fn grow(ledger: &mut Ledger, accounts: usize) {
    for (place, amount) in ledger.values_mut().enumerate() {
        if place % 3 == 0 {
            amount.0 += 1 + place as u128;
        }
    }
    let known = ledger.len();
    for number in known..known + accounts {
        let random = draw("account", number);
        let mut account = [0; 20];
        account.copy_from_slice(&random[..20]);
        ledger.insert(ChainAddress(account), Amount(u128::from(random[20]) * 1_000_003));
    }
}

#[tokio::test]
async fn the_contract_accepts_every_proof_and_no_other_amount() {
    let world = World::new(|genesis| genesis.challenge_window_s = 0).await;
    world.pay_fees(1, open(1)).await;
    let mut ledger = Ledger::new();
    for (number, accounts) in (1..).zip([1, 1, 3, 8, 20]) {
        grow(&mut ledger, accounts);
        let tree = EpochTree::build(&ledger).unwrap();
        let epoch = Epoch::of(number, &tree, &ReceiptTree::build(Vec::new()), Hash::of(b"data"));
        let batch = world.operator.post_root(&epoch).await.unwrap();
        world.operator.finalize(&batch).await.unwrap();
        let mut owed = Vec::new();
        for proof in tree.proofs() {
            if check(&world, &tree, &proof).await > Amount::ZERO {
                owed.push(proof);
            }
        }
        // A paid account is due only what is new in the next round.
        world.operator.claim(owed.last().unwrap()).await.unwrap();
    }
    assert!(world.operator.totals().await.unwrap().balance());
}

/// What the contract would pay; it must be what the ledger says, and nothing for any other amount.
async fn check(world: &World, tree: &EpochTree, proof: &EarningsProof) -> Amount {
    assert!(proof.holds(&tree.root(), tree.total()));
    let paid = world.operator.claimed(proof.account).await.unwrap();
    let due = world.operator.claimable(proof).await;
    let expected = proof.cumulative.checked_sub(paid).unwrap();
    match expected {
        Amount::ZERO => assert!(due.unwrap_err().is_revert("NothingDue")),
        expected => assert_eq!(due.unwrap(), expected),
    }
    let inflated = EarningsProof { cumulative: Amount(proof.cumulative.0 + 1), ..proof.clone() };
    assert!(world.operator.claimable(&inflated).await.unwrap_err().is_revert("BadProof"));
    expected
}
