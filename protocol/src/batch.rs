//! Batches of receipts and the ledger of what they earn.
//!
//! Invariant: a ledger depends only on the set of receipts in it, never on the order or the number of times
//! they arrived; every receipt is counted once; worker's parts are not in it, since vouchers pay those.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::economy::PaymentRole;
use crate::envelope::Statement;
use crate::id::{Amount, ChainAddress, Hash, NodeId, ReceiptId};
use crate::limits::LEDGER_ACCOUNTS_MAX;
use crate::merkle;
use crate::receipt::{Receipt, SignedReceipt};

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

/// What everybody has earned, cumulative over epochs, beside what vouchers pay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    included: BTreeSet<ReceiptId>,
    earned: BTreeMap<ChainAddress, Amount>,
}

/// Why a receipt cannot be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Sums would not fit.
    #[error("the ledger's sums overflow")]
    Overflow,
    /// Too many accounts.
    #[error("the ledger has {LEDGER_ACCOUNTS_MAX} accounts already")]
    Full,
}

impl Ledger {
    /// Counts a checked receipt once; says whether it was new.
    ///
    /// # Errors
    /// See [`LedgerError`]; a refused receipt changes nothing.
    pub fn include(&mut self, receipt: &Receipt) -> Result<bool, LedgerError> {
        let id = receipt.id();
        if self.included.contains(&id) {
            return Ok(false);
        }
        let mut changed: BTreeMap<ChainAddress, Amount> = BTreeMap::new();
        for payment in receipt.payments.iter().filter(|payment| payment.role != PaymentRole::Worker) {
            let before = changed.get(&payment.to).or_else(|| self.earned.get(&payment.to)).copied().unwrap_or_default();
            changed.insert(payment.to, before.checked_add(payment.amount).ok_or(LedgerError::Overflow)?);
        }
        let fresh = changed.keys().filter(|address| !self.earned.contains_key(*address)).count();
        if self.earned.len() + fresh > LEDGER_ACCOUNTS_MAX {
            return Err(LedgerError::Full);
        }
        self.earned.extend(changed);
        self.included.insert(id);
        Ok(true)
    }

    /// Whether a receipt is counted.
    #[must_use]
    pub fn contains(&self, id: &ReceiptId) -> bool {
        self.included.contains(id)
    }

    /// The receipts counted, in ascending order.
    #[must_use]
    pub fn receipts(&self) -> Vec<ReceiptId> {
        self.included.iter().copied().collect()
    }

    /// What each address has earned so far.
    #[must_use]
    pub fn earned(&self) -> &BTreeMap<ChainAddress, Amount> {
        &self.earned
    }

    /// The Merkle root over all receipts counted.
    #[must_use]
    pub fn receipts_root(&self) -> Hash {
        root_of(self.included.iter())
    }

    /// The sum of all earnings, or `None` when it does not fit.
    #[must_use]
    pub fn total(&self) -> Option<Amount> {
        self.earned.values().try_fold(Amount::ZERO, |sum, amount| sum.checked_add(*amount))
    }
}

/// An epoch as its poster publishes it: which receipts it counts and what everybody has earned by then.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct EpochBody {
    /// The epoch, from one.
    pub epoch: u64,
    /// All receipts counted so far, ascending.
    pub receipts: Vec<ReceiptId>,
    /// Cumulative earnings, ascending by address.
    pub earned: Vec<(ChainAddress, Amount)>,
}

impl EpochBody {
    /// The body that publishes `ledger`.
    #[must_use]
    pub fn of(epoch: u64, ledger: &Ledger) -> Self {
        let earned = ledger.earned.iter().map(|(address, amount)| (*address, *amount)).collect();
        Self { epoch, receipts: ledger.receipts(), earned }
    }

    /// Whether the head is this body's, so that whatever is found of the sums follows from the body alone: anybody may sign a head
    /// of his own for somebody else's body.
    ///
    /// # Errors
    /// When number, root or sum are others.
    pub fn check(&self, head: &EpochHead) -> Result<(), BatchError> {
        if self.epoch != head.epoch {
            return Err(BatchError::Count);
        }
        if root_of(self.receipts.iter()) != head.receipts_root {
            return Err(BatchError::Root);
        }
        let sum = self.earned.iter().try_fold(Amount::ZERO, |sum, (_, amount)| sum.checked_add(*amount));
        if sum != Some(head.total) {
            return Err(BatchError::Sum);
        }
        Ok(())
    }
}

/// An epoch was anchored on the settlement chain.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct EpochHead {
    /// The epoch.
    pub epoch: u64,
    /// The poster's node, which provides the body.
    pub node: NodeId,
    /// The Merkle root over all receipts counted.
    pub receipts_root: Hash,
    /// The blob that holds [`EpochBody`].
    pub body: Hash,
    /// Its size in bytes.
    pub body_bytes: u64,
    /// The sum of all earnings so far.
    pub total: Amount,
}

impl Statement for EpochHead {
    const KIND: u16 = 9;
}
