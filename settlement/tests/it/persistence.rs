//! What was acknowledged is there after a restart, and after a kill at any moment.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tributary_settlement::chain::{Chain, Deployment, Genesis};
use tributary_settlement::evm::{EmbeddedChain, EvmError};
use tributary_settlement::queue::Queue;

use super::kit::{address, key, open};

/// Tells the test binary, started again, to be the process that gets killed.
const CHILD_FOLDER: &str = "TRIBUTARY_TEST_CHILD_FOLDER";
/// Payments after which each child is killed: more each time, so kills fall between and within blocks.
const KILLS: [u64; 4] = [1, 4, 7, 12];

#[tokio::test]
async fn a_reopened_chain_is_the_chain_that_was_closed() {
    let folder = TempDir::new().unwrap();
    let (chain_id, head, deployment) = {
        let embedded = EmbeddedChain::open(folder.path()).unwrap();
        let chain = Chain::embedded(embedded.clone(), key("operator")).unwrap();
        let deployment = chain.deploy(&Genesis::local(chain.address())).await.unwrap();
        let chain = chain.at(deployment).unwrap();
        chain.transfer(address("worker"), open(3)).await.unwrap();
        assert!(matches!(EmbeddedChain::open(folder.path()), Err(EvmError::InUse { .. })));
        (embedded.chain_id(), embedded.head(), deployment)
    };
    let embedded = EmbeddedChain::open(folder.path()).unwrap();
    assert_eq!((embedded.chain_id(), embedded.head()), (chain_id, head));
    let chain = Chain::embedded(embedded, key("operator")).unwrap().at(deployment).unwrap();
    chain.check_deployment().await.unwrap();
    assert_eq!(chain.balance(address("worker")).await.unwrap(), open(3));
    chain.transfer(address("worker"), open(1)).await.unwrap();
    assert_eq!(chain.balance(address("worker")).await.unwrap(), open(4));
    assert_eq!(chain.head().await.unwrap(), head + 1);
}

#[test]
fn a_folder_that_cannot_be_is_an_error() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"not a chain").unwrap();
    assert!(matches!(EmbeddedChain::open(&file), Err(EvmError::Folder { .. })));
    std::fs::write(folder.path().join("chain.redb"), b"not a chain").unwrap();
    assert!(matches!(EmbeddedChain::open(folder.path()), Err(EvmError::Open { .. })));
}

/// The process that is killed; run as a plain test it pays a few times and ends.
#[tokio::test]
async fn child_pays_until_it_is_killed() {
    if let Some(folder) = std::env::var_os(CHILD_FOLDER) {
        pay(&PathBuf::from(folder), 0..u64::MAX).await;
    }
    let folder = TempDir::new().unwrap();
    prepare(folder.path()).await;
    pay(folder.path(), 0..3).await;
    assert_eq!(paid(folder.path()).await, 3);
}

/// Each payment is named, so it must happen exactly once however often the process dies before, in or after it.
#[tokio::test]
async fn a_process_killed_while_writing_loses_and_repeats_nothing() {
    let folder = TempDir::new().unwrap();
    prepare(folder.path()).await;
    let mut confirmed = 0;
    for more in KILLS {
        confirmed = run_and_kill(folder.path(), confirmed + more);
        let seen = paid(folder.path()).await;
        assert!(seen == confirmed || seen == confirmed + 1, "confirmed {confirmed}, on chain {seen}");
    }
    pay(folder.path(), 0..confirmed + 3).await;
    assert_eq!(paid(folder.path()).await, confirmed + 3);
}

/// Starts the child, lets it confirm `until` payments, kills it; how many it had confirmed by then.
fn run_and_kill(folder: &Path, until: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "it::persistence::child_pays_until_it_is_killed", "--nocapture"])
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut confirmed = 0;
    for line in lines.map_while(Result::ok) {
        if let Some(number) = line.split("paid ").nth(1).and_then(|number| number.parse::<u64>().ok()) {
            confirmed = number + 1;
        }
        if confirmed == until {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(confirmed >= until, "the child ended by itself after {confirmed} payments");
    confirmed
}

async fn prepare(folder: &Path) {
    let chain = Chain::embedded(EmbeddedChain::open(folder).unwrap(), key("operator")).unwrap();
    let deployment = chain.deploy(&Genesis::local(chain.address())).await.unwrap();
    std::fs::write(folder.join("deployment.json"), serde_json::to_vec(&deployment).unwrap()).unwrap();
}

async fn reopen(folder: &Path) -> Chain {
    let deployment: Deployment =
        serde_json::from_slice(&std::fs::read(folder.join("deployment.json")).unwrap()).unwrap();
    let queue = Queue::open(&folder.join("queue.redb")).unwrap();
    let chain = Chain::embedded(EmbeddedChain::open(folder).unwrap(), key("operator")).unwrap();
    chain.with_queue(queue).at(deployment).unwrap()
}

async fn pay(folder: &Path, numbers: std::ops::Range<u64>) {
    let chain = reopen(folder).await;
    chain.resume().await.unwrap();
    for number in numbers {
        chain.once(format!("payment {number}")).transfer(address("worker"), open(1)).await.unwrap();
        println!("paid {number}");
    }
}

/// How many payments of one OPEN the worker has, with what the queue still had to see through.
async fn paid(folder: &Path) -> u64 {
    let chain = reopen(folder).await;
    chain.resume().await.unwrap();
    let balance = chain.balance(address("worker")).await.unwrap();
    assert_eq!(balance.0 % open(1).0, 0);
    u64::try_from(balance.0 / open(1).0).unwrap()
}
