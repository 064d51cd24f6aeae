//! A dishonest epoch is shown false with what the helpers give.

use ed25519_dalek::{Signer, SigningKey};
use tributary_protocol::id::{Amount, ChainAddress, Hash};
use tributary_settlement::anchor::{EpochTree, ReceiptLeaf, ReceiptTree};
use tributary_settlement::chain::{BatchFault, Epoch};

use super::kit::{Ledger, World, address, open};

fn receipt(number: u8) -> ReceiptLeaf {
    let (payer, worker) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let digest = [number; 32];
    ReceiptLeaf {
        id: [number; 32],
        digest,
        payer_key: payer.verifying_key().to_bytes(),
        payer_signature: payer.sign(&digest).to_bytes(),
        worker_key: worker.verifying_key().to_bytes(),
        worker_signature: worker.sign(&digest).to_bytes(),
    }
}

fn ledger(builder: u128) -> EpochTree {
    let earnings: Ledger = [("builder", builder), ("treasury", 50)].map(|(n, a)| (address(n), Amount(a))).into();
    EpochTree::build(&earnings).unwrap()
}

/// Every place an account can be missing at: before, between and behind the others, with and without empty leaves.
#[tokio::test]
async fn an_account_left_out_is_shown_at_any_place() {
    let world = World::new(|genesis| genesis.challenge_window_s = 60).await;
    world.pay_fees(1, open(1)).await;
    let everyone: Vec<_> = (1..=5).map(|n| (ChainAddress([n; 20]), Amount(u128::from(n)))).collect();
    let full = EpochTree::build(&everyone.iter().copied().collect()).unwrap();
    let none = ReceiptTree::build(Vec::new());
    let batch = world.operator.post_root(&Epoch::of(1, &full, &none, Hash::of(b"data"))).await.unwrap();
    world.embedded.advance_time(61).unwrap();
    world.operator.finalize(&batch).await.unwrap();
    for missing in 0..5 {
        let mut rest: Ledger = everyone.iter().copied().collect();
        rest.remove(&everyone[missing].0);
        rest.values_mut().for_each(|amount| amount.0 *= 3);
        let tree = EpochTree::build(&rest).unwrap();
        let batch = world.operator.post_root(&Epoch::of(2, &tree, &none, Hash::of(b"data"))).await.unwrap();
        let present = full.proof(&everyone[(missing + 1) % 5].0).unwrap();
        assert_eq!(tree.absence(&present.account), None);
        let older = full.proof(&everyone[missing].0).unwrap();
        let absence = tree.absence(&older.account).unwrap();
        let wrong = world.operator.challenge_omission(&batch, &present, &absence).await;
        assert!(wrong.unwrap_err().is_revert("NotFraud"));
        world.operator.challenge_omission(&batch, &older, &absence).await.unwrap();
    }
}

#[tokio::test]
async fn each_false_epoch_is_rejected_and_the_honest_one_is_not() {
    let world = World::new(|genesis| genesis.challenge_window_s = 60).await;
    world.pay_fees(1, open(1)).await;
    let (data, watcher) = (Hash::of(b"data"), world.client("watcher"));
    let honest_receipts = ReceiptTree::build((0..5).map(receipt).collect());
    let first = ledger(100);
    let batch = world.operator.post_root(&Epoch::of(1, &first, &honest_receipts, data)).await.unwrap();
    for index in 0..5 {
        let proof = honest_receipts.proof(index).unwrap();
        for of_worker in [false, true] {
            let error = watcher.challenge_signature(&batch, &proof, of_worker).await.unwrap_err();
            assert!(error.is_revert("NotFraud"), "{error}");
        }
    }
    assert!(!world.operator.can_finalize(&batch).await.unwrap());
    assert!(world.operator.finalize(&batch).await.unwrap_err().is_revert("WindowOpen"));
    world.embedded.advance_time(61).unwrap();
    world.operator.finalize(&batch).await.unwrap();

    let lower = ledger(99);
    let batch = world.operator.post_root(&Epoch::of(2, &lower, &honest_receipts, data)).await;
    assert!(batch.unwrap_err().is_revert("TotalDecreased"));
    let shifted: Ledger = [("builder", 99), ("treasury", 60)].map(|(n, a)| (address(n), Amount(a))).into();
    let shifted = EpochTree::build(&shifted).unwrap();
    let batch = world.operator.post_root(&Epoch::of(2, &shifted, &honest_receipts, data)).await.unwrap();
    assert_eq!(batch.faults(&first, &honest_receipts), [BatchFault::EarningsRoot, BatchFault::Total]);
    let (older, newer) = (first.proof(&address("builder")).unwrap(), shifted.proof(&address("builder")).unwrap());
    watcher.challenge_decrease(&batch, &older, &newer).await.unwrap();
    assert_eq!(world.operator.pending().await.unwrap(), None);

    let left_out: Ledger = [("treasury", 150)].map(|(n, a)| (address(n), Amount(a))).into();
    let left_out = EpochTree::build(&left_out).unwrap();
    let batch = world.operator.post_root(&Epoch::of(2, &left_out, &honest_receipts, data)).await.unwrap();
    let absence = left_out.absence(&address("builder")).unwrap();
    watcher.challenge_omission(&batch, &older, &absence).await.unwrap();

    let mut leaves = vec![(address("builder"), Amount(100)), (address("treasury"), Amount(50))];
    leaves.sort_unstable();
    leaves.reverse();
    let reversed = EpochTree::as_posted(&leaves).unwrap();
    let batch = world.operator.post_root(&Epoch::of(2, &reversed, &honest_receipts, data)).await.unwrap();
    assert_eq!(first.disorder(), None);
    watcher.challenge_order(&batch, &reversed.disorder().unwrap()).await.unwrap();

    let doubled = ReceiptTree::build([0, 1, 2, 1].into_iter().map(receipt).collect());
    let batch = world.operator.post_root(&Epoch::of(2, &first, &doubled, data)).await.unwrap();
    let (one, other) = (doubled.proof(1).unwrap(), doubled.proof(3).unwrap());
    watcher.challenge_duplicate(&batch, &one, &other).await.unwrap();

    let mut forged = receipt(2);
    forged.worker_signature[3] ^= 1;
    let forged = ReceiptTree::build(vec![receipt(1), forged]);
    let batch = world.operator.post_root(&Epoch::of(2, &first, &forged, data)).await.unwrap();
    watcher.challenge_signature(&batch, &forged.proof(1).unwrap(), true).await.unwrap();

    let batch = world.operator.post_root(&Epoch::of(2, &first, &honest_receipts, data)).await.unwrap();
    assert!(watcher.veto(&batch).await.unwrap_err().is_revert("NotGuardian"));
    world.operator.veto(&batch).await.unwrap();
    assert_eq!(world.operator.latest().await.unwrap().number, 1);
    // Five rewards of half a bond.
    assert_eq!(world.operator.balance(address("watcher")).await.unwrap(), open(250));
}
