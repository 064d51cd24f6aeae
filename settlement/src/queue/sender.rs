//! Taking a call from "wanted" to "in a block": nonce, fee, signature, disk, node, wait, higher fee.
//!
//! Invariant: nonces of an account are chosen and sent one at a time; what a node has accepted is never given up,
//! only waited for or replaced under the same nonce.

use std::time::Instant;

use alloy::consensus::Transaction as _;
use alloy::primitives::{Address, B256, Bytes, TxKind};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};

use super::bid::Fees;
use super::handover::Sent;
use super::{Attempt, Entry, MAX_OPEN_TRANSACTIONS, MAX_PURPOSE_BYTES, Outcome, Queue, QueueError, SendPolicy};
use crate::chain::{ChainError, ChainKey};

/// Times a nonce is chosen anew when another program with the same key took it first.
const NONCE_TRIES: usize = 4;
/// Times the chain must show a nonce as used by something unknown before the transaction counts as lost: nodes
/// behind one address may lag each other.
const TAKEN_SIGHTINGS: usize = 3;
/// Forms of one transaction that are signed at most; at a quarter more each, the last bids ten times the first.
const MAX_ATTEMPTS: usize = 11;
/// Gas of a transaction that does nothing (yellow paper, appendix G).
const PLAIN_GAS: u64 = 21_000;

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

/// Where an entry stands on the chain.
enum Standing {
    /// Its outcome is known.
    Closed,
    /// It is in a block that is not deep enough.
    Mined,
    /// It is in no block.
    Unmined,
}

/// What the one who waits for an entry sees.
enum Look {
    Done(Box<TransactionReceipt>),
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
        let mut outcome = Ok(open.len());
        for (id, _) in &open {
            match self.finish(*id, true).await {
                Ok(_) | Err(ChainError::Reverted { .. } | ChainError::Refused { .. }) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
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
                // A transaction signed a moment ago can be known only from another program with the same key that
                // wanted the same: that one is his, and ours needs the next nonce.
                Sent::NonceUsed | Sent::Known => {
                    self.close(id, &mut entry, refused("another transaction took its nonce")).await?;
                }
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
                Sent::Accepted | Sent::Known | Sent::NonceUsed => {}
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
            Sent::Accepted | Sent::Known | Sent::NonceUsed => Ok(()),
            Sent::Refused(error) | Sent::Unknown(error) => Err(error),
        }
    }

    /// Waits until the entry is closed, bidding more when it takes long. From here on a chain that is down means
    /// waiting, and then `Unconfirmed`: an error that says "try again" would have the thing done twice.
    async fn finish(&self, id: u64, mut accepted: bool) -> Result<TransactionReceipt, ChainError> {
        let started = Instant::now();
        let mut bid_at = started;
        let mut pause = self.policy.poll;
        loop {
            let mut entry = self.stored(move |queue| queue.get(id)).await?;
            let transaction = entry.newest_hash().0;
            match self.look(id, &mut entry).await {
                Ok(Look::Done(receipt)) => return Ok(*receipt),
                Ok(Look::Unmined) if bid_at.elapsed() >= self.policy.bump_after => {
                    self.bid_more(id).await?;
                    bid_at = Instant::now();
                }
                Ok(Look::Unmined) if !accepted => accepted = self.push_again().await?,
                Ok(Look::Unmined | Look::Mined) | Err(ChainError::ChainDown { .. }) => {}
                Err(error) => return Err(error),
            }
            if started.elapsed() >= self.policy.give_up_after {
                return Err(ChainError::Unconfirmed { transaction });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.policy.poll_max);
        }
    }

    async fn look(&self, id: u64, entry: &mut Entry) -> Result<Look, ChainError> {
        match self.settle(id, entry).await? {
            Standing::Closed => Ok(Look::Done(Box::new(self.conclude(entry).await?))),
            Standing::Mined => Ok(Look::Mined),
            Standing::Unmined => Ok(Look::Unmined),
        }
    }

    /// Sends what is open once more, and drops what the chain refuses; whether the chain could be reached.
    async fn push_again(&self) -> Result<bool, ChainError> {
        let _sending = self.queue.lock().await;
        match self.push_open().await {
            Ok(_) => Ok(true),
            Err(ChainError::ChainDown { .. }) => Ok(false),
            Err(error) => Err(error),
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
        let request =
            TransactionRequest::default().from(self.key.evm_address()).input(transaction.inner.input().clone().into());
        let request = TransactionRequest { to: transaction.inner.to().map(TxKind::Call), ..request };
        match self.provider.call(request).await.map_err(ChainError::from) {
            Err(ChainError::Reverted { reason }) => reason,
            _ => gone,
        }
    }

    /// The same nonce with a higher bid.
    async fn bid_more(&self, id: u64) -> Result<(), ChainError> {
        let _sending = self.queue.lock().await;
        let mut entry = self.stored(move |queue| queue.get(id)).await?;
        let Some(last) = entry.attempts.last().cloned() else { return Ok(()) };
        if entry.attempts.len() < MAX_ATTEMPTS {
            let old = Fees { max_fee: last.max_fee, priority_fee: last.priority_fee };
            let market = self.fees().await.unwrap_or(old);
            let fees = old.raised().at_least(market).capped(self.policy.max_fee_cap);
            entry.attempts.push(Attempt { is_cancel: last.is_cancel, ..self.sign(&entry, fees)? });
            self.save(id, &entry).await?;
        }
        if let Sent::Refused(error) = self.send(&entry).await {
            tracing::warn!(%error, nonce = entry.nonce, "a higher bid was refused: the lower one stands");
        }
        Ok(())
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

fn refused(reason: &str) -> Outcome {
    Outcome::Refused { reason: reason.to_owned() }
}
