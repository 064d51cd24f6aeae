//! A dishonest epoch is shown false with what the helpers give.

use ed25519_dalek::{Signer, SigningKey};
use tributary_protocol::id::{Amount, Hash};
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
    // Three rewards of half a bond.
    assert_eq!(world.operator.balance(address("watcher")).await.unwrap(), open(150));
}
