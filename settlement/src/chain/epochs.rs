//! Epochs on the chain: post, check, finalise, claim.
//!
//! Invariant: a batch is handed back to the contract exactly as its event wrote it. Checking compares with trees the
//! checker built from his own ledger, never with what the poster says of them.

use alloy::primitives::{B256, U256, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::{Filter, Log, TransactionReceipt, TransactionRequest};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use serde::{Deserialize, Serialize};
use tributary_protocol::id::{Amount, ChainAddress, Hash};

use super::{Chain, ChainError, Confirmation, address_of, amount, evm_address};
use crate::anchor::{EarningsProof, EpochTree, ReceiptTree, SumNode, hex_bytes};
use crate::contracts::{Anchor, Distributor};
use crate::rpc::MAX_LOG_BLOCKS;

/// What one epoch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// The newest final epoch's number and one.
    pub number: u64,
    /// Root of the earnings tree.
    #[serde(with = "hex_bytes")]
    pub earnings_root: [u8; 32],
    /// All earnings since the beginning; at most the fees that arrived.
    pub total: Amount,
    /// Root of the epoch's receipts.
    #[serde(with = "hex_bytes")]
    pub receipts_root: [u8; 32],
    /// Content hash under which both trees' data are published.
    pub data_hash: Hash,
    /// Number of receipts.
    pub receipts: u64,
}

impl Epoch {
    /// The epoch of these trees.
    #[must_use]
    pub fn of(number: u64, earnings: &EpochTree, receipts: &ReceiptTree, data_hash: Hash) -> Self {
        Self {
            number,
            earnings_root: earnings.root(),
            total: earnings.total(),
            receipts_root: receipts.root(),
            data_hash,
            receipts: receipts.count(),
        }
    }
}

/// An epoch as somebody posted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// What it says.
    pub epoch: Epoch,
    /// Who posted it, and staked the bond.
    pub poster: ChainAddress,
    /// When, in seconds of the chain's time.
    pub posted_at_s: u64,
}

/// What the chain holds as final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRoot {
    /// The epoch; 0 before the first.
    pub number: u64,
    /// Root of its earnings tree.
    #[serde(with = "hex_bytes")]
    pub earnings_root: [u8; 32],
    /// All earnings since the beginning.
    pub total: Amount,
}

/// What a claim paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// To the account.
    pub amount: Amount,
    /// Owed still, since the epoch's cap was reached.
    pub still_due: Amount,
    /// The transaction.
    pub confirmation: Confirmation,
}

/// How a posted batch differs from what the checker's own ledger says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchFault {
    /// Another earnings tree.
    EarningsRoot,
    /// Another sum of earnings.
    Total,
    /// Other receipts, or in another order.
    ReceiptsRoot,
    /// Another number of receipts.
    ReceiptCount,
}

impl Batch {
    /// All differences from these trees; none for an honest batch.
    #[must_use]
    pub fn faults(&self, earnings: &EpochTree, receipts: &ReceiptTree) -> Vec<BatchFault> {
        let checks = [
            (self.epoch.earnings_root == earnings.root(), BatchFault::EarningsRoot),
            (self.epoch.total == earnings.total(), BatchFault::Total),
            (self.epoch.receipts_root == receipts.root(), BatchFault::ReceiptsRoot),
            (self.epoch.receipts == receipts.count(), BatchFault::ReceiptCount),
        ];
        checks.into_iter().filter_map(|(holds, fault)| (!holds).then_some(fault)).collect()
    }

    /// What the chain stores of it: the hash of all its fields.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        keccak256(self.to_contract().abi_encode()).0
    }

    fn from_event(batch: &Anchor::Batch) -> Self {
        let epoch = Epoch {
            number: batch.epoch,
            earnings_root: batch.earningsRoot.0,
            total: Amount(batch.total),
            receipts_root: batch.receiptsRoot.0,
            data_hash: Hash(batch.dataHash.0),
            receipts: batch.count,
        };
        Self { epoch, poster: address_of(batch.poster), posted_at_s: batch.postedAt }
    }

    pub(super) fn to_contract(self) -> Anchor::Batch {
        Anchor::Batch {
            epoch: self.epoch.number,
            postedAt: self.posted_at_s,
            count: self.epoch.receipts,
            poster: evm_address(self.poster),
            total: self.epoch.total.0,
            earningsRoot: B256::new(self.epoch.earnings_root),
            receiptsRoot: B256::new(self.epoch.receipts_root),
            dataHash: B256::new(self.epoch.data_hash.0),
        }
    }
}

impl Chain {
    /// Posts an epoch and stakes the bond. The number must be `latest().number + 1`.
    pub async fn post_root(&self, epoch: &Epoch) -> Result<Batch, ChainError> {
        let anchor = self.deployment()?.anchor;
        if !self.is_done("post").await? {
            let bond = Anchor::new(evm_address(anchor), self.provider()).bond().call().await?;
            self.require(Amount(bond)).await?;
            self.allow(anchor, Amount(bond)).await?;
        }
        let call = Anchor::postCall {
            epoch: epoch.number,
            earningsRoot: B256::new(epoch.earnings_root),
            total: epoch.total.0,
            receiptsRoot: B256::new(epoch.receipts_root),
            dataHash: B256::new(epoch.data_hash.0),
            count: epoch.receipts,
        };
        let receipt = self.submit("post", Some(evm_address(anchor)), call.abi_encode()).await?;
        posted(&receipt, anchor).ok_or(ChainError::nonsense("a posted epoch left no event"))
    }

    /// The batch that waits to become final.
    pub async fn pending(&self) -> Result<Option<Batch>, ChainError> {
        let anchor = Anchor::new(evm_address(self.deployment()?.anchor), self.provider());
        let id = anchor.pending().call().await?;
        Ok(if id.is_zero() { None } else { Some(self.posted_as(id).await?.0) })
    }

    /// A final epoch, with the hash of the block in which it was posted; nothing where that number is not final.
    pub async fn finalized(&self, epoch: u64) -> Result<Option<(Batch, Hash)>, ChainError> {
        let anchor = Anchor::new(evm_address(self.deployment()?.anchor), self.provider());
        let id = anchor.batchOf(epoch).call().await?;
        Ok(if id.is_zero() { None } else { Some(self.posted_as(id).await?) })
    }

    /// The batch that was posted under an id, and the hash of its block.
    async fn posted_as(&self, id: B256) -> Result<(Batch, Hash), ChainError> {
        let deployment = self.deployment()?;
        let mut last = self.head().await?;
        loop {
            let first = last.saturating_sub(MAX_LOG_BLOCKS - 1).max(deployment.block);
            let filter = Filter::new().address(evm_address(deployment.anchor)).topic1(id);
            let logs = self.provider().get_logs(&filter.from_block(first).to_block(last)).await?;
            let posted = logs.iter().find_map(|log| Some((posted_event(log)?, Hash(log.block_hash?.0))));
            if let Some(posted) = posted {
                return Ok(posted);
            }
            if first <= deployment.block {
                return Err(ChainError::nonsense("a batch that the chain knows left no event"));
            }
            last = first - 1;
        }
    }

    /// Makes a batch final once its window is over. Anyone may.
    pub async fn finalize(&self, batch: &Batch) -> Result<Confirmation, ChainError> {
        let call = Anchor::finalizeCall { batch: batch.to_contract() };
        self.send("finalize", self.deployment()?.anchor, call.abi_encode()).await
    }

    /// The newest final epoch.
    pub async fn latest(&self) -> Result<FinalRoot, ChainError> {
        let anchor = Anchor::new(evm_address(self.deployment()?.anchor), self.provider());
        let latest = anchor.latest().call().await?;
        Ok(FinalRoot { number: latest.epoch, earnings_root: latest.earningsRoot.0, total: Amount(latest.total) })
    }

    /// Pays the proof's account what it earned and has not been paid, against the newest final epoch. Anyone may.
    pub async fn claim(&self, proof: &EarningsProof) -> Result<Claimed, ChainError> {
        let distributor = evm_address(self.deployment()?.distributor);
        let call = Distributor::claimCall { leaf: distributor_leaf(proof) };
        let receipt = self.submit("claim", Some(distributor), call.abi_encode()).await?;
        let ours = receipt.logs().iter().filter(|log| log.address() == distributor);
        let event = ours.filter_map(|log| Distributor::Claimed::decode_log(&log.inner).ok()).next();
        let event = event.ok_or(ChainError::nonsense("a claim left no event"))?;
        let still_due = amount(event.stillDue)?;
        Ok(Claimed { amount: Amount(event.amount), still_due, confirmation: Confirmation::of(&receipt) })
    }

    /// What `claim` would pay now; a contract's refusal as an error.
    pub async fn claimable(&self, proof: &EarningsProof) -> Result<Amount, ChainError> {
        let distributor = Distributor::new(evm_address(self.deployment()?.distributor), self.provider());
        Ok(Amount(distributor.claim(distributor_leaf(proof)).call().await?))
    }

    /// What an account was paid out of the fees, ever.
    pub async fn claimed(&self, account: ChainAddress) -> Result<Amount, ChainError> {
        let distributor = Distributor::new(evm_address(self.deployment()?.distributor), self.provider());
        amount(distributor.claimed(evm_address(account)).call().await?)
    }

    /// Whether this chain accepts `batch` as final now: a dry run of `finalize`.
    pub async fn can_finalize(&self, batch: &Batch) -> Result<bool, ChainError> {
        let call = Anchor::finalizeCall { batch: batch.to_contract() };
        let request = TransactionRequest::default()
            .from(evm_address(self.address()))
            .to(evm_address(self.deployment()?.anchor))
            .input(call.abi_encode().into());
        match self.provider().call(request).await.map_err(ChainError::from) {
            Ok(_) => Ok(true),
            Err(error) if error.is_revert("WindowOpen") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn posted(receipt: &TransactionReceipt, anchor: ChainAddress) -> Option<Batch> {
    receipt.logs().iter().filter(|log| log.address() == evm_address(anchor)).find_map(posted_event)
}

fn posted_event(log: &Log) -> Option<Batch> {
    Anchor::Posted::decode_log(&log.inner).ok().map(|event| Batch::from_event(&event.batch))
}

fn distributor_leaf(proof: &EarningsProof) -> Distributor::LeafProof {
    let sibling = |node: &SumNode| Distributor::Sibling { hash: B256::new(node.hash), sum: node.sum.0 };
    Distributor::LeafProof {
        account: evm_address(proof.account),
        cumulative: proof.cumulative.0,
        index: U256::from(proof.index),
        siblings: proof.siblings.iter().map(sibling).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same worked example stands in the contracts' own tests.
    #[test]
    fn the_id_is_the_contracts_vector() {
        let bytes = |text: &str| -> [u8; 32] { hex::decode(text).unwrap().try_into().unwrap() };
        let mut poster = [0; 20];
        poster[18..].copy_from_slice(&[0x44, 0x44]);
        let mut data_hash = [0; 32];
        data_hash[31] = 5;
        let epoch = Epoch {
            number: 1,
            earnings_root: bytes("4e7f9feedf5ae5a28646d81e1901da0ed03737e2e611c5d8f44a5471277a712c"),
            total: Amount(600),
            receipts_root: bytes("598f624e177566cc281149dbf0648c3c9b26f48219b80cda078e1b13cb14ba89"),
            data_hash: Hash(data_hash),
            receipts: 3,
        };
        let batch = Batch { epoch, poster: ChainAddress(poster), posted_at_s: 2 };
        assert_eq!(hex::encode(batch.id()), "af439f3fa670985c06fbb78b63f45c2505cfa030b7dab0314a60198094ed84d7");
    }
}
