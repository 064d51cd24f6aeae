//! The simulated settlement chain: epochs, what everybody earned, and which fees arrived.
//!
//! Invariant: an epoch is recorded once; posting it again with the same sums changes nothing, with others is
//! refused, and neither earnings nor fees that arrived ever fall.

use std::collections::BTreeMap;

use tributary_protocol::batch::{Anchored, EpochBody};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash};
use tributary_protocol::node::{FeeStream, Funding};
use tributary_protocol::wire;

/// Why an epoch is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Another body was recorded for it.
    #[error("epoch {0} was posted with other sums before")]
    Conflict(u64),
    /// Epochs are posted one after the other.
    #[error("epoch {got} was posted where {expected} comes next")]
    Order {
        /// The next one.
        expected: u64,
        /// The one posted.
        got: u64,
    },
    /// Somebody's earnings would fall.
    #[error("epoch {0} takes something from an account")]
    Decrease(u64),
}

/// The chain.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    epochs: BTreeMap<u64, EpochBody>,
    balances: BTreeMap<ChainAddress, Amount>,
    /// The address each account was bound to first.
    bound: BTreeMap<AccountId, ChainAddress>,
    fees: BTreeMap<(ChainAddress, ChainAddress), Amount>,
}

impl Chain {
    /// An account is bound to an address, for good.
    pub fn bind(&mut self, account: AccountId, address: ChainAddress) {
        self.bound.entry(account).or_insert(address);
    }

    /// The fees that `from` owes for the work of `payee`, in all, leave escrow.
    pub fn fund(&mut self, from: ChainAddress, payee: ChainAddress, fees: Amount) {
        let known = self.fees.entry((from, payee)).or_default();
        *known = fees.max(*known);
    }

    /// What arrived of these streams' fees.
    #[must_use]
    pub fn funding(&self, streams: &[FeeStream]) -> Vec<Funding> {
        let funding = |stream: &FeeStream| {
            let worker_is_bound = self.bound.get(&stream.worker) == Some(&stream.payee);
            let from = self.bound.get(&stream.payer).copied().filter(|_| worker_is_bound);
            let fees = from.and_then(|from| self.fees.get(&(from, stream.payee)).copied()).unwrap_or_default();
            Funding { stream: *stream, from, fees }
        };
        streams.iter().map(funding).collect()
    }

    /// What arrived in all.
    #[must_use]
    pub fn arrived(&self) -> Amount {
        self.fees.values().fold(Amount::ZERO, |sum, fees| Amount(sum.0.saturating_add(fees.0)))
    }

    /// Records an epoch.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub fn post(&mut self, body: &EpochBody) -> Result<(), ChainError> {
        if let Some(known) = self.epochs.get(&body.epoch) {
            return if known == body { Ok(()) } else { Err(ChainError::Conflict(body.epoch)) };
        }
        let expected = self.epochs.last_key_value().map_or(1, |(epoch, _)| epoch + 1);
        if body.epoch != expected {
            return Err(ChainError::Order { expected, got: body.epoch });
        }
        let earned: BTreeMap<ChainAddress, Amount> = body.earned.iter().copied().collect();
        let falls = self.balances.iter().any(|(address, before)| earned.get(address).is_none_or(|now| now < before));
        if falls {
            return Err(ChainError::Decrease(body.epoch));
        }
        self.balances = earned;
        self.epochs.insert(body.epoch, body.clone());
        Ok(())
    }

    /// What stands of these epochs, and the newest. The hash of a block is made up from the body that it holds.
    #[must_use]
    pub fn anchored(&self, epochs: &[u64]) -> Vec<Anchored> {
        let newest = self.epochs.keys().next_back();
        let standing = epochs.iter().chain(newest).filter_map(|epoch| self.epochs.get(epoch));
        let anchored = |body: &EpochBody| {
            let hash = Hash::of(&wire::encode(body));
            let beacon = Hash::of(&[b"block".as_slice(), &hash.0].concat());
            Anchored { epoch: body.epoch, body: hash, beacon }
        };
        standing.map(anchored).collect()
    }

    /// The newest epoch.
    #[must_use]
    pub fn newest(&self) -> Option<&EpochBody> {
        self.epochs.last_key_value().map(|(_, body)| body)
    }

    /// How many epochs.
    #[must_use]
    pub fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// What everybody earned beside vouchers.
    #[must_use]
    pub fn balances(&self) -> &BTreeMap<ChainAddress, Amount> {
        &self.balances
    }
}
