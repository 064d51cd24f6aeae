//! The queue over a line that loses, breaks and misprices.

use std::time::Duration;

use alloy::consensus::Transaction;
use alloy::consensus::transaction::SignerRecoverable;
use tributary_protocol::id::Amount;
use tributary_settlement::chain::{Chain, ChainError};
use tributary_settlement::queue::{Queue, SendPolicy};

use super::kit::{Fault, FaultyLine, World, address, open};

/// One gwei: what a mildly busy chain asks.
const BASE_FEE: u64 = 1_000_000_000;

/// Far above what any step here takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Gives up before it bids more.
fn impatient() -> SendPolicy {
    SendPolicy { give_up_after: Duration::from_millis(200), ..SendPolicy::automining() }
}

/// Bids more before it gives up.
fn eager() -> SendPolicy {
    SendPolicy { bump_after: Duration::from_millis(50), ..SendPolicy::automining() }
}

async fn payer(world: &World, line: &FaultyLine) -> Chain {
    world.operator.transfer(address("payer"), open(100)).await.unwrap();
    line.chain(world, "payer").await
}

async fn received(world: &World) -> Amount {
    world.operator.balance(address("worker")).await.unwrap()
}

#[tokio::test]
async fn a_refused_transaction_does_not_block_the_account() {
    let world = World::new(|_| ()).await;
    let line = FaultyLine::new(&world.server.url());
    let payer = payer(&world, &line).await;
    payer.transfer(address("worker"), open(1)).await.unwrap();
    // The account owns no coin, so a bid above zero is refused by the chain itself.
    line.set(Fault::ReportBaseFee(BASE_FEE));
    for _ in 0..3 {
        let refused = payer.transfer(address("worker"), open(1)).await;
        assert!(matches!(refused, Err(ChainError::InsufficientGas { .. })), "{refused:?}");
    }
    line.set(Fault::None);
    payer.transfer(address("worker"), open(1)).await.unwrap();
    let nonces: Vec<u64> = line.sent().iter().map(Transaction::nonce).collect();
    assert_eq!(nonces, [0, 1, 1, 1, 1]);
    assert_eq!(received(&world).await, open(2));
    assert_eq!(payer.resume().await.unwrap(), 0);
}

#[tokio::test]
async fn a_transaction_stored_but_not_sent_is_sent_after_the_restart() {
    let world = World::new(|_| ()).await;
    let line = FaultyLine::new(&world.server.url());
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("queue.redb");
    let payer = payer(&world, &line).await;
    {
        let payer = payer.clone().with_policy(impatient()).with_queue(Queue::open(&file).unwrap());
        line.set(Fault::BreakSends);
        let outcome = payer.transfer(address("worker"), open(1)).await;
        assert!(matches!(outcome, Err(ChainError::Unconfirmed { .. })), "{outcome:?}");
    }
    assert_eq!(received(&world).await, Amount::ZERO);
    line.set(Fault::None);
    let restarted = payer.with_queue(Queue::open(&file).unwrap());
    assert_eq!(restarted.resume().await.unwrap(), 1);
    assert_eq!(received(&world).await, open(1));
    assert_eq!(restarted.resume().await.unwrap(), 0);
    assert_eq!(received(&world).await, open(1));
    let sent = line.sent();
    assert!(sent.iter().all(|transaction| transaction.tx_hash() == sent[0].tx_hash()), "the very same bytes");
}

#[tokio::test]
async fn a_chain_lost_after_sending_is_not_an_invitation_to_send_again() {
    let world = World::new(|_| ()).await;
    let line = FaultyLine::new(&world.server.url());
    let payer = payer(&world, &line).await.with_policy(impatient());
    line.set(Fault::DownAfterSend);
    let outcome = payer.transfer(address("worker"), open(1)).await;
    assert!(matches!(outcome, Err(ChainError::Unconfirmed { .. })), "{outcome:?}");
    let during = payer.transfer(address("worker"), open(1)).await;
    assert!(matches!(during, Err(ChainError::ChainDown { .. })), "{during:?}");
    line.set(Fault::None);
    assert_eq!(payer.resume().await.unwrap(), 1);
    assert_eq!(received(&world).await, open(1));
    assert_eq!(line.sent().len(), 1);
}

#[tokio::test]
async fn a_forgotten_transaction_is_replaced_under_its_nonce_by_a_higher_bid() {
    let world = World::new(|_| ()).await;
    let line = FaultyLine::new(&world.server.url());
    let payer = payer(&world, &line).await.with_policy(eager());
    world.embedded.fund(payer.address(), 10_u128.pow(18)).unwrap();
    line.set(Fault::ReportBaseFeeAndLoseSends(BASE_FEE));
    let waiting = tokio::spawn({
        let payer = payer.clone();
        async move { payer.transfer(address("worker"), open(1)).await }
    });
    let three_bids = async {
        while line.sent().len() < 3 {
            assert!(!waiting.is_finished());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, three_bids).await.unwrap();
    line.set(Fault::ReportBaseFee(BASE_FEE));
    let confirmed = waiting.await.unwrap().unwrap();
    let sent = line.sent();
    assert!(sent.iter().all(|transaction| transaction.nonce() == 0));
    assert!(sent.iter().all(|transaction| transaction.recover_signer().unwrap().0.0 == payer.address().0));
    for pair in sent.windows(2) {
        let (low, high) = (pair[0].max_fee_per_gas(), pair[1].max_fee_per_gas());
        assert!(high >= low + low / 8, "{low} then {high}");
    }
    assert!(sent.iter().any(|transaction| transaction.tx_hash().0 == confirmed.transaction));
    assert_eq!(received(&world).await, open(1));
}

#[tokio::test]
async fn a_stored_transaction_refused_later_lets_those_behind_it_pass() {
    let world = World::new(|_| ()).await;
    let line = FaultyLine::new(&world.server.url());
    let payer = payer(&world, &line).await;
    let slow = payer.clone().with_policy(impatient());
    world.embedded.fund(payer.address(), 10_u128.pow(18)).unwrap();
    line.set(Fault::ReportBaseFeeAndLoseSends(BASE_FEE));
    let first = slow.transfer(address("worker"), open(10)).await;
    assert!(matches!(first, Err(ChainError::Unconfirmed { .. })), "{first:?}");
    line.set(Fault::LoseSends);
    let second = slow.transfer(address("worker"), open(1)).await;
    assert!(matches!(second, Err(ChainError::Unconfirmed { .. })), "{second:?}");
    // The first can no longer be paid for; the second bids nothing and can.
    world.embedded.fund(payer.address(), 0).unwrap();
    line.set(Fault::None);
    assert_eq!(payer.resume().await.unwrap(), 2);
    assert_eq!(received(&world).await, open(1));
    payer.transfer(address("worker"), open(1)).await.unwrap();
    assert_eq!(received(&world).await, open(2));
}

#[tokio::test]
async fn what_must_happen_once_happens_once() {
    let world = World::new(|_| ()).await;
    let once = world.operator.once("salary of May");
    let first = once.transfer(address("worker"), open(5)).await.unwrap();
    let second = once.transfer(address("worker"), open(5)).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(received(&world).await, open(5));
    let deposit = world.operator.once("deposit for May");
    let first = deposit.deposit(address("worker"), open(5)).await.unwrap();
    assert_eq!(deposit.deposit(address("worker"), open(5)).await.unwrap(), first);
    world.operator.transfer(address("worker"), open(5)).await.unwrap();
    assert_eq!(received(&world).await, open(10));
}

#[tokio::test]
async fn calls_at_the_same_time_all_go_through() {
    let world = World::new(|_| ()).await;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let operator = world.operator.clone();
        running.spawn(async move { operator.transfer(address("worker"), open(1)).await });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(received(&world).await, open(12));
}

#[tokio::test]
async fn two_programs_with_one_key_do_not_lose_transactions() {
    let world = World::new(|_| ()).await;
    let other = world.operator.clone().with_queue(Queue::in_memory().unwrap());
    let mut running = tokio::task::JoinSet::new();
    for program in [world.operator.clone(), other] {
        running.spawn(async move {
            let mut done = 0;
            for _ in 0..8 {
                done += u128::from(program.transfer(address("worker"), open(1)).await.is_ok());
            }
            done
        });
    }
    let mut done = 0;
    while let Some(count) = running.join_next().await {
        done += count.unwrap();
    }
    assert_eq!(received(&world).await, open(done), "what was reported as done was done, and nothing else");
    assert!(done >= 8, "{done}");
}
