//! Batches of receipts, and the epochs that say what they earn.
//!
//! Invariant: a body is of its head's receipts and no others, in one order, each once.

mod epoch;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::envelope::Statement;
use crate::id::{Amount, Hash, NodeId, ReceiptId};
use crate::merkle;
use crate::receipt::SignedReceipt;

pub use epoch::{
    AUDITORS, Anchored, Counted, EpochBody, EpochError, EpochHead, FINDINGS_MAX, has_part, is_drawn, pair_of,
};

/// A witness sealed a batch; about 300 bytes that are gossiped, while the body stays a blob.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct BatchHead {
    /// The witness's node, which provides the body.
    pub node: NodeId,
    /// The witness's batches, counted from zero.
    pub sequence: u64,
    /// How many receipts.
    pub count: u32,
    /// The Merkle root over the receipts' ids in ascending order.
    pub root: Hash,
    /// The sum of their prices.
    pub price: Amount,
    /// The blob that holds the receipts.
    pub body: Hash,
    /// Its size in bytes.
    pub body_bytes: u64,
}

impl Statement for BatchHead {
    const KIND: u16 = 8;
}

/// The body of a batch: receipts in ascending order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BatchBody {
    /// The receipts.
    pub receipts: Vec<SignedReceipt>,
}

/// Why a body is not what its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Another number of receipts, or of the epoch.
    #[error("the batch has another number than its head says")]
    Count,
    /// Not in ascending order of ids, or repeated.
    #[error("the batch is not ordered by receipt id")]
    Order,
    /// Another Merkle root.
    #[error("the batch has another root than its head says")]
    Root,
    /// Another sum.
    #[error("the batch has another sum than its head says")]
    Sum,
}

fn root_of<'a>(ids: impl Iterator<Item = &'a ReceiptId>) -> Hash {
    let leaves: Vec<Hash> = ids.map(|id| Hash(id.0)).collect();
    merkle::root(&leaves)
}

impl BatchBody {
    /// Builds the body and what a head says of it: ids, root and sum.
    #[must_use]
    pub fn seal(mut receipts: Vec<SignedReceipt>) -> (Self, Hash, Amount) {
        receipts.sort_by_key(|signed| signed.receipt.id());
        let ids: Vec<ReceiptId> = receipts.iter().map(|signed| signed.receipt.id()).collect();
        let price = sum_of(&receipts);
        (Self { receipts }, root_of(ids.iter()), price)
    }

    /// Checks the body against its head. Signatures of the receipts are checked when they are kept.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn check(&self, head: &BatchHead) -> Result<(), BatchError> {
        if usize::try_from(head.count) != Ok(self.receipts.len()) {
            return Err(BatchError::Count);
        }
        let ids: Vec<ReceiptId> = self.receipts.iter().map(|signed| signed.receipt.id()).collect();
        if !ids.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(BatchError::Order);
        }
        if root_of(ids.iter()) != head.root {
            return Err(BatchError::Root);
        }
        if sum_of(&self.receipts) != head.price {
            return Err(BatchError::Sum);
        }
        Ok(())
    }
}

fn sum_of(receipts: &[SignedReceipt]) -> Amount {
    receipts.iter().fold(Amount::ZERO, |sum, signed| Amount(sum.0.saturating_add(signed.receipt.price.0)))
}
