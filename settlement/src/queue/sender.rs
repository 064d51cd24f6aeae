//! Taking a call from "wanted" to "in a block": nonce, fee, signature, disk, node, wait, higher fee.
//!
//! Invariant: nonces of an account are chosen and sent one at a time; what a node has accepted is never given up,
//! only waited for or replaced under the same nonce.

use std::time::{Duration, Instant};

use alloy::consensus::{SignableTransaction, Transaction as _, TxEip1559};
use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::transports::TransportError;

use super::{Attempt, Entry, MAX_OPEN_TRANSACTIONS, MAX_PURPOSE_BYTES, Outcome, Queue, QueueError};
use crate::chain::{ChainError, ChainKey};
use crate::evm::TRANSACTION_GAS_LIMIT;

/// Times a nonce is chosen anew when another program with the same key took it first.
const NONCE_TRIES: usize = 4;
/// Times the chain must show a nonce as used by something unknown before the transaction counts as lost: nodes
/// behind one address may lag each other.
const TAKEN_SIGHTINGS: usize = 3;
/// Forms of one transaction that are signed at most; at a quarter more each, the last bids ten times the first.
const MAX_ATTEMPTS: usize = 11;
/// Blocks the fee estimate looks back on.
const FEE_BLOCKS: u64 = 5;
/// Gas of a transaction that does nothing (yellow paper, appendix G).
const PLAIN_GAS: u64 = 21_000;

/// How long to wait, how deep, and what to bid.
#[derive(Debug, Clone)]
pub struct SendPolicy {
    /// Blocks, with the transaction's own, after which it counts as done.
    pub confirmations: u64,
    /// First pause between two looks at the chain; it doubles up to `poll_max`.
    pub poll: Duration,
    /// Longest pause between two looks.
    pub poll_max: Duration,
    /// Wait before the same nonce is sent with a higher bid.
    pub bump_after: Duration,
    /// Wait before the caller is told that the outcome is open; the queue keeps the transaction.
    pub give_up_after: Duration,
    /// Wei per gas never exceeded.
    pub max_fee_cap: u128,
}

impl SendPolicy {
    /// For a chain that mines as transactions come and has no reorgs: the embedded one, anvil, Hardhat.
    #[must_use]
    pub fn automining() -> Self {
        Self {
            confirmations: 1,
            poll: Duration::from_millis(2),
            poll_max: Duration::from_millis(250),
            bump_after: Duration::from_secs(20),
            give_up_after: Duration::from_secs(60),
            max_fee_cap: 500_000_000_000,
        }
    }

    /// For a public chain with blocks of a few seconds.
    #[must_use]
    pub fn public() -> Self {
        Self {
            confirmations: 3,
            poll: Duration::from_millis(500),
            poll_max: Duration::from_secs(4),
            bump_after: Duration::from_secs(45),
            give_up_after: Duration::from_secs(300),
            ..Self::automining()
        }
    }
}

/// What is wanted of the chain.
pub(crate) struct Call {
    /// The contract; none to make one.
    pub(crate) to: Option<Address>,
    pub(crate) input: Bytes,
    /// What it is for; asked for twice under one purpose it happens once.
    pub(crate) purpose: Option<String>,
}

/// An account on a chain, with its queue.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) provider: DynProvider,
    pub(crate) key: ChainKey,
    pub(crate) chain_id: u64,
    pub(crate) queue: Queue,
    pub(crate) policy: SendPolicy,
}

#[derive(Debug, Clone, Copy)]
struct Fees {
    max_fee: u128,
    priority_fee: u128,
}

/// What a node said to a raw transaction.
enum Sent {
    /// It has it.
    Accepted,
    /// The nonce is used, or used by a better bid.
    NonceUsed,
    /// It will not have it.
    Refused(ChainError),
    /// Nobody knows: the node could not be reached.
    Unknown(ChainError),
}

enum Standing {
    Closed,
    Mined,
    Unmined,
}

impl Sender {
    /// Does `call` and waits for it; its receipt.
    pub(crate) async fn submit(&self, call: Call) -> Result<TransactionReceipt, ChainError> {
        let (id, accepted) = {
            let _sending = self.queue.lock().await;
            self.begin(&call).await?
        };
        self.finish(id, accepted).await
    }

    /// Sends again what is open and waits for it; how many transactions were seen through.
    pub(crate) async fn resume(&self) -> Result<usize, ChainError> {
        let open = {
            let _sending = self.queue.lock().await;
            let open = self.open_entries().await?;
            self.push_open().await?;
            open
        };
        for (id, _) in &open {
            match self.finish(*id, true).await {
                Ok(_) | Err(ChainError::Reverted { .. } | ChainError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(open.len())
    }

    /// Signs, stores and sends; the entry's id, and whether a node has it.
    async fn begin(&self, call: &Call) -> Result<(u64, bool), ChainError> {
        let open = self.push_open().await?;
        if let Some(purpose) = &call.purpose
            && let Some(id) = self.known(purpose).await?
        {
            return Ok((id, true));
        }
        if open >= MAX_OPEN_TRANSACTIONS {
            return Err(QueueError::Full.into());
        }
        let gas_limit = self.gas_limit(call).await?;
        for _ in 0..NONCE_TRIES {
            let (id, mut entry) = self.sign_and_store(call, gas_limit).await?;
            match self.send(&entry).await {
                Sent::Accepted => return Ok((id, true)),
                Sent::Unknown(error) => {
                    tracing::warn!(%error, nonce = entry.nonce, "a transaction is stored and will be sent again");
                    return Ok((id, false));
                }
                Sent::NonceUsed => self.close(id, &mut entry, refused("another transaction took its nonce")).await?,
                Sent::Refused(error) => {
                    self.close(id, &mut entry, refused(&error.to_string())).await?;
                    return Err(error);
                }
            }
        }
        Err(ChainError::Refused { reason: "another program keeps using this account's nonces".to_owned() })
    }

    /// Whether a transaction of this purpose went through or is on its way.
    pub(crate) async fn is_known(&self, purpose: &str) -> Result<bool, ChainError> {
        Ok(self.known(purpose).await?.is_some())
    }

    /// The entry that did, or is doing, what `purpose` says.
    async fn known(&self, purpose: &str) -> Result<Option<u64>, ChainError> {
        let purpose = purpose.to_owned();
        if purpose.len() > MAX_PURPOSE_BYTES {
            return Err(QueueError::Purpose.into());
        }
        let (chain_id, account) = (self.chain_id, self.key.evm_address());
        let found = self.stored(move |queue| match queue.find(chain_id, account, &purpose)? {
            Some(id) => Ok(Some((id, queue.get(id)?))),
            None => Ok(None),
        });
        Ok(found.await?.and_then(|(id, entry)| match entry.outcome {
            Outcome::Open | Outcome::Mined { success: true, .. } => Some(id),
            Outcome::Refused { .. } | Outcome::Mined { success: false, .. } => None,
        }))
    }

    async fn sign_and_store(&self, call: &Call, gas_limit: u64) -> Result<(u64, Entry), ChainError> {
        let fees = self.fees().await?;
        let pending = self.provider.get_transaction_count(self.key.evm_address()).pending().await?;
        let stored = self.open_entries().await?.last().map_or(0, |(_, entry)| entry.nonce + 1);
        let mut entry = Entry {
            chain_id: self.chain_id,
            account: self.key.evm_address(),
            nonce: pending.max(stored),
            purpose: call.purpose.clone().unwrap_or_default(),
            to: call.to,
            input: call.input.clone(),
            gas_limit,
            attempts: Vec::new(),
            outcome: Outcome::Open,
        };
        entry.attempts.push(self.sign(&entry, fees)?);
        let record = entry.clone();
        let id = self.stored(move |queue| queue.add(&record)).await?;
        Ok((id, entry))
    }

    /// Sends every open transaction again, lowest nonce first; how many stay open.
    async fn push_open(&self) -> Result<usize, ChainError> {
        let open = self.open_entries().await?;
        let last = open.len().saturating_sub(1);
        let mut still_open = 0;
        for (place, (id, mut entry)) in open.into_iter().enumerate() {
            if !matches!(self.settle(id, &mut entry).await?, Standing::Unmined) {
                continue;
            }
            still_open += 1;
            match self.send(&entry).await {
                Sent::Accepted | Sent::NonceUsed => {}
                Sent::Unknown(error) => return Err(error),
                Sent::Refused(error) if place == last => {
                    tracing::warn!(%error, nonce = entry.nonce, "the chain refuses a stored transaction: dropped");
                    self.close(id, &mut entry, refused(&error.to_string())).await?;
                    still_open -= 1;
                }
                Sent::Refused(error) => self.fill_gap(id, &mut entry, &error).await?,
            }
        }
        Ok(still_open)
    }

    /// Uses the nonce of a refused transaction up by one that does nothing, so that later nonces can be mined. They
    /// are not signed anew for lower nonces: some node may still hold them, and both forms could be mined.
    async fn fill_gap(&self, id: u64, entry: &mut Entry, reason: &ChainError) -> Result<(), ChainError> {
        tracing::warn!(error = %reason, nonce = entry.nonce, "the chain refuses a stored transaction: its nonce is used up");
        let fees = self.fees().await?;
        (entry.to, entry.input, entry.gas_limit) = (Some(entry.account), Bytes::new(), PLAIN_GAS);
        let cancel = Attempt { is_cancel: true, ..self.sign(entry, fees)? };
        entry.attempts.push(cancel);
        self.save(id, entry).await?;
        match self.send(entry).await {
            Sent::Accepted | Sent::NonceUsed => Ok(()),
            Sent::Refused(error) | Sent::Unknown(error) => Err(error),
        }
    }

    /// Waits until the entry is closed, bidding more when it takes long.
    async fn finish(&self, id: u64, mut accepted: bool) -> Result<TransactionReceipt, ChainError> {
        let started = Instant::now();
        let mut bid_at = Instant::now();
        let mut pause = self.policy.poll;
        loop {
            let mut entry = self.stored(move |queue| queue.get(id)).await?;
            let newest = entry.attempts.last().map_or(B256::ZERO, |attempt| attempt.hash);
            let standing = match self.settle(id, &mut entry).await {
                Err(ChainError::ChainDown { .. }) => Standing::Mined,
                other => other?,
            };
            match standing {
                Standing::Closed => return self.conclude(&entry).await,
                Standing::Mined => {}
                Standing::Unmined if bid_at.elapsed() >= self.policy.bump_after => {
                    self.bid_more(id).await?;
                    bid_at = Instant::now();
                }
                Standing::Unmined if !accepted => accepted = matches!(self.send(&entry).await, Sent::Accepted),
                Standing::Unmined => {}
            }
            if started.elapsed() >= self.policy.give_up_after {
                return Err(ChainError::Unconfirmed { transaction: newest.0 });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.policy.poll_max);
        }
    }

    /// Closes the entry if one of its forms is in a block, deep enough, or none can ever be.
    async fn settle(&self, id: u64, entry: &mut Entry) -> Result<Standing, ChainError> {
        if entry.outcome != Outcome::Open {
            return Ok(Standing::Closed);
        }
        for _ in 0..TAKEN_SIGHTINGS {
            let used = self.provider.get_transaction_count(entry.account).latest().await? > entry.nonce;
            if let Some((receipt, is_cancel)) = self.mined_form(entry).await? {
                if !self.is_deep(&receipt).await? {
                    return Ok(Standing::Mined);
                }
                let outcome = match is_cancel {
                    true => refused("the chain refused it and its nonce was used up"),
                    false => Outcome::Mined { hash: receipt.transaction_hash, success: receipt.status() },
                };
                self.close(id, entry, outcome).await?;
                return Ok(Standing::Closed);
            }
            if !used {
                return Ok(Standing::Unmined);
            }
            tokio::time::sleep(self.policy.poll).await;
        }
        self.close(id, entry, refused("another transaction of this account took its nonce")).await?;
        Ok(Standing::Closed)
    }

    async fn mined_form(&self, entry: &Entry) -> Result<Option<(TransactionReceipt, bool)>, ChainError> {
        for attempt in entry.attempts.iter().rev() {
            if let Some(receipt) = self.provider.get_transaction_receipt(attempt.hash).await? {
                return Ok(Some((receipt, attempt.is_cancel)));
            }
        }
        Ok(None)
    }

    async fn is_deep(&self, receipt: &TransactionReceipt) -> Result<bool, ChainError> {
        if self.policy.confirmations <= 1 {
            return Ok(true);
        }
        let head = self.provider.get_block_number().await?;
        let block = receipt.block_number.unwrap_or(head);
        Ok(head.saturating_sub(block) + 1 >= self.policy.confirmations)
    }

    async fn conclude(&self, entry: &Entry) -> Result<TransactionReceipt, ChainError> {
        match &entry.outcome {
            Outcome::Mined { hash, success: true } => {
                let receipt = self.provider.get_transaction_receipt(*hash).await?;
                receipt.ok_or(ChainError::BadAnswer { what: "a receipt vanished".to_owned() })
            }
            Outcome::Mined { hash, success: false } => Err(ChainError::Reverted { reason: self.reason(*hash).await }),
            Outcome::Refused { reason } => Err(ChainError::Refused { reason: reason.clone() }),
            Outcome::Open => Err(ChainError::Unconfirmed { transaction: B256::ZERO.0 }),
        }
    }

    /// Why a mined transaction failed, by running it again on the newest state; that may have moved on since.
    async fn reason(&self, hash: B256) -> String {
        let gone = "the contract refused and the reason is no longer known".to_owned();
        let Ok(Some(transaction)) = self.provider.get_transaction_by_hash(hash).await else { return gone };
        let request = TransactionRequest::default()
            .from(self.key.evm_address())
            .input(transaction.inner.input().clone().into());
        let request = TransactionRequest { to: transaction.inner.to().map(TxKind::Call), ..request };
        match self.provider.call(request).await.map_err(ChainError::from) {
            Err(ChainError::Reverted { reason }) => reason,
            _ => gone,
        }
    }

    /// The same nonce with a bid a quarter higher; nodes ask for a tenth more before they replace a transaction.
    async fn bid_more(&self, id: u64) -> Result<(), ChainError> {
        let _sending = self.queue.lock().await;
        let mut entry = self.stored(move |queue| queue.get(id)).await?;
        let Some(last) = entry.attempts.last().cloned() else { return Ok(()) };
        if entry.attempts.len() < MAX_ATTEMPTS {
            let market = self.fees().await.unwrap_or(Fees { max_fee: 0, priority_fee: 0 });
            let fees = Fees {
                max_fee: raised(last.max_fee).max(market.max_fee).min(self.policy.max_fee_cap),
                priority_fee: raised(last.priority_fee).max(market.priority_fee).min(self.policy.max_fee_cap),
            };
            entry.attempts.push(Attempt { is_cancel: last.is_cancel, ..self.sign(&entry, fees)? });
            self.save(id, &entry).await?;
        }
        if let Sent::Refused(error) = self.send(&entry).await {
            tracing::warn!(%error, nonce = entry.nonce, "a higher bid was refused: the lower one stands");
        }
        Ok(())
    }

    /// Hands the newest form to the node.
    async fn send(&self, entry: &Entry) -> Sent {
        let Some(attempt) = entry.attempts.last() else { return Sent::NonceUsed };
        match self.provider.send_raw_transaction(&attempt.raw).await {
            Ok(_) => Sent::Accepted,
            Err(error) => refusal(error),
        }
    }

    fn sign(&self, entry: &Entry, fees: Fees) -> Result<Attempt, ChainError> {
        let transaction = TxEip1559 {
            chain_id: entry.chain_id,
            nonce: entry.nonce,
            gas_limit: entry.gas_limit,
            max_fee_per_gas: fees.max_fee,
            max_priority_fee_per_gas: fees.priority_fee,
            to: entry.to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            access_list: alloy::eips::eip2930::AccessList::default(),
            input: entry.input.clone(),
        };
        let signature = self.key.sign(transaction.signature_hash())?;
        let signed = transaction.into_signed(signature);
        let raw = Bytes::from(signed.encoded_2718());
        let (max_fee, priority_fee) = (fees.max_fee, fees.priority_fee);
        Ok(Attempt { hash: *signed.hash(), raw, max_fee, priority_fee, is_cancel: false })
    }

    /// A quarter above the estimate: state may change between estimate and block.
    async fn gas_limit(&self, call: &Call) -> Result<u64, ChainError> {
        let request = TransactionRequest::default().from(self.key.evm_address()).input(call.input.clone().into());
        let request = TransactionRequest { to: Some(call.to.map_or(TxKind::Create, TxKind::Call)), ..request };
        let estimate = self.provider.estimate_gas(request).await?;
        Ok(estimate.saturating_add(estimate / 4).min(TRANSACTION_GAS_LIMIT))
    }

    /// Twice the base fee and the middle tip of late blocks. On a chain where both are zero the bid is zero, which
    /// alloy's own estimate never is.
    async fn fees(&self) -> Result<Fees, ChainError> {
        let history = self.provider.get_fee_history(FEE_BLOCKS, BlockNumberOrTag::Latest, &[50.0]).await?;
        let base = history.base_fee_per_gas.last().copied().unwrap_or_default();
        let mut tips: Vec<u128> = history.reward.unwrap_or_default().iter().filter_map(|r| r.first().copied()).collect();
        tips.sort_unstable();
        let tip = tips.get(tips.len() / 2).copied().unwrap_or_default();
        let priority_fee = if base > 0 { tip.max(1) } else { tip }.min(self.policy.max_fee_cap);
        let max_fee = base.saturating_mul(2).saturating_add(priority_fee).min(self.policy.max_fee_cap);
        Ok(Fees { max_fee, priority_fee: priority_fee.min(max_fee) })
    }

    async fn open_entries(&self) -> Result<Vec<(u64, Entry)>, ChainError> {
        let (chain_id, account) = (self.chain_id, self.key.evm_address());
        self.stored(move |queue| queue.open_entries(chain_id, account)).await
    }

    async fn close(&self, id: u64, entry: &mut Entry, outcome: Outcome) -> Result<(), ChainError> {
        entry.close(outcome);
        self.save(id, entry).await
    }

    async fn save(&self, id: u64, entry: &Entry) -> Result<(), ChainError> {
        let entry = entry.clone();
        self.stored(move |queue| queue.update(id, &entry)).await
    }

    /// Work on the queue's file, on a thread that may wait for the disk.
    async fn stored<T, F>(&self, work: F) -> Result<T, ChainError>
    where
        T: Send + 'static,
        F: FnOnce(&Queue) -> Result<T, QueueError> + Send + 'static,
    {
        let queue = self.queue.clone();
        let done = tokio::task::spawn_blocking(move || work(&queue)).await;
        Ok(done.map_err(|_| ChainError::Stopped)??)
    }
}

fn raised(fee: u128) -> u128 {
    fee.saturating_add(fee / 4).saturating_add(1)
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused { reason: reason.to_owned() }
}

/// Nodes have no codes for these, only go-ethereum's words, which the others copy.
fn refusal(error: TransportError) -> Sent {
    let words = error.as_error_resp().map(|payload| payload.message.to_lowercase()).unwrap_or_default();
    if words.contains("already known") || words.contains("already imported") {
        return Sent::Accepted;
    }
    if words.contains("nonce too low") || words.contains("underpriced") && words.contains("replacement") {
        return Sent::NonceUsed;
    }
    match ChainError::from(error) {
        error if error.is_retryable() => Sent::Unknown(error),
        error => Sent::Refused(error),
    }
}
